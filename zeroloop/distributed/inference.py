"""The inference server: leaves of many workers, merged into batches of one network. Knows nothing of trees.

A thread for each connection reads requests; a lane computes one batch at a time. Inside one process no
server is needed: a `NetworkEvaluator` is the same interface as a function call.
"""

from __future__ import annotations

import contextlib
import pathlib
import socket
import threading
import time
from collections import Counter, OrderedDict, deque
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import model
from ..errors import BackendError, RefusedError, StoreError, ZeroloopError
from ..evaluator import NetworkEvaluator
from ..evaluator.choice import Choice, cores, make_evaluator
from ..files import sha256
from ..games.game import Game
from ..search.forest import Leaves
from .frames import Channel, Part, address_of, listen
from .leaves import LOWEST, SHORT, count_type, id_type, pack_logits, unpack_ids
from .share import INFERENCE, DeviceShare
from .store import check_meaning, meaning

Array = npt.NDArray[Any]

KEPT = 2
"""Models that are answered for: the newest and the one before."""
ENOUGH = 64
"""Rows from which a CPU computes a row no faster in a larger batch: a lane does not wait for more."""
QUIET = 0.5
"""Seconds of silence after which a batch no longer waits for a client."""
HELLO = 10.0
"""Seconds that a connection has to say who it is."""


class _Request:
    """Leaves that one client waits for."""

    def __init__(self, name: str, states: Array, count: Array, ids: Array) -> None:
        self.model, self.states, self.count, self.ids = name, states, count, ids
        self.rows = len(count)
        self.arrived = time.monotonic()
        self.done = threading.Event()
        self.head: dict[str, Any] = {}
        self.parts: list[Part] = []

    def answer(self, head: dict[str, Any], parts: list[Part]) -> None:
        """Let the thread of the connection send this."""
        self.head, self.parts = head, parts
        self.done.set()


class _Client:
    """A connection: whether it waits for an answer, and when it got its last one."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.sends = False
        self.asks = False
        self.answered = 0.0


class InferenceServer:
    """Computes leaves for whoever connects. Publish a model, then `listen`; `close` at the end.

    Args:
      max_batch: positions of a batch at most; a client that may send more is refused at its hello.
      deadline_ms: milliseconds that the first request of a batch waits for others at most.
      lanes: batches computed at a time; 0: one per core of a CPU, two on a GPU, so that copies overlap.
      share: whose turn on the device it is, where a learner in this process uses the same one.

    Attributes:
      address: HOST:PORT, once it listens.
      failure: what ended a lane by surprise; the server is closed then.
    """

    def __init__(
        self,
        game: Game,
        choice: Choice,
        *,
        max_batch: int = 1024,
        deadline_ms: float = 2.0,
        lanes: int = 0,
        share: DeviceShare | None = None,
    ) -> None:
        self.game, self.choice, self.max_batch = game, choice, max_batch
        self.address = ""
        self.failure: BaseException | None = None
        self._about = meaning(game)
        self._deadline = deadline_ms / 1000
        self._share = share
        self._cpu = choice.device == "cpu"
        self._enough = min(ENOUGH, max_batch) if self._cpu else max_batch
        self._number = lanes or (cores() if self._cpu else 2)
        self._changed = threading.Condition()
        self._publishing = threading.Lock()
        self._models: OrderedDict[str, list[NetworkEvaluator]] = OrderedDict()
        self._waiting: deque[_Request] = deque()
        self._rows = self._idle = self._computing = 0
        self._held = self._closed = False
        self._clients: set[_Client] = set()
        self._socket: socket.socket | None = None
        self._counters: Counter[str] = Counter()
        self._sizes: Counter[int] = Counter()
        self._lanes = [
            threading.Thread(target=self._lane, args=(i,), name=f"lane-{i}", daemon=True)
            for i in range(self._number)
        ]
        for lane in self._lanes:
            lane.start()

    @property
    def newest(self) -> str:
        """Hash of the newest model; empty before the first."""
        return next(reversed(self._models), "")

    def publish(self, name: str, data: bytes) -> None:
        """Make a model the newest; the one before is answered for still, older ones no longer.

        Args:
          name: SHA-256 of `data`. data: see `model.encode`.

        Raises:
          RefusedError: the bytes are not those of the name. StoreError: they are no model.
          ResumeError: a model of another game or of other rules.
        """
        if sha256(data) != name:
            raise RefusedError(
                f"the bytes of model {name[:SHORT]} have hash {sha256(data)[:SHORT]}: they were damaged on the "
                "way. Send them again."
            )
        with self._publishing:
            if name == self.newest:
                return
            made = self._models.get(name)
            if made is None:
                found = model.decode(data, pathlib.Path(f"model {name[:SHORT]}"), self.game)
                made = self._make(found)
            with self._changed:
                self._models[name] = made
                self._models.move_to_end(name)
                while len(self._models) > KEPT:
                    self._models.popitem(last=False)

    def _make(self, found: model.Model) -> list[NetworkEvaluator]:
        """Return an evaluator for each lane. A GPU records its graphs while nothing else runs on it."""
        sizes = _sizes(self.max_batch, self._cpu)
        if self._cpu:
            return [
                make_evaluator(self.game, found.network, self.choice, sizes, 1) for _ in range(self._number)
            ]
        with self._changed:
            self._held = True
            self._changed.wait_for(lambda: not self._computing)
        try:
            with self._share.use(INFERENCE) if self._share else contextlib.nullcontext():
                made = [
                    make_evaluator(self.game, found.network, self.choice, sizes, 1)
                    for _ in range(self._number)
                ]
                for evaluator in made:
                    _warm(self.game, evaluator)
        finally:
            with self._changed:
                self._held = False
                self._changed.notify_all()
        return made

    def listen(self, bind: str) -> str:
        """Answer whoever connects at HOST:PORT (port 0: any that is free), and return the address.

        Raises:
          StoreError: the address cannot be listened at.
        """
        self._socket = listen(bind)
        self.address = address_of(self._socket)
        threading.Thread(target=self._accept, args=(self._socket,), name="accept", daemon=True).start()
        return self.address

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return  # closed
            _keep_alive(connection)
            client = _Client(Channel(connection))
            with self._changed:
                if self._closed:
                    client.channel.close()
                    return
                self._clients.add(client)
            threading.Thread(target=self._serve, args=(client,), name="client", daemon=True).start()

    def _serve(self, client: _Client) -> None:
        """Answer one connection, one request at a time: what it sends meanwhile waits in the network."""
        channel = client.channel
        try:
            channel.set_timeout(HELLO)
            head, _ = channel.receive()
            try:
                self._greet(client, head)
            except RefusedError as error:
                channel.send({"refused": str(error)})
                return
            channel.send({"newest": self.newest, "max_batch": self.max_batch})
            channel.set_timeout(None)
            while True:
                head, parts = channel.receive()
                answer, out = self._answer(client, head, parts)
                channel.send(answer, out)
        except StoreError:
            pass  # the client is gone, or never was one of ours; it asks again if it wants an answer
        finally:
            with self._changed:
                self._clients.discard(client)
                self._counters["bytes_received"] += channel.bytes_received
                self._counters["bytes_sent"] += channel.bytes_sent
                self._changed.notify()
            channel.close()

    def _greet(self, client: _Client, head: dict[str, Any]) -> None:
        about, batch = head.get("about"), head.get("batch")
        if head.get("call") != "hello" or not isinstance(about, dict) or not isinstance(batch, int):
            raise RefusedError("a connection begins with a hello: another version of zeroloop, or a stranger.")
        check_meaning(self._about, about)
        if batch > self.max_batch:
            raise RefusedError(
                f"this worker sends up to {batch} positions at a time, the server takes {self.max_batch}; set "
                f"inference.max_batch={batch} or more on the server, or selfplay.games={self.max_batch}."
            )
        client.sends = batch > 0

    def _answer(
        self, client: _Client, head: dict[str, Any], parts: list[memoryview]
    ) -> tuple[dict[str, Any], list[Part]]:
        number = head.get("number")
        try:
            if head.get("call") == "publish":
                if len(parts) != 1:
                    raise RefusedError("publish takes the bytes of one model.")
                self.publish(str(head.get("hash")), bytes(parts[0]))
                return {"published": self.newest}, []
            if head.get("call") != "evaluate":
                raise RefusedError(f"'{str(head.get('call'))[:40]}' is no call that an inference server knows.")
            request = self._parse(str(head.get("model")), parts)
            stale = self._enter(client, request)
            if stale:
                return {"number": number, **stale}, []
            request.done.wait()
            with self._changed:
                client.asks, client.answered = False, time.monotonic()
            return {"number": number, "newest": self.newest, **request.head}, request.parts
        except ZeroloopError as error:
            with self._changed:
                self._counters["refused"] += 1
            return {"number": number, "refused": str(error)}, []

    def _parse(self, name: str, parts: list[memoryview]) -> _Request:
        """Return the request; what would be read or written out of bounds is refused.

        States are taken as they are: who has the same rules sends states that the rules have made.
        """
        game = self.game
        if len(parts) != 3 or len(parts[0]) % game.state_dtype.itemsize:
            raise RefusedError("a request is states, counts and ids, and its states are whole.")
        states = np.frombuffer(parts[0], game.state_dtype)
        if not 0 < len(states) <= self.max_batch:
            raise RefusedError(f"a request of {len(states)} positions; allowed: 1 to {self.max_batch}.")
        if len(parts[1]) != len(states) * np.dtype(count_type(game)).itemsize:
            raise RefusedError(f"a request of {len(states)} positions, but not as many counts of legal actions.")
        count = np.frombuffer(parts[1], count_type(game)).astype(np.int32)
        if count.min() < 1 or count.max() > game.max_legal:
            raise RefusedError(f"a position has 1 to {game.max_legal} legal actions, not {count.max()}.")
        if len(parts[2]) != int(count.sum()) * np.dtype(id_type(game)).itemsize:
            raise RefusedError("the ids of legal actions are not as many as the counts say.")
        ids = np.frombuffer(parts[2], id_type(game)).astype(np.int32)
        if ids.min() < 0 or ids.max() >= game.num_actions:
            raise RefusedError(f"an action {ids.max()}; {game.id} has {game.num_actions}.")
        return _Request(name, states, count, ids)

    def _enter(self, client: _Client, request: _Request) -> dict[str, Any]:
        """Queue a request and return nothing, or return why its model cannot be had."""
        with self._changed:
            if request.model not in self._models:
                self._counters["stale"] += 1
                return self._stale(request.model)
            client.asks = True
            self._waiting.append(request)
            self._rows += request.rows
            self._counters["requests"] += 1
            self._changed.notify()
        return {}

    def _stale(self, name: str) -> dict[str, Any]:
        newest = self.newest
        if not newest:
            return {"refused": "the inference server has no model yet.", "stale": ""}
        return {"refused": f"stale model {name[:SHORT]}; newest is {newest[:SHORT]}.", "stale": newest}

    def _lane(self, lane: int) -> None:
        game, n = self.game, self.max_batch
        width = max(game.max_legal, game.max_chance)
        leaves = Leaves(game.states(n), np.zeros((n, width), np.int32), np.zeros(n, np.int32))
        flat = np.zeros(n * width, np.float32)
        try:
            while taken := self._take():
                self._compute(lane, taken, leaves, flat)
        except BaseException as error:
            self.failure = error
            self._shut()
            raise

    def _take(self) -> list[_Request]:
        """Wait for a batch and return its requests; none at the end."""
        with self._changed:
            self._idle += 1
            try:
                while not self._closed:
                    delay = None if self._held or not self._waiting else self._delay()
                    if delay is not None and delay <= 0:
                        return self._merge()
                    self._changed.wait(delay)
                return []
            finally:
                self._idle -= 1

    def _delay(self) -> float:
        """Return the seconds that the waiting requests should wait for others."""
        now = time.monotonic()
        late = self._waiting[0].arrived + self._deadline - now
        if self._rows >= self._enough or late <= 0:
            return 0.0
        awaited = any(c.sends and not c.asks and now - c.answered < QUIET for c in self._clients)
        return late if awaited else 0.0

    def _merge(self) -> list[_Request]:
        """Take the requests of one batch: of one model, whole. Idle lanes of a CPU divide what waits."""
        goal = -(-self._rows // self._idle) if self._cpu else self.max_batch
        name, rows = self._waiting[0].model, 0
        taken: list[_Request] = []
        for request in self._waiting:
            if request.model == name:
                if rows >= goal or rows + request.rows > self.max_batch:
                    break
                taken.append(request)
                rows += request.rows
        for request in taken:
            self._waiting.remove(request)
        self._rows -= rows
        self._computing += 1
        if self._waiting:
            self._changed.notify()
        return taken

    def _compute(self, lane: int, taken: list[_Request], leaves: Leaves, flat: Array) -> None:
        """Evaluate a batch and give every request its part."""
        begun = time.monotonic()
        with self._changed:
            made = self._models.get(taken[0].model)
        try:
            if made is None:  # two newer ones came while it waited
                for request in taken:
                    request.answer(self._stale(request.model), [])
                return
            before = made[lane].rows
            self._evaluate(made[lane], taken, leaves, flat)
            self._count(taken, made[lane].rows - before, begun)
        except BackendError as error:
            for request in taken:
                request.answer({"refused": str(error)}, [])
        finally:
            with self._changed:
                self._computing -= 1
                if self._held:
                    self._changed.notify_all()

    def _evaluate(
        self, evaluator: NetworkEvaluator, taken: list[_Request], leaves: Leaves, flat: Array
    ) -> None:
        n = 0
        for r in taken:
            leaves.states[n : n + r.rows] = r.states
            leaves.count[n : n + r.rows] = r.count
            unpack_ids(r.ids, r.count, n, leaves.legal)
            n += r.rows
        batch = Leaves(leaves.states[:n], leaves.legal[:n], leaves.count[:n])
        with self._share.use(INFERENCE) if self._share else contextlib.nullcontext():
            found = evaluator.result(evaluator.submit(batch))
        total = pack_logits(found.logits, batch.count, n, LOWEST, flat)
        logits, values = flat[:total].astype(np.float16), found.values[:n].copy()
        if not (np.isfinite(logits).all() and np.isfinite(values).all()):
            raise BackendError(
                f"model {taken[0].model[:SHORT]} gives values that are no numbers; go back to an older one."
            )
        at, row = 0, 0
        for r in taken:
            end = at + len(r.ids)
            r.answer({"model": r.model}, [logits[at:end].data.cast("B"), values[row : row + r.rows].data.cast("B")])
            at, row = end, row + r.rows

    def _count(self, taken: list[_Request], distinct: int, begun: float) -> None:
        rows = sum(r.rows for r in taken)
        now = time.monotonic()
        with self._changed:
            self._sizes[rows] += 1
            self._counters["batches"] += 1
            self._counters["positions"] += rows
            self._counters["evaluations"] += distinct
            self._counters["wait_us"] += round(1e6 * sum(begun - r.arrived for r in taken))
            self._counters["busy_us"] += round(1e6 * (now - begun))

    def counters(self) -> dict[str, float]:
        """Return totals, and what is there at the moment.

        Totals: `requests`, `batches`, `positions` asked for, `evaluations` computed (equal positions of a
        batch once), `refused`, `stale`, `bytes_received`, `bytes_sent`, `wait_seconds` of requests before
        their batch, `busy_seconds` of lanes. At the moment: `clients`, `waiting` positions, `lanes`.
        """
        with self._changed:
            c, live = self._counters, list(self._clients)
            out: dict[str, float] = {
                name: c[name]
                for name in ("requests", "batches", "positions", "evaluations", "refused", "stale")
            }
            for name in ("bytes_received", "bytes_sent"):
                out[name] = c[name] + sum(getattr(x.channel, name) for x in live)
            out["wait_seconds"], out["busy_seconds"] = c["wait_us"] / 1e6, c["busy_us"] / 1e6
            out["clients"], out["waiting"], out["lanes"] = len(live), self._rows, self._number
            return out

    def batch_sizes(self) -> dict[int, int]:
        """Return how often each number of positions was a batch."""
        with self._changed:
            return dict(sorted(self._sizes.items()))

    def close(self) -> None:
        """Stop listening, end the lanes and close every connection: clients ask elsewhere, or wait."""
        self._shut()
        for lane in self._lanes:
            lane.join()

    def _shut(self) -> None:
        with self._changed:
            self._closed = True
            clients = list(self._clients)
            unanswered = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        if self._socket is not None:
            with contextlib.suppress(OSError):  # wakes the thread that accepts
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
        for client in clients:
            client.channel.close()
        for request in unanswered:
            request.done.set()


def _sizes(most: int, cpu: bool) -> list[int]:
    """Return batch sizes, so that little is padded; a GPU records each at every new model, so it has few."""
    if not cpu:
        return sorted({max(1, most // 4), most})
    steps = {s * k // 2 for s in (1 << i for i in range(5, 30)) for k in (2, 3)}
    return sorted({s for s in steps if s < most} | {most})


def _warm(game: Game, evaluator: NetworkEvaluator) -> None:
    """Run every backend once, so that none is made between two batches."""
    seen, width = game.observation, max(game.max_legal, game.max_chance)
    for backend in evaluator.backends:
        b = backend.batch
        planes, facts = np.zeros((b, *seen.planes), np.float32), np.zeros((b, seen.globals), np.float32)
        backend.result(backend.submit(planes, facts, np.zeros((b, width), np.int32)))


def _keep_alive(connection: socket.socket) -> None:
    """Let the kernel notice a machine that is gone without a word, within a minute."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):  # Linux; elsewhere the system's own times hold
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
