"""Command: status."""

from __future__ import annotations

import json
import pathlib
import time

import click

from ..errors import ZeroloopError
from .base import json_flag, main

EVERY = 2.0
"""Seconds between two looks of `--watch`."""


@main.command()
@click.argument("run", type=click.Path(path_type=pathlib.Path))
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@json_flag
def status(run: pathlib.Path, watch: bool, as_json: bool) -> None:
    """Show a live RUN: workers, rates, queues, staleness of weights, share of time per phase."""
    from rich.console import Console
    from rich.live import Live

    from ..status.screen import HEIGHT, screen
    from ..status.summary import summarise

    if watch and as_json:
        raise ZeroloopError("--watch shows a screen and --json prints one object; give one of them.")
    found = summarise(run)
    if as_json:
        click.echo(json.dumps(found))
        return
    console = Console() if Console().is_terminal else Console(width=100, height=HEIGHT)
    if not watch:
        console.print(screen(found), highlight=False)
        return
    with Live(screen(found), console=console, auto_refresh=False, screen=console.is_terminal) as live:
        while True:
            time.sleep(EVERY)
            live.update(screen(summarise(run), max(HEIGHT, console.height)), refresh=True)
