"""Frames: messages over a socket, a JSON head and raw bytes behind it. No pickle.

A frame is magic `ZLF1`, length of the head `u32`, length of the body `u64`, the head as JSON, the body.
The head's `parts` gives the length of each part of the body.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

from ..errors import StoreError, UnreachableError

MAGIC = b"ZLF1"
_LENGTHS = struct.Struct("<4sIQ")
_LONGEST_HEAD, _LONGEST_BODY = 1 << 24, 1 << 31
_PIECE = 1 << 20  # bytes of memory that a length alone can claim; more only as it arrives

Part = bytes | bytearray | memoryview
BACKLOG = 4096
"""Callers that may come at once, such as all workers after a learner was away; the system may allow fewer."""


class Channel:
    """One connection; a thread may send while another receives, but not two at a time the same.

    Raises, from every method:
      UnreachableError: the other side is gone or silent for longer than the timeout.
      StoreError: what came is no frame.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a machine may lose its power
        self._socket = connection
        self.peer = name_of(connection)
        self.bytes_sent = self.bytes_received = 0

    @staticmethod
    def connect(address: str, timeout: float = 10.0) -> Channel:
        """Return a channel to HOST:PORT; no answer within `timeout` seconds is an UnreachableError."""
        host, port = split_address(address)
        try:
            return Channel(socket.create_connection((host, port), timeout))
        except OSError as error:
            raise UnreachableError(
                f"nothing answers at {address} ({error.strerror or error}); check the address, and that the "
                "port is open in the firewall."
            ) from error

    def set_timeout(self, seconds: float | None) -> None:
        """Let every later call wait so long for the other side; None waits for ever."""
        try:
            self._socket.settimeout(seconds)
        except OSError as error:  # another thread has closed it
            raise UnreachableError(f"{self.peer} is no longer connected ({_reason(error)}).") from error

    def send(self, head: dict[str, Any], parts: Sequence[Part] = ()) -> None:
        """Send one frame."""
        data = b"".join(pack(head, parts))
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise UnreachableError(f"{self.peer} does not take what is sent ({_reason(error)}).") from error
        self.bytes_sent += len(data)

    def receive(
        self, longest_head: int = _LONGEST_HEAD, longest_body: int = _LONGEST_BODY, end: float | None = None
    ) -> tuple[dict[str, Any], list[memoryview]]:
        """Wait for one frame and return its head and its parts.

        Args:
          longest_head, longest_body: bytes; a frame that says it is longer is none.
          end: on `time.monotonic()`, when all of it must be here, however slowly it comes; it takes the
            place of the timeout, which is to be set anew.
        """
        lengths = _lengths(self._exactly(_LENGTHS.size, end), self.peer, longest_head, longest_body)
        head = _head(self._exactly(lengths[0], end), self.peer)
        parts = _parts(head, memoryview(self._exactly(lengths[1], end)), self.peer)
        self.bytes_received += _LENGTHS.size + sum(lengths)
        return head, parts

    def _exactly(self, size: int, end: float | None) -> bytearray:
        data, at = bytearray(min(size, _PIECE)), 0
        while at < size:
            if at == len(data):
                data.extend(bytes(min(size - at, at)))
            try:
                if end is not None:
                    self._socket.settimeout(max(1e-3, end - time.monotonic()))
                with memoryview(data) as view:
                    n = self._socket.recv_into(view[at:])
            except OSError as error:
                raise UnreachableError(f"{self.peer} does not answer ({_reason(error)}).") from error
            if n == 0:
                raise UnreachableError(f"{self.peer} has closed the connection.")
            at += n
            if end is not None and at < size and time.monotonic() > end:
                raise UnreachableError(f"{self.peer} does not answer (no answer in time).")
        return data

    @property
    def connection(self) -> socket.socket:
        """The socket itself, for who waits for many at a time."""
        return self._socket

    def close(self) -> None:
        """Close the connection; a thread that waits in `receive` gets an UnreachableError."""
        with contextlib.suppress(OSError):  # the other side was faster
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def pack(head: dict[str, Any], parts: Sequence[Part] = ()) -> list[Part]:
    """Return the bytes of a frame in pieces; the parts are not copied."""
    sizes = [len(memoryview(p).cast("B")) if len(p) else 0 for p in parts]
    text = json.dumps({**head, "parts": sizes}, separators=(",", ":")).encode()
    return [_LENGTHS.pack(MAGIC, len(text), sum(sizes)) + text, *parts]


def frame_size(data: Part, peer: str) -> int:
    """Return how many bytes the frame has that begins here; 0: too little of it has come to tell.

    Args:
      peer: who sent it, for messages.

    Raises:
      StoreError: it is no frame.
    """
    if len(data) < _LENGTHS.size:
        return 0
    return _LENGTHS.size + sum(_lengths(data, peer, _LONGEST_HEAD, _LONGEST_BODY))


def unpack(data: memoryview, peer: str) -> tuple[dict[str, Any], list[memoryview]]:
    """Return head and parts of a whole frame; StoreError where it is none. The parts are not copied."""
    size = _lengths(data, peer, _LONGEST_HEAD, _LONGEST_BODY)[0]
    head = _head(bytes(data[_LENGTHS.size : _LENGTHS.size + size]), peer)
    return head, _parts(head, data[_LENGTHS.size + size :], peer)


def _lengths(data: Part, peer: str, longest_head: int, longest_body: int) -> tuple[int, int]:
    magic, head, body = _LENGTHS.unpack_from(data)
    if magic != MAGIC or head > longest_head or body > longest_body:
        raise StoreError(f"{peer} does not speak zeroloop's protocol, or another version of it.")
    return head, body


def _head(text: bytes | bytearray, peer: str) -> dict[str, Any]:
    try:
        head: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{peer} sent a frame whose head is no JSON.") from error
    if not isinstance(head, dict):
        raise StoreError(f"{peer} sent a frame whose head is no object.")
    return head


def _parts(head: dict[str, Any], body: memoryview, peer: str) -> list[memoryview]:
    """Take the lengths of the parts out of the head, and return the parts."""
    sizes = head.pop("parts", None)
    whole = isinstance(sizes, list) and all(type(n) is int and n >= 0 for n in sizes)
    if not isinstance(sizes, list) or not whole or sum(sizes) != len(body):
        raise StoreError(f"{peer} sent a frame whose parts do not add up.")
    parts, at = [], 0
    for n in sizes:
        parts.append(body[at : at + n])
        at += n
    return parts


def listen(address: str, name: str = "") -> socket.socket:
    """Return a socket that listens at HOST:PORT; port 0 takes any that is free.

    Args:
      name: key or flag that gave the address, for messages.
    """
    host, port = split_address(address)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        given = f"{name} is {address}, which" if name else address
        raise StoreError(
            f"{given} cannot be listened at ({_reason(error)}); free the port or give another one."
        ) from error


def address_of(listening: socket.socket) -> str:
    """Return HOST:PORT of a listening socket."""
    host, port = listening.getsockname()[:2]
    return f"{host}:{port}"


def name_of(connection: socket.socket) -> str:
    """Return HOST:PORT of the other side, for messages."""
    try:
        host, port = connection.getpeername()[:2]
    except OSError:
        return "a closed connection"
    return f"{host}:{port}"


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`; StoreError where it is none."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or "/" in host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise StoreError(f"'{address}' is no address; give HOST:PORT, such as 192.168.1.100:6390.")
    return host.strip("[]"), int(port)


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    # socket.create_server puts the address, which is told already, into the system's words.
    return str(error.strerror or error).partition(" (while attempting")[0]
