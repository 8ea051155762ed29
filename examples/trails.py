"""Trails: three snails on a field without edges; whoever cannot crawl on is out, and the last one wins."""

import re

from zeroloop.errors import InvalidState
from zeroloop.games import TERMINAL, Game, Observation, helper

SEATS, WIDTH, HEIGHT = 3, 4, 3
CELLS = WIDTH * HEIGHT
FIELD = (1 << CELLS) - 1
WEST, EAST = 0x111, 0x888
"""Sets of cells are numbers; cell WIDTH * row + column is a bit. These are the first and last column."""

OUTCOMES = [[1, 0, -1], [1, -1, 0], [-1, 1, 0], [0, 1, -1], [0, -1, 1], [-1, 0, 1]]
"""1 for the last snail that can crawl, -1 for the first that cannot. Row 2 * w: seat w wins and the
seat after it is second; row 2 * w + 1: the seat before it is."""

STATE = [("taken", "i2"), ("heads", "i1", (SEATS,)), ("rank", "i1", (SEATS,)), ("mover", "i1")]
"""`taken`: cells where a snail is or was. `heads`: where each snail is, -1 before it is placed. `rank`: 0
while a seat is in the game, then 3, 2 or 1."""


@helper
def beside(cells):
    """Return the neighbours of a set of cells; what leaves the field on one side enters on the other."""
    right = (cells & ~EAST) << 1 | (cells & EAST) >> (WIDTH - 1)
    left = (cells & ~WEST) >> 1 | (cells & WEST) << (WIDTH - 1)
    down = cells << WIDTH | cells >> (CELLS - WIDTH)
    up = cells >> WIDTH | cells << (CELLS - WIDTH)
    return (right | left | down | up) & FIELD


@helper
def targets(state, seat):
    """Return the cells to which the seat may go: any free one at first, then those beside its snail."""
    free = FIELD & ~int(state.taken)
    return free if state.heads[seat] < 0 else beside(1 << int(state.heads[seat])) & free


@helper
def seats_left(state):
    left = 0
    for seat in range(SEATS):
        left += state.rank[seat] == 0
    return left


def initial(state, seed):
    state.taken = 0
    state.heads[:] = -1
    state.rank[:] = 0
    state.mover = 0


def to_play(state):
    return state.mover


def legal_actions(state, out):
    cells, k = targets(state, state.mover), 0
    for cell in range(CELLS):
        if cells >> cell & 1:
            out[k] = cell
            k += 1
    return k


def apply_action(state, action):
    """Crawl; then the turn goes to the next seat that can, and those that cannot are out."""
    state.heads[state.mover] = action
    state.taken |= 1 << action
    playing = seats_left(state)
    while True:
        state.mover = (state.mover + 1) % SEATS
        if state.rank[state.mover] == 0:
            if playing > 1 and targets(state, state.mover) != 0:
                return
            state.rank[state.mover] = playing
            playing -= 1
            if playing == 0:
                state.mover = TERMINAL
                return


def outcome(state):
    winner = 0
    while state.rank[winner] != 1:
        winner += 1
    return 2 * winner + (state.rank[(winner + 1) % SEATS] == 3)


def observe(state, planes, global_facts):
    """Planes: taken cells, my snail, the next seat's, the last one's. Globals: which of them is out."""
    for cell in range(CELLS):
        row, column = cell // WIDTH, cell % WIDTH
        planes[0, row, column] = int(state.taken) >> cell & 1
        for k in range(SEATS):
            planes[1 + k, row, column] = state.heads[(state.mover + k) % SEATS] == cell
    for k in range(1, SEATS):
        global_facts[k - 1] = state.rank[(state.mover + k) % SEATS] != 0


def symmetry(state, k):
    """Shift the field and mirror it."""
    taken = int(state.taken)
    state.taken = 0
    for cell in range(CELLS):
        if taken >> cell & 1:
            state.taken |= 1 << symmetry_action(cell, k)
    for seat in range(SEATS):
        if state.heads[seat] >= 0:
            state.heads[seat] = symmetry_action(state.heads[seat], k)


@helper
def symmetry_action(action, k):
    row, column = action // WIDTH, action % WIDTH
    mirror, shift = k // CELLS, k % CELLS
    row = (-row if mirror & 1 else row) + shift // WIDTH
    column = (-column if mirror & 2 else column) + shift % WIDTH
    return row % HEIGHT * WIDTH + column % WIDTH


@helper
def lead(state, seat):
    """Return by how many cells the seat's land, which it reaches first, exceeds the others' mean."""
    free, before, land = FIELD & ~int(state.taken), -1, 0  # one field of land per seat
    for s in range(SEATS):
        if state.heads[s] >= 0 and state.rank[s] == 0:
            land |= 1 << (CELLS * s + int(state.heads[s]))
    while free != before:
        before = free
        for turn in range(SEATS):
            shift = CELLS * ((int(state.mover) + turn) % SEATS)
            new = beside(land >> shift & FIELD) & free
            land |= new << shift
            free &= ~new
    total = 0.0
    for bit in range(SEATS * CELLS):
        if land >> bit & 1:
            total += 1.0 if bit // CELLS == seat else -0.5
    return total


def heuristic(state, seat):
    """Guess by the land; once a seat is out, the other two have the second place for sure."""
    if state.rank[seat] != 0:
        return 2.0 - state.rank[seat]
    share = lead(state, seat) / CELLS
    return share if seats_left(state) == SEATS else 0.5 + share / 2


def action_name(state, action):
    return "abcd"[action % WIDTH] + str(action // WIDTH + 1)


def rows(state):
    """Return the rows as text: a letter for each snail, `#` for the trails, `.` for a free cell."""
    cells = ["#" if state.taken >> cell & 1 else "." for cell in range(CELLS)]
    for seat in range(SEATS):
        if state.heads[seat] >= 0:
            cells[state.heads[seat]] = "ABC"[seat]
    return ["".join(cells[WIDTH * row : WIDTH * (row + 1)]) for row in range(HEIGHT)]


def render(state):
    return "\n".join(["  abcd", *(f"{row} {cells}" for row, cells in enumerate(rows(state), 1))])


def position(state):
    """Rows, the seat to move, and the seats that are out, the first one first: `A##B/.#../C... B -`."""
    gone = "".join("ABC"[seat] for rank in (3, 2) for seat in range(SEATS) if state.rank[seat] == rank)
    return f"{'/'.join(rows(state))} {'-ABC'[max(state.mover, -1) + 1]} {gone or '-'}"


def parse_position(state, text):
    row = "([ABC#.]{4})"
    found = re.fullmatch(f"{row}/{row}/{row} ([ABC-]) (-|[ABC]{{1,2}})", text)
    if not found:
        raise InvalidState(
            f"trails: '{text}' is not like 'A##B/.#../C... B -': rows, mover, seats that are out."
        )
    *lines, mover, gone = found.groups()
    cells, gone = "".join(lines), gone.strip("-")
    state.taken = sum(1 << cell for cell in range(CELLS) if cells[cell] != ".")
    state.heads = [cells.find(snail) for snail in "ABC"]
    state.mover = "ABC".find(mover) if mover != "-" else TERMINAL
    for rank, snail in zip((3, 2), gone, strict=False):
        state.rank["ABC".index(snail)] = rank
    if len(gone) == 2:
        state.rank[state.rank.argmin()] = 1
    placed = sum(head >= 0 for head in state.heads)
    fits = position(state) == text and (mover == "-") == (len(gone) == 2)
    fits = fits and all(targets(state, "ABC".index(snail)) == 0 for snail in gone)
    fits = fits and (mover == "-" or (mover not in gone and targets(state, state.mover) != 0))
    if placed < SEATS:
        fits = (
            fits
            and state.mover == placed
            and min(state.heads[:placed], default=0) >= 0
            and cells.count("#") == 0
        )
    if not fits:
        raise InvalidState(f"trails: '{text}' cannot be: the mover must be free to move, those out must not.")


GAME = Game(
    "trails",
    version=1,
    state_dtype=STATE,
    num_players=SEATS,
    num_actions=CELLS,
    max_legal=CELLS,
    max_plies=CELLS,
    num_symmetries=4 * CELLS,
    outcomes=OUTCOMES,
    observation=Observation(planes=(1 + SEATS, HEIGHT, WIDTH), globals=SEATS - 1),
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
