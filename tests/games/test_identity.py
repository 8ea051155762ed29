"""The rules identity names what a game does, not how its rules are written."""

from __future__ import annotations

import pytest

from tests.games.test_digest import run
from tests.toy_games import COIN_FLIP, THREE_WAY_VOTE, random_tree
from zeroloop.compiled import helper
from zeroloop.games import CHANCE, TERMINAL, Game, Observation, make, rules_identity

# A small game with a coin: each seat adds 1 or 2, then a coin decides whether it counts; to 5.


def initial(state, seed):
    state.total = 0
    state.plies = 0
    state.add = 0


def to_play(state):
    if state.total >= 5:
        return TERMINAL
    return CHANCE if state.add > 0 else state.plies & 1


def legal_actions(state, out):
    out[0] = 0
    out[1] = 1
    return 2


def chance_outcomes(state, out, probability):
    out[0] = 0
    out[1] = 1
    probability[0] = 0.25
    probability[1] = 0.75
    return 2


def apply_action(state, action):
    if state.add == 0:
        state.add = 1 + action
    else:
        state.total += state.add * action
        state.add = 0
        state.plies += 1


def outcome(state):
    return state.plies & 1


def observe(state, planes, global_facts):
    global_facts[0] = state.total / 8
    global_facts[1] = state.plies & 1


RULES = {
    "initial": initial,
    "to_play": to_play,
    "legal_actions": legal_actions,
    "chance_outcomes": chance_outcomes,
    "apply_action": apply_action,
    "outcome": outcome,
    "observe": observe,
}
FACTS = {
    "version": 1,
    "state_dtype": [("total", "i1"), ("plies", "i2"), ("add", "i1")],
    "num_players": 2,
    "num_actions": 2,
    "max_legal": 2,
    "max_chance": 2,
    "max_plies": 400,
    "outcomes": [[1, -1], [-1, 1]],
    "observation": Observation(globals=2),
}


def adder(name="adder", **changes):
    """Return the game with some of its rules or facts replaced."""
    rules = {**RULES, **{k: v for k, v in changes.items() if k in RULES}}
    facts = {**FACTS, **{k: v for k, v in changes.items() if k not in RULES}}
    return Game(name, rules=rules, **facts)


# Refactored without another meaning.


@helper
def begin(state):
    state.add, state.total, state.plies = 0, 0, 0


def initial_tidied(state, seed):
    begin(state)


def legal_by_loop(state, out):
    for action in range(2):
        out[action] = action
    return 2


def apply_turned_round(state, action):
    if state.add != 0:
        if action == 1:
            state.total = state.total + state.add
        state.plies, state.add = state.plies + 1, 0
    else:
        state.add = action + 1


# Another game.


def to_play_longer(state):
    if state.total >= 6:
        return TERMINAL
    return CHANCE if state.add > 0 else state.plies & 1


def to_play_turned(state):
    if state.total >= 5:
        return TERMINAL
    return CHANCE if state.add > 0 else 1 - (state.plies & 1)


def legal_one_at_four(state, out):
    out[0] = 0
    out[1] = 1
    return 1 if state.total == 4 else 2


def apply_more(state, action):
    apply_action(state, action)
    if state.add == 2:
        state.add = 3


def chance_even(state, out, probability):
    chance_outcomes(state, out, probability)
    probability[0] = 0.5
    probability[1] = 0.5
    return 2


def outcome_reversed(state):
    return 1 - (state.plies & 1)


def observe_tenths(state, planes, global_facts):
    observe(state, planes, global_facts)
    global_facts[0] = state.total / 10


CHANGES = {
    "the length": {"to_play": to_play_longer},
    "who begins": {"to_play": to_play_turned},
    "the legal actions": {"legal_actions": legal_one_at_four},
    "what an action does": {"apply_action": apply_more},
    "the chances": {"chance_outcomes": chance_even},
    "who wins": {"outcome": outcome_reversed},
    "what is observed": {"observe": observe_tenths},
    "the points": {"outcomes": [[1, -1], [-2, 2]]},
    "the version": {"version": 2},
    "the options": {"options": {"goal": 5}},
    "the version of the observation": {"observation": Observation(globals=2, version=2)},
    "the name": {"name": "summer"},
}
REFACTORED = {
    "initial": initial_tidied,
    "legal_actions": legal_by_loop,
    "apply_action": apply_turned_round,
}


def identities():
    """Return the identities of the game and of the changed ones, by what was changed."""
    changed = {what: rules_identity(adder(**change)) for what, change in CHANGES.items()}
    return {"nothing": rules_identity(adder()), **changed}


def known_games():
    """Return games with dice, three seats, planes, options and text."""
    files = [make(name) for name in ("tictactoe", "connect4", "examples/lucky_nim.py")]
    return [*files, COIN_FLIP, THREE_WAY_VOTE, random_tree(0, 3), adder()]


def test_the_identity_does_not_change_with_another_way_to_write_the_rules():
    first, second = adder(), adder(**REFACTORED)
    assert first.code_digest != second.code_digest
    assert rules_identity(first) == rules_identity(second)


def test_the_identity_changes_with_whatever_the_game_does():
    script = "from tests.games.test_identity import *; print(*identities().values())"
    found = run(script, NUMBA_DISABLE_JIT="1")
    assert len(found) == len(set(found)) == len(CHANGES) + 1


@pytest.mark.slow
def test_the_identity_is_equal_compiled_and_as_plain_python():
    script = "from tests.games.test_identity import *; print(*[rules_identity(g) for g in known_games()])"
    assert run(script, NUMBA_DISABLE_JIT="1") == [rules_identity(game) for game in known_games()]


def test_the_identity_is_sixteen_hex_digits_and_belongs_to_options():
    path = "examples/lucky_nim.py"
    found = [rules_identity(make(path, **o)) for o in ({}, {"heaps": 3}, {"heaps": 2}, {"stones": 6})]
    assert all(len(x) == 16 and int(x, 16) >= 0 for x in found)
    assert found[0] == found[1] and len(set(found)) == 3


def test_symmetries_heuristics_and_names_do_not_belong_to_the_identity():
    rules = {**RULES, "heuristic": lambda state, seat: 0.0}
    game = Game("adder", rules=rules, action_name=lambda state, action: f"m{action}", **FACTS)
    assert rules_identity(game) == rules_identity(adder())
