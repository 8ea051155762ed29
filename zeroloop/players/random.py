"""The random player: any legal action, all equally likely. Knows no search and no network."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .. import draws
from ..compiled import kernel
from ..games.game import Game, legal_actions

Array = npt.NDArray[Any]


@kernel
def choose_actions(game, seed, states, keys, plies, legal, actions):
    """Write a uniform legal action of each state.

    Args:
      legal: `i4 [L]` scratch. actions: `i4 [n]` out.
    """
    for i in range(states.shape[0]):
        count = legal_actions(game, states[i], legal)
        actions[i] = legal[draws.integer(seed, draws.PLAYER, keys[i], plies[i], 0, count)]


class RandomPlayer:
    """Plays uniformly over the legal actions."""

    name = "random"

    def __init__(self, game: Game, seed: int = 0) -> None:
        self.game, self.seed = game, seed

    def choose(self, states: Array, keys: Array, plies: Array) -> npt.NDArray[np.int32]:
        """Return `i4 [n]` action ids for `state_dtype [n]` states in which a seat is to move.

        Args:
          keys: `u8 [n]`, the games' keys. plies: `i4 [n]`.
        """
        actions = np.zeros(len(states), np.int32)
        choose_actions(
            self.game,
            np.uint64(self.seed),
            # One layout and no read-only arrays: each other kind would compile another kernel.
            np.require(states, self.game.state_dtype, ["C", "W"]),
            np.require(keys, np.uint64, ["C", "W"]),
            np.require(plies, np.int32, ["C", "W"]),
            np.zeros(self.game.max_legal, np.int32),
            actions,
        )
        return actions
