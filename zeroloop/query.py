"""Answers to one-off questions from the command line: positions, files of them, matches, benchmarks."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from .config import Config
from .errors import GameError, InvalidState, PlayerError, ZeroloopError
from .games import make, rules_identity
from .games.game import CHANCE, TERMINAL, Game, State
from .judge import FULL, Judged, ask, drawn_positions, grade, judged_from_file, read_positions
from .match import play_match
from .openings import openings
from .players import KINDS, Player, SearchPlayer, close, describe, parse, parse_all, split_name
from .players.solvers import solver_for
from .rating import score_interval

SIMULATIONS = 128
"""Of an evaluated model where neither its name nor a flag says a number."""


def position_of(game: Game, position: str | None, moves: str, dice: str = "") -> State:
    """Return the state after the moves, and then the dice, from a position (default: the start).

    Raises:
      InvalidState, IllegalAction: a bad position or move; the message says what is allowed.
    """
    state = game.parse_position(position) if position else game.initial_state()
    for name in moves.split():
        game.play(state, game.parse_action(state, name))
    if dice:
        if game.rules["to_play"](state) != CHANCE:
            raise InvalidState(
                f"{game.id}: dice '{dice}' cannot be set in '{game.position(state)}', "
                "which is not before a roll."
            )
        game.play(state, game.parse_action(state, dice))
    return state


def describe_state(game: Game, position: str | None, moves: str, dice: str = "") -> dict[str, Any]:
    """Return a position as plain data: who moves, what is legal, how it ended, what the game adds."""
    state = position_of(game, position, moves, dice)
    mover = int(game.rules["to_play"](state))
    kind: int | str = {CHANCE: "chance", TERMINAL: "terminal"}.get(mover, mover)
    return {
        "to_play": kind,
        "legal": [{"name": game.action_name(state, a), "id": a} for a in game.legal(state)],
        "terminal": mover == TERMINAL,
        "points": game.points(state),
        "chance": [{"outcome": a, "probability": p} for a, p in game.chance(state)],
        "position": game.position(state),
        "rules_identity": rules_identity(game),
        **game.details(state, bool(dice)),
    }


def render_state(game: Game, position: str | None, moves: str, dice: str = "") -> str:
    """Return a position for people."""
    state = position_of(game, position, moves, dice)
    found = describe_state(game, position, moves, dice)
    told = f"seat {found['to_play']} to move"
    if found["terminal"]:
        told = f"the game is over; points {found['points']}"
    elif found["chance"]:
        told = "a chance outcome comes next"
    names = " ".join(row["name"] for row in found["legal"])
    lines = [game.render(state), told, f"legal: {names}", f"position: {found['position']}"]
    for name, value in game.details(state, bool(dice)).items():
        shown = " ".join(map(str, value)) if isinstance(value, list) else value
        lines.append(f"{name}: {shown}")
    return "\n".join(lines)


def query_lines(game: Game, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Answer one query per line: moves, or JSON with `position`, `moves`, `dice`; errors answer in kind."""
    for line in lines:
        try:
            yield describe_state(game, *_query(line.strip()))
        except GameError as error:
            yield {"error": str(error)}


def _query(text: str) -> tuple[str | None, str, str]:
    """Return (position, moves, dice) of one query; InvalidState where it is none."""
    if not text.startswith("{"):
        return None, text, ""
    try:
        query = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidState(f"'{text[:60]}' is not JSON ({error}).") from error
    unknown = set(query) - {"position", "moves", "dice"}
    if unknown:
        raise InvalidState(f"unknown key '{min(unknown)[:60]}'; allowed: position, moves, dice.")
    for key, value in query.items():
        if not isinstance(value, str) and (key != "position" or value is not None):
            raise InvalidState(f"'{key}' is {_shown(value)}; it must be text in quotes.")
    return query.get("position"), query.get("moves", ""), query.get("dice", "")


def _shown(value: Any) -> str:
    """Return a JSON value for a message; of one that holds others only its kind, for it may be deep."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return json.dumps(value)[:40]


def count_moves(game: Game, fen: str, depth: int) -> dict[str, Any]:
    """Return how many sequences of `depth` moves a chess position has, with the seconds that it took.

    Raises:
      InvalidState: no FEN.
    """
    from .games.chess import perft

    start = game.position(game.initial_state()) if fen == "start" else fen
    perft(game, start, 1)  # compiles
    begun = time.perf_counter()
    nodes = perft(game, start, depth)
    return {"position": start, "depth": depth, "nodes": nodes, "seconds": time.perf_counter() - begun}


def solve_file(game: Game, path: pathlib.Path, weak: bool, threads: int) -> dict[str, Any]:
    """Solve every position of a file of `MOVES SCORE` and compare.

    Raises:
      InvalidState: a bad line, or a game without a solver.
    """
    if game.name != "connect4":
        raise InvalidState(f"{game.id} has no solver of scores; connect4 has.")
    from .evaluator.choice import cores
    from .players.connect4_solver import solve_many

    states, _, numbers = read_positions(game, path)
    wanted = np.array([max(x for x in row if x != FULL) for row in numbers])
    mine = [int(s["stones"][s["plies"] & 1]) for s in states]
    theirs = [int(s["stones"][1 - (s["plies"] & 1)]) for s in states]
    begun = time.perf_counter()
    found = solve_many(
        list(zip(mine, theirs, strict=True)),
        "value" if weak else "score",
        threads=threads or cores(),
    )
    seconds = time.perf_counter() - begun
    wanted = np.sign(wanted) if weak else wanted
    return {
        "positions": len(states),
        "scores": [int(x) for x in found],
        "mismatches": int((found != wanted).sum()),
        "seconds": seconds,
        "weak": weak,
    }


def evaluate_files(
    player: str,
    paths: list[pathlib.Path],
    simulations: int | None,
    limit: int,
    game: Game | None,
    seed: int,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Grade a player on files of positions; one file gives one result, several a list and a total.

    Args:
      simulations: None means those of a name such as `RUN@64`, else 128; 0 is the raw policy.

    Raises:
      PlayerError: an unknown player, or two numbers of simulations.
    """
    made, game = _player(player, game, simulations, seed)
    rows, parts = [], []
    for path in paths:
        judged = judged_from_file(game, path, limit, tell)
        actions = _choices(made, judged.states)
        parts.append((judged, actions))
        rows.append({"file": path.name, **_about(made), **grade(judged, actions).plain()})
    if len(rows) == 1:
        return rows[0]
    together = Judged(
        np.concatenate([j.states for j, _ in parts]),
        np.concatenate([j.values for j, _ in parts]),
        all(j.scored for j, _ in parts),
    )
    total = grade(together, np.concatenate([a for _, a in parts]))
    return {"files": rows, "total": {**_about(made), **total.plain()}}


def evaluate_drawn(
    player: str,
    count: int,
    simulations: int | None,
    game: Game | None,
    seed: int,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Grade a player on so many distinct random positions that the game's solver judges.

    Raises:
      PlayerError: an unknown player. InvalidState: a game without a solver.
    """
    made, game = _player(player, game, simulations, seed)
    solver = solver_for(game)
    if solver is None:
        raise InvalidState(
            f"{game.id} has no solver; there is one for connect4, tictactoe and hex up to size=5."
        )
    judged = drawn_positions(game, count, solver, seed=seed)
    if len(judged.states) < count:
        tell(f"{game.id} gave only {len(judged.states)} distinct positions of the {count} asked for.")
    return {**_about(made), **grade(judged, _choices(made, judged.states)).plain()}


def evaluate_bearoff(
    player: str,
    count: int,
    simulations: int | None,
    game: Game | None,
    seed: int,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Measure the points that a player gives away a decision in random bear-off positions.

    Raises:
      PlayerError: an unknown player, or one of another game than backgammon.
    """
    from .players.bearoff import bearoff_positions, bearoff_regret, bearoff_table

    if game is not None and game.name != "backgammon":
        raise PlayerError(f"--bearoff judges backgammon, but --game is {game.id}; leave --game out.")
    made, game = _player(player, game or make("backgammon"), simulations, seed)
    if game.name != "backgammon":
        raise PlayerError(f"--bearoff judges backgammon, but {player} plays {game.id}.")
    table = bearoff_table(tell=tell)
    states = bearoff_positions(table, count, seed)
    regret = bearoff_regret(table, states, _choices(made, states)).astype(float)
    # A decision loses 2 points at most, so the mean has an exact interval.
    low, high = score_interval(regret / 2)
    return {
        **_about(made),
        "positions": len(states),
        "points_lost_per_decision": float(regret.mean()),
        "interval": [2 * low, 2 * high],
        "best_move_rate": float((regret < 1e-4).mean()),
        "checkers": table.checkers,
    }


def _choices(player: Player, states: Any) -> Any:
    """Return an action for each state; of a model without simulations the raw policy's."""
    if isinstance(player, SearchPlayer) and player.simulations == 0:
        n = len(states)
        found = player.search(states, np.arange(n, dtype=np.uint64), np.zeros(n, np.int32))
        return found.legal[np.arange(n), found.prior.argmax(1)]
    return ask(player, states)


def _about(player: Player) -> dict[str, Any]:
    if isinstance(player, SearchPlayer):
        return {"player": player.name, "model": player.model_hash, "simulations": player.simulations}
    return {"player": player.name, "model": None, "simulations": None}


def _player(name: str, game: Game | None, simulations: int | None, seed: int) -> tuple[Player, Game]:
    if name.partition(":")[0] in KINDS:
        game, (fixed,) = parse_all((name,), game, seed=seed)
        return fixed, game
    flag = SIMULATIONS if simulations is None else simulations
    named = split_name(name, flag)[1]
    if simulations is not None and named != simulations:
        raise PlayerError(
            f"player '{name}' has {named} simulations, but --simulations is {simulations}; give one of them."
        )
    made = parse(name, game, simulations=flag, seed=seed)
    assert isinstance(made, SearchPlayer)
    return made, made.game


def match_players(
    first: str,
    second: str,
    games: int,
    opening_plies: int,
    game: Game | None,
    seed: int,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Play a match and return its summary with models and settings.

    Raises:
      PlayerError: unknown players, players of different games, or a move that voids the match.
    """
    game, players = parse_all((first, second), game, seed=seed)
    try:
        return _match(game, players, games, opening_plies, seed, tell)
    finally:
        close(*players)


def _match(
    game: Game,
    players: list[Player],
    games: int,
    opening_plies: int,
    seed: int,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    count = _openings_of(games, game, tell)
    starts = openings(game, count, opening_plies, seed)
    shown = [-1]

    def progress(done: int, total: int) -> None:
        if done * 10 // total > shown[0]:
            shown[0] = done * 10 // total
            tell(f"{done} of {total} games finished")

    begun = time.perf_counter()
    result = play_match(game, players[0], players[1], starts=starts, seed=seed, progress=progress)
    summary = result.summary()
    summary["models"] = [getattr(p, "model_hash", None) or None for p in players]
    summary["settings"] = {
        "game": game.id,
        "opening_plies": opening_plies,
        "seed": seed,
        "simulations": [getattr(p, "simulations", None) for p in players],
        "players": [describe(p) for p in players],
    }
    summary["seconds"] = time.perf_counter() - begun
    return summary


def _openings_of(games: int, game: Game, tell: Callable[[str], None]) -> int:
    """Return how many openings that many games need; tell where they are fewer games than asked for."""
    seatings = game.num_players
    count = games // seatings
    if count < 1:
        raise PlayerError(f"--games is {games}; give at least {seatings}, one for each seating.")
    if games % seatings:
        tell(
            f"--games is {games}; {count * seatings} are played, because each opening is played in every "
            f"one of {seatings} seatings."
        )
    return count


def run_bench(name: str, config: Config, threads: int) -> Any:
    """Run one benchmark by name; bad combinations are told in one sentence."""
    from . import bench
    from .evaluator.choice import choose

    game = make(config.game.name, **config.game.options)
    if threads < 1:
        raise ZeroloopError(f"--threads is {threads}; it must be at least 1.")
    if name == "learn":
        if config.learn.threads not in (0, threads):
            raise ZeroloopError(
                f"learn.threads is {config.learn.threads}, but --threads is {threads}; "
                f"give --threads {config.learn.threads}, or leave learn.threads at 0."
            )
        device = choose(config.run.device, config.run.backend, config.run.precision).device
        used = threads if device == "cpu" else 1  # the learner splits batches on a CPU only
        return bench.bench_learn(game, replace(config, learn=replace(config.learn, threads=used)))
    return getattr(bench, f"bench_{name}")(game, config, threads)
