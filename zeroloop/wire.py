"""The wire: what a question says and what an answer tells, as JSON. Knows nothing of HTTP or of search."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from .compiled import kernel
from .errors import InvalidState, ZeroloopError
from .games.game import CHANCE, Game, State, apply_action, chance_outcomes, legal_actions, to_play
from .model import Model
from .query import position_of
from .searcher import Answer

POSITION = 4096
"""The most characters of a position."""
DIGITS = 600
"""The most digits of a whole number; Python may refuse longer ones."""


class BadQuestion(ZeroloopError):
    """A question that is no JSON object of the keys and types of the schema, or beyond a limit."""


def parse_question(body: bytes, allowed: Sequence[str]) -> dict[str, Any]:
    """Return the JSON object of a body.

    Raises:
      BadQuestion: not JSON, not an object, unknown keys, or values of another type.
    """
    try:
        question = json.loads(
            body.decode(), parse_constant=_no_number, parse_int=_whole, object_pairs_hook=_no_twins
        )
    except RecursionError:
        raise BadQuestion("the body is JSON of too many levels; send one object of texts.") from None
    except ValueError as error:
        raise BadQuestion(f"the body is not JSON: {cut(str(error))}.") from None
    if not isinstance(question, dict):
        raise BadQuestion(f"the body is {_kind(question)}; send an object, such as {{}}.")
    for key, value in question.items():
        if key not in allowed:
            raise BadQuestion(f"unknown key '{key[:60]}'; allowed: {', '.join(allowed)}.")
        if key != "simulations" and not isinstance(value, str):
            raise BadQuestion(f"'{key}' is {_kind(value)}; it must be text.")
    return question


def _no_number(text: str) -> Any:
    """Refuse NaN and Infinity, which JSON does not know."""
    raise ValueError(f"{text} is no number of JSON")


def _whole(text: str) -> int:
    """Return a whole number; BadQuestion where it is longer than any that is meant."""
    if len(text) > DIGITS:
        raise BadQuestion(f"the body has a number of {len(text)} digits; no key takes one like that.")
    return int(text)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's pairs; ValueError where a key comes twice."""
    out = dict(pairs)
    if len(out) < len(pairs):
        raise ValueError("a key comes twice")
    return out


def _kind(value: Any) -> str:
    """Return what a JSON value is, for a message."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number that is not whole" if isinstance(value, float) else "a number")


def budget(question: dict[str, Any], limit: int) -> int:
    """Return the simulations of a search; BadQuestion where they are no number within the limit."""
    if not limit:
        raise BadQuestion("this model is served with 0 simulations, for /v1/evaluate only.")
    asked = question.get("simulations", limit)
    if type(asked) is not int or not 1 <= asked <= limit:
        what = str(asked) if type(asked) is int else _kind(asked)
        what = what if len(what) <= 40 else f"a number of {len(what)} digits"
        raise BadQuestion(f"'simulations' must be a whole number from 1 to {limit}, not {what}.")
    return asked


def check_lengths(game: Game, question: dict[str, Any]) -> int:
    """Return how many moves a question has.

    Raises:
      BadQuestion: a position or moves longer than any of this game.
    """
    length, count = len(question.get("position", "")), len(question.get("moves", "").split())
    longest = POSITION + 2 * game.state_dtype.itemsize
    if length > longest:
        raise BadQuestion(f"'position' has {length} characters; at most {longest} are allowed.")
    if count > game.max_plies:
        raise BadQuestion(f"'moves' has {count} moves; {game.id} has at most {game.max_plies}.")
    return count


def state_of(game: Game, question: dict[str, Any]) -> State:
    """Return the state that a question means.

    Raises:
      GameError: no such position or move, or no seat to move.
    """
    states = game.states(1)
    states[0] = position_of(game, question.get("position"), "")
    for name in question.get("moves", "").split():
        _play(game, states, name)
    state, dice = states[0], question.get("dice")
    if dice:
        state = position_of(game, game.position(state), "", dice)
    mover = game.rules["to_play"](state)
    if mover < 0:
        need = "is before a roll; give 'dice'" if mover == CHANCE else "is the end of a game"
        raise InvalidState(f"{game.id}: '{game.position(state)}' {need}; no seat is to move.")
    return state


def _play(game: Game, states: Any, name: str) -> None:
    """Play the legal action or roll of this name in `state_dtype [1]`; IllegalAction otherwise.

    A line is played by the compiled rules: in plain Python it would cost more than its evaluation.
    """
    ids = np.zeros(max(game.max_legal, game.max_chance), np.int32)
    count = list_choices(game, states, ids, np.zeros(max(game.max_chance, 1), np.float32))
    for action in ids[:count].tolist():
        if game.action_name(states[0], action) == name:
            play_choice(game, states, action)
            return
    game.parse_action(states[0], name)  # raises, and lists what is allowed
    raise AssertionError(f"{game.id}: the compiled rules do not offer '{name}'")


@kernel
def list_choices(game: Any, states: Any, out: Any, probability: Any) -> Any:
    """Write the ids of the legal actions, or of the outcomes at a chance node; return how many."""
    mover = to_play(game, states[0])
    if mover >= 0:
        return legal_actions(game, states[0], out)
    if mover == CHANCE:
        return chance_outcomes(game, states[0], out, probability)
    return 0


@kernel
def play_choice(game: Any, states: Any, action: Any) -> None:
    """Play an action or outcome in the first state."""
    apply_action(game, states[0], action)


def told_evaluation(model: Model, state: State, answer: Answer) -> dict[str, Any]:
    """Return the answer of /v1/evaluate."""
    game = model.game
    policy = [
        {"action": game.action_name(state, a), "id": a, "probability": p}
        for a, p in zip(answer.legal.tolist(), answer.prior.tolist(), strict=True)
    ]
    return {**told_state(model, state), "values": points(game, answer.network_value), "policy": policy}


def told_search(model: Model, state: State, answer: Answer) -> dict[str, Any]:
    """Return the answer of /v1/search."""
    game = model.game
    assert answer.visit_count is not None and answer.q is not None and answer.value is not None
    columns = (answer.legal, answer.visit_count, answer.q * game.scale, answer.prior)
    actions = [
        {"action": game.action_name(state, a), "id": a, "visits": n, "q": q if n else None, "prior": p}
        for a, n, q, p in zip(*(c.tolist() for c in columns), strict=True)
    ]
    return {
        **told_state(model, state),
        "simulations": answer.simulations,
        "action": game.action_name(state, answer.action),
        "id": answer.action,
        "values": points(game, answer.value),
        "network_values": points(game, answer.network_value) if len(answer.legal) > 1 else None,
        "actions": actions,
        "line": [game.action_name(s, a) for s, a in answer.line],
    }


def told_state(model: Model, state: State) -> dict[str, Any]:
    """Return what every answer says of its position."""
    game = model.game
    return {
        "model": model.hash,
        "game": game.id,
        "position": game.position(state),
        "to_play": int(game.rules["to_play"](state)),
    }


def points(game: Game, value: Any) -> list[float]:
    """Return a value per seat in the game's points."""
    return [x * game.scale for x in value.tolist()]


def cut(sentence: str) -> str:
    """Return a message that may hold what a client sent, without the middle of a long one."""
    return sentence if len(sentence) <= 600 else f"{sentence[:400]} ... {sentence[-195:]}"
