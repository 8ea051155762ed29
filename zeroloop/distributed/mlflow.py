"""Tracker: a run's parameters, metrics and models in MLflow, sent by a thread of its own.

    tracker = Tracker(run.folder, config, game, say)   # an absent package or a bad address is an error here
    tracker.log()                                      # whenever `metrics.jsonl` has a new row
    tracker.model(path, hash)                          # whenever a model was saved
    tracker.close("finished")                          # or "stopped"

What is sent is read from `metrics.jsonl` and `models/`, and `mlflow.json` in the run directory says how far
that has come. So a server that is away loses nothing and holds up nobody: the rest is sent when it answers
again, in this session or the next one of the same run, which goes on in the same MLflow run. A row may
come twice where a process died between sending and noting it; it is the same point then.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal
from urllib.parse import urlsplit

from .. import configfile
from ..config import Config
from ..errors import BackendError, BusyError, ConfigError, ResumeError, StoreError
from ..files import DirectoryLock, write_file
from ..games import rules_identity
from ..games.game import Game
from ..metrics import read_events

NAME = "mlflow.json"
FORMAT = 1
LONGEST_WAIT = 15.0
"""Seconds between two attempts at most, while MLflow does not answer."""
CLOSING = 10.0
"""Seconds that `close` waits at most for what is not sent yet."""
BATCH = 500
"""Metrics in one request at most; MLflow takes 1,000."""
ROW_KINDS = ("metrics", "evaluation")
LONGEST_VALUE = 500
"""Characters of a parameter, which older MLflow servers take."""

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # a run tells nobody that it exists
    "MLFLOW_ALLOW_FILE_STORE": "true",  # MLflow 3 opens a local folder only when told so
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # which belongs to `--json`
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the thread asks again by itself
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""What MLflow is told, where the environment does not say otherwise."""


class Tracker:
    """Sends until everything is there; see the module.

    Args:
      folder: the run directory. say: takes a sentence for a person, from the tracker's thread too.

    Raises:
      BackendError: mlflow is not installed.
      ConfigError: `gauges.mlflow_uri` is no address.
      StoreError: `mlflow.json` is damaged.
    """

    def __init__(self, folder: pathlib.Path, config: Config, game: Game, say: Callable[[str], None]) -> None:
        self._folder, self._config, self._game, self._say = folder, config, game, say
        given = config.gauges.mlflow_uri
        self._local = folder.resolve().parent / "mlflow" if not given else None
        self.uri = self._local.as_uri() if self._local is not None else given
        self._client, self._errors = _connect(self.uri, bool(given))
        self._state = _read_state(folder / NAME, self.uri)
        self._wake, self._ending = threading.Event(), threading.Event()
        self._status = "RUNNING"
        self._promised: set[str] = set()
        self._failures = self._kept = 0
        self._entered = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def log(self, row: dict[str, Any] | None = None) -> None:
        """Say that `metrics.jsonl` has a new row; the row itself is read from there."""
        self._wake.set()

    def model(self, path: pathlib.Path, name: str) -> None:
        """Say that a model was saved as `models/HASH.safetensors`."""
        self._promised.add(name)
        self._wake.set()

    def close(self, ended: Literal["finished", "stopped"], seconds: float = CLOSING) -> None:
        """Send what is left, for so long at most; the rest is said, and sent by the next session."""
        self._status = "FINISHED" if ended == "finished" else "KILLED"
        self._ending.set()
        self._wake.set()
        self._thread.join(seconds)
        if self._thread.is_alive() or self._state.get("status") != self._status:
            self._say(
                f"MLflow at {self.uri} has not taken everything; the rest is in {self._folder} and is sent "
                "when the same train command runs again."
            )

    # The thread.

    def _work(self) -> None:
        while True:
            ending = self._ending.is_set()
            self._wake.clear()
            try:
                self._send()
            except self._errors as error:
                self._back_off(error)
                if ending:
                    return
                continue
            self._recover()
            if ending:
                return
            self._wake.wait()

    def _send(self) -> None:
        """Send everything that is not there yet."""
        if not self._entered:
            self._enter()
            self._entered = True
        for offset, rows in _batches(self._folder / "metrics.jsonl", self._state["sent"]):
            if rows:
                self._client.log_batch(
                    self._state["run_id"], metrics=[m for r in rows for m in self._points(r)]
                )
                self._kept += len(rows) if self._failures else 0
            self._save(sent=offset)
        for path in _by_age(self._folder / "models"):
            if path.stem not in self._state["models"]:
                self._send_model(path)
        for name in sorted(self._promised - set(self._state["models"])):
            self._say(f"model {name[:12]} is gone from {self._folder / 'models'} and was not sent to MLflow")
        self._promised.clear()
        if self._ending.is_set() and self._state["status"] != self._status:
            self._client.set_terminated(self._state["run_id"], self._status)
            self._save(status=self._status)

    def _enter(self) -> None:
        """Begin the MLflow run, or go on with the one that `mlflow.json` names."""
        from mlflow.entities import Param

        params = _parameters(self._config)
        if not self._state["run_id"]:
            with _alone(self._local):
                experiment = self._experiment()
            past = read_events(self._folder, "metrics")
            began = int(1000 * (time.time() - (past[-1]["seconds"] if past else 0.0)))
            made = self._client.create_run(experiment, began, self._tags(), self._folder.name)
            self._save(run_id=made.info.run_id, began_ms=began)
        run_id = self._state["run_id"]
        run = self._client.get_run(run_id)
        there = run.data.params
        new = [Param(k, v) for k, v in params.items() if k not in there]
        for first in range(0, len(new), 100):
            self._client.log_batch(run_id, params=new[first : first + 100])
        for key, value in params.items():  # MLflow's parameters are fixed; ours may change when a run goes on
            if there.get(key, value) != value or f"changed.{key}" in run.data.tags:
                self._client.set_tag(run_id, f"changed.{key}", value)
        self._client.log_artifact(run_id, str(self._folder / "config.yaml"))
        if run.info.status != "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
        self._save(status="RUNNING")

    def _experiment(self) -> str:
        name = self._config.gauges.mlflow_experiment
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found is not None else self._client.create_experiment(name))

    def _tags(self) -> dict[str, str]:
        return {
            "game": self._game.id,
            "rules_identity": rules_identity(self._game),
            "run": str(self._folder.resolve()),
        }

    def _points(self, row: dict[str, Any]) -> list[Any]:
        from mlflow.entities import Metric

        at = self._state["began_ms"] + int(1000 * row.get("seconds", 0.0))  # of the run's own clock
        numbers = ((k, v) for k, v in row.items() if isinstance(v, int | float) and k != "iteration")
        return [Metric(k, float(v), at, int(row["iteration"])) for k, v in numbers]

    def _send_model(self, path: pathlib.Path) -> None:
        """Copy a model's file to the run's artifacts, with what it is beside it."""
        run_id, name = self._state["run_id"], path.stem
        try:
            self._client.log_artifact(run_id, str(path), "models")
        except FileNotFoundError:
            if path.exists():
                raise
            return  # pruned meanwhile: `_send` says so where it was promised
        about = {**self._tags(), "hash": name}
        self._client.log_text(run_id, json.dumps(about, indent=1), f"models/{name}.json")
        self._client.set_tag(run_id, "model", name)
        self._save(models=[*self._state["models"], name])

    def _save(self, **changed: Any) -> None:
        self._state |= changed
        write_file(self._folder / NAME, json.dumps(self._state).encode())

    def _back_off(self, error: Exception) -> None:
        self._failures += 1
        if self._failures == 1:
            told = str(error).split("\n")[0][:200]
            self._say(
                f"MLflow at {self.uri} does not take what is sent ({told}); training goes on, and the rows "
                f"wait in {self._folder / 'metrics.jsonl'} until it does."
            )
        self._entered = False
        self._ending.wait(min(LONGEST_WAIT, 2.0 ** min(self._failures - 1, 10)))

    def _recover(self) -> None:
        if self._failures:
            self._say(f"MLflow at {self.uri} takes what is sent again; {self._kept} rows had waited for it.")
        self._failures = self._kept = 0


def _connect(uri: str, given: bool) -> tuple[Any, tuple[type[Exception], ...]]:
    """Return a client, which has asked nothing yet, and the errors that it raises."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise BackendError(
            "MLflow is not installed; pip install 'zeroloop[mlflow]', or set gauges.mlflow=false."
        ) from error
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    parts = urlsplit(uri)
    wrong = given and (not parts.scheme or parts.scheme in ("http", "https") and not parts.netloc)
    try:
        if wrong:
            raise ValueError("it has no scheme or no host")
        return MlflowClient(tracking_uri=uri), (MlflowException, ImportError, OSError, StoreError)
    except (MlflowException, ImportError, ValueError) as error:
        raise ConfigError(
            f"gauges.mlflow_uri is '{uri}', which MLflow cannot use ({str(error).strip().split('.')[0]}); "
            "give http://HOST:PORT of a server, or leave it empty for a local folder."
        ) from error


def _read_state(path: pathlib.Path, uri: str) -> dict[str, Any]:
    """Return how far sending to this address has come; another address begins anew."""
    fresh = {
        "format": FORMAT,
        "uri": uri,
        "run_id": "",
        "began_ms": 0,
        "sent": 0,
        "models": [],
        "status": "",
    }
    if not path.exists():
        return fresh
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise StoreError(
            f"{path} is damaged: not JSON. Delete it; the run then begins anew in MLflow."
        ) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT or found.keys() != fresh.keys():
        raise StoreError(
            f"{path} is of another version, or damaged. Delete it; the run then begins anew in MLflow."
        )
    return found if found["uri"] == uri else fresh


def _parameters(config: Config) -> dict[str, str]:
    """Return the configuration as flat keys and texts."""
    out = {}
    for section, keys in configfile.to_plain(config).items():
        for key, value in keys.items():
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            out[f"{section}.{key}"] = (
                text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."
            )
    return out


def _by_age(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the models of a run, oldest first."""
    found = []
    for path in folder.glob("*.safetensors"):
        with contextlib.suppress(FileNotFoundError):  # pruned meanwhile
            found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found)]


def _batches(path: pathlib.Path, offset: int) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield (offset behind them, rows) of whole lines from `offset` on."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(
            offset if offset <= size else 0
        )  # a file that was restored from an older copy is sent again
        rows: list[dict[str, Any]] = []
        count, behind = 0, file.tell()
        for line in file:
            if not line.endswith(b"\n"):
                break  # being written
            try:
                row = json.loads(line)
            except ValueError as error:
                raise StoreError(f"{path} is damaged at byte {behind}: not JSON.") from error
            if row["kind"] in ROW_KINDS:
                if rows and count + len(row) > BATCH:
                    yield behind, rows
                    rows, count = [], 0
                rows.append(row)
                count += len(row)
            behind += len(line)
        if behind != offset:
            yield behind, rows


class _alone:
    """While inside, no other run makes an experiment in this local store."""

    def __init__(self, store: pathlib.Path | None) -> None:
        self._store = store
        self._lock: DirectoryLock | None = None

    def __enter__(self) -> None:
        if self._store is None:
            return
        self._store.mkdir(parents=True, exist_ok=True)
        for _ in range(100):
            try:
                self._lock = DirectoryLock(self._store)
                return
            except ResumeError:
                time.sleep(0.1)
        raise BusyError(f"{self._store} is in use by another run for 10 s")

    def __exit__(self, *error: object) -> None:
        if self._lock is not None:
            self._lock.release()
