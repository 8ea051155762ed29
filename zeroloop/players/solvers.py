"""Perfect play where it exists: Connect Four and small Hex by solvers, tic-tac-toe by exhaustion."""

from __future__ import annotations

import functools
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from .. import draws
from ..errors import PlayerError
from ..evaluator.choice import cores
from ..games.game import Game

Array = npt.NDArray[Any]
ILLEGAL = -1000
"""Value of an action that is not legal."""


class Solver(Protocol):
    """Knows what every action is worth."""

    plies: tuple[int, int]
    """Least and most plies of random positions that it solves quickly."""

    def action_values(self, states: Array) -> npt.NDArray[np.int32]:
        """Return `i4 [n, A]`: 1 win, 0 draw, -1 loss for the seat to move; ILLEGAL elsewhere."""

    def action_scores(self, states: Array) -> npt.NDArray[np.int32]:
        """Return `i4 [n, A]`: as `action_values`, and the larger the sooner a win or the later a loss."""


class Connect4Solver:
    """Bitboard alpha-beta on all cores (`connect4_solver`)."""

    plies = (8, 34)

    def action_values(self, states: Array) -> npt.NDArray[np.int32]:
        """See Solver."""
        return self._solve(states, "column_values")

    def action_scores(self, states: Array) -> npt.NDArray[np.int32]:
        """See Solver."""
        return self._solve(states, "column_scores")

    def _solve(self, states: Array, mode: Literal["column_scores", "column_values"]) -> npt.NDArray[np.int32]:
        from .connect4_solver import solve_many

        seats = states["plies"] & 1
        stones = states["stones"]
        positions = [(int(s[k]), int(s[1 - k])) for s, k in zip(stones, seats, strict=True)]
        return np.asarray(solve_many(positions, mode, threads=cores()), np.int32)


class TicTacToeSolver:
    """Plain exhaustion with a memory."""

    plies = (0, 7)

    def __init__(self, game: Game) -> None:
        self.game = game
        self._known: dict[bytes, int] = {}

    def _value(self, state: Any) -> int:
        """Return the exact score for the seat to move: 10 - plies at the end, its opposite, or 0."""
        key = state.tobytes()
        if key not in self._known:
            self._known[key] = max(self._after(state, a) for a in self.game.legal(state))
        return self._known[key]

    def _after(self, state: Any, action: int) -> int:
        seat, child = self.game.rules["to_play"](state), self.game.copy(state)
        self.game.rules["apply_action"](child, action)
        points = self.game.points(child)
        return int(points[seat] * (10 - child["plies"])) if points else -self._value(child)

    def action_scores(self, states: Array) -> npt.NDArray[np.int32]:
        """See Solver."""
        out = np.full((len(states), self.game.num_actions), ILLEGAL, np.int32)
        for i in range(len(states)):
            for a in self.game.legal(states[i]):
                out[i, a] = self._after(states[i], a)
        return out

    def action_values(self, states: Array) -> npt.NDArray[np.int32]:
        """See Solver."""
        scores = self.action_scores(states)
        return np.where(scores == ILLEGAL, ILLEGAL, np.sign(scores)).astype(np.int32)


@functools.lru_cache(maxsize=8)
def solver_for(game: Game) -> Solver | None:
    """Return the solver of a game, or None."""
    if game.name == "connect4":
        return Connect4Solver()
    if game.name == "hex":
        from .hex_solver import LARGEST, HexSolver

        return HexSolver(game) if int(game.options["size"]) <= LARGEST else None
    return TicTacToeSolver(game) if game.name == "tictactoe" else None


class SolverPlayer:
    """Plays perfectly: the soonest win, the latest loss; equal moves by a seeded draw."""

    name = "solver"

    def __init__(self, game: Game, seed: int = 0) -> None:
        solver = solver_for(game)
        if solver is None:
            raise PlayerError(
                f"{game.id} has no solver; there is one for connect4, tictactoe, and hex up to size=5."
            )
        self._solver, self.seed = solver, seed

    def choose(self, states: Array, keys: Array, plies: Array) -> npt.NDArray[np.int32]:
        """Return an optimal action of each state."""
        scores = self._solver.action_scores(states)
        out = np.zeros(len(states), np.int32)
        for i, row in enumerate(scores):
            best = np.flatnonzero(row == row.max())
            key, ply = int(keys[i]), int(plies[i])
            out[i] = best[draws.integer(np.uint64(self.seed), draws.PLAYER, key, ply, 0, len(best))]
        return out
