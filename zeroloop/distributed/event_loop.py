"""EventLoop: one thread that answers the calls of very many connections. Knows frames and no store.

A thread for each connection makes a thousand of them compete with the learner for the interpreter; one thread
takes whole frames from whoever has sent one, and nobody who is slow holds up another.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..errors import StoreError
from .frames import Channel, Part, frame_size, pack, unpack

PIECE = 1 << 18
"""Bytes read of a connection before the next has its turn."""
HELD_RATE, HELD_SECONDS = 500.0, 1.0
"""Held calls that are answered in a second, about, and how long one is held at most."""


class Answer(NamedTuple):
    """What a call is answered with."""

    head: dict[str, Any]
    parts: Sequence[Part] = ()
    again: Callable[[], Answer] | None = None
    """Where this says only that there is no room: the same call again. It is made once more after a while,
    the longer the more are held, and what it gives then goes out: so few ask in vain."""


class _Held(NamedTuple):
    """A call that is held."""

    due: float
    number: int
    connection: _Connection
    again: Callable[[], Answer]


class _Connection:
    """What has come of a frame, and what has not gone out of an answer."""

    def __init__(self, channel: Channel) -> None:
        self.channel, self.socket = channel, channel.connection
        self.inbox = bytearray()
        self.size = 0  # of the frame that the inbox begins with, once that is known
        self.out: deque[memoryview] = deque()
        self.writes = False

    def take(self) -> memoryview | None:
        """Return a frame that is whole."""
        if not self.size:
            self.size = frame_size(self.inbox, self.channel.peer)
        if not self.size or len(self.inbox) < self.size:
            return None
        whole, self.inbox = self.inbox, self.inbox[self.size :]
        size, self.size = self.size, 0
        return memoryview(whole)[:size]

    def put(self, answer: Answer) -> None:
        """Let this go out next."""
        pieces = (memoryview(piece).cast("B") for piece in pack(answer.head, answer.parts) if len(piece))
        self.out.extend(pieces)

    def flush(self) -> None:
        """Send what the other side takes."""
        while self.out:
            try:
                sent = self.socket.send(self.out[0])
            except BlockingIOError:
                return
            self.channel.bytes_sent += sent
            if sent == len(self.out[0]):
                self.out.popleft()
            else:
                self.out[0] = self.out[0][sent:]


class EventLoop:
    """Calls `answer` for every whole frame, one after another, and sends what it returns.

    A connection that sends no frames, or breaks, is closed. Where the other side does not read its answers
    nothing more is read from it.

    Args:
      answer: of head and parts; it must not block, and keeps no part.

    Attributes:
      failure: what ended the loop by surprise; all connections are closed then.
    """

    def __init__(self, answer: Callable[[dict[str, Any], list[memoryview]], Answer], name: str) -> None:
        self._answer = answer
        self.failure: BaseException | None = None
        self._selector = selectors.DefaultSelector()
        self._buffer = memoryview(bytearray(PIECE))
        self._open: set[_Connection] = set()
        self._held: list[_Held] = []  # a heap
        self._order = itertools.count()
        self._lock = threading.Lock()
        self._new: list[Channel] = []
        self._closed = False
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Connections that are here."""
        return len(self._open) + len(self._new)

    def add(self, channel: Channel) -> None:
        """Answer what comes over this channel from now on, and close it in the end."""
        with self._lock:
            if self._closed:
                channel.close()
                return
            self._new.append(channel)
            self._stir()

    def close(self) -> None:
        """End, and close every connection."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._stir()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _stir(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it is awake already
            self._wake.send(b"x")

    def _run(self) -> None:
        try:
            while not self._closed:
                for key, mask in self._selector.select(self._patience()):
                    self._turn(key.data, mask)
                self._release(time.monotonic())
        except BaseException as error:
            self.failure = error
            raise
        finally:
            with self._lock:
                self._closed = True
                left = [c.channel for c in self._open] + self._new
                self._open, self._new = set(), []
                self._selector.close()
                self._wake.close()
                self._woken.close()
            for channel in left:
                channel.close()

    def _patience(self) -> float | None:
        return max(0.0, self._held[0].due - time.monotonic()) if self._held else None

    def _turn(self, connection: _Connection | None, mask: int) -> None:
        if connection is None:
            self._take_in()
            return
        try:
            if mask & selectors.EVENT_READ:
                self._receive(connection)
            self._advance(connection)
        except (OSError, StoreError):
            # Gone, or none of ours: a half-sent frame was never whole, so nothing of it was done.
            self._cut(connection)

    def _take_in(self) -> None:
        self._woken.recv(1 << 16)
        with self._lock:
            new, self._new = self._new, []
            made = [_Connection(channel) for channel in new]
            self._open.update(made)
        for connection in made:
            try:
                connection.channel.set_timeout(0.0)
                self._selector.register(connection.socket, selectors.EVENT_READ, connection)
            except (ValueError, OSError, StoreError):  # closed by who gave it, or no room for more
                self._cut(connection)

    def _cut(self, connection: _Connection) -> None:
        with contextlib.suppress(KeyError, ValueError):  # its answer was held, or it was closed before
            self._selector.unregister(connection.socket)
        self._open.discard(connection)
        connection.channel.close()

    def _receive(self, connection: _Connection) -> None:
        try:
            size = connection.socket.recv_into(self._buffer)
        except BlockingIOError:
            return
        if size == 0:
            raise StoreError(f"{connection.channel.peer} has closed the connection.")
        connection.channel.bytes_received += size
        connection.inbox += self._buffer[:size]

    def _advance(self, connection: _Connection) -> None:
        """Send answers and answer frames, until one is not whole or the other side has to read first."""
        connection.flush()
        while not connection.out and (frame := connection.take()) is not None:
            answer = self._answer(*unpack(frame, connection.channel.peer))
            if answer.again is not None:
                self._hold(connection, answer.again)
                return
            connection.put(answer)
            connection.flush()
        if bool(connection.out) != connection.writes:
            connection.writes = bool(connection.out)
            events = selectors.EVENT_WRITE if connection.writes else selectors.EVENT_READ
            self._selector.modify(connection.socket, events, connection)

    def _hold(self, connection: _Connection, again: Callable[[], Answer]) -> None:
        """Let an answer wait: a thousand who ask for room again and again would leave no time to make any."""
        wait = min(HELD_SECONDS, (1 + len(self._held)) / HELD_RATE)
        held = _Held(time.monotonic() + wait, next(self._order), connection, again)
        self._selector.unregister(connection.socket)
        heapq.heappush(self._held, held)

    def _release(self, now: float) -> None:
        """Make the calls again that were held long enough, and send what they give."""
        while self._held and self._held[0].due <= now:
            held = heapq.heappop(self._held)
            connection = held.connection
            try:
                connection.put(held.again())
            except StoreError:
                self._cut(connection)
                continue
            connection.writes = False
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
            self._turn(connection, 0)
