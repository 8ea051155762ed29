"""The three-player example plays by its rules, judged by a slow version of them, and is solved exactly."""

from __future__ import annotations

import numpy as np
import pytest

from tests.games import trails_slow as slow
from tests.games.trails_slow import CELLS, Position
from zeroloop.errors import IllegalAction, InvalidState
from zeroloop.games import TERMINAL
from zeroloop.games.check import check_game
from zeroloop.games.explain import plain_twin
from zeroloop.players.minimax import MinimaxPlayer


@pytest.fixture(scope="module")
def game():
    return slow.game()


def after(game, moves):
    """Return the example's state after moves such as `a1 b2`."""
    state = game.initial_state()
    for move in moves.split():
        game.play(state, game.parse_action(state, move))
    return state


def names(game, state):
    return " ".join(game.action_name(state, action) for action in game.legal(state))


def seat_to_move(game, state):
    return game.rules["to_play"](state)


@pytest.mark.slow
def test_example_keeps_the_laws(game):
    check_game(game, games=30)


def test_plays_like_the_slow_version(game):
    twin, rng, endings = plain_twin(game), np.random.default_rng(7), set()
    for _ in range(300):
        state, p = twin.initial_state(), Position()
        while p.mover >= 0:
            assert seat_to_move(twin, state) == p.mover
            assert twin.legal(state) == [CELLS.index(cell) for cell in slow.moves(p, p.mover)]
            action = int(rng.choice(twin.legal(state)))
            twin.play(state, action)
            p = slow.play(p, CELLS[action])
        assert seat_to_move(twin, state) == TERMINAL
        assert twin.points(state) == list(slow.points(p))
        endings.add(slow.points(p))
    assert len(endings) == 6  # every order of three seats


def test_a_snail_may_be_placed_on_any_free_cell(game):
    assert names(game, after(game, "")) == "a1 b1 c1 d1 a2 b2 c2 d2 a3 b3 c3 d3"
    assert names(game, after(game, "b1 c3")) == "a1 c1 d1 a2 b2 c2 d2 a3 b3 d3"


def test_a_snail_crawls_across_the_edges(game):
    assert names(game, after(game, "a1 c2 c3")) == "b1 d1 a2 a3"
    assert names(game, after(game, "d3 b1 b2")) == "d1 d2 a3 c3"


def test_trails_stay_taken(game):
    assert names(game, after(game, "a1 c2 c3 b1 d2 d3")) == "c1 b2 b3"


SHUT_IN = ".#../#A#B/C..# C -"
"""C may go to a1 or b3. The only free cell beside A is b3, the only one beside B is d1."""


def test_a_snail_that_is_shut_in_is_out_and_the_turn_passes_it_by(game):
    state = game.parse_position(SHUT_IN)
    assert names(game, state) == "a1 b3"
    for move, expected in (
        ("b3", ".#../#A#B/#C.# B A"),
        ("d1", ".#.B/#A##/#C.# C A"),
        ("c3", ".#.B/#A##/##C# B A"),
        ("c1", ".#B#/#A##/##C# - AC"),
    ):
        game.play(state, game.parse_action(state, move))
        assert game.position(state) == expected
    assert game.points(state) == [-1, 1, 0]


def test_solver_finds_what_was_worked_out_by_hand(game):
    """After b3, A is out and B shuts C in; after a1, C is the first one out and B shuts A in."""
    cells = dict(zip(CELLS, SHUT_IN.replace("/", ""), strict=False))
    taken = frozenset(cell for cell in CELLS if cells[cell] != ".")
    heads = tuple(next(cell for cell in CELLS if cells[cell] == snail) for snail in "ABC")
    p = Position(taken, heads, (), 2)
    assert slow.solutions(p) == {(-1, 1, 0)}
    assert slow.solutions(slow.play(p, (0, 0))) == {(0, 1, -1)}


def test_taken_cell_is_refused(game):
    with pytest.raises(IllegalAction, match="not a legal move here"):
        after(game, "a1 a1")


def test_position_text_reads_back_at_every_ply(game):
    rng = np.random.default_rng(3)
    for _ in range(50):
        state = game.initial_state()
        while True:
            assert game.parse_position(game.position(state)).tobytes() == state.tobytes()
            if not game.legal(state):
                break
            game.play(state, int(rng.choice(game.legal(state))))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "AB../..../...C A",
        "AB../...C A -",  # two rows
        "AB../..../...X A -",
        "AB../B.../...C A -",  # two snails of one seat
        "A.../..../...C C -",  # the third snail before the second
        "AB../..../.... A -",  # the third seat has no snail yet
        "AB#./..../.... C -",  # a trail before all snails are placed
        "AB../..../...C - -",  # nobody to move, nobody out
        "AB../..../...C A A",  # to move and out
        "AB../..../...C A B",  # out, but free to move
        "AB../..../...C A BB",
        "AB#B/####/##.C A -",
    ],
)
def test_impossible_position_is_refused(game, text):
    with pytest.raises(InvalidState, match="trails: "):
        game.parse_position(text)


@pytest.mark.slow
def test_solved_positions_are_solved_by_looking_to_the_end(game):
    states, exact, best = slow.solved_positions(game, 40, seed=5)
    assert len(np.unique(states)) == 40
    assert (np.sort(exact, 1) == [-1, 0, 1]).all()
    keys, plies = np.arange(40, dtype=np.uint64), np.zeros(40, np.int32)
    chosen = MinimaxPlayer(game, 12, seed=1).choose(states, keys, plies)
    kept = [int(action) in good for action, good in zip(chosen, best, strict=True)]
    assert np.mean(kept) > 0.9


@pytest.mark.slow
def test_heuristic_helps_and_is_not_enough(game):
    states, _, best = slow.solved_positions(game, 100, seed=5)
    keys, plies = np.arange(100, dtype=np.uint64), np.zeros(100, np.int32)
    chosen = MinimaxPlayer(game, 1, seed=1).choose(states, keys, plies)
    random = np.mean([len(good) / len(game.legal(s)) for s, good in zip(states, best, strict=True)])
    kept = np.mean([int(action) in good for action, good in zip(chosen, best, strict=True)])
    assert random < 0.45
    assert 0.55 < kept < 0.85
