"""Backgammon follows the rulebook: cases set up by hand, and properties of random games."""

from __future__ import annotations

import base64
import random
import re

import numpy as np
import pytest

from zeroloop.errors import InvalidState
from zeroloop.games import CHANCE, TERMINAL, make
from zeroloop.games.backgammon import FACTS, LATER, turn_results, with_dice
from zeroloop.games.check import check_game
from zeroloop.games.explain import plain_twin
from zeroloop.match import play_match
from zeroloop.openings import openings
from zeroloop.players import parse

GAME = make("backgammon")
PLAIN = plain_twin(GAME)
START = {6: 5, 8: 3, 13: 5, 24: 2}
BAR, PASS = 25, 150


def position_id(mine, yours):
    """Encode {point: checkers} of the seat on roll and of its opponent as the GNU Backgammon manual says."""
    bits = ""
    for side in (yours, mine):
        for point in range(1, 26):
            bits += "1" * side.get(point, 0) + "0"
    bits = bits.ljust(80, "0")
    raw = bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, 80, 8))
    return base64.b64encode(raw).decode().rstrip("=")


def board(mine, yours, dice, seat=0):
    return PLAIN.parse_position(f"{position_id(mine, yours)} {seat} {dice}")


def names(state):
    return [PLAIN.action_name(state, action) for action in PLAIN.legal(state)]


def play(state, *moves):
    for move in moves:
        PLAIN.play(state, PLAIN.parse_action(state, move))
    return state


def mover(state):
    return PLAIN.rules["to_play"](state)


def dice_left(state):
    return PLAIN.position(state).split()[2]


def random_states(games, seed, wanted=lambda state: True):
    """Yield states of random games, the end included."""
    for game in range(games):
        rng, state = random.Random(seed + game), PLAIN.initial_state()
        while True:
            if wanted(state):
                yield PLAIN.copy(state)
            if mover(state) == TERMINAL:
                break
            outcomes = PLAIN.chance(state)
            choices = PLAIN.legal(state) or [outcome for outcome, _ in outcomes]
            PLAIN.play(state, rng.choices(choices, [p for _, p in outcomes] or None)[0])


def swapped(state):
    """Return the state with the seats exchanged."""
    image = PLAIN.copy(state)
    for field in ("checkers", "off", "occupied", "blocks"):
        image[field] = state[field][::-1]
    image.seat = 1 - state.seat
    image.over = 0 if state.over == 0 else 1 + (state.over - 1 + 3) % 6
    return image


# Laws and counts.


def test_the_laws_of_the_contract_hold():
    report = check_game(GAME, games=20, seed=7)
    assert report.games == 20 and report.plies > 2000


def test_random_games_keep_fifteen_checkers_a_side_on_points_of_one_side():
    for state in random_states(5, 100):
        for seat in (0, 1):
            counts = state.checkers[seat].tolist()
            assert sum(counts) + state.off[seat] == 15 and min(counts) >= 0
        assert not any(state.checkers[0, i] and state.checkers[1, 23 - i] for i in range(24))


def test_what_is_kept_beside_the_checkers_follows_from_them():
    for state in random_states(5, 200):
        for seat in (0, 1):
            counts = state.checkers[seat].tolist()
            assert state.occupied[seat] == sum(1 << i for i in range(25) if counts[i])
            assert state.blocks[seat] == sum(1 << (23 - i) for i in range(24) if counts[i] >= 2)


PLAYS_OF_THE_START = {
    "11": 42, "21": 15, "22": 75, "31": 16, "32": 17, "33": 73, "41": 14, "42": 18, "43": 17, "44": 52,
    "51": 8, "52": 8, "53": 9, "54": 9, "55": 4, "61": 10, "62": 14, "63": 14, "64": 14, "65": 7, "66": 11,
}  # fmt: skip
"""Different positions after a roll from the start, as GNU Backgammon's `hint` lists them."""


@pytest.mark.parametrize("roll", PLAYS_OF_THE_START)
def test_the_start_has_the_known_number_of_plays(roll):
    start = board(START, START, "-")
    assert len(turn_results(with_dice(start, roll))) == PLAYS_OF_THE_START[roll]


# Dice.


def test_the_higher_die_of_the_opening_roll_begins_with_both_numbers():
    state = PLAIN.initial_state()
    outcomes = PLAIN.chance(state)
    assert [outcome for outcome, _ in outcomes] == list(range(21, 51))
    assert all(p == pytest.approx(1 / 30) for _, p in outcomes)
    rolls = [PLAIN.action_name(state, outcome) for outcome, _ in outcomes]
    assert sorted(rolls) == sorted(f"{a}{b}" for a in range(1, 7) for b in range(1, 7) if a != b)
    for roll in rolls:
        after = play(PLAIN.copy(state), roll)
        assert mover(after) == (0 if roll[0] > roll[1] else 1)
        assert dice_left(after) == "".join(sorted(roll, reverse=True))


def test_later_rolls_are_two_dice_with_doubles_half_as_likely():
    state = board(START, START, "-", seat=1)
    outcomes = PLAIN.chance(state)
    assert [outcome for outcome, _ in outcomes] == list(range(21)) and len(LATER) == 21
    for outcome, p in outcomes:
        a, b = PLAIN.action_name(state, outcome)
        assert a >= b and p == pytest.approx((1 if a == b else 2) / 36)
        after = PLAIN.copy(state)
        PLAIN.play(after, outcome)
        assert mover(after) == 1 and dice_left(after) == (4 * a if a == b else a + b)


def test_each_die_is_one_movement_and_then_the_opponent_rolls():
    state = play(PLAIN.initial_state(), "31", "8/5")
    assert mover(state) == 0 and dice_left(state) == "1"
    play(state, "6/5")
    assert mover(state) == CHANCE and PLAIN.position(state).endswith(" 1 -")
    play(state, "66")
    assert mover(state) == 1


def test_one_checker_may_take_both_dice_over_an_intermediate_point():
    assert names(play(PLAIN.initial_state(), "65", "24/18")) == ["8/3", "13/8", "18/13"]


def test_doubles_are_four_movements():
    state = board(START, START, "2222")
    for left in ("222", "22", "2"):
        assert mover(play(state, "13/11" if left != "2" else "24/22")) == 0 and dice_left(state) == left
    assert mover(play(state, "24/22")) == CHANCE


def test_the_order_of_the_dice_leaves_no_trace():
    first, second = (play(PLAIN.initial_state(), "31", *moves) for moves in (("8/5", "6/5"), ("6/5", "8/5")))
    assert first.tobytes() == second.tobytes()


def test_the_last_movement_of_doubles_is_like_the_last_of_two_dice():
    doubles = play(board({6: 3, 5: 12}, {1: 15}, "1111"), "6/5", "6/5", "6/5")
    assert mover(doubles) == 0
    pair = play(board({8: 1, 5: 14}, {1: 15}, "31"), "8/5")
    assert doubles.tobytes() == pair.tobytes()


# Blocks, hits and the bar.


def test_a_point_with_two_opposing_checkers_is_closed_and_with_one_is_open():
    mine, yours = {13: 2, 2: 13}, {25 - 12: 2, 25 - 11: 1, 1: 12}
    state = board(mine, yours, "1")
    assert "13/12" not in names(state)
    assert "13/11" in names(board(mine, yours, "2"))


def test_a_blot_that_is_hit_goes_to_the_bar():
    state = play(board({13: 2, 2: 13}, {14: 1, 1: 14}, "2"), "13/11")
    assert state.checkers[1, 24] == 1 and state.checkers[1, 13] == 0 and state.checkers[0, 10] == 1
    assert PLAIN.position(state).split()[0] == position_id({BAR: 1, 1: 14}, {13: 1, 11: 1, 2: 13})


def test_a_checker_on_the_bar_enters_first_on_the_point_of_the_die():
    state = board({BAR: 1, 6: 14}, {1: 1, 12: 14}, "31")
    assert names(state) == ["bar/24", "bar/22"]
    after = play(PLAIN.copy(state), "bar/24")
    assert after.checkers[1, 24] == 1, "it hits on its way in"
    assert names(after) == ["6/3", "24/21"]


def test_two_checkers_on_the_bar_take_both_dice():
    state = board({BAR: 2, 6: 13}, START, "42")
    assert names(state) == ["bar/23", "bar/21"]
    assert names(play(state, "bar/21")) == ["bar/23"]


def test_against_a_closed_board_the_only_action_is_to_pass():
    closed = {point: 2 for point in range(1, 7)} | {7: 3}
    state = board({BAR: 1, 6: 14}, closed, "65", seat=1)
    assert PLAIN.legal(state) == [PASS] and names(state) == ["pass"]
    assert mover(play(state, "pass")) == CHANCE and PLAIN.position(state).endswith(" 0 -")


def test_a_turn_that_gets_stuck_ends_with_a_pass():
    # After entering with one 5 the second checker cannot go on: point 15 is closed, so is everything else.
    state = board({BAR: 1, 1: 14}, {10: 2, 12: 13}, "5555")
    play(state, "bar/20")
    assert dice_left(state) == "555" and names(state) == ["pass"]
    assert mover(play(state, "pass")) == CHANCE


def test_pass_is_never_legal_where_a_checker_can_move():
    for state in random_states(3, 300, lambda state: mover(state) >= 0):
        legal = PLAIN.legal(state)
        assert legal == [PASS] or PASS not in legal


# Both dice, or else the larger.


def test_a_movement_that_spoils_the_other_die_is_illegal_where_both_can_be_played():
    # 6 and 1: the 6 can be played only by 13/7. Playing 1 as 13/12 would leave 12/6, which is closed.
    mine, yours = {13: 1, 3: 2, 2: 2, 1: 10}, {25 - 6: 2, 25 - 12: 1, 1: 12}
    state = board(mine, yours, "61")
    assert names(state) == ["2/1", "3/2", "13/7"]


def test_the_larger_die_must_be_played_where_only_one_of_the_two_can_be():
    # Either 10/4 or 10/9 is possible, nothing after it.
    mine, yours = {10: 1, 24: 2}, {25 - 3: 2, 25 - 9: 1, 25 - 23: 2, 25 - 18: 2, 12: 8}
    assert names(board(mine, yours, "6")) == ["10/4"] and names(board(mine, yours, "1")) == ["10/9"]
    state = board(mine, yours, "61")
    assert names(state) == ["10/4"]
    assert names(play(state, "10/4")) == ["pass"]


def test_the_smaller_die_is_played_where_the_larger_cannot_be():
    mine, yours = {10: 1, 24: 2}, {25 - 4: 2, 25 - 3: 2, 25 - 23: 2, 25 - 18: 2, 12: 7}
    state = board(mine, yours, "61")
    assert names(state) == ["10/9"]
    assert names(play(state, "10/9")) == ["pass"]


def test_the_die_that_makes_the_other_possible_comes_first():
    # 24/18 is closed; only after 24/23 can the 6 be played.
    state = board({24: 1}, {25 - 18: 2, 12: 13}, "61")
    assert names(state) == ["24/23"]
    assert names(play(state, "24/23")) == ["23/17"]


def test_entering_with_the_die_that_lets_the_other_be_played_is_forced():
    # bar/20 would leave 2s that are all closed; bar/23 lets 8/3 be played.
    mine, yours = {BAR: 1, 8: 1}, {25 - 18: 2, 25 - 6: 2, 12: 11}
    assert names(board(mine, yours, "52")) == ["bar/23"]


def test_both_dice_bear_off_where_the_smaller_first_lets_the_larger_follow():
    # 6/off alone would end the game; the rule asks for both dice where both can be played.
    assert names(board({5: 1}, {12: 15}, "61")) == ["5/4"]
    # With two checkers left both can go at once in either order.
    assert names(board({5: 1, 1: 1}, {12: 15}, "61")) == ["1/off", "5/4", "5/off"]


@pytest.mark.slow
def test_every_way_to_play_doubles_is_equally_long():
    def lengths(state, seat, done, memo):
        key = (state.tobytes(), done)
        if key not in memo:
            if mover(state) != seat or PLAIN.legal(state) == [PASS]:
                memo[key] = {done if mover(state) != TERMINAL else -1}
            else:
                memo[key] = set()
                for action in PLAIN.legal(state):
                    after = PLAIN.copy(state)
                    PLAIN.play(after, action)
                    memo[key] |= lengths(after, seat, done + 1, memo)
        return memo[key]

    tried = 0
    for state in random_states(6, 400, lambda state: mover(state) >= 0 and state.other == -3):
        found = lengths(state, int(state.seat), 0, {})
        assert len(found) == 1
        tried += 1
    assert tried > 50


# Bearing off.


def test_a_checker_bears_off_only_with_all_at_home():
    assert "6/off" not in names(board({7: 1, 6: 14}, {1: 15}, "6"))
    assert "6/off" in names(board({6: 15}, {1: 15}, "6"))


def test_a_checker_on_the_bar_stops_the_bearing_off():
    assert names(board({BAR: 1, 6: 14}, {1: 1, 12: 14}, "6")) == ["bar/19"]


def test_the_first_die_may_bring_the_last_checker_home_and_the_second_bear_off():
    state = play(board({7: 1, 4: 14}, {1: 15}, "41"), "7/6")
    assert names(state) == ["4/off", "6/2"]


def test_a_die_above_the_highest_checker_bears_off_from_the_highest_point_only():
    assert names(board({4: 2, 2: 3}, {1: 15}, "6")) == ["4/off"]


def test_a_die_below_the_highest_checker_must_be_exact_or_move():
    assert names(board({6: 1, 3: 2}, {1: 15}, "5")) == ["6/1"]
    assert names(board({6: 1, 4: 1, 3: 2}, {1: 15}, "4")) == ["4/off", "6/2"]


def test_a_gap_is_no_reason_to_bear_off_below_a_blocked_checker():
    # The 6-point cannot move by 4, since point 2 is closed, so the 3-point may not bear off by 4.
    assert names(board({6: 1, 3: 2}, {25 - 2: 2, 1: 13}, "4")) == ["pass"]


def test_a_checker_hit_while_bearing_off_must_come_round_before_another_goes():
    state = play(board({BAR: 1, 3: 2, 1: 2}, {12: 15}, "63"), "bar/19")
    assert names(state) == ["19/16"]


def test_where_two_dice_bear_off_one_checker_the_larger_is_named():
    state = board({3: 3}, {1: 15}, "54")
    assert names(state) == ["3/off", "3/off(5)"]
    assert dice_left(play(PLAIN.copy(state), "3/off")) == "5"
    assert dice_left(play(PLAIN.copy(state), "3/off(5)")) == "4"
    assert names(play(state, "3/off")) == ["3/off"]
    assert names(board({3: 1}, {1: 15}, "54")) == ["3/off"], "only the larger is legal"
    assert names(board({4: 1, 3: 1}, {1: 15}, "43")) == ["3/off", "4/1", "4/off"]


# The end.


@pytest.mark.parametrize(
    ("yours", "points"),
    [
        ({1: 14}, 1),
        ({24: 1, 12: 13}, 1),
        ({BAR: 1, 12: 13}, 1),
        ({1: 15}, 2),
        ({18: 1, 12: 14}, 2),
        ({19: 1, 12: 14}, 3),
        ({24: 1, 12: 14}, 3),
        ({BAR: 1, 12: 14}, 3),
    ],
)
@pytest.mark.parametrize("seat", [0, 1])
def test_the_loser_pays_for_checkers_not_borne_off(seat, yours, points):
    state = play(board({2: 1}, yours, "4", seat), "2/off")
    assert mover(state) == TERMINAL
    assert PLAIN.points(state) == ([points, -points] if seat == 0 else [-points, points])
    read = PLAIN.parse_position(PLAIN.position(state))
    assert read.tobytes() == state.tobytes()


def test_the_game_ends_with_the_last_checker_whatever_dice_are_left():
    state = play(board({1: 2}, {1: 15}, "3333"), "1/off", "1/off")
    assert mover(state) == TERMINAL and dice_left(state) == "-" and PLAIN.points(state) == [2.0, -2.0]
    assert PLAIN.legal(state) == [] and PLAIN.chance(state) == []


def test_random_games_end_well_before_they_would_be_cut():
    plies = [sum(1 for _ in random_states(1, seed)) for seed in range(500, 520)]
    assert max(plies) < GAME.max_plies / 2


# Both seats alike.


@pytest.mark.slow
def test_exchanging_the_seats_changes_nothing_that_the_mover_sees():
    facts, image_facts = np.empty(FACTS, np.float32), np.empty(FACTS, np.float32)
    none = np.empty((0, 0, 0), np.float32)
    for state in random_states(2, 600, lambda state: state.die >= 0):
        image = swapped(state)
        heuristic = PLAIN.rules["heuristic"]
        if mover(state) == TERMINAL:
            assert PLAIN.points(image) == PLAIN.points(state)[::-1]
            continue
        assert PLAIN.legal(image) == PLAIN.legal(state)
        assert PLAIN.chance(image) == PLAIN.chance(state)
        assert mover(image) == (1 - mover(state) if mover(state) >= 0 else CHANCE)
        PLAIN.rules["observe"](state, none, facts)
        PLAIN.rules["observe"](image, none, image_facts)
        assert facts.tolist() == image_facts.tolist()
        guess = heuristic(state, 0)
        assert heuristic(image, 1) == guess
        assert heuristic(state, 1) == pytest.approx(-guess, abs=1e-12)
        for action in PLAIN.legal(state)[:2]:
            after, image_after = PLAIN.copy(state), PLAIN.copy(image)
            PLAIN.play(after, action)
            PLAIN.play(image_after, action)
            assert swapped(after).tobytes() == image_after.tobytes()


# The observation.


def read_facts(facts):
    """Return checkers, borne off and dice from the table in docs/backgammon.md."""
    sides = []
    for side in range(2):
        counts = []
        for place in range(25):
            one, two, three, more = facts[100 * side + 4 * place :][:4]
            counts.append(int(one + 2 * two + 3 * three + 2 * more))
        sides.append((counts, round(15 * facts[200 + side])))
        assert facts[202 + side] == (facts[200 + side] > 0)
        assert facts[204 + side] == pytest.approx(sum((i + 1) * n for i, n in enumerate(counts)) / 167)
    faces = [face for face in range(1, 7) if facts[206 + face]]
    left = [n for n in range(1, 5) if facts[212 + n]]
    return sides, faces, left


def test_the_observation_determines_the_position_and_the_dice():
    facts, none = np.empty(FACTS, np.float32), np.empty((0, 0, 0), np.float32)
    for state in random_states(3, 700, lambda state: mover(state) >= 0):
        PLAIN.rules["observe"](state, none, facts)
        sides, faces, left = read_facts(facts.tolist())
        for seat, (counts, off) in zip((state.seat, 1 - state.seat), sides, strict=True):
            assert counts == state.checkers[seat].tolist() and off == state.off[seat]
        dice = dice_left(state)
        assert left == [len(dice)] and faces == sorted({int(c) for c in dice})


@pytest.mark.parametrize(
    ("mine", "yours", "touching"),
    [
        (START, START, 1),
        ({6: 15}, {6: 15}, 0),
        ({13: 15}, {13: 15}, 1),
        ({12: 15}, {12: 15}, 0),
        ({11: 15}, {13: 15}, 0),
        ({BAR: 1, 1: 14}, {1: 14}, 1),
        ({1: 15}, {BAR: 1, 1: 14}, 1),
    ],
)
def test_there_is_contact_until_all_checkers_have_passed(mine, yours, touching):
    facts = np.empty(FACTS, np.float32)
    PLAIN.rules["observe"](board(mine, yours, "6"), np.empty((0, 0, 0), np.float32), facts)
    assert facts[206] == touching


# Text.


def test_position_ids_are_those_of_gnu_backgammon():
    # As `show board` prints them: three checkers on my 3-point against four on 4 and two on 3, and turned.
    assert position_id({3: 3}, {4: 4, 3: 2}) == "7AEAAA4AAAAAAA"
    for text in ("4HPwATDgc/ABMA", "HAAAwB4AAAAAAA", "7AEAAA4AAAAAAA", "4HPhASLgc/ABMA"):
        for seat in (0, 1):
            assert PLAIN.position(PLAIN.parse_position(f"{text} {seat} -")) == f"{text} {seat} -"
    state = PLAIN.parse_position("HAAAwB4AAAAAAA 1 -")
    assert state.checkers[1].tolist()[:5] == [0, 0, 2, 4, 0] and state.checkers[0, 2] == 3


def test_position_texts_of_random_games_read_back_to_the_same_bytes():
    for state in random_states(3, 800):
        text = PLAIN.position(state)
        assert PLAIN.parse_position(text).tobytes() == state.tobytes(), text


def test_the_start_has_its_text():
    assert PLAIN.position(PLAIN.initial_state()) == "4HPwATDgc/ABMA 0 start"


CLOSED = {1: 2, 2: 2, 3: 2, 4: 2, 5: 2, 6: 2, BAR: 1}
BAD = {
    "": "'' is not like '4HPwATDgc/ABMA 0 31': Position ID, seat, dice.",
    "4HPwATDgc/ABMA 0": "is not like '4HPwATDgc/ABMA 0 31'",
    "4HPwATDgc/ABMA 2 31": "seat '2' of '4HPwATDgc/ABMA 2 31' is not 0 or 1.",
    "4HPwATDgc/ABM 0 31": "Position ID '4HPwATDgc/ABM' is not 14 base64 characters",
    "4HPwATDgc/ABMAA 0 31": "Position ID '4HPwATDgc/ABMAA' is not 14 base64 characters",
    "4HPwATDgc/AB*A 0 31": "Position ID '4HPwATDgc/AB*A' is not 14 base64 characters",
    "4HPwATDgc/ABMB 0 31": "Position ID '4HPwATDgc/ABMB' is not 14 base64 characters",
    "4HPwATDgc/AB\u00e4A 0 31": "is not 14 base64 characters",
    f"{position_id({6: 8, 5: 8}, {6: 14})} 0 31": "gives a side more than 15 checkers.",
    f"{position_id({6: 14}, {6: 8, 5: 8})} 0 31": "gives a side more than 15 checkers.",
    "////////////// 0 31": "is not 14 base64 characters",
    "/////////////w 0 31": "gives a side more than 15 checkers.",
    f"{position_id({6: 15}, {19: 1, 1: 14})} 0 31": "has both sides on point 6.",
    "4HPwATDgc/ABMA 0 13": "dice '13' are not '-'",
    "4HPwATDgc/ABMA 0 7": "dice '7' are not '-'",
    "4HPwATDgc/ABMA 0 0": "dice '0' are not '-'",
    "4HPwATDgc/ABMA 0 22222": "dice '22222' are not '-'",
    "4HPwATDgc/ABMA 0 321": "dice '321' are not '-'",
    "4HPwATDgc/ABMA 0 3-": "dice '3-' are not '-'",
    "4HPwATDgc/ABMA 1 start": "'4HPwATDgc/ABMA 1 start' is not the opening, '4HPwATDgc/ABMA 0 start'.",
    "HAAAwB4AAAAAAA 0 start": "is not the opening",
    f"{position_id({}, {6: 14})} 0 31": "is already over",
    f"{position_id({}, {6: 14})} 0 -": "is already over",
    f"{position_id({6: 14}, {})} 0 31": "is already over",
    f"{position_id({}, {})} 0 -": "is already over",
    f"{position_id(CLOSED, CLOSED)} 0 -": "both sides are on the bar against closed boards",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_position_is_refused_with_its_reason(text):
    with pytest.raises(InvalidState, match=f"^backgammon: .*{re.escape(BAD[text])}"):
        PLAIN.parse_position(text)


def test_a_roll_can_be_set_before_a_roll_only():
    start = PLAIN.initial_state()
    assert dice_left(with_dice(start, "13")) == "31" and with_dice(start, "13").seat == 1
    assert PLAIN.position(start).endswith("start"), "the state given is left alone"
    with pytest.raises(InvalidState, match="^backgammon: dice '11' are no roll here; .*allowed: 12, 13"):
        with_dice(start, "11")
    later = board(START, START, "-")
    assert dice_left(with_dice(later, "11")) == "1111"
    with pytest.raises(InvalidState, match="^backgammon: dice '13' are no roll here"):
        with_dice(later, "13")
    with pytest.raises(InvalidState, match="^backgammon: '.* 0 31' is not before a roll"):
        with_dice(with_dice(later, "31"), "31")


def test_the_results_of_a_turn_are_seen_by_the_opponent():
    state = board({1: 2, 6: 1}, {12: 14}, "61", seat=1)
    both = position_id({12: 14}, {1: 1}), position_id({12: 14}, {1: 2})
    assert turn_results(state) == sorted(both)
    assert turn_results(board({6: 1}, {12: 14}, "6")) == [position_id({12: 14}, {})]
    with pytest.raises(InvalidState, match="has no dice to play"):
        turn_results(board(START, START, "-"))


def test_the_results_of_the_rest_of_a_turn_are_fewer():
    state = with_dice(board(START, START, "-"), "31")
    rest = turn_results(play(PLAIN.copy(state), "8/5"))
    assert (
        set(rest) < set(turn_results(state)) and position_id(START, {24: 2, 13: 5, 8: 2, 6: 4, 5: 2}) in rest
    )


PICTURE = """\
 +13-14-15-16-17-18------19-20-21-22-23-24-+
 | X           O    |   | O              X |  O: pips 167, on the bar 0, off 0
 | X           O    |   | O              X |
 | X           O    |   | O                |
 | X                |   | O                |
 | X                |   | O                |
 |                  |BAR|                  |
 | O                |   | X                |
 | O                |   | X                |
 | O           X    |   | X                |
 | O           X    |   | X              O |
 | O           X    |   | X              O |  X: pips 167, on the bar 0, off 0
 +12-11-10--9--8--7-------6--5--4--3--2--1-+
 4HPwATDgc/ABMA 0 31: X has 31 to play"""


def test_the_picture_is_that_of_a_board():
    assert PLAIN.render(play(PLAIN.initial_state(), "31")) == PICTURE


def test_the_picture_shows_high_stacks_the_bar_and_the_numbers_of_the_seat_on_roll():
    lines = PLAIN.render(board({BAR: 2, 6: 12}, {BAR: 1, 1: 13}, "-", seat=1)).split("\n")
    assert lines[0] == " +12-11-10--9--8--7-------6--5--4--3--2--1-+"
    assert lines[1] == " |                  | XO| O                |  O: pips 122, on the bar 2, off 1"
    assert lines[2] == " |                  | O | O                |"
    assert lines[5] == " |                  |   | 12               |"
    assert lines[11] == " |                  | XO|                X |  X: pips 38, on the bar 1, off 1"
    assert lines[-1].endswith("1 -: O is to roll")
    over = play(board({1: 1}, {23: 15}, "1"), "1/off")
    assert PLAIN.render(over).endswith("1 -: X wins 3 points")


# The heuristic.


def guess(mine, yours, dice="-", seat=0):
    return PLAIN.rules["heuristic"](board(mine, yours, dice, seat), seat)


def test_the_heuristic_likes_a_lead_in_the_race_and_the_turn():
    even, ahead = guess({6: 8}, {6: 8}), guess({4: 8}, {6: 8})
    assert 0 < even < ahead < 0.34


def test_the_heuristic_knows_gammons():
    assert guess({1: 4}, {23: 8, 22: 7}) > 0.6
    assert guess({1: 4}, {23: 8, 22: 6}) < 0.34


def test_the_heuristic_fears_shots_and_likes_points():
    safe, exposed = {10: 2, 6: 13}, {11: 1, 9: 1, 6: 13}
    assert guess(safe, {25 - 4: 2, 6: 13}) > guess(exposed, {25 - 4: 2, 6: 13})


def test_minimax_wins_a_point_a_game_and_more_from_random_play():
    players = [parse(name, GAME, seed=3) for name in ("minimax:1", "random")]
    result = play_match(GAME, *players, starts=openings(GAME, 40, 0, seed=3), seed=3)
    mine = [points[seat] for points, seat in zip(result.points, result.seat, strict=True)]
    assert len(mine) == 80 and np.mean(mine) > 1.0
