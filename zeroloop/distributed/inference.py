"""The inference server: lanes behind a socket, for the leaves of workers on this machine or another.

A thread for each connection reads a request, asks the lanes and answers, one at a time: what a client sends
meanwhile waits in the network, so nothing grows. Inside one process no server is needed: a
`NetworkEvaluator` is the same interface as a function call.
"""

from __future__ import annotations

import contextlib
import pathlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from .. import model
from ..errors import RefusedError, StoreError, UnreachableError, ZeroloopError
from ..evaluator.choice import Choice
from ..games.game import Game
from .door import Door
from .frames import Channel, Part, address_of, listen
from .lanes import Asker, Lanes, StaleModelError
from .ragged import answer_bytes, read_request
from .share import DeviceShare
from .store import MEANING, meaning

HELLO = 10.0
"""Seconds that a connection has to say who it is."""


class InferenceServer:
    """Evaluates leaves for whoever connects. Publish a model, then `listen`; `close` at the end.

    Args:
      max_batch: positions of a batch at most; a client that may send more is refused at its hello.
      deadline_ms, lanes, share: see `Lanes`. password, say: see `Door`.

    Attributes:
      address: HOST:PORT, once it listens.
      lanes: what computes; its `failure` says what ended it by surprise.
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
        password: str | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.game, self.address = game, ""
        self._door = Door(password, say)
        self.lanes = Lanes(game, choice, max_batch, deadline_ms, lanes, share)
        self._about = meaning(game)
        self._lock = threading.Lock()
        self._channels: set[Channel] = set()
        self._counters: Counter[str] = Counter()
        self._closed = False
        self._socket: socket.socket | None = None

    @property
    def newest(self) -> str:
        """Hash of the newest model; empty before the first."""
        return self.lanes.newest

    def publish(self, name: str, data: bytes, newest: bool = True) -> None:
        """See `Lanes.publish`."""
        self.lanes.publish(name, data, newest)

    def listen(self, bind: str, name: str = "inference.bind") -> str:
        """Answer whoever connects at HOST:PORT (port 0: any that is free), and return the address.

        Args:
          name: key or flag that gave the address, for messages.

        Raises:
          StoreError: the address cannot be listened at.
        """
        self._socket = listen(bind, name)
        self.address = address_of(self._socket)
        threading.Thread(target=self._accept, args=(self._socket,), name="accept", daemon=True).start()
        return self.address

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
                _keep_alive(connection)
                channel = Channel(connection)
            except OSError:
                if self._closed:
                    return
                time.sleep(0.1)  # a caller that is gone already, or too many open files for now
                continue
            with self._lock:
                if self._closed:
                    channel.close()
                    return
                self._channels.add(channel)
            threading.Thread(target=self._serve, args=(channel,), name="client", daemon=True).start()

    def _serve(self, channel: Channel) -> None:
        asker: Asker | None = None
        try:
            asks = self._greeted(channel)
            channel.send({"newest": self.newest, "max_batch": self.lanes.max_batch})
            channel.set_timeout(None)
            asker = self.lanes.join() if asks else None
            while True:
                head, parts = channel.receive()
                channel.send(*self._answer(asker, head, parts))
        except StoreError:
            pass  # the client is gone, refused, or never was one of ours; it asks again if it wants an answer
        finally:
            if asker is not None:
                self.lanes.leave(asker)
            with self._lock:
                self._channels.discard(channel)
                self._counters["bytes_received"] += channel.bytes_received
                self._counters["bytes_sent"] += channel.bytes_sent
            channel.close()

    def _greeted(self, channel: Channel) -> bool:
        """Take a connection in, and return whether it will ask for evaluations."""
        try:
            self._door.admit(channel)
        except RefusedError:
            self._counters["refused"] += 1
            raise
        channel.set_timeout(HELLO)
        head, _ = channel.receive()
        try:
            return self._greet(head)
        except RefusedError as error:
            self._counters["refused"] += 1
            channel.send({"refused": str(error)})
            raise

    def _greet(self, head: dict[str, Any]) -> bool:
        """Check a hello, and return whether the client will ask for evaluations."""
        about, batch, most = head.get("about"), head.get("batch"), self.lanes.max_batch
        if head.get("call") != "hello" or not isinstance(about, dict) or not isinstance(batch, int):
            raise RefusedError("a connection begins with a hello; this is another version, or a stranger.")
        for key in MEANING:
            if about.get(key) != self._about[key]:
                raise RefusedError(
                    f"the inference server has {key} {self._about[key]}, who asks it {about.get(key)}; start "
                    "it for the same game, with the same zeroloop on both machines."
                )
        if batch > most:
            raise RefusedError(
                f"this worker sends up to {batch} positions at a time, the server takes {most}; set "
                f"inference.max_batch={batch} or more on the server, or selfplay.games={most} or fewer."
            )
        return batch > 0

    def _answer(
        self, asker: Asker | None, head: dict[str, Any], parts: list[memoryview]
    ) -> tuple[dict[str, Any], list[Part]]:
        number, call, name = head.get("number"), head.get("call"), str(head.get("model"))
        try:
            if call == "publish" and len(parts) == 1:
                self.publish(str(head.get("hash")), bytes(parts[0]), head.get("newest") is True)
                return {"published": self.newest}, []
            if call != "evaluate" or asker is None:
                raise RefusedError(f"'{str(call)[:40]}' is no call that this connection may make.")
            request = read_request(self.game, self.lanes.max_batch, parts)
            logits, values = self.lanes.ask(asker, name, request)
            said = {"number": number, "model": name, "newest": self.newest}
            return said, answer_bytes(logits, values)
        except UnreachableError:
            raise
        except StaleModelError as error:
            return {"number": number, "refused": str(error), "model": name, "stale": error.newest}, []
        except ZeroloopError as error:
            self._counters["refused"] += 1
            return {"number": number, "refused": str(error)}, []

    def counters(self) -> dict[str, float]:
        """Return what `Lanes.counters` does, and `refused`, `bytes_received`, `bytes_sent`, `clients`."""
        out = self.lanes.counters()
        with self._lock:
            out["refused"], out["clients"] = self._counters["refused"], len(self._channels)
            for name in ("bytes_received", "bytes_sent"):
                out[name] = self._counters[name] + sum(getattr(x, name) for x in self._channels)
            return out

    def close(self) -> None:
        """Stop listening, end the lanes and close every connection: clients wait, or ask elsewhere."""
        with self._lock:
            self._closed = True
            channels = list(self._channels)
        if self._socket is not None:
            with contextlib.suppress(OSError):  # wakes the thread that accepts
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
        for channel in channels:
            channel.close()
        self.lanes.close()


def follow(
    server: InferenceServer,
    run: pathlib.Path,
    stop: Callable[[], bool],
    tell: Callable[[str], None],
    every: float = 1.0,
) -> None:
    """Publish a run's newest model whenever there is another one, until `stop`; ask every so many seconds.

    Raises:
      StoreError: a damaged pointer or model. ResumeError: a model of another game or of other rules.
    """
    known = ""
    while not stop():
        pointer = run / "newest"
        name = model.read_pointer(pointer) if pointer.exists() else ""
        if name not in ("", known):
            path = run / "models" / f"{name}.safetensors"
            try:
                data = path.read_bytes()
            except OSError as error:
                raise StoreError(f"{path} cannot be read ({error.strerror}).") from error
            server.publish(name, data)
            known = name
            tell(f"model {name[: model.SHORT]}")
        end = time.monotonic() + every
        while not stop() and time.monotonic() < end:
            time.sleep(min(0.1, every))


def _keep_alive(connection: socket.socket) -> None:
    """Let the kernel notice a machine that is gone without a word, within a minute."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):  # Linux; elsewhere the system's own times hold
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
