"""Regret: what a player's own decisions cost, by a judge, and its worst positions.

Positions are decisions with a choice, drawn from games that the player plays from random openings, in
every seat. The regret of a decision is the value of the best action less that of the one chosen.
"""

from __future__ import annotations

import io
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .action_values import Judge, judge_of
from .errors import ConfigError, PlayerError
from .files import write_file
from .games.game import Game
from .match import MatchResult, play_match
from .openings import openings
from .players import Player, close, forced_actions, parse_all
from .rating import Interval, grouped_interval

Array = npt.NDArray[Any]
ROUND = 16
"""Openings played at a time."""
MOST_ROUNDS = 64
THIRDS = ("first", "middle", "last")


class Decisions(NamedTuple):
    """n decisions of a player, and the games that they are from."""

    states: Array
    """`state_dtype [n]`."""
    actions: npt.NDArray[np.int32]
    """`i4 [n]`, as played."""
    seats: npt.NDArray[np.int32]
    """`i4 [n]`."""
    plies: npt.NDArray[np.int32]
    """`i4 [n]`, those of the opening left out."""
    thirds: npt.NDArray[np.int32]
    """`i4 [n]`: 0, 1, 2 for the first, middle or last third of its game."""
    openings: npt.NDArray[np.int64]
    """`i8 [n]`: decisions of equal numbers are from games with one opening and the same dice."""


class Regret(NamedTuple):
    """What n judged decisions cost."""

    decisions: Decisions
    games: int
    """Played to find them."""
    values: npt.NDArray[np.float64]
    """`f8 [n, A]`: of every action, NaN where not legal."""
    cost: npt.NDArray[np.float64]
    """`f8 [n]`, from 0."""
    span: float
    """The largest cost that a decision can have."""


class _Witness:
    """A player whose decisions are written down."""

    def __init__(self, player: Player) -> None:
        self.player, self.name = player, player.name
        self.seen: list[tuple[Array, Array, Array, Array]] = []

    def choose(self, states: Array, keys: Array, plies: Array) -> npt.NDArray[np.int32]:
        """See Player."""
        actions = self.player.choose(states, keys, plies)
        self.seen.append((states.copy(), np.array(actions, np.int32), plies.copy(), keys.astype(np.int64)))
        return actions

    def decisions(self, game: Game, judge: Judge, result: MatchResult) -> Decisions:
        """Return the decisions with a choice, of a match just played, that the judge knows."""
        columns = zip(*self.seen, strict=True)
        states, actions, plies, keys = (np.concatenate(column) for column in columns)
        forced = np.zeros(len(states), np.int32)
        forced_actions(game, states, np.zeros(game.max_legal, np.int32), forced)
        rows = np.flatnonzero(forced < 0)
        rows = rows[judge.judges(states[rows])]
        states, actions, plies, keys = states[rows], actions[rows], plies[rows], keys[rows]
        seats = np.array([game.rules["to_play"](state) for state in states], np.int32)
        games = zip(result.opening.tolist(), result.seat.tolist(), result.plies.tolist(), strict=True)
        length = {(opening, seat): plies for opening, seat, plies in games}
        whole = [length[game_] for game_ in zip(keys.tolist(), seats.tolist(), strict=True)]
        thirds = np.minimum(3 * plies // np.maximum(np.array(whole, np.int32), 1), 2)
        return Decisions(states, actions, seats, plies, thirds.astype(np.int32), keys)


def own_decisions(
    game: Game,
    player: Player,
    opponent: Player,
    judge: Judge,
    count: int,
    *,
    opening_plies: int = 4,
    seed: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[Decisions, int]:
    """Return `count` drawn decisions of the player that the judge knows, and the games played for them.

    Whole rounds of openings are played, each in every seating; the opponent has all other seats.

    Raises:
      PlayerError: a player failed, or the judge knows none of the decisions.
    """
    found: list[Decisions] = []
    known = games = 0
    for number in range(MOST_ROUNDS):
        try:
            starts = openings(game, ROUND * (number + 1), opening_plies, seed)[ROUND * number :]
        except ConfigError as error:
            if not known:
                raise
            tell(f"{error} The report is of {known} decisions.")
            break
        witness = _Witness(player)
        result = play_match(game, witness, opponent, starts=starts, seed=seed, first_opening=ROUND * number)
        found.append(witness.decisions(game, judge, result))
        known, games = known + len(found[-1].states), games + len(result.seat)
        tell(f"{known} of {count} decisions found in {games} games")
        if known >= count:
            break
    if not known:
        raise PlayerError(
            f"judge {judge.name} knows none of the decisions of {player.name} in {games} games of "
            f"{game.id}; take another judge."
        )
    joined = Decisions(*(np.concatenate(column) for column in zip(*found, strict=True)))
    rows = np.sort(np.random.default_rng(seed).choice(known, min(count, known), replace=False))
    drawn: Any = (column[rows] for column in joined)
    return Decisions(*drawn), games


def judged(game: Game, decisions: Decisions, games: int, judge: Judge) -> Regret:
    """Judge the decisions.

    Raises:
      PlayerError: the judge fails, or has no value for an action that was played.
    """
    values = judge.action_values(decisions.states)
    chosen = values[np.arange(len(values)), decisions.actions]
    missing = np.flatnonzero(np.isnan(chosen))
    if len(missing):
        i = int(missing[0])
        raise PlayerError(
            f"judge {judge.name} has no value for action {decisions.actions[i]} in "
            f"'{game.position(decisions.states[i])}' of {game.id}."
        )
    cost = np.nanmax(values, axis=1) - chosen
    return Regret(decisions, games, values, cost, float(game.outcomes.max() - game.outcomes.min()))


def summary(
    game: Game, found: Regret, judge: Judge, *, player: str, worst: int = 20, blunder: float | None = None
) -> dict[str, Any]:
    """Return the report as plain data: means with 95 % intervals, blunders, splits, worst positions.

    Intervals are by whole openings (`rating.grouped_interval`). Those of the mean regret allow for unseen
    costs up to twice the largest one seen, or twice a blunder.
    """
    d, threshold = found.decisions, judge.blunder if blunder is None else blunder
    everything = np.ones(len(found.cost), np.bool_)
    return {
        "player": player,
        "game": game.id,
        "judge": judge.name,
        "judge_facts": judge.facts,
        "unit": judge.unit,
        "games": found.games,
        "openings": len(np.unique(d.openings)),
        "distinct_positions": len({s.tobytes() for s in d.states}),
        "blunder_from": threshold,
        **_part(found, everything, judge.tie, threshold),
        "by_seat": {
            str(s): _part(found, d.seats == s, judge.tie, threshold) for s in np.unique(d.seats).tolist()
        },
        "by_third": {
            name: _part(found, d.thirds == k, judge.tie, threshold)
            for k, name in enumerate(THIRDS)
            if (d.thirds == k).any()
        },
        "worst": worst_positions(game, found, worst, judge.tie),
    }


def _part(found: Regret, rows: npt.NDArray[np.bool_], tie: float, threshold: float) -> dict[str, Any]:
    cost, groups = found.cost[rows], found.decisions.openings[rows]

    def rate(of: npt.NDArray[np.bool_]) -> dict[str, Any]:
        return {"rate": float(of.mean()), "interval": list(grouped_interval(of.astype(np.float64), groups))}

    reach = min(found.span, 2 * max(float(found.cost.max()), threshold))
    low, high = grouped_interval(np.clip(cost / reach, 0, 1), groups)
    return {
        "decisions": len(cost),
        "regret": float(cost.mean()),
        "regret_interval": list(Interval(low * reach, high * reach)),
        "best": rate(cost <= tie),
        "blunders": rate(cost >= threshold),
        "largest": float(cost.max()),
    }


def worst_positions(game: Game, found: Regret, count: int, tie: float) -> list[dict[str, Any]]:
    """Return the costliest distinct positions, worst first: position, chosen and best action, cost."""
    rows: list[dict[str, Any]] = []
    seen: set[bytes] = set()
    for i in np.argsort(-found.cost, kind="stable").tolist():
        state = found.decisions.states[i]
        if found.cost[i] <= tie or len(rows) == count:
            break
        if state.tobytes() in seen:
            continue
        seen.add(state.tobytes())
        best = int(np.nanargmax(found.values[i]))
        rows.append(
            {
                "game": game.id,
                "position": game.position(state),
                "ply": int(found.decisions.plies[i]),
                "seat": int(found.decisions.seats[i]),
                "chosen": game.action_name(state, int(found.decisions.actions[i])),
                "best": game.action_name(state, best),
                "cost": float(found.cost[i]),
            }
        )
    return rows


def write_positions(path: pathlib.Path, report: dict[str, Any]) -> None:
    """Write the worst positions as JSON Lines, as `selfplay.hard_positions` reads them.

    Raises:
      StoreError: it cannot be written.
    """
    about = {"player": report["player"], "judge": report["judge"], "unit": report["unit"]}
    lines = [json.dumps({**row, **about}) for row in report["worst"]]
    write_file(path, "".join(f"{line}\n" for line in lines).encode())


def text_of(report: dict[str, Any]) -> str:
    """Return the report for people."""
    lines = [
        f"{report['player']} in {report['game']}, judged by {report['judge']} ({report['unit']})",
        f"{report['decisions']} decisions with a choice, {report['distinct_positions']} distinct positions, "
        f"from {report['games']} games with {report['openings']} openings; 95 % intervals by opening",
        "",
        f"{'':<14}{'n':>7}  {'regret':<28}{'best move':<26}blunders (from {report['blunder_from']:g})",
    ]
    rows = {"all": report}
    rows |= {f"seat {seat}": part for seat, part in report["by_seat"].items()}
    rows |= {f"{name} third": part for name, part in report["by_third"].items()}
    for name, part in rows.items():
        low, high = part["regret_interval"]
        regret = f"{part['regret']:.4f} [{low:.4f}, {high:.4f}]"
        shares = [_share(part[key]) for key in ("best", "blunders")]
        lines.append(f"{name:<14}{part['decisions']:>7}  {regret:<28}{shares[0]:<26}{shares[1]}")
    lines += ["", "worst positions:" if report["worst"] else "no decision cost anything"]
    lines += [
        f"  {row['cost']:.4f}  {row['position']}  seat {row['seat']}: {row['chosen']}, best {row['best']}"
        for row in report["worst"]
    ]
    return "\n".join(lines)


def _share(part: dict[str, Any]) -> str:
    low, high = part["interval"]
    return f"{100 * part['rate']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def picture(path: pathlib.Path, found: Regret, report: dict[str, Any]) -> None:
    """Draw how many decisions cost at least so much, in all and by third of the game, as a PNG.

    Raises:
      StoreError: it cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    parts = {"all": np.ones(len(found.cost), np.bool_)}
    parts |= {f"{name} third": found.decisions.thirds == k for k, name in enumerate(THIRDS)}
    for name, rows in parts.items():
        if rows.any():
            cost = np.sort(found.cost[rows])
            share = 1 - np.arange(len(cost)) / len(cost)
            axes.step(
                cost, 100 * share, where="pre", label=f"{name}, n {len(cost)}", lw=2 if name == "all" else 1
            )
    axes.axvline(report["blunder_from"], color="0.6", lw=1, ls="--")
    axes.set_yscale("log")
    axes.set_xlabel(f"cost of a decision ({report['unit']})")
    axes.set_ylabel("% of decisions that cost as much or more")
    axes.set_title(f"{report['player']} judged by {report['judge']}")
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_file(path, buffer.getvalue())


def report(
    player: str,
    judge: str,
    *,
    opponent: str | None = None,
    positions: int = 1000,
    opening_plies: int = 4,
    worst: int = 20,
    blunder: float | None = None,
    out: pathlib.Path | None = None,
    image: pathlib.Path | None = None,
    game: Game | None = None,
    seed: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Play, judge and report by names; write positions to `out` and a picture to `image` where given.

    Raises:
      PlayerError: an unknown player or judge, or one that fails. StoreError: a file cannot be written.
    """
    game, made = parse_all([player, opponent or player], game, seed=seed)
    wise: Judge | None = None
    try:
        wise = judge_of(judge, game)
        first, second = made
        decisions, games = own_decisions(
            game, first, second, wise, positions, opening_plies=opening_plies, seed=seed, tell=tell
        )
        tell(f"judging {len(decisions.states)} decisions ...")
        found = judged(game, decisions, games, wise)
        told = summary(game, found, wise, player=made[0].name, worst=worst, blunder=blunder)
    finally:
        close(*made)
        if wise is not None:
            wise.close()
    told |= {
        "opponent": made[1].name,
        "model": getattr(made[0], "model_hash", None) or None,
        "opening_plies": opening_plies,
        "seed": seed,
    }
    if out is not None:
        write_positions(out, told)
    if image is not None:
        picture(image, found, told)
    return told
