"""Tests of `zeroloop.players.bearoff`: rolls counted by hand, a plain recursion, the game, GNU Backgammon."""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import pytest

from tests.games import backgammon_slow as slow
from tests.games.gnubg import Gnubg
from tests.games.oracles import need_program
from zeroloop.compiled import INTERPRETED
from zeroloop.errors import ConfigError, IllegalAction, InvalidState, PlayerError, StoreError
from zeroloop.games import make
from zeroloop.games.game import CHANCE
from zeroloop.players.bearoff import (
    BearoffEvaluator,
    BearoffPlayer,
    BearoffTable,
    bearoff_regret,
    bearoff_table,
    cache_folder,
)
from zeroloop.players.bearoff_solver import HANDS, build, home_positions, plays_of
from zeroloop.search.forest import Evaluation, Leaves

GAME = make("backgammon")
CHECKERS = 3 if INTERPRETED else 6
THROWS = [(a, b) for a in range(1, 7) for b in range(1, 7)]
ROUNDING = 2e-5
"""The table's numbers are multiples of 1/65535; an equity is twice as coarse."""


@pytest.fixture(scope="module")
def table():
    return BearoffTable(CHECKERS, build(CHECKERS))


def home(*points):
    """Return the six counts of checkers on these points."""
    return tuple(points.count(p) for p in range(1, 7))


def board(mine, yours):
    return slow.Board(*(slow.side({p + 1: n for p, n in enumerate(side)}) for side in (mine, yours)))


def record(mine, yours, seat=0, dice="-"):
    """Return the game's state in which the seat on roll has `mine`."""
    return GAME.parse_position(f"{slow.position_id(board(mine, yours))} {seat} {dice}")


def records(*states):
    out = GAME.states(len(states))
    for i, state in enumerate(states):
        out[i] = state
    return out


def random_home(rng, checkers):
    return home(*(rng.randint(1, 6) for _ in range(rng.randint(1, checkers))))


def random_records(seed, count, dice=("21", "64", "3", "66", "5555", "444", "31", "1111")):
    rng = random.Random(seed)
    return records(
        *(
            record(
                random_home(rng, CHECKERS), random_home(rng, CHECKERS), rng.randint(0, 1), rng.choice(dice)
            )
            for _ in range(count)
        )
    )


# What one can count by hand.


def test_a_checker_on_the_ace_point_is_borne_off_by_every_roll(table):
    assert table.equity(home(1), home(1)) == 1
    assert table.equity(home(1), home(6, 6)) == 1
    assert table.equity(home(1, 1), home(1)) == 1


def test_who_has_borne_all_off_has_won(table):
    assert table.equity(home(), home(1)) == 1
    assert table.equity(home(1), home()) == -1


def test_a_checker_on_the_six_point_leaves_in_27_of_36_throws(table):
    leaving = [t for t in THROWS if sum(t) * (2 if t[0] == t[1] else 1) >= 6]
    assert len(leaving) == 27
    assert table.equity(home(6), home(1)) == pytest.approx(2 * 27 / 36 - 1, abs=ROUNDING)


def test_checkers_on_the_six_and_five_points_leave_in_6_of_36_throws(table):
    # 6-5 either way, and the doubles from 3-3: 6/3/off and 5/2/off.
    assert table.equity(home(6, 5), home(1)) == pytest.approx(2 * 6 / 36 - 1, abs=ROUNDING)


def test_three_checkers_on_the_ace_point_need_a_double(table):
    assert table.equity(home(1, 1, 1), home(1)) == pytest.approx(2 * 6 / 36 - 1, abs=ROUNDING)


def test_a_second_chance_counts_when_the_opponent_can_miss(table):
    # A miss (1-1, 2-1, 3-1, 4-1, 3-2) leaves at most a checker on the 3-point, which every throw bears off.
    assert table.equity(home(6), home(6)) == pytest.approx(2 * (27 / 36 + 9 / 36 * 9 / 36) - 1, abs=ROUNDING)


def test_two_one_on_the_six_and_two_points_is_played_to_leave_one_checker(table):
    # 2/off 6/5 leaves the 5-point, which 31 of 36 throws bear off; 6/4 2/1 leaves two checkers (29 throws)
    # and 6/3 as well (25).
    left = {home(5): 31, home(4, 1): 29, home(3, 2): 25}
    assert {rest: sum(home() in plays(rest, dice_of(t)) for t in THROWS) for rest in left} == left
    state = record(home(6, 2), home(6), 0, "21")
    action = int(BearoffPlayer(table).choose(records(state), np.zeros(1), np.zeros(1))[0])
    assert GAME.action_name(state, action) in ("2/off", "6/5")


# A plain recursion, from the rulebook.


def dice_of(throw):
    return throw * 2 if throw[0] == throw[1] else throw


def moves(position, die):
    """Positions after one checker's movement by the die."""
    found = set()
    for point in range(1, 7):
        if not position[point - 1]:
            continue
        after = list(position)
        after[point - 1] -= 1
        if point > die:
            after[point - die - 1] += 1
        elif point < die and any(position[point:]):
            continue  # a die that is too high bears off only from the highest point
        found.add(tuple(after))
    return found


def orders(position, dice):
    """(dice played, position) of every way to play until nothing can be played."""
    found = set()
    for i, die in enumerate(dice):
        for after in moves(position, die):
            found |= {(n + 1, end) for n, end in orders(after, dice[:i] + dice[i + 1 :])}
    return found or {(0, position)}


@cache
def plays(position, dice):
    """Positions after the turn; as many dice as possible must be played."""
    ways = orders(position, dice)
    most = max(n for n, _ in ways)
    return frozenset(end for n, end in ways if n == most)


@cache
def chance(mine, yours):
    """P(the side on roll wins), exactly."""
    if not any(yours):
        return 0.0
    return sum(max(1 - chance(yours, after) for after in plays(mine, dice_of(t))) for t in THROWS) / 36


def test_every_position_of_three_checkers_has_the_value_of_a_plain_recursion(table):
    positions = [tuple(int(c) for c in row) for row in home_positions(3)]
    assert len(positions) == 84
    for i, mine in enumerate(positions):
        for j, yours in enumerate(positions):
            if any(mine) and any(yours):
                assert abs(table.wins[i, j] / 65535 - chance(mine, yours)) < 9e-6, (mine, yours)


def test_positions_are_numbered_without_a_gap_whatever_the_bound():
    small, large = home_positions(2), home_positions(5)
    assert len(large) == 462 and len(np.unique(large, axis=0)) == 462
    assert large.min() == 0 and large.sum(axis=1).max() == 5
    assert (large[: len(small)] == small).all()
    assert not large[0].any()


def test_a_smaller_table_is_the_corner_of_a_larger_one(table):
    small = build(2)
    assert (table.wins[: len(small), : len(small)] == small).all()


def test_plays_are_those_of_the_rules():
    checkers = CHECKERS + 2
    positions, (starts, results) = home_positions(checkers), plays_of(checkers)
    rng = random.Random(5)
    for _ in range(600):
        a, hand = rng.randrange(1, len(positions)), rng.randrange(len(HANDS))
        high, low, count = (int(x) for x in HANDS[hand])
        dice = (high,) * count if high == low else (high, low)
        at = len(HANDS) * a + hand
        found = [tuple(int(c) for c in positions[r]) for r in results[starts[at] : starts[at + 1]]]
        rules = slow.results(board(tuple(int(c) for c in positions[a]), home(1)), dice)
        assert len(set(found)) == len(found)
        assert set(found) == {end.mine[1:7] for end in rules}


# What must hold of any such table.


def test_to_be_on_roll_never_hurts(table):
    w = table.wins[1:, 1:].astype(np.int64)
    assert (w + w.T >= 65535 - 1).all()


def test_one_checker_fewer_never_hurts(table):
    positions = [tuple(int(c) for c in row) for row in home_positions(CHECKERS)]
    number = {position: i for i, position in enumerate(positions)}
    for i, position in enumerate(positions):
        for point in range(6):
            if position[point]:
                fewer = list(position)
                fewer[point] -= 1
                j = number[tuple(fewer)]
                assert (table.wins[j, 1:] >= table.wins[i, 1:]).all()


# Against the game's rules.


def test_before_the_roll_the_equity_is_the_mean_over_the_rolls(table):
    states = random_records(1, 60, dice=("-",))
    equity, inside = table.equities(states)
    assert inside.all()
    for state, expected in zip(states, equity, strict=True):
        mean = 0.0
        for roll, p in GAME.chance(state):
            after = GAME.copy(state)
            GAME.play(after, roll)
            mean += p * float(table.equities(records(after))[0][0])
        assert mean == pytest.approx(expected, abs=3 * ROUNDING)


def test_with_dice_the_equity_is_that_of_the_best_legal_action(table):
    states = random_records(2, 300)
    equity, inside = table.equities(states)
    found = table.action_equities(states)
    assert inside.all()
    for i, state in enumerate(states):
        legal = GAME.legal(state)
        assert found.legal[i, : found.count[i]].tolist() == legal
        for k, action in enumerate(legal):
            after = GAME.copy(state)
            GAME.play(after, action)
            points = GAME.points(after)
            if points:
                worth = points[state.seat]
            else:
                worth = float(table.equities(records(after))[0][0]) * (1 if after.seat == state.seat else -1)
            assert found.equity[i, k] == pytest.approx(worth, abs=1e-6)
        assert found.equity[i].max() == equity[i]
        assert not np.isfinite(found.equity[i, found.count[i] :]).any()


def test_values_are_by_seat_and_sum_to_nothing(table):
    mine, yours = home(1, 1, 2), home(4)
    states = records(*(record(mine, yours, seat, dice) for seat in (0, 1) for dice in ("-", "21", "11")))
    values, inside = table.decision_values(states)
    assert values.shape == (6, 2) and values.dtype == np.float32 and inside.all()
    assert (values[:3] == values[3:, ::-1]).all()
    assert (values.sum(axis=1) == 0).all()
    assert values[0, 0] == pytest.approx(table.equity(mine, yours), abs=1e-6)


def test_states_out_of_reach_of_the_table_are_outside(table):
    over = record(home(1), home(4), 0, "21")
    GAME.play(over, GAME.parse_action(over, "1/off"))
    outer = slow.Board(slow.side({7: 1}), slow.side({1: 1}))
    bar = slow.Board(slow.side({1: 1}), slow.side({25: 1}))
    states = records(
        over,
        GAME.initial_state(),
        record(home(*[1] * (CHECKERS + 1)), home(1)),
        record(home(1), home(*[6] * (CHECKERS + 1)), 1, "31"),
        GAME.parse_position(f"{slow.position_id(outer)} 0 -"),
        GAME.parse_position(f"{slow.position_id(bar)} 0 21"),
        record(home(*[1] * CHECKERS), home(*[6] * CHECKERS)),
    )
    equity, inside = table.equities(states)
    assert inside.tolist() == [False] * 6 + [True]
    assert (equity[:6] == 0).all()


def test_an_equity_of_impossible_counts_is_refused(table):
    for mine in ((1, 0, 0), home(*[1] * (CHECKERS + 1)), (-1, 1, 0, 0, 0, 0)):
        with pytest.raises(InvalidState, match="six counts"):
            table.equity(mine, home(1))
    with pytest.raises(InvalidState, match="no side"):
        table.equity(home(), home())


# Player, judge, evaluator.


def test_the_player_gives_nothing_away_from_roll_to_roll(table):
    player, rng = BearoffPlayer(table), random.Random(3)
    for _ in range(20):
        state = record(random_home(rng, CHECKERS), random_home(rng, CHECKERS))
        while not GAME.points(state):
            if GAME.rules["to_play"](state) == CHANCE:
                GAME.play(state, rng.choice(GAME.chance(state))[0])
                continue
            actions = player.choose(records(state), np.zeros(1, np.uint64), np.zeros(1, np.int32))
            assert actions.dtype == np.int32 and bearoff_regret(table, records(state), actions)[0] == 0
            GAME.play(state, int(actions[0]))


def test_outside_the_table_the_player_fails_by_name(table):
    state = record(home(*[1] * (CHECKERS + 1)), home(1), 0, "21")
    with pytest.raises(PlayerError, match=GAME.position(state).split()[0]):
        BearoffPlayer(table).choose(records(state), np.zeros(1), np.zeros(1))


def test_before_the_roll_there_is_nothing_to_choose(table):
    with pytest.raises(InvalidState, match="dice to play"):
        table.action_equities(records(record(home(1), home(1))))


def test_regret_is_what_a_wasted_checker_costs(table):
    # 2/off and 1/off, in either order, win; after 2/1 one checker stays and the opponent leaves.
    state = record(home(2, 1), home(1), 1, "21")
    actions = np.array([GAME.parse_action(state, name) for name in ("2/off", "1/off", "2/1")])
    assert bearoff_regret(table, records(*[state] * 3), actions).tolist() == [0, 0, 2]


def test_regret_of_an_illegal_action_is_refused(table):
    with pytest.raises(IllegalAction, match="action 150"):
        bearoff_regret(table, records(record(home(1), home(1), 0, "21")), np.array([150]))


class Constant:
    """Says the same of every state."""

    def submit(self, leaves):
        return len(leaves.states)

    def result(self, ticket):
        return Evaluation(np.full((ticket, 30), 7, np.float32), np.full((ticket, 2), 0.25, np.float32))


def test_the_evaluator_changes_values_in_the_table_only(table):
    states = records(
        record(home(1), home(4), 1, "21"),
        GAME.parse_position("4HPwATDgc/ABMA 0 31"),
        record(home(6), home(1), 0, "1"),
    )
    evaluator = BearoffEvaluator(Constant(), table)
    ticket = evaluator.submit(Leaves(states, np.zeros((3, 30), np.int32), np.ones(3, np.int32)))
    states["seat"] = 0  # the forest may reuse its leaves
    found = evaluator.result(ticket)
    assert found.values.dtype == np.float32 and (found.logits == 7).all()
    third = np.float32(1) / np.float32(3)
    assert found.values.tolist() == [[-third, third], [0.25, 0.25], [-third, third]]


# The file.


def test_a_stored_table_is_read_back_and_not_built_again(tmp_path):
    path, said = tmp_path / "deep" / "table.bin", []
    first = bearoff_table(2, path, said.append)
    assert said[-1].endswith("100 %") and path.stat().st_size == 64 + 2 * 28 * 28
    said.clear()
    second = bearoff_table(2, path, said.append)
    assert not said and (first.wins == second.wins).all() and not second.wins.flags.writeable
    assert [p.name for p in path.parent.iterdir()] == ["table.bin"]


def test_the_table_lies_in_the_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bearoff_table(1)
    assert cache_folder() == tmp_path / "zeroloop"
    assert [p.name for p in cache_folder().iterdir()] == ["bearoff-1-v1.bin"]


@pytest.mark.parametrize("fault", ["cut", "long", "empty", "flipped", "foreign"])
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path, fault):
    path = tmp_path / "table.bin"
    bearoff_table(1, path)
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[-5] ^= 1
    bad = {
        "cut": good[:-1],
        "long": good + b"x",
        "empty": b"",
        "flipped": bytes(flipped),
        "foreign": b"x" * len(good),
    }
    path.write_bytes(bad[fault])
    with pytest.raises(StoreError, match="not a whole bear-off table") as caught:
        bearoff_table(1, path)
    assert str(path) in str(caught.value)


def test_a_table_of_other_checkers_is_refused(tmp_path):
    bearoff_table(1, tmp_path / "table.bin")
    with pytest.raises(StoreError, match="of 1 checkers"):
        bearoff_table(2, tmp_path / "table.bin")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made"):
        bearoff_table(1, tmp_path / "file" / "deep" / "table.bin")


@pytest.mark.parametrize("checkers", [0, 11, 15])
def test_a_table_of_no_such_size_is_refused(checkers):
    with pytest.raises(ConfigError, match="1 to 10"):
        bearoff_table(checkers)


# GNU Backgammon, whose two-sided database holds six checkers a side.


@pytest.mark.skipif(INTERPRETED, reason="a table of six checkers takes minutes uncompiled")
def test_equities_are_those_of_gnu_backgammon(table):
    program, rng = need_program("gnubg", "gnubg"), random.Random(11)
    pairs = [(random_home(rng, 6), random_home(rng, 6)) for _ in range(200)]
    with Gnubg(program) as gnubg:
        theirs = [gnubg.bearoff_equity(board(mine, yours)) for mine, yours in pairs]
    ours = [table.equity(mine, yours) for mine, yours in pairs]
    assert np.abs(np.array(ours) - theirs).max() < 0.001
    assert np.std(ours) > 0.3
