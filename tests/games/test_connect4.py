"""Connect Four agrees with a slow implementation made of lists, and with known counts."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from zeroloop.compiled import kernel
from zeroloop.errors import IllegalAction, InvalidState
from zeroloop.games import TERMINAL, make
from zeroloop.games.explain import plain_twin
from zeroloop.games.game import apply_action, legal_actions, to_play

GAME = make("connect4")
PLAIN = plain_twin(GAME)
DIRECTIONS = [(0, 1), (1, 0), (1, 1), (1, -1)]


class Board:
    """The rules as printed on the box: seven columns of at most six discs, four in a line win."""

    def __init__(self):
        self.columns = [[] for _ in range(7)]
        self.played = 0

    def cell(self, column, row):
        inside = 0 <= column < 7 and 0 <= row < len(self.columns[column])
        return self.columns[column][row] if inside else "."

    def winner(self):
        for column in range(7):
            for row in range(6):
                for across, up in DIRECTIONS:
                    four = {self.cell(column + i * across, row + i * up) for i in range(4)}
                    if len(four) == 1 and four != {"."}:
                        return four.pop()
        return None

    def open_columns(self):
        return [column for column in range(7) if len(self.columns[column]) < 6]

    def drop(self, column):
        self.columns[column].append("XO"[self.played % 2])
        self.played += 1

    def text(self):
        rows = []
        for row in reversed(range(6)):
            line = "".join(self.cell(column, row) for column in range(7))
            rows.append(re.sub(r"\.+", lambda empty: str(len(empty[0])), line))
        return "/".join(rows) + " " + "XO"[self.played % 2]


@pytest.mark.parametrize("seed", range(40))
def test_random_games_follow_the_slow_rules_to_their_end(seed):
    rng, board, state = random.Random(seed), Board(), PLAIN.initial_state()
    planes, nothing = np.empty((2, 6, 7), np.float32), np.empty(0, np.float32)
    while board.winner() is None and board.open_columns():
        mover = board.played % 2
        assert PLAIN.rules["to_play"](state) == mover
        assert PLAIN.legal(state) == board.open_columns()
        PLAIN.rules["observe"](state, planes, nothing)
        for plane, mark in zip(planes, ("XO"[mover], "XO"[1 - mover]), strict=True):
            cells = [[board.cell(column, row) == mark for column in range(7)] for row in range(6)]
            assert plane.tolist() == cells
        column = rng.choice(board.open_columns())
        board.drop(column)
        PLAIN.play(state, column)
        assert PLAIN.position(state) == board.text()
        assert PLAIN.parse_position(board.text()).tobytes() == state.tobytes()
    assert PLAIN.rules["to_play"](state) == TERMINAL
    points = {"X": [1.0, -1.0], "O": [-1.0, 1.0], None: [0.0, 0.0]}[board.winner()]
    assert PLAIN.points(state) == points


LINES = [
    [(column + i * across, row + i * up) for i in range(4)]
    for column in range(7)
    for row in range(6)
    for across, up in DIRECTIONS
    if 0 <= column + 3 * across < 7 and 0 <= row + 3 * up < 6
]


def test_there_are_69_lines_of_four_and_each_wins():
    assert len(LINES) == 69
    for line in LINES:
        missing = line[-1]
        state = PLAIN.initial_state()
        for column, row in line[:-1]:
            state.stones[0] |= np.uint64(1) << np.uint64(7 * column + row)
        for row in range(missing[1]):
            if (missing[0], row) not in line:
                state.stones[1] |= np.uint64(1) << np.uint64(7 * missing[0] + row)
        state.plies = 6
        PLAIN.rules["apply_action"](state, missing[0])
        assert PLAIN.points(state) == [1.0, -1.0], line


@kernel
def perft(game, states, legal, place, width, counts):
    """Count the move sequences of each length up to counts' size, by depth-first search."""
    last, depth = counts.shape[0] - 1, 0
    width[0], place[0] = legal_actions(game, states[0], legal[0]), 0
    while depth >= 0:
        if place[depth] == width[depth]:
            depth -= 1
            continue
        states[depth + 1] = states[depth]
        apply_action(game, states[depth + 1], legal[depth, place[depth]])
        place[depth] += 1
        counts[depth + 1] += 1
        if depth + 1 < last and to_play(game, states[depth + 1]) != TERMINAL:
            depth += 1
            width[depth], place[depth] = legal_actions(game, states[depth], legal[depth]), 0


def test_the_numbers_of_move_sequences_are_the_known_ones():
    counts, n = np.zeros(9, np.int64), 10
    states = GAME.states(n)
    GAME.rules["initial"](states[0], 0)
    place, width = np.zeros(n, np.int64), np.zeros(n, np.int64)
    perft(GAME, states, np.zeros((n, 7), np.int32), place, width, counts)
    assert counts[1:].tolist() == [7, 49, 343, 2401, 16807, 117649, 823536, 5673234]


def test_columns_are_numbered_from_one():
    state = GAME.initial_state()
    assert [GAME.action_name(state, a) for a in GAME.legal(state)] == list("1234567")
    assert GAME.parse_action(state, "4") == 3
    with pytest.raises(IllegalAction, match="connect4: '8' is not a legal move here; allowed: 1, 2"):
        GAME.parse_action(state, "8")


def test_a_full_column_is_not_legal():
    state = PLAIN.initial_state()
    for _ in range(6):
        PLAIN.play(state, 2)
    assert PLAIN.legal(state) == [0, 1, 3, 4, 5, 6]
    with pytest.raises(IllegalAction, match="connect4: action 2 is not legal here; allowed: 1, 2, 4"):
        PLAIN.play(state, 2)


def test_a_full_board_without_a_line_is_a_draw():
    text = "OOXOOXO/XXOXXOX/OOXOOXO/XXOXXOX/OOXOOXO/XXOXXOX X"
    state = PLAIN.parse_position(text)
    assert PLAIN.points(state) == [0.0, 0.0]
    assert PLAIN.legal(state) == [] and PLAIN.position(state) == text


def test_the_seat_to_move_may_be_left_out_of_a_position():
    given, short = (PLAIN.parse_position(f"7/7/7/7/7/3XO2{end}") for end in (" X", ""))
    assert given.tobytes() == short.tobytes() and PLAIN.position(short) == "7/7/7/7/7/3XO2 X"


BAD = {
    "": "'' has 1 rows; expected 6 rows between '/'.",
    "7/7/7/7/7": "has 5 rows; expected 6 rows",
    "7/7/7/7/7/6": "row '6' is not 7 cells of X, O and counts of empty cells.",
    "7/7/7/7/7/8": "row '8' is not 7 cells",
    "7/7/7/7/7/3A3": "row '3A3' is not 7 cells",
    "7/7/7/7/3X3/7": "column 4 of '7/7/7/7/3X3/7' has a stone above an empty cell.",
    "7/7/7/7/7/3O3": "has 0 X and 1 O with '' to move.",
    "7/7/7/7/7/2XX3": "has 2 X and 0 O with '' to move.",
    "7/7/7/7/7/3X3 X": "has 1 X and 0 O with 'X' to move.",
    "7/7/7/7/7/3X3 Z": "with 'Z' to move.",
    "7/7/7/7/OOO4/XXXXO2 X": "goes on after a line of four.",
    "7/7/7/7/OOOO3/XXXX3 X": "goes on after a line of four.",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_position_is_refused_with_its_reason(text):
    with pytest.raises(InvalidState, match=f"^connect4: .*{re.escape(BAD[text])}"):
        PLAIN.parse_position(text)


def test_a_position_whose_last_move_made_four_is_over():
    state = PLAIN.parse_position("7/7/7/7/OOO4/XXXX3 O")
    assert PLAIN.points(state) == [1.0, -1.0]


def test_the_picture_numbers_the_columns():
    lines = PLAIN.render(PLAIN.parse_position("7/7/7/7/7/3XO2 X")).split("\n")
    assert lines[-2:] == [". . . X O . .", "1 2 3 4 5 6 7"] and len(lines) == 7
