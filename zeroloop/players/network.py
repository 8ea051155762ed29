"""Players that ask a network: with a search, or the raw policy alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import draws
from ..compiled import kernel
from ..evaluator.choice import Choice, choose, cores, make_evaluator
from ..games.game import Game, legal_actions
from ..model import SHORT, Model
from ..search.forest import Evaluator, Forest, SearchResult, make_numbers, nodes_for
from ..search.tree import cache_entry_bytes

Array = npt.NDArray[Any]


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
        twin: Callable[[], SearchPlayer] | None = None,
    ) -> None:
        self.game, self.evaluator, self.simulations = game, evaluator, simulations
        self.inference, self._twin = inference, twin
        self._lanes = [self]
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
        searches = self.stream(len(states))
        searches.add(np.arange(len(states)), states, keys, plies)
        parts: list[SearchResult] = []
        order: list[Array] = []
        while searches.busy:
            rows, found = searches.tick()
            if found is not None:
                order.append(rows)
                parts.append(found)
        back = np.argsort(np.concatenate(order))
        return SearchResult(
            *(np.concatenate([getattr(p, f) for p in parts])[back] for f in SearchResult._fields)
        )

    def lanes(self, most: int) -> list[SearchPlayer]:
        """Return this player and others like it for threads of their own: one a core, and not above `most`.

        It is alone where nobody said how to make another one.
        """
        while self._twin is not None and len(self._lanes) < min(most, cores()):
            self._lanes.append(self._twin())
        return self._lanes[: max(1, most)]

    def stream(self, most: int) -> Searches:
        """Return searches that begin and end one by one, at most so many at once; one stream at a time."""
        return Searches(self, self._forest_for(min(most, self.settings.batch)))

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


class Searches:
    """Searches of one player that begin and end one by one: `add` states, then `tick` while `busy`."""

    def __init__(self, player: SearchPlayer, forest: Forest) -> None:
        self._player, self._forest = player, forest
        forest.trees.trees["active"][:] = 0  # what an interrupted stream left
        forest.rows = 0
        self._free = forest.all.copy()
        self._place = np.zeros(forest.size, np.int64)
        self._queue: list[tuple[Array, Array, Array, Array]] = []
        self._running = 0

    @property
    def busy(self) -> bool:
        """Whether a search waits or runs."""
        return bool(self._queue or self._running)

    def add(self, rows: Array, states: Array, keys: Array, plies: Array) -> None:
        """Take n states (copied), each under a number of the caller's; see `Player.choose`."""
        if len(rows):
            self._queue.append((rows, states.copy(), keys.astype(np.uint64), plies.astype(np.int32)))

    def tick(self) -> tuple[Array, SearchResult | None]:
        """Descend in every tree and evaluate the leaves; return the numbers that ended and their results.

        Where trees ended and states wait, the network is asked only after these have begun too.
        """
        forest, player = self._forest, self._player
        while self._queue and len(self._free):
            self._plant()
        leaves = forest.select()
        done = forest.done().copy()
        found, rows = None, self._place[done]
        if len(done):
            found = forest.results(done, np.full(len(done), player.settings.temperature))
            forest.trees.trees["active"][done] = 0
            self._free = np.concatenate([self._free, done])
            self._running -= len(done)
        if len(leaves.count) and not (len(done) and self._queue):
            forest.absorb(player.evaluator.result(player.evaluator.submit(leaves)))
        return rows, found

    def _plant(self) -> None:
        """Begin as many of the oldest states that wait as there are free trees."""
        rows, states, keys, plies = self._queue[0]
        k = min(len(self._free), len(rows))
        ids, self._free = self._free[:k].copy(), self._free[k:]
        self._place[ids] = rows[:k]
        self._forest.plant(ids, states[:k], keys[:k], plies[:k])
        self._forest.begin(ids, np.full(k, self._player.simulations, np.int32), np.zeros(k, np.int32))
        self._running += k
        if k == len(rows):
            self._queue.pop(0)
        else:
            self._queue[0] = rows[k:], states[k:], keys[k:], plies[k:]


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
    """Return batch sizes up to `largest`, so close that little is padded when searches run dry."""
    return [*range(8, min(largest, 128), 8), *range(128, largest, 16), largest]


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
    picked = choice or choose()

    def twin() -> SearchPlayer:
        return model_player(model, simulations, choice=picked, seed=seed, name=name, settings=settings)

    evaluator = make_evaluator(model.game, model.network, picked, sizes, 1)
    return SearchPlayer(
        model.game,
        evaluator,
        simulations,
        name=name or f"{model.hash[:SHORT]}@{simulations}",
        model_hash=model.hash,
        seed=seed,
        settings=settings,
        inference=str(picked),
        twin=twin,
    )
