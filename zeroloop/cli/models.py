"""The commands over the model registry: `models list`, `show`, `promote`, `rollback`, `prune` and `tag`."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import click

from .base import NATURAL, given, json_flag, main, print_answer, tell


def registry_flag(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--registry`."""
    return click.option(
        "--registry",
        "folder",
        type=click.Path(path_type=pathlib.Path),
        default=None,
        help="Folder of registry.sqlite [the one that holds the runs: runs].",
    )(command)


@main.group()
def models() -> None:
    """Models of all runs by content hash: stages, evidence, ratings."""


def _registry(folder: pathlib.Path | None) -> Any:
    from ..registry import DEFAULT, Registry

    return Registry(folder or DEFAULT, make=False)


@models.command("list")
@click.option(
    "--game", default=None, callback=given, help="Only of this game, such as connect4 or hex(size=5)."
)
@click.option("--stage", type=click.Choice(["development", "staging", "production"]), default=None)
@registry_flag
@json_flag
def list_models(game: str | None, stage: str | None, folder: pathlib.Path | None, as_json: bool) -> None:
    """List models, newest first, with stage, Elo and tags."""
    from ..registry.evidence import listed

    with _registry(folder) as registry:
        rows = listed(registry, game, stage)
    if as_json:
        click.echo(json.dumps({"models": rows}))
        return
    if not rows:
        tell("no models" if game is None and stage is None else "no models of this game and stage")
    for row in rows:
        e = row["elo"]
        elo = f"{e['elo']:.0f} [{e['low']:.0f}, {e['high']:.0f}]" if e else "-"
        name = row["hash"][:12] + (" (pruned)" if row["removed"] else "")
        click.echo(
            f"{name:<21} {row['game']:<18} {row['stage']:<12} {elo:<18} "
            f"{row['positions'] if row['positions'] is not None else '-':>10}  {' '.join(row['tags'])}"
        )


@models.command()
@click.argument("name", callback=given)
@registry_flag
@json_flag
def show(name: str, folder: pathlib.Path | None, as_json: bool) -> None:
    """Show all that is known of a model (hash or tag): lineage, history, decisions, Elo, matches."""
    from ..registry.evidence import show as find

    with _registry(folder) as registry:
        found = find(registry, name)
    if as_json:
        click.echo(json.dumps(found))
        return
    for key, value in found.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            click.echo(f"{key}:")
            for row in value:
                told = ((k, v) for k, v in row.items() if v not in (None, "") and k != "hash")
                click.echo("  " + ", ".join(f"{k} {v}" for k, v in told))
        else:
            click.echo(f"{key:<16} {value}")


@models.command()
@click.argument("name", callback=given)
@click.option("--to", type=click.Choice(["staging", "production"]), default=None, help="[the next stage]")
@click.option("--force", default="", metavar="REASON", help="Without evidence; the reason is recorded.")
@registry_flag
@json_flag
def promote(name: str, to: str | None, force: str, folder: pathlib.Path | None, as_json: bool) -> None:
    """Lift a model to the next stage, on the evidence of a gauntlet that it passed."""
    from ..registry.stages import promote as lift

    with _registry(folder) as registry:
        row = lift(registry, name, to, force)
    print_answer(row, as_json, f"{row['hash'][:12]} of {row['game']} is in {row['stage']}.")


@models.command()
@click.argument("game", callback=given)
@click.option("--reason", required=True, help="Recorded with both models.")
@registry_flag
@json_flag
def rollback(game: str, reason: str, folder: pathlib.Path | None, as_json: bool) -> None:
    """Put back the model that was in production of GAME before the present one."""
    from ..registry.stages import rollback as put_back

    with _registry(folder) as registry:
        row = put_back(registry, game, reason)
    print_answer(row, as_json, f"{row['hash'][:12]} of {row['game']} is in {row['stage']} again.")


@models.command()
@click.option("--game", default=None, callback=given)
@click.option("--best", type=NATURAL, default=5, help="Keep so many of each game by Elo.")
@click.option("--newest", type=NATURAL, default=5, help="Keep so many of the newest.")
@click.option("--dry-run", is_flag=True, help="Only tell.")
@registry_flag
@json_flag
def prune(
    game: str | None, best: int, newest: int, dry_run: bool, folder: pathlib.Path | None, as_json: bool
) -> None:
    """Remove files of development models; never of staged or tagged ones, nor what a run needs to go on."""
    from ..registry.pruning import prune as remove

    with _registry(folder) as registry:
        found = remove(registry, game, best=best, newest=newest, dry=dry_run)
    what = "would be removed" if dry_run else "removed"
    print_answer(
        found,
        as_json,
        f"{len(found['removed'])} models {what} ({found['bytes']:,} bytes), {len(found['kept'])} kept.",
    )


@models.command()
@click.argument("name", callback=given)
@click.argument("tag", callback=given)
@click.option("--remove", is_flag=True, help="Take it away.")
@registry_flag
@json_flag
def tag(name: str, tag: str, remove: bool, folder: pathlib.Path | None, as_json: bool) -> None:
    """Give a model a tag; a tagged model is never pruned, and the tag names it in these commands."""
    with _registry(folder) as registry:
        row = registry.tag(name, tag, remove)
        others = [r["hash"][:12] for r in registry.models() if tag in r["tags"] and r["hash"] != row["hash"]]
    if others and not remove:
        tell(f"'{tag}' is a tag of {', '.join(others)} too, so it names none of them in these commands.")
    print_answer(row, as_json, f"{row['hash'][:12]}: {', '.join(row['tags']) or 'no tags'}.")
