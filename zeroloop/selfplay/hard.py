"""Hard positions: a file of positions from which a share of the self-play games begins.

JSON Lines with `game`, `position` and, where known, `ply`; `zeroloop regret --out` writes them, and other
keys are left alone. Which games begin there, and from which line, depends on the run's seed and the game's
key alone.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import draws
from ..errors import ConfigError, GameError, InvalidState, StoreError
from ..files import sha256
from ..games.game import Game

Array = npt.NDArray[Any]


class HardPositions:
    """The n positions of a file, all read and checked.

    Raises:
      StoreError: the file cannot be read. InvalidState: a line is of another game, no position, or offers
      no choice; the message names file and line. ConfigError: it holds no positions.
    """

    def __init__(self, game: Game, path: pathlib.Path) -> None:
        try:
            data = path.read_bytes()
            lines = data.decode("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"selfplay.hard_positions: {path} cannot be read as text ({error}).") from error
        self.path, self.fingerprint = path, sha256(data)
        numbered = [(n, line) for n, line in enumerate(lines, 1) if line.strip()]
        if not numbered:
            raise ConfigError(
                f"selfplay.hard_positions: {path} holds no positions; write some with zeroloop regret --out, "
                "or leave it empty."
            )
        self.states = game.states(len(numbered))
        """`state_dtype [n]`."""
        self.plies = np.zeros(len(numbered), np.int32)
        """`i4 [n]`: plies before each, 0 where the file does not say."""
        for i, (number, line) in enumerate(numbered):
            self.states[i], self.plies[i] = _read(game, line, f"{path}:{number}")

    def lines_of(self, seed: Any, keys: npt.NDArray[np.uint64], share: float) -> npt.NDArray[np.int64]:
        """Return the position from which each game begins, `i8 [k]`, -1 for one that begins as usual."""
        out = np.full(len(keys), -1, np.int64)
        for i, key in enumerate(keys):
            if float(draws.uniform(seed, draws.INITIAL, key, 1, 0)) < share:
                out[i] = draws.integer(seed, draws.INITIAL, key, 2, 0, len(self.states))
        return out


def _read(game: Game, line: str, where: str) -> tuple[Any, int]:
    """Return the state and ply of a line; InvalidState where it is none of this game."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidState(f"{where}: not JSON ({error}).") from error
    if not isinstance(row, dict) or not all(isinstance(row.get(k), str) for k in ("game", "position")):
        raise InvalidState(f"{where}: expected an object with the texts 'game' and 'position'.")
    if row["game"] != game.id:
        raise InvalidState(f"{where}: a position of {row['game'][:60]}, but this run plays {game.id}.")
    ply = row.get("ply", 0)
    if type(ply) is not int or not 0 <= ply < game.max_plies:
        raise InvalidState(
            f"{where}: ply is {str(ply)[:20]}; it must be a whole number below {game.max_plies}."
        )
    try:
        state = game.parse_position(row["position"])
    except GameError as error:
        raise InvalidState(f"{where}: {error}") from error
    if len(game.legal(state)) < 2:
        raise InvalidState(
            f"{where}: nobody has a choice in '{row['position'][:80]}'; a game must begin with a decision."
        )
    return state, ply
