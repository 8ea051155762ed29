"""The Hex solver agrees with exhaustion on small boards and with known facts on larger ones."""

from __future__ import annotations

import functools
import random

import numpy as np
import pytest

from zeroloop.compiled import INTERPRETED
from zeroloop.errors import ConfigError, InvalidState, PlayerError
from zeroloop.games import make
from zeroloop.games.explain import plain_twin
from zeroloop.players.hex_solver import ILLEGAL, HexSolver

slow_as_python = pytest.mark.skipif(INTERPRETED, reason="millions of nodes")

# The rules and their full solution, slowly. A board is a text of cells by rows: 0, 1 or '.'.


@functools.cache
def beside(size):
    steps = [(0, 1), (0, -1), (1, 0), (-1, 0), (-1, 1), (1, -1)]
    return [
        [
            (row + down) * size + column + right
            for down, right in steps
            if 0 <= row + down < size and 0 <= column + right < size
        ]
        for row in range(size)
        for column in range(size)
    ]


def joined(board, size, seat):
    """Whether the seat's stones lead from the first row to the last (0), or the columns (1)."""
    edge = [cell for cell in range(size * size) if divmod(cell, size)[seat] == 0]
    found, left = set(), [cell for cell in edge if board[cell] == str(seat)]
    while left:
        cell = left.pop()
        if cell not in found:
            found.add(cell)
            left += [near for near in beside(size)[cell] if board[near] == str(seat)]
    return any(divmod(cell, size)[seat] == size - 1 for cell in found)


@functools.cache
def wins(board, size, mover):
    """Whether the seat to move wins a board that is not decided."""
    return any(wins_by(board, size, mover, cell) for cell in range(size * size) if board[cell] == ".")


def wins_by(board, size, mover, cell):
    after = board[:cell] + str(mover) + board[cell + 1 :]
    return joined(after, size, mover) or not wins(after, size, 1 - mover)


def board_of(state, size):
    cells = []
    for row in range(size):
        for column in range(size):
            owners = [str(seat) for seat in (0, 1) if int(state.stones[seat, row]) >> column & 1]
            cells.append(owners[0] if owners else ".")
    return "".join(cells)


def action_on(cell, size, mover):
    row, column = divmod(cell, size)
    return cell if mover == 0 else column * size + row


def open_positions(game):
    """Every position that a game can come to and in which a seat is to move."""
    start = game.initial_state()
    found, left = {start.tobytes(): start}, [start]
    while left:
        state = left.pop()
        for action in game.legal(state):
            child = game.copy(state)
            game.rules["apply_action"](child, action)
            if not child.over and child.tobytes() not in found:
                found[child.tobytes()] = child
                left.append(child)
    return np.array(list(found.values()), game.state_dtype)


def slow_values(state, size):
    """Values of the actions by exhaustion, as the solver writes them."""
    out, mover, board = [ILLEGAL] * size**2, int(state.mover), board_of(state, size)
    for cell in range(size * size):
        if board[cell] == ".":
            out[action_on(cell, size, mover)] = 1 if wins_by(board, size, mover, cell) else -1
    return out


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_values_of_every_position_and_every_move_are_those_of_exhaustion(size):
    game = make("hex", size=size)
    states = open_positions(plain_twin(game))
    solver = HexSolver(game, table_megabytes=1)
    values, moves = solver.values(states), solver.action_values(states)
    for i, state in enumerate(states):
        assert moves[i].tolist() == slow_values(state, size)
        assert values[i] == moves[i].max()
    assert (HexSolver(game, table_megabytes=1).values(states) == values).all()


def random_states(game, count, plies, seed):
    """Undecided positions after so many random plies."""
    twin, rng, found = plain_twin(game), random.Random(seed), []
    while len(found) < count:
        state = twin.initial_state()
        for _ in range(rng.choice(plies)):
            if twin.legal(state):
                twin.rules["apply_action"](state, rng.choice(twin.legal(state)))
        if not state.over:
            found.append(state)
    return np.array(found, game.state_dtype)


@pytest.mark.parametrize(
    "size, plies",
    [
        pytest.param(4, [6, 7, 8], marks=pytest.mark.slow),
        pytest.param(5, [15, 16, 17], marks=pytest.mark.slow),
    ],
)
def test_values_of_random_positions_are_those_of_exhaustion(size, plies):
    game = make("hex", size=size)
    states = random_states(game, 40, plies, seed=size)
    moves = HexSolver(game, table_megabytes=1).action_values(states)
    for i, state in enumerate(states):
        assert moves[i].tolist() == slow_values(state, size)


OPENINGS = {
    2: ". X / X .",
    3: ". . X / X X X / X . .",
    4: ". . . X / . . X . / . X . . / X . . .",
    5: ". . . . X / . X X X X / . X X X . / X X X X . / X . . . .",
}
"""Where the first stone wins, by rows; the two smallest also by exhaustion below."""


@slow_as_python
@pytest.mark.parametrize("size", OPENINGS)
def test_openings_win_where_they_are_known_to(size):
    game = make("hex", size=size)
    values = HexSolver(game).action_values(np.array([plain_twin(game).initial_state()]))[0]
    marks = ["X" if value == 1 else "." for value in values]
    rows = [" ".join(marks[row * size : (row + 1) * size]) for row in range(size)]
    assert " / ".join(rows) == OPENINGS[size]
    # Half a turn of the board is the same game, and somebody who moves first can win (Nash).
    assert (values == values[::-1]).all() and values.max() == 1


@pytest.mark.parametrize("size", [2, 3])
def test_openings_of_tiny_boards_by_exhaustion(size):
    found = ["X" if wins_by("." * size**2, size, 0, cell) else "." for cell in range(size * size)]
    assert found == [mark for mark in OPENINGS[size] if mark in "X."]


@slow_as_python
@pytest.mark.parametrize("size", [4, 5])
def test_an_extra_stone_never_hurts_its_owner(size):
    game = make("hex", size=size)
    solver, rng = HexSolver(game), random.Random(2)
    states = random_states(game, 40, [7, 8, 9], seed=3)
    before = solver.values(states)
    more = states.copy()
    for state in more:
        board = board_of(state, size)
        cells = [cell for cell in range(size * size) if board[cell] == "."]
        rng.shuffle(cells)
        for cell in cells:
            after = board[:cell] + str(state.mover) + board[cell + 1 :]
            if not joined(after, size, int(state.mover)):
                row, column = divmod(cell, size)
                state.stones[int(state.mover), row] |= 1 << column
                break
    assert (solver.values(more) >= before).all()


@slow_as_python
def test_a_crowded_table_changes_no_value():
    game = make("hex", size=5)
    states = random_states(game, 60, [6, 7, 8], seed=5)
    crowded, roomy = HexSolver(game, table_megabytes=1), HexSolver(game, table_megabytes=16)
    assert (crowded.action_values(states) == roomy.action_values(states)).all()


# The swap rule.


def slow_swap_value(game, state):
    """The value for the seat to move by exhaustion over the game's own moves, swap included."""
    best, mover = -1, int(state.mover)
    for action in game.legal(state):
        child = game.copy(state)
        game.rules["apply_action"](child, action)
        if child.over:
            value = 1 if child.over == 1 + mover else -1
        elif child.swap:
            value = -slow_swap_value(game, child)
        else:
            value = -1 if wins(board_of(child, 3), 3, int(child.mover)) else 1
        best = max(best, value)
    return best


def test_the_swap_rule_makes_every_opening_lose():
    game = make("hex", size=3, swap=True)
    twin, solver = plain_twin(game), HexSolver(game, table_megabytes=1)
    start = twin.initial_state()
    assert solver.values(np.array([start]))[0] == slow_swap_value(twin, start) == -1
    assert (solver.action_values(np.array([start])) == -1).all()
    for action in range(9):
        after = twin.copy(start)
        twin.rules["apply_action"](after, action)
        assert solver.values(np.array([after]))[0] == slow_swap_value(twin, after) == 1


def test_the_swap_is_right_after_an_opening_that_wins_and_wrong_after_one_that_loses():
    game = make("hex", size=3, swap=True)
    twin, solver = plain_twin(game), HexSolver(game, table_megabytes=1)
    for opening, right in (("b2", True), ("a1", False)):
        state = twin.parse_position(opening)
        values = solver.action_values(np.array([state]))[0]
        assert ILLEGAL not in values
        assert (values[twin.parse_action(state, "swap")] == 1) == right
        assert (np.delete(values, twin.parse_action(state, "swap")) == 1).any() != right


# What is refused.


def test_a_finished_game_is_refused():
    game = make("hex", size=2)
    state = plain_twin(game).parse_position("a1 b1 a2")
    for ask in (HexSolver(game, 1).values, HexSolver(game, 1).action_values):
        with pytest.raises(InvalidState, match=r"hex\(size=2, swap=False\): 'a1 b1 a2' is over"):
            ask(np.array([state]))


def test_another_game_a_large_board_and_no_memory_are_refused():
    with pytest.raises(PlayerError, match="cannot solve connect4; it solves hex up to size=5"):
        HexSolver(make("connect4"))
    with pytest.raises(PlayerError, match=r"hex\(size=6, swap=False\) is too large for the Hex solver"):
        HexSolver(make("hex", size=6))
    with pytest.raises(ConfigError, match="table_megabytes of the Hex solver is 0; allowed is 1 or more"):
        HexSolver(make("hex", size=3), table_megabytes=0)
