"""Hex and OpenSpiel's `hex` agree move by move in random games.

Departures, by choice: our ids count the cells in the view of the seat to move and name the swap by the
cell of the stone, OpenSpiel's count them on the board and name the swap size * size; names are equal.
Both put the swapped stone on the mirrored cell.
"""

from __future__ import annotations

import random

import pytest

from tests.games.oracles import need
from zeroloop.games import make

MARKS = {"x": "X", "y": "X", "z": "X", "X": "X", "o": "O", "p": "O", "q": "O", "O": "O", ".": "."}
"""OpenSpiel tells stones by the edges that they reach: small letters, or capitals for a finished chain."""


def stones(text):
    return [MARKS[c] for c in text if c in MARKS]


def picture(game, state, size):
    """The cells of our picture, without letters and numbers."""
    return [c for line in game.render(state).split("\n")[1 : size + 1] for c in line if c in "XO."]


MANY = [(2, False, 300), (3, False, 500), (4, False, 300), (5, False, 300), (7, False, 200), (11, False, 60)]
MANY += [(2, True, 100), (3, True, 200), (5, True, 100), (8, True, 20)]


@pytest.mark.slow
@pytest.mark.parametrize("size, swap, games", MANY)
def test_2080_random_games_are_those_of_openspiel(size, swap, games):
    compare(size, swap, games)


@pytest.mark.parametrize(
    "size, swap, games",
    [
        pytest.param(3, False, 30, marks=pytest.mark.slow),
        pytest.param(3, True, 20, marks=pytest.mark.slow),
        (5, True, 8),
        pytest.param(11, False, 2, marks=pytest.mark.slow),
    ],
)
def test_60_random_games_are_those_of_openspiel(size, swap, games):
    compare(size, swap, games)


def compare(size, swap, games):
    pyspiel = need("pyspiel")
    oracle = pyspiel.load_game("hex", {"board_size": size, "swap": swap})
    game, rng = make("hex", size=size, swap=swap), random.Random(size)
    swaps = 0
    for _ in range(games):
        theirs, ours = oracle.new_initial_state(), game.initial_state()
        while not theirs.is_terminal():
            assert game.rules["to_play"](ours) == theirs.current_player()
            actions = {theirs.action_to_string(a): a for a in theirs.legal_actions()}
            names = {game.action_name(ours, a): a for a in game.legal(ours)}
            assert set(names) == set(actions)
            name = "swap" if "swap" in names and rng.random() < 0.5 else rng.choice(sorted(names))
            swaps += name == "swap"
            theirs.apply_action(actions[name])
            game.rules["apply_action"](ours, names[name])
            assert picture(game, ours, size) == stones(str(theirs))
        assert game.points(ours) == theirs.returns()
    assert bool(swaps) == swap
