"""Chess and OpenSpiel's `chess` agree move by move in random games; python-chess judges the ends.

Departures, by choice: OpenSpiel's seat 0 is Black, ours is White, and its action ids are its own; names are
equal. Positions, clocks, en passant squares, the number of legal moves and all draws agree.
"""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from tests.games.chess_play import POLICIES, SPARSE, end_of, play_on
from tests.games.oracles import need
from zeroloop.games import make

GAME = make("chess")
START = GAME.position(GAME.initial_state())


def play_beside(fen, policy, rng, departures):
    """Play one game on three boards, note where OpenSpiel departs, and return how the game ended."""
    chess, pyspiel = need("chess"), need("pyspiel")
    board, theirs = chess.Board(fen), pyspiel.load_game("chess").new_initial_state(fen)
    states, out = GAME.states(1), np.zeros(GAME.max_legal, np.int32)
    states[0] = GAME.parse_position(fen)
    action = -1
    while True:
        count = play_on(GAME, states, out, action)
        row, reason = end_of(board)
        assert row == (-1 - count if count < 0 else None), board.fen()
        if theirs.is_terminal() != (row is not None):
            departures[f"end: {reason or 'theirs'}"] += 1
            return reason
        if row is not None:
            departures["result"] += theirs.returns()[::-1] != GAME.outcomes[row].tolist()
            return reason
        departures["legal moves"] += len(theirs.legal_actions()) != count
        departures["position"] += str(theirs) != GAME.position(states[0])
        move = policy(board, rng)
        action = next(a for a in out[:count].tolist() if GAME.action_name(states[0], a) == move.uci())
        theirs.apply_action(theirs.parse_move_to_action(move.uci()))
        board.push(move)


def random_games(games, seed):
    rng, departures, ends = random.Random(seed), Counter(), Counter()
    for number in range(games):
        fen = START if number % 2 else rng.choice(SPARSE)
        ends[play_beside(fen, POLICIES[number % 3], rng, departures)] += 1
    return +departures, ends


@pytest.mark.slow
def test_random_games_are_those_of_openspiel():
    departures, ends = random_games(50, seed=1)
    assert not departures
    assert ends["repetition"] and ends["clock"] and ends["material"]


@pytest.mark.slow
def test_two_thousand_random_games_are_those_of_openspiel():
    departures, ends = random_games(2_000, seed=2)
    assert not departures
    assert min(ends[reason] for reason in ("repetition", "clock", "material", "stalemate", "checkmate")) >= 10
