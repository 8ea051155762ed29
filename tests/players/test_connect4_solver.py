"""Tests of `zeroloop.players.connect4_solver` against a plain solver written from the rulebook."""

from __future__ import annotations

import random

import numpy as np
import pytest

from zeroloop.compiled import INTERPRETED
from zeroloop.errors import ConfigError, InvalidState
from zeroloop.players.connect4_solver import FULL_COLUMN, Solver, parse_moves, solve_many

COLUMNS, ROWS = 7, 6
DIRECTIONS = [(1, 0), (0, 1), (1, 1), (1, -1)]

slow_as_python = pytest.mark.skipif(INTERPRETED, reason="millions of nodes")


@pytest.fixture(scope="module")
def solver():
    return Solver(table_megabytes=2)


def completes_four(board, column):
    row = len(board[column]) - 1
    player = board[column][row]
    for step_column, step_row in DIRECTIONS:
        length = 1
        for sign in (1, -1):
            c, r = column + sign * step_column, row + sign * step_row
            while 0 <= c < COLUMNS and 0 <= r < len(board[c]) and board[c][r] == player:
                length += 1
                c, r = c + sign * step_column, r + sign * step_row
        if length >= 4:
            return True
    return False


def plain_scores(board, known):
    """Score of every column for the side to move; the sooner a win, the higher its score."""
    played = sum(len(column) for column in board)
    scores = []
    for column in range(COLUMNS):
        if len(board[column]) == ROWS:
            scores.append(FULL_COLUMN)
            continue
        board[column].append(played % 2)
        if completes_four(board, column):
            stones_of_winner = played // 2 + 1
            scores.append(22 - stones_of_winner)
        elif played + 1 == COLUMNS * ROWS:
            scores.append(0)
        else:
            key = str(board)
            if key not in known:
                known[key] = max(plain_scores(board, known))
            scores.append(-known[key])
        board[column].pop()
    return scores


def play(text):
    """Columns from left to right, each the players (0 or 1) of its stones from the bottom up."""
    board = [[] for _ in range(COLUMNS)]
    for i, character in enumerate(text):
        board[int(character) - 1].append(i % 2)
    return board


def random_line(draw, stones):
    """Moves of a random game that is still open after `stones` stones and has a column left."""
    while True:
        board = [[] for _ in range(COLUMNS)]
        text = ""
        while len(text) < stones:
            column = draw.choice([c for c in range(COLUMNS) if len(board[c]) < ROWS])
            board[column].append(len(text) % 2)
            text += str(column + 1)
            if completes_four(board, column):
                break
        else:
            return text


def symmetric_line(draw, quads):
    """An open position that is its own mirror image: six stones in the middle, four per quad."""
    while True:
        text = "444444"
        for _ in range(quads):
            one, two = draw.choice("123"), draw.choice("123")
            text += one + two + mirror(one + two)
        board = [[] for _ in range(COLUMNS)]
        for i, character in enumerate(text):
            column = int(character) - 1
            board[column].append(i % 2)
            if len(board[column]) > ROWS or completes_four(board, column):
                break
        else:
            return text


def random_lines(count, stones):
    draw = random.Random(7)
    return [random_line(draw, stones[i % len(stones)]) for i in range(count)]


def signs(scores):
    return np.where(scores == FULL_COLUMN, FULL_COLUMN, np.sign(scores))


def mirror(text):
    return "".join(str(8 - int(character)) for character in text)


@pytest.mark.parametrize(
    "count, stones",
    [pytest.param(4, [26, 27], marks=pytest.mark.slow), (30, [28, 29, 30, 31]), (150, list(range(32, 42)))],
)
def test_solver_agrees_with_plain_negamax_on_late_positions(solver, count, stones):
    for text in random_lines(count, stones):
        expected = np.array(plain_scores(play(text), {}))
        position = parse_moves(text)
        assert (solver.column_scores(*position) == expected).all(), text
        assert (solver.column_values(*position) == signs(expected)).all(), text
        assert solver.score(*position) == expected.max(), text
        assert solver.value(*position) == np.sign(expected.max()), text


@slow_as_python
def test_best_column_has_the_score_of_the_position_and_its_sign_is_the_value(solver):
    for text in random_lines(40, [18, 19]):
        position = parse_moves(text)
        score = solver.score(*position)
        scores = solver.column_scores(*position)
        assert scores.max() == score, text
        assert solver.value(*position) == np.sign(score), text
        assert (solver.column_values(*position) == signs(scores)).all(), text


@slow_as_python
def test_mirror_image_has_mirrored_column_scores():
    one, other = Solver(1), Solver(1)
    for text in random_lines(40, [18, 19]):
        scores = one.column_scores(*parse_moves(text))
        assert (scores == other.column_scores(*parse_moves(mirror(text)))[::-1]).all(), text


def test_solver_agrees_with_plain_negamax_where_mirror_images_share_entries(solver):
    draw = random.Random(11)
    for _ in range(10):
        text = symmetric_line(draw, quads=6)
        expected = np.array(plain_scores(play(text), {}))
        assert (expected == expected[::-1]).all()
        assert (solver.column_scores(*parse_moves(text)) == expected).all(), text


@slow_as_python
def test_what_a_crowded_table_forgets_or_keeps_changes_no_score(solver):
    crowded = Solver(table_megabytes=1)
    positions = [parse_moves(text) for text in random_lines(120, [15, 16, 17])]
    scores = [crowded.score(*position) for position in positions]
    assert scores == [Solver(table_megabytes=8).score(*position) for position in positions]


@slow_as_python
def test_first_player_wins_after_six_stones_in_the_middle(solver):
    assert solver.value(*parse_moves("444444")) == 1


@pytest.mark.slow
@slow_as_python
def test_first_player_wins_from_the_empty_board_in_the_middle_only():
    """The known result of the whole game: the first player's win takes 41 stones."""
    assert Solver().column_scores(*parse_moves("")).tolist() == [-2, -1, 0, 1, 0, -1, -2]


def test_score_is_twenty_two_less_the_stones_of_the_winner(solver):
    assert solver.score(*parse_moves("121212")) == 22 - 4
    assert solver.score(*parse_moves("1212127")) == 22 - 4
    assert solver.score(*parse_moves("44335")) == -(22 - 4)
    assert solver.value(*parse_moves("44335")) == -1


@slow_as_python
def test_column_that_wins_at_once_scores_by_the_stones_on_the_board(solver):
    position = parse_moves("121212")
    assert solver.column_scores(*position)[0] == (43 - 6) // 2
    assert solver.column_values(*position)[0] == 1


def test_full_board_is_a_draw_without_moves(solver):
    draw = random.Random(7)
    position = parse_moves(random_line(draw, 42))
    assert solver.score(*position) == solver.value(*position) == 0
    assert (solver.column_scores(*position) == FULL_COLUMN).all()


def test_nodes_count_what_was_searched():
    solver = Solver(1)
    assert solver.nodes == 0
    for text in random_lines(10, [24, 25]):
        solver.score(*parse_moves(text))
    searched = solver.nodes
    assert searched > 0
    solver.score(*parse_moves("121212"))
    assert solver.nodes == searched


def test_solve_many_keeps_the_order_on_threads_and_reports_progress(solver):
    positions = [parse_moves(text) for text in random_lines(60, list(range(30, 40)))]
    done = []
    scores = solve_many(positions, "score", threads=2, progress=done.append, table_megabytes=1)
    assert scores.tolist() == [solver.score(*position) for position in positions]
    assert done == list(range(1, 61))
    columns = solve_many(positions, "column_values", threads=2, table_megabytes=1)
    assert columns.shape == (60, 7)
    assert (columns.max(axis=1) == np.sign(scores)).all()
    assert solve_many([], "column_scores", threads=1, table_megabytes=1).shape == (0, 7)


def test_solve_many_passes_the_error_of_a_position_on():
    with pytest.raises(InvalidState, match="two stones in one cell"):
        solve_many([(1, 1)], "score", threads=1, table_megabytes=1)


def test_parse_moves_puts_stones_from_the_bottom_of_their_columns_up():
    assert parse_moves("") == (0, 0)
    assert parse_moves("1") == (0, 1)
    assert parse_moves("117") == (1 << 1, 1 << 0 | 1 << 42)


@pytest.mark.parametrize(
    "text, message",
    [
        ("128", "Move 3 of the Connect Four moves '128' is '8', no column"),
        ("1a", "Move 2 of the Connect Four moves '1a' is 'a', no column"),
        ("0", "is '0', no column; allowed are the digits 1 to 7"),
        ("1111111", "Move 7 of the Connect Four moves '1111111' is '1', a full column"),
        ("12121213", "Move 8 of the Connect Four moves '12121213' is '3', but move 7 won"),
    ],
)
def test_parse_moves_says_which_move_is_wrong(text, message):
    with pytest.raises(InvalidState, match=message):
        parse_moves(text)


@pytest.mark.parametrize(
    "mine, theirs, fault",
    [
        (1 << 6, 0, "a stone off the board"),
        (1 << 49, 0, "a stone off the board"),
        (-1, 0, "a stone off the board"),
        (1, 1, "two stones in one cell"),
        (1 << 1, 1 << 7, "a stone above an empty cell"),
        (0b11, 0, "-2 more stones of the side that waits"),
        (1 << 7 | 1 << 14 | 1 << 21, 0b1111, "four in a row"),
    ],
)
def test_solver_refuses_what_no_open_game_shows(solver, mine, theirs, fault):
    for ask in (solver.score, solver.value, solver.column_scores, solver.column_values):
        with pytest.raises(InvalidState, match=fault):
            ask(mine, theirs)


def test_solver_refuses_a_table_of_no_megabytes():
    with pytest.raises(ConfigError, match="table_megabytes of the Connect Four solver is 0"):
        Solver(0)
