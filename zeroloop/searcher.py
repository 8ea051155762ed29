"""A searcher: one thread whose forest answers many askers, so that they share the network's batches.

A question is a state and a number of simulations, 0 for the network's evaluation alone. Every search is one
tree; all trees tick together, and evaluations fill the rest of each batch. Knows nothing of HTTP.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .compiled import kernel
from .errors import BackendError
from .evaluator.choice import Choice, choose, make_evaluator
from .games.game import Game
from .model import Model
from .players import PlaySettings, smallest_win
from .search.forest import Evaluator, Forest, Leaves, make_numbers, nodes_for
from .search.tree import EDGE, cache_entry_bytes

Array = npt.NDArray[Any]

BATCHES = (1, 4, 16, 32, 64, 128, 192, 256)
"""Batch sizes of the network; the largest is the most that one tick evaluates."""
TREES = 192
"""Searches at a time; the rest of the largest batch is left to evaluations, so that none starves."""
MEMORY = 1 << 30
"""Bytes of all trees of one searcher; where a tree is large there are fewer of them."""
LINE = 12
"""Plies of the line of most visits."""


class Answer(NamedTuple):
    """What was learnt about one state; k legal actions."""

    legal: Array
    """`i4 [k]`, ascending ids."""
    prior: Array
    """`f4 [k]`, the network's policy."""
    network_value: Array
    """`f4 [P]`, the network's value per seat, in [-1, 1]."""
    action: int = -1
    """The action with the most visits; -1 where there was no search, as in all that follows."""
    visit_count: Array | None = None
    """`i4 [k]`."""
    q: Array | None = None
    """`f4 [k]`, mean value for the seat to move; 0 where unvisited."""
    value: Array | None = None
    """`f4 [P]`, the search's value per seat."""
    simulations: int = 0
    line: tuple[tuple[Any, int], ...] = ()
    """(state, action) along the most visits, to the first chance node, at most `LINE` of them."""


class Asker(Protocol):
    """Whoever waits for an answer: a future of `asyncio` or of `concurrent.futures` will do."""

    def cancelled(self) -> bool:
        """Return whether the answer is not wanted any more; any thread may ask."""


class Question(NamedTuple):
    """A state with a seat to move, and who waits for the answer."""

    state: Any
    simulations: int
    asker: Asker


Deliver = Callable[[Sequence[tuple[Any, Answer | BackendError]]], None]
"""Takes (asker, answer) pairs, on the searcher's thread; an error where the searcher failed."""


@kernel
def follow_most_visits(t: Any, ids: Any, nodes: Any, actions: Any) -> None:
    """Write the nodes and actions (`i4 [n, LINE]`, -1 beyond its end) of each tree's line of most visits."""
    for i in range(ids.shape[0]):
        b = ids[i]
        n = np.int64(0)
        for d in range(actions.shape[1]):
            actions[i, d] = -1
        for d in range(actions.shape[1]):
            node = t.nodes[b, n]
            best, most = np.int64(-1), np.int64(0)
            for e in range(node.edge_start, node.edge_start + node.edge_count):
                if t.edges[b, e].visit_count > most:
                    best, most = np.int64(e), np.int64(t.edges[b, e].visit_count)
            if best < 0 or node.to_play < 0:
                break
            nodes[i, d] = n
            actions[i, d] = t.edges[b, best].action
            n = np.int64(t.edges[b, best].child)
            if n < 0:
                break


class Searcher:
    """Answers questions about the states of one game with one evaluator.

    Args:
      simulations: the most that a question may ask for; trees are allocated for as many.

    The answer is a function of state and simulations alone, but for the last bits of the network, which may
    depend on what else is in its batch.
    """

    def __init__(
        self, game: Game, evaluator: Evaluator, simulations: int, settings: PlaySettings | None = None
    ) -> None:
        s, unit = settings or PlaySettings(), smallest_win(game)
        self.game, self.evaluator, self.simulations = game, evaluator, simulations
        nodes = nodes_for(game, simulations, s.chance)
        self._forest = Forest(
            game,
            trees_for(game, nodes),
            max_nodes=nodes,
            rule=s.rule,
            chance=s.chance,
            cache_entries=(s.cache_megabytes << 20) // cache_entry_bytes(game),
            numbers=make_numbers({"c_puct": s.c_puct * unit, "fpu_reduction": s.fpu_reduction * unit}),
        )
        self._free = list(range(self._forest.size))
        self._growing: dict[int, Question] = {}
        self._searches: deque[Question] = deque()
        self._evaluations: deque[Question] = deque()
        self._inbox: list[Question] = []
        self._answers: list[tuple[Any, Answer | BackendError]] = []
        self._news = threading.Condition()
        self._open = True
        width = max(game.max_legal, game.max_chance)
        self._states = game.states(BATCHES[-1])
        self._legal = np.zeros((BATCHES[-1], width), np.int32)
        self._count = np.zeros(BATCHES[-1], np.int32)

    def ask(self, questions: Sequence[Question]) -> None:
        """Ask about states with a seat to move; any thread may, and it bounds how many questions are open.

        Raises:
          BackendError: the searcher has ended.
        """
        with self._news:
            if not self._open:
                raise BackendError(f"the searcher of {self.game.id} has stopped; start the server again.")
            self._inbox += questions
            self._news.notify()

    def stop(self) -> None:
        """Take no more questions; `run` returns when all that were asked are answered."""
        with self._news:
            self._open = False
            self._news.notify()

    def run(self, deliver: Deliver) -> None:
        """Answer questions until `stop`, for a thread of its own; an error ends it, and whoever waits.

        Args:
          deliver: called at most once a tick, because waking another thread costs more than an answer.
        """
        try:
            while self._gather():
                self._tick()
                if self._answers:
                    deliver(self._answers)
                    self._answers = []
        finally:
            self.stop()
            left = [*self._growing.values(), *self._searches, *self._evaluations, *self._inbox]
            error = BackendError(f"the searcher of {self.game.id} failed; the server's output says why.")
            deliver([*self._answers, *((question.asker, error) for question in left)])

    def _gather(self) -> bool:
        """Take new questions, waiting for one where there is none; False when all is answered for good."""
        with self._news:
            while not (self._inbox or self._growing or self._searches or self._evaluations):
                if not self._open:
                    return False
                self._news.wait()
            new, self._inbox = self._inbox, []
        for question in new:
            (self._searches if question.simulations else self._evaluations).append(question)
        return True

    def _tick(self) -> None:
        """Let every tree and as many evaluations as fit share one batch."""
        self._drop_cancelled()
        self._plant()
        leaves = self._forest.select()
        if self._harvest() and self._searches:
            self._plant()
            leaves = self._forest.select()
        n = len(leaves.count)
        asked = self._take_evaluations(BATCHES[-1] - n)
        if asked:
            leaves = self._with_evaluations(leaves, asked)
        if not len(leaves.count):
            return
        found = self.evaluator.result(self.evaluator.submit(leaves))
        if n:
            self._forest.absorb(found)
        for i, question in enumerate(asked, n):
            k = self._count[i]
            prior = softmax(found.logits[i, :k])
            self._answers.append(
                (question.asker, Answer(self._legal[i, :k].copy(), prior, found.values[i].copy()))
            )

    def _drop_cancelled(self) -> None:
        """Free the trees whose askers have gone; between ticks no leaf of theirs waits."""
        for b in [b for b, question in self._growing.items() if question.asker.cancelled()]:
            del self._growing[b]
            self._release(b)

    def _release(self, b: int) -> None:
        self._forest.trees.trees["active"][b] = 0
        self._free.append(b)

    def _plant(self) -> None:
        chosen: list[tuple[int, Question]] = []
        while self._free and self._searches:
            question = self._searches.popleft()
            if not question.asker.cancelled():
                chosen.append((self._free.pop(), question))
        if not chosen:
            return
        n = len(chosen)
        ids = np.array([b for b, _ in chosen], np.int32)
        states = self.game.states(n)
        for i, (_, question) in enumerate(chosen):
            states[i] = question.state
        # One key for all: an answer must not depend on who asked before.
        self._forest.plant(ids, states, np.zeros(n, np.uint64), np.zeros(n, np.int32))
        budgets = np.array([question.simulations for _, question in chosen], np.int32)
        self._forest.begin(ids, budgets, np.zeros(n, np.int32))
        self._growing.update(chosen)

    def _harvest(self) -> bool:
        """Answer the searches that are done and free their trees; return whether there were any."""
        ids = self._forest.done().copy()
        if not len(ids):
            return False
        found = self._forest.results(ids)
        nodes, actions = np.zeros((len(ids), LINE), np.int32), np.zeros((len(ids), LINE), np.int32)
        follow_most_visits(self._forest.trees, ids, nodes, actions)
        states = self._forest.trees.states
        for i, b in enumerate(ids.tolist()):
            k, length = found.count[i], int((actions[i] >= 0).sum())
            line = states[b, nodes[i, :length]]  # a copy: the tree is about to serve another
            answer = Answer(
                legal=found.legal[i, :k],
                prior=found.prior[i, :k],
                network_value=found.network_value[i],
                action=int(found.action[i]),
                visit_count=found.visit_count[i, :k],
                q=found.q[i, :k],
                value=found.root_value[i],
                simulations=int(found.simulations[i]),
                line=tuple(zip(line, actions[i, :length].tolist(), strict=True)),
            )
            self._answers.append((self._growing.pop(b).asker, answer))
            self._release(b)
        return True

    def _take_evaluations(self, most: int) -> list[Question]:
        out: list[Question] = []
        while self._evaluations and len(out) < most:
            question = self._evaluations.popleft()
            if not question.asker.cancelled():
                out.append(question)
        return out

    def _with_evaluations(self, leaves: Leaves, asked: list[Question]) -> Leaves:
        """Return the trees' leaves and behind them the states to evaluate."""
        n, end = len(leaves.count), len(leaves.count) + len(asked)
        self._states[:n], self._legal[:n], self._count[:n] = leaves
        for i, question in enumerate(asked, n):
            self._states[i] = question.state
            ids = self.game.legal(question.state)
            self._legal[i, : len(ids)], self._count[i] = ids, len(ids)
        return Leaves(self._states[:end], self._legal[:end], self._count[:end])


def softmax(logits: Array) -> Array:
    """Return the probabilities of `f4 [k]` logits."""
    exponentials = np.exp(logits - logits.max())
    return np.asarray(exponentials / exponentials.sum(), np.float32)


def trees_for(game: Game, nodes: int) -> int:
    """Return how many trees of so many nodes fit into `MEMORY`: at least 1, at most `TREES`."""
    edges = min(max(game.max_legal, game.max_chance), 64)
    each = nodes * (edges * EDGE.itemsize + game.state_dtype.itemsize + 8 * game.num_players + 44)
    return max(1, min(TREES, MEMORY // each))


def model_searcher(
    model: Model, simulations: int, *, choice: Choice | None = None, threads: int = 1
) -> Searcher:
    """Return the searcher of a model on this machine's inference backend."""
    evaluator = make_evaluator(model.game, model.network, choice or choose(), list(BATCHES), threads)
    return Searcher(model.game, evaluator, simulations)


__all__ = ["Answer", "Asker", "Deliver", "Question", "Searcher", "model_searcher", "softmax", "trees_for"]
