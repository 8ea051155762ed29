"""Exact backgammon bear-offs: a two-sided table, and a player, an evaluator and a judge that read it.

A home position is six counts of checkers on a side's own points 1 to 6. The table says, for every
two of them with at most n checkers a side, how likely the side on roll wins with best play. Nobody
can be hit and both have borne checkers off, so a game is worth one point and, without a cube,
the equity is 2 * p - 1. Knows nothing of networks.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import pathlib
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..compiled import helper, kernel
from ..errors import ConfigError, IllegalAction, InvalidState, PlayerError, StoreError
from ..files import write_file
from ..games.backgammon import GAME
from ..games.game import legal_actions
from ..search.forest import Evaluation, Evaluator, Leaves

Array = npt.NDArray[Any]

MOST_CHECKERS = 10
"""A table of 9 takes 50 MB, of 10 128 MB; its build twice as much besides."""

MAGIC, FORMAT = b"zlBEAROF", 1
HEADER = struct.Struct("<8sII32s16x")
"""Magic, format, checkers, SHA-256 of what follows: `<u2 [N, N]`, the table; see `BearoffTable`."""

ROLLS = 21
# (die, die) or n times the same die: first the rolls, then the rests of doubles.
_HANDS = [(a, b, 4 if a == b else 2) for a in range(1, 7) for b in range(1, a + 1)]
_HANDS += [(d, d, n) for d in range(1, 7) for n in (1, 2, 3)]
HANDS = np.array(_HANDS, np.int64)
"""`[39, 3]`: larger die, smaller die, movements."""
HAND = np.full((7, 9), -1, np.int64)
"""`[die, other + 3]`: the hand of a state's dice; `other` as in the state of `games.backgammon`."""
for _i, (_a, _b, _n) in enumerate(_HANDS):
    HAND[_a, 3 + (1 - _n if _a == _b else _b)] = _i
WEIGHT = np.array([1 if a == b else 2 for a, b, _ in _HANDS[:ROLLS]], np.float32)
"""Of 36 throws, so many are the roll."""
F1, F2, F36 = np.float32(1), np.float32(2), np.float32(36)

CHOOSE = np.array([[math.comb(m, k) for k in range(7)] for m in range(22)], np.int64)
"""Binomial coefficients."""


class Plays(NamedTuple):
    """Where each hand can lead, for every home position."""

    starts: npt.NDArray[np.int32]
    """`[39 * N + 1]`: results of hand h at position a are those from `starts[39 * a + h]` up to the next."""
    results: npt.NDArray[np.uint16]
    """Positions, each once for its hand."""


@helper
def home_index(counts, source, die):
    """Return the number of the home position `counts [6 or more]` after a movement; die 0: as it is.

    Checkers at or beyond points 6, 5, ... 1 are a sequence that never falls, so they number all
    positions without a gap, whatever the bound on checkers, and no movement raises one of them:
    every movement leads to a smaller number. Position 0 is the empty one.
    """
    total, index = 0, 0
    for i in range(6):
        place = 5 - i
        total += int(counts[place])
        if die > 0:
            if place == source:
                total -= 1
            elif place == source - die:
                total += 1
        index += CHOOSE[total + i, i + 1]
    return index


@kernel
def list_movements(counts, movements):
    """Write where moving one checker of `counts i1 [N, 6]` leads: `movements i4 [N, 6 dice, 6]`, then -1.

    No checker is ever in the way. A die higher than every checker bears off from the highest point,
    otherwise it must be exact. The empty position stays as it is.
    """
    for a in range(counts.shape[0]):
        highest = -1
        for place in range(6):
            if counts[a, place] > 0:
                highest = place
        for die in range(1, 7):
            k = 0
            for place in range(6):
                if counts[a, place] > 0 and (place + 1 >= die or place == highest):
                    movements[a, die - 1, k] = home_index(counts[a], place, die)
                    k += 1
            if highest < 0:
                movements[a, die - 1, k] = 0
                k += 1
            for i in range(k, 6):
                movements[a, die - 1, i] = -1


@kernel
def list_plays(movements, starts, results, marks, near, far):
    """Write `Plays`; return how many results there are. Too short `results` are not written.

    Both dice can always be played, in either order, unless the last checker has left the board before.

    Args:
      marks: `i4 [2, N]`, zeros. near, far: `i4 [N]`, scratch.
    """
    at, stamp = 0, 0
    for a in range(movements.shape[0]):
        for hand in range(HANDS.shape[0]):
            starts[HANDS.shape[0] * a + hand] = at
            stamp += 1
            ends = stamp
            orders = 1 if HANDS[hand, 0] == HANDS[hand, 1] else 2
            for order in range(orders):
                near[0] = a
                count = 1
                for k in range(HANDS[hand, 2]):
                    last = k == HANDS[hand, 2] - 1
                    die = HANDS[hand, (order + k) % 2]
                    stamp += 1
                    mark = ends if last else stamp
                    reached = 0
                    for i in range(count):
                        for j in range(6):
                            after = movements[near[i], die - 1, j]
                            if after < 0:
                                break
                            if marks[int(last), after] != mark:
                                marks[int(last), after] = mark
                                far[reached] = after
                                reached += 1
                    for i in range(reached):
                        near[i] = far[i]
                    count = reached
                for i in range(count):
                    if at < results.shape[0]:
                        results[at] = near[i]
                    at += 1
    starts[HANDS.shape[0] * movements.shape[0]] = at
    return at


@kernel
def solve(first, last, starts, results, wins, row, best):
    """Fill the table for the positions number `first` to `last - 1` against all smaller ones and themselves.

    p(a, b), a on roll, needs p(b, a') with a' < a. So with all pairs below m known, p(m, b) with b < m
    follows from them, and then p(a, m) with a <= m from p(m, a') with a' < m: neither loop waits for itself.

    Args:
      wins: `f4 [N, N]`, zeros at first; transposed, so that the first loop runs along rows: `wins[b, a]`
        = p(a, b).
      row: `f4 [N]`, p(m, b). best: `f4 [N]`. Both scratch.
    """
    hands = HANDS.shape[0]
    for m in range(max(first, 1), last):
        for b in range(m):
            row[b] = 0
        for roll in range(ROLLS):
            for b in range(m):
                best[b] = F2
            for i in range(starts[hands * m + roll], starts[hands * m + roll + 1]):
                after = np.int64(results[i])
                for b in range(m):
                    theirs = wins[after, b]
                    best[b] = theirs if theirs < best[b] else best[b]
            for b in range(m):
                row[b] += WEIGHT[roll] * (F1 - best[b])
        for b in range(m):
            row[b] /= F36
            wins[b, m] = row[b]
        # Who has nothing left has won: p(m, empty) = 0 and p(empty, m) = 1.
        row[0], wins[0, m], wins[m, 0] = 0, 0, F1
        for a in range(1, m + 1):
            total = np.float32(0)
            for roll in range(ROLLS):
                least = F2
                for i in range(starts[hands * a + roll], starts[hands * a + roll + 1]):
                    theirs = row[results[i]]
                    least = theirs if theirs < least else least
                total += WEIGHT[roll] * (F1 - least)
            wins[m, a] = total / F36


@helper
def place_of(state, checkers):
    """Return the numbers of the positions of the seat on roll and of the other; -1, -1 outside the table."""
    seat = state.seat
    outside = state.occupied[0] >= 64 or state.occupied[1] >= 64 or state.over != 0
    if outside or 15 - min(state.off[0], state.off[1]) > checkers:
        return -1, -1
    return home_index(state.checkers[seat], 0, 0), home_index(state.checkers[1 - seat], 0, 0)


@helper
def equity_after(mine, yours, hand, starts, results, wins):
    """Return the equity of a seat with position `mine` and the dice of the hand still to play; -1: none."""
    if hand < 0:
        return 1.0 - 2.0 * wins[yours, mine] / 65535.0
    least = 65535
    for i in range(starts[HANDS.shape[0] * mine + hand], starts[HANDS.shape[0] * mine + hand + 1]):
        least = min(least, int(wins[yours, results[i]]))
    return 1.0 - 2.0 * least / 65535.0


@kernel
def look_up(states, checkers, starts, results, wins, equity, inside):
    """Write the equity of the seat on roll, before or after the roll, and which states are in the table."""
    for i in range(states.shape[0]):
        state = states[i]
        mine, yours = place_of(state, checkers)
        inside[i] = mine >= 0
        equity[i] = 0.0
        if mine >= 0 and state.die > 0:
            equity[i] = equity_after(mine, yours, HAND[state.die, state.other + 3], starts, results, wins)
        elif mine >= 0:
            equity[i] = 2.0 * wins[mine, yours] / 65535.0 - 1.0


@kernel
def weigh_actions(game, states, checkers, starts, results, wins, legal, count, equity):
    """Write each state's legal actions and what each is worth; count 0 outside the table."""
    for i in range(states.shape[0]):
        state = states[i]
        mine, yours = place_of(state, checkers)
        count[i] = 0
        if mine < 0 or state.die <= 0:
            continue
        count[i] = legal_actions(game, state, legal[i])
        for k in range(count[i]):
            die = legal[i, k] % 6 + 1
            after = home_index(state.checkers[state.seat], legal[i, k] // 6, die)
            hand = -1
            if state.other < 0:
                hand = HAND[die, state.other + 4]
            elif state.other > 0:
                hand = HAND[state.die + state.other - die, 3]
            equity[i, k] = equity_after(after, yours, hand, starts, results, wins)


class ActionEquities(NamedTuple):
    """What every legal action of n states is worth."""

    legal: npt.NDArray[np.int32]
    """`i4 [n, L]`, ascending ids in the first `count` columns."""
    count: npt.NDArray[np.int32]  # type: ignore[assignment]
    """`i4 [n]`."""
    equity: npt.NDArray[np.float32]
    """`f4 [n, L]`: points to the seat on roll if it goes on perfectly; -inf beyond `count`."""


class BearoffTable:
    """The exact chance to win of the side on roll, for all home positions of at most `checkers` a side.

    The numbers are rounded to 1/65535, an error of 1.5e-5 in equity. See `bearoff_table`.

    Args:
      wins: `u2 [N, N]`, N = C(checkers + 6, 6): [position of the side on roll, position of the other side].
    """

    def __init__(self, checkers: int, wins: npt.NDArray[np.uint16]) -> None:
        self.checkers, self.wins = checkers, wins.view()
        self.wins.flags.writeable = False  # as a mapped file is, so one compiled reader serves both
        self.plays = plays_of(checkers)

    def equity(self, mine: Sequence[int], yours: Sequence[int]) -> float:
        """Return the equity of the side on roll, before the roll, from six counts a side, of points 1 to 6.

        Raises:
          InvalidState: not six counts, too many checkers, or both sides have none.
        """
        for side in (mine, yours):
            if len(side) != 6 or min(side) < 0 or sum(side) > self.checkers:
                raise InvalidState(
                    f"bear-off: {list(side)} is not in the table; give six counts, of points 1 to 6, "
                    f"of at most {self.checkers} checkers."
                )
        if not any(mine) and not any(yours):
            raise InvalidState("bear-off: no side has a checker left; one must still be playing.")
        a, b = (home_index(np.array(side, np.int64), 0, 0) for side in (mine, yours))
        return float(2 * int(self.wins[a, b]) / 65535 - 1)

    def equities(self, states: Array) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Return the equity of the seat on roll, before the roll or with dice left to play.

        Args:
          states: backgammon records `[n]`.

        Returns:
          `f4 [n]`, points, 0 outside the table; `bool [n]`, whether it is in it; finished games are not.
        """
        equity, inside = np.zeros(len(states), np.float32), np.zeros(len(states), np.bool_)
        look_up(states, self.checkers, *self.plays, self.wins, equity, inside)
        return equity, inside

    def decision_values(self, states: Array) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Return `equities` for both seats: `f4 [n, 2]`, points of seat 0 and 1, and `bool [n]`."""
        equity, inside = self.equities(states)
        first = np.where(states["seat"] == 0, equity, -equity)
        return np.stack([first, -first], axis=1), inside

    def action_equities(self, states: Array) -> ActionEquities:
        """Return what each legal action of states with dice left to play is worth.

        Raises:
          InvalidState: a state is outside the table or has no dice; it is named.
        """
        n = len(states)
        found = ActionEquities(
            np.zeros((n, GAME.max_legal), np.int32),
            np.zeros(n, np.int32),
            np.full((n, GAME.max_legal), -np.inf, np.float32),
        )
        weigh_actions(GAME, states, self.checkers, *self.plays, self.wins, *found)
        missing = np.flatnonzero(found.count == 0)
        if len(missing):
            raise InvalidState(
                f"bear-off: position '{GAME.position(states[missing[0]])}' is not in the table; it holds "
                f"those with dice to play and at most {self.checkers} checkers a side, all on points 1 to 6."
            )
        return found


class BearoffPlayer:
    """Plays the exact best movement; of equal ones the first. Only positions in the table."""

    name = "bearoff"

    def __init__(self, table: BearoffTable) -> None:
        self.table = table

    def choose(self, states: Array, keys: Array, plies: Array) -> npt.NDArray[np.int32]:
        """See `Player`; raises PlayerError for a position outside the table."""
        try:
            found = self.table.action_equities(states)
        except InvalidState as error:
            raise PlayerError(f"{self.name} has no move: {error}") from None
        best = found.equity.argmax(axis=1)
        return np.asarray(found.legal[np.arange(len(states)), best], np.int32)


class BearoffEvaluator:
    """Another evaluator, whose values give way to exact ones in the table; its logits stay."""

    def __init__(self, evaluator: Evaluator, table: BearoffTable) -> None:
        self.evaluator, self.table = evaluator, table

    def submit(self, leaves: Leaves) -> Any:
        """See `Evaluator`."""
        values, inside = self.table.decision_values(leaves.states)
        return self.evaluator.submit(leaves), values / np.float32(GAME.scale), inside

    def result(self, ticket: Any) -> Evaluation:
        """See `Evaluator`."""
        inner, exact, inside = ticket
        evaluation = self.evaluator.result(inner)
        return Evaluation(evaluation.logits, np.where(inside[:, None], exact, evaluation.values))


def bearoff_regret(table: BearoffTable, states: Array, actions: Array) -> npt.NDArray[np.float32]:
    """Return `f4 [n]`: the points that each action gives away against the best one, from 0.

    Raises:
      InvalidState: a state is outside the table. IllegalAction: an action is not legal in its state.
    """
    found = table.action_equities(states)
    chosen = found.legal == np.asarray(actions)[:, None]
    chosen &= np.arange(chosen.shape[1]) < found.count[:, None]
    wrong = np.flatnonzero(~chosen.any(axis=1))
    if len(wrong):
        i = wrong[0]
        raise IllegalAction(
            f"bear-off: action {actions[i]} is not legal in '{GAME.position(states[i])}'; allowed: "
            f"{', '.join(map(str, found.legal[i, : found.count[i]]))}."
        )
    worth = found.equity[np.arange(len(states)), chosen.argmax(axis=1)]
    return np.asarray(found.equity.max(axis=1) - worth, np.float32)


def bearoff_table(
    checkers: int = 9, path: pathlib.Path | None = None, tell: Callable[[str], None] | None = None
) -> BearoffTable:
    """Return the table; build and store it first where it is not stored yet.

    Args:
      checkers: at most so many on each side, 1 to 10.
      path: the file; by default one in the user's cache folder.
      tell: hears how far the build is, a line at a time.

    Raises:
      ConfigError: `checkers` is out of range. StoreError: the file is damaged, or cannot be read or written.
    """
    if not 1 <= checkers <= MOST_CHECKERS:
        raise ConfigError(f"bear-off: checkers is {checkers}; it must lie in 1 to {MOST_CHECKERS}.")
    file = path or cache_folder() / f"bearoff-{checkers}-v{FORMAT}.bin"
    if not file.exists():
        _store(file, checkers, build(checkers, tell))
    return BearoffTable(checkers, _read(file, checkers))


def cache_folder() -> pathlib.Path:
    """Return where this user's programs keep what they can make again."""
    home = pathlib.Path.home()
    if os.environ.get("XDG_CACHE_HOME"):
        folder = pathlib.Path(os.environ["XDG_CACHE_HOME"])
    elif sys.platform == "darwin":
        folder = home / "Library" / "Caches"
    elif sys.platform == "win32":
        folder = pathlib.Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        folder = home / ".cache"
    return folder / "zeroloop"


def home_positions(checkers: int) -> npt.NDArray[np.int8]:
    """Return `i1 [N, 6]`: the counts of points 1 to 6 of every position, by its number."""
    # C(x_1, 1) + ... + C(x_6, 6) numbers the sets x_1 < ... < x_6, the ones with the least last member first.
    chosen = sorted(itertools.combinations(range(checkers + 6), 6), key=lambda x: x[::-1])
    beyond = np.array(chosen, np.int8) - np.arange(6, dtype=np.int8)
    return np.ascontiguousarray(np.diff(beyond, axis=1, prepend=np.int8(0))[:, ::-1])


def plays_of(checkers: int) -> Plays:
    """Return where each hand leads from every position of at most `checkers`."""
    counts = home_positions(checkers)
    n = len(counts)
    movements = np.zeros((n, 6, 6), np.int32)
    list_movements(counts, movements)
    starts, near, far = (np.zeros(size, np.int32) for size in (len(HANDS) * n + 1, n, n))
    results = np.zeros(0, np.uint16)
    total = list_plays(movements, starts, results, np.zeros((2, n), np.int32), near, far)
    results = np.zeros(total, np.uint16)
    list_plays(movements, starts, results, np.zeros((2, n), np.int32), near, far)
    return Plays(starts, results)


def build(checkers: int, tell: Callable[[str], None] | None = None) -> npt.NDArray[np.uint16]:
    """Compute the table; `u2 [N, N]`, see `BearoffTable`."""
    plays = plays_of(checkers)
    n = math.comb(checkers + 6, 6)
    wins, row, best = np.zeros((n, n), np.float32), np.zeros(n, np.float32), np.zeros(n, np.float32)
    steps = 20
    bounds = [round(n * math.sqrt(i / steps)) for i in range(steps + 1)]  # the work grows with the square
    for i in range(steps):
        solve(bounds[i], bounds[i + 1], *plays, wins, row, best)
        if tell:
            tell(f"bear-off table of {checkers} checkers: {100 * (i + 1) // steps} %")
    out = np.zeros((n, n), np.uint16)
    for start in range(0, n, 256):  # turned in blocks: whole, it would take the memory of `wins` again
        out[:, start : start + 256] = np.rint(wins[start : start + 256].T * np.float32(65535))
    return out


def _store(path: pathlib.Path, checkers: int, wins: npt.NDArray[np.uint16]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{path.parent} cannot be made ({error.strerror}); check the permissions, or give another path."
        ) from error
    payload = wins.astype("<u2", copy=False).tobytes()
    write_file(path, HEADER.pack(MAGIC, FORMAT, checkers, hashlib.sha256(payload).digest()) + payload)


def _read(path: pathlib.Path, checkers: int) -> npt.NDArray[np.uint16]:
    """Return the table of a file, checked whole and then mapped, read-only."""
    n = math.comb(checkers + 6, 6)
    try:
        data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}); check the permissions.") from error
    head = bytes(data[: HEADER.size])
    magic, version, found, digest = HEADER.unpack(head) if len(head) == HEADER.size else (b"", 0, 0, b"")
    if magic == MAGIC and (version, found) != (FORMAT, checkers):
        raise StoreError(
            f"{path} is a bear-off table of {found} checkers in format {version}; needed are {checkers} "
            f"checkers in format {FORMAT}. Give another path."
        )
    size = HEADER.size + 2 * n * n
    if magic != MAGIC or len(data) != size or hashlib.sha256(data[HEADER.size :].data).digest() != digest:
        raise StoreError(
            f"{path} is not a whole bear-off table ({len(data)} bytes; whole are {size} with their SHA-256); "
            "delete it and run the same command again: it is then built anew."
        )
    return np.asarray(data)[HEADER.size :].view("<u2").reshape(n, n)
