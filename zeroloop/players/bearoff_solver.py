"""The exact solution of backgammon bear-offs: home positions by number, plays, the table, compiled look-ups.

A home position is six counts of checkers on a side's own points 1 to 6. The table says, for every
two of them with at most n checkers a side, how likely the side on roll wins with best play. Knows no
files and no players.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..compiled import helper, kernel
from ..games.game import legal_actions

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
    """Compute the table; `u2 [N, N]`, see `bearoff.BearoffTable`."""
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
