"""Exact expectation at chance nodes, from first principles: small dice games whose averages are known."""

from __future__ import annotations

import numpy as np
import pytest

from tests.toy_games import hashed_evaluator, mix, push, see, uniform_evaluator
from zeroloop.games.game import CHANCE, TERMINAL, Game, Observation
from zeroloop.search.forest import Evaluation, Forest, make_numbers

RULES = [("puct", "puct"), ("gumbel", "puct"), ("gumbel", "gumbel")]
PASS = -1
TWO, THREE = (0.25, 0.75), (0.5, 0.375, 0.125)
SCRIPTS = [
    (1, TWO),
    (4, TWO),
    (1, THREE, 2),
    (2, THREE, 2),
    (4, THREE, 2),
    (1, TWO, PASS, THREE, 2),
    (3, THREE, 2, PASS, TWO, 2, THREE),
]
"""What happens ply by ply: a number of actions for seat 0, PASS for the only action of seat 1, or the
probabilities of a roll. The state names its script, so that one compiled game serves all of them."""
ROLL, GAMBLES, ROLL_AND_CHOOSE, CHOOSE_OF_TWO, CHOOSE_OF_FOUR, TWO_ROLLS, LONG = range(len(SCRIPTS))


def tables():
    """Return who moves, i4 [scripts, plies + 1], and the odds of each edge, f4 [scripts, plies, 4]."""
    longest = max(map(len, SCRIPTS))
    seats = np.full((len(SCRIPTS), longest + 1), TERMINAL, np.int32)
    odds = np.zeros((len(SCRIPTS), longest, 4), np.float32)
    for s, script in enumerate(SCRIPTS):
        for i, ply in enumerate(script):
            seats[s, i] = CHANCE if isinstance(ply, tuple) else ply == PASS
            edges = ply if isinstance(ply, tuple) else (1,) * max(ply, 1)
            odds[s, i, : len(edges)] = edges
    return seats, odds


SEATS, ODDS = tables()
STATE = np.dtype([("moves", "i8"), ("plies", "i1"), ("script", "i1")])
ROWS = 64


def start(state, seed):
    state.moves = 0
    state.plies = 0
    state.script = 0


def to_play(state):
    return SEATS[state.script, state.plies]


def legal_actions(state, out):
    k = 0
    while k < 4 and ODDS[state.script, state.plies, k] > 0:
        out[k] = k
        k += 1
    return k


def chance_outcomes(state, out, probability):
    k = 0
    while k < 4 and ODDS[state.script, state.plies, k] > 0:
        out[k] = k
        probability[k] = ODDS[state.script, state.plies, k]
        k += 1
    return k


def outcome(state):
    """Every end has points of its own, by a hash; they are not zero-sum."""
    return np.int64(mix(state.moves, 100 + state.script) % np.uint64(ROWS))


DICE = Game(
    "dice_scripts",
    version=1,
    state_dtype=STATE,
    num_players=2,
    num_actions=4,
    max_legal=4,
    max_chance=4,
    max_plies=8,
    outcomes=(np.random.default_rng(5).integers(-100, 101, (ROWS, 2)) / 100).tolist(),
    observation=Observation(globals=2),
    rules={
        "initial": start,
        "to_play": to_play,
        "legal_actions": legal_actions,
        "apply_action": push,
        "chance_outcomes": chance_outcomes,
        "outcome": outcome,
        "observe": see,
    },
)


def beginning(script):
    """Return the initial state of a script."""
    state = DICE.initial_state()
    state.script = script
    return state


def value_after(script, actions, evaluate=None):
    """Return f64 [P] after these actions: the evaluator's value, or the points where the game has ended."""
    state = beginning(script)
    for action in actions:
        DICE.play(state, action)
    points = DICE.points(state)
    if points is not None:
        return np.array(points) / DICE.scale
    return np.array(evaluate(state, DICE.legal(state))[1], np.float64)


def average(script, *actions, evaluate=None):
    """Return f64 [P]: the expectation over the rolls of `value_after`; None stands for a roll."""
    if None not in actions:
        return value_after(script, actions, evaluate)
    i = actions.index(None)
    branches = [
        average(script, *actions[:i], e, *actions[i + 1 :], evaluate=evaluate)
        for e in range(len(SCRIPTS[script][i]))
    ]
    return np.average(branches, axis=0, weights=SCRIPTS[script][i])


NOTHING = uniform_evaluator(DICE)
OPINIONS = hashed_evaluator(DICE)


class CountingEvaluator:
    """Answers leaves one by one with a Python evaluator, and knows how many it was asked in each call."""

    def __init__(self, answer=OPINIONS):
        self.answer, self.calls = answer, []

    def submit(self, leaves):
        n = len(leaves.count)
        logits = np.zeros((n, DICE.max_legal), np.float32)
        values = np.zeros((n, DICE.num_players), np.float32)
        for i in range(n):
            k = leaves.count[i]
            logits[i, :k], values[i] = self.answer(leaves.states[i], [int(a) for a in leaves.legal[i, :k]])
        self.calls.append(n)
        return Evaluation(logits, values)

    def result(self, ticket):
        return ticket


def planted(script, rules=RULES[0], *, trees=1, max_nodes=500, numbers=None, chance="expectation", **options):
    """A forest of bare initial states; the trees are the games 0, 1, 2, ..."""
    forest = Forest(
        DICE,
        trees,
        max_nodes=max_nodes,
        rule=rules[0],
        interior=rules[1],
        chance=chance,
        numbers=make_numbers(numbers),
        **options,
    )
    states = DICE.states(trees)
    states[:] = beginning(script)
    forest.plant(forest.all, states, forest.all.astype(np.uint64), np.zeros(trees, np.int32))
    return forest


def searched(script, rules=RULES[0], *, budget, evaluator=None, noise=False, **options):
    """Search the initial state once and return (forest, results)."""
    forest = planted(script, rules, **options)
    budgets = np.broadcast_to(np.array(budget, np.int32), forest.size).copy()
    forest.begin(forest.all, budgets, np.full(forest.size, noise, np.int32))
    forest.search(evaluator or CountingEvaluator())
    return forest, forest.results(forest.all)


def outcome_visits(forest, *path):
    """Return the visits of the edges at the node that these edges lead to from the root."""
    nodes, edges = forest.trees.nodes[0], forest.trees.edges[0]
    n = 0
    for e in path:
        n = edges["child"][nodes["edge_start"][n] + e]
    first = nodes["edge_start"][n]
    return edges["visit_count"][first : first + nodes["edge_count"][n]]


@pytest.mark.parametrize("rules", RULES, ids="-".join)
@pytest.mark.parametrize("budget", [1, 2, 37])
def test_one_sweep_of_two_outcomes_gives_the_exact_expectation(rules, budget):
    _, result = searched(ROLL, rules, budget=budget)
    want = 0.25 * value_after(ROLL, [0, 0]) + 0.75 * value_after(ROLL, [0, 1])
    np.testing.assert_allclose(result.root_value[0], want, atol=1e-6)


@pytest.mark.parametrize("budget", [4, 5, 40])
def test_every_gamble_has_its_exact_value_from_its_first_simulation_on(budget):
    _, result = searched(GAMBLES, ("gumbel", "puct"), budget=budget)
    assert np.all(result.visit_count[0] > 0)
    np.testing.assert_allclose(result.q[0], [average(GAMBLES, a, None)[0] for a in range(4)], atol=1e-6)


@pytest.mark.parametrize("rules", RULES, ids="-".join)
def test_luck_never_hides_the_best_gamble(rules):
    best = max(range(4), key=lambda a: average(GAMBLES, a, None)[0])
    for seed in range(5):
        _, result = searched(GAMBLES, rules, budget=40, seed=seed, evaluator=CountingEvaluator(NOTHING))
        assert result.action[0] == best


@pytest.mark.parametrize("rules", RULES, ids="-".join)
def test_sampling_converges_to_what_expectation_knows_at_once(rules):
    want = average(ROLL, 0, None)
    _, one = searched(ROLL, rules, budget=1, chance="sampling")
    _, many = searched(ROLL, rules, budget=4000, chance="sampling")
    assert np.abs(one.root_value[0] - want).max() > 0.1
    np.testing.assert_allclose(many.root_value[0], want, atol=0.05)


def test_the_first_simulation_evaluates_every_outcome_once_and_averages():
    evaluator = CountingEvaluator()
    _, result = searched(ROLL_AND_CHOOSE, budget=1, evaluator=evaluator)
    assert evaluator.calls == [1, 1, 1]
    values = [value_after(ROLL_AND_CHOOSE, [0, i], OPINIONS) for i in range(3)]
    np.testing.assert_allclose(result.root_value[0], np.dot(THREE, values), atol=1e-6)


@pytest.mark.parametrize("rules", RULES, ids="-".join)
def test_each_action_before_a_roll_costs_as_many_evaluations_as_the_roll_has_outcomes(rules):
    for budget, want in ((0, 1), (1, 1 + 3), (2, 1 + 3 + 3)):  # the second simulation tries the other action
        evaluator = CountingEvaluator(NOTHING)
        searched(CHOOSE_OF_TWO, rules, budget=budget, evaluator=evaluator, numbers={"fpu_reduction": -1.0})
        assert sum(evaluator.calls) == want


def test_later_simulations_take_one_outcome_each():
    evaluator = CountingEvaluator()
    forest, _ = searched(ROLL_AND_CHOOSE, budget=30, evaluator=evaluator)
    assert sum(evaluator.calls) == 3  # the game ends after the choice
    assert outcome_visits(forest, 0).sum() == 3 + 29


def test_a_forced_pass_between_two_rolls_is_swept_through():
    evaluator = CountingEvaluator()
    forest, result = searched(TWO_ROLLS, budget=1, evaluator=evaluator)
    assert sum(evaluator.calls) == 2 * 3
    assert list(outcome_visits(forest, 0)) == [1, 1]
    assert [list(outcome_visits(forest, 0, i, 0)) for i in range(2)] == [[1, 1, 1]] * 2
    want = average(TWO_ROLLS, 0, None, 0, None, evaluate=OPINIONS)
    np.testing.assert_allclose(result.root_value[0], want, atol=1e-6)


@pytest.mark.parametrize("budget", [10, 100, 333])
def test_outcomes_are_visited_in_proportion_to_their_probabilities(budget):
    forest, _ = searched(ROLL_AND_CHOOSE, budget=budget)
    visits = outcome_visits(forest, 0)
    assert visits.sum() == budget + 2  # the first simulation took all three
    assert np.abs(visits - np.array(THREE) * visits.sum()).max() <= 1


@pytest.mark.parametrize("rules", RULES, ids="-".join)
@pytest.mark.parametrize("leaves", [1, 4])
@pytest.mark.parametrize("chance", ["sampling", "expectation"])
@pytest.mark.parametrize("script", [GAMBLES, TWO_ROLLS, LONG])
def test_simulations_are_counted_by_budget_and_not_by_descent(script, chance, leaves, rules):
    budgets = [0, 1, 7, 40]
    forest, result = searched(
        script, rules, budget=budgets, trees=4, leaves=leaves, chance=chance, noise=True
    )
    assert list(result.simulations) == budgets
    assert list(result.visit_count.sum(axis=1)) == budgets
    assert forest.counters["simulations"] == sum(budgets)
    assert forest.counters["overflows"] == 0


@pytest.mark.parametrize("rules", RULES, ids="-".join)
@pytest.mark.parametrize("leaves", [1, 5])
def test_nothing_is_left_pending(leaves, rules):
    forest, _ = searched(LONG, rules, budget=60, leaves=leaves)
    assert not forest.trees.nodes["pending"].any()
    assert not forest.trees.edges["pending"].any()


def results_of_five_seeds(rules, chance):
    """Return the distinct root values and visits that five seeds and three games find without noise."""
    found = set()
    for seed in range(5):
        _, result = searched(LONG, rules, budget=30, seed=seed, trees=3, chance=chance)
        found.update(
            (v.tobytes(), n.tobytes()) for v, n in zip(result.root_value, result.visit_count, strict=True)
        )
    return found


@pytest.mark.parametrize("rules", RULES, ids="-".join)
def test_expectation_does_not_depend_on_the_seed_where_sampling_does(rules):
    assert len(results_of_five_seeds(rules, "expectation")) == 1
    assert len(results_of_five_seeds(rules, "sampling")) > 5


def test_several_leaves_sweep_one_roll_in_one_call():
    evaluator = CountingEvaluator()
    _, result = searched(ROLL_AND_CHOOSE, budget=3, leaves=3, evaluator=evaluator)
    assert evaluator.calls == [3]
    assert result.simulations[0] == 3


@pytest.mark.parametrize("rules", RULES, ids="-".join)
def test_a_cache_changes_nothing(rules):
    """The second tree finds all that it asks in the cache, and ends as the first did."""
    forest = planted(LONG, rules, trees=2, cache_entries=4096)
    asked = []
    for tree in range(2):
        evaluator = CountingEvaluator()
        forest.begin(np.array([tree], np.int32), np.array([50], np.int32), np.zeros(1, np.int32))
        forest.search(evaluator)
        asked.append(sum(evaluator.calls))
    assert asked[0] > 20 and asked[1] == 0
    for name in ("nodes", "edges"):
        first, second = getattr(forest.trees, name)
        assert first.tobytes() == second.tobytes(), name
    assert forest.counters["simulations"] == 100


@pytest.mark.parametrize("rules", RULES, ids="-".join)
@pytest.mark.parametrize("leaves", [1, 4])
def test_a_full_tree_rolls_dice_and_still_spends_its_budget(rules, leaves):
    _, result = searched(TWO_ROLLS, rules, budget=4000, max_nodes=4, leaves=leaves)
    assert result.simulations[0] == result.visit_count[0].sum() == 4000
    assert result.overflow[0] > 0
    # The last choices do not fit, so every simulation ends at one, with the evaluator's value.
    want = average(TWO_ROLLS, 0, None, 0, None, evaluate=OPINIONS)
    np.testing.assert_allclose(result.root_value[0], want, atol=0.05)


def test_a_kept_tree_asks_nothing_twice():
    forest, evaluator, asked = planted(LONG), CountingEvaluator(), set()

    def answer(state, legal):
        assert state.tobytes() not in asked
        asked.add(state.tobytes())
        return OPINIONS(state, legal)

    evaluator.answer = answer
    for action in (1, 2, 0, 0, 1):
        if DICE.rules["to_play"](forest.trees.states[0, 0]) >= 0:
            forest.begin(forest.all, np.array([25], np.int32), np.ones(1, np.int32))
            forest.search(evaluator)
        forest.advance(forest.all, np.array([action], np.int32), True)
    assert forest.counters["simulations"] == 3 * 25


@pytest.mark.parametrize("leaves", [1, 2, 3, 4, 5])
def test_sequential_halving_keeps_to_its_schedule_while_leaves_are_in_flight(leaves):
    numbers = {"gumbel_actions": 4}
    _, result = searched(CHOOSE_OF_FOUR, ("gumbel", "puct"), budget=32, leaves=leaves, numbers=numbers)
    assert sorted(result.visit_count[0]) == [4, 4, 12, 12]  # 4 rounds of 4 candidates, 8 rounds of 2
