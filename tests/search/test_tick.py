"""Ticks without Python between them make the same trees as ticks one by one."""

from __future__ import annotations

import numpy as np

from tests.material import CONNECT4
from zeroloop.evaluator import UniformEvaluator
from zeroloop.search.forest import Forest


def planted(games=16):
    forest = Forest(CONNECT4, games, max_nodes=64, rule="gumbel", interior="puct", seed=3)
    states = CONNECT4.states(games)
    states[:] = CONNECT4.initial_state()
    forest.plant(forest.all, states, forest.all.astype(np.uint64), np.zeros(games, np.int32))
    forest.begin(forest.all, np.full(games, 20, np.int32), np.ones(games, np.int32))
    return forest


def test_many_ticks_in_one_call_equal_single_ticks():
    evaluator = UniformEvaluator(CONNECT4, 16)
    one, many = planted(), planted()
    for _ in range(12):
        one.absorb(evaluator.result(evaluator.submit(one.select())))
    many.tick(evaluator.result(evaluator.submit(many.waiting())), 12)
    assert one.trees.nodes["visit_count"].sum() > 100
    for name in ("nodes", "edges", "trees"):
        assert getattr(one.trees, name).tobytes() == getattr(many.trees, name).tobytes(), name
