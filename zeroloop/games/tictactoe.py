"""Tic-tac-toe: the smallest complete game. Copy this file to start your own."""

from __future__ import annotations

import numpy as np

from ..compiled import helper
from ..errors import InvalidState
from .game import TERMINAL, Game, Observation

STATE = np.dtype([("stones", "u2", (2,)), ("plies", "i1")])
"""One bitboard per seat, bit 3 * row + column."""

OUTCOMES = [[1, -1], [-1, 1], [0, 0]]
FULL = 0o777
LINES = np.array([0o7, 0o70, 0o700, 0o111, 0o222, 0o444, 0o421, 0o124], np.uint16)


def initial(state, seed):
    state.stones[0] = 0
    state.stones[1] = 0
    state.plies = 0


@helper
def won(stones):
    """Return whether the bitboard holds a line of three."""
    for i in range(8):  # noqa: SIM110 - a generator does not compile
        if stones & LINES[i] == LINES[i]:
            return True
    return False


def to_play(state):
    # Only the seat that moved last can have won.
    if won(state.stones[1 - (state.plies & 1)]) or state.plies == 9:
        return TERMINAL
    return state.plies & 1


def legal_actions(state, out):
    taken = state.stones[0] | state.stones[1]
    k = 0
    for cell in range(9):
        if not (taken >> cell) & 1:
            out[k] = cell
            k += 1
    return k


def apply_action(state, action):
    state.stones[state.plies & 1] |= 1 << action
    state.plies += 1


def outcome(state):
    last = 1 - (state.plies & 1)
    return last if won(state.stones[last]) else 2


def observe(state, planes, global_facts):
    """Two planes: my stones, your stones."""
    seat = state.plies & 1
    for cell in range(9):
        planes[0, cell // 3, cell % 3] = np.float32((state.stones[seat] >> cell) & 1)
        planes[1, cell // 3, cell % 3] = np.float32((state.stones[1 - seat] >> cell) & 1)


@helper
def turned(cell, k):
    """Return the cell's place after k % 4 quarter turns and, for k >= 4, a reflection."""
    row, column = cell // 3, cell % 3
    if k >= 4:
        column = 2 - column
    for _ in range(k % 4):
        row, column = column, 2 - row
    return 3 * row + column


def symmetry(state, k):
    for seat in range(2):
        stones, image = state.stones[seat], 0
        for cell in range(9):
            if (stones >> cell) & 1:
                image |= 1 << turned(cell, k)
        state.stones[seat] = image


def symmetry_action(action, k):
    return turned(action, k)


def heuristic(state, seat):
    """Return the balance of lines that only one side touches."""
    mine, yours = state.stones[seat], state.stones[1 - seat]
    balance = 0
    for i in range(8):
        if not yours & LINES[i]:
            balance += 1
        if not mine & LINES[i]:
            balance -= 1
    return balance / 9.0


def render(state):
    cells = ["X" if state.stones[0] >> i & 1 else "O" if state.stones[1] >> i & 1 else "." for i in range(9)]
    return "\n".join(" ".join(cells[3 * row : 3 * row + 3]) for row in range(3))


def action_name(state, action):
    return "abc"[action % 3] + str(3 - action // 3)


def position(state):
    """Rows from the top with `/` between them: `X../.O./...`."""
    return render(state).replace(" ", "").replace("\n", "/")


def parse_position(state, text):
    cells = text.strip().replace("/", "")
    if len(cells) != 9 or set(cells) - set("XO."):
        raise InvalidState(f"tictactoe: '{text}' is not three rows of X, O and '.' with '/' between.")
    first, second = cells.count("X"), cells.count("O")
    if first - second not in (0, 1):
        raise InvalidState(f"tictactoe: '{text}' has {first} X and {second} O; X moves first.")
    for cell, mark in enumerate(cells):
        if mark != ".":
            state.stones["XO".index(mark)] |= 1 << cell
    state.plies = first + second
    if won(state.stones[state.plies & 1]):
        raise InvalidState(f"tictactoe: '{text}' goes on after a line of three.")


GAME = Game(
    "tictactoe",
    version=1,
    state_dtype=STATE,
    num_players=2,
    num_actions=9,
    max_legal=9,
    max_plies=9,
    outcomes=OUTCOMES,
    observation=Observation(planes=(2, 3, 3)),
    num_symmetries=8,
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
