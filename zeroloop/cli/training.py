"""Commands: train, report, digest, config."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import TYPE_CHECKING, Any

import click

from ..errors import ZeroloopError
from .base import SEED, config_flags, given, json_flag, load_config, main, print_answer

if TYPE_CHECKING:
    from ..config import Config


@main.command()
@click.argument("game", required=False, callback=given)
@click.option(
    "--run",
    "folder",
    type=click.Path(path_type=pathlib.Path),
    default=None,
    help="Run directory [runs/GAME].",
)
@click.option("--seed", type=SEED, default=None, help="Seed of every random draw.")
@click.option(
    "--deterministic",
    is_flag=True,
    default=None,
    help="Bit-identical resume; counts positions, reads no clock.",
)
@click.option(
    "--ray",
    default=None,
    metavar="ADDRESS",
    help="Train on Ray: auto (this machine's cluster), local (one for this run), HOST:PORT, or none.",
)
@click.option("--no-preflight", is_flag=True, help="Skip the few seconds of measurement before a fresh run.")
@config_flags
@json_flag
def train(
    game: str | None,
    folder: pathlib.Path | None,
    seed: int | None,
    deterministic: bool | None,
    ray: str | None,
    no_preflight: bool,
    sets: tuple[str, ...],
    preset: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Train GAME from nothing; the same command again goes on where it stopped."""
    from ..session import train_session

    folder = folder or pathlib.Path("runs") / pathlib.Path(game or "connect4").stem
    stored = folder / "config.yaml"
    extra: dict[str, Any] = {"run": {}, "budget": {}}
    if seed is not None:
        extra["run"]["seed"] = seed
    if deterministic:
        extra["run"]["deterministic"] = True
        extra["budget"]["minutes"] = 0
    if ray is not None:
        extra["ray"] = {"address": "" if ray == "none" else ray}
    config = load_config(game, preset, sets, device, stored if stored.exists() else None, extra)
    result = train_session(folder, config, preflight=not no_preflight and not as_json)
    if as_json:
        click.echo(json.dumps(result))
    if not result["finished"]:
        sys.exit(130)


@main.command()
@click.argument("run", type=click.Path(path_type=pathlib.Path))
@json_flag
def report(run: pathlib.Path, as_json: bool) -> None:
    """Write RUN's report: report.md and report.png."""
    from ..report import write_report

    path = write_report(run)
    print_answer({"report": str(path)}, as_json, f"wrote {path}")


@main.command()
@click.argument("run", type=click.Path(path_type=pathlib.Path))
@json_flag
def digest(run: pathlib.Path, as_json: bool) -> None:
    """Hash everything that RUN's newest checkpoint holds, part by part."""
    from ..session import digest_run

    print_answer(digest_run(run), as_json)


@main.group()
def config() -> None:
    """Show and compare configurations."""


@config.command("show")
@click.argument("run", required=False, type=click.Path(path_type=pathlib.Path))
@click.option("--docs", is_flag=True, help="Every key with its meaning.")
@config_flags
@json_flag
def config_show(
    run: pathlib.Path | None,
    docs: bool,
    sets: tuple[str, ...],
    preset: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Print the resolved configuration: of RUN, or of the flags."""
    from .. import configfile
    from ..config import Config

    if docs:
        keys = configfile.describe(Config)
        rows = [{"key": k.name, "default": k.default, "type": k.type, "doc": k.doc} for k in keys]
        text = "\n".join(f"{k.name} = {k.default}   ({k.type})\n    {k.doc}" for k in keys)
        print_answer({"keys": rows}, as_json, text)
        return
    if run is not None and not (run / "config.yaml").exists():
        raise ZeroloopError(
            f"'{run}' is no run directory: it has no config.yaml. For the configuration of a game: "
            "zeroloop config show --set game.name=hex."
        )
    found = load_config(None, preset, sets, device, run / "config.yaml" if run else None)
    if as_json:
        click.echo(json.dumps({"hash": configfile.content_hash(found), "config": configfile.to_plain(found)}))
    else:
        click.echo(configfile.dump(found), nl=False)


@config.command("diff")
@click.argument("first", callback=given)
@click.argument("second", callback=given)
@json_flag
def config_diff(first: str, second: str, as_json: bool) -> None:
    """Print what differs between two runs, presets or YAML files."""
    from .. import configfile

    def read(name: str) -> Config:
        run = pathlib.Path(name) / "config.yaml"
        return load_config(None, str(run) if run.exists() else name)

    rows = configfile.diff(read(first), read(second))
    if as_json:
        found = [{"key": k, "first": a, "second": b} for k, a, b in rows]
        click.echo(json.dumps({"differences": found}))
    else:
        for key, a, b in rows:
            click.echo(f"{key}: {a} -> {b}")
