"""Commands: state, perft, check, solve, evaluate."""

from __future__ import annotations

import io
import json
import pathlib
import sys

import click

from ..errors import ZeroloopError
from .base import NATURAL, SEED, game_of, given, given_game, json_flag, main, print_answer, tell


@main.command()
@click.argument("game", callback=given)
@click.option("--position", default=None, help="Position text; see the game's page.")
@click.option("--moves", default="", help="Moves from the start, separated by spaces.")
@click.option("--dice", default="", help="The roll that comes next, such as 31 in backgammon.")
@click.option(
    "--stdin",
    "from_stdin",
    is_flag=True,
    help="Answer one query per line: a JSON object, or moves.",
)
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE")
@json_flag
def state(
    game: str,
    position: str | None,
    moves: str,
    dice: str,
    from_stdin: bool,
    sets: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show a position of GAME: who moves, what is legal, how it ended."""
    from ..query import describe_state, query_lines, render_state

    made = game_of(game, sets)
    if from_stdin:
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")  # a stray byte is an unknown move, not a crash
        for answer in query_lines(made, sys.stdin):
            click.echo(json.dumps(answer), nl=True)
        return
    if as_json:
        click.echo(json.dumps(describe_state(made, position, moves, dice)))
    else:
        click.echo(render_state(made, position, moves, dice))


@main.command()
@click.argument("fen")
@click.argument("depth", type=click.IntRange(0, 12))
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE")
@json_flag
def perft(fen: str, depth: int, sets: tuple[str, ...], as_json: bool) -> None:
    """Count the move sequences of DEPTH plies from FEN (or `start`) in chess."""
    from ..query import count_moves

    print_answer(count_moves(game_of("chess", sets), fen, depth), as_json)


@main.command()
@click.argument("game", callback=given)
@click.option("--games", type=click.IntRange(min=1), default=200, help="Random games.")
@click.option("--seed", type=SEED, default=0)
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE")
@json_flag
def check(game: str, games: int, seed: int, sets: tuple[str, ...], as_json: bool) -> None:
    """Prove the laws of the contract for GAME (or a .py file) on random play."""
    from ..games.check import check_game

    if seed + games >= 2**63:
        raise ZeroloopError(f"--seed {seed} and --games {games}: together they must be below 2^63.")
    report = check_game(game_of(game, sets), games=games, seed=seed)
    if as_json:
        click.echo(json.dumps(report._asdict()))
        return
    for law, count in report.laws:
        click.echo(f"{count:>9,}  {law}")
    click.echo(f"{report.games} games, {report.plies:,} plies, {report.states_per_second:,.0f} states/s")
    for note in report.notes:
        click.echo(f"note: {note}")


@main.command()
@click.argument("game", callback=given)
@click.option(
    "--positions", required=True, type=click.Path(path_type=pathlib.Path), help="Lines MOVES SCORE."
)
@click.option("--weak", is_flag=True, help="Win, draw or loss only: faster.")
@click.option("--threads", type=NATURAL, default=0, help="Threads; 0: one per core.")
@json_flag
def solve(game: str, positions: pathlib.Path, weak: bool, threads: int, as_json: bool) -> None:
    """Solve positions exactly and compare with the scores in the file."""
    from ..query import solve_file

    print_answer(solve_file(game_of(game), positions, weak, threads), as_json)


@main.command()
@click.argument("player", callback=given)
@click.option(
    "--positions",
    multiple=True,
    type=click.Path(path_type=pathlib.Path),
    help="Lines MOVES SCORE or MOVES s1 ... s7; may be repeated.",
)
@click.option("--drawn", type=NATURAL, default=0, help="Instead: so many random positions, solved exactly.")
@click.option("--bearoff", type=NATURAL, default=0, help="Instead: so many of backgammon's bear-off.")
@click.option("--simulations", type=NATURAL, help="0: the raw policy [PLAYER's @N, or 128].")
@click.option("--limit", type=NATURAL, default=0, help="Only the first lines of each file; 0: all.")
@click.option(
    "--watch", is_flag=True, help="Instead: rate the new models of the live run PLAYER until stopped."
)
@click.option("--once", is_flag=True, help="With --watch: end when there is no new model.")
@click.option("--game", default=None, callback=given, help="Game of a fixed player [connect4].")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="With --game: its options.")
@click.option("--seed", type=SEED, default=0)
@json_flag
def evaluate(
    player: str,
    positions: tuple[pathlib.Path, ...],
    simulations: int | None,
    limit: int,
    drawn: int,
    bearoff: int,
    watch: bool,
    once: bool,
    game: str | None,
    sets: tuple[str, ...],
    seed: int,
    as_json: bool,
) -> None:
    """Count the positions in which PLAYER (RUN, HASH, demo:GAME, random, minimax:5) keeps the value."""
    from ..query import evaluate_bearoff, evaluate_drawn, evaluate_files

    if [bool(positions), bool(drawn), bool(bearoff), watch].count(True) != 1:
        raise ZeroloopError("evaluate needs one of --positions FILE, --drawn N, --bearoff N and --watch.")
    if once and not watch:
        raise ZeroloopError("--once goes with --watch; give both, or leave it out.")
    if watch:
        from ..watch import watch_run

        print_answer(watch_run(pathlib.Path(player), once=once, tell=tell), as_json)
        return
    made = given_game(game, sets)
    if drawn or bearoff:
        judge = evaluate_drawn if drawn else evaluate_bearoff
        print_answer(judge(player, drawn or bearoff, simulations, made, seed, tell), as_json)
        return
    found = evaluate_files(player, list(positions), simulations, limit, made, seed, tell)
    if as_json:
        click.echo(json.dumps(found))
    else:
        for row in found.get("files", [found]):
            print_answer(row, False)
            click.echo()
