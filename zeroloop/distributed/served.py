"""A store behind a socket: the server beside a learner, and the client that workers hold.

One frame asks, one answers; the head names the call. What travels is JSON and episode or model bytes.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..errors import RefusedError, StoreError
from .door import Door, connect
from .frames import Channel, address_of, listen
from .store import EpisodeStore, Orders, Standing, Stored, Weights

T = TypeVar("T")

TIMEOUT = 20.0
"""Seconds that a client waits for an answer."""


class StoreServer:
    """Serves a store to workers at HOST:PORT, a thread for each connection.

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
        self._socket = listen(bind, name)
        self.address = address_of(self._socket)
        self._channels: set[Channel] = set()
        self._lock = threading.Lock()
        self._closed = False
        threading.Thread(target=self._accept, name="store", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
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
            threading.Thread(target=self._serve, args=(channel,), daemon=True).start()

    def _serve(self, channel: Channel) -> None:
        try:
            self._door.admit(channel)
            while True:
                head, parts = channel.receive()
                try:
                    answer, out = self._answer(head, [bytes(p) for p in parts])
                except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
                    answer, out = {"refused": f"a call that this store does not know: {error!r}"}, []
                except RefusedError as error:
                    answer, out = {"refused": str(error)}, []
                channel.send(answer, out)
        except StoreError:
            pass  # the worker is gone, or is none: a half-sent game was never whole, so nothing of it is here
        finally:
            with self._lock:
                self._channels.discard(channel)
            channel.close()

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

    def close(self) -> None:
        """Stop listening and close every connection."""
        with self._lock:
            self._closed = True
            channels = list(self._channels)
        with contextlib.suppress(OSError):  # wakes the thread that accepts
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for channel in channels:
            channel.close()


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
