"""Commands: match, play."""

from __future__ import annotations

import click

from .base import SEED, given, given_game, json_flag, main, print_answer, tell


@main.command()
@click.argument("first", callback=given)
@click.argument("second", callback=given)
@click.option("--games", default=200, help="Games; each opening is played in every seating.")
@click.option(
    "--opening-plies",
    type=click.IntRange(1, 2**31 - 1),
    default=4,
    help="Random plies of an opening, at most.",
)
@click.option("--game", default=None, callback=given, help="Game of fixed players [connect4].")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="With --game: its options.")
@click.option("--seed", type=SEED, default=0)
@json_flag
def match(
    first: str,
    second: str,
    games: int,
    opening_plies: int,
    game: str | None,
    sets: tuple[str, ...],
    seed: int,
    as_json: bool,
) -> None:
    """Play FIRST against SECOND: RUN@128, HASH@128, demo:connect4@128, minimax:4, mcts:400, solver."""
    from ..query import match_players
    from ..view import match_text

    made = given_game(game, sets)
    found = match_players(first, second, games, opening_plies, made, seed, tell)
    print_answer(found, as_json, match_text(found))


@main.command()
@click.argument("player", callback=given)
@click.option("--simulations", default=200, help="Of the agent's search.")
@click.option("--seat", type=int, default=None, help="Your seat [0].")
@click.option("--seed", type=SEED, default=0)
def play(player: str, simulations: int, seat: int | None, seed: int) -> None:
    """Play against PLAYER in the terminal: a run, a model, or a game's name for the demo agent."""
    from ..play import play_terminal

    play_terminal(player, simulations, 0 if seat is None else seat, seed)
