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
    and its parent; and what the runs that hold a file of the model need to go on: the champion, the newest
    model, the champions of the checkpoints, and all of them where past models play.

    Args:
      dry: only tell.

    Returns:
      removed: hashes; kept: why, by hash; bytes: freed, of all copies of the models removed.
    """
    removed: list[Row] = []
    kept: dict[str, str] = {}
    runs = _needed_by_runs(registry)
    with registry.change() as db:
        rows = [r for r in registry.models(game) if not r["removed"] or not dry]
        for name in sorted({r["game"] for r in rows}):
            mine = [r for r in rows if r["game"] == name]
            why = _needed(mine, ratings(registry, name), best, newest, runs)
            for row in mine:
                if row["hash"] in why:
                    kept[row["hash"]] = why[row["hash"]]
                elif not row["removed"]:
                    removed.append(row)
                    if not dry:
                        db.execute("UPDATE models SET removed = ? WHERE hash = ?", (now(), row["hash"]))
    freed = sum(_remove(registry, row, dry) for row in removed)
    if not dry:  # what a process that was killed between the two steps left
        left = [row for row in registry.models(game) if row["removed"] and row["hash"] not in kept]
        freed += sum(_remove(registry, row, dry) for row in left)
    return {"removed": [r["hash"] for r in removed], "kept": kept, "bytes": freed}


def _needed(
    rows: list[Row], found: dict[str, Rating], best: int, newest: int, runs: dict[str, str]
) -> dict[str, str]:
    """Return why models of one game are kept, by hash; rows are the newest first."""
    why: dict[str, str] = {}
    for row in rows:
        if row["stage"] != "development":
            why[row["hash"]] = row["stage"]
            if row["parent"]:
                why.setdefault(row["parent"], f"parent of {row['hash'][:SHORT]}")
        if row["tags"]:
            why.setdefault(row["hash"], f"tagged {', '.join(row['tags'])}")
        if row["hash"] in runs:
            why.setdefault(row["hash"], runs[row["hash"]])
    alive = [r for r in rows if not r["removed"]]
    for row in alive[:newest]:
        why.setdefault(row["hash"], f"one of the newest {newest}")
    elo = {r["hash"]: e.elo for r in alive if (e := elo_of(r["hash"], found))}
    for name in sorted(elo, key=lambda n: -elo[n])[:best]:
        why.setdefault(name, f"one of the best {best}")
    return why


def _needed_by_runs(registry: Registry) -> dict[str, str]:
    """Return why models are needed by the runs that hold a file of any: those beside the registry too."""
    places = {path.resolve() for path in registry.folder.glob("*/models")}
    for row in registry.models():
        run = registry.run_of(row)
        if run is not None:
            places.add((run / "models").resolve())
    why: dict[str, str] = {}
    for place in sorted(places):
        for name, reason in _needed_by_run(place.parent).items():
            why.setdefault(name, reason)
    return why


def _needed_by_run(run: pathlib.Path) -> dict[str, str]:
    """Return the models that a run needs to go on."""
    from ..model import read_pointer
    from ..run import checkpoint_names, read_json, stored_config

    if not (run / "config.yaml").exists():
        return {}  # a folder of models, such as the registry's own
    pointers = {key: run / key for key in ("champion", "newest")}
    why = {read_pointer(path): f"{key} of {run.name}" for key, path in pointers.items() if path.exists()}
    for name in checkpoint_names(run):
        state = run / "checkpoints" / name / "state.json"
        if state.exists():  # the trainer drops old ones meanwhile
            why.setdefault(
                read_json(state, "champion")["champion"], f"champion of a checkpoint of {run.name}"
            )
    if any(o.player == "past" for o in stored_config(run).selfplay.opponents):
        for path in (run / "models").glob("*.safetensors"):
            why.setdefault(path.stem, f"past models play in {run.name}")
    return why


def _remove(registry: Registry, row: Row, dry: bool) -> int:
    """Remove all files of a model, in its runs and in the registry; return their bytes."""
    file = f"{row['hash']}.safetensors"
    run = registry.run_of(row)
    copies = [registry.path(row), registry.kept / file, *registry.folder.glob(f"*/models/{file}")]
    if run is not None:
        copies.append(run / "models" / file)
    freed = 0
    for path in {path.resolve() for path in copies}:
        try:
            size = path.stat().st_size
            if not dry:
                path.unlink()
            freed += size
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreError(
                f"{path} cannot be removed ({error.strerror}); check the permissions."
            ) from error
    return freed
