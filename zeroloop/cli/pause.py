"""Commands: pause, resume."""

from __future__ import annotations

import pathlib

import click

from .base import json_flag, main, print_answer


@main.command()
@click.argument("run", type=click.Path(path_type=pathlib.Path))
@json_flag
def pause(run: pathlib.Path, as_json: bool) -> None:
    """Let RUN's self-play wait until `resume`; learning goes on with what there is."""
    from ..run import set_paused

    set_paused(run, True)
    print_answer(
        {"run": str(run), "paused": True},
        as_json,
        f"{run}: self-play waits; go on with: zeroloop resume {run}",
    )


@main.command()
@click.argument("run", type=click.Path(path_type=pathlib.Path))
@json_flag
def resume(run: pathlib.Path, as_json: bool) -> None:
    """Let RUN's self-play go on after `pause`."""
    from ..run import set_paused

    set_paused(run, False)
    print_answer({"run": str(run), "paused": False}, as_json, f"{run}: self-play goes on")
