"""The compiled kernels agree with the slow reference, visit for visit, under a fixed seed."""

from __future__ import annotations

import numpy as np
import pytest

from tests.reference_search import ReferenceSearch
from tests.toy_games import (
    COIN_FLIP,
    FORCED,
    THREE_WAY_VOTE,
    WIN_IN_TWO,
    hashed_evaluator,
    random_tree,
)
from zeroloop.games import make
from zeroloop.search.forest import Evaluation, Forest, make_numbers

NUMBERS = {
    "c_puct": 1.25,
    "c_puct_base": 300.0,
    "fpu_reduction": 0.2,
    "root_fpu_reduction": 0.1,
    "dirichlet_total": 6.0,
    "dirichlet_fraction": 0.25,
    "forced_playouts": 2.0,
    "gumbel_actions": 4.0,
    "gumbel_scale": 1.0,
    "c_visit": 20.0,
    "c_scale": 0.7,
}
RULES = [("puct", "puct"), ("gumbel", "puct"), ("gumbel", "gumbel")]
CONNECT4 = make("connect4")
TREE2, TREE3 = random_tree(0, 2), random_tree(0, 3)
DICE = [(COIN_FLIP, 0), *((tree, start) for tree in (TREE2, TREE3) for start in range(1, 7))]
"""Games with chance nodes, and where they start."""
GAMES = [WIN_IN_TWO, COIN_FLIP, THREE_WAY_VOTE, FORCED, CONNECT4]


class PlainEvaluator:
    """Answers a forest's leaves one by one with the reference's Python evaluator."""

    def __init__(self, game, answer):
        self.game, self.answer = game, answer

    def submit(self, leaves):
        n = len(leaves.count)
        logits = np.zeros((n, max(self.game.max_legal, self.game.max_chance)), np.float32)
        values = np.zeros((n, self.game.num_players), np.float32)
        for i in range(n):
            k = leaves.count[i]
            logits[i, :k], values[i] = self.answer(leaves.states[i], [int(a) for a in leaves.legal[i, :k]])
        return Evaluation(logits, values)

    def result(self, ticket):
        return ticket


def remembered(answer):
    """Return the evaluator with a memory: the forest and the reference ask for the same states."""
    known = {}

    def evaluate(state, legal):
        key = state.tobytes(), tuple(legal)
        if key not in known:
            known[key] = answer(state, legal)
        return known[key]

    return evaluate


def forest_of(game, rule, interior, *, trees, max_nodes, max_edges=0, leaves=1, cache=0, chance="sampling"):
    return Forest(
        game,
        trees,
        max_nodes=max_nodes,
        max_edges=max_edges,
        rule=rule,
        interior=interior,
        chance=chance,
        leaves=leaves,
        cache_entries=cache,
        numbers=make_numbers(NUMBERS),
        seed=11,
    )


def assert_same(game, forest, tree, reference):
    """Compare one root of the forest with the reference: counts exactly, floats to rounding."""
    ids = np.array([tree], np.int32)
    got = forest.results(ids)
    want = reference.result()
    k = int(got.count[0])
    assert list(got.legal[0, :k]) == want["actions"]
    assert list(got.visit_count[0, :k]) == want["visits"]
    assert got.simulations[0] == want["simulations"]
    assert got.overflow[0] == want["overflow"]
    np.testing.assert_array_equal(got.prior[0, :k], np.array(want["prior"], np.float32))
    np.testing.assert_array_equal(got.policy_target[0, :k], np.array(want["policy_target"], np.float32))
    np.testing.assert_array_equal(got.root_value[0], np.array(want["root_value"], np.float32))
    for temperature in (0.0, 0.7):
        action = forest.results(ids, np.array([temperature])).action[0]
        assert action == want["action"](temperature)
    assert_same_tree(forest.trees, tree, reference)


def assert_same_tree(trees, tree, reference):
    """Compare every stored node and edge, float sums to the bit; nothing may be left pending."""
    used = trees.trees[tree]
    nodes, edges = trees.nodes[tree][: used["nodes"]], trees.edges[tree][: used["edges"]]
    assert not nodes["pending"].any() and not edges["pending"].any()
    names = ("edge_start", "edge_count", "visit_count", "value_sum")
    rows = list(zip(*(nodes[name].tolist() for name in names), strict=True))
    names = ("action", "child", "visit_count", "value_sum")
    columns = list(zip(*(edges[name].tolist() for name in names), strict=True))
    todo = [(0, reference.root)]
    while todo:
        i, node = todo.pop()
        start, count, visits, value_sum = rows[i]
        assert (visits, value_sum) == (node.visits, [float(x) for x in node.value_sum])
        assert node.pending == 0
        for got, edge in zip(columns[start : start + count], node.edges, strict=True):
            action, child, visits, value_sum = got
            assert (action, visits, value_sum) == (edge.action, edge.n, float(edge.w))
            assert edge.pending == 0
            assert (child >= 0) == (edge.child is not None)
            if edge.child is not None:
                todo.append((child, edge.child))


def play_both(
    game,
    rule,
    interior,
    *,
    budget,
    leaves=1,
    reuse=False,
    noise=True,
    max_nodes=2000,
    max_edges=0,
    start=0,
    chance="sampling",
):
    """Play a few moves of three games in a forest and in the reference, comparing every search."""
    answer = remembered(hashed_evaluator(game, salt=3))
    evaluator = PlainEvaluator(game, answer)
    forest = forest_of(
        game,
        rule,
        interior,
        trees=3,
        max_nodes=max_nodes,
        max_edges=max_edges,
        leaves=leaves,
        chance=chance,
    )

    def reference_at(state, game_id, ply):
        return ReferenceSearch(
            game,
            game.copy(state),
            answer,
            rule=rule,
            numbers=NUMBERS,
            seed=11,
            game_id=game_id,
            ply=ply,
            noise=noise,
            interior=interior,
            chance=chance,
            max_nodes=max_nodes,
            max_edges=max_edges or None,
        )

    state = game.initial_state()
    if start:  # every path is the root of another random tree
        state.path = start
    forest.plant(
        forest.all,
        np.repeat(np.array([state], game.state_dtype), 3),
        np.arange(3).astype(np.uint64),
        np.zeros(3, np.int32),
    )
    references = [reference_at(state, g, 0) for g in range(3)]
    live = [0, 1, 2]
    compared = 0
    for ply in range(6):
        live = [b for b in live if game.rules["to_play"](forest.trees.states[b, 0]) >= -1]
        deciding = [b for b in live if game.rules["to_play"](forest.trees.states[b, 0]) >= 0]
        if not live:
            break
        ids = np.array(deciding, np.int32)
        forest.begin(ids, np.full(len(ids), budget, np.int32), np.full(len(ids), noise, np.int32))
        forest.search(evaluator)
        for b in live:
            one = np.array([b], np.int32)
            if b in deciding:
                references[b].run_leaves(budget, leaves)
                assert_same(game, forest, b, references[b])
                compared += 1
                action = int(forest.results(one, np.array([1.0])).action[0])
            else:
                action = game.chance(forest.trees.states[b, 0])[0][0]
            forest.advance(one, np.array([action], np.int32), reuse)
            if reuse:
                references[b].advance(action)
            else:
                after = game.copy(forest.trees.states[b, 0])
                if game.rules["to_play"](after) == -2:
                    continue
                references[b] = reference_at(after, b, ply + 1)
    return compared


@pytest.mark.parametrize(("rule", "interior"), RULES)
@pytest.mark.parametrize(
    ("game", "starts"),
    [
        *((game, [0]) for game in GAMES),
        (TREE2, range(1, 4)),
        (TREE3, range(1, 4)),
        pytest.param(TREE2, range(4, 9), marks=pytest.mark.slow),
        pytest.param(TREE3, range(4, 9), marks=pytest.mark.slow),
    ],
    ids=["two", "coin", "vote", "forced", "c4", "tree2", "tree3", "more of tree2", "more of tree3"],
)
@pytest.mark.parametrize("reuse", [False, True])
def test_kernels_agree_with_reference_visit_for_visit(game, starts, rule, interior, reuse):
    compared = [play_both(game, rule, interior, budget=40, reuse=reuse, start=start) for start in starts]
    assert sum(compared) >= 3


@pytest.mark.parametrize(("rule", "interior"), RULES)
@pytest.mark.parametrize("reuse", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(
    "bound", [{"max_nodes": 24}, pytest.param({"max_edges": 40}, marks=pytest.mark.slow), {"max_nodes": 1}]
)
def test_kernels_agree_with_reference_when_the_tree_is_full(rule, interior, reuse, bound):
    assert play_both(CONNECT4, rule, interior, budget=50, reuse=reuse, **bound) >= 3
    for start in range(1, 5):
        play_both(TREE3, rule, interior, budget=50, reuse=reuse, start=start, **bound)
        play_both(TREE2, rule, interior, budget=50, reuse=reuse, start=start, **bound)


@pytest.mark.parametrize(("rule", "interior"), RULES)
@pytest.mark.parametrize("leaves", [pytest.param(2, marks=pytest.mark.slow), 5])
def test_kernels_agree_with_reference_with_several_leaves_in_flight(rule, interior, leaves):
    assert play_both(CONNECT4, rule, interior, budget=40, leaves=leaves, reuse=True) >= 3
    for start in range(1, 5):
        play_both(TREE3, rule, interior, budget=40, leaves=leaves, reuse=True, start=start)
        play_both(TREE2, rule, interior, budget=40, leaves=leaves, max_nodes=30, start=start)


@pytest.mark.parametrize(("rule", "interior"), RULES)
def test_kernels_agree_with_reference_without_noise(rule, interior):
    for game in (CONNECT4, TREE3):
        assert play_both(game, rule, interior, budget=64, noise=False) >= 3


@pytest.mark.parametrize(("rule", "interior"), RULES)
@pytest.mark.parametrize("noise", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("reuse", [pytest.param(False, marks=pytest.mark.slow), True])
def test_kernels_agree_with_reference_in_exact_expectation(rule, interior, noise, reuse):
    options = {"budget": 40, "noise": noise, "reuse": reuse, "chance": "expectation"}
    compared = [play_both(game, rule, interior, start=start, **options) for game, start in DICE]
    assert sum(compared) >= 80


@pytest.mark.parametrize(("rule", "interior"), RULES)
@pytest.mark.parametrize("reuse", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(
    "bound", [pytest.param({"max_nodes": 24}, marks=pytest.mark.slow), {"max_edges": 40}, {"max_nodes": 1}]
)
def test_kernels_agree_with_reference_when_a_tree_of_expectations_is_full(rule, interior, reuse, bound):
    options = {"budget": 50, "reuse": reuse, "chance": "expectation", **bound}
    for game, start in DICE[:4] + DICE[-3:]:
        play_both(game, rule, interior, start=start, **options)


@pytest.mark.parametrize(("rule", "interior"), RULES)
@pytest.mark.parametrize("leaves", [pytest.param(2, marks=pytest.mark.slow), 5])
@pytest.mark.parametrize("bound", [{}, {"max_nodes": 40}, {"max_edges": 60}])
def test_kernels_agree_with_reference_when_several_leaves_sweep_side_by_side(rule, interior, leaves, bound):
    options = {"budget": 40, "leaves": leaves, "reuse": True, "chance": "expectation", **bound}
    for game, start in DICE[:4] + DICE[-3:]:
        play_both(game, rule, interior, start=start, **options)
