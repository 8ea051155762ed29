"""The random player: uniform over the legal actions, and a function of seed, state, key and ply."""

from __future__ import annotations

import numpy as np

from tests.toy_games import random_tree
from zeroloop.players.random import RandomPlayer

TREE = random_tree(0, 3, 4)


def decisions(n):
    """n states of the tree in which a seat is to move."""
    states, found, draw = TREE.states(n), 0, np.random.default_rng(0)
    while found < n:
        state = TREE.initial_state()
        state.path = draw.integers(2**63)
        state.depth = 1
        if TREE.rules["to_play"](state) >= 0:
            states[found] = state
            found += 1
    return states


def test_every_action_is_legal_and_legal_actions_are_equally_frequent():
    states = decisions(20)
    plies = np.arange(2000, dtype=np.int32)
    for i in range(len(states)):
        legal = TREE.legal(states[i])
        keys = np.full(2000, i, np.uint64)
        actions = RandomPlayer(TREE, seed=1).choose(np.repeat(states[i : i + 1], 2000), keys, plies)
        seen = np.bincount(actions, minlength=TREE.num_actions)
        assert seen[legal].sum() == 2000
        p = 1 / len(legal)
        sigma = (2000 * p * (1 - p)) ** 0.5
        assert (np.abs(seen[legal] - 2000 * p) <= 3 * sigma).all(), (legal, seen)


def test_the_answer_does_not_depend_on_the_batch():
    states = decisions(50)
    keys = np.arange(50, dtype=np.uint64) + np.uint64(2**63)
    plies = (np.arange(50) % 7).astype(np.int32)
    before = states.tobytes()
    player = RandomPlayer(TREE, seed=1)
    actions = player.choose(states, keys, plies)
    assert actions.dtype == np.int32
    assert states.tobytes() == before
    order = np.random.default_rng(1).permutation(50)
    assert (player.choose(states[order], keys[order], plies[order]) == actions[order]).all()
    alone = [player.choose(states[i : i + 1], keys[i : i + 1], plies[i : i + 1]) for i in range(50)]
    assert (np.concatenate(alone) == actions).all()
    assert player.choose(states[:0], keys[:0], plies[:0]).shape == (0,)


def test_seed_key_and_ply_each_change_the_answers():
    states = TREE.states(200)
    states[:] = TREE.initial_state()
    assert len(TREE.legal(states[0])) > 1
    keys, plies = np.arange(200, dtype=np.uint64), np.arange(200, dtype=np.int32)
    base = RandomPlayer(TREE, seed=1).choose(states, keys, plies)
    assert (RandomPlayer(TREE, seed=2).choose(states, keys, plies) != base).any()
    assert (RandomPlayer(TREE, seed=1).choose(states, keys[::-1], plies) != base).any()
    assert (RandomPlayer(TREE, seed=1).choose(states, keys, plies[::-1]) != base).any()
    assert RandomPlayer(TREE).name == "random"
