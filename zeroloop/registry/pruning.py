"""Pruning: which model files nobody needs, and their removal."""

from __future__ import annotations

import pathlib

from ..errors import StoreError
from . import SHORT, Registry, Row, now
from .evidence import Rating, elo_of, ratings


def prune(
    registry: Registry, game: str | None = None, *, best: int = 5, newest: int = 5, dry: bool = False
) -> Row:
    """Remove the files of development models that nobody needs; their rows and evidence stay.

    Kept are, of each game, the `best` by Elo and the `newest`; whatever is staged, in production or tagged,
    and its parent; and what a run needs to go on: its champion, its newest model, and all of them where
    past models play in it.

    Args:
      dry: only tell.

    Returns:
      removed: hashes; kept: why, by hash; bytes: freed.
    """
    removed: list[Row] = []
    kept: dict[str, str] = {}
    with registry.change() as db:
        rows = [r for r in registry.models(game) if not r["removed"] or not dry]
        for name in sorted({r["game"] for r in rows}):
            mine = [r for r in rows if r["game"] == name]
            why = _needed(mine, ratings(registry, name), best, newest)
            for row in mine:
                if row["hash"] in why:
                    kept[row["hash"]] = why[row["hash"]]
                elif not row["removed"]:
                    removed.append(row)
                    if not dry:
                        db.execute("UPDATE models SET removed = ? WHERE hash = ?", (now(), row["hash"]))
    freed = sum(_remove(registry, row, dry) for row in removed)
    if not dry:  # what a process that was killed between the two steps left
        freed += sum(_remove(registry, row, dry) for row in registry.models(game) if row["removed"])
    return {"removed": [r["hash"] for r in removed], "kept": kept, "bytes": freed}


def _needed(rows: list[Row], found: dict[str, Rating], best: int, newest: int) -> dict[str, str]:
    """Return why models of one game are kept, by hash; rows are the newest first."""
    why: dict[str, str] = {}
    for row in rows:
        if row["stage"] != "development":
            why[row["hash"]] = row["stage"]
            if row["parent"]:
                why.setdefault(row["parent"], f"parent of {row['hash'][:SHORT]}")
        if row["tags"]:
            why.setdefault(row["hash"], f"tagged {', '.join(row['tags'])}")
    for run in sorted({r["run"] for r in rows if r["run"]}):
        for name, reason in _needed_by_run(pathlib.Path(run), rows).items():
            why.setdefault(name, reason)
    alive = [r for r in rows if not r["removed"]]
    for row in alive[:newest]:
        why.setdefault(row["hash"], f"one of the newest {newest}")
    elo = {r["hash"]: e.elo for r in alive if (e := elo_of(r["hash"], found))}
    for name in sorted(elo, key=lambda n: -elo[n])[:best]:
        why.setdefault(name, f"one of the best {best}")
    return why


def _needed_by_run(run: pathlib.Path, rows: list[Row]) -> dict[str, str]:
    """Return the models that a run needs to go on; a run that is gone needs none."""
    from ..model import read_pointer
    from ..run import stored_config

    if not (run / "config.yaml").exists():
        return {}
    pointers = {key: run / key for key in ("champion", "newest")}
    why = {read_pointer(path): f"{key} of {run.name}" for key, path in pointers.items() if path.exists()}
    if any(o.player == "past" for o in stored_config(run).selfplay.opponents):
        for row in rows:
            if row["run"] == str(run):
                why.setdefault(row["hash"], f"past models play in {run.name}")
    return why


def _remove(registry: Registry, row: Row, dry: bool) -> int:
    """Remove the files of a model, in the run and in the registry; return their bytes."""
    freed = 0
    for path in {registry.path(row), registry.kept / f"{row['hash']}.safetensors"}:
        try:
            freed += path.stat().st_size
            if not dry:
                path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreError(
                f"{path} cannot be removed ({error.strerror}); check the permissions."
            ) from error
    return freed
