"""Connect Four on the usual 7 x 6 board, as bitboards."""

from __future__ import annotations

import numpy as np

from ..compiled import helper
from ..errors import InvalidState
from .game import TERMINAL, Game, Observation

WIDTH, HEIGHT = 7, 6

STATE = np.dtype([("stones", "u8", (2,)), ("plies", "i1"), ("over", "i1")])
"""One bitboard per seat: cell (column, row) is bit 7 * column + row, row 0 at the bottom, bit 6 of a
column always empty. `over` is 0 while the game goes on, then 1 + the row of OUTCOMES."""

OUTCOMES = [[1, -1], [-1, 1], [0, 0]]
"""First player wins, second player wins, draw."""

ONE = np.uint64(1)
COLUMN = np.uint64(0x3F)
BOTTOM = np.uint64(0b0000001_0000001_0000001_0000001_0000001_0000001_0000001)


def initial(state, seed):
    state.stones[0] = 0
    state.stones[1] = 0
    state.plies = 0
    state.over = 0


def to_play(state):
    return TERMINAL if state.over != 0 else state.plies & 1


def legal_actions(state, out):
    taken = state.stones[0] | state.stones[1]
    k = 0
    for column in range(WIDTH):
        if not (taken >> np.uint64(7 * column + 5)) & ONE:
            out[k] = column
            k += 1
    return k


def apply_action(state, action):
    seat = state.plies & 1
    taken = state.stones[0] | state.stones[1]
    shift = np.uint64(7 * action)
    state.stones[seat] |= (taken + (ONE << shift)) & (COLUMN << shift)
    state.plies += 1
    if four(state.stones[seat]):
        state.over = 1 + seat
    elif state.plies == WIDTH * HEIGHT:
        state.over = 3


@helper
def four(stones):
    """Return whether the bitboard holds four in a row: vertical, horizontal, two diagonals."""
    pair = stones & (stones >> np.uint64(1))
    if pair & (pair >> np.uint64(2)):
        return True
    pair = stones & (stones >> np.uint64(7))
    if pair & (pair >> np.uint64(14)):
        return True
    pair = stones & (stones >> np.uint64(6))
    if pair & (pair >> np.uint64(12)):
        return True
    pair = stones & (stones >> np.uint64(8))
    return bool(pair & (pair >> np.uint64(16)))


def outcome(state):
    return state.over - 1


def observe(state, planes, global_facts):
    """Two planes: my stones, your stones."""
    seat = state.plies & 1
    mine, yours = state.stones[seat], state.stones[1 - seat]
    for row in range(HEIGHT):
        for column in range(WIDTH):
            shift = np.uint64(7 * column + row)
            planes[0, row, column] = np.float32((mine >> shift) & ONE)
            planes[1, row, column] = np.float32((yours >> shift) & ONE)


def symmetry(state, k):
    if k == 1:
        for seat in range(2):
            stones, mirrored = state.stones[seat], np.uint64(0)
            for column in range(WIDTH):
                cells = (stones >> np.uint64(7 * column)) & COLUMN
                mirrored |= cells << np.uint64(7 * (WIDTH - 1 - column))
            state.stones[seat] = mirrored


def symmetry_action(action, k):
    return WIDTH - 1 - action if k == 1 else action


@helper
def open_lines(mine, yours):
    """Return the weighted count of lines of four that only `mine` touches: 1, 4 and 16 for 1 to 3 stones."""
    total = 0
    for direction in (1, 7, 6, 8):
        for column in range(WIDTH if direction == 1 else WIDTH - 3):
            low = 3 if direction == 6 else 0
            high = HEIGHT if direction in (6, 7) else HEIGHT - 3
            for row in range(low, high):
                count, blocked = 0, False
                for k in range(4):
                    shift = np.uint64(7 * column + row + k * direction)
                    if (yours >> shift) & ONE:
                        blocked = True
                    elif (mine >> shift) & ONE:
                        count += 1
                if not blocked and count > 0:
                    total += 1 << (2 * (count - 1))
    return total


def heuristic(state, seat):
    mine, yours = state.stones[seat], state.stones[1 - seat]
    balance = open_lines(mine, yours) - open_lines(yours, mine)
    return balance / (64.0 + abs(balance))


def render(state):
    rows = []
    for row in reversed(range(HEIGHT)):
        cells = []
        for column in range(WIDTH):
            bit = ONE << np.uint64(7 * column + row)
            cells.append("X" if state.stones[0] & bit else "O" if state.stones[1] & bit else ".")
        rows.append(" ".join(cells))
    return "\n".join([*rows, " ".join(str(c + 1) for c in range(WIDTH))])


def action_name(state, action):
    return str(action + 1)


def position(state):
    """Rows from the top, `/` between them, then the seat to move: `7/7/7/7/7/3XO2 X`."""
    text = []
    for line in render(state).split("\n")[:-1]:
        row, empty = "", 0
        for cell in [*line.split(" "), ""]:
            if cell == ".":
                empty += 1
                continue
            row += (str(empty) if empty else "") + cell
            empty = 0
        text.append(row)
    return "/".join(text) + (" O" if state.plies & 1 else " X")


def parse_position(state, text):
    board, _, mover = text.strip().partition(" ")
    rows = board.split("/")
    if len(rows) != HEIGHT:
        raise InvalidState(f"connect4: '{text}' has {len(rows)} rows; expected {HEIGHT} rows between '/'.")
    cells = ["".join("." * int(c) if c in "123456789" else c for c in row) for row in rows]
    for row, line in zip(rows, cells, strict=True):
        if len(line) != WIDTH or set(line) - set("XO."):
            raise InvalidState(
                f"connect4: row '{row}' is not {WIDTH} cells of X, O and counts of empty cells."
            )
    for column in range(WIDTH):
        stack = "".join(cells[HEIGHT - 1 - row][column] for row in range(HEIGHT))
        if "." in stack.rstrip("."):
            raise InvalidState(f"connect4: column {column + 1} of '{text}' has a stone above an empty cell.")
        for row, cell in enumerate(stack):
            if cell != ".":
                state.stones["XO".index(cell)] |= ONE << np.uint64(7 * column + row)
    first, second = board.count("X"), board.count("O")
    if first - second not in (0, 1) or mover not in ("", "XO"[first - second]):
        raise InvalidState(f"connect4: '{text}' has {first} X and {second} O with '{mover}' to move.")
    state.plies = first + second
    lines = [seat for seat in (0, 1) if four(state.stones[seat])]
    if len(lines) == 2 or (lines and lines[0] == (first + second) % 2):
        raise InvalidState(f"connect4: '{text}' goes on after a line of four.")
    state.over = 1 + lines[0] if lines else 3 if first + second == WIDTH * HEIGHT else 0


GAME = Game(
    "connect4",
    version=1,
    state_dtype=STATE,
    num_players=2,
    num_actions=WIDTH,
    max_legal=WIDTH,
    max_plies=WIDTH * HEIGHT,
    outcomes=OUTCOMES,
    observation=Observation(planes=(2, HEIGHT, WIDTH)),
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
