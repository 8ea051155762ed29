"""Players: whoever chooses actions. `parse("runs/c4@128")` makes one from its name.

A choice is a function of seed, state, game key and ply alone, so a match can be replayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .. import draws
from ..compiled import kernel
from ..errors import PlayerError
from ..evaluator.choice import Choice, choose, make_evaluator
from ..games import make
from ..games.game import Game, legal_actions
from ..model import SHORT, Model, find, load
from ..search.forest import Evaluator, Forest, SearchResult, make_numbers, nodes_for
from ..search.tree import cache_entry_bytes

Array = npt.NDArray[Any]


class Player(Protocol):
    """Chooses actions for many games at once.

    It may also have `settings`, a dictionary of plain data with all that decides its play, and `close()`.
    """

    name: str
    """As shown in results, such as `minimax:4`."""

    def choose(self, states: Array, keys: Array, plies: Array) -> npt.NDArray[np.int32]:
        """Return `i4 [n]` action ids for `state_dtype [n]` states in which a seat is to move.

        Args:
          keys: `u8 [n]`, the games' keys. plies: `i4 [n]`.

        Raises:
          PlayerError: the player failed; no move is substituted.
        """


def describe(player: Player) -> dict[str, Any]:
    """Return name, model hash, simulations and settings of a player, as results store them."""
    settings = getattr(player, "settings", {})
    if isinstance(player, SearchPlayer):
        settings = {**player.settings._asdict(), "seed": player.seed, "inference": player.inference}
    return {
        "name": player.name,
        "model": getattr(player, "model_hash", None) or None,
        "simulations": getattr(player, "simulations", None),
        "settings": settings,
    }


def close(*players: Player) -> None:
    """End what the players hold, such as the processes of engines."""
    for player in players:
        if hasattr(player, "close"):
            player.close()


@kernel
def forced_actions(game, states, legal, out):
    """Write the only legal action of each state, -1 where there are several."""
    for i in range(states.shape[0]):
        out[i] = legal[0] if legal_actions(game, states[i], legal) == 1 else -1


class PlaySettings(NamedTuple):
    """How a model searches when it plays a match."""

    rule: str = "puct"
    chance: str = "sampling"
    c_puct: float = 1.5
    """As a multiple of the game's smallest win, for values are points over the largest."""
    fpu_reduction: float = 0.2
    """The same."""
    temperature: float = 0.0
    batch: int = 256
    one_batch: bool = False
    """Pad every batch to `batch`, so that an evaluation is a pure function of model and state."""
    cache_megabytes: int = 32


def smallest_win(game: Game) -> float:
    """Return the points of the smallest win over the largest: 1 in most games, a third in backgammon."""
    wins = game.outcomes.max(1)
    return float(wins[wins > 0].min() / game.scale) if (wins > 0).any() else 1.0


class SearchPlayer:
    """A network with a search of N simulations, without noise; N = 0 plays the raw policy's best action."""

    def __init__(
        self,
        game: Game,
        evaluator: Evaluator,
        simulations: int,
        *,
        name: str,
        model_hash: str = "",
        seed: int = 0,
        settings: PlaySettings | None = None,
        inference: str = "",
    ) -> None:
        self.game, self.evaluator, self.simulations = game, evaluator, simulations
        self.inference = inference
        self.name, self.model_hash, self.seed = name, model_hash, seed
        self.settings = settings or PlaySettings()
        self.forest: Forest | None = None
        """Made at the first search."""

    def choose(self, states: Array, keys: Array, plies: Array) -> npt.NDArray[np.int32]:
        """Return the action with the most visits, or of the highest prior where N = 0.

        A state with one legal action is answered without a search.
        """
        actions = np.zeros(len(states), np.int32)
        forced_actions(self.game, states, np.zeros(self.game.max_legal, np.int32), actions)
        rows = np.flatnonzero(actions < 0)
        if len(rows):
            actions[rows] = self.search(states[rows], keys[rows], plies[rows]).action
        return actions

    def search(self, states: Array, keys: Array, plies: Array) -> SearchResult:
        """Search every state; a tree that is done takes the next state at once, so batches stay full."""
        s, n = self.settings, len(states)
        forest = self._forest_for(min(n, s.batch))
        free = forest.all[: min(n, forest.size)]
        parts: list[SearchResult] = []
        order: list[Array] = []
        place = np.zeros(forest.size, np.int64)
        started = 0
        while started < n or sum(map(len, order)) < n:
            k = min(len(free), n - started)
            if k:
                ids, rows = free[:k].copy(), np.arange(started, started + k)
                place[ids] = rows
                forest.plant(ids, states[rows], keys[rows].astype(np.uint64), plies[rows].astype(np.int32))
                forest.begin(ids, np.full(k, self.simulations, np.int32), np.zeros(k, np.int32))
                started += k
            leaves = forest.select()
            free = forest.done().copy()
            if len(free):
                parts.append(forest.results(free, np.full(len(free), s.temperature)))
                order.append(place[free])
                forest.trees.trees["active"][free] = 0
                if started < n:
                    continue
            if len(leaves.count):
                forest.absorb(self.evaluator.result(self.evaluator.submit(leaves)))
        back = np.argsort(np.concatenate(order))
        return SearchResult(
            *(np.concatenate([getattr(p, f) for p in parts])[back] for f in SearchResult._fields)
        )

    def _forest_for(self, size: int) -> Forest:
        if self.forest is None or self.forest.size < size:
            s, unit = self.settings, smallest_win(self.game)
            numbers = {"c_puct": s.c_puct * unit, "fpu_reduction": s.fpu_reduction * unit}
            self.forest = Forest(
                self.game,
                size,
                max_nodes=nodes_for(self.game, self.simulations, s.chance),
                rule=s.rule,
                chance=s.chance,
                cache_entries=(s.cache_megabytes << 20) // cache_entry_bytes(self.game),
                numbers=make_numbers(numbers),
                seed=self.seed,
            )
        return self.forest


class PolicyPlayer:
    """The raw policy, sampled at a temperature: quick games without search."""

    def __init__(
        self,
        game: Game,
        evaluator: Evaluator,
        *,
        name: str,
        seed: int = 0,
        temperature: float = 1.0,
    ) -> None:
        self.name, self.seed, self.temperature = name, seed, temperature
        self._player = SearchPlayer(game, evaluator, 0, name=name, seed=seed)

    def choose(self, states: Array, keys: Array, plies: Array) -> npt.NDArray[np.int32]:
        """Draw from the prior to the power 1 / temperature."""
        found = self._player.search(states, keys, plies)
        weights = found.prior.astype(np.float64) ** (1 / self.temperature)
        out = np.zeros(len(states), np.int32)
        for i in range(len(states)):
            running = np.cumsum(weights[i, : found.count[i]])
            u = draws.uniform(np.uint64(self.seed), draws.PLAYER, int(keys[i]), int(plies[i]), 0)
            pick = min(int(np.searchsorted(running, u * running[-1], "right")), found.count[i] - 1)
            out[i] = found.legal[i, pick]
        return out


def batches(largest: int) -> list[int]:
    """Return batch sizes up to `largest` in steps of a third or a half, for searches that run dry."""
    sizes = [b for k in range(4, 31) for b in (1 << k, 3 << (k - 1)) if b < largest]
    return [*sorted(sizes), largest]


def model_player(
    model: Model,
    simulations: int,
    *,
    choice: Choice | None = None,
    seed: int = 0,
    name: str = "",
    settings: PlaySettings | None = None,
) -> SearchPlayer:
    """Return the player of a model on one thread of this machine's inference backend."""
    settings = settings or PlaySettings()
    sizes = [settings.batch] if settings.one_batch else batches(settings.batch)
    choice = choice or choose()
    evaluator = make_evaluator(model.game, model.network, choice, sizes, 1)
    return SearchPlayer(
        model.game,
        evaluator,
        simulations,
        name=name or f"{model.hash[:SHORT]}@{simulations}",
        model_hash=model.hash,
        seed=seed,
        settings=settings,
        inference=str(choice),
    )


MOST_SIMULATIONS = 1_000_000
"""Of one search of a model: its tree is allocated at once."""


def split_name(text: str, default: int) -> tuple[str, int]:
    """Return (name, simulations) of `NAME@N`; PlayerError where N is no whole number from 0 to a million."""
    name, at, number = text.rpartition("@")
    if at and not _is_whole(number):
        raise PlayerError(
            f"player '{_cut(text)}': '{_cut(number)}' is not a number of simulations; write NAME@128."
        )
    found = _number(number) if at else default
    if found is None or found > MOST_SIMULATIONS:
        raise PlayerError(
            f"player '{_cut(text)}': {_cut(number) if at else found} simulations are too many; give at most "
            f"{MOST_SIMULATIONS:,}."
        )
    return (name if at else text), found


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _number(digits: str) -> int | None:
    """Return the number of these digits, or None where it is beyond every limit (and slow to read)."""
    return int(digits) if len(digits) <= 18 else None


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


ENGINES = ("stockfish", "uci", "gnubg")
KINDS = ("random", "heuristic", "minimax", "mcts", "solver", "bearoff", *ENGINES)
FIXED = (
    "random, heuristic, minimax:DEPTH, mcts:SIMULATIONS, solver, bearoff, stockfish:nodes=N,skill=S, "
    "uci:PROGRAM,nodes=N, gnubg:PLY"
)
EXAMPLES = {"minimax": "minimax:4", "mcts": "mcts:400"}


def parse(
    text: str,
    game: Game | None = None,
    *,
    simulations: int = 64,
    seed: int = 0,
    choice: Choice | None = None,
) -> Player:
    """Make the player of a name: RUN@N, HASH@N, demo:GAME@N, a fixed player or an outside engine.

    Args:
      game: needed by the fixed players; a model must be of this game where it is given.

    Raises:
      PlayerError: an unknown name, or a player that this game does not offer.
    """
    bare, at, _ = text.rpartition("@")
    kind, _, number = (bare if at else text).partition(":")
    if kind in ENGINES:
        return _engine(text, kind, game, seed)
    if kind in KINDS:
        if at:
            hint = bare if number else EXAMPLES.get(kind, kind)
            raise PlayerError(f"player '{_cut(text)}': {kind} takes no simulations after @; write {hint}.")
        if game is None:
            raise PlayerError(f"player '{text}' needs a game; give one with --game, such as connect4.")
        return _fixed(text, kind, number, game, seed)
    name, budget = split_name(text, simulations)
    path = find(name)
    if path is None:
        raise PlayerError(
            f"there is no player '{text}': it is no run directory, model file, model hash or demo, "
            f"nor one of {FIXED}."
        )
    return model_player(load(path, game), budget, choice=choice, seed=seed, name=f"{name}@{budget}")


def parse_all(
    names: Sequence[str], game: Game | None = None, *, simulations: int = 64, seed: int = 0
) -> tuple[Game, list[Player]]:
    """Make players of one game: the one given, else the models', else the engines', else Connect Four.

    Seeds are `seed`, `seed + 1`, ... Close the players when they are no longer needed.

    Raises:
      PlayerError, ResumeError: an unknown name, or a player of another game; none is left running.
    """
    kinds = [name.partition(":")[0] for name in names]
    if game is None:
        for name, kind in zip(names, kinds, strict=True):
            path = None if kind in KINDS else find(split_name(name, simulations)[0])
            if path is not None:
                game = load(path).game
                break
    if game is None:
        game = make(
            "chess" if {"stockfish", "uci"} & set(kinds) else "backgammon" if "gnubg" in kinds else "connect4"
        )
    made: list[Player] = []
    try:
        for i, name in enumerate(names):
            made.append(parse(name, game, simulations=simulations, seed=seed + i))
    except BaseException:
        close(*made)
        raise
    return game, made


def _engine(text: str, kind: str, game: Game | None, seed: int) -> Player:
    """Start an outside program; it proves itself before its first move."""
    if kind == "gnubg":
        from .gnubg import gnubg_player

        return gnubg_player(text, game or make("backgammon"), seed)
    from .uci import uci_player

    return uci_player(text, game or make("chess"), seed)


def _fixed(text: str, kind: str, number: str, game: Game, seed: int) -> Player:
    count = _number(number) if _is_whole(number) else None
    if kind == "heuristic":
        count = 1  # minimax of one decision
    if kind in EXAMPLES and count is None:
        raise PlayerError(f"player '{_cut(text)}' needs a whole number in reach, such as {EXAMPLES[kind]}.")
    if kind in ("random", "heuristic", "solver", "bearoff") and number:
        raise PlayerError(f"player '{kind}' takes no number, but got '{text}'.")
    if kind == "random":
        from .random import RandomPlayer

        return RandomPlayer(game, seed)
    if kind == "mcts":
        from .mcts import MctsPlayer

        return MctsPlayer(game, count or 0, seed)
    if kind == "bearoff":
        from .bearoff import BearoffPlayer, bearoff_table

        if game.name != "backgammon":
            raise PlayerError(f"player 'bearoff' plays backgammon, not {game.id}.")
        return BearoffPlayer(bearoff_table())
    if kind == "solver":
        from .solvers import SolverPlayer

        return SolverPlayer(game, seed)
    from .minimax import MinimaxPlayer

    return MinimaxPlayer(game, count or 0, seed)
