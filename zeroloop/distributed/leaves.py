"""Leaves: an evaluator whose network runs elsewhere, in an inference server. Knows nothing of trees."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BackendError, RefusedError, StoreError, UnreachableError
from ..evaluator import distinct
from ..games.game import Game
from ..search.forest import Evaluation, Leaves
from .door import connect
from .frames import Channel, Part
from .lanes import StaleModelError
from .ragged import id_type, read_answer, request_bytes, unpack_answer
from .store import meaning

Array = npt.NDArray[Any]

IN_FLIGHT = 2
"""Batches that a client may have sent without an answer."""
BACK_OFF = (0.1, 5.0)
"""Seconds before the first and between later attempts to reach a server that is gone; it doubles."""


class Batch:
    """Leaves on their way: their bytes are kept until they are answered, so that they can be sent again."""

    def __init__(self, parts: list[Part], count: Array, index: Array) -> None:
        self.parts, self.count, self.index, self.model = parts, count, index, ""
        self.answer: tuple[Array, Array] | None = None
        """Logits `f4`, ragged, and values `f4 [m, P]`."""


class RemoteEvaluator:
    """An evaluator whose network runs in an inference server. One thread each; one connection each.

    A server that is lost is asked again with back-off, and gets the leaves that it has not answered.

    Args:
      server: HOST:PORT. model: hash of the model to ask for; it may be set to another one at any time.
      batch: the most leaves of one submit.
      stop: asked while the server does not answer; once true, UnreachableError is raised. None: at once.
      tell: told once when the server is lost, and once when it answers again.
      patience: seconds without an answer after which the server counts as lost.
      password: see `door.connect`.

    Raises:
      UnreachableError: the server does not answer; the ticket stays good.
      RefusedError: another password, version, game or rules, a batch that the server does not take, or a
        model that gives values which are no numbers.
    """

    def __init__(
        self,
        game: Game,
        server: str,
        model: str,
        batch: int,
        *,
        stop: Callable[[], bool] | None = None,
        tell: Callable[[str], None] | None = None,
        patience: float = 30.0,
        password: str | None = None,
    ) -> None:
        self.game, self.server, self.model, self.batch = game, server, model, batch
        self._stop, self._tell, self._patience = stop, tell or _tell, patience
        self._password = password
        self._about = meaning(game)
        self.newest = ""
        """Hash of the server's newest model, as of its last answer."""
        self.rows = 0
        """Distinct states asked for, as `NetworkEvaluator.rows` counts them."""
        self.bytes_sent = self.bytes_received = 0
        self.losses = 0
        """Times that the server was lost."""
        self._channel: Channel | None = None
        self._number = 0
        self._sent: dict[int, Batch] = {}
        self._wait, self._lost = BACK_OFF[0], False
        width = max(game.max_legal, game.max_chance)
        self._states = game.states(batch)
        self._words = self._states.view(np.uint64).reshape(batch, -1)
        self._table = np.zeros(1 << (2 * batch).bit_length(), np.int32)
        self._first, self._index = np.zeros(batch, np.int64), np.zeros(batch, np.int64)
        self._ids = np.zeros(batch * width, id_type(game))
        self._logits = np.zeros((batch, width), np.float32)
        self._values = np.zeros((batch, game.num_players), np.float32)
        while self._channel is None:
            try:
                self._connect()
            except UnreachableError as error:
                self._lose(error)

    def submit(self, leaves: Leaves) -> Batch:
        """Send leaves (copied); a connection that breaks here is mended by `result`.

        Raises:
          BackendError: more leaves than `batch`, or a third batch in flight.
        """
        n = len(leaves.count)
        if n > self.batch or len(self._sent) >= IN_FLIGHT:
            raise BackendError(
                f"{n} states came with {len(self._sent)} batches in flight; a remote evaluator takes "
                f"{self.batch} states and {IN_FLIGHT} batches."
            )
        self._states[:n] = leaves.states
        m = distinct(self._words, n, self._table, self._first, self._index)
        rows = self._first[:m]
        count = leaves.count[rows]
        parts = request_bytes(self.game, self._states, leaves.legal, leaves.count, rows, self._ids)
        batch = Batch(parts, count, self._index[:n].copy())
        self.rows += m
        try:
            self._send(batch)
        except UnreachableError as error:
            self._break(error)
        return batch

    def result(self, ticket: Batch) -> Evaluation:
        """Wait; the arrays hold until the next result. A ticket of another RemoteEvaluator is good too.

        Raises:
          StaleModelError: the server has not this model. Set `model` to another one or `publish` this one to
            it, and ask for the same ticket again.
          See also the class.
        """
        while ticket.answer is None:
            try:
                if self._channel is None:
                    self._connect()
                if ticket not in self._sent.values():
                    self._send(ticket)
                self._receive()
            except UnreachableError as error:
                self._lose(error)
        logits, values = ticket.answer
        start = np.cumsum(ticket.count) - ticket.count
        unpack_answer(logits, start, ticket.count, values, ticket.index, self._logits, self._values)
        return Evaluation(self._logits, self._values)

    def _connect(self) -> None:
        """Greet the server."""
        channel = connect(self.server, self._password, self._patience)
        try:
            channel.send({"call": "hello", "about": self._about, "batch": self.batch})
            head, _ = channel.receive()
            _refuse(head)
        except StoreError:
            channel.close()
            raise
        self._channel, self.newest = channel, str(head.get("newest", ""))
        self._sent.clear()  # `result` sends what it waits for again
        if self._lost:
            self._tell(f"the inference server {self.server} answers again.")
        self._wait, self._lost = BACK_OFF[0], False

    def _send(self, batch: Batch) -> None:
        self._number += 1
        self._sent[self._number] = batch
        batch.model = self.model
        if self._channel is not None:
            before = self._channel.bytes_sent
            self._channel.send({"call": "evaluate", "number": self._number, "model": self.model}, batch.parts)
            self.bytes_sent += self._channel.bytes_sent - before

    def _receive(self) -> None:
        """Take one answer in."""
        assert self._channel is not None
        before = self._channel.bytes_received
        head, parts = self._channel.receive()
        self.bytes_received += self._channel.bytes_received - before
        number = head.get("number")
        batch = self._sent.pop(number, None) if isinstance(number, int) else None
        _refuse(head)
        if batch is None:
            raise StoreError(f"{self.server} answered what was not asked.")
        if head.get("model") != batch.model:
            raise StoreError(f"{self.server} answered with another model than the one that was asked for.")
        self.newest = str(head.get("newest", ""))
        batch.answer = read_answer(self.game, batch.count, parts)

    def _break(self, error: UnreachableError) -> None:
        """Forget the connection; what was sent stays to be sent again."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self.losses += not self._lost
        if not self._lost and self._stop is not None:
            self._tell(f"{error} The leaves are kept, and sent again once {self.server} answers.")
        self._lost = self._stop is not None

    def _lose(self, error: UnreachableError) -> None:
        """Wait a while for a server that is gone, or give up where nobody wants to wait."""
        self._break(error)
        end = time.monotonic() + self._wait
        while True:
            if self._stop is None or self._stop():
                raise error
            left = end - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(0.1, left))
        self._wait = min(BACK_OFF[1], 2 * self._wait)

    def close(self) -> None:
        """Close the connection; the next `result` makes another one."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def __del__(self) -> None:
        if getattr(self, "_channel", None) is not None:
            self.close()


def publish(
    server: str,
    game: Game,
    name: str,
    data: bytes,
    newest: bool = True,
    timeout: float = 120.0,
    password: str | None = None,
) -> None:
    """Make a model the newest of an inference server elsewhere.

    Args:
      name: SHA-256 of `data`. data: a model's bytes, see `model.encode`.
      newest: false only offers it: the server's newest stays. So a worker is answered that plays what its
        store calls the newest while the server, started anew, does not have it.
      password: see `door.connect`.

    Raises:
      UnreachableError: the server does not answer.
      RefusedError: another password, game or rules, damaged bytes.
    """
    channel = connect(server, password)
    channel.set_timeout(timeout)
    try:
        channel.send({"call": "hello", "about": meaning(game), "batch": 0})
        _refuse(channel.receive()[0])
        channel.send({"call": "publish", "hash": name, "newest": newest}, [data])
        _refuse(channel.receive()[0])
    finally:
        channel.close()


def _refuse(head: dict[str, Any]) -> None:
    """Raise what a server's refusal says."""
    if "refused" not in head:
        return
    text = str(head["refused"])
    if "stale" not in head:
        raise RefusedError(text)
    raise StaleModelError(str(head.get("model")), str(head["stale"]))


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
