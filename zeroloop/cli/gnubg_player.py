"""Command: gnubg-player."""

from __future__ import annotations

import click

from .base import SEED, given, main, tell


@main.command("gnubg-player")
@click.argument("name", metavar="RUN", callback=given)
@click.option("--port", default=1234, show_default=True, type=click.IntRange(0, 65535), help="0: any free.")
@click.option("--host", default="127.0.0.1", show_default=True, callback=given, help="Address to listen on.")
@click.option(
    "--simulations", default=64, show_default=True, type=click.IntRange(0), help="Unless RUN@N says."
)
@click.option("--seed", default=0, type=SEED, help="Seed of the search.")
def gnubg_player(name: str, port: int, host: str, simulations: int, seed: int) -> None:
    """Let GNU Backgammon play against RUN: there type `set player 0 external localhost:PORT`."""
    from ..games import make
    from ..gnubg_player import serve_gnubg
    from ..players import parse

    player = parse(name, make("backgammon"), simulations=simulations, seed=seed)

    def listening(where: int) -> None:
        tell(f"{player.name} is ready; in gnubg: set player 0 external {host}:{where}")
        tell("Ctrl-C ends it.")

    serve_gnubg(player, host, port, listening, tell)
    tell("stopped.")
