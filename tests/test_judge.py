"""The judge: grading on hand-made values, and files of positions whose bad lines are named."""

from __future__ import annotations

import numpy as np
import pytest

from tests.material import CONNECT4, TICTACTOE, Scripted, lowest
from tests.toy_games import WIN_NOW
from zeroloop.errors import InvalidState, StoreError
from zeroloop.judge import (
    Judged,
    ask,
    drawn_positions,
    grade,
    judged_from_file,
    judged_positions,
    read_positions,
)
from zeroloop.players.solvers import ILLEGAL, solver_for
from zeroloop.rating import wilson

X = ILLEGAL


def judged(values, scored=False, game=TICTACTOE):
    return Judged(game.states(len(values)), np.array(values, np.int32), scored)


# --- grading ------------------------------------------------------------------------------------


def test_choice_is_where_some_legal_move_changes_the_value():
    values = [
        [3, 1, 5],  # all win: no choice
        [3, -1, X],  # a win may be lost
        [0, 0, X],  # all draw, the illegal one does not count
        [-2, -5, -9],  # all lose
        [0, -4, X],
        [X, 7, X],  # forced
        [0, 2, 0],
    ]
    assert judged(values).choice.tolist() == [False, True, False, False, True, False, True]


def test_kept_values_are_counted_by_sign_and_apart_where_there_is_a_choice():
    values = [[3, 1, -5], [3, 1, -5], [0, 0, X], [-2, -5, X], [0, -4, X], [0, -4, X]]
    found = grade(judged(values), [0, 2, 1, 1, 0, 1])
    assert (found.positions, found.positions_with_a_choice) == (6, 4)
    assert found.value_preserving_rate == pytest.approx(4 / 6)
    assert found.rate_with_a_choice == pytest.approx(2 / 4)
    assert found.interval == wilson(4, 6)
    assert found.interval_with_a_choice == wilson(2, 4)
    assert found.optimal_rate is None


def test_slower_win_keeps_the_value_but_is_not_optimal():
    values = [[9, 3, -1], [9, 3, -1], [-2, -8, X], [-2, -8, X]]
    found = grade(judged(values, scored=True), [0, 1, 0, 1])
    assert found.value_preserving_rate == 1.0
    assert found.optimal_rate == 0.5
    assert (found.positions_with_a_choice, found.rate_with_a_choice) == (2, 1.0)


def test_any_of_several_equal_best_moves_is_optimal():
    values = [[4, 4, -1]] * 3
    found = grade(judged(values, scored=True), [0, 1, 2])
    assert found.optimal_rate == pytest.approx(2 / 3)
    assert found.value_preserving_rate == pytest.approx(2 / 3)


def test_illegal_choice_keeps_nothing_even_where_all_is_lost():
    found = grade(judged([[-1, X, -3], [0, X, 0], [5, X, 5]], scored=True), [1, 1, 1])
    assert found.value_preserving_rate == 0.0 and found.optimal_rate == 0.0


def test_without_any_choice_its_rate_is_absent():
    found = grade(judged([[1, 1, X], [-1, X, -1]]), [0, 0])
    assert (found.rate_with_a_choice, found.interval_with_a_choice) == (None, None)
    plain = found.plain()
    assert plain["interval"] == list(wilson(2, 2)) and plain["interval_with_a_choice"] is None


def test_player_is_asked_about_each_position_as_a_game_of_its_own():
    player = Scripted(TICTACTOE, lowest)
    states = TICTACTOE.states(3)
    states[1] = TICTACTOE.parse_position("X../.../...")
    assert ask(player, states).tolist() == [0, 1, 0]
    assert [(key, ply) for _, key, ply in player.asked] == [(0, 0), (1, 0), (2, 0)]


# --- files --------------------------------------------------------------------------------------


def write(tmp_path, text):
    path = tmp_path / "positions.txt"
    path.write_text(text)
    return path


def refused(game, path, match):
    with pytest.raises(InvalidState, match=match) as caught:
        read_positions(game, path)
    return str(caught.value)


def test_positions_are_the_states_after_their_moves(tmp_path):
    path = write(tmp_path, "44 0\n\n4455 -3\n  1 18  \n")
    states, _, numbers = read_positions(CONNECT4, path)
    assert states["plies"].tolist() == [2, 4, 1] and numbers == [[0], [-3], [18]]
    assert CONNECT4.position(states[2]) == "7/7/7/7/7/X6 O"


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        ("44", "has 1 fields"),
        ("44 1 2", "has 3 fields"),
        ("44 x", "whole numbers"),
        ("44 1.5", "whole numbers"),
        ("48 1", "move 2 of '48', '8', is not legal; allowed: 1, 2"),
        ("4444444 1", "move 7 of .* is not legal"),
        ("1212121 1", "game is over after"),
        ("12121212 1", "move 8 .* the game is already over"),
        ("44 1 2 3 4 5 6 7", "has 8 fields, the first has 2"),
        ("44 43", r"the score is 43; it must lie in -42\.\.42"),
        ("44 -1000", r"the score is -1000; it must lie in -42\.\.42"),
        (f"44 {10**400}", r"the score is 10{16}\.\.\.; it must lie in"),
        (f"44 {'9' * 5000}", "whole numbers"),
    ],
)
def test_bad_line_is_named_with_its_file_and_number(tmp_path, bad, fault):
    path = write(tmp_path, f"44 0\n\n{bad}\n4 1\n")
    told = refused(CONNECT4, path, fault)
    assert told.startswith(f"{path}:3: ") and told.endswith(".") and "\n" not in told


def test_empty_file_and_absent_file_are_refused(tmp_path):
    refused(CONNECT4, write(tmp_path, "\n  \n"), "holds no positions")
    with pytest.raises(StoreError, match=r"absent\.txt cannot be read"):
        read_positions(CONNECT4, tmp_path / "absent.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StoreError, match="binary cannot be read as text"):
        read_positions(CONNECT4, tmp_path / "binary")


def test_lines_with_a_score_per_move_are_taken_as_they_are(tmp_path):
    """An action that is not legal has -1000; the scores give an optimal rate."""
    path = write(tmp_path, "444444 -2 -1 0 -1000 0 -1 -2\n4 -4 -2 -2 -1 -2 -2 -4\n")
    found = judged_from_file(CONNECT4, path, 0, print)
    assert found.scored and found.values[0].tolist() == [-2, -1, 0, ILLEGAL, 0, -1, -2]
    assert found.choice.tolist() == [True, False]
    assert judged_from_file(CONNECT4, path, 1, print).values.shape == (1, 7)


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        ("444444 -2 -1 0 3 0 -1 -2", "score 4 of 7 is 3, but that move is not legal; write -1000"),
        ("444444 -2 -1 -1000 -1000 0 -1 -2", "score 3 of 7 is -1000, but that move is legal"),
        ("44" + 7 * " -1000", "score 1 of 7 is -1000, but that move is legal"),
        ("44 0 0 0 0 0 0 43", r"score 7 of 7 is 43; it must lie in -42\.\.42"),
        ("44 0 0 0 0 0 0 -999", r"score 7 of 7 is -999; it must lie in -42\.\.42"),
        ("44 0 0 0 0 0 0 99999999999", "score 7 of 7 is 99999999999; it must lie in"),
    ],
)
def test_bad_score_of_a_move_is_named_with_its_file_and_number(tmp_path, bad, fault):
    path = write(tmp_path, f"444444 -2 -1 0 -1000 0 -1 -2\n\n{bad}\n")
    told = refused(CONNECT4, path, fault)
    assert told.startswith(f"{path}:3: ") and told.endswith(".") and "\n" not in told


class OneLetter:
    """TicTacToe with cells named 1 to 9, as files of positions need it."""

    def __getattr__(self, name):
        return getattr(TICTACTOE, name)

    def action_name(self, state, action):
        return str(action + 1)


def test_single_scores_are_checked_against_the_solver(tmp_path, monkeypatch):
    game = OneLetter()
    monkeypatch.setattr("zeroloop.judge.solver_for", lambda g: solver_for(TICTACTOE))
    told = []
    found = judged_from_file(game, write(tmp_path, "1 0\n1425 1\n"), 0, told.append)
    assert not found.scored and len(told) == 1
    assert found.values[1].max() == 1 and found.choice.tolist() == [True, True]
    path = write(tmp_path, "1 0\n\n\n1425 0\n")
    with pytest.raises(InvalidState, match=r"score 0 is not what the solver finds") as caught:
        judged_from_file(game, path, 0, told.append)
    assert str(caught.value).startswith(f"{path}:4: "), "blank lines count"


def test_single_scores_need_a_solver(tmp_path, monkeypatch):
    monkeypatch.setattr("zeroloop.judge.solver_for", lambda g: None)
    with pytest.raises(InvalidState, match="connect4 has no solver"):
        judged_from_file(CONNECT4, write(tmp_path, "4 1\n"), 0, print)


# --- drawn positions ----------------------------------------------------------------------------


def test_drawn_positions_are_distinct_undecided_and_the_same_again():
    solver = solver_for(TICTACTOE)
    found = drawn_positions(TICTACTOE, 60, solver, seed=1)
    assert len({s.tobytes() for s in found.states}) == len(found.states) == 60
    low, high = solver.plies
    for state, values in zip(found.states, found.values, strict=True):
        legal = TICTACTOE.legal(state)
        assert legal and low <= state["plies"] <= high
        assert np.flatnonzero(values != ILLEGAL).tolist() == legal
    again, other = (drawn_positions(TICTACTOE, 60, solver, seed=s) for s in (1, 2))
    np.testing.assert_array_equal(again.states, found.states)
    np.testing.assert_array_equal(again.values, found.values)
    assert (other.states != found.states).any()


def test_positions_of_a_run_are_solved_once_and_kept(tmp_path):
    told = []
    first = judged_positions(TICTACTOE, 20, tmp_path, lambda *x: told.append(x))
    second = judged_positions(TICTACTOE, 20, tmp_path, lambda *x: told.append(x))
    assert len(told) == 1
    np.testing.assert_array_equal(first.states, second.states)
    np.testing.assert_array_equal(first.values, second.values)
    assert second.states.dtype == TICTACTOE.state_dtype


def test_games_without_a_solver_have_no_judged_positions(tmp_path):
    assert judged_positions(WIN_NOW, 20, tmp_path, print) is None
    assert judged_positions(TICTACTOE, 0, tmp_path, print) is None
    assert list(tmp_path.iterdir()) == []
