"""Whole turns of backgammon: every position in which a turn can end, and the actions that lead there."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..compiled import kernel
from ..errors import InvalidState
from ..games.backgammon import GAME, PASS
from ..games.game import apply_action, legal_actions, to_play

Array = npt.NDArray[Any]

MOST_ENDS = 1 << 14
"""Ways through a turn, orders of movements counted; four movements of at most 15 checkers stay below."""


class Turns(NamedTuple):
    """The k distinct ends of a turn."""

    ends: Array
    """`state_dtype [k]`: the opponent is to roll, or the game is over."""
    actions: npt.NDArray[np.int32]
    """`i4 [k, 4]`: a way to each end, -1 after its last action."""


@kernel
def walk(game, state, line, legal, count, tried, path, ends, actions):
    """Write the end of every way through the turn and its actions; return how many, -1 if there is no room.

    Of equal dice the rearmost checker moves first: any turn can be played in that order, because no
    movement takes away what another needs, checkers further back move before any is borne off, and the bar is
    left first.

    Args:
      line: `state_dtype [5]`, legal: `i4 [5, L]`, count, tried: `i4 [5]`, path: `i4 [4]`: scratch.
    """
    line[0] = state
    depth, found = 0, 0
    tried[0] = 0
    count[0] = legal_actions(game, state, legal[0])
    while depth >= 0:
        if tried[depth] == count[depth]:
            depth -= 1
            continue
        action = legal[depth, tried[depth]]
        tried[depth] += 1
        if line[depth].other < 0 or (depth > 0 and line[depth - 1].other < 0):
            if depth > 0 and action != PASS and action > path[depth - 1]:
                continue
        path[depth] = action
        line[depth + 1] = line[depth]
        apply_action(game, line[depth + 1], action)
        if to_play(game, line[depth + 1]) >= 0:
            depth += 1
            tried[depth] = 0
            count[depth] = legal_actions(game, line[depth], legal[depth])
            continue
        if found == ends.shape[0]:
            return -1
        ends[found] = line[depth + 1]
        for i in range(4):
            actions[found, i] = path[i] if i <= depth else -1
        found += 1
    return found


def turns(state: Any) -> Turns:
    """Return the distinct ends of the turn that goes on in `state`, in which a seat has dice to play.

    Raises:
      InvalidState: no seat has dice to play.
    """
    if GAME.rules["to_play"](state) < 0:
        raise InvalidState(f"backgammon: '{GAME.position(state)}' has no dice to play; set a roll first.")
    ends, actions = GAME.states(MOST_ENDS), np.zeros((MOST_ENDS, 4), np.int32)
    count, tried, path = np.zeros(5, np.int32), np.zeros(5, np.int32), np.zeros(4, np.int32)
    legal = np.zeros((5, GAME.max_legal), np.int32)
    found = walk(GAME, state, GAME.states(5), legal, count, tried, path, ends, actions)
    if found < 0:
        raise InvalidState(
            f"backgammon: '{GAME.position(state)}' has over {MOST_ENDS} ways through the turn."
        )
    first: dict[bytes, int] = {}
    for row in range(found):
        first.setdefault(ends[row].tobytes(), row)
    rows = list(first.values())
    return Turns(ends[rows].copy(), actions[rows].copy())


def begins_turn(state: Any) -> bool:
    """Return whether no die of the roll has been played: two different ones are left, or four equal ones."""
    return bool(state.die > 0 and (state.other > 0 or state.other == -3))
