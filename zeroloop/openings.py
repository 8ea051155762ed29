"""Openings: distinct positions from which matches begin, and the random moves that lead to them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import draws
from .compiled import kernel
from .errors import ConfigError
from .games.game import CHANCE, TERMINAL, Game, apply_action, chance_outcomes, initial, legal_actions, to_play

Array = npt.NDArray[Any]


class Openings(NamedTuple):
    """k distinct openings and how they came about."""

    states: Array
    """`state_dtype [k]`: where the players take over."""
    initial: Array
    """`state_dtype [k]`: where the game began."""
    moves: tuple[npt.NDArray[np.int32], ...]
    """k arrays: the random actions and chance outcomes between."""


@kernel
def draw_opening(game, seed, number, attempt, plies, begin, state, legal, chance, played):
    """Play `plies` random decisions from `begin`; return all plies made, -1 where no seat is to move then.

    Args:
      begin, state: filled. played: `i4 [max_plies + 1]`, the actions and chance outcomes.
    """
    key = int(draws.bits(seed, draws.INITIAL, number, 0, attempt) >> np.uint64(1))
    initial(game, begin, key)
    initial(game, state, key)
    made, step = 0, 0
    while step < played.shape[0]:
        mover = to_play(game, state)
        if mover == TERMINAL:
            return -1
        if mover != CHANCE and made == plies:
            return step
        u = draws.uniform(seed, draws.OPENING, number, step, attempt)
        if mover == CHANCE:
            k = chance_outcomes(game, state, legal, chance)
            pick = draws.pick(chance, k, u)
        else:
            k = legal_actions(game, state, legal)
            pick = min(int(u * k), k - 1)
            made += 1
        played[step] = legal[pick]
        step += 1
        apply_action(game, state, legal[pick])
    return -1


def openings(game: Game, count: int, plies: int, seed: int) -> Array:
    """Return `state_dtype [count]`: the states of `drawn_openings`."""
    return drawn_openings(game, count, plies, seed).states


def drawn_openings(game: Game, count: int, plies: int, seed: int) -> Openings:
    """Draw distinct positions after 1 to `plies` random plies, all undecided, with the moves to them.

    Longer openings are taken only when the shorter ones are used up.

    Raises:
      ConfigError: the game does not offer so many.
    """
    found: dict[bytes, tuple[Array, Array, npt.NDArray[np.int32]]] = {}
    width = max(game.max_legal, game.max_chance)
    legal, chance = np.zeros(width, np.int32), np.zeros(max(game.max_chance, 1), np.float32)
    played = np.zeros(game.max_plies + 1, np.int32)
    longest, failures, attempt = plies, 0, 0
    while len(found) < count:
        begin, state = game.states(1), game.states(1)
        number = len(found)
        length = 1 + draws.integer(np.uint64(seed), draws.OPENING, number, 1 << 20, attempt, longest)
        steps = draw_opening(
            game, np.uint64(seed), number, attempt, int(length), begin[0], state[0], legal, chance, played
        )
        attempt += 1
        if steps >= 0 and state.tobytes() not in found:
            found[state.tobytes()] = state, begin, played[:steps].copy()
            failures = attempt = 0
            continue
        failures += 1
        if failures == 300:
            failures, longest = 0, longest + 1
            if longest > game.max_plies:
                raise ConfigError(
                    f"{game.id} has only about {len(found)} distinct openings, but {count} were asked for; "
                    f"ask for at most {len(found) * game.num_players} games."
                )
    states, initials, moves = zip(*found.values(), strict=True) if found else ((), (), ())
    none = game.states(0)
    return Openings(np.concatenate([none, *states]), np.concatenate([none, *initials]), tuple(moves))
