"""Trails from its rules, with sets and coordinates, and its exact solver. Shares no code with the example.

Three seats in turn put a snail on a free cell of a field of 4 columns and 3 rows whose opposite edges meet.
Then they crawl in turn, each to a free cell beside its snail; cells where a snail was stay taken. A seat that
is to move and cannot is out for good: the first one is third, the next one second, the last one has won.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import numpy as np

from zeroloop.games import make

PATH = "examples/trails.py"
CELLS = list(itertools.product(range(3), range(4)))  # (row, column), in the order of the action ids
POINTS = {"first": 1, "second": 0, "third": -1}


class Position(NamedTuple):
    """`heads[seat]` is a cell or None; `out` lists the seats that are out, in their order."""

    taken: frozenset = frozenset()
    heads: tuple = (None, None, None)
    out: tuple = ()
    mover: int = 0


def near(a, b):
    """Whether two cells share a side on a field whose opposite edges meet."""
    down, across = (a[0] - b[0]) % 3, (a[1] - b[1]) % 4
    return (down in (1, 2) and across == 0) or (down == 0 and across in (1, 3))


NEAR = {cell: [other for other in CELLS if near(cell, other)] for cell in CELLS}


def moves(p, seat):
    """Return the cells to which the seat may go, in the order of their ids."""
    head = p.heads[seat]
    return [cell for cell in (CELLS if head is None else NEAR[head]) if cell not in p.taken]


def play(p, cell):
    heads = tuple(cell if seat == p.mover else head for seat, head in enumerate(p.heads))
    p, out = p._replace(taken=p.taken | {cell}, heads=heads), list(p.out)
    for turn in itertools.count(p.mover + 1):
        seat = turn % 3
        if seat in out:
            continue
        if moves(p, seat) and len(out) < 2:
            return p._replace(mover=seat, out=tuple(out))
        out.append(seat)
        if len(out) == 3:
            return p._replace(mover=-1, out=tuple(out))


def points(p):
    """Return the points of each seat at the end, else None."""
    if len(p.out) < 3:
        return None
    third, second, first = p.out
    places = {first: "first", second: "second", third: "third"}
    return tuple(POINTS[places[seat]] for seat in range(3))


@functools.cache
def solutions(p):
    """Return every vector of points that three seats can come to if each plays its best (max^n).

    A seat is free to choose among moves that are equal to it, so there may be several. A seat may go for a
    vector if no other move is sure to give it more.
    """
    if len(p.out) == 3:
        return frozenset([points(p)])
    after = [solutions(play(p, cell)) for cell in moves(p, p.mover)]
    sure = [min(v[p.mover] for v in vectors) for vectors in after]
    return frozenset(
        v
        for i, vectors in enumerate(after)
        for v in vectors
        if v[p.mover] >= max([*sure[:i], *sure[i + 1 :]], default=-1)
    )


def solved_positions(game, count, seed):
    """Return (`state_dtype [count]`, exact points per seat `[count, 3]`, best actions of each).

    Distinct positions of random play with every snail placed and every seat in the game, in which the exact
    values depend on no tie and some move throws points away.
    """
    rng, found = np.random.default_rng(seed), {}
    while len(found) < count:
        p, state = Position(), game.initial_state()
        for _ in range(int(rng.integers(3, 6))):
            if p.mover >= 0:
                action = int(rng.choice([CELLS.index(cell) for cell in moves(p, p.mover)]))
                p = play(p, CELLS[action])
                game.play(state, action)
        if p.out or len(solutions(p)) > 1 or p in found:
            continue
        (exact,) = solutions(p)
        # A move is worth what its mover is sure of after it.
        worth = {cell: min(v[p.mover] for v in solutions(play(p, cell))) for cell in moves(p, p.mover)}
        best = {CELLS.index(cell) for cell, sure in worth.items() if sure == exact[p.mover]}
        if len(best) < len(worth):
            found[p] = state, exact, best
    states, exact, best = zip(*found.values(), strict=True)
    return np.array(list(states), game.state_dtype), np.array(exact), list(best)


def game():
    """Return the example, loaded from its file as a user does."""
    return make(PATH)
