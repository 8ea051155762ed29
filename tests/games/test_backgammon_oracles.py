"""Backgammon against two oracles: the rules in slow Python and GNU Backgammon."""

from __future__ import annotations

import functools
from collections import Counter

import numpy as np
import pytest

from tests.games import backgammon_slow as slow
from tests.games.backgammon_slow import BAR, START, Board, dice_of, side
from tests.games.gnubg import Gnubg, GnubgError, played_move
from tests.games.oracles import need_program
from tests.material import observation
from zeroloop.compiled import kernel
from zeroloop.games import make
from zeroloop.games.backgammon import position_id, turn_results, with_dice
from zeroloop.games.game import apply_action, legal_actions, to_play

GAME = make("backgammon")
PASS = 150
ROLLS = [(a, b) for a in range(1, 7) for b in range(1, a + 1)]


def few_and(many):
    """Run a test on a few positions, and on many in the slow suite."""
    few = {10_000: 500, 3_000: 200}[many]
    return pytest.mark.parametrize("count", [few, pytest.param(many, marks=pytest.mark.slow)])


@functools.lru_cache(maxsize=2)
def positions(count):
    """Return (board, roll) of random games and synthetic ones; the same to every test."""
    return slow.sample(seed=2024, count=count)


def state_of(board, dice=(), seat=0):
    """Return the game's state of a board seen by the seat on roll."""
    return GAME.parse_position(f"{slow.position_id(board)} {seat} {''.join(map(str, dice)) or '-'}")


def seen_by_next(boards):
    """Return the sorted Position IDs of boards, seen by the other side."""
    return sorted(slow.position_id(slow.turned(board)) for board in boards)


@pytest.fixture(scope="module")
def gnubg():
    with Gnubg(need_program("gnubg", "gnubg")) as program:
        # Two tests ask the same questions, at 10 ms each.
        program.results = functools.cache(program.results)
        yield program


# The oracles themselves.


def test_slow_rules_play_as_the_rulebook_says():
    assert slow.position_id(START) == "4HPwATDgc/ABMA"
    wall = Board(side({13: 1}), side({25 - 2: 15}))
    assert {slow.moved(wall, 13, 7)} == slow.results(wall, (6, 5)), "one of two: the larger"
    closed = Board(side({BAR: 1, 6: 14}), side({p: 2 for p in range(1, 7)}))
    assert slow.results(closed, (6, 6, 6, 6)) == {closed}, "no way in: the board stays"
    high = Board(side({5: 1, 2: 1}), side({1: 15}))
    assert set(slow.movements(high, 6)) == {(5, 0)}, "a larger number bears off the rearmost only"
    # 5/off with the 6 would leave the 1: both numbers can be played, hence must be.
    last = Board(side({5: 1}), side({21: 1, 4: 14}))
    assert {slow.points_won(end) for end in slow.results(last, (6, 1))} == {3}
    assert slow.points_won(Board(side({}), side({18: 15}))) == 2
    assert slow.points_won(Board(side({}), side({19: 1, 18: 14}))) == 3
    assert slow.points_won(Board(side({}), side({BAR: 1, 1: 14}))) == 3
    assert slow.points_won(Board(side({}), side({24: 14}))) == 1


def test_slow_codec_reads_what_it_writes():
    for board, _ in positions(500):
        assert slow.from_position_id(slow.position_id(board)) == board
    for wrong in ("4HPwATDgc/ABM", "4HPwATDgc/ABMAA", "//////////////", "4HPwATDgc/AB!A"):
        with pytest.raises(ValueError):
            slow.from_position_id(wrong)


def test_slow_codec_agrees_with_gnubg(gnubg):
    for board, _ in positions(500):
        assert gnubg.position_id(board) == slow.position_id(board)
        assert gnubg.board(slow.position_id(board)) == board


@few_and(3_000)
def test_slow_rules_agree_with_gnubg(gnubg, count):
    for board, roll in positions(count):
        assert gnubg.results(board, roll) == slow.results(board, dice_of(roll)), (board, roll)


@functools.cache
def exact_equity(board):
    """Return the cubeless equity of a bear-off too far gone for gammons, by the slow rules."""
    total = 0.0
    for roll in ROLLS:
        ends = slow.results(board, dice_of(roll))
        best = max(1 if slow.points_won(end) else -exact_equity(slow.turned(end)) for end in ends)
        total += best * (1 if roll[0] == roll[1] else 2) / 36
    return total


def test_exact_bearoff_equities_agree_with_gnubg(gnubg):
    one = Board(side({6: 1}), side({1: 1}))
    assert exact_equity(one) == pytest.approx(27 / 36 - 9 / 36), "27 of 36 rolls bear off from the 6 point"
    for low in range(1, 7):
        for high in range(low, 7):
            mine = [low, high]
            for other in (1, 4, 6):
                board = Board(side({p: mine.count(p) for p in mine}), side({other: 2}))
                assert gnubg.bearoff_equity(board) == pytest.approx(exact_equity(board), abs=1e-4)


def test_gnubg_raises_where_it_does_not_understand(gnubg):
    for wrong in ("9/3", "24/18*", "24/23(3)", "24-18", "Cannot move"):
        with pytest.raises(GnubgError):
            played_move(START, wrong)
    with pytest.raises(GnubgError):
        gnubg.ask("board_of", "nonsense")
    with pytest.raises(GnubgError):
        gnubg.bearoff_equity(START)
    assert gnubg.board("4HPwATDgc/ABMA") == START, "it goes on after an error"


def test_positions_hold_the_rare_cases():
    counts = Counter()
    for board, roll in positions(500):
        dice = dice_of(roll)
        must, most = slow.required(board, dice), len(max(slow.required(board, dice), key=len))
        singles = {die for die in dice if slow.movements(board, die)}
        counts["double cut short"] += len(dice) == 4 and 0 < most < 4
        longest = {end for played, end in slow.endings(board, dice) if len(played) == most}
        counts["larger of two"] += longest != slow.results(board, dice)
        counts["both dice"] += slow.is_restricted(board, dice) and most == 2
        counts["smaller alone"] += must == {(min(dice),)}
        counts["nothing to play"] += most == 0
        first = {(die, *step) for die in singles for step in slow.movements(board, die)}
        counts["a movement that would waste the other die"] += len(slow.first_movements(board, dice)) < len(
            first
        )
        counts["several on the bar"] += board.mine[BAR] > 1
        counts["a die larger than the point"] += any(die > source > t == 0 for die, source, t in first)
        counts["won"] += any(map(slow.points_won, slow.results(board, dice)))
    assert len(counts) == 9 and min(counts.values()) >= 5, counts


# The game: whole turns.


@few_and(10_000)
def test_turn_results_are_those_of_the_slow_rules(count):
    for board, roll in positions(count):
        dice = dice_of(roll)
        expected = seen_by_next(slow.results(board, dice))
        assert turn_results(state_of(board, dice)) == expected, (board, roll)


@few_and(3_000)
def test_turn_results_are_those_of_gnubg(gnubg, count):
    for board, roll in positions(count):
        expected = sorted(gnubg.position_id(slow.turned(end)) for end in gnubg.results(board, roll))
        assert turn_results(state_of(board, dice_of(roll))) == expected, (board, roll)


def test_turn_results_of_every_opening_roll():
    for roll in ROLLS:
        found = turn_results(with_dice(state_of(START), f"{roll[0]}{roll[1]}"))
        assert found == seen_by_next(slow.results(START, dice_of(roll))), roll


def test_turn_results_in_mid_turn_are_those_of_the_remaining_dice():
    for board, roll in positions(500)[::2]:
        dice = dice_of(roll)
        for (die, _, _), after in slow.first_movements(board, dice).items():
            rest = slow.without(dice, die)
            if not slow.points_won(after):
                expected = seen_by_next(slow.results(after, rest))
                assert turn_results(state_of(after, rest)) == expected, (board, roll, die)


# The game: movement by movement.


@few_and(10_000)
def test_legal_actions_are_the_movements_that_begin_a_legal_turn(count):
    for board, roll in positions(count):
        dice, names = dice_of(roll), {}
        for die, source, target in slow.first_movements(board, dice):
            names[(24 if source == BAR else source - 1) * 6 + die - 1] = slow.name(source, target)
        names = names or {PASS: "pass"}
        state = state_of(board, dice)
        assert GAME.legal(state) == sorted(names), (board, roll)
        told = {a: GAME.action_name(state, a) for a in names}
        assert len(set(told.values())) == len(told), "a name means one action"
        for action, text in told.items():
            # Where both dice bear off the same checker the name of one says which.
            twice = list(names.values()).count(names[action]) == 2
            assert text == names[action] or (twice and text == f"{names[action]}({action % 6 + 1})")


@kernel
def play_all(game, states, origin, legal, children, child_origin):
    """Play every legal action of every state; return how many children that makes."""
    made = 0
    for i in range(states.shape[0]):
        for k in range(legal_actions(game, states[i], legal)):
            children[made] = states[i]
            apply_action(game, children[made], legal[k])
            child_origin[made] = origin[i]
            made += 1
    return made


@kernel
def movers(game, states, out):
    """Write who is to move in each state."""
    for i in range(states.shape[0]):
        out[i] = to_play(game, states[i])


def turn_ends(states, seat):
    """Step every sequence of actions until the seat's turn ends.

    Returns:
      For each of the states the list of different end states.
    """
    ends = [[] for _ in states]
    origin = np.arange(len(states))
    legal = np.zeros(GAME.max_legal, np.int32)
    for _ in range(5):
        children = GAME.states(len(states) * GAME.max_legal)
        child_origin = np.zeros(len(children), np.int64)
        made = play_all(GAME, states, origin, legal, children, child_origin)
        size = GAME.state_dtype.itemsize
        keyed = np.zeros(made, [("origin", "i8"), ("state", f"V{size}")])
        keyed["origin"], keyed["state"] = child_origin[:made], children[:made].view(f"V{size}")
        keyed = np.unique(keyed.view(f"V{size + 8}")).view(keyed.dtype)
        children = GAME.states(len(keyed))
        children.view(f"V{size}")[:] = keyed["state"]
        assert (children["checkers"].sum(2) + children["off"] == 15).all()
        mover = np.zeros(len(children), np.int64)
        movers(GAME, children, mover)
        for i in np.flatnonzero(mover != seat):
            ends[keyed["origin"][i]].append(children[i])
        states, origin = children[mover == seat], keyed["origin"][mover == seat].copy()
        if not len(states):
            return ends
    raise AssertionError("a turn lasts longer than four movements and a pass")


@few_and(10_000)
def test_stepping_every_sequence_ends_where_the_slow_rules_end(count):
    won = {0: 0, 1: 0, 2: 0, 3: 0}
    for start in range(0, count, 250):
        some = positions(count)[start : start + 250]
        seat = start // 250 % 2
        states = GAME.states(len(some))
        for i, (board, roll) in enumerate(some):
            states[i] = state_of(board, dice_of(roll), seat)
        for (board, roll), ends in zip(some, turn_ends(states, seat), strict=True):
            expected = {slow.position_id(slow.turned(end)): end for end in slow.results(board, dice_of(roll))}
            found = {position_id(end): end for end in ends}
            assert found.keys() == expected.keys(), (board, roll)
            assert len(found) == len(ends), "one board, one state, whatever the order of movements"
            for text, end in found.items():
                points = slow.points_won(expected[text])
                won[points] += 1
                wanted = [points, -points] if seat == 0 else [-points, points]
                assert GAME.points(end) == (wanted if points else None), (board, roll, text)
    assert min(won.values()) > 0, f"a way to win was never reached: {won}"


# The game: texts, seats, dice.


def test_position_ids_are_those_of_gnubg(gnubg):
    assert position_id(state_of(START)) == "4HPwATDgc/ABMA"
    for board, roll in positions(500):
        for dice in ((), dice_of(roll), dice_of(roll)[1:]):
            for seat in (0, 1):
                state = state_of(board, dice, seat)
                assert position_id(state) == gnubg.position_id(board)
                text = f"{gnubg.position_id(board)} {seat} {''.join(map(str, dice)) or '-'}"
                assert GAME.position(state) == text


def test_swapped_seats_see_and_may_do_the_same():
    for board, roll in positions(500):
        dice = dice_of(roll)
        one, two = state_of(board, dice, 0), state_of(board, dice, 1)
        assert GAME.legal(one) == GAME.legal(two)
        for a, b in zip(observation(GAME, one), observation(GAME, two), strict=True):
            np.testing.assert_array_equal(a, b)
        assert [GAME.action_name(one, a) for a in GAME.legal(one)] == [
            GAME.action_name(two, a) for a in GAME.legal(two)
        ]
        for action in GAME.legal(one)[:2]:
            after, swapped = GAME.copy(one), GAME.copy(two)
            GAME.play(after, action)
            GAME.play(swapped, action)
            assert position_id(after) == position_id(swapped)
            points, opposite = GAME.points(after), GAME.points(swapped)
            assert opposite == (points and points[::-1])


def test_swapped_seats_have_the_same_turn_results():
    for board, roll in positions(500)[::5]:
        dice = dice_of(roll)
        assert turn_results(state_of(board, dice, 0)) == turn_results(state_of(board, dice, 1))


def test_dice_fall_as_two_fair_dice_do():
    state = state_of(START)
    found = {GAME.action_name(state, a): p for a, p in GAME.chance(state)}
    assert found == pytest.approx({f"{a}{b}": (1 if a == b else 2) / 36 for a, b in ROLLS})
    opening = GAME.initial_state()
    assert GAME.position(opening) == "4HPwATDgc/ABMA 0 start"
    found = {GAME.action_name(opening, a): p for a, p in GAME.chance(opening)}
    assert found == pytest.approx({f"{a}{b}": 1 / 30 for a in range(1, 7) for b in range(1, 7) if a != b})


def test_higher_opening_die_moves_first_with_both_numbers():
    for a in range(1, 7):
        for b in range(1, 7):
            if a != b:
                state = GAME.initial_state()
                GAME.play(state, GAME.parse_action(state, f"{a}{b}"))
                dice = dice_of((a, b))
                assert GAME.position(state) == f"4HPwATDgc/ABMA {int(b > a)} {dice[0]}{dice[1]}"
                assert turn_results(state) == seen_by_next(slow.results(START, dice))
