"""Action values: what every action of a position is worth, by a solver, a table, a search or an engine.

A judge is named like a player: `solver`, `bearoff`, `minimax:DEPTH`, `gnubg:PLY`, `stockfish:depth=12`. Its
values are points to the seat to move, NaN where an action is not legal.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .errors import PlayerError
from .games.game import CHANCE, TERMINAL, Game, heuristic
from .players.minimax import GUESS, MinimaxPlayer, choose_actions, make_line
from .players.solvers import ILLEGAL, solver_for

Array = npt.NDArray[Any]
Values = npt.NDArray[np.float64]
JUDGES = "solver, bearoff, minimax:DEPTH, gnubg:PLY, stockfish:depth=DEPTH, uci:PATH,depth=DEPTH"


class Judge(Protocol):
    """Says what actions are worth."""

    name: str
    unit: str
    """What a value of 1 means."""
    tie: float
    """Values this close to the best count as the best."""
    blunder: float
    """A choice that costs so much is a blunder, by default."""
    facts: dict[str, Any]
    """Settings and versions, for the report."""

    def judges(self, states: Array) -> npt.NDArray[np.bool_]:
        """Return `bool [n]`: positions, with a seat to move, that it knows in reasonable time."""

    def action_values(self, states: Array) -> Values:
        """Return `f8 [n, A]`: points to the seat to move, NaN where not legal; PlayerError where it fails."""

    def close(self) -> None:
        """End what it runs."""


class _Plain:
    """What most judges share."""

    unit = "points"
    tie = 1e-9
    blunder = 0.5

    def __init__(self, name: str, game: Game) -> None:
        self.name, self.game = name, game
        self.facts: dict[str, Any] = {}

    def judges(self, states: Array) -> npt.NDArray[np.bool_]:
        """See Judge."""
        return np.ones(len(states), np.bool_)

    def close(self) -> None:
        """See Judge."""

    def _empty(self, states: Array) -> Values:
        return np.full((len(states), self.game.num_actions), np.nan)


class SolverJudge(_Plain):
    """Exact values of games that end 1, 0 or -1; a choice costs what it gives away against perfect play."""

    def __init__(self, game: Game) -> None:
        super().__init__("solver", game)
        solver = solver_for(game)
        if solver is None:
            raise PlayerError(
                f"{game.id} has no solver; there is one for connect4, tictactoe and hex up to size=5. "
                f"Other judges: {JUDGES}."
            )
        self._solver = solver
        self._least = solver.plies[0] if game.name == "connect4" else 0
        if self._least:
            self.facts["plies"] = f"from {self._least}"

    def judges(self, states: Array) -> npt.NDArray[np.bool_]:
        """Return the positions with enough stones to be solved quickly."""
        if not self._least:
            return super().judges(states)
        return np.asarray(states["plies"] >= self._least)

    def action_values(self, states: Array) -> Values:
        """See Judge."""
        found = self._solver.action_values(states)
        return np.where(found == ILLEGAL, np.nan, found.astype(np.float64))


class BearoffJudge(_Plain):
    """Exact points in the bear-off table."""

    tie, blunder = 1e-4, 0.08

    def __init__(self, game: Game) -> None:
        from .players.bearoff import bearoff_table

        super().__init__("bearoff", game)
        if game.name != "backgammon":
            raise PlayerError(f"judge 'bearoff' knows backgammon, not {game.id}; judges: {JUDGES}.")
        self._table = bearoff_table()
        self.facts["checkers"] = self._table.checkers

    def judges(self, states: Array) -> npt.NDArray[np.bool_]:
        """Return the positions in the table."""
        return self._table.equities(states)[1]

    def action_values(self, states: Array) -> Values:
        """See Judge."""
        out, found = self._empty(states), self._table.action_equities(states)
        rows, places = np.nonzero(np.arange(found.legal.shape[1]) < found.count[:, None])
        out[rows, found.legal[rows, places]] = found.equity[rows, places]
        return out


class MinimaxJudge(_Plain):
    """The heuristic after a full search of so many decisions, dice by expectation."""

    def __init__(self, game: Game, depth: int) -> None:
        super().__init__(f"minimax:{depth}", game)
        self.depth = depth
        MinimaxPlayer(game, depth)  # refuses depths and games that have none
        rows = game.outcomes
        if game.num_players != 2 or (rows[:, 0] != -rows[:, 1]).any():
            raise PlayerError(
                f"judge '{self.name}' knows zero-sum games of two, not {game.id}; judges: {JUDGES}."
            )
        self.blunder = 0.5 if game.scale == 1 else 0.1
        self._lines = [make_line(game, d) for d in range(1, depth)]
        self._known: dict[tuple[bytes, int], float] = {}

    def action_values(self, states: Array) -> Values:
        """See Judge."""
        out = self._empty(states)
        for i in range(len(states)):
            self._known.clear()
            seat = int(self.game.rules["to_play"](states[i]))
            sign = self.game.scale * (1 if seat == 0 else -1)
            for action in self.game.legal(states[i]):
                child = self.game.copy(states[i])
                self.game.rules["apply_action"](child, action)
                out[i, action] = sign * self._value(child, self.depth - 1)
        return out

    def _value(self, state: Any, depth: int) -> float:
        """Return the value to seat 0, as a share of the largest win."""
        key = (state.tobytes(), depth)
        if key not in self._known:
            self._known[key] = self._search(state, depth)
        return self._known[key]

    def _search(self, state: Any, depth: int) -> float:
        game = self.game
        mover = int(game.rules["to_play"](state))
        if mover == TERMINAL:
            return float(game.outcomes[game.rules["outcome"](state), 0]) / game.scale
        if mover == CHANCE:
            return sum(p * self._value(self._after(state, k), depth) for k, p in game.chance(state))
        if depth == 0:
            return min(max(float(heuristic(game, state, 0)), -GUESS), GUESS)
        legal = game.legal(state)
        if len(legal) == 1:
            return self._value(self._after(state, legal[0]), depth - 1)
        line, row = self._lines[depth - 1], game.states(1)
        row[0] = state
        zeros = np.zeros(1, np.uint64), np.zeros(1, np.int32), np.zeros(1, np.int32)
        choose_actions(game, True, np.uint64(0), depth, line, row, *zeros)
        return float(line.found[: len(legal)].max()) * (1 if mover == 0 else -1)

    def _after(self, state: Any, action: int) -> Any:
        child = self.game.copy(state)
        self.game.rules["apply_action"](child, action)
        return child


class GnubgJudge(_Plain):
    """GNU Backgammon's cubeless money equity: an action is worth the best end of the turn that it allows."""

    tie, blunder = 1e-6, 0.08

    def __init__(self, game: Game, ply: int) -> None:
        from .players.gnubg import started
        from .players.gnubg_program import settings_of

        super().__init__(f"gnubg:{ply}", game)
        if game.name != "backgammon":
            raise PlayerError(f"judge '{self.name}' knows backgammon, not {game.id}; judges: {JUDGES}.")
        self.ply = ply
        self._program = started(ply)
        self.facts = dict(settings_of(self._program))

    def action_values(self, states: Array) -> Values:
        """See Judge."""
        from .players.backgammon_turns import turns
        from .players.gnubg_proof import evaluate_ends

        out = self._empty(states)
        for i in range(len(states)):
            found = turns(states[i])
            equity = evaluate_ends(self._program, states[i], found, self.ply).equity
            known = {end.tobytes(): float(x) for end, x in zip(found.ends, equity, strict=True)}
            for action in self.game.legal(states[i]):
                child = self.game.copy(states[i])
                self.game.rules["apply_action"](child, action)
                ends = turns(child).ends if self.game.rules["to_play"](child) >= 0 else [child]
                out[i, action] = max(known[end.tobytes()] for end in ends)
        return out

    def close(self) -> None:
        """End gnubg."""
        self._program.close()


class UciJudge(_Plain):
    """A chess engine that searches every legal move to a depth (MultiPV).

    Scores become expected points, 2 * (wins + draws / 2) - 1, by Stockfish's model of results as
    python-chess has it; so what is already decided costs little.
    """

    blunder = 0.3
    SECONDS = 120.0

    def __init__(self, game: Game, text: str) -> None:
        from .players.uci import find_program, parse_name, uci_player

        wanted = parse_name(text)
        if game.name != "chess":
            raise PlayerError(f"judge '{text}' knows chess, not {game.id}; judges: {JUDGES}.")
        if set(wanted.limits) != {"depth"} or wanted.strengths:
            raise PlayerError(f"judge '{text}': give a depth and nothing else, such as stockfish:depth=12.")
        super().__init__(wanted.name, game)
        self._player = uci_player(text, game)  # proves the engine, and knows the boards
        self.facts = dict(self._player.settings)
        self._depth, self._program = wanted.limits["depth"], find_program(wanted)

    def action_values(self, states: Array) -> Values:
        """See Judge. Every call has a process of its own, which ends with it."""
        import chess.engine

        out = self._empty(states)
        try:
            with chess.engine.SimpleEngine.popen_uci(self._program, timeout=self.SECONDS) as engine:
                engine.configure({"Threads": 1, "Hash": 16})
                for i in range(len(states)):
                    self._analyse(engine, states[i], out[i])
        except (chess.engine.EngineError, TimeoutError) as error:
            raise PlayerError(f"judge {self.name} failed: {error or 'late'}.") from error
        return out

    def _analyse(self, engine: Any, state: Any, out: Values) -> None:
        """Write the value of each legal action of one state."""
        import chess.engine

        board, legal = self._player.board(state), self.game.legal(state)
        limit = chess.engine.Limit(depth=self._depth, time=self.SECONDS)
        lines = engine.analyse(board, limit, multipv=len(legal), game=object())
        for line in lines:
            action = self.game.parse_action(state, board.uci(line["pv"][0]))
            share = line["score"].relative.wdl(model="sf", ply=board.ply()).expectation()
            out[action] = 2.0 * share - 1.0
        shallow = min((line["depth"] for line in lines), default=0) < self._depth
        if np.isnan(out[legal]).any() or (shallow and not _decided(lines)):
            raise PlayerError(
                f"judge {self.name} did not reach its depth for every move of {board.fen()} "
                f"in {self.SECONDS:g} s; give a smaller depth."
            )

    def close(self) -> None:
        """End the engine that has proved itself."""
        self._player.close()


def _decided(lines: Any) -> bool:
    """Say whether the search could end early because every line ends in mate."""
    return all(line["score"].is_mate() or line["depth"] > 0 and len(lines) == 1 for line in lines)


def judge_of(text: str, game: Game) -> Judge:
    """Make the judge of a name.

    Raises:
      PlayerError: an unknown judge, one of another game, or one whose program is absent.
    """
    kind, _, number = text.partition(":")
    if text == "solver":
        return SolverJudge(game)
    if text == "bearoff":
        return BearoffJudge(game)
    if kind in ("minimax", "gnubg") and number.isascii() and number.isdecimal() and len(number) < 4:
        if kind == "minimax":
            return MinimaxJudge(game, int(number))
        from .players.gnubg_program import PATIENCE

        if int(number) in PATIENCE:
            return GnubgJudge(game, int(number))
    if kind in ("stockfish", "uci") and number:
        return UciJudge(game, text)
    raise PlayerError(f"there is no judge '{text[:60]}'; judges: {JUDGES}.")
