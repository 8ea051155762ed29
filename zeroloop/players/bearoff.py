"""Exact backgammon bear-offs: a two-sided table, and a player, an evaluator and a judge that read it.

The table says how likely the side on roll wins with best play, when all checkers are home and at most
n a side are left (`bearoff_solver`). Nobody can be hit and both sides have borne checkers off, so a
game is worth one point and, without a cube, the equity is 2 * p - 1. Knows nothing of networks.
"""

from __future__ import annotations

import hashlib
import math
import os
import pathlib
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, IllegalAction, InvalidState, PlayerError, StoreError
from ..files import write_file
from ..games.backgammon import CHECKERS, GAME, recount
from ..search.forest import Evaluation, Evaluator, Leaves
from .bearoff_solver import build, home_index, look_up, plays_of, weigh_actions

Array = npt.NDArray[Any]

MOST_CHECKERS = 10
"""A table of 9 takes 50 MB, of 10 128 MB; its build twice as much besides."""

MAGIC, FORMAT = b"zlBEAROF", 1
HEADER = struct.Struct("<8sII32s16x")
"""Magic, format, checkers, SHA-256 of what follows: `<u2 [N, N]`, the table; see `BearoffTable`."""


class ActionEquities(NamedTuple):
    """What every legal action of n states is worth."""

    legal: npt.NDArray[np.int32]
    """`i4 [n, L]`, ascending ids in the first `count` columns."""
    count: npt.NDArray[np.int32]  # type: ignore[assignment]
    """`i4 [n]`."""
    equity: npt.NDArray[np.float32]
    """`f4 [n, L]`: points to the seat on roll if it goes on perfectly; -inf beyond `count`."""


class BearoffTable:
    """The exact chance to win of the side on roll, for all home positions of at most `checkers` a side.

    The numbers are rounded to 1/65535, an error of 1.5e-5 in equity. See `bearoff_table`.

    Args:
      wins: `u2 [N, N]`, N = C(checkers + 6, 6): [position of the side on roll, position of the other side].
    """

    def __init__(self, checkers: int, wins: npt.NDArray[np.uint16]) -> None:
        self.checkers, self.wins = checkers, wins.view()
        self.wins.flags.writeable = False  # as a mapped file is, so one compiled reader serves both
        self.plays = plays_of(checkers)

    def equity(self, mine: Sequence[int], yours: Sequence[int]) -> float:
        """Return the equity of the side on roll, before the roll, from six counts a side, of points 1 to 6.

        Raises:
          InvalidState: not six counts, too many checkers, or both sides have none.
        """
        for side in (mine, yours):
            if len(side) != 6 or min(side) < 0 or sum(side) > self.checkers:
                raise InvalidState(
                    f"bear-off: {list(side)} is not in the table; give six counts, of points 1 to 6, "
                    f"of at most {self.checkers} checkers."
                )
        if not any(mine) and not any(yours):
            raise InvalidState("bear-off: no side has a checker left; one must still be playing.")
        a, b = (home_index(np.array(side, np.int64), 0, 0) for side in (mine, yours))
        return float(2 * int(self.wins[a, b]) / 65535 - 1)

    def equities(self, states: Array) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Return the equity of the seat on roll, before the roll or with dice left to play.

        Args:
          states: backgammon records `[n]`.

        Returns:
          `f4 [n]`, points, 0 outside the table; `bool [n]`, whether it is in it; finished games are not.
        """
        equity, inside = np.zeros(len(states), np.float32), np.zeros(len(states), np.bool_)
        look_up(states, self.checkers, *self.plays, self.wins, equity, inside)
        return equity, inside

    def decision_values(self, states: Array) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Return `equities` for both seats: `f4 [n, 2]`, points of seat 0 and 1, and `bool [n]`."""
        equity, inside = self.equities(states)
        first = np.where(states["seat"] == 0, equity, -equity)
        return np.stack([first, -first], axis=1), inside

    def action_equities(self, states: Array) -> ActionEquities:
        """Return what each legal action of states with dice left to play is worth.

        Raises:
          InvalidState: a state is outside the table or has no dice; it is named.
        """
        n = len(states)
        found = ActionEquities(
            np.zeros((n, GAME.max_legal), np.int32),
            np.zeros(n, np.int32),
            np.full((n, GAME.max_legal), -np.inf, np.float32),
        )
        weigh_actions(GAME, states, self.checkers, *self.plays, self.wins, *found)
        missing = np.flatnonzero(found.count == 0)
        if len(missing):
            raise InvalidState(
                f"bear-off: position '{GAME.position(states[missing[0]])}' is not in the table; it holds "
                f"those with dice to play and at most {self.checkers} checkers a side, all on points 1 to 6."
            )
        return found


class BearoffPlayer:
    """Plays the exact best movement; of equal ones the first. Only positions in the table."""

    name = "bearoff"

    def __init__(self, table: BearoffTable) -> None:
        self.table = table

    def choose(self, states: Array, keys: Array, plies: Array) -> npt.NDArray[np.int32]:
        """See `Player`; raises PlayerError for a position outside the table."""
        try:
            found = self.table.action_equities(states)
        except InvalidState as error:
            raise PlayerError(f"{self.name} has no move: {error}") from None
        best = found.equity.argmax(axis=1)
        return np.asarray(found.legal[np.arange(len(states)), best], np.int32)


class BearoffEvaluator:
    """Another evaluator, whose values give way to exact ones in the table; its logits stay."""

    def __init__(self, evaluator: Evaluator, table: BearoffTable) -> None:
        self.evaluator, self.table = evaluator, table

    def submit(self, leaves: Leaves) -> Any:
        """See `Evaluator`."""
        values, inside = self.table.decision_values(leaves.states)
        return self.evaluator.submit(leaves), values / np.float32(GAME.scale), inside

    def result(self, ticket: Any) -> Evaluation:
        """See `Evaluator`."""
        inner, exact, inside = ticket
        evaluation = self.evaluator.result(inner)
        values = evaluation.values.copy()
        values[: len(inside)][inside] = exact[inside]
        return Evaluation(evaluation.logits, values)


def bearoff_regret(table: BearoffTable, states: Array, actions: Array) -> npt.NDArray[np.float32]:
    """Return `f4 [n]`: the points that each action gives away against the best one, from 0.

    Raises:
      InvalidState: a state is outside the table. IllegalAction: an action is not legal in its state.
    """
    found = table.action_equities(states)
    chosen = found.legal == np.asarray(actions)[:, None]
    chosen &= np.arange(chosen.shape[1]) < found.count[:, None]
    wrong = np.flatnonzero(~chosen.any(axis=1))
    if len(wrong):
        i = wrong[0]
        raise IllegalAction(
            f"bear-off: action {actions[i]} is not legal in '{GAME.position(states[i])}'; allowed: "
            f"{', '.join(map(str, found.legal[i, : found.count[i]]))}."
        )
    worth = found.equity[np.arange(len(states)), chosen.argmax(axis=1)]
    return np.asarray(found.equity.max(axis=1) - worth, np.float32)


def bearoff_positions(table: BearoffTable, count: int, seed: int = 0) -> Array:
    """Return `state_dtype [count]`: random positions of the table with dice and a choice to make."""
    rng = np.random.default_rng(seed)
    states, made = GAME.states(count), 0
    while made < count:
        state = GAME.states(1)[0]
        for seat in range(2):
            left = int(rng.integers(1, table.checkers + 1))
            state.checkers[seat, :6] = np.bincount(rng.integers(0, 6, left), minlength=6)
            state.off[seat] = CHECKERS - left
        state.seat = int(rng.integers(2))
        recount(state, 0)
        recount(state, 1)
        GAME.play(state, int(rng.integers(21)))
        if len(GAME.legal(state)) > 1:
            states[made] = state
            made += 1
    return states


def bearoff_table(
    checkers: int = 9, path: pathlib.Path | None = None, tell: Callable[[str], None] | None = None
) -> BearoffTable:
    """Return the table; build and store it first where it is not stored yet.

    Args:
      checkers: at most so many on each side, 1 to 10.
      path: the file; by default one in the user's cache folder.
      tell: hears how far the build is, a line at a time.

    Raises:
      ConfigError: `checkers` is out of range. StoreError: the file is damaged, or cannot be read or written.
    """
    if not 1 <= checkers <= MOST_CHECKERS:
        raise ConfigError(f"bear-off: checkers is {checkers}; it must lie in 1 to {MOST_CHECKERS}.")
    file = path or cache_folder() / f"bearoff-{checkers}-v{FORMAT}.bin"
    if not file.exists():
        _store(file, checkers, build(checkers, tell))
    return BearoffTable(checkers, _read(file, checkers))


def cache_folder() -> pathlib.Path:
    """Return where this user's programs keep what they can make again."""
    home = pathlib.Path.home()
    if os.environ.get("XDG_CACHE_HOME"):
        folder = pathlib.Path(os.environ["XDG_CACHE_HOME"])
    elif sys.platform == "darwin":
        folder = home / "Library" / "Caches"
    elif sys.platform == "win32":
        folder = pathlib.Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        folder = home / ".cache"
    return folder / "zeroloop"


def _store(path: pathlib.Path, checkers: int, wins: npt.NDArray[np.uint16]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{path.parent} cannot be made ({error.strerror}); check the permissions, or give another path."
        ) from error
    payload = wins.astype("<u2", copy=False).tobytes()
    write_file(path, HEADER.pack(MAGIC, FORMAT, checkers, hashlib.sha256(payload).digest()) + payload)


def _read(path: pathlib.Path, checkers: int) -> npt.NDArray[np.uint16]:
    """Return the table of a file, checked whole and then mapped, read-only."""
    n = math.comb(checkers + 6, 6)
    try:
        data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}); check the permissions.") from error
    head = bytes(data[: HEADER.size])
    magic, version, found, digest = HEADER.unpack(head) if len(head) == HEADER.size else (b"", 0, 0, b"")
    if magic == MAGIC and (version, found) != (FORMAT, checkers):
        raise StoreError(
            f"{path} is a bear-off table of {found} checkers in format {version}; needed are {checkers} "
            f"checkers in format {FORMAT}. Give another path."
        )
    size = HEADER.size + 2 * n * n
    if magic != MAGIC or len(data) != size or hashlib.sha256(data[HEADER.size :].data).digest() != digest:
        raise StoreError(
            f"{path} is not a whole bear-off table ({len(data)} bytes; whole are {size} with their SHA-256); "
            "delete it and run the same command again: it is then built anew."
        )
    return np.asarray(data)[HEADER.size :].view("<u2").reshape(n, n)
