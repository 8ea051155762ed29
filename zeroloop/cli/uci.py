"""Command: uci."""

from __future__ import annotations

import click

from .base import given, main


@main.command()
@click.argument("player", callback=given, metavar="RUN@SIMULATIONS")
def uci(player: str) -> None:
    """Be a UCI engine with a chess model, for graphical boards and tournaments: RUN@800, HASH@800.

    The simulations are those of a `go` without limits. Commands come from standard input; docs/uci.md is the
    manual.
    """
    from ..uci import serve_uci

    serve_uci(player)
