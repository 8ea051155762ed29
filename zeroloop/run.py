"""Run: a directory that holds everything of one training - config, models, games, checkpoints, evidence.

    config.yaml      the resolved configuration         episodes.log   every finished game
    run.json         game, rules, versions              metrics.jsonl  what was measured
    models/          by content hash                    matches.jsonl  evidence behind promotions
    champion newest  hash of a model                    checkpoints/   the last few, complete

All writes are atomic or append-only, so the process may be killed at any line.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import sys
from typing import Any, NamedTuple

import numpy.typing as npt
import safetensors.torch
import torch
import yaml
from safetensors import SafetensorError

from . import configfile, model
from .config import Config
from .errors import ResumeError, StoreError
from .files import (
    DirectoryLock,
    pack,
    restore_directories,
    sha256,
    unpack,
    write_directory,
    write_file,
)
from .games import make, rules_identity
from .games.game import Game

Array = npt.NDArray[Any]
CHECKPOINT_FORMAT = 1

VOLATILE = (
    "budget.",
    "evaluate.",
    "promote.",
    "health.",
    "collect.",
    "redis.",
    "inference.",
    "ray.",
    "gauges.",
    "learn.processes",
    "run.checkpoint_iterations",
    "run.keep_checkpoints",
)
"""Keys that may change when a run goes on; the rest is fixed at its start."""


class Checkpoint(NamedTuple):
    """A moment from which a run goes on."""

    state: dict[str, Any]
    """Counters, names and offsets; plain data."""
    learner: dict[str, torch.Tensor]
    groups: list[dict[str, Array]]
    """Games in flight, one dictionary of arrays per self-play group."""


class Run:
    """An open run directory, locked for this process. Use `Run.open`."""

    def __init__(self, folder: pathlib.Path, config: Config, game: Game, lock: DirectoryLock) -> None:
        self.folder, self.config, self.game = folder, config, game
        self._lock = lock
        self.models = folder / "models"
        self._checkpoints = folder / "checkpoints"

    @staticmethod
    def open(folder: pathlib.Path, config: Config) -> Run:
        """Create the run, or open it to go on.

        Raises:
          ResumeError: in use, of another game or rules, or with another configuration.
          StoreError: the directory cannot be made or read.
        """
        game = make(config.game.name, **config.game.options)
        if folder.exists() and not (folder / "run.json").exists():
            _refuse_strangers(folder, config)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("models", "checkpoints"):
                (folder / name).mkdir(exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder} cannot be made ({error.strerror}); give another --run.") from error
        lock = DirectoryLock(folder)
        try:
            run = Run(folder, config, game, lock)
            if (folder / "run.json").exists():
                run._check()
                restore_directories(run._checkpoints)
            else:
                run._create()
        except BaseException:
            lock.release()
            raise
        return run

    def _create(self) -> None:
        for path in self.folder.glob(".*.tmp"):
            path.unlink()  # a making that was killed
        write_file(self.folder / "config.yaml", configfile.dump(self.config).encode())
        about = {
            "game": self.game.id,
            "rules_identity": rules_identity(self.game),
            "observation_version": self.game.observation.version,
            "config_hash": _fixed_hash(configfile.to_plain(self.config)),
            "versions": _versions(),
            "python": sys.version.split()[0],
        }
        write_file(self.folder / "run.json", json.dumps(about, indent=1).encode())

    def _check(self) -> None:
        about = read_json(
            self.folder / "run.json",
            "game",
            "rules_identity",
            "observation_version",
            "config_hash",
            "versions",
        )
        if about["game"] != self.game.id:
            raise ResumeError(
                f"{self.folder} is a run of {about['game']}, not of {self.game.id}; give another --run."
            )
        for key, mine in (
            ("rules_identity", rules_identity(self.game)),
            ("observation_version", self.game.observation.version),
        ):
            if about[key] != mine:
                raise ResumeError(
                    f"{self.folder} was started with {key} {about[key]} of {self.game.id}, which has "
                    f"{mine} here: the rules have changed. Start a new run, or restore the old rules."
                )
        if self.config.run.deterministic:
            self._check_versions(about["versions"])
        stored = stored_config(self.folder)
        text = (self.folder / "config.yaml").read_text(encoding="utf-8")
        # Of the keys that the file names: a key that is younger than the run has its default there.
        if _fixed_hash(yaml.safe_load(text)) != about["config_hash"]:
            raise ResumeError(
                f"{self.folder / 'config.yaml'} is not what the run was started with; only "
                f"{', '.join(v.rstrip('.') for v in VOLATILE)} may change. Undo the edit, or start a new run."
            )
        changed = [
            (key, old, new)
            for key, old, new in configfile.diff(stored, self.config)
            if not key.startswith(VOLATILE)
        ]
        if changed:
            key, old, new = changed[0]
            raise ResumeError(
                f"{self.folder} was started with {key}={old}, not {new}; "
                "go on with its own configuration, or start a new run with another --run."
            )

    def keep_config(self) -> None:
        """Write the configuration with which the run goes on, once it is known that it can."""
        if configfile.diff(stored_config(self.folder), self.config):
            write_file(self.folder / "config.yaml", configfile.dump(self.config).encode())

    def _check_versions(self, stored: dict[str, str]) -> None:
        """Refuse to go on bit-identically with other versions than a deterministic run began with."""
        for name, mine in _versions().items():
            if stored.get(name) != mine:
                raise ResumeError(
                    f"{self.folder} is deterministic and was started with {name} {stored.get(name)}, "
                    f"which is {mine} here: it would not be bit-identical. Install "
                    f"{name}=={stored.get(name)}, or start a new run."
                )

    def save_model(self, network: Any) -> str:
        """Write the network under its content hash, make it the newest, and return the hash."""
        name = model.save(network, self.game, self.models)
        write_file(self.folder / "newest", name.encode())
        return name

    def load_model(self, name: str) -> model.Model:
        """Read one of this run's models by its hash."""
        return model.load(self.models / f"{name}.safetensors", self.game)

    @property
    def champion(self) -> str:
        """Hash of the champion; empty before there is any model."""
        path = self.folder / "champion"
        return model.read_pointer(path) if path.exists() else ""

    @champion.setter
    def champion(self, name: str) -> None:
        write_file(self.folder / "champion", name.encode())

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write a complete checkpoint in one step, then drop all but the last few.

        Raises:
          StoreError: the disk is full; earlier checkpoints are unharmed.
        """
        name = f"{checkpoint.state['iteration']:08d}"
        target = self._checkpoints / name

        def fill(folder: pathlib.Path) -> None:
            files = {"learner.safetensors": safetensors.torch.save(checkpoint.learner)}
            for i, arrays in enumerate(checkpoint.groups):
                files[f"games-{i}.npz"] = pack(arrays)
            files["state.json"] = json.dumps(checkpoint.state, sort_keys=True).encode()
            hashes = {k: sha256(v) for k, v in files.items()}
            about = {"format": CHECKPOINT_FORMAT, "sha256": hashes}
            files["manifest.json"] = json.dumps(about, sort_keys=True).encode()
            for file_name, data in files.items():
                (folder / file_name).write_bytes(data)

        write_directory(target, fill)
        for old in checkpoint_names(self.folder)[: -self.config.run.keep_checkpoints]:
            shutil.rmtree(self._checkpoints / old)

    def restore(self) -> Checkpoint | None:
        """Return the newest checkpoint, or None for a fresh run.

        Raises:
          StoreError: it is damaged; the message names the file and the checkpoint before it.
        """
        names = checkpoint_names(self.folder)
        return read_checkpoint(self.folder, names[-1]) if names else None

    def close(self) -> None:
        """Let go of the directory."""
        self._lock.release()


def _fixed_hash(plain: dict[str, dict[str, Any]]) -> str:
    """Return the hash of all that may not change while a run goes on."""
    fixed = {
        f"{section}.{key}": value
        for section, keys in plain.items()
        for key, value in keys.items()
        if not f"{section}.{key}".startswith(VOLATILE)
    }
    return sha256(json.dumps(fixed, sort_keys=True).encode())


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("zeroloop", "torch", "numpy", "numba")}


def _refuse_strangers(folder: pathlib.Path, config: Config) -> None:
    """Refuse a directory that holds anything but a run whose making was killed."""
    if not folder.is_dir():
        raise ResumeError(f"{folder} is a file, not a directory; give another --run.")
    text = configfile.dump(config).encode()
    for path in sorted(folder.iterdir()):
        half_made = path.name in ("models", "checkpoints", "lock") or path.name.endswith(".tmp")
        if path.name == "config.yaml":
            half_made = path.read_bytes() == text
        if not half_made:
            raise ResumeError(
                f"{folder} is not a run and not empty (it holds {path.name}); give another --run."
            )


def checkpoint_names(folder: pathlib.Path) -> list[str]:
    """Return the names of a run's complete checkpoints, oldest first."""
    return sorted(p.name for p in (folder / "checkpoints").glob("[0-9]*") if p.is_dir())


def read_checkpoint(folder: pathlib.Path, name: str) -> Checkpoint:
    """Read a checkpoint and check every file's SHA-256; StoreError where it is damaged."""
    place = folder / "checkpoints" / name
    manifest = read_json(place / "manifest.json")
    if manifest.get("format") != CHECKPOINT_FORMAT:
        raise StoreError(
            f"{place} has checkpoint format {manifest.get('format')}; "
            f"this zeroloop reads {CHECKPOINT_FORMAT}."
        )
    hashes = manifest.get("sha256")
    count = len(hashes) - 2 if isinstance(hashes, dict) else 0
    games = [f"games-{i}.npz" for i in range(count)]
    if not isinstance(hashes, dict) or hashes.keys() != {"learner.safetensors", "state.json", *games}:
        raise StoreError(f"{place / 'manifest.json'} is damaged: it lists no whole checkpoint.")
    files: dict[str, bytes] = {}
    for file_name, digest in hashes.items():
        path = place / file_name
        data = path.read_bytes() if path.exists() else b""
        if sha256(data) != digest:
            others = [n for n in checkpoint_names(folder) if n != name]
            hint = f" or remove {place} to go on from checkpoint {others[-1]}" if others else ""
            raise StoreError(
                f"{path} is damaged: its content does not match its SHA-256. Restore it from a copy{hint}."
            )
        files[file_name] = data
    try:
        learner = safetensors.torch.load(files["learner.safetensors"])
    except SafetensorError as error:
        raise StoreError(f"{place}/learner.safetensors cannot be read: {error}.") from error
    groups = [unpack(files[name]) for name in games]
    return Checkpoint(json.loads(files["state.json"]), learner, groups)


def read_json(path: pathlib.Path, *keys: str) -> dict[str, Any]:
    """Read a JSON object that has these keys; StoreError where it is absent or damaged."""
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise StoreError(f"{path} is damaged: not JSON. Restore it from a copy.") from error
    if not isinstance(found, dict) or not set(keys) <= found.keys():
        wanted = f" with {', '.join(keys)}" if keys else ""
        raise StoreError(f"{path} is damaged: no object{wanted}. Restore it from a copy.")
    return found


def set_paused(folder: pathlib.Path, paused: bool) -> None:
    """Ask the run's self-play to wait, or to go on; it asks `is_paused` now and then."""
    stored_config(folder)  # a folder that is no run is told so
    if paused:
        write_file(folder / "paused", b"")
    else:
        (folder / "paused").unlink(missing_ok=True)


def is_paused(folder: pathlib.Path) -> bool:
    """Return whether somebody has asked the run's self-play to wait."""
    return (folder / "paused").exists()


def stored_config(folder: pathlib.Path) -> Config:
    """Return the configuration that a run was started with."""
    path = folder / "config.yaml"
    if not path.exists():
        raise StoreError(f"{folder} is not a run: it has no config.yaml.")
    return configfile.load(Config, configfile.Layer.from_file(path))
