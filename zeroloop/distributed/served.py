"""A store behind a socket: the server beside a learner, and the client that workers hold.

One frame asks, one answers; the head names the call. What travels is JSON and episode or model bytes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..errors import RefusedError, StoreError, UnreachableError
from .door import Door, connect
from .event_loop import Answer, EventLoop
from .frames import Channel, address_of, listen
from .store import EpisodeStore, Orders, Standing, Stored, Weights

T = TypeVar("T")

TIMEOUT = 20.0
"""Seconds that a client waits for an answer."""
RESERVED = 128
"""Open files that no worker's connection takes: the learner's own, and callers at the door."""
UNLIMITED = 1 << 16
"""Open files counted on where there is no limit."""


class StoreServer:
    """Serves a store to workers at HOST:PORT: a thread at the door for each newcomer, then one for all.

    Args:
      name: key or flag that gave the address, for messages.
      password, say: see `Door`.

    Raises:
      StoreError: the address cannot be listened at.
    """

    def __init__(
        self,
        store: EpisodeStore,
        bind: str,
        name: str = "",
        password: str | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._store = store
        self._door = Door(password, say)
        self._say = say
        self._files = open_files()
        self._socket = listen(bind, name)
        self.address = address_of(self._socket)
        self._newcomers: set[Channel] = set()
        self._at_door = threading.Semaphore(
            RESERVED // 2
        )  # who comes beyond that waits in the system's queue
        self._lock = threading.Lock()
        self._closed = self._full = False
        self._without_room: set[int] = set()
        """Workers that were told last that the store is full."""
        self._loop = EventLoop(self._call, "store")
        threading.Thread(target=self._accept, name="store door", daemon=True).start()

    def _accept(self) -> None:
        while True:
            self._at_door.acquire()
            try:
                connection, _ = self._socket.accept()
                channel = Channel(connection)
            except OSError:
                self._at_door.release()
                if self._closed:
                    return
                time.sleep(0.1)  # a caller that is gone already, or too many open files for now
                continue
            with self._lock:
                if self._closed:
                    channel.close()
                    return
                self._newcomers.add(channel)
            threading.Thread(target=self._welcome, args=(channel,), daemon=True).start()

    def _welcome(self, channel: Channel) -> None:
        """Take a caller in, or tell it that there is no place: then it comes again."""
        try:
            self._door.admit(channel)
            if channel.connection.fileno() < self._files - RESERVED:  # a new file has the lowest free number
                self._loop.add(channel)
                return
            channel.set_timeout(TIMEOUT)
            channel.receive()
            channel.send({"busy": self._no_place()})
        except StoreError:
            pass  # it is gone, refused, or none of ours
        finally:
            with self._lock:
                self._newcomers.discard(channel)
            self._at_door.release()
        channel.close()

    def _no_place(self) -> str:
        """Return, and tell a person once, why a worker has no place."""
        text = (
            f"{self.address} has {len(self._loop)} workers, and its limit of {self._files} open files leaves "
            "no place for more; raise it (ulimit -n) where the learner is started, or let fewer workers have "
            "more collect.threads."
        )
        with self._lock:
            first, self._full = not self._full, True
        if first and self._say is not None:
            self._say(f"{text} Who has no place keeps its games and asks again.")
        return text

    def _call(self, head: dict[str, Any], parts: list[memoryview]) -> Answer:
        return self._take(head, [bytes(p) for p in parts])

    def _take(self, head: dict[str, Any], parts: list[bytes]) -> Answer:
        """Answer a call; what it asks for may be refused, and a call that makes no sense is."""
        try:
            answer, out = self._answer(head, parts)
            if head["call"] == "add" and self._waits(head, parts, answer["stored"]):
                return Answer(answer, out, again=lambda: self._take(head, parts))
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            return Answer({"refused": f"a call that this store does not know: {error!r}"})
        except RefusedError as error:
            return Answer({"refused": str(error)})
        return Answer(answer, out)

    def _waits(self, head: dict[str, Any], parts: list[bytes], stored: int) -> bool:
        """Return whether this offer is to wait for room: its worker knows already that there is none.

        Until it is told, it plays, and its games grow old before they are learnt from.
        """
        worker, first = int(head["worker"]), int(head["first"])
        if stored >= first + len(parts) - 1:
            self._without_room.discard(worker)
            return False
        knows = worker in self._without_room
        self._without_room.add(worker)
        return knows and stored < first

    def _answer(self, head: dict[str, Any], parts: list[bytes]) -> tuple[dict[str, Any], list[bytes]]:
        store, call = self._store, head["call"]
        if call == "about":
            return {"about": store.about()}, []
        if call == "join":
            who = int(head["worker"]), str(head["token"])
            return store.join(*who, dict(head["about"]), int(head["safe"]))._asdict(), []
        if call == "add":
            counts = [int(n) for n in head["positions"]]
            return store.add(int(head["worker"]), int(head["first"]), parts, counts)._asdict(), []
        if call == "read":
            found = store.read(int(head["after"]), int(head["most"]))
            rows = [[s.number, s.worker, s.sequence] for s in found]
            return {"games": rows}, [s.data for s in found]
        if call == "acknowledge":
            store.acknowledge(int(head["number"]), {int(k): int(v) for k, v in head["safe"].items()})
            return {}, []
        if call == "publish":
            store.publish(Weights(str(head["hash"]), parts[0]), float(head["progress"]))
            return {}, []
        if call == "weights":
            model = store.weights(str(head["known"]))
            return ({"hash": model.hash}, [model.data]) if model else ({"hash": None}, [])
        if call == "report":
            return store.report(int(head["worker"]), dict(head["row"]))._asdict(), []
        if call == "workers":
            return {"workers": store.workers()}, []
        if call == "pause":
            store.pause(bool(head["paused"]))
            return {}, []
        if call == "stop":
            store.stop()
            return {}, []
        if call == "counters":
            return {"counters": store.counters()}, []
        raise KeyError(call)

    @property
    def failure(self) -> BaseException | None:
        """What ended the server by surprise."""
        return self._loop.failure

    def close(self) -> None:
        """Stop listening and close every connection."""
        with self._lock:
            self._closed = True
            newcomers = list(self._newcomers)
        with contextlib.suppress(OSError):  # wakes the thread that accepts
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._loop.close()  # first: who is admitted meanwhile is closed there
        for channel in newcomers:
            channel.close()


def open_files() -> int:
    """Let this process have as many open files as the system allows it, and return how many."""
    if os.name == "nt":
        return UNLIMITED
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else max(soft, UNLIMITED)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


class StoreClient:
    """An `EpisodeStore` at the other end of a socket; a broken connection is made anew at the next call.

    Args:
      password: see `door.connect`.
    """

    def __init__(self, address: str, password: str | None = None) -> None:
        self.address, self._password = address, password
        self._lock = threading.Lock()
        self._channel: Channel | None = None

    def _call(
        self, call: str, parts: Sequence[bytes] = (), **values: Any
    ) -> tuple[dict[str, Any], list[Any]]:
        with self._lock:
            try:
                if self._channel is None:
                    self._channel = connect(self.address, self._password, TIMEOUT)
                self._channel.send({"call": call, **values}, parts)
                head, out = self._channel.receive()
            except StoreError:
                if self._channel is not None:
                    self._channel.close()
                    self._channel = None
                raise
            if "busy" in head:
                self._channel.close()
                self._channel = None
                raise UnreachableError(str(head["busy"]))
        if "refused" in head:
            raise RefusedError(str(head["refused"]))
        return head, out

    def _ask(
        self,
        build: Callable[[dict[str, Any], list[Any]], T],
        call: str,
        parts: Sequence[bytes] = (),
        **values: Any,
    ) -> T:
        head, out = self._call(call, parts, **values)
        try:
            return build(head, out)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise StoreError(
                f"{self.address} answered '{call}' with something that this zeroloop does not know; "
                "install the same version on both machines."
            ) from error

    def about(self) -> dict[str, Any]:
        """See `EpisodeStore`."""
        return self._ask(lambda head, _: dict(head["about"]), "about")

    def join(self, worker: int, token: str, about: dict[str, Any], safe: int = 0) -> Standing:
        """See `EpisodeStore`."""
        return self._ask(_standing, "join", worker=worker, token=token, about=about, safe=safe)

    def add(self, worker: int, first: int, episodes: Sequence[bytes], positions: Sequence[int]) -> Standing:
        """See `EpisodeStore`."""
        return self._ask(_standing, "add", episodes, worker=worker, first=first, positions=list(positions))

    def read(self, after: int, most: int) -> list[Stored]:
        """See `EpisodeStore`."""

        def build(head: dict[str, Any], parts: list[Any]) -> list[Stored]:
            rows = zip(head["games"], parts, strict=True)
            return [Stored(int(n), int(w), int(s), bytes(data)) for (n, w, s), data in rows]

        return self._ask(build, "read", after=after, most=most)

    def acknowledge(self, number: int, safe: dict[int, int]) -> None:
        """See `EpisodeStore`."""
        self._call("acknowledge", number=number, safe=safe)

    def publish(self, weights: Weights, progress: float) -> None:
        """See `EpisodeStore`."""
        self._call("publish", [weights.data], hash=weights.hash, progress=progress)

    def weights(self, known: str) -> Weights | None:
        """See `EpisodeStore`."""

        def build(head: dict[str, Any], parts: list[Any]) -> Weights | None:
            return Weights(str(head["hash"]), bytes(parts[0])) if head["hash"] else None

        return self._ask(build, "weights", known=known)

    def report(self, worker: int, row: dict[str, Any]) -> Orders:
        """See `EpisodeStore`."""

        def build(head: dict[str, Any], _: list[Any]) -> Orders:
            flags = bool(head["paused"]), bool(head["stopped"])
            return Orders(str(head["model"]), float(head["progress"]), *flags, int(head["safe"]))

        return self._ask(build, "report", worker=worker, row=row)

    def workers(self) -> list[dict[str, Any]]:
        """See `EpisodeStore`."""
        return self._ask(lambda head, _: [dict(row) for row in head["workers"]], "workers")

    def pause(self, paused: bool) -> None:
        """See `EpisodeStore`."""
        self._call("pause", paused=paused)

    def stop(self) -> None:
        """See `EpisodeStore`."""
        self._call("stop")

    def counters(self) -> dict[str, int]:
        """See `EpisodeStore`."""
        return self._ask(lambda head, _: {k: int(n) for k, n in head["counters"].items()}, "counters")

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._channel is not None:
                self._channel.close()
                self._channel = None


def _standing(head: dict[str, Any], _: list[Any]) -> Standing:
    return Standing(int(head["stored"]), int(head["safe"]))
