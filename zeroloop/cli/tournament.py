"""Command: tournament."""

from __future__ import annotations

import pathlib

import click

from .base import SEED, given, given_game, json_flag, main, print_answer, tell


@main.command()
@click.argument("players", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=pathlib.Path), required=True, help="Directory of the games.")
@click.option("--games", default=200, help="Of each pair; each opening is played in every seating.")
@click.option(
    "--kind",
    type=click.Choice(["round-robin", "gauntlet"]),
    default="round-robin",
    help="gauntlet: the first player against each of the others.",
)
@click.option("--anchor", "anchors", multiple=True, metavar="NAME[=ELO]", help="Fixed Elo [the first: 0].")
@click.option("--format", "formats", default=None, help="jsonl,pgn,sgf,mat [jsonl and the game's own].")
@click.option(
    "--opening-plies",
    type=click.IntRange(1, 2**31 - 1),
    default=4,
    help="Random plies of an opening, at most.",
)
@click.option("--chunk", type=click.IntRange(1), default=64, help="Games played, and kept, at a time.")
@click.option("--game", default=None, callback=given, help="Game of fixed players.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="With --game: its options.")
@click.option("--seed", type=SEED, default=0)
@json_flag
def tournament(
    players: tuple[str, ...],
    out: pathlib.Path,
    games: int,
    kind: str,
    anchors: tuple[str, ...],
    formats: str | None,
    opening_plies: int,
    chunk: int,
    game: str | None,
    sets: tuple[str, ...],
    seed: int,
    as_json: bool,
) -> None:
    """Play all PLAYERS against each other; the same command goes on after any stop."""
    from ..crosstable import text
    from ..tournament import Plan, run_tournament

    plan = Plan(kind, games, opening_plies, seed)
    asked = formats.split(",") if formats is not None else None
    table = run_tournament(players, out, plan, given_game(game, sets), anchors, asked, chunk, tell)
    print_answer(table, as_json, text(table))
