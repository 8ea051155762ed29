"""Command: regret."""

from __future__ import annotations

import pathlib

import click

from .base import NATURAL, SEED, given, given_game, json_flag, main, print_answer, tell


@main.command()
@click.argument("player", callback=given)
@click.option(
    "--judge",
    required=True,
    callback=given,
    help="solver, bearoff, minimax:DEPTH, gnubg:PLY, stockfish:depth=DEPTH or uci:PATH,depth=DEPTH.",
)
@click.option("--opponent", default=None, callback=given, help="Who has the other seats [PLAYER itself].")
@click.option("--positions", type=click.IntRange(1), default=1000, help="Decisions to judge.")
@click.option("--opening-plies", type=click.IntRange(1, 10**6), default=4, help="Random plies, at most.")
@click.option("--worst", type=NATURAL, default=20, help="Costliest positions to list.")
@click.option("--blunder", type=click.FloatRange(0), default=None, help="Cost of a blunder [the judge's].")
@click.option("--out", type=click.Path(dir_okay=False, path_type=pathlib.Path), default=None)
@click.option("--picture", type=click.Path(dir_okay=False, path_type=pathlib.Path), default=None)
@click.option("--game", default=None, callback=given, help="Game of fixed players [connect4].")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="With --game: its options.")
@click.option("--seed", type=SEED, default=0)
@json_flag
def regret(
    player: str,
    judge: str,
    opponent: str | None,
    positions: int,
    opening_plies: int,
    worst: int,
    blunder: float | None,
    out: pathlib.Path | None,
    picture: pathlib.Path | None,
    game: str | None,
    sets: tuple[str, ...],
    seed: int,
    as_json: bool,
) -> None:
    """What PLAYER's own decisions cost, by a judge; --out writes the worst positions as JSON Lines."""
    from .. import regret as reports

    report = reports.report(
        player,
        judge,
        opponent=opponent,
        positions=positions,
        opening_plies=opening_plies,
        worst=worst,
        blunder=blunder,
        out=out,
        image=picture,
        game=given_game(game, sets),
        seed=seed,
        tell=tell,
    )
    print_answer(report, as_json, reports.text_of(report))
