"""Tic-tac-toe agrees everywhere with a slow implementation made of lists."""

from __future__ import annotations

import re

import numpy as np
import pytest

from zeroloop.compiled import kernel
from zeroloop.errors import IllegalAction, InvalidState
from zeroloop.games import TERMINAL, make
from zeroloop.games.explain import plain_twin
from zeroloop.games.game import apply_action, legal_actions, outcome, to_play

GAME = make("tictactoe")
PLAIN = plain_twin(GAME)
LINES = [
    *[[(row, column) for column in range(3)] for row in range(3)],
    *[[(row, column) for row in range(3)] for column in range(3)],
    [(i, i) for i in range(3)],
    [(i, 2 - i) for i in range(3)],
]


class Board:
    """The rules as told to a child: a grid of marks, X begins, three in a line win."""

    def __init__(self, cells=None):
        self.cells = cells or [["."] * 3 for _ in range(3)]

    def mark(self):
        stones = [cell for row in self.cells for cell in row if cell != "."]
        return "X" if len(stones) % 2 == 0 else "O"

    def winner(self):
        for line in LINES:
            marks = {self.cells[row][column] for row, column in line}
            if len(marks) == 1 and marks != {"."}:
                return marks.pop()
        return None

    def free(self):
        return [(r, c) for r in range(3) for c in range(3) if self.cells[r][c] == "."]

    def over(self):
        return self.winner() is not None or not self.free()

    def after(self, row, column):
        cells = [list(line) for line in self.cells]
        cells[row][column] = self.mark()
        return Board(cells)

    def text(self):
        return "/".join("".join(row) for row in self.cells)


def all_boards():
    """Return every board that play can reach, by its text."""
    found, todo = {}, [Board()]
    while todo:
        board = todo.pop()
        if board.text() not in found:
            found[board.text()] = board
            if not board.over():
                todo += [board.after(*cell) for cell in board.free()]
    return found


BOARDS = all_boards()


def test_there_are_5478_reachable_positions():
    assert len(BOARDS) == 5478


def test_every_reachable_position_follows_the_slow_rules():
    for text, board in BOARDS.items():
        state = PLAIN.parse_position(text)
        assert PLAIN.position(state) == text
        if board.over():
            assert PLAIN.rules["to_play"](state) == TERMINAL
            points = {"X": [1, -1], "O": [-1, 1], None: [0, 0]}[board.winner()]
            assert PLAIN.points(state) == points
            continue
        assert PLAIN.rules["to_play"](state) == "XO".index(board.mark())
        assert PLAIN.legal(state) == [3 * row + column for row, column in board.free()]
        for row, column in board.free():
            child = PLAIN.copy(state)
            PLAIN.rules["apply_action"](child, 3 * row + column)
            assert PLAIN.position(child) == board.after(row, column).text()


def test_every_position_is_observed_as_my_stones_and_yours():
    planes, nothing = np.empty((2, 3, 3), np.float32), np.empty(0, np.float32)
    for text, board in BOARDS.items():
        if not board.over():
            PLAIN.rules["observe"](PLAIN.parse_position(text), planes, nothing)
            mine = board.mark()
            yours = "O" if mine == "X" else "X"
            for plane, mark in zip(planes, (mine, yours), strict=True):
                assert plane.tolist() == [[cell == mark for cell in row] for row in board.cells]


@kernel
def count_games(game, states, legal, counts, ends):
    """Walk the whole tree below states[0]; counts[d] nodes at depth d, ends[row] finished games."""
    depth = 0
    counts[0] = 1
    width = legal_actions(game, states[0], legal[0])
    place = np.int64(0)
    while depth >= 0:
        if place < width:
            states[depth + 1] = states[depth]
            apply_action(game, states[depth + 1], legal[depth, place])
            legal[depth, place] = -1
            depth += 1
            counts[depth] += 1
            place, width = 0, 0
            if to_play(game, states[depth]) == TERMINAL:
                ends[outcome(game, states[depth])] += 1
            else:
                width = legal_actions(game, states[depth], legal[depth])
        else:
            depth -= 1
            if depth >= 0:
                width = legal_actions(game, states[depth], legal[depth + 1])
                place = 0
                while place < width and legal[depth, place] < 0:
                    place += 1


def test_there_are_255168_games_and_as_many_of_each_length_and_end_as_known():
    counts, ends = np.zeros(11, np.int64), np.zeros(3, np.int64)
    states = GAME.states(11)
    GAME.rules["initial"](states[0], 0)
    count_games(GAME, states, np.zeros((11, 9), np.int32), counts, ends)
    assert counts.tolist() == [1, 9, 72, 504, 3024, 15120, 54720, 148176, 200448, 127872, 0]
    assert ends.tolist() == [131184, 77904, 46080]
    assert ends.sum() == 255168


def test_names_are_columns_and_rows_from_the_bottom():
    state = GAME.initial_state()
    names = [GAME.action_name(state, action) for action in GAME.legal(state)]
    assert names == ["a3", "b3", "c3", "a2", "b2", "c2", "a1", "b1", "c1"]
    assert GAME.parse_action(state, "b2") == 4
    with pytest.raises(IllegalAction, match="tictactoe: 'd4' is not a legal move here; allowed: a3"):
        GAME.parse_action(state, "d4")


def test_a_taken_cell_and_a_finished_game_allow_no_move():
    state = PLAIN.parse_position("XX./OO./...")
    with pytest.raises(IllegalAction, match="action 0 is not legal here; allowed: c3, c2, a1, b1, c1"):
        PLAIN.play(state, 0)
    PLAIN.play(state, 2)
    with pytest.raises(IllegalAction, match="allowed: none: the game is over"):
        PLAIN.play(state, 8)


def test_the_picture_shows_rows_from_the_top():
    assert PLAIN.render(PLAIN.parse_position("X../.O./..X")) == "X . .\n. O .\n. . X"


BAD = {
    "": "'' is not three rows of X, O and '.' with '/' between.",
    "XX": "'XX' is not three rows",
    "XOX/OXO/XO": "is not three rows",
    "XOX/OXO/X?.": "is not three rows",
    "OO./.../...": "has 0 X and 2 O; X moves first.",
    "XX./.../...": "has 2 X and 0 O; X moves first.",
    "XXX/OO./O..": "'XXX/OO./O..' goes on after a line of three.",
    "OOO/XX./X.X": "goes on after a line of three.",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_position_is_refused_with_its_reason(text):
    with pytest.raises(InvalidState, match=f"^tictactoe: .*{re.escape(BAD[text])}"):
        PLAIN.parse_position(text)
