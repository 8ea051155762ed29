"""Ragged: leaves and their answers as bytes, nothing sent twice and nothing padded. Knows no socket.

A request is the distinct states as raw bytes, legal actions per state, and their ids, one after the other.
An answer is the logits of those ids in half precision, each less its row's highest, and values as `f4`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..compiled import kernel
from ..errors import RefusedError, StoreError
from ..games.game import Game
from .frames import Part

Array = npt.NDArray[Any]

LOWEST = np.float32(-60000)
"""Least logit on the wire: half precision ends at 65504, and e^-60000 is no probability."""
HEADS = 300
"""Bytes, about, of both frames' heads of one batch."""


class Traffic(NamedTuple):
    """Bytes of one position; a batch of n adds HEADS / n."""

    up: float
    down: float


class Request(NamedTuple):
    """What a request says, unpacked."""

    states: Array
    """`state_dtype [n]`."""
    count: Array  # type: ignore[assignment]
    """`i4 [n]`: legal actions."""
    ids: Array
    """`i4`: the ids of all rows, one after the other."""


def count_type(game: Game) -> Any:
    """Return the type that the wire has for the number of legal actions."""
    return np.uint8 if game.max_legal < 256 else np.uint16


def id_type(game: Game) -> Any:
    """Return the type that the wire has for an action's id."""
    return np.uint16 if game.num_actions <= 1 << 16 else np.int32


def bytes_per_position(game: Game, legal: float) -> Traffic:
    """Return the bytes of a position with so many legal actions: state, count and ids; logits and values."""
    ids, count = np.dtype(id_type(game)).itemsize, np.dtype(count_type(game)).itemsize
    return Traffic(game.state_dtype.itemsize + count + legal * ids, legal * 2 + game.num_players * 4)


@kernel
def pack_ids(legal: Array, count: Array, rows: Array, out: Array) -> int:
    """Write the ids of these rows of `legal [., L]` one after the other; return how many."""
    at = 0
    for i in range(rows.shape[0]):
        for k in range(count[rows[i]]):
            out[at] = legal[rows[i], k]
            at += 1
    return at


@kernel
def unpack_ids(flat: Array, count: Array, at: int, legal: Array) -> None:
    """Write ragged ids into rows `at`, `at + 1`, ... of `legal [., L]`."""
    k = 0
    for i in range(count.shape[0]):
        for j in range(count[i]):
            legal[at + i, j] = flat[k]
            k += 1


@kernel
def pack_logits(logits: Array, count: Array, n: int, lowest: np.float32, out: Array) -> int:
    """Write the logits of the first n rows ragged, less the highest of their row; return how many."""
    at = 0
    for i in range(n):
        best = logits[i, 0]
        for k in range(count[i]):
            best = max(best, logits[i, k])
        for k in range(count[i]):
            less = logits[i, k] - best
            out[at] = lowest if less < lowest else less
            at += 1
    return at


@kernel
def unpack_answer(
    flat: Array, start: Array, count: Array, values: Array, index: Array, out_logits: Array, out_values: Array
) -> None:
    """Write row i of an evaluation from row index[i] of an answer."""
    for i in range(index.shape[0]):
        j = index[i]
        for k in range(count[j]):
            out_logits[i, k] = flat[start[j] + k]
        for k in range(values.shape[1]):
            out_values[i, k] = values[j, k]


def request_bytes(
    game: Game, states: Array, legal: Array, count: Array, rows: Array, ids: Array
) -> list[Part]:
    """Return the parts of a request for these rows; `ids` is scratch of `id_type`."""
    total = pack_ids(legal, count, rows, ids)
    return [
        states[rows].tobytes(),
        count[rows].astype(count_type(game)).tobytes(),
        ids[:total].tobytes(),
    ]


def read_request(game: Game, most: int, parts: Sequence[memoryview]) -> Request:
    """Return what the parts of a request say.

    States are taken as they are: who has the same rules sends states that these rules have made.

    Raises:
      RefusedError: sizes that do not fit together, more positions than `most`, or ids that the game has not.
    """
    if len(parts) != 3 or len(parts[0]) % game.state_dtype.itemsize:
        raise RefusedError("a request is states, counts and ids, and its states are whole.")
    states = np.frombuffer(parts[0], game.state_dtype)
    if not 0 < len(states) <= most:
        raise RefusedError(f"a request of {len(states)} positions; allowed: 1 to {most}.")
    if len(parts[1]) != len(states) * np.dtype(count_type(game)).itemsize:
        raise RefusedError(f"{len(states)} positions came with another number of counts of legal actions.")
    count = np.frombuffer(parts[1], count_type(game)).astype(np.int32)
    if count.min() < 1 or count.max() > game.max_legal:
        wrong = count[(count < 1) | (count > game.max_legal)][0]
        raise RefusedError(f"a position with {wrong} legal actions; {game.id} has 1 to {game.max_legal}.")
    if len(parts[2]) != int(count.sum()) * np.dtype(id_type(game)).itemsize:
        raise RefusedError("the ids of legal actions are not as many as the counts say.")
    ids = np.frombuffer(parts[2], id_type(game)).astype(np.int32)
    if ids.min() < 0 or ids.max() >= game.num_actions:
        raise RefusedError(f"an action {ids.max()}; {game.id} has 0 to {game.num_actions - 1}.")
    return Request(states, count, ids)


def answer_bytes(logits: Array, values: Array) -> list[Part]:
    """Return the parts of an answer: `f2` logits, ragged, and `f4 [n, P]` values, both contiguous."""
    return [logits.data.cast("B"), values.data.cast("B")]


def read_answer(game: Game, count: Array, parts: Sequence[memoryview]) -> tuple[Array, Array]:
    """Return `f4` logits, ragged, and `f4 [n, P]` values.

    Raises:
      StoreError: an answer of another size than what was asked.
    """
    seats, rows = game.num_players, len(count)
    if [len(p) for p in parts] != [2 * int(count.sum()), 4 * rows * seats]:
        raise StoreError("the inference server sent an answer of another size than what was asked.")
    logits = np.frombuffer(parts[0], np.float16).astype(np.float32)
    return logits, np.frombuffer(parts[1], np.float32).reshape(rows, seats).copy()
