"""Watch: a process beside a live run that rates its new models, within a share of the machine.

It writes nothing that the trainer writes: `watch.jsonl` and `watch/` in the run, and the registry.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import time
from collections.abc import Callable
from typing import Any

from .config import Config
from .errors import BusyError, ConfigError, ResumeError, StoreError
from .evaluator.choice import cores
from .files import DirectoryLock
from .gauntlet import Candidate, run_gauntlet
from .promotion import read_matches
from .registry import SHORT, Registry, now
from .registry.evidence import elo_of, ratings
from .run import stored_config

NICENESS = 10
"""Added to the priority: about a tenth of a core where the learner wants all of them, idle cores in full."""
CREDIT = 5.0
"""Seconds of the share that may be saved up while there is nothing to do."""


class _Stopped(Exception):
    """Raised out of a match when the process is told to end."""


class Pace:
    """Sleeps so that this process takes at most a share of the machine's processors.

    Args:
      share: 0..1 of all `processors`. stop: asked at every call; raises out of what is going on.
    """

    def __init__(self, share: float, processors: int, stop: Callable[[], bool]) -> None:
        self._rate, self._stop = share * processors, stop
        self._credit = 0.0
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def __call__(self, done: int = 0, games: int = 0) -> None:
        """Account for the processor time since the last call, and wait until the share allows more."""
        while True:
            if self._stop():
                raise _Stopped
            wall, cpu = time.monotonic(), time.process_time()
            self._credit += self._rate * (wall - self._wall) - (cpu - self._cpu)
            self._credit = min(self._credit, self._rate * CREDIT)
            self._wall, self._cpu = wall, cpu
            if self._credit >= 0:
                return
            time.sleep(min(-self._credit / self._rate, 0.2))


def watch_run(
    folder: pathlib.Path,
    *,
    registry: pathlib.Path | None = None,
    config: Config | None = None,
    once: bool = False,
    background: bool = True,
    stop: Callable[[], bool] | None = None,
    tell: Callable[[str], None] = lambda text: None,
    poll: float = 5.0,
) -> dict[str, Any]:
    """Judge every model of a run by `gauntlet.run_gauntlet`, the newest first, until told to stop.

    What was rated is not rated again after a restart; a gauntlet that is interrupted is played again.
    The trainer may start, stop or end meanwhile.

    Args:
      registry: folder of the registry; default: the one that holds the run.
      config: default: what the run was started with. once: end when there is no new model.
      background: lower this process's priority, and end at SIGTERM or Ctrl-C.
      poll: seconds between two looks at the folder.

    Raises:
      StoreError, ConfigError: not a run, or no share to work with.
      ResumeError: another process watches this run.
      PlayerError: an opponent is absent or failed.
    """
    config = config or stored_config(folder)
    if config.evaluate.max_share <= 0:
        raise ConfigError("evaluate.max_share is 0, so nothing may be rated; set it above 0.")
    processors = cores()
    stop = _background(stop) if background else stop or (lambda: False)
    place = folder / "watch"
    try:
        place.mkdir(exist_ok=True)
    except OSError as error:
        raise StoreError(f"{place} cannot be made ({error.strerror}); check the permissions.") from error
    try:
        lock = DirectoryLock(place)
    except ResumeError as error:
        holder = (place / "lock").read_text(encoding="utf-8") or "another process"
        raise ResumeError(f"{folder} is watched by {holder} already; wait for it, or stop it.") from error
    pace, rated = Pace(config.evaluate.max_share, processors, stop), 0
    try:
        _cut_torn_line(folder / "watch.jsonl")
        while not stop():
            path = _next_model(folder)
            if path is not None:
                try:
                    _rate(folder, path, config, registry or folder.resolve().parent, pace, tell)
                except BusyError as error:
                    tell(f"{error} It is judged again in a while.")
                    _wait(poll, stop)
                    continue
                rated += 1
            elif once:
                break
            else:
                _wait(poll, stop)
    except _Stopped:
        tell("stopped; what was rated is kept, and the same command goes on")
    finally:
        lock.release()
    return {"run": str(folder), "rated": rated, "known": len(read_matches(folder / "watch.jsonl"))}


def _background(stop: Callable[[], bool] | None) -> Callable[[], bool]:
    """Lower the priority; return a function that says whether this process was told to end."""
    told = [False]

    def press(signum: int, frame: Any) -> None:
        told[0] = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, press)
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    return lambda: told[0] or (stop is not None and stop())


def _next_model(folder: pathlib.Path) -> pathlib.Path | None:
    """Return the newest model that is not rated yet."""
    rated = {row["model"] for row in read_matches(folder / "watch.jsonl")}
    found = []
    for path in (folder / "models").glob("*.safetensors"):
        if path.stem not in rated:
            try:
                found.append((path.stat().st_mtime_ns, path))
            except FileNotFoundError:
                continue  # pruned just now
    return max(found)[1] if found else None


def _rate(
    folder: pathlib.Path,
    path: pathlib.Path,
    config: Config,
    registry: pathlib.Path,
    pace: Pace,
    tell: Callable[[str], None],
) -> None:
    began, cpu = time.monotonic(), time.process_time()
    candidate = Candidate(path.stem, path, config.game.name, config.game.options, folder)
    with Registry(registry) as opened:
        found = run_gauntlet(
            candidate,
            config,
            opened,
            seed=int(path.stem[:8], 16),
            progress=lambda text: pace(),
            tick=pace,
        )
        estimate = elo_of(path.stem, ratings(opened, found["game"]))
    row = {
        "model": path.stem,
        "at": now(),
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - cpu,
        "elo": estimate._asdict() if estimate else None,
        **{key: found[key] for key in ("decision", "stage", "promoted", "reason", "rolled_back", "seed")},
        **{key: found[key] for key in ("versus_champion", "fixed")},
    }
    _append(folder / "watch.jsonl", json.dumps(row))
    elo = f"Elo {estimate.elo:.0f} [{estimate.low:.0f}, {estimate.high:.0f}]" if estimate else "no Elo yet"
    tell(f"{path.stem[:SHORT]}: {elo}; {found['reason']}")


def _append(path: pathlib.Path, line: str) -> None:
    """Append a line and wait until it is on disk."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(
            f"{path} could not be written ({error.strerror}). Free some space and run the same command again."
        ) from error


def _cut_torn_line(path: pathlib.Path) -> None:
    """Drop a last line that a killed process left unfinished, before more is appended."""
    if path.exists():
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with open(path, "r+b") as file:
                file.truncate(whole)


def _wait(seconds: float, stop: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not stop():
        time.sleep(min(0.1, seconds))
