"""Evaluators: states in; one logit per legal action and a value per seat out. The only seat rotation.

A backend runs a network on arrays; `NetworkEvaluator` observes states for it and rotates its values
from "seat to move first" to absolute seats. Knows nothing of trees.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..compiled import helper, kernel
from ..errors import BackendError
from ..games.game import Game, num_players, observe, to_play
from ..search.forest import Evaluation, Leaves

Floats = npt.NDArray[np.float32]
_MIX, _HALF, _ONE = np.uint64(0x9E3779B97F4A7C15), np.uint64(32), np.uint64(1)


class Output(NamedTuple):
    """What a backend gives for a batch; views that hold until its next run."""

    logits: Floats
    """`f4 [n, A]` per action id, or `f4 [n, L]` where the backend gathered legal ids itself."""
    values: Floats
    """`f4 [n, P]`: expected points over the scale, seat to move first."""


class Backend(Protocol):
    """A network compiled for one device, precision and batch size."""

    name: str
    """Such as `openvino-bf16`."""
    batch: int
    gathers: bool
    """True where `logits` come back gathered per legal id."""

    def submit(self, planes: Floats, global_facts: Floats, legal: npt.NDArray[np.int32]) -> Any:
        """Start a batch of exactly `batch` rows and give a ticket."""

    def result(self, ticket: Any) -> Output:
        """Wait for a ticket."""


@kernel
def observe_states(game, states, rows, planes, global_facts):
    """Observe states[rows] into `planes [n, C, H, W]` and `global_facts [n, G]`."""
    for i in range(rows.shape[0]):
        observe(game, states[rows[i]], planes[i], global_facts[i])


@kernel
def distinct(words, n, table, first, index):
    """Find equal states among the first n; return how many differ.

    Args:
      words: `u8 [., W]`, the states. table: `i4`, a power of two and at least 2 n long; scratch.
      first: filled with a row of each different state. index: with the number of each row's state there.
    """
    mask = np.uint64(table.shape[0] - 1)
    table[:] = -1
    found = 0
    for i in range(n):
        key = np.uint64(0)
        for w in range(words.shape[1]):
            key = (key ^ words[i, w]) * _MIX
            key ^= key >> _HALF
        slot = key & mask
        while True:
            j = table[slot]
            if j < 0:
                table[slot] = found
                first[found] = i
                index[i] = found
                found += 1
                break
            same = True
            for w in range(words.shape[1]):
                same = same and words[first[j], w] == words[i, w]
            if same:
                index[i] = j
                break
            slot = (slot + _ONE) & mask
    return found


@kernel
def copy_legal(legal, count, rows, out):
    """Copy the `count` ids of these rows; the rest becomes 0, an id that every backend can gather."""
    for i in range(rows.shape[0]):
        for k in range(legal.shape[1]):
            out[i, k] = legal[rows[i], k] if k < count[rows[i]] else 0


@helper
def rotate(game, seat, relative, absolute):
    """Write values given as (mover, next seat, ...) by absolute seat."""
    seats = num_players(game)
    for k in range(seats):
        absolute[(seat + k) % seats] = relative[k]


@kernel
def finish_evaluation(game, states, index, legal, count, gathered, logits, relative, out_logits, out_values):
    """Pick the legal ids' logits and rotate values to absolute seats; row i was computed in row index[i]."""
    for i in range(states.shape[0]):
        j = index[i]
        for k in range(count[i]):
            out_logits[i, k] = logits[j, k] if gathered else logits[j, legal[j, k]]
        rotate(game, to_play(game, states[i]), relative[j], out_values[i])


class NetworkEvaluator:
    """Evaluates states with a backend, equal ones of a batch once; batches that are not full are padded.

    Args:
      backends: the same network at one or more batch sizes, ascending; the smallest that fits is used.

    An evaluation is a pure function of model and state for one backend; between batch sizes it may
    differ in the last bits, so deterministic runs give one size.
    """

    def __init__(self, game: Game, backends: list[Backend]) -> None:
        self.game, self.backends = game, backends
        self.rows = 0
        """Rows that the network really computed for a state, padding left out."""
        self.same = 0
        """Rows that were answered by an equal state of their batch."""
        largest = backends[-1].batch
        self._planes = np.zeros((largest, *game.observation.planes), np.float32)
        self._facts = np.zeros((largest, game.observation.globals), np.float32)
        width = max(game.max_legal, game.max_chance)
        self._logits = np.zeros((largest, width), np.float32)
        self._values = np.zeros((largest, game.num_players), np.float32)
        self._legal = np.zeros((largest, width), np.int32)
        self._count = np.zeros(largest, np.int32)
        self._states = game.states(largest)
        self._words = self._states.view(np.uint64).reshape(largest, -1)
        self._table = np.zeros(1 << (2 * largest).bit_length(), np.int32)
        self._first, self._index = np.zeros(largest, np.int64), np.zeros(largest, np.int64)

    def submit(self, leaves: Leaves) -> tuple[Backend, Any, int]:
        """Observe and start; see `search.forest.Evaluator`.

        Raises:
          BackendError: more leaves than the largest batch.
        """
        n, largest = len(leaves.count), self.backends[-1].batch
        if n > largest:
            raise BackendError(f"{n} states were submitted to a backend with batches of {largest}.")
        self._states[:n] = leaves.states
        self._count[:n] = leaves.count
        m = distinct(self._words, n, self._table, self._first, self._index)
        rows = self._first[:m]
        backend = next(b for b in self.backends if b.batch >= m)
        self.rows += m
        self.same += n - m
        copy_legal(leaves.legal, leaves.count, rows, self._legal)
        observe_states(self.game, self._states, rows, self._planes, self._facts)
        b = backend.batch
        return backend, backend.submit(self._planes[:b], self._facts[:b], self._legal[:b]), n

    def result(self, ticket: tuple[Backend, Any, int]) -> Evaluation:
        """Wait; the arrays hold until the next submit."""
        backend, inner, n = ticket
        output = backend.result(inner)
        finish_evaluation(
            self.game,
            self._states[:n],
            self._index,
            self._legal,
            self._count,
            backend.gathers,
            output.logits,
            output.values,
            self._logits,
            self._values,
        )
        return Evaluation(self._logits, self._values)


class UniformEvaluator:
    """Equal logits and value 0 for every seat: the search alone, for benchmarks and tests."""

    def __init__(self, game: Game, batch: int) -> None:
        width = max(game.max_legal, game.max_chance)
        self._answer = Evaluation(
            np.zeros((batch, width), np.float32), np.zeros((batch, game.num_players), np.float32)
        )

    def submit(self, leaves: Leaves) -> int:
        """Nothing to start."""
        return len(leaves.count)

    def result(self, ticket: int) -> Evaluation:
        """Return zeros."""
        return self._answer
