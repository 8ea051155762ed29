"""Command: size."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import click

from ..sizing import SERVERS, Sizes, draw, predict, read_bench
from .base import json_flag, main, print_answer


def _inputs(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each input of the model."""
    for each in reversed(fields(Sizes)):
        told = f"{each.metadata['doc']} Default: {each.default:g}."
        flag = f"--{each.name.replace('_', '-')}"
        command = click.option(flag, each.name, type=float, default=None, help=told)(command)
    return command


@main.command()
@click.option(
    "--from",
    "files",
    multiple=True,
    type=click.Path(path_type=pathlib.Path),
    help="Answer of zeroloop bench ... --json, or a JSON object of inputs. Later ones win, options win.",
)
@click.option("--workers", type=float, default=2, help="Workers [2].")
@click.option("--server", type=click.Choice(SERVERS), default="none", help="Where the network runs [none].")
@click.option("--game", default="", help="Compute --up-bytes and --down-bytes for this game.")
@click.option(
    "--legal", type=float, default=7, help="With --game: legal actions of a position, on average [7]."
)
@click.option(
    "--picture", type=click.Path(path_type=pathlib.Path), default=None, help="Draw 1 to 1,000 workers."
)
@_inputs
@json_flag
def size(
    files: tuple[pathlib.Path, ...],
    workers: float,
    server: str,
    game: str,
    legal: float,
    picture: pathlib.Path | None,
    as_json: bool,
    **inputs: float | None,
) -> None:
    """Predict simulations/s of a set-up and what limits it; docs/sizing.md has the formulas."""
    sizes = Sizes()
    for file in files:
        sizes = replace(sizes, **read_bench(file))
    if game:
        from ..distributed.ragged import bytes_per_position
        from .base import game_of

        traffic = bytes_per_position(game_of(game), legal)
        sizes = replace(sizes, up_bytes=traffic.up, down_bytes=traffic.down)
    sizes = replace(sizes, **{name: value for name, value in inputs.items() if value is not None})
    found = predict(sizes, workers, server)
    if picture is not None:
        draw(sizes, picture)
    rows = [
        f"{name:<10} {value:>16,.0f} simulations/s"
        if value is not None
        else f"{name:<10} {'no limit given':>16}"
        for name, value in found["stages"].items()
    ]
    full = ", ".join(f"{name} at {count}" for name, count in found["saturations"].items())
    late = "" if found["models_in_time"] else "; that is longer than --publish-seconds: models come late"
    text = "\n".join(
        [
            f"{workers:g} workers of {sizes.cores:g} cores, server: {server}",
            *rows,
            f"the least: {found['full']}, {found['simulations_per_second']:,.0f} simulations/s, "
            f"{found['positions_per_second']:,.0f} positions/s; workers busy {found['workers_busy']:.0%}",
            f"then: {found['advice']}",
            f"workers that fill a stage: {full or 'none up to 100,000'}",
            f"a model reaches all workers in {found['seconds_to_hand_out_a_model']:.2g} s{late}",
        ]
    )
    print_answer(found, as_json, text)
