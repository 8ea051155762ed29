"""The mcts player against UCB1 and uniform play by their definitions, and on known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.toy_games import (
    ANSWERS,
    COIN_FLIP,
    FORCED,
    MOVE_TWICE,
    THREE_WAY_VOTE,
    WIN_IN_TWO,
    exact_value,
    random_tree,
    toy,
)
from zeroloop.compiled import INTERPRETED
from zeroloop.errors import PlayerError
from zeroloop.games import make
from zeroloop.games.game import CHANCE, TERMINAL
from zeroloop.players import mcts
from zeroloop.players.mcts import MctsPlayer

CONNECT4, TREE = make("connect4"), random_tree(0, 3, 6)
PAYS = (0.9, 0.5, -1.0, 0.4)
slow_as_python = pytest.mark.skipif(INTERPRETED, reason="minutes of playouts")
KNOWN = [WIN_IN_TWO, COIN_FLIP, MOVE_TWICE, THREE_WAY_VOTE, FORCED]


def bandit():
    """Four arms that pay a fixed sum at once: what UCB1 does is arithmetic."""

    def to_play(state):
        return 0 if state.plies == 0 else TERMINAL

    def legal_actions(state, out):
        for i in range(4):
            out[i] = i
        return 4

    def outcome(state):
        return state.moves

    rules = {"to_play": to_play, "legal_actions": legal_actions, "outcome": outcome}
    facts = {"num_actions": 4, "max_legal": 4, "max_plies": 1}
    return toy("bandit", [[x, -x] for x in PAYS], rules, **facts)


def endless():
    """Seat 0 passes or ends the game for a loss; the passes have no end."""

    def to_play(state):
        return TERMINAL if state.plies > 0 and state.moves & 7 == 1 else 0

    def legal_actions(state, out):
        out[0] = 0
        out[1] = 1
        return 2

    def outcome(state):
        return 0

    rules = {"to_play": to_play, "legal_actions": legal_actions, "outcome": outcome}
    facts = {"num_actions": 2, "max_legal": 2, "max_plies": 5}
    return toy("endless", [[-1, 1]], rules, **facts)


def batch(game, states):
    out = game.states(len(states))
    for i, state in enumerate(states):
        out[i] = state
    return out


def choose(game, simulations, states, seed=0):
    """One answer per state; the key is the place in the batch."""
    n = len(states)
    keys, plies = np.arange(n, dtype=np.uint64), np.zeros(n, np.int32)
    return MctsPlayer(game, simulations, seed).choose(states, keys, plies)


def tree_after(game, simulations, exploration):
    """The tree of a search from the start."""
    tree = mcts.make_tree(game, simulations)
    states = batch(game, [game.initial_state()])
    keys, plies, actions = np.zeros(1, np.uint64), np.zeros(1, np.int32), np.zeros(1, np.int32)
    rest = (np.uint64(0), simulations, tree, states, keys, plies, actions)
    mcts.choose_actions(game, exploration, game.max_plies, 0.0, *rest)
    return tree.nodes


def children(nodes, n):
    """Node numbers of a node's children, by action."""
    found, c = {}, int(nodes["first_child"][n])
    while c >= 0:
        found[int(nodes["action"][c])] = c
        c = int(nodes["sibling"][c])
    return found


def uniform_value(game, state):
    """Each seat's expected value when all play uniformly, and the value's variance."""
    points = game.points(state)
    if points is not None:
        value = np.array(points) / game.scale
        return value, value**2
    edges = game.chance(state) or [(a, 1.0) for a in game.legal(state)]
    total = sum(p for _, p in edges)
    mean, square = np.zeros(game.num_players), np.zeros(game.num_players)
    for action, p in edges:
        child = game.copy(state)
        game.rules["apply_action"](child, action)
        m, s = uniform_value(game, child)
        mean, square = mean + p / total * m, square + p / total * s
    return mean, square


@pytest.mark.parametrize("exploration", [0.5, 1.0])
def test_the_visits_of_fixed_payments_are_those_of_ucb1(exploration):
    nodes = tree_after(bandit(), 500, exploration)
    visits = np.ones(4)
    while visits.sum() < 500:
        scores = PAYS + exploration * np.sqrt(math.log(visits.sum()) / visits)
        visits[scores.argmax()] += 1
    found = children(nodes, 0)
    assert [nodes["visits"][found[a]] for a in range(4)] == visits.tolist()
    sums = [nodes["value_sum"][found[a]] for a in range(4)]
    assert np.allclose(sums, visits * PAYS, atol=1e-4)


def test_unvisited_actions_come_first_and_in_no_fixed_order():
    game = bandit()
    states = batch(game, [game.initial_state()] * 400)
    assert (choose(game, 4, states) == 0).all()  # each once, and then the best mean
    seen = np.bincount(choose(game, 1, states), minlength=4)
    assert (np.abs(seen - 100) <= 3 * (400 * 3 / 16) ** 0.5).all(), seen


def test_chance_outcomes_are_visited_by_their_probability():
    n = 500 if INTERPRETED else 5000
    nodes = tree_after(COIN_FLIP, n, 1.0)
    gamble = children(nodes, 0)[1]
    total = nodes["visits"][gamble]
    assert nodes["to_play"][gamble] == CHANCE and total > n / 4
    # The first visit of a gamble ends in a playout, so its outcome has no node yet.
    found = children(nodes, gamble)
    for outcome, p in enumerate([0.5, 0.3, 0.2]):
        sigma = (total * p * (1 - p)) ** 0.5
        assert abs(nodes["visits"][found[outcome]] - total * p) <= 3 * sigma + 1


@pytest.mark.slow
def test_playouts_are_uniform_over_actions_and_follow_the_chances():
    """Mean playout values against the exact expectation, at 3 sigma, for seats of several roots."""
    draw, n, checked = np.random.default_rng(3), 300 if INTERPRETED else 20000, 0
    tree = mcts.make_tree(TREE, 1)
    while checked < 5:
        state = TREE.initial_state()
        state.path = draw.integers(2**63)
        state.depth = 2
        if TREE.rules["to_play"](state) == TERMINAL:
            continue
        checked += 1
        mean, square = uniform_value(TREE, state)
        total = np.zeros(3)
        for i in range(n):
            tree.state[0] = state
            tree.stream[0] = i * 2**40
            mcts.play_out(TREE, tree, TREE.max_plies, 0.0)
            total += tree.values
        sigma = np.sqrt((square - mean**2) / n)
        assert (np.abs(total / n - mean) <= 3 * sigma + 1e-6).all()


@pytest.mark.parametrize("game", KNOWN, ids=[game.name for game in KNOWN])
def test_the_known_answers_are_found(game):
    """Simulations enough for coin_flip, where a tenth of a point decides."""
    answer = next(best for known, best, _ in ANSWERS if known is game)
    states = batch(game, [game.initial_state()] * (1 if INTERPRETED else 20))
    assert (choose(game, 3000, states) == answer).all()


def after(game, state, action):
    state = game.copy(state)
    game.rules["apply_action"](state, action)
    return state


@slow_as_python
def test_the_choice_in_a_random_tree_is_nearly_the_best_nine_times_in_ten():
    """Three seats and chance nodes; within 0.05 of the best exact value.

    Nine in ten because UCT may take very long to come back to an action that playouts slander.
    """
    found, near, draw = [], 0, np.random.default_rng(5)
    while len(found) < 60:
        state = TREE.initial_state()
        state.path = draw.integers(2**63)
        state.depth = 3
        if TREE.rules["to_play"](state) >= 0 and len(TREE.legal(state)) > 1:
            found.append(state)
    for state, chosen in zip(found, choose(TREE, 5000, batch(TREE, found)), strict=True):
        seat = TREE.rules["to_play"](state)
        values = {a: exact_value(TREE, after(TREE, state, a))[seat] for a in TREE.legal(state)}
        near += values[int(chosen)] >= max(values.values()) - 0.05
    assert near >= 54


def winning(state):
    """The actions of Connect Four that win at once."""
    seat = CONNECT4.rules["to_play"](state)
    ends = {a: CONNECT4.points(after(CONNECT4, state, a)) for a in CONNECT4.legal(state)}
    return {a for a, points in ends.items() if points and points[seat] > 0}


@pytest.mark.slow
@slow_as_python
def test_connect_four_is_won_at_once_and_immediate_losses_are_blocked():
    """Of the blocks one in fifty may be missing: a search need not block where all is lost."""
    states, good, blocks, draw = [], [], [], np.random.default_rng(2)
    while len(states) < 300:
        state = CONNECT4.initial_state()
        while CONNECT4.rules["to_play"](state) >= 0:
            wins = winning(state)
            legal = CONNECT4.legal(state)
            safe = wins or {a for a in legal if not winning(after(CONNECT4, state, a))}
            if 0 < len(safe) < len(legal):
                states.append(CONNECT4.copy(state))
                good.append(safe)
                blocks.append(not wins)
            CONNECT4.play(state, int(draw.choice(legal)))
    answers = choose(CONNECT4, 400, batch(CONNECT4, states))
    right = np.array([int(a) in safe for a, safe in zip(answers, good, strict=True)])
    blocked = np.array(blocks)
    assert blocked.sum() > 50 and (~blocked).sum() > 50
    assert right[~blocked].all()
    assert right[blocked].mean() >= 0.98


@pytest.mark.slow
def test_a_game_without_end_is_cut_and_counts_as_the_mean_of_worst_and_best():
    game = endless()
    states = batch(game, [game.initial_state()] * 5)
    assert (choose(game, 100, states) <= 1).all()
    tree = mcts.make_tree(game, 1)
    tree.state[0] = game.initial_state()
    values = set()
    for i in range(300):
        tree.state[0] = game.initial_state()
        tree.stream[0] = i * 2**40
        mcts.play_out(game, tree, game.max_plies, 0.25)
        values.add((float(tree.values[0]), float(tree.values[1])))
    assert values == {(-1.0, 1.0), (0.25, 0.25)}


def test_the_answer_does_not_depend_on_the_batch():
    states = CONNECT4.states(30)
    states[:] = CONNECT4.initial_state()
    keys = np.arange(30, dtype=np.uint64) + np.uint64(2**63)
    plies = (np.arange(30) % 4).astype(np.int32)
    player = MctsPlayer(CONNECT4, 60, seed=5)
    before = states.tobytes()
    actions = player.choose(states, keys, plies)
    assert actions.dtype == np.int32
    assert states.tobytes() == before
    order = np.random.default_rng(1).permutation(30)
    assert (player.choose(states[order], keys[order], plies[order]) == actions[order]).all()
    alone = [player.choose(states[i : i + 1], keys[i : i + 1], plies[i : i + 1]) for i in range(30)]
    assert (np.concatenate(alone) == actions).all()


def test_seed_key_and_ply_each_change_the_answers():
    states = CONNECT4.states(30)
    states[:] = CONNECT4.initial_state()
    keys, plies = np.arange(30, dtype=np.uint64), np.zeros(30, np.int32)
    base = MctsPlayer(CONNECT4, 20).choose(states, keys, plies)
    assert (MctsPlayer(CONNECT4, 20, seed=1).choose(states, keys, plies) != base).any()
    assert (MctsPlayer(CONNECT4, 20).choose(states, keys + np.uint64(30), plies) != base).any()
    assert (MctsPlayer(CONNECT4, 20).choose(states, keys, plies + np.int32(1)) != base).any()


@pytest.mark.parametrize("simulations", [-1, 0, 10_000_001])
def test_simulations_out_of_range_are_refused(simulations):
    with pytest.raises(PlayerError, match="1..10,000,000"):
        MctsPlayer(CONNECT4, simulations)


@pytest.mark.parametrize("exploration", [-0.1, math.inf, math.nan])
def test_exploration_out_of_range_is_refused(exploration):
    with pytest.raises(PlayerError, match="exploration"):
        MctsPlayer(CONNECT4, 10, exploration=exploration)


def test_the_name_says_the_simulations():
    assert MctsPlayer(CONNECT4, 400).name == "mcts:400"
