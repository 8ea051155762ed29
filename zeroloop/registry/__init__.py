"""Registry: models of many runs by content hash - where they come from, their stage, tags and files.

One SQLite file, `registry.sqlite`, in the folder that holds the runs; files of staged models are kept in
`registry/models` beside it. Each change is one transaction: a process may be killed at any line.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import BusyError, StoreError
from ..files import sha256
from .schema import FORMAT, SCHEMA

if TYPE_CHECKING:
    from ..games.game import Game
    from ..model import Model

Row = dict[str, Any]
STAGES = ("development", "staging", "production")
SHORT = 12
"""Hex digits of a hash that are shown to people."""
LEAST_HASH = 6
"""Digits by which a model may be named."""
DEFAULT = pathlib.Path("runs")
"""Folder of the registry where a command names no run."""


class Lineage(NamedTuple):
    """Where a model comes from; None where that is not known."""

    run: str | None = None
    """Folder of the run; stored relative to the registry where it lies below it, so that both may move."""
    parent: str | None = None
    """Hash of the model that it was trained on from."""
    config_hash: str | None = None
    positions: int | None = None
    steps: int | None = None
    games: int | None = None


class Registry:
    """An open registry; use it as a context manager.

    Args:
      folder: holds `registry.sqlite`; made where it is absent.
      timeout: seconds to wait for another process's change. make: False: one that is absent is refused.

    Raises:
      StoreError: it cannot be opened, is damaged, or (BusyError) stays locked.
    """

    def __init__(self, folder: pathlib.Path, timeout: float = 30.0, *, make: bool = True) -> None:
        self.folder = folder
        self.file = folder / "registry.sqlite"
        if not make:
            _require(self.file)
        self.kept = folder / "registry" / "models"
        """Files of staged models; `HASH@N` finds them as it finds those of runs."""
        self._timeout = timeout
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.file, timeout=timeout, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"{self.file} cannot be opened ({error}); check the folder.") from error
        self._db.row_factory = sqlite3.Row
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        with self._named():
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.execute("PRAGMA synchronous = FULL")
            if self._db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                self._make_wal()
        if self._version() == 0:
            with self.change() as db:
                if self._version() == 0:  # no other process was quicker
                    for statement in SCHEMA.split(";\n"):
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version = {FORMAT}")
        if self._version() != FORMAT:
            raise StoreError(f"{self.file} has format {self._version()}; this zeroloop reads {FORMAT}.")

    def check(self) -> None:
        """Look for damage in the whole file; StoreError where there is any."""
        told = self.rows("PRAGMA quick_check(1)")[0]["quick_check"]
        if told != "ok":
            raise StoreError(_damaged(self.file, told))

    def _version(self) -> int:
        return int(self.rows("PRAGMA user_version")[0]["user_version"])

    def _make_wal(self) -> None:
        """Switch the journal; SQLite does not wait for others here, so this does."""
        end = time.monotonic() + self._timeout
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *caught: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Tell what SQLite reports in the words of this project."""
        try:
            yield
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            raise (BusyError if busy else StoreError)(
                f"{self.file}: {error}; another process may hold it, or the disk may be full. Nothing was "
                "changed: run the same command again."
            ) from error
        except sqlite3.IntegrityError:
            raise  # a fault of this code, not of the file
        except sqlite3.DatabaseError as error:
            raise StoreError(_damaged(self.file, str(error))) from error

    @contextlib.contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """One transaction that no other change can interleave; an error undoes all of it."""
        with self._named():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def rows(self, query: str, *given: Any) -> list[Row]:
        """Return what a query finds."""
        with self._named():
            return [dict(row) for row in self._db.execute(query, given)]

    # Models.

    def add(self, name: str, game: Game, source: str, path: pathlib.Path, lineage: Lineage) -> None:
        """Enter a model of this game; of one that is known already only what was not known is added.

        Args:
          name: its hash. source: how `games.make` makes the game. path: its file.
        """
        from ..games import rules_identity

        row = {
            "hash": name,
            "game": game.id,
            "source": source,
            "options": json.dumps(game.options, sort_keys=True),
            "rules_identity": rules_identity(game),
            "path": self.relative(path),
            "created": now(),
            **lineage._asdict(),
        }
        if lineage.run is not None:
            row["run"] = self.relative(pathlib.Path(lineage.run))
        names = ", ".join(row)
        marks = ", ".join(f":{key}" for key in row)
        updates = ", ".join(f"{key} = coalesce({key}, excluded.{key})" for key in Lineage._fields)
        updates += ", path = iif(removed IS NULL, path, excluded.path), removed = NULL"  # it was made again
        with self.change() as db:
            self._forget_places(db, name)
            db.execute(
                f"INSERT INTO models ({names}) VALUES ({marks}) ON CONFLICT (hash) DO UPDATE SET {updates}",
                row,
            )

    def _forget_places(self, db: sqlite3.Connection, name: str) -> None:
        """Mark file and run of a model for renewal where nothing is there any more: the run was moved."""
        for row in db.execute("SELECT * FROM models WHERE hash = ?", (name,)).fetchall():
            gone = not self.path(dict(row)).exists()
            db.execute(
                "UPDATE models SET run = iif(?, NULL, run), removed = iif(?, ?, removed) WHERE hash = ?",
                (self.run_of(dict(row)) is None, gone, now(), name),
            )

    def run_of(self, row: Row) -> pathlib.Path | None:
        """Return the folder of a model's run, or None where that is unknown or gone.

        The run around the model's file comes first: after a copy, the one that is stored may be another.
        """
        path, known = self.path(row), row["run"]
        around = [path.parent.parent] if path.parent.name == "models" and path.exists() else []
        stored = [self.folder / known] if known else []
        beside = self.folder / pathlib.Path(known or "").name  # older registries hold absolute paths
        if (beside / "models" / f"{row['hash']}.safetensors").exists():
            stored.append(beside)
        found = [run for run in (*around, *stored) if (run / "config.yaml").exists()]
        return found[0] if found else None

    def relative(self, path: pathlib.Path) -> str:
        """Return a path as it is stored: relative where it lies below the registry, so that both may move."""
        whole, base = path.resolve(), self.folder.resolve()
        return whole.relative_to(base).as_posix() if whole.is_relative_to(base) else str(whole)

    def models(self, game: str | None = None, stage: str | None = None) -> list[Row]:
        """Return the models, newest first, each with its tags."""
        found = self.rows(
            "SELECT * FROM models WHERE (?1 IS NULL OR game = ?1) AND (?2 IS NULL OR stage = ?2) "
            "ORDER BY created DESC, rowid DESC",
            game,
            stage,
        )
        tags: dict[str, list[str]] = {}
        for row in self.rows("SELECT hash, tag FROM tags ORDER BY tag"):
            tags.setdefault(row["hash"], []).append(row["tag"])
        return [
            {**row, "options": json.loads(row["options"]), "tags": tags.get(row["hash"], [])} for row in found
        ]

    def model(self, name: str) -> Row:
        """Return the model of a hash, of the first digits of one, or of a tag that one model alone has.

        Raises:
          StoreError: none or several are meant.
        """
        rows = self.models()
        digits = _is_digits(name)
        found = [r for r in rows if name in r["tags"] or (digits and r["hash"].startswith(name))]
        if len(found) == 1:
            return found[0]
        if found:
            hashes = ", ".join(r["hash"][:SHORT] for r in found)
            raise StoreError(f"'{name}' means {len(found)} models of {self.file}: {hashes}; give one hash.")
        raise StoreError(
            f"{self.file} knows no model '{name}' ({len(rows)} models); give a hash of at least {LEAST_HASH} "
            "digits or a tag, see: zeroloop models list."
        )

    def production(self, game: str) -> str | None:
        """Return the hash of the model in production of a game (name with options), or None."""
        rows = self.rows("SELECT hash FROM models WHERE game = ? AND stage = 'production'", game)
        return rows[0]["hash"] if rows else None

    def path(self, row: Row) -> pathlib.Path:
        """Return where a model's file lies."""
        return self.folder / str(row["path"])

    def verified(self, row: Row) -> bytes:
        """Return the bytes of a model's file.

        Raises:
          StoreError: it was pruned, is gone, or is not what the registry knows under this hash.
        """
        path, name = self.path(row), row["hash"]
        if row["removed"]:
            raise StoreError(f"model {name[:SHORT]} of {row['game']} was pruned on {row['removed']}.")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StoreError(
                f"{path}, the file of model {name[:SHORT]} of {row['game']}, cannot be read "
                f"({error.strerror}). Restore it from a copy."
            ) from error
        found = sha256(data)
        if found != name:
            raise StoreError(
                f"{path} has the wrong SHA-256: {found[:SHORT]}..., but the registry holds it as "
                f"{name[:SHORT]}... of {row['game']}: it was damaged or exchanged. Restore it from a copy."
            )
        return data

    def load(self, name: str, game: Game | None = None) -> Model:
        """Read a model, with its SHA-256 checked; `game` is checked against it where given.

        Raises:
          StoreError: unknown, pruned, gone or damaged. ResumeError: of another game or other rules.
        """
        from .. import model
        from ..games import make

        row = self.model(name)
        self.verified(row)
        return model.load(self.path(row), game or make(row["source"], **row["options"]))

    def tag(self, name: str, tag: str, remove: bool = False) -> Row:
        """Give a model a tag, or take it away; a tagged model is never pruned.

        Several models may have one tag, which then names none of them.
        """
        if not tag or not all(c.isalnum() or c in "-_." for c in tag):
            raise StoreError(f"tag '{tag}' must be of letters, digits, '-', '_' and '.'.")
        if not remove and _is_digits(tag):
            raise StoreError(f"tag '{tag}' could be the beginning of a hash; give one that is no hex number.")
        row = self.model(name)
        if remove and tag not in row["tags"]:
            raise StoreError(
                f"model {row['hash'][:SHORT]} has no tag '{tag}'; it has {', '.join(row['tags']) or 'none'}."
            )
        with self.change() as db:
            if remove:
                db.execute("DELETE FROM tags WHERE hash = ? AND tag = ?", (row["hash"], tag))
            else:
                db.execute("INSERT OR IGNORE INTO tags VALUES (?, ?)", (row["hash"], tag))
        return self.model(row["hash"])


def _is_digits(name: str) -> bool:
    """Return whether a name is read as the first digits of a hash."""
    return len(name) >= LEAST_HASH and set(name) <= set("0123456789abcdef")


def _damaged(file: pathlib.Path, why: str) -> str:
    return (
        f"{file} is damaged ({why}). Restore it from a copy, or move it away: models and matches.jsonl of "
        "the runs are unharmed."
    )


def _require(file: pathlib.Path) -> None:
    """Refuse a registry that is absent, or empty for longer than its making takes."""
    end = time.monotonic() + 1.0
    while True:
        try:
            if file.stat().st_size:
                return
        except FileNotFoundError as error:
            raise StoreError(
                f"there is no registry in {file.parent}; train a model, or give --registry FOLDER."
            ) from error
        if time.monotonic() > end:
            raise StoreError(_damaged(file, "it has no bytes"))
        time.sleep(0.02)


def check(folder: pathlib.Path) -> None:
    """Find what would stop a run at its first change of the registry; one that is absent is well."""
    if (folder / "registry.sqlite").exists():
        with Registry(folder, make=False) as registry:
            registry.check()


def folder_of(name: str) -> pathlib.Path:
    """Return the folder of the registry that a command over RUN or HASH means: the one that holds the run."""
    path = pathlib.Path(name)
    return path.resolve().parent if path.is_dir() else DEFAULT


def now() -> str:
    """Return the time, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
