"""Hex on a rhombus of 2 to 19 cells a side, as rows of bits, with the swap rule on request."""

from __future__ import annotations

import numpy as np

from ..compiled import helper
from ..errors import GameError, InvalidState
from .game import TERMINAL, Game, Observation

SMALLEST, LARGEST = 2, 19
"""Sides of a board."""

OUTCOMES = [[1, -1], [-1, 1]]
"""The first seat has joined top and bottom, the second has joined left and right."""


def state_dtype(size):
    """Return the record of a board: rows of bits, bit c of row r being the cell of column c.

    `stones[seat, r]`; `linked[edge, r]`, the stones of both seats that a chain joins to the first edge of
    their seat (top, left) or to the last (bottom, right); `reach`, scratch of the heuristic, zero outside
    it; `mover`; `swap`, 1 until the second seat has moved where the swap rule holds; `over`, 0 while the
    game goes on, then 1 + the row of OUTCOMES. All follow from the stones and the seat to move.
    """
    row = "i2" if size < 16 else "i4"
    return [
        ("stones", row, (2, size)),
        ("linked", row, (2, size)),
        ("reach", row, (size,)),
        ("mover", "i1"),
        ("swap", "i1"),
        ("over", "i1"),
    ]


def to_play(state):
    return TERMINAL if state.over != 0 else state.mover


def legal_actions(state, out):
    """Ids are row * size + column of the mover's own view, in which it joins top and bottom."""
    size = state.stones.shape[1]
    k = 0
    # While the swap is open, the one stone on the board may be chosen as well: that is the swap.
    if state.swap != 0:
        for action in range(size * size):
            out[action] = action
        return size * size
    # Two loops, because one that turns each cell takes twice as long.
    if state.mover == 0:
        for row in range(size):
            taken = int(state.stones[0, row] | state.stones[1, row])
            for column in range(size):
                out[k] = row * size + column
                k += 1 - ((taken >> column) & 1)
    else:
        for column in range(size):
            for row in range(size):
                out[k] = column * size + row
                k += 1 - (((state.stones[0, row] | state.stones[1, row]) >> column) & 1)
    return k


def apply_action(state, action):
    size = state.stones.shape[1]
    seat = state.mover
    row, column = action // size, action % size
    if seat == 1:
        row, column = column, row
    if (state.stones[1 - seat, row] >> column) & 1:
        # The swap: the first stone becomes the second seat's, mirrored, so that it faces the other edges.
        state.stones[0, row] = 0
        for edge in range(2):
            state.linked[edge, row] = 0
        row, column = column, row
    place(state, seat, row, column)
    state.mover = 1 - seat
    if seat == 1:
        state.swap = 0


@helper
def place(state, seat, row, column):
    """Put a stone and link what it joins."""
    size = state.stones.shape[1]
    stone = 1 << column
    state.stones[seat, row] |= stone
    here = int(state.stones[seat, row]) & ((stone << 1) | (stone >> 1))
    above, below = 0, 0
    if row > 0:
        above = int(state.stones[seat, row - 1]) & (stone | (stone << 1))
    if row < size - 1:
        below = int(state.stones[seat, row + 1]) & (stone | (stone >> 1))
    along = row if seat == 0 else column
    links = 0
    for edge in range(2):
        joined = here & state.linked[edge, row]
        apart = here & ~state.linked[edge, row]
        if above != 0:
            joined |= above & state.linked[edge, row - 1]
            apart |= above & ~state.linked[edge, row - 1]
        if below != 0:
            joined |= below & state.linked[edge, row + 1]
            apart |= below & ~state.linked[edge, row + 1]
        if joined != 0 or along == edge * (size - 1):
            links += 1
            state.linked[edge, row] |= stone
            if apart != 0:
                spread(state, seat, edge, row)
    if links == 2:
        state.over = 1 + seat


@helper
def spread(state, seat, edge, row):
    """Link to the edge every stone of the seat that a chain joins to a linked one, from this row on."""
    size = state.stones.shape[1]
    step, still = 1, 0
    row = max(row - 1, 0)
    # Row by row down and up, until nothing has changed all the way down and up.
    while still < 2 * size:
        still = 0 if link_row(state, seat, edge, row) else still + 1
        if row + step < 0 or row + step == size:
            step = -step
        else:
            row += step


@helper
def link_row(state, seat, edge, row):
    """Link the seat's stones of the row that touch linked ones; return whether there were any."""
    size = state.stones.shape[1]
    own = int(state.stones[seat, row])
    before = own & state.linked[edge, row]
    linked = before
    if row > 0:
        above = int(state.stones[seat, row - 1] & state.linked[edge, row - 1])
        linked |= own & (above | (above >> 1))
    if row < size - 1:
        below = int(state.stones[seat, row + 1] & state.linked[edge, row + 1])
        linked |= own & (below | (below << 1))
    grown = linked | (own & ((linked << 1) | (linked >> 1)))
    while grown != linked:
        linked = grown
        grown = linked | (own & ((linked << 1) | (linked >> 1)))
    if linked == before:
        return False
    state.linked[edge, row] |= linked
    return True


def outcome(state):
    return state.over - 1


def observe(state, planes, global_facts):
    """In the mover's own view: my stones, your stones, and with the swap rule whether I may swap."""
    size = state.stones.shape[1]
    mine, yours = state.stones[state.mover], state.stones[1 - state.mover]
    for down in range(size):
        for right in range(size):
            row, column = (down, right) if state.mover == 0 else (right, down)
            planes[0, down, right] = np.float32((mine[row] >> column) & 1)
            planes[1, down, right] = np.float32((yours[row] >> column) & 1)
            if planes.shape[0] == 3:
                planes[2, down, right] = np.float32(state.swap & state.mover)


def symmetry(state, k):
    """Turn the board by half a turn, which exchanges the two edges of each seat."""
    if k == 1:
        size = state.stones.shape[1]
        for row in range((size + 1) // 2):
            other = size - 1 - row
            for seat in range(2):
                turned = backwards(int(state.stones[seat, row]), size)
                state.stones[seat, row] = backwards(int(state.stones[seat, other]), size)
                state.stones[seat, other] = turned
        for row in range(size):
            turned = backwards(int(state.linked[0, row]), size)
            state.linked[0, row] = backwards(int(state.linked[1, size - 1 - row]), size)
            state.linked[1, size - 1 - row] = turned


@helper
def backwards(bits, size):
    """Return the lowest `size` bits in reverse order."""
    turned = 0
    for column in range(size):
        turned |= ((bits >> column) & 1) << (size - 1 - column)
    return turned


def heuristic(state, seat):
    """Compare how many stones each seat lacks; having the move is worth half a stone."""
    lead = 0.5 if state.mover == seat else -0.5
    for k in range(2):
        lacking = stones_lacking(state, k)
        lead += -lacking if k == seat else lacking
    return lead / (1.0 + abs(lead))


@helper
def stones_lacking(state, seat):
    """Return the fewest stones that join the seat's edges where every bridge counts as joined.

    A bridge is a pair of cells, or a cell and an edge, with two empty cells between them that touch
    both: if one is taken, the other still joins them.
    """
    size = state.stones.shape[1]
    lacking, through_stones = 0, True
    while True:
        grown = grow(state, seat, through_stones)
        if not through_stones:
            lacking += 1
            through_stones = True
        elif not grown:
            arrived = lacking == size
            for row in range(size):
                if state.reach[row] & near_edge(state, seat, 1, row):
                    arrived = True
            if arrived:
                break
            through_stones = False
    for row in range(size):
        state.reach[row] = 0
    return lacking


@helper
def grow(state, seat, through_stones):
    """Add to `reach` the seat's stones, or the empty cells, that touch it or are bridged to it.

    Returns whether there were any. Through stones a sweep goes as far as it leads, by empty cells one step.
    """
    size = state.stones.shape[1]
    up2, up1, grown = 0, 0, False
    for row in range(size):
        old = int(state.reach[row])
        cells = int(state.stones[seat, row]) if through_stones else empty(state, row)
        new = old | (cells & near(state, seat, row, up2, up1))
        state.reach[row] = new
        grown = grown or new != old
        up2, up1 = up1, new if through_stones else old
    return grown


@helper
def empty(state, row):
    """Return the empty cells of a row; none outside the board."""
    size = state.stones.shape[1]
    if row < 0 or row >= size:
        return 0
    return ((1 << size) - 1) & ~int(state.stones[0, row] | state.stones[1, row])


@helper
def near(state, seat, row, up2, up1):
    """Return the cells of a row that touch `reach` or the seat's first edge, or are bridged to them.

    `up2` and `up1` are what `reach` holds for the two rows above.
    """
    size = state.stones.shape[1]
    here = int(state.reach[row])
    down1 = int(state.reach[row + 1]) if row + 1 < size else 0
    down2 = int(state.reach[row + 2]) if row + 2 < size else 0
    above, beside, below = empty(state, row - 1), empty(state, row), empty(state, row + 1)
    found = (here << 1) | (here >> 1) | up1 | (up1 >> 1) | down1 | (down1 << 1)
    found |= (up2 >> 1) & above & (above >> 1)
    found |= (up1 << 1) & above & (beside << 1)
    found |= (up1 >> 2) & (above >> 1) & (beside >> 1)
    found |= (down2 << 1) & below & (below << 1)
    found |= (down1 >> 1) & below & (beside >> 1)
    found |= (down1 << 2) & (below << 1) & (beside << 1)
    return found | near_edge(state, seat, 0, row)


@helper
def near_edge(state, seat, edge, row):
    """Return the cells of a row that touch an edge of the seat or are bridged to it."""
    size = state.stones.shape[1]
    if seat == 0:
        if row == edge * (size - 1):
            return (1 << size) - 1
        if edge == 0 and row == 1:
            return empty(state, 0) & (empty(state, 0) >> 1)
        if edge == 1 and row == size - 2:
            return empty(state, size - 1) & (empty(state, size - 1) << 1)
        return 0
    if edge == 0:
        return 1 | ((empty(state, row) & empty(state, row + 1) & 1) << 1)
    last = 1 << (size - 1)
    return last | ((empty(state, row) & empty(state, row - 1) & last) >> 1)


# From here on plain Python: text.


def cell_name(row, column):
    return f"{chr(ord('a') + column)}{row + 1}"


def cell_of(state, action):
    """Return (row, column) on the board of an action of the seat to move."""
    size = state.stones.shape[1]
    cell = divmod(int(action), size)
    return cell if state.mover == 0 else cell[::-1]


def mark(state, row, column):
    """Return what lies on a cell: `X`, `O` or `.`."""
    for seat in range(2):
        if (int(state.stones[seat, row]) >> column) & 1:
            return "XO"[seat]
    return "."


def render(state):
    """The slanted board; X joins top and bottom, O joins left and right."""
    size = state.stones.shape[1]
    letters = " ".join(chr(ord("a") + c) for c in range(size))
    lines = ["   " + letters]
    for row in range(size):
        cells = " ".join(mark(state, row, c) for c in range(size))
        lines.append(" " * row + f"{row + 1:2d} {cells} {row + 1}")
    lines.append(" " * (size + 3) + letters)
    if state.swap and state.mover == 1:
        lines.append("O may swap.")
    return "\n".join(lines)


def action_name(state, action):
    row, column = cell_of(state, action)
    return cell_name(row, column) if mark(state, row, column) == "." else "swap"


def position(state):
    """A list of moves that leads here: the stones of each seat by rows, `a1 c2 b1`; nothing at the start.

    The order in which the stones were played is not part of a state. Where the game is over, the
    last move is one that won it; where the second seat has swapped, its first stone is taken as the
    swapped one: `b1 swap c3`.
    """
    size = state.stones.shape[1]
    cells = [[(r, c) for r in range(size) for c in range(size) if mark(state, r, c) == m] for m in "XO"]
    swapped = len(cells[0]) - len(cells[1]) != state.mover
    last = []
    if state.over:
        winner = cells[state.over - 1]
        last = [
            max(cell for cell in winner if not joined([c for c in winner if c != cell], state.over - 1, size))
        ]
        winner.remove(last[0])
    moves = []
    if swapped:
        column, row = cells[1].pop(0)
        moves = [cell_name(row, column), "swap"]
    for k in range(len(cells[0])):
        moves += [cell_name(*seat[k]) for seat in cells if k < len(seat)]
    return " ".join([*moves, *(cell_name(*cell) for cell in last)])


def joined(cells, seat, size):
    """Return whether the cells join the two edges of the seat."""
    left, found = set(cells), [cell for cell in cells if cell[seat] == 0]
    while found:
        row, column = cell = found.pop()
        if cell in left:
            if cell[seat] == size - 1:
                return True
            left.remove(cell)
            for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0), (-1, 1), (1, -1)):
                found.append((row + down, column + right))
    return False


def parse_position(state, text):
    size = state.stones.shape[1]
    names = {cell_name(r, c): (r, c) for r in range(size) for c in range(size)}
    for number, name in enumerate(text.split(), 1):
        where = f"hex: move {number} of '{text}', '{name}',"
        if state.over:
            raise InvalidState(f"{where} comes after the game is over; move {number - 1} has won it.")
        if name == "swap":
            if not state.swap or state.mover != 1:
                raise InvalidState(
                    f"{where} is not allowed; only with the option swap=true, as the second move."
                )
            cell = next(cell for cell in names.values() if mark(state, *cell) == "X")
        elif name not in names:
            raise InvalidState(
                f"{where} is no cell of the board; cells are a1 to {cell_name(size - 1, size - 1)}."
            )
        elif mark(state, *names[name]) != ".":
            raise InvalidState(f"{where} is a cell that is already taken; allowed are empty cells.")
        else:
            cell = names[name]
        row, column = cell if state.mover == 0 else cell[::-1]
        apply_action(state, row * size + column)


def make(size=11, swap=False):
    """Return Hex on a board of `size` cells a side, from 2 to 19, with or without the swap rule."""
    if isinstance(size, bool) or not isinstance(size, int) or not SMALLEST <= size <= LARGEST:
        raise GameError(f"hex: size is {size!r}; it must be a whole number from {SMALLEST} to {LARGEST}.")
    if not isinstance(swap, bool):
        raise GameError(f"hex: swap is {swap!r}; it must be true or false.")
    cells = size * size

    def initial(state, seed):
        for row in range(size):
            for k in range(2):
                state.stones[k, row] = 0
                state.linked[k, row] = 0
            state.reach[row] = 0
        state.mover = 0
        state.swap = 1 if swap else 0
        state.over = 0

    def symmetry_action(action, k):
        return cells - 1 - action if k == 1 else action

    return Game(
        "hex",
        version=1,
        options={"size": size, "swap": swap},
        state_dtype=state_dtype(size),
        num_players=2,
        num_actions=cells,
        max_legal=cells,
        max_plies=cells + (1 if swap else 0),
        outcomes=OUTCOMES,
        observation=Observation(planes=(3 if swap else 2, size, size)),
        num_symmetries=2,
        rules={
            "initial": initial,
            "to_play": to_play,
            "legal_actions": legal_actions,
            "apply_action": apply_action,
            "outcome": outcome,
            "observe": observe,
            "symmetry": symmetry,
            "symmetry_action": symmetry_action,
            "heuristic": heuristic,
        },
        render=render,
        action_name=action_name,
        position=position,
        parse_position=parse_position,
    )
