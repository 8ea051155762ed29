"""Judge: positions whose exact values are known, and the share of them that a player keeps.

A choice preserves the value when it keeps the game's win, draw or loss under perfect play. Positions
where some legal move changes the value are counted apart: elsewhere nothing can go wrong.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import draws
from .errors import InvalidState, StoreError
from .files import pack, unpack, write_file
from .games.game import Game
from .openings import draw_opening
from .players import Player, SearchPlayer
from .players.solvers import ILLEGAL, Solver, solver_for
from .rating import Interval, wilson

Array = npt.NDArray[Any]
FULL = -1000
"""In a file of positions: the score of an action that is not legal."""


class Judged(NamedTuple):
    """n positions and what every action of them is worth to the seat to move."""

    states: Array
    """`state_dtype [n]`."""
    values: Array
    """`i4 [n, A]`: exact score or value, positive for a win; ILLEGAL where not legal."""
    scored: bool
    """Whether the values are exact scores, by which an optimal move is known; else only signs count."""

    @property
    def choice(self) -> npt.NDArray[np.bool_]:
        """`bool [n]`: positions where some legal move changes the value."""
        legal = self.values != ILLEGAL
        low = np.where(legal, np.sign(self.values), 9).min(1)
        high = np.where(legal, np.sign(self.values), -9).max(1)
        return np.asarray(low < high)


class Accuracy(NamedTuple):
    """What a player got right."""

    positions: int
    value_preserving_rate: float
    interval: Interval
    positions_with_a_choice: int
    rate_with_a_choice: float | None
    interval_with_a_choice: Interval | None
    optimal_rate: float | None

    def plain(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        out = self._asdict()
        out["interval"] = list(self.interval)
        if self.interval_with_a_choice is not None:
            out["interval_with_a_choice"] = list(self.interval_with_a_choice)
        return out


def grade(judged: Judged, actions: Sequence[int] | Array) -> Accuracy:
    """Count the chosen actions (`i4 [n]`) that preserve the value, and those that are optimal."""
    legal = judged.values != ILLEGAL
    signs = np.where(legal, np.sign(judged.values), -9)
    rows = np.arange(len(judged.states))
    kept = signs[rows, actions] == signs.max(1)
    choice = judged.choice
    best = np.where(legal, judged.values, -(10**6)).max(1)
    optimal = judged.values[rows, actions] == best
    n, k = len(kept), int(choice.sum())
    return Accuracy(
        positions=n,
        value_preserving_rate=float(kept.mean()),
        interval=wilson(int(kept.sum()), n),
        positions_with_a_choice=k,
        rate_with_a_choice=float(kept[choice].mean()) if k else None,
        interval_with_a_choice=wilson(int(kept[choice].sum()), k) if k else None,
        optimal_rate=float(optimal.mean()) if judged.scored else None,
    )


def ask(player: Player, states: Array) -> Array:
    """Return the player's choice in each state, `i4 [n]`, each as a game of its own."""
    n = len(states)
    return player.choose(states, np.arange(n, dtype=np.uint64), np.zeros(n, np.int32))


def read_positions(game: Game, path: pathlib.Path) -> tuple[Array, list[str], list[list[int]]]:
    """Read lines `MOVES SCORE` or `MOVES s1 ... s7` and return (states, `FILE:LINE`, numbers) of each.

    A score is at most `max_plies` from 0; of a score per action, those not legal have -1000, and only they.

    Raises:
      InvalidState: a line is bad; the message names file, line and fault.
      StoreError: the file cannot be read.
    """
    start = game.initial_state()
    if game.max_chance or any(len(game.action_name(start, a)) > 1 for a in game.legal(start)):
        raise InvalidState(
            f"{path}: files of positions write a move as one letter, which {game.id} does not; "
            "they serve connect4 and tictactoe (--drawn serves games with a solver)."
        )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} cannot be read as text ({error}).") from error
    states, places = [], []
    numbers: list[list[int]] = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        where = f"{path}:{number}"
        if len(words) not in (2, 1 + game.num_actions):
            raise InvalidState(
                f"{where}: '{line.strip()[:60]}' has {len(words)} fields; expected MOVES SCORE, or MOVES and "
                f"{game.num_actions} scores."
            )
        if numbers and len(words) != 1 + len(numbers[0]):
            raise InvalidState(
                f"{where}: this line has {len(words)} fields, the first has {1 + len(numbers[0])}."
            )
        try:
            numbers.append([int(w) for w in words[1:]])
        except ValueError as error:
            raise InvalidState(f"{where}: '{' '.join(words[1:])[:40]}' are not whole numbers.") from error
        states.append(_played(game, words[0], where))
        _check_scores(game, states[-1], numbers[-1], where)
        places.append(where)
    if not states:
        raise InvalidState(f"{path} holds no positions; expected lines MOVES SCORE.")
    return np.array(states, game.state_dtype), places, numbers


def _played(game: Game, text: str, where: str) -> Any:
    state = game.initial_state()
    for i, name in enumerate(text):
        names = {game.action_name(state, a): a for a in game.legal(state)}
        if name not in names:
            over = "the game is already over" if not names else f"allowed: {', '.join(names)}"
            raise InvalidState(f"{where}: move {i + 1} of '{text}', '{name}', is not legal; {over}.")
        game.rules["apply_action"](state, names[name])
    if not game.legal(state):
        raise InvalidState(f"{where}: the game is over after '{text}'; there is nothing to choose.")
    return state


def _check_scores(game: Game, state: Any, scores: list[int], where: str) -> None:
    """Refuse scores that no game can have, and a -1000 that is not just where an action is not legal."""
    legal = set(game.legal(state))
    each = len(scores) > 1
    for action, score in enumerate(scores):
        which = f"score {action + 1} of {len(scores)}" if each else "the score"
        if each and action not in legal:
            if score != FULL:
                raise InvalidState(
                    f"{where}: {which} is {_shown(score)}, but that move is not legal; write {FULL}."
                )
        elif each and score == FULL:
            raise InvalidState(
                f"{where}: {which} is {FULL}, but that move is legal; write its score, from "
                f"{-game.max_plies} to {game.max_plies}."
            )
        elif abs(score) > game.max_plies:
            raise InvalidState(
                f"{where}: {which} is {_shown(score)}; it must lie in {-game.max_plies}..{game.max_plies}."
            )


def _shown(score: int) -> str:
    text = str(score)
    return text if len(text) <= 20 else f"{text[:17]}..."


def judged_from_file(game: Game, path: pathlib.Path, limit: int, report: Callable[[str], None]) -> Judged:
    """Read positions with their values; lines with a single score are solved column by column first.

    Raises:
      InvalidState: a bad line, or a single score that the solver contradicts.
    """
    states, places, numbers = read_positions(game, path)
    if limit:
        states, numbers = states[:limit], numbers[:limit]
    if len(numbers[0]) > 1:
        values = np.array(numbers, np.int32)
        return Judged(states, np.where(values == FULL, ILLEGAL, values), True)
    solver = solver_for(game)
    if solver is None:
        raise InvalidState(f"{path} gives one score a line, and {game.id} has no solver to judge moves.")
    report(f"solving {len(states)} positions of {path.name} ...")
    values = solver.action_values(states)
    signs = np.where(values == ILLEGAL, -9, np.sign(values)).max(1)
    wrong = np.flatnonzero(signs != np.sign(np.array(numbers)[:, 0]))
    if len(wrong):
        raise InvalidState(
            f"{places[wrong[0]]}: the file's score {numbers[wrong[0]][0]} is not what the solver finds; "
            "the file is wrong."
        )
    return Judged(states, values, False)


def drawn_positions(game: Game, count: int, solver: Solver, seed: int) -> Judged:
    """Draw distinct random positions and solve them; the same for equal arguments."""
    low, high = solver.plies
    found: dict[bytes, Array] = {}
    legal = np.zeros(max(game.max_legal, game.max_chance), np.int32)
    chance = np.zeros(max(game.max_chance, 1), np.float32)
    begin, played = game.states(1), np.zeros(game.max_plies + 1, np.int32)
    attempt = 0
    while len(found) < count and attempt < 100 * count:
        state = game.states(1)
        plies = low + int(draws.integer(np.uint64(seed), draws.CHECK, attempt, 0, 0, high - low + 1))
        drawn = (np.uint64(seed), attempt, 1, plies, begin[0], state[0], legal, chance, played)
        if draw_opening(game, *drawn) >= 0:
            found[state.tobytes()] = state
        attempt += 1
    states = np.concatenate(list(found.values()))
    return Judged(states, solver.action_values(states), False)


def judged_positions(
    game: Game, count: int, folder: pathlib.Path, report: Callable[[str, dict[str, Any]], None]
) -> Judged | None:
    """Return the run's own judged positions, solved once and kept in its directory; None without a solver."""
    solver = solver_for(game)
    if solver is None or not count:
        return None
    path = folder / f"judged-{count}.npz"
    if not path.exists():
        report("say", {"text": f"solving {count} positions that judge this run ..."})
        judged = drawn_positions(game, count, solver, seed=1)
        write_file(path, pack({"states": judged.states, "values": judged.values}))
    arrays = unpack(path.read_bytes())
    states = game.states(len(arrays["states"]))
    states[...] = arrays["states"]
    return Judged(states, arrays["values"], False)


def live_accuracy(judged: Judged, player: SearchPlayer) -> dict[str, float]:
    """Return the raw policy's and the search's accuracy as metrics."""
    n = len(judged.states)
    found = player.search(judged.states, np.arange(n, dtype=np.uint64), np.zeros(n, np.int32))
    raw = grade(judged, found.legal[np.arange(n), found.prior.argmax(1)])
    searched = grade(judged, found.action)
    values = {
        "accuracy": raw.value_preserving_rate,
        "accuracy_searched": searched.value_preserving_rate,
    }
    if raw.rate_with_a_choice is not None and searched.rate_with_a_choice is not None:
        values["accuracy_choice"] = raw.rate_with_a_choice
        values["accuracy_choice_searched"] = searched.rate_with_a_choice
    return values
