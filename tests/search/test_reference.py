"""The reference search itself: it finds what is known of the toy games, under both rules."""

from __future__ import annotations

import numpy as np
import pytest

from tests.reference_search import ReferenceSearch
from tests.reference_search import gamma as reference_gamma
from tests.reference_search import gumbel as reference_gumbel
from tests.reference_search import uniform as reference_uniform
from tests.toy_games import (
    ANSWERS,
    COIN_FLIP,
    FORCED,
    LOSE_ONLY,
    WIN_IN_TWO,
    exact_evaluator,
    exact_value,
    hashed_evaluator,
    random_tree,
    uniform_evaluator,
)
from zeroloop import draws

NUMBERS = {
    "c_puct": 1.25,
    "c_puct_base": 19652.0,
    "fpu_reduction": 0.2,
    "root_fpu_reduction": 0.0,
    "dirichlet_total": 10.83,
    "dirichlet_fraction": 0.25,
    "forced_playouts": 2.0,
    "gumbel_actions": 16.0,
    "gumbel_scale": 1.0,
    "c_visit": 50.0,
    "c_scale": 1.0,
}
RULES = [("puct", "puct"), ("gumbel", "puct"), ("gumbel", "gumbel")]
NAMES = [game.name for game, _, _ in ANSWERS]


def searcher(game, evaluator=None, **options):
    settings = {"rule": "puct", "numbers": NUMBERS, "seed": 7, "game_id": 3, "ply": 0, **options}
    state = game.initial_state()
    return ReferenceSearch(game, state, evaluator or uniform_evaluator(game), **settings)


def tally(search):
    """The whole tree as plain numbers, to compare two searches."""

    def walk(node):
        edges = [(e.action, e.n, float(e.w), e.child and walk(e.child)) for e in node.edges]
        return node.visits, [float(v) for v in node.value_sum], edges

    return walk(search.root)


@pytest.mark.parametrize(("game", "best", "value"), ANSWERS, ids=NAMES)
def test_the_solver_agrees_with_the_answers_in_the_docstrings(game, best, value):
    state = game.initial_state()
    assert exact_value(game, state) == pytest.approx(value)
    game.play(state, best)
    assert exact_value(game, state) == pytest.approx(value)


def assert_right(search, best, value):
    result = search.result()
    assert sum(result["search_visits"]) == result["simulations"] == search.budget
    assert result["root_value"] == pytest.approx(value, abs=0.25)
    assert np.sum(result["policy_target"]) == pytest.approx(1, abs=1e-5)
    if search.game is not LOSE_ONLY:  # there every action is as bad
        assert search.action(0.0) == best
        assert result["actions"][int(np.argmax(result["policy_target"]))] == best


@pytest.mark.parametrize("rules", RULES[:2], ids="-".join)
@pytest.mark.parametrize(("game", "best", "value"), ANSWERS, ids=NAMES)
def test_it_finds_the_right_action_and_value_from_nothing(game, best, value, rules):
    search = searcher(game, rule=rules[0], interior=rules[1])
    search.run(400)
    assert_right(search, best, value)


@pytest.mark.parametrize("rules", RULES, ids="-".join)
@pytest.mark.parametrize(("game", "best", "value"), ANSWERS, ids=NAMES)
def test_it_keeps_the_right_action_and_value_when_told(game, best, value, rules):
    # The interior Gumbel rule trusts its values: with none it is wrong for good in ThreeWayVote.
    search = searcher(game, exact_evaluator(game), rule=rules[0], interior=rules[1])
    search.run(200)
    assert_right(search, best, value)


def test_it_delays_a_loss_while_it_has_not_seen_the_end():
    search = searcher(LOSE_ONLY)
    search.run(50)
    assert search.action(0.0) == 2


@pytest.mark.parametrize("rules", RULES[:2], ids="-".join)
@pytest.mark.parametrize("players", [2, 3])
@pytest.mark.parametrize("seed", [0, 1, 2, 4, 5])
def test_it_solves_a_small_random_tree(seed, players, rules):
    game = random_tree(seed, players, depth=3)
    search = searcher(game, rule=rules[0], interior=rules[1])
    search.run(2000)
    exact, state = exact_value(game, search.root.state), game.copy(search.root.state)
    assert search.result()["root_value"] == pytest.approx(exact, abs=0.15)
    game.play(state, search.action(0.0))
    assert exact_value(game, state) == pytest.approx(exact)


@pytest.mark.parametrize("rule", ["puct", "gumbel"])
def test_noise_does_not_hide_a_win(rule):
    search = searcher(WIN_IN_TWO, rule=rule, noise=True)
    search.run(200)
    assert search.action(0.0) == 1
    assert search.result()["policy_target"][1] > 0.9


@pytest.mark.parametrize("rules", RULES, ids="-".join)
def test_visits_add_up_everywhere_in_the_tree(rules):
    game = random_tree(5, 3)
    search = searcher(game, hashed_evaluator(game), rule=rules[0], interior=rules[1], noise=True)
    search.run(100)
    search.advance(search.action(0.0))
    if search.root.seat >= 0:
        search.run(50)
    todo = [search.root]
    while todo:
        node = todo.pop()
        below = sum(edge.n for edge in node.edges)
        if node.kind != "terminal":
            assert node.visits == below + (node.kind == "decision")
        for edge in node.edges:
            if edge.child is not None:
                assert edge.n == edge.child.visits
                if node.seat >= 0:
                    assert edge.w == edge.child.value_sum[node.seat]
                todo.append(edge.child)


@pytest.mark.parametrize("rules", RULES, ids="-".join)
def test_several_leaves_leave_nothing_pending_and_spend_the_budget(rules):
    game = random_tree(5, 2)
    search = searcher(game, hashed_evaluator(game), rule=rules[0], interior=rules[1], noise=True)
    search.run_leaves(90, 4)
    assert sum(search.result()["search_visits"]) == search.result()["simulations"] == 90
    todo = [search.root]
    while todo:
        node = todo.pop()
        assert node.pending == 0 and not node.open and not node.waiting
        assert all(edge.pending == 0 for edge in node.edges)
        todo.extend(edge.child for edge in node.edges if edge.child is not None)


def test_a_full_tree_goes_on_without_storing():
    game = random_tree(5, 2)
    search = searcher(game, hashed_evaluator(game), noise=True, max_nodes=20, max_edges=40)
    search.run(100)
    result = search.result()
    assert result["nodes"] <= 20 and result["edges"] <= 40 and result["overflow"] > 0
    assert sum(result["visits"]) == 100


def test_a_pool_that_is_never_full_changes_nothing():
    game = random_tree(5, 2)
    bounded = searcher(game, hashed_evaluator(game), max_nodes=5000, max_edges=5000)
    free = searcher(game, hashed_evaluator(game))
    bounded.run(100)
    free.run(100)
    assert tally(bounded) == tally(free)


def test_a_kept_tree_brings_its_visits_along():
    search = searcher(WIN_IN_TWO)
    search.run(100)
    inherited = search.result()["visits"][1] - 1  # less the child's own evaluation
    search.advance(1)
    search.run(30)
    assert search.ply == 1
    assert sum(search.result()["visits"]) == inherited + 30
    assert sum(search.result()["search_visits"]) == 30


def test_a_forced_root_spends_its_budget_on_the_only_action():
    search = searcher(FORCED)
    search.run(50)
    search.advance(1)
    search.run(20)
    assert search.result()["search_visits"] == [20]
    assert search.result()["policy_target"] == [1]


def test_a_chance_node_is_visited_as_often_as_its_probabilities_say():
    search = searcher(COIN_FLIP)
    search.run(3000)
    coin = search.root.edges[1].child
    shares = [edge.n / coin.visits for edge in coin.edges]
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.05)


def test_one_visit_of_each_gamble_gives_its_expectation():
    search = searcher(COIN_FLIP, exact_evaluator(COIN_FLIP), rule="gumbel", chance="expectation")
    search.run(3)
    assert search.result()["visits"] == [1, 1, 1]
    assert search.result()["q"] == pytest.approx([0.25, 0.35, -0.25], abs=1e-6)
    assert [edge.n for edge in search.root.edges[1].child.edges] == [1, 1, 1]


@pytest.mark.parametrize("rules", RULES, ids="-".join)
@pytest.mark.parametrize("leaves", [1, 4])
def test_a_chance_node_passes_its_whole_first_sweep_on_as_one_visit(rules, leaves):
    game = random_tree(5, 3)
    options = {"rule": rules[0], "interior": rules[1], "chance": "expectation", "noise": True}
    search = searcher(game, hashed_evaluator(game), **options)
    search.run_leaves(80, leaves)
    assert sum(search.result()["search_visits"]) == search.result()["simulations"] == 80
    todo, swept = [search.root], 0
    while todo:
        node = todo.pop()
        assert node.pending == 0 and all(edge.pending == 0 for edge in node.edges)
        visits = [edge.n for edge in node.edges]
        if node.kind == "chance" and 0 in visits:
            assert node.visits == 0
        elif node.kind == "chance":
            assert node.visits >= 1 and (leaves > 1 or node.visits == sum(visits) - len(visits) + 1)
            swept += 1
        todo.extend(edge.child for edge in node.edges if edge.child is not None)
    assert swept > 3


def test_pruning_takes_forced_visits_off_the_target():
    search = searcher(WIN_IN_TWO, noise=True)
    search.run(200)
    visits, target = search.result()["visits"], search.target_visits()
    assert target[1] == visits[1]
    assert 0 < target[0] < visits[0] and 0 < target[2] < visits[2]
    quiet = searcher(WIN_IN_TWO)
    quiet.run(200)
    assert quiet.target_visits() == quiet.result()["visits"]


@pytest.mark.parametrize(
    ("candidates", "budget", "schedule"),
    [
        (4, 16, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]),
        (3, 6, [0, 0, 0, 1, 1, 2]),
        (1, 4, [0, 1, 2, 3]),
    ],
)
def test_sequential_halving_follows_the_schedule(candidates, budget, schedule):
    numbers = {**NUMBERS, "gumbel_actions": float(candidates)}
    search = searcher(ANSWERS[0][0], rule="gumbel", numbers=numbers)
    search.budget = budget
    assert [search.considered(t) for t in range(budget)] == schedule


def test_the_draws_are_those_of_zeroloop():
    for index in (0, 1, 7, 4096):
        where = (2**63 + 5, 3, 11, 42, index)
        typed = (
            np.uint64(2**63 + 5),
            *where[1:],
        )  # a plain int of this size is too large once int64 is compiled
        assert reference_uniform(*where) == draws.uniform(*typed)
        assert reference_gumbel(*where) == pytest.approx(draws.gumbel(*typed), rel=1e-14)
        for alpha in (0.3, 2.5):
            expected = draws.gamma(*typed, alpha)
            assert reference_gamma(*where, alpha) == pytest.approx(expected, rel=1e-12)
