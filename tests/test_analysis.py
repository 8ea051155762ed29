"""Analysis of one position: limits, lines, the tree that is kept, and leaves in flight."""

from __future__ import annotations

import numpy as np
import pytest

from tests.toy_games import ANSWERS, COIN_FLIP, FORCED, THREE_WAY_VOTE, WIN_NOW, random_tree
from zeroloop.analysis import LONGEST_LINE, SLICE, Analyst, nodes_within
from zeroloop.config import NetworkConfig
from zeroloop.errors import ConfigError, InvalidState
from zeroloop.evaluator.choice import Choice, shapes_of
from zeroloop.games import make
from zeroloop.model import Model
from zeroloop.networks import build
from zeroloop.players import PlaySettings, model_player

TORCH = Choice("torch", "cpu", "fp32")
TICTACTOE, DICE = make("tictactoe"), random_tree(7, 3)
SOLVED = [answer for answer in ANSWERS if answer[0] in (WIN_NOW, COIN_FLIP, THREE_WAY_VOTE, FORCED)]


def untrained(game, seed=3):
    """Return a model with random weights."""
    kind = "residual" if all(game.observation.planes) else "mlp"
    config = NetworkConfig(
        kind=kind, blocks=1, channels=8, policy_channels=2, value_channels=2, value_hidden=8
    )
    return Model("0" * 64, build(config, shapes_of(game), seed).eval(), game)


def analyst(game, **options):
    return Analyst(untrained(game), choice=TORCH, **options)


class Clock:
    """A clock that moves by one step whenever somebody looks."""

    def __init__(self, step):
        self.now, self.step = 0.0, step

    def __call__(self):
        self.now += self.step
        return self.now


def after(game, *actions):
    state = game.initial_state()
    for action in actions:
        game.play(state, action)
    return state


# --- what is found ------------------------------------------------------------------------------


@pytest.mark.parametrize("leaves", [1, 8])
@pytest.mark.parametrize(("game", "action", "value"), SOLVED, ids=lambda x: getattr(x, "name", ""))
def test_small_games_are_solved(game, action, value, leaves):
    found = analyst(game, leaves=leaves).analyse(game.initial_state(), simulations=4000)
    assert found.lines[0].actions[0] == action
    assert found.values.dtype == np.float64
    # The mean over a search approaches the value of best play from all that was tried.
    np.testing.assert_allclose(found.values, value, atol=0.1)


def test_one_leaf_in_flight_is_the_search_of_a_match():
    model, state = untrained(TICTACTOE), after(TICTACTOE, 4)
    states = TICTACTOE.states(1)
    states[0] = state
    player = model_player(model, 300, choice=TORCH, settings=PlaySettings(batch=1))
    expected = player.search(states, np.zeros(1, np.uint64), np.zeros(1, np.int32))
    found = Analyst(model, leaves=1, choice=TORCH).analyse(state, simulations=300)
    by_action = {line.actions[0]: line for line in found.lines}
    assert list(sorted(by_action)) == expected.legal[0, : expected.count[0]].tolist()
    for k, action in enumerate(expected.legal[0, : expected.count[0]]):
        line = by_action[int(action)]
        assert line.visits == expected.visit_count[0, k]
        assert line.value is None or line.value == pytest.approx(expected.q[0, k])
        assert line.prior == pytest.approx(expected.prior[0, k])
    assert found.lines[0].actions[0] == expected.action[0]
    np.testing.assert_allclose(found.values, expected.root_value[0])


@pytest.mark.parametrize("leaves", [1, 3, 8, 32])
def test_new_simulations_are_visits_of_a_bare_root_and_nothing_stays_pending(leaves):
    made = analyst(TICTACTOE, leaves=leaves)
    found = made.analyse(TICTACTOE.initial_state(), simulations=500)
    assert found.simulations == 500 == sum(line.visits for line in found.lines)
    assert 0 < found.evaluations <= 501
    trees = made._forest.trees
    assert not trees.nodes["pending"].any() and not trees.edges["pending"].any()


def test_values_are_those_of_the_seat_to_move():
    """In WinNow action 2 wins for seat 0; X to move at 0 1, O at 3 4, wins tic-tac-toe by 2."""
    found = analyst(WIN_NOW).analyse(WIN_NOW.initial_state(), simulations=200)
    assert found.lines[0].actions == (2,) and found.lines[0].value == 1
    found = analyst(TICTACTOE).analyse(after(TICTACTOE, 3, 0, 8, 1, 7), simulations=400)
    assert found.lines[0].actions == (2,) and found.lines[0].value == 1
    assert found.values[1] > 0.9 and found.values[0] < -0.9


def test_action_without_a_visit_has_no_value():
    found = analyst(TICTACTOE, leaves=1).analyse(TICTACTOE.initial_state(), simulations=1)
    assert [line.visits for line in found.lines] == [1] + [0] * 8
    assert found.lines[0].value is not None
    assert all(line.value is None for line in found.lines[1:])
    priors = [line.prior for line in found.lines]
    assert priors[1:] == sorted(priors[1:], reverse=True) and sum(priors) == pytest.approx(1)


def test_lines_are_played_on_by_legal_actions_and_end_at_chance_nodes():
    found = analyst(DICE).analyse(DICE.initial_state(), simulations=2000)
    ends = set()
    for line in found.lines:
        state = DICE.initial_state()
        for action in line.actions:
            assert DICE.rules["to_play"](state) >= 0
            DICE.play(state, action)
        ends.add(int(DICE.rules["to_play"](state)))
    assert found.depth == len(found.lines[0].actions) <= LONGEST_LINE
    assert -1 in ends and max(len(line.actions) for line in found.lines) > 1


def test_forced_moves_belong_to_the_line():
    found = analyst(FORCED).analyse(FORCED.initial_state(), simulations=500)
    assert len(found.lines[0].actions) == 12 and found.lines[0].actions[0] == 1


# --- limits -------------------------------------------------------------------------------------


def test_time_limit_ends_before_the_next_batch_would_be_late():
    clock = Clock(0.01)
    made = analyst(TICTACTOE, clock=clock)
    began = clock.now
    found = made.analyse(TICTACTOE.initial_state(), seconds=0.5)
    assert clock.now - began <= 0.5 + 2 * clock.step
    assert found.seconds == pytest.approx(0.5, abs=0.03) and found.simulations > 100


def test_slow_batches_are_expected_for_a_while():
    """A machine that stops the search for 40 ms every 20th time it looks at the clock."""

    class Busy(Clock):
        looks = 0

        def __call__(self):
            self.looks += 1
            self.now += 0.04 if self.looks % 20 == 0 else 0.001
            return self.now

    clock = Busy(0)
    made = analyst(TICTACTOE, clock=clock)
    over = []
    for _ in range(20):
        began = clock.now
        made.analyse(TICTACTOE.initial_state(), seconds=0.3)
        over.append(clock.now - began - 0.3)
    assert max(over[1:]) < 0.005 and min(over) > -0.1


def test_stop_is_asked_after_each_batch_and_the_root_is_evaluated_first():
    found = analyst(TICTACTOE).analyse(TICTACTOE.initial_state(), stop=lambda: True)
    assert (found.simulations, found.evaluations) == (0, 1)
    priors = [line.prior for line in found.lines]
    assert priors == sorted(priors, reverse=True) and np.isfinite(found.values).all()
    answers = iter([False, False, True])
    found = analyst(TICTACTOE, leaves=4).analyse(TICTACTOE.initial_state(), stop=lambda: next(answers))
    assert 0 < found.simulations <= 8


def test_tree_of_known_leaves_only_still_asks_whether_to_stop():
    """After a few visits everything in WinNow is an end, which asks no network."""
    asked = [0]

    def stop():
        asked[0] += 1
        return asked[0] == 100

    found = analyst(WIN_NOW).analyse(WIN_NOW.initial_state(), stop=stop)
    assert found.simulations <= 100 * SLICE and found.evaluations < 10


def test_reports_come_twice_a_second_and_grow():
    reports = []
    made = analyst(TICTACTOE, clock=Clock(0.02))
    found = made.analyse(TICTACTOE.initial_state(), seconds=4, report=reports.append)
    assert 5 <= len(reports) <= 8
    counts = [r.simulations for r in reports]
    assert counts == sorted(counts) and counts[-1] <= found.simulations


def test_two_limits_end_with_the_first():
    made = analyst(TICTACTOE, clock=Clock(0.001))
    assert made.analyse(TICTACTOE.initial_state(), simulations=20, seconds=100).simulations == 20
    assert made.analyse(TICTACTOE.initial_state(), simulations=10**6, seconds=0.1).simulations < 10_000


# --- the tree -----------------------------------------------------------------------------------


def test_tree_is_kept_where_the_position_follows():
    made = analyst(TICTACTOE)
    first = made.analyse(TICTACTOE.initial_state(), simulations=1000)
    line = first.lines[0]
    assert len(line.actions) >= 3
    state = after(TICTACTOE, *line.actions[:2])
    second = made.analyse(state, simulations=10)
    kept = sum(x.visits for x in second.lines) - 10
    assert 0 < kept < line.visits and second.simulations == 10
    assert {x.actions[0] for x in second.lines} == set(TICTACTOE.legal(state))
    again = made.analyse(state, simulations=10)
    assert sum(x.visits for x in again.lines) == kept + 20


def test_tree_is_kept_over_a_chance_node():
    made, kept = analyst(DICE, settings=PlaySettings(c_puct=1000)), []  # every action gets its share
    for line in made.analyse(DICE.initial_state(), simulations=2000).lines:
        state = after(DICE, *line.actions)
        for outcome, _ in DICE.chance(state):
            following = DICE.copy(state)
            DICE.play(following, outcome)
            if len(DICE.legal(following)) > 1:
                made.forget()
                made.analyse(DICE.initial_state(), simulations=2000)
                found = made.analyse(following, simulations=1)
                assert {x.actions[0] for x in found.lines} == set(DICE.legal(following))
                kept.append(sum(x.visits for x in found.lines) - 1)
    assert max(kept) > 20


def test_position_from_elsewhere_begins_a_bare_tree():
    made = analyst(TICTACTOE)
    made.analyse(after(TICTACTOE, 0, 1), simulations=300)
    other = made.analyse(after(TICTACTOE, 8, 7), simulations=50)
    assert sum(line.visits for line in other.lines) == 50
    back = made.analyse(TICTACTOE.initial_state(), simulations=50)
    assert sum(line.visits for line in back.lines) == 50


def test_after_forgetting_an_analysis_is_that_of_a_new_analyst():
    made, state = analyst(DICE, seed=5), DICE.initial_state()
    first = made.analyse(state, simulations=300)
    made.analyse(state, simulations=100)
    made.forget()
    again = made.analyse(state, simulations=300)
    assert again.lines == first.lines
    assert analyst(DICE, seed=5).analyse(state, simulations=300).lines == first.lines


def test_full_tree_is_searched_on_and_told():
    made = analyst(TICTACTOE, max_nodes=64)
    found = made.analyse(TICTACTOE.initial_state(), simulations=3000)
    assert found.simulations == 3000 and found.overflow > 1000 and made.nodes <= 64
    roomy = analyst(TICTACTOE).analyse(TICTACTOE.initial_state(), simulations=3000)
    assert roomy.overflow == 0


def test_full_subtree_is_dropped_for_room():
    made = analyst(TICTACTOE, max_nodes=200, settings=PlaySettings(c_puct=0.2))  # most of it in one move
    found = made.analyse(TICTACTOE.initial_state(), simulations=3000)
    following = made.analyse(after(TICTACTOE, found.lines[0].actions[0]), simulations=30)
    assert sum(line.visits for line in following.lines) == 30 and following.overflow == 0


def test_each_search_draws_its_own_dice():
    """400 searches of one simulation, spread over all actions: gamble 1 pays 0.35 on average."""
    made = analyst(COIN_FLIP, settings=PlaySettings(c_puct=1000))
    for _ in range(400):
        found = made.analyse(COIN_FLIP.initial_state(), simulations=1)
    gamble = next(line for line in found.lines if line.actions[0] == 1)
    assert gamble.visits > 100 and gamble.value == pytest.approx(0.35, abs=0.15)


def test_state_that_is_analysed_is_not_changed():
    state = after(TICTACTOE, 4)
    before = state.tobytes()
    made = analyst(TICTACTOE)
    made.analyse(state, simulations=50)
    made.analyse(after(TICTACTOE, 4, 0), simulations=50)
    assert state.tobytes() == before


def test_memory_bounds_the_arrays():
    for megabytes in (1, 16):
        nodes = nodes_within(TICTACTOE, megabytes, 8)
        made = analyst(TICTACTOE, leaves=8, max_nodes=nodes, settings=PlaySettings(cache_megabytes=0))
        assert 0.8 * (megabytes << 20) < made._forest.bytes < 1.05 * (megabytes << 20)


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "said"),
    [({}, "without an end"), ({"simulations": -1}, "negative"), ({"seconds": float("nan")}, "negative")],
)
def test_limits_that_make_no_sense_are_refused(limits, said):
    with pytest.raises(ConfigError, match=said):
        analyst(TICTACTOE).analyse(TICTACTOE.initial_state(), **limits)


def test_states_in_which_no_seat_moves_are_refused():
    over = after(TICTACTOE, 0, 3, 1, 4, 2)
    with pytest.raises(InvalidState, match="no seat is to move"):
        analyst(TICTACTOE).analyse(over, simulations=5)
    with pytest.raises(InvalidState, match="roll the dice"):
        analyst(COIN_FLIP).analyse(after(COIN_FLIP, 1), simulations=5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"leaves": 0}, "1 to 1024"),
        ({"max_nodes": 10}, "at least 64"),
        ({"settings": PlaySettings(rule="gumbel")}, "puct"),
    ],
)
def test_options_out_of_range_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        analyst(TICTACTOE, **options)
