"""The minimax player against a plain-Python lookahead, known answers and forced moves."""

from __future__ import annotations

import numpy as np
import pytest

from tests.toy_games import (
    ANSWERS,
    COIN_FLIP,
    LOSE_ONLY,
    MOVE_TWICE,
    THREE_WAY_VOTE,
    pick,
    random_tree,
)
from zeroloop.compiled import INTERPRETED
from zeroloop.errors import PlayerError
from zeroloop.games import make
from zeroloop.games.game import CHANCE, Game, Observation
from zeroloop.players.minimax import GUESS, HURRY, TIE, MinimaxPlayer

CONNECT4, TICTACTOE = make("connect4"), make("tictactoe")
slow_as_python = pytest.mark.skipif(INTERPRETED, reason="millions of nodes")


def with_heuristic(game, outcomes, heuristic):
    """The same rules with other points and a heuristic."""
    return Game(
        game.name,
        version=1,
        state_dtype=game.state_dtype,
        num_players=len(outcomes[0]),
        num_actions=game.num_actions,
        max_legal=game.max_legal,
        max_chance=game.max_chance,
        max_plies=game.max_plies,
        outcomes=outcomes,
        observation=Observation(globals=game.observation.globals),
        options=game.options,
        rules={**game.rules, "heuristic": heuristic},
    )


def blind(state, seat):
    return 0.0


def opinion(state, seat):
    """A multiple of a quarter that differs between the seats, so many values tie and some are 1."""
    return (pick(state, 40 + seat, 9) - 4) / 4.0


def quarters(players, zero_sum):
    points = np.random.default_rng(3).integers(-4, 5, (64, players)) / 4
    if zero_sum:
        points[:, 1] = -points[:, 0]
    return points.tolist()


ZERO_SUM = with_heuristic(random_tree(0, 2, 6), quarters(2, True), opinion)
PLAIN_SUM = with_heuristic(random_tree(0, 2, 6), quarters(2, False), opinion)
THREE = with_heuristic(random_tree(0, 3, 6), quarters(3, False), opinion)


def choose(game, depth, states, seed=0, ply=0):
    """One answer per state; the key is the place in the batch."""
    n = len(states)
    keys, plies = np.arange(n, dtype=np.uint64), np.full(n, ply, np.int32)
    return MinimaxPlayer(game, depth, seed).choose(states, keys, plies)


def batch(game, states):
    out = game.states(len(states))
    for i, state in enumerate(states):
        out[i] = state
    return out


def child(game, state, action):
    state = game.copy(state)
    game.rules["apply_action"](state, action)
    return state


def lookahead(game, state, left, made=0):
    """Each seat's value by the definition: max^n, expectation, heuristic after `left` decisions."""
    points = game.points(state)
    if points is not None:
        return np.array(points) / game.scale * (1 - HURRY * made)
    if game.rules["to_play"](state) == CHANCE:
        outcomes = game.chance(state)
        values = [lookahead(game, child(game, state, a), left, made) for a, _ in outcomes]
        return np.average(values, axis=0, weights=[p for _, p in outcomes])
    if left == 0:
        guess = [game.rules["heuristic"](state, seat) for seat in range(game.num_players)]
        if game.num_players == 2 and (game.outcomes.sum(1) == 0).all():
            guess[1] = -guess[0]
        return np.clip(guess, -GUESS, GUESS)
    values = [lookahead(game, child(game, state, a), left - 1, made + 1) for a in game.legal(state)]
    return max(values, key=lambda value: value[game.rules["to_play"](state)])


def tree_roots(game, n, most):
    """n states of a random tree from which a seat chooses, `most` plies before the end at most."""
    found, draw = [], np.random.default_rng(7)
    while len(found) < n:
        state = game.initial_state()
        state.path = draw.integers(2**63)
        state.depth = state.limit - draw.integers(1, most + 1)
        if game.rules["to_play"](state) >= 0 and len(game.legal(state)) > 1:
            found.append(state)
    return batch(game, found)


def random_positions(game, n, seed=0):
    """n states met in random play, all with a seat to move."""
    found, draw = [], np.random.default_rng(seed)
    while len(found) < n:
        state, line = game.initial_state(), []
        while game.rules["to_play"](state) >= 0:
            line.append(game.copy(state))
            game.play(state, int(draw.choice(game.legal(state))))
        found.append(line[draw.integers(len(line))])
    return batch(game, found)


@pytest.mark.parametrize("game", [ZERO_SUM, PLAIN_SUM, THREE], ids=["zero-sum", "two", "three"])
@pytest.mark.parametrize("depth", [1, 2, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_the_choice_has_the_value_that_the_definition_gives(game, depth):
    states = tree_roots(game, 20 if INTERPRETED else 150, 5)
    for state, action in zip(states, choose(game, depth, states), strict=True):
        seat = game.rules["to_play"](state)
        values = {a: lookahead(game, child(game, state, a), depth - 1, 1)[seat] for a in game.legal(state)}
        assert values[int(action)] >= max(values.values()) - TIE, (state, values)


@pytest.mark.slow
@slow_as_python
def test_pruning_changes_no_choice():
    """Connect Four's heuristic is exactly opposed, so a full search sees the same values."""
    states = random_positions(CONNECT4, 100, seed=2)
    keys, plies = np.arange(100, dtype=np.uint64), np.zeros(100, np.int32)
    full, pruned = MinimaxPlayer(CONNECT4, 5), MinimaxPlayer(CONNECT4, 5)
    assert pruned._zero_sum
    full._zero_sum = False
    assert (full.choose(states, keys, plies) == pruned.choose(states, keys, plies)).all()


@pytest.mark.parametrize("game", [COIN_FLIP, LOSE_ONLY, MOVE_TWICE, THREE_WAY_VOTE])
def test_a_search_to_the_end_finds_the_known_answer(game):
    """Of lose_only's actions, which all lose, it is the one that loses last."""
    best = next(answer for known, answer, _ in ANSWERS if known is game)
    seeing = with_heuristic(game, game.outcomes.tolist(), blind)
    states = batch(seeing, [seeing.initial_state()] * 10)
    assert (choose(seeing, 4, states) == best).all()
    assert (choose(seeing, 12, states) == best).all()


def test_chance_after_the_last_decision_is_looked_through():
    seeing = with_heuristic(COIN_FLIP, COIN_FLIP.outcomes.tolist(), blind)
    assert (choose(seeing, 1, batch(seeing, [seeing.initial_state()])) == 1).all()


@slow_as_python
@pytest.mark.parametrize("seat", [0, 1])
def test_tic_tac_toe_to_the_end_is_never_lost_whatever_the_other_seat_replies(seat):
    front, ply, ends = [TICTACTOE.initial_state()], 0, 0
    while front:
        states = batch(TICTACTOE, front)
        if ply % 2 == seat:
            moves = [[int(a)] for a in choose(TICTACTOE, 9, states, ply=ply)]
        else:
            moves = [TICTACTOE.legal(state) for state in states]
        front = [child(TICTACTOE, s, a) for s, some in zip(states, moves, strict=True) for a in some]
        over = [TICTACTOE.points(state) for state in front]
        assert all(points is None or points[seat] >= 0 for points in over)
        ends += sum(points is not None for points in over)
        front = [state for state, points in zip(front, over, strict=True) if points is None]
        ply += 1
    assert ends > 50


@pytest.mark.parametrize(
    "depth", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow)]
)
def test_connect_four_is_won_at_once_and_immediate_losses_are_blocked(depth):
    states = random_positions(CONNECT4, 20 if INTERPRETED else 400)
    wins = blocks = 0

    def winning(state):
        seat = CONNECT4.rules["to_play"](state)
        ends = {a: CONNECT4.points(child(CONNECT4, state, a)) for a in CONNECT4.legal(state)}
        return {a for a, points in ends.items() if points and points[seat] > 0}

    for state, action in zip(states, choose(CONNECT4, depth, states), strict=True):
        if winning(state):
            wins += 1
            assert int(action) in winning(state)
        elif depth > 1:
            safe = {a for a in CONNECT4.legal(state) if not winning(child(CONNECT4, state, a))}
            blocks += 0 < len(safe) < len(CONNECT4.legal(state))
            assert not safe or int(action) in safe
    assert wins > len(states) / 20 and (depth == 1 or blocks > len(states) / 20)


def test_equal_actions_are_equally_frequent():
    """Between two corners O must take an edge, and any will do; 3 sigma of 400 draws of 1/4."""
    state = TICTACTOE.parse_position("X../.O./..X")
    edges = [1, 3, 5, 7]
    values = [lookahead(TICTACTOE, child(TICTACTOE, state, a), 3, 1)[1] for a in TICTACTOE.legal(state)]
    best = [a for a, v in zip(TICTACTOE.legal(state), values, strict=True) if v == max(values)]
    assert best == edges
    seen = np.bincount(choose(TICTACTOE, 4, batch(TICTACTOE, [state] * 400)), minlength=9)
    assert seen[edges].sum() == 400
    assert (np.abs(seen[edges] - 100) <= 3 * (400 * 3 / 16) ** 0.5).all(), seen


def test_seed_key_and_ply_each_change_the_draw_among_equal_actions():
    states = batch(TICTACTOE, [TICTACTOE.parse_position("X../.O./..X")] * 20)
    keys, plies = np.arange(20, dtype=np.uint64), np.full(20, 3, np.int32)
    base = MinimaxPlayer(TICTACTOE, 2).choose(states, keys, plies)
    assert (MinimaxPlayer(TICTACTOE, 2, seed=1).choose(states, keys, plies) != base).any()
    assert (MinimaxPlayer(TICTACTOE, 2).choose(states, keys + np.uint64(20), plies) != base).any()
    assert (MinimaxPlayer(TICTACTOE, 2).choose(states, keys, plies + np.int32(1)) != base).any()


def test_the_answer_does_not_depend_on_the_batch():
    states = random_positions(CONNECT4, 40, seed=1)
    keys = np.arange(40, dtype=np.uint64) + np.uint64(2**63)
    plies = states["plies"].astype(np.int32)
    player = MinimaxPlayer(CONNECT4, 3, seed=5)
    before = states.tobytes()
    actions = player.choose(states, keys, plies)
    assert actions.dtype == np.int32
    assert states.tobytes() == before
    order = np.random.default_rng(1).permutation(40)
    assert (player.choose(states[order], keys[order], plies[order]) == actions[order]).all()
    alone = [player.choose(states[i : i + 1], keys[i : i + 1], plies[i : i + 1]) for i in range(40)]
    assert (np.concatenate(alone) == actions).all()


def test_a_game_without_heuristic_is_refused():
    with pytest.raises(PlayerError, match="coin_flip.*heuristic"):
        MinimaxPlayer(COIN_FLIP, 2)


@pytest.mark.parametrize("depth", [-1, 0, 13])
def test_a_depth_out_of_range_is_refused(depth):
    with pytest.raises(PlayerError, match="1..12"):
        MinimaxPlayer(TICTACTOE, depth)


def test_the_name_says_the_depth():
    assert MinimaxPlayer(TICTACTOE, 4).name == "minimax:4"
