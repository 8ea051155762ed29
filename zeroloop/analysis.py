"""Analysis of one position at play time: a search by visits, time or until told, that keeps its tree.

Several leaves of the one tree wait for the network together (docs/search.md, "Several leaves from one tree").
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .compiled import kernel
from .errors import ConfigError, InvalidState
from .evaluator.choice import Choice, choose, make_evaluator
from .games.game import Game, State
from .model import Model
from .players import Array, PlaySettings, smallest_win
from .search.forest import Forest, make_numbers
from .search.tree import EDGE, STEP, cache_entry_bytes, node_dtype

LEAVES = 8
"""Leaves in flight by default; docs/results.md has the measurement."""
MEGABYTES = 256
"""Memory of a tree by default."""
SLICE = 256
"""Simulations begun at most before the clock and `stop` are looked at: those that end in a known leaf ask no
network, and a tree of nothing else would never come back."""
MOST_VISITS = 1 << 23
"""Of a root: float32 sums of values stop growing at twice as many."""
SLOW_BATCHES = 0.995
"""How long slow batches are remembered, as a factor a batch: a busy machine stops a search now and then, and
a search with little time should expect that."""
SLOWEST_BATCH = 0.1
"""Seconds of a batch that are remembered at most: the first one may have compiled for minutes."""
LONGEST_LINE = 64
"""Actions of a principal variation that are told."""


class Line(NamedTuple):
    """One action of the root and how the game goes on after it."""

    actions: tuple[int, ...]
    """The root's action, then the most visited ones, to a chance node, an end, or where visits end."""
    visits: int
    """Those kept from an earlier search of the tree included."""
    value: float | None
    """Mean value for the seat to move at the root, in [-1, 1]; None where the action was never visited."""
    prior: float
    """What the network's policy gives the action."""


class Analysis(NamedTuple):
    """What is known of a position after a search, or while it goes on."""

    lines: tuple[Line, ...]
    """One for each legal action: the one to play, then by visits, then by prior."""
    values: npt.NDArray[np.float64]
    """`f64 [P]`: the root's value for each seat, in [-1, 1]."""
    simulations: int
    """Of this search."""
    evaluations: int
    """Positions that the network looked at in this search."""
    seconds: float
    depth: int
    """Actions of the first line; the search itself has no depth."""
    overflow: int
    """Simulations of this search that stored no node, because the tree was full."""


def never() -> bool:
    """Say that nobody wants the search to stop."""
    return False


@kernel
def principal_variations(nodes: Any, edges: Any, out: Any, length: Any) -> None:
    """Follow each root edge down the most visited edges, the lowest among equals.

    Args:
      nodes: of one tree. edges: of one tree. out: `i4 [L, longest]`. length: `i4 [L]`.
    """
    for i in range(nodes[0].edge_count):
        edge = edges[nodes[0].edge_start + i]
        out[i, 0] = edge.action
        n, size = edge.child, 1
        while n >= 0 and nodes[n].to_play >= 0 and size < out.shape[1]:
            best, most = -1, 0
            for e in range(nodes[n].edge_start, nodes[n].edge_start + nodes[n].edge_count):
                if edges[e].visit_count > most:
                    best, most = e, edges[e].visit_count
            if best < 0:
                break
            out[i, size] = edges[best].action
            size += 1
            n = edges[best].child
        length[i] = size


def edges_each(game: Game) -> int:
    """Return the edges per node for which room is kept; positions with more take it from those with fewer."""
    return min(max(game.max_legal, game.max_chance), 48)


def nodes_within(game: Game, megabytes: int, leaves: int = LEAVES) -> int:
    """Return how many nodes of a tree fit into this much memory, at least 64."""
    node = node_dtype(game.num_players).itemsize + game.state_dtype.itemsize + leaves * STEP.itemsize + 4
    each = node + edges_each(game) * EDGE.itemsize
    return max(64, (megabytes << 20) // each)


class Analyst:
    """Searches one position after another with one model; not thread-safe: one thread each.

    The tree of a position is kept, and used where the next position follows from it.

    Args:
      leaves: leaves of the tree in flight, from 1. More make larger batches of the network, and choose
        each leaf with less knowledge.
      max_nodes: bound of the tree; 0: as many as fit into 256 MB. A full tree is searched on without new
        nodes, and `Analysis.overflow` tells how often.
      clock: seconds, for the time limit.

    Raises:
      ConfigError: leaves or max_nodes out of range, or the Gumbel rule, which needs its budget beforehand.
    """

    def __init__(
        self,
        model: Model,
        *,
        leaves: int = LEAVES,
        choice: Choice | None = None,
        seed: int = 0,
        settings: PlaySettings | None = None,
        max_nodes: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        game, s = model.game, settings or PlaySettings()
        if not 1 <= leaves <= 1024:
            raise ConfigError(f"an analysis with {leaves} leaves in flight; allowed: 1 to 1024.")
        if max_nodes and max_nodes < 64:
            raise ConfigError(f"an analysis with max_nodes {max_nodes}; give at least 64, or 0: by memory.")
        if s.rule != "puct":
            raise ConfigError(
                f"an analysis searches by the rule puct, not {s.rule}, which cannot stop early."
            )
        self.model, self.game, self.leaves, self.clock = model, game, leaves, clock
        self.every = 0.5
        """Seconds between two reports of a search that goes on."""
        sizes = sorted({1 << n for n in range(leaves.bit_length())} | {leaves})
        if s.one_batch:
            sizes = [leaves]
        self._evaluator = make_evaluator(game, model.network, choice or choose(), sizes, 1)
        self.max_nodes = max_nodes or nodes_within(game, MEGABYTES, leaves)
        unit = smallest_win(game)
        numbers = {"c_puct": s.c_puct * unit, "fpu_reduction": s.fpu_reduction * unit}
        self._forest = Forest(
            game,
            1,
            max_nodes=self.max_nodes,
            max_edges=max(self.max_nodes * edges_each(game), game.max_legal, game.max_chance),
            chance=s.chance,
            leaves=leaves,
            cache_entries=(s.cache_megabytes << 20) // cache_entry_bytes(game),
            numbers=make_numbers(numbers),
            seed=seed,
        )
        self._planted = False
        self._searches = 0
        self._batch = 0.0  # seconds of the slowest batch lately
        self._words = self._forest.trees.states[0].view(np.uint64).reshape(self.max_nodes + 1, -1)
        self._variations = np.zeros((max(game.max_legal, game.max_chance), LONGEST_LINE), np.int32)
        self._lengths = np.zeros(len(self._variations), np.int32)

    def forget(self) -> None:
        """Drop the tree and the evaluations, as before the first search."""
        self._planted, self._searches, self._batch = False, 0, 0.0
        self._forest.clear_cache()

    @property
    def nodes(self) -> int:
        """Return the nodes that the tree holds, of `max_nodes`."""
        return int(self._forest.trees.trees["nodes"][0])

    def analyse(
        self,
        state: State,
        *,
        simulations: int = 0,
        seconds: float = 0,
        stop: Callable[[], bool] = never,
        report: Callable[[Analysis], None] | None = None,
    ) -> Analysis:
        """Search the position until a limit is reached, `stop()` is true or the tree has all its visits.

        The root is always evaluated, however short the time. The search ends when a batch as slow as the
        slowest lately would end too late.

        Args:
          state: a seat is to move. Not modified.
          simulations: new ones of this search, at most. seconds: at most. 0: no such limit.
          stop: asked after each batch. report: called every half second.

        Raises:
          ConfigError: neither a limit nor `stop` is given, or a limit is negative.
          InvalidState: no seat is to move.
        """
        start = self.clock()
        self._check(state, simulations, seconds, stop)
        rows = self._evaluator.rows
        self._take_root(state)
        forest, t = self._forest, self._forest.trees
        forest.begin(forest.all, np.zeros(1, np.int32), np.zeros(1, np.int32))
        goal = simulations or MOST_VISITS
        before, told = start, start
        while True:
            begun = int(t.trees["begun"][0])
            t.trees["budget"][0] = min(goal, begun + SLICE) if t.nodes["visit_count"][0, 0] else min(goal, 1)
            leaves = forest.select()
            if len(leaves.count):
                forest.absorb(self._evaluator.result(self._evaluator.submit(leaves)))
            now = self.clock()
            visits, finished = int(t.nodes["visit_count"][0, 0]), int(t.trees["finished"][0])
            self._batch = max(min(now - before, SLOWEST_BATCH), SLOW_BATCHES * self._batch)
            late = seconds > 0 and now - start + min(self._batch, seconds / 2) > seconds
            if visits and (finished >= goal or visits >= MOST_VISITS or late or stop()):
                return self._told(start, rows)
            if report is not None and now - told >= self.every and visits:
                told = now
                report(self._told(start, rows))
            before = now

    def _check(self, state: State, simulations: int, seconds: float, stop: Callable[[], bool]) -> None:
        if simulations < 0 or not seconds >= 0:
            raise ConfigError(
                f"an analysis of {simulations} simulations and {seconds} seconds; give no negative limit."
            )
        if not simulations and not seconds and stop is never:
            raise ConfigError("an analysis without an end; give simulations, seconds or stop.")
        if self.game.rules["to_play"](state) < 0:
            raise InvalidState(
                f"{self.game.id}: no seat is to move in {self.game.position(state)}, so there is nothing to "
                "analyse; roll the dice first, or the game is over."
            )

    def _take_root(self, state: State) -> None:
        """Make the position the root: of the kept tree where it holds it, else of a bare one."""
        forest = self._forest
        states = self.game.states(1)
        states[0] = state
        path = self._path_to(states.view(np.uint64)) if self._planted else None
        for action in path or []:
            forest.advance(forest.all, np.array([action], np.int32), True)
        # A subtree that leaves little room would stop the new search from storing what it finds.
        if path is None or (path and forest.trees.trees["nodes"][0] > self.max_nodes // 2):
            forest.plant(forest.all, states, np.zeros(1, np.uint64), np.zeros(1, np.int32))
        # Each search draws its own dice: the draws are keyed by game and by simulations of this search.
        forest.trees.trees["game"][0] = self._searches
        self._searches += 1
        self._planted = True

    def _path_to(self, words: Array) -> list[int] | None:
        """Return the actions from the root to a stored position, the first stored one, or None."""
        t = self._forest.trees
        tree = t.trees[0]
        found = np.arange(tree["nodes"])
        for column in range(words.size):
            found = found[self._words[found, column] == words[column]]
            if not len(found):
                return None
        n, path = int(found[0]), []
        starts = t.nodes["edge_start"][0, : tree["nodes"]]
        children = t.edges["child"][0, : tree["edges"]]
        while n:
            edge = int(np.flatnonzero(children == n)[0])
            path.append(int(t.edges["action"][0, edge]))
            # Of the nodes that begin no later than the edge the last one owns it: a node without edges
            # begins where the next one does.
            n = int(np.searchsorted(starts, edge, "right")) - 1
        return path[::-1]

    def _told(self, start: float, rows: int) -> Analysis:
        """Return what the tree knows now."""
        forest, t = self._forest, self._forest.trees
        found = forest.results(forest.all)
        principal_variations(t.nodes[0], t.edges[0], self._variations, self._lengths)
        lines = []
        for i in range(int(found.count[0])):
            visits = int(found.visit_count[0, i])
            actions = tuple(self._variations[i, : self._lengths[i]].tolist())
            q = float(found.q[0, i]) if visits else None
            lines.append(Line(actions, visits, q, float(found.prior[0, i])))
        best = int(found.action[0])
        lines.sort(key=lambda line: (line.actions[0] != best, -line.visits, -line.prior))
        return Analysis(
            tuple(lines),
            found.root_value[0].astype(np.float64),
            int(found.simulations[0]),
            self._evaluator.rows - rows,
            self.clock() - start,
            len(lines[0].actions),
            int(found.overflow[0]),
        )
