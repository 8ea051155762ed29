"""The forest: many trees that grow together by asking one evaluator. Knows no network.

forest.plant(...)            put a root into each tree
forest.begin(...)            start a search: budget, noise
leaves = forest.select()     every searching tree descends until a leaf waits
forest.absorb(evaluation)    back up what the evaluator said
forest.done()                trees whose budget is spent; then results, advance, begin again
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import InvalidState
from ..games.game import Game
from . import kernels
from .tree import (
    CACHE_HITS,
    CHANCE_MODES,
    COUNTERS,
    NUMBERS,
    OVERFLOWS,
    PUCT,
    RULES,
    SIMULATIONS,
    TERMINALS,
    Array,
    Cache,
    Trees,
    make_cache,
    make_trees,
    record,
)

DEFAULT_NUMBERS: dict[str, float] = {
    "c_puct": 1.5,
    "c_puct_base": 0.0,
    "fpu_reduction": 0.2,
    "root_fpu_reduction": 0.0,
    "dirichlet_total": 10.0,
    "dirichlet_fraction": 0.25,
    "forced_playouts": 0.0,
    "gumbel_actions": 16,
    "gumbel_scale": 1.0,
    "c_visit": 50.0,
    "c_scale": 0.5,
}


class Leaves(NamedTuple):
    """States that wait for an evaluation; views that hold until the next `select`."""

    states: Array
    """`state_dtype [n]`, decision nodes."""
    legal: npt.NDArray[np.int32]
    """`i4 [n, L]`, ascending ids in the first `count` columns."""
    count: npt.NDArray[np.int32]  # type: ignore[assignment]
    """`i4 [n]`."""


class Evaluation(NamedTuple):
    """What an evaluator says of n states."""

    logits: npt.NDArray[np.float32]
    """`f4 [n, L]`: one per legal id, in the order given; the rest is ignored."""
    values: npt.NDArray[np.float32]
    """`f4 [n, P]`: per absolute seat, in [-1, 1]."""


class Evaluator(Protocol):
    """Whatever looks at states: a network, a table, a constant. The forest owns this protocol."""

    def submit(self, leaves: Leaves) -> Any:
        """Take n >= 1 leaves (copied before it returns) and give a ticket."""

    def result(self, ticket: Any) -> Evaluation:
        """Wait for the ticket's evaluation; its arrays hold until the next submit."""


class SearchResult(NamedTuple):
    """What one search learnt at n roots; columns follow the root's legal ids, zero beyond `count`."""

    action: npt.NDArray[np.int32]
    """`i4 [n]`: the action that the rule plays."""
    legal: npt.NDArray[np.int32]
    """`i4 [n, L]`."""
    count: npt.NDArray[np.int32]  # type: ignore[assignment]
    """`i4 [n]`: legal actions."""
    policy_target: npt.NDArray[np.float32]
    """`f4 [n, L]`, sums to 1."""
    visit_count: npt.NDArray[np.int32]
    """`i4 [n, L]`, inherited visits included."""
    q: npt.NDArray[np.float32]
    """`f4 [n, L]`: mean value for the seat to move; 0 where unvisited."""
    prior: npt.NDArray[np.float32]
    """`f4 [n, L]`, without noise."""
    root_value: npt.NDArray[np.float32]
    """`f4 [n, P]`."""
    network_value: npt.NDArray[np.float32]
    """`f4 [n, P]`: the evaluator's value of the root."""
    simulations: npt.NDArray[np.int32]
    """`i4 [n]`: new simulations of this search."""
    overflow: npt.NDArray[np.int32]
    """`i4 [n]`: simulations that stored no node because the tree was full."""


def make_numbers(numbers: Mapping[str, float] | None = None) -> Array:
    """Return NUMBERS [1] with the defaults and these changes."""
    out = np.zeros(1, record(NUMBERS))
    for name, value in {**DEFAULT_NUMBERS, **(numbers or {})}.items():
        out[name] = value
    return out


class Forest:
    """B trees of one game; see the module's page for the order of calls. Not thread-safe: one thread each.

    Args:
      trees: B.
      max_nodes: nodes a tree may store; it goes on without new nodes when full.
      max_edges: edges a tree may store; default `max_nodes * max_legal`, at most 64 per node.
      chance: `sampling` or `expectation`, what a chance node does (docs/search.md).
      leaves: K, leaves of one tree in flight.
      cache_entries: bound of the evaluation cache; 0 switches it off.
      numbers: NUMBERS [plies]; see `make_numbers`.
    """

    def __init__(
        self,
        game: Game,
        trees: int,
        *,
        max_nodes: int,
        max_edges: int = 0,
        rule: str = "puct",
        interior: str = "puct",
        chance: str = "sampling",
        leaves: int = 1,
        cache_entries: int = 0,
        numbers: Array | None = None,
        seed: int = 0,
    ) -> None:
        self.game, self.size, self.leaves, self.seed = game, trees, leaves, np.uint64(seed)
        self.rule, self.interior = RULES[rule], RULES[interior]
        width = max(game.max_legal, game.max_chance)
        edges = max_edges or max(max_nodes * min(width, 64), width)
        self.trees: Trees = make_trees(game, trees, max_nodes, edges, leaves)
        self.trees.trees["expectation"] = CHANCE_MODES[chance]
        self.cache: Cache = make_cache(game, cache_entries)
        self.numbers = make_numbers() if numbers is None else numbers
        self.all = np.arange(trees, dtype=np.int32)
        self._done = np.zeros(trees, np.int32)
        self.rows = 0
        words = game.state_dtype.itemsize // 8
        self._words = self.trees.states.view(np.uint64).reshape(trees, -1, words)
        self._leaf_words = self.trees.leaf_states.view(np.uint64).reshape(-1, words)
        self._values = np.zeros(game.num_players, np.float32)

    @property
    def counters(self) -> dict[str, int]:
        """Totals since the forest was made or `clear_counters`."""
        c = self.trees.counters
        return {
            "simulations": int(c[SIMULATIONS]),
            "cache_hits": int(c[CACHE_HITS]),
            "terminals": int(c[TERMINALS]),
            "overflows": int(c[OVERFLOWS]),
        }

    def clear_counters(self) -> None:
        """Set all counters to 0."""
        self.trees.counters[:COUNTERS] = 0

    def clear_cache(self) -> None:
        """Forget every cached evaluation; call it when the evaluator's model changes."""
        self.cache.keys[:] = 0

    @property
    def bytes(self) -> int:
        """Memory of all arrays."""
        return sum(a.nbytes for a in (*self.trees, *self.cache))

    def plant(self, ids: Array, states: Array, games: Array, plies: Array) -> None:
        """Make each tree a bare root: `state_dtype [n]`, `u8 [n]` game keys, `i4 [n]` plies in the game."""
        kernels.plant(self.game, self.trees, ids, states, games, plies)

    def begin(self, ids: Array, budgets: Array, noise: Array) -> None:
        """Begin a search of `budgets` new simulations (`i4 [n]`) with root noise where `noise` (`i4 [n]`)."""
        kernels.begin(self.game, self.rule, self.seed, self.trees, self.numbers, ids, budgets, noise)

    def select(self, ids: Array | None = None) -> Leaves:
        """Descend in every searching tree until its leaves wait or its budget is begun."""
        self.rows = kernels.descend(*(*self._descent(), self.all if ids is None else ids, self.rows))
        return self.waiting()

    def _descent(self) -> tuple[Any, ...]:
        """Return what the kernel of a descent takes before the ids of trees, in its order."""
        head = (self.game, self.rule, self.interior, self.seed, self.trees, self.numbers)
        return (*head, self.cache, self._words, self._values, self.leaves)

    def waiting(self) -> Leaves:
        """Return the leaves that wait for an evaluation."""
        n, t = self.rows, self.trees
        return Leaves(t.leaf_states[:n], t.leaf_legal[:n], t.leaf_count[:n])

    def absorb(self, evaluation: Evaluation) -> None:
        """Back up the evaluation of every waiting leaf."""
        kernels.absorb(
            self.game,
            self.trees,
            self.cache,
            self._leaf_words,
            evaluation.logits,
            evaluation.values,
            self.rows,
        )
        self.rows = 0

    def tick(self, evaluation: Evaluation, ticks: int) -> None:
        """Descend and back up the same evaluation `ticks` times, without Python between: for benchmarks."""
        answer = evaluation.logits, evaluation.values
        kernels.tick(*(*self._descent(), self.all, self._leaf_words, *answer, ticks))

    def done(self) -> Array:
        """Return `i4 [k]`: the trees whose search is finished; a view that holds until the next call."""
        return self._done[: kernels.finished(self.trees, self._done)]

    def advance(self, ids: Array, actions: Array, reuse: bool) -> None:
        """Play `i4 [n]` actions or chance outcomes at the roots, keeping the subtrees where `reuse`."""
        kernels.advance(self.game, self.trees, ids, actions, reuse)

    def search(self, evaluator: Evaluator) -> None:
        """Tick until every begun search is finished."""
        while len(leaves := self.select().count):
            self.absorb(evaluator.result(evaluator.submit(self.waiting())))
            del leaves

    def results(self, ids: Array, temperatures: Array | None = None) -> SearchResult:
        """Return what the finished searches of these trees learnt; `temperatures` (`f8 [n]`) default to 0."""
        game, t = self.game, self.trees
        n = len(ids)
        width = t.root.shape[1]
        temps = np.zeros(n) if temperatures is None else temperatures
        actions = np.zeros(n, np.int32)
        targets = np.zeros((n, width), np.float32)
        root_values = np.zeros((n, game.num_players), np.float32)
        kernels.results(
            game, self.rule, self.seed, t, self.numbers, ids, temps, actions, targets, root_values
        )
        roots = t.nodes[ids, 0]
        count = roots["edge_count"].astype(np.int32)
        column = np.arange(width)
        inside = column < count[:, None]
        edges = t.edges[ids[:, None], np.where(inside, roots["edge_start"][:, None] + column, 0)]
        visits = np.where(inside, edges["visit_count"], 0).astype(np.int32)
        q = np.where(visits > 0, edges["value_sum"] / np.maximum(visits, 1), 0).astype(np.float32)
        return SearchResult(
            action=actions,
            legal=np.where(inside, edges["action"], 0).astype(np.int32),
            count=count,
            policy_target=targets,
            visit_count=visits,
            q=q,
            prior=np.where(inside, edges["prior"], 0).astype(np.float32),
            root_value=root_values,
            network_value=np.array(roots["value"], np.float32),
            simulations=t.trees["finished"][ids].astype(np.int32),
            overflow=t.trees["overflow"][ids].astype(np.int32),
        )


def nodes_for(game: Game, simulations: int, chance: str = "sampling") -> int:
    """Return the nodes that this many simulations store in a tree at most, in all but rare positions."""
    each = 1
    if game.max_chance:
        each = game.max_chance + 2 if chance == "expectation" else 2
    return simulations * each + 16


def search(
    game: Game,
    states: Array,
    evaluator: Evaluator,
    *,
    simulations: int,
    rule: str = "puct",
    interior: str = "puct",
    chance: str = "sampling",
    numbers: Array | None = None,
    leaves: int = 1,
    noise: bool = False,
    seed: int = 0,
    games: Sequence[int] | None = None,
    plies: Sequence[int] | None = None,
) -> SearchResult:
    """Search every state with `simulations` new simulations and return what was learnt at the roots.

    Args:
      states: `state_dtype [B]`, a seat to move in each. Not modified.
      games, plies: keys of the random draws; default 0, 1, 2, ... and 0.

    Raises:
      InvalidState: a state is terminal or a chance node; its row is named.
    """
    n = len(states)
    for row in range(n):
        if game.rules["to_play"](states[row]) < 0:
            raise InvalidState(
                f"{game.id}: row {row} has no seat to move ({game.position(states[row])}); "
                "search takes decision states only."
            )
    forest = Forest(
        game,
        n,
        max_nodes=nodes_for(game, simulations, chance),
        rule=rule,
        interior=interior,
        chance=chance,
        leaves=leaves,
        numbers=numbers,
        seed=seed,
    )
    keys = np.arange(n) if games is None else np.array(games)
    forest.plant(
        forest.all,
        states,
        keys.astype(np.uint64),
        np.array([0] * n if plies is None else plies, np.int32),
    )
    forest.begin(forest.all, np.full(n, simulations, np.int32), np.full(n, noise, np.int32))
    forest.search(evaluator)
    return forest.results(forest.all)


__all__ = [
    "PUCT",
    "Evaluation",
    "Evaluator",
    "Forest",
    "Leaves",
    "SearchResult",
    "make_numbers",
    "nodes_for",
    "search",
]
