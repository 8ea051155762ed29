"""Backgammon against OpenSpiel, side by side through random games.

OpenSpiel departs from zeroloop in its actions, nowhere in the rules: every turn's set of boards and
every game's points are those of the slow rules too. Its departures, which the last test counts:
  * an action is two movements; a double is two such actions of one player, an "extra turn";
  * the second is asked for only after two movements, so a turn that comes to a stop after none, one
    or three movements has no pass of its own; after two it has one;
  * after `max_player_turns` (500) turns a game ends with no points for anybody.
"""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from tests.games import backgammon_slow as slow
from tests.games.backgammon_slow import BAR, Board, dice_of, side
from tests.games.oracles import need
from zeroloop.games import make
from zeroloop.games.backgammon import position_id, turn_results

GAME = make("backgammon")
PASS = 150
OPENSPIEL_BAR = 100
NAME = "backgammon(scoring_type=full_scoring)"


def openspiel_side(state, player):
    """Return one player's 26 counts by his own numbering; X (player 0) walks up OpenSpiel's points."""
    points = {24 - i if player == 0 else i + 1: state.board(player, i) for i in range(24)}
    return side({**points, BAR: state.board(player, OPENSPIEL_BAR)})


def openspiel_board(state, player):
    """Return OpenSpiel's board as the player sees it."""
    return Board(openspiel_side(state, player), openspiel_side(state, 1 - player))


def openspiel_results(state, player, seen=None):
    """Return the boards at which OpenSpiel's turn can end, both halves of a double played."""
    ends, seen = set(), set() if seen is None else seen
    for action in state.legal_actions():
        after = state.child(action)
        board = openspiel_board(after, player)
        if not after.is_player_node():
            ends.add(board)
        elif board not in seen:
            seen.add(board)
            ends |= openspiel_results(after, player, seen)
    return ends


def openspiel_movements(state, player, action):
    """Return [(die, source)] of OpenSpiel's action in the order given; a pass is left out."""
    found = []
    for movement in state.spiel_move_to_checker_moves(player, action):
        if movement.pos == OPENSPIEL_BAR:
            found.append((movement.num, BAR))
        elif 0 <= movement.pos < 24:
            found.append((movement.num, 24 - movement.pos if player == 0 else movement.pos + 1))
    return found


def roll_both(theirs, ours, rng):
    """Throw the dice in both games; return (player, dice)."""
    outcomes, weights = zip(*theirs.chance_outcomes(), strict=True)
    outcome = rng.choices(outcomes, weights)[0]
    told = theirs.action_to_string(-1, outcome)
    opening = re.fullmatch(r"chance outcome \d+ ([XO]) starts, \(roll: (\d)(\d)\)", told)
    later = re.fullmatch(r"chance outcome \d+ \(roll: (\d)(\d)\)", told)
    assert opening or later, told
    if opening:
        high, low = sorted(opening.groups()[1:], reverse=True)
        name = high + low if opening[1] == "X" else low + high
    else:
        name = "".join(sorted(later.groups(), reverse=True))
    theirs.apply_action(outcome)
    GAME.play(ours, GAME.parse_action(ours, name))
    return theirs.current_player(), dice_of(tuple(map(int, name)))


def play_turn(theirs, ours, player, rng):
    """Play a random turn of OpenSpiel in both games.

    Returns:
      How many movements each of its actions made, and whether our turn ended with a pass.
    """
    played, shape = [], []
    while theirs.current_player() == player:
        action = rng.choice(theirs.legal_actions())
        movements = openspiel_movements(theirs, player, action)
        played += movements
        shape.append(len(movements))
        theirs.apply_action(action)
    for die, source in played:
        GAME.play(ours, (24 if source == BAR else source - 1) * 6 + die - 1)
    forced = GAME.legal(ours) == [PASS]
    if forced:
        GAME.play(ours, PASS)
    return tuple(shape), forced


def compare_games(count, seed, results_every):
    """Play random games in both; return what was counted."""
    spiel = need("pyspiel").load_game(NAME)
    rng, counts = random.Random(seed), Counter()
    for _ in range(count):
        theirs, ours = spiel.new_initial_state(), GAME.initial_state()
        while not theirs.is_terminal():
            player, dice = roll_both(theirs, ours, rng)
            before = slow.position_id(openspiel_board(theirs, player))
            assert GAME.position(ours) == f"{before} {player} {''.join(map(str, dice))}"
            if counts["turns"] % results_every == 0:
                board = openspiel_board(theirs, player)
                ends = openspiel_results(theirs, player)
                assert ends == slow.results(board, dice), (board, dice)
                expected = sorted(slow.position_id(slow.turned(end)) for end in ends)
                assert turn_results(ours) == expected, (board, dice)
                counts["turns compared in full"] += 1
            shape, forced = play_turn(theirs, ours, player, rng)
            counts[len(dice), shape, "pass" if forced else "won" if theirs.is_terminal() else ""] += 1
            counts["turns"] += 1
            board = openspiel_board(theirs, player)
            assert position_id(ours) == slow.position_id(slow.turned(board)), (before, player, dice)
            assert GAME.points(ours) == (theirs.returns() if theirs.is_terminal() else None)
        won = slow.points_won(openspiel_board(theirs, player))
        assert theirs.returns()[player] == won, "OpenSpiel's points are the rulebook's"
        counts[f"won by {won}"] += 1
    return counts


@pytest.mark.parametrize(
    ("count", "results_every"), [(10, 10), pytest.param(2_000, 40, marks=pytest.mark.slow)]
)
def test_random_games_run_as_openspiel_has_them(count, results_every):
    counts = compare_games(count, seed=count, results_every=results_every)
    assert counts["turns"] > 50 * count
    assert all(counts[f"won by {points}"] > 0 for points in (1, 2, 3)), counts


@pytest.mark.slow
def test_departures_of_openspiel():
    spiel, counts = need("pyspiel"), compare_games(60, seed=4, results_every=1000)
    turns = {key for key in counts if isinstance(key, tuple)}
    going_on = {(dice, shape, end) for dice, shape, end in turns if end != "won"}
    assert going_on == {
        (2, (2,), ""),
        (2, (1,), "pass"),
        (2, (0,), "pass"),
        (4, (2, 2), ""),
        (4, (2, 1), "pass"),
        (4, (2, 0), "pass"),
        (4, (1,), "pass"),
        (4, (0,), "pass"),
    }
    # A game cut by OpenSpiel's own bound on turns has points for nobody; ours go on.
    short = spiel.load_game("backgammon(scoring_type=full_scoring,max_player_turns=10)")
    state, rng = short.new_initial_state(), random.Random(5)
    while not state.is_terminal():
        outcomes = [a for a, _ in state.chance_outcomes()] if state.is_chance_node() else None
        state.apply_action(rng.choice(outcomes or state.legal_actions()))
    assert state.returns() == [0, 0]
    assert all(openspiel_side(state, player)[0] < 15 for player in (0, 1))
