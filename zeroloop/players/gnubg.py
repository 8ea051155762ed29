"""GNU Backgammon as a player, `gnubg:PLY`: money play without cube, Jacoby rule or beavers, no noise.

gnubg plays whole turns, the game moves one checker an action. So at the start of a turn gnubg is asked for
its move, and the actions that lead to the same end are played one after the other. A state in mid-turn that
is no part of such a turn, as where an opening ended, is answered by the best end within reach, by gnubg's
evaluation at the same ply (without its move filter, so at 2-ply and more that may take seconds). A turn
with only one end is not asked about.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import PlayerError
from ..evaluator.choice import cores
from ..games.backgammon import GAME
from ..games.game import Game
from .backgammon_turns import Turns, begins_turn, turns
from .gnubg_program import PATIENCE, GnubgProgram, settings_of
from .gnubg_proof import asked_of, evaluate_ends, gnubg_end, prove, questions

Array = npt.NDArray[Any]

PLANS = 1 << 17
"""Decisions kept of turns that have begun; older ones are forgotten and answered as any in mid-turn."""

MID_TURN = "the best end within reach, by gnubg's evaluation at the same ply"


class GnubgPlayer:
    """Plays gnubg's moves. Not for two threads at a time; `close()` ends its processes.

    Args:
      ply: 0 to 3. programs: at most so many processes; by default one at 0-ply, otherwise one per core.

    Raises:
      PlayerError: gnubg is absent or fails its proof.
    """

    def __init__(self, ply: int, programs: int = 0) -> None:
        self.name, self.ply = f"gnubg:{ply}", ply
        self._most = programs or (1 if ply == 0 else cores())
        self._programs = [started(ply)]
        self._plans: OrderedDict[tuple[int, int, bytes], int] = OrderedDict()
        self._lock = threading.Lock()
        self.settings = {**settings_of(self._programs[0]), "mid_turn": MID_TURN}

    def close(self) -> None:
        """End the processes and wait for them; the player cannot play any more."""
        for program in self._programs:
            program.close()

    def choose(self, states: Array, keys: Array, plies: Array) -> npt.NDArray[np.int32]:
        """See `Player`. Raises PlayerError for an answer that is late, an error, or no legal move."""
        with self._lock:
            actions = np.full(len(states), -1, np.int32)
            open_: list[tuple[int, Turns]] = []
            for i, state in enumerate(states):
                plan = self._plans.get((int(keys[i]), int(plies[i]), state.tobytes()))
                if plan is not None:
                    actions[i] = plan
                    continue
                found = turns(state)
                if len(found.ends) == 1:
                    actions[i] = self._begin(state, found.actions[0], int(keys[i]), int(plies[i]))
                else:
                    open_.append((i, found))
            ends = self._answers([(states[i], found) for i, found in open_])
            for (i, found), end in zip(open_, ends, strict=True):
                actions[i] = self._begin(states[i], found.actions[end], int(keys[i]), int(plies[i]))
            return actions

    def _begin(self, state: Any, way: npt.NDArray[np.int32], key: int, ply: int) -> int:
        """Return the first action of a way through the turn, and remember the others."""
        now = GAME.copy(state)
        for action in way[way >= 0].tolist():
            self._plans[key, ply, now.tobytes()] = action
            GAME.rules["apply_action"](now, action)
            ply += 1
        while len(self._plans) > PLANS:
            self._plans.popitem(last=False)
        return int(way[0])

    def _answers(self, asked: Sequence[tuple[Any, Turns]]) -> list[int]:
        """Return the place of the chosen end of each turn, asked from as many programs as it is worth."""
        wanted = min(self._most, len(asked))
        while len(self._programs) < wanted:
            self._programs.append(started(self.ply))
        if wanted <= 1:
            return [self._end(self._programs[0], *one) for one in asked]
        free: SimpleQueue[GnubgProgram] = SimpleQueue()
        for program in self._programs:
            free.put(program)

        def answer(one: tuple[Any, Turns]) -> int:
            program = free.get()
            try:
                return self._end(program, *one)
            finally:
                free.put(program)

        with ThreadPoolExecutor(wanted) as pool:
            return list(pool.map(answer, asked))

    def _end(self, program: GnubgProgram, state: Any, found: Turns) -> int:
        """Return the place of the end that gnubg chooses."""
        if begins_turn(state):
            return gnubg_end(state, program.move(asked_of(state)), found, self.name)
        return int(np.argmax(evaluate_ends(program, state, found, self.ply).equity))


def started(ply: int) -> GnubgProgram:
    """Return a running gnubg that has proved itself."""
    program = GnubgProgram(ply, questions())
    try:
        prove(program)
    except BaseException:
        program.close()
        raise
    return program


def gnubg_player(text: str, game: Game, seed: int) -> GnubgPlayer:
    """Return the player of a name such as `gnubg:0`; gnubg draws nothing, so the seed changes nothing.

    Raises:
      PlayerError: a name of another form, another game, or gnubg is absent or fails its proof.
    """
    kind, _, ply = text.partition(":")
    if kind != "gnubg" or ply not in map(str, PATIENCE):
        raise PlayerError(f"player '{text[:60]}': write gnubg:PLY with PLY from 0 to 3, such as gnubg:0.")
    if game.name != "backgammon":
        raise PlayerError(f"player '{text}' plays backgammon, not {game.id}.")
    return GnubgPlayer(int(ply))
