"""An exact solver of small Hex boards on bitboards; it knows the record of `games.hex`, no network, no book.

A board is two 64-bit sets, the stones of the first seat (top to bottom) and of the second (left to
right); cell (row, column) is bit size * row + column. There are no draws, so a position is a win for
one seat, and the search proves it together with a *carrier*: empty cells on which the winner can force
the win whatever happens elsewhere. If a move loses, the moves outside the carrier of its refutation
lose too, so only the intersection of all carriers found so far, the must-play region, is tried.

Source: Hayward, Bjornsson, Johanson, Kan, Po and van Rijswijck, "Solving 7x7 Hex: Virtual
connections and game-state reduction" (must-play regions, carriers).
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..compiled import helper, kernel
from ..errors import ConfigError, InvalidState, PlayerError
from ..games.game import TERMINAL, Game, apply_action, legal_actions, to_play

LARGEST = 5
"""The largest side at which every position is solved quickly: in a tenth of a second, mostly in far less."""
ILLEGAL = -1000
"""Value of an action that is not legal."""

Array: TypeAlias = NDArray[Any]
Bits: TypeAlias = Any  # np.uint64; mypy does not look into compiled code

U0, U1, U2, U62, U63 = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(62), np.uint64(63)
MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xFF51AFD7ED558CCD))
U29, U32 = np.uint64(29), np.uint64(32)

STONE, REPLY, FAR = 32, 64, 99
"""Promise lost for each stone that a cell lacks, and gained by a reply that has won against another move."""

FIRST, SECOND, MUST, CARRIER, MOVE = range(5)
"""Columns of `Tables.frames`: the seats' stones, cells still to try, carrier if all lose, last cell tried."""


class Tables(NamedTuple):
    """The board's masks and what a search writes to."""

    size: int
    board: Bits
    left: Bits  # the cells of the first column
    right: Bits  # the cells of the last
    entries: Array  # u8 [2 ** k, 3]: stones of the first seat and mover, of the second and winner, carrier
    frames: Array  # u8 [size * size + 1, 5]
    scores: Array  # i4 [size * size + 1, size * size]: promise of each cell
    distance: Array  # i4 [2, size * size]: stones that a seat lacks from its two edges to a cell, summed
    nodes: Array  # i8 [1]


@helper
def _touching(x: Bits, t: Tables) -> Bits:
    """The cells that touch a set."""
    size = np.uint64(t.size)
    found = (x << size) | (x >> size)
    found |= ((x << U1) | (x >> (size - U1))) & ~t.left
    found |= ((x >> U1) | (x << (size - U1))) & ~t.right
    return found & t.board


@helper
def _chain(start: Bits, own: Bits, t: Tables) -> Bits:
    """The cells of `own` that a chain joins to the cells `start` or that lie among them."""
    found = start & own
    grown = found | (_touching(found, t) & own)
    while grown != found:
        found = grown
        grown = found | (_touching(found, t) & own)
    return found


@helper
def _edge(seat: Any, which: Any, t: Tables) -> Bits:
    """The cells along the first (0) or the last (1) edge of a seat."""
    if seat == 1:
        return t.right if which == 1 else t.left
    top = (U1 << np.uint64(t.size)) - U1
    return top << np.uint64(t.size * (t.size - 1)) if which == 1 else top


@helper
def _winning_cells(own: Bits, empty: Bits, seat: Any, t: Tables) -> Bits:
    """The empty cells that join the seat's edges at once."""
    found = empty
    for which in range(2):
        edge = _edge(seat, which, t)
        found &= edge | _touching(_chain(edge, own, t), t)
    return found


@helper
def _bridged(own: Bits, empty: Bits, seat: Any, t: Tables) -> Bits:
    """Return the carrier of a connection that the seat holds even if the other moves next, or 0.

    Two chains with two empty cells that touch both are joined: if one cell is taken, the other joins
    them. Chains are added to that of the first edge as long as no cell serves twice.
    """
    last, carrier = _edge(seat, 1, t), U0
    reached = _chain(_edge(seat, 0, t), own, t)
    border = (_edge(seat, 0, t) | _touching(reached, t)) & empty
    goal = (last | _touching(_chain(last, own, t), t)) & empty
    rest = own & ~reached
    while True:
        common = border & goal
        pair = common & (common - U1)
        if pair != U0:
            return carrier | _lowest(common) | _lowest(pair)
        left, joined = rest, False
        while left != U0 and not joined:
            group = _chain(_lowest(left), own, t)
            left &= ~group
            around = _touching(group, t) & empty & ~carrier
            common = border & around
            pair = common & (common - U1)
            if pair != U0:
                taken = _lowest(common) | _lowest(pair)
                carrier |= taken
                border = (border | around) & ~carrier
                goal &= ~carrier
                rest &= ~group
                if group & last != U0:
                    return carrier
                joined = True
        if not joined:
            return U0


@helper
def _lowest(x: Bits) -> Bits:
    return x & (~x + U1)


@helper
def _slot(first: Bits, second: Bits, t: Tables) -> Any:
    x = (first ^ (second * MIX[0])) * MIX[1]
    x ^= x >> U32
    x *= MIX[0]
    x ^= x >> U29
    return np.int64(x & np.uint64(t.entries.shape[0] - 1))


@helper
def _measure(own: Bits, empty: Bits, seat: Any, t: Tables) -> None:
    """Write for each empty cell how many stones it lacks to both edges, itself not counted."""
    cells = t.size * t.size
    for which in range(2):
        reached = _chain(_edge(seat, which, t), own, t)
        border = (_edge(seat, which, t) | _touching(reached, t)) & empty
        lacking, seen = 0, U0
        while border != U0:
            for cell in range(cells):
                if (border >> np.uint64(cell)) & U1:
                    t.distance[seat, cell] = lacking + (t.distance[seat, cell] if which == 1 else 0)
            seen |= border
            reached = _chain(_touching(border, t), own, t)
            border = (_touching(border, t) | _touching(reached, t)) & empty & ~seen
            lacking += 1
        for cell in range(cells):
            if (empty & ~seen) >> np.uint64(cell) & U1:
                t.distance[seat, cell] = FAR


@helper
def _rate(first: Bits, second: Bits, depth: Any, t: Tables) -> None:
    """Rate the empty cells of a node: both seats want the cells on their shortest ways."""
    empty = t.board & ~(first | second)
    _measure(first, empty, 0, t)
    _measure(second, empty, 1, t)
    for cell in range(t.size * t.size):
        row, column = cell // t.size, cell % t.size
        off = abs(2 * row - t.size + 1) + abs(2 * column - t.size + 1)
        t.scores[depth, cell] = -STONE * (t.distance[0, cell] + t.distance[1, cell]) - off


@helper
def _pick(depth: Any, t: Tables) -> Any:
    """Return the most promising cell of the must-play region."""
    best, must = -1, t.frames[depth, MUST]
    for cell in range(t.size * t.size):
        if (must >> np.uint64(cell)) & U1:
            if best < 0 or t.scores[depth, cell] > t.scores[depth, best]:
                best = cell
    return best


@helper
def _seen(first: Bits, second: Bits, seat: Any, depth: Any, t: Tables) -> Any:
    """Return (known, whether the seat to move wins, carrier); begin the node if nothing is known."""
    own = first if seat == 0 else second
    theirs = second if seat == 0 else first
    empty = t.board & ~(first | second)
    direct = _winning_cells(own, empty, seat, t)
    if direct != U0:
        return True, True, _lowest(direct)
    held = _bridged(theirs, empty, 1 - seat, t)
    if held != U0:
        return True, False, held
    tag = first | (U2 | np.uint64(seat)) << U62
    slot = _slot(tag, second, t)
    if t.entries[slot, 0] == tag and t.entries[slot, 1] & t.board == second:
        return True, t.entries[slot, 1] >> U63 != U0, t.entries[slot, 2]
    # The other seat joins its edges at once unless this cell is taken; two such cells are `held`.
    threats = _winning_cells(theirs, empty, 1 - seat, t)
    t.frames[depth, FIRST], t.frames[depth, SECOND] = first, second
    t.frames[depth, MUST] = threats if threats != U0 else empty
    t.frames[depth, CARRIER] = threats
    _rate(first, second, depth, t)
    t.nodes[0] += 1
    return False, False, U0


@helper
def _keep(depth: Any, seat: Any, wins: Any, carrier: Bits, t: Tables) -> None:
    """Remember a node that has been searched, in place of any other in its slot."""
    tag = t.frames[depth, FIRST] | (U2 | np.uint64(seat)) << U62
    second = t.frames[depth, SECOND]
    slot = _slot(tag, second, t)
    t.entries[slot, 0] = tag
    t.entries[slot, 1] = second | (np.uint64(wins) << U63)
    t.entries[slot, 2] = carrier


@kernel
def _solve(first: Bits, second: Bits, mover: Any, t: Tables) -> Any:
    """Return whether the seat to move wins a position that is not over."""
    depth, seat = 0, mover
    while True:
        known, wins, carrier = _seen(first, second, seat, depth, t)
        reply: Any = -1  # the winning move of a node just left
        while known:
            if depth == 0:
                return wins
            depth -= 1
            seat = 1 - seat
            if wins:
                # The other seat wins after this move; it would after any move outside its carrier.
                t.frames[depth, CARRIER] |= carrier
                t.frames[depth, MUST] &= carrier
                if reply >= 0:
                    t.scores[depth, reply] += REPLY
                known = t.frames[depth, MUST] == U0
                wins, carrier, reply = False, t.frames[depth, CARRIER], -1
            else:
                wins, reply = True, np.int64(t.frames[depth, MOVE])
                carrier |= U1 << t.frames[depth, MOVE]
            if known:
                _keep(depth, seat, wins, carrier, t)
        cell = np.uint64(_pick(depth, t))
        t.frames[depth, MOVE] = cell
        first, second = t.frames[depth, FIRST], t.frames[depth, SECOND]
        if seat == 0:
            first |= U1 << cell
        else:
            second |= U1 << cell
        seat = 1 - seat
        depth += 1


@helper
def _stones(state: Any, seat: Any, t: Tables) -> Bits:
    """The bitboard of a seat's stones in a record of the game."""
    found = U0
    for row in range(t.size):
        found |= np.uint64(state.stones[seat, row]) << np.uint64(row * t.size)
    return found


@helper
def _value(game: Any, state: Any, seat: Any, t: Tables) -> Any:
    """1 where the seat wins the position and -1 where it loses; the game may be over."""
    mover = to_play(game, state)
    if mover == TERMINAL:
        return 1 if state.over == 1 + seat else -1
    if state.swap != 0:
        # Whatever is opened, the second seat wins: it takes an opening that wins, and answers any other.
        return 1 if seat == 1 else -1
    wins = _solve(_stones(state, 0, t), _stones(state, 1, t), mover, t)
    return 1 if wins == (mover == seat) else -1


@kernel
def _write_values(game: Any, states: Array, values: Array, t: Tables) -> None:
    """Write `values` `i4 [n]` for the seats to move."""
    for i in range(states.shape[0]):
        values[i] = _value(game, states[i], to_play(game, states[i]), t)


@kernel
def _write_action_values(
    game: Any, states: Array, child: Array, legal: Array, values: Array, t: Tables
) -> None:
    """Write the legal entries of `values` `i4 [n, A]`; `child` (one record) and `legal` are scratch."""
    for i in range(states.shape[0]):
        seat = to_play(game, states[i])
        for k in range(legal_actions(game, states[i], legal)):
            child[0] = states[i]
            apply_action(game, child[0], legal[k])
            values[i, legal[k]] = _value(game, child[0], seat, t)


class HexSolver:
    """Exact values of Hex positions; one per thread, for it owns its table.

    What one call learns serves the next.

    Args:
      game: Hex on a board of at most 5 cells a side, with or without the swap rule.
      table_megabytes: memory for positions already solved, rounded down to a power of two.

    Raises:
      PlayerError: another game or a larger board.
      ConfigError: no memory.
    """

    def __init__(self, game: Game, table_megabytes: int = 32) -> None:
        if game.name != "hex":
            raise PlayerError(f"the Hex solver cannot solve {game.id}; it solves hex up to size={LARGEST}.")
        size = int(game.options["size"])
        if size > LARGEST:
            raise PlayerError(f"{game.id} is too large for the Hex solver; the largest is size={LARGEST}.")
        if table_megabytes < 1:
            raise ConfigError(
                f"table_megabytes of the Hex solver is {table_megabytes}; allowed is 1 or more; "
                "give the megabytes that it may use."
            )
        self.game = game
        self.plies = (0, size * size // 2)
        self._tables = make_tables(size, table_megabytes)

    @property
    def nodes(self) -> int:
        """Positions searched since the solver was made; those seen to be decided do not count."""
        return int(self._tables.nodes[0])

    def values(self, states: Array) -> NDArray[np.int32]:
        """Return `i4 [n]`: 1 where the seat to move wins, -1 where it loses."""
        states = self._open(states)
        out = np.zeros(len(states), np.int32)
        # Each thread has its own error state; interpreted, the hash would warn as it wraps around.
        with np.errstate(over="ignore"):
            _write_values(self.game, states, out, self._tables)
        return out

    def action_values(self, states: Array) -> NDArray[np.int32]:
        """Return `i4 [n, A]`: 1 for an action that wins, -1 for one that loses, ILLEGAL elsewhere."""
        states = self._open(states)
        out = np.full((len(states), self.game.num_actions), ILLEGAL, np.int32)
        legal = np.zeros(self.game.max_legal, np.int32)
        with np.errstate(over="ignore"):
            _write_action_values(self.game, states, self.game.states(1), legal, out, self._tables)
        return out

    def action_scores(self, states: Array) -> NDArray[np.int32]:
        """Return the values: how soon a game is won does not matter in Hex."""
        return self.action_values(states)

    def _open(self, states: Array) -> Array:
        """Return the states in the one layout that is compiled for, if a seat is to move in each."""
        states = np.require(states, self.game.state_dtype, ["C", "W"])
        over = np.flatnonzero(states["over"])
        if len(over):
            text = self.game.position(states[over[0]])
            raise InvalidState(
                f"{self.game.id}: '{text}' is over; allowed are positions with a seat to move."
            )
        return states


def make_tables(size: int, table_megabytes: int) -> Tables:
    """Return empty tables for a board."""
    cells = size * size
    left = sum(1 << size * row for row in range(size))
    entries = 1 << ((table_megabytes << 20) // 24).bit_length() - 1
    return Tables(
        size=size,
        board=np.uint64((1 << cells) - 1),
        left=np.uint64(left),
        right=np.uint64(left << size - 1),
        entries=np.zeros((entries, 3), np.uint64),
        frames=np.zeros((cells + 1, 5), np.uint64),
        scores=np.zeros((cells + 1, cells), np.int32),
        distance=np.zeros((2, cells), np.int32),
        nodes=np.zeros(1, np.int64),
    )
