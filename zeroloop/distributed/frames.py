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
            connection = socket.create_connection((host, port), timeout)
        except OSError as error:
            raise UnreachableError(
                f"nothing answers at {address} ({error.strerror or error}); check the address, and that the "
                "port is open in the firewall."
            ) from error
        return Channel(connection)

    def set_timeout(self, seconds: float | None) -> None:
        """Let every later call wait so long for the other side; None waits for ever."""
        self._socket.settimeout(seconds)

    def send(self, head: dict[str, Any], parts: Sequence[Part] = ()) -> None:
        """Send one frame."""
        sizes = [len(memoryview(p).cast("B")) if len(p) else 0 for p in parts]
        text = json.dumps({**head, "parts": sizes}, separators=(",", ":")).encode()
        total = sum(sizes)
        data = b"".join([_LENGTHS.pack(MAGIC, len(text), total), text, *parts])
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
        magic, head_size, body_size = _LENGTHS.unpack(self._exactly(_LENGTHS.size, end))
        if magic != MAGIC or head_size > longest_head or body_size > longest_body:
            raise StoreError(f"{self.peer} does not speak zeroloop's protocol, or another version of it.")
        try:
            head: Any = json.loads(self._exactly(head_size, end))
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{self.peer} sent a frame whose head is no JSON.") from error
        if not isinstance(head, dict):
            raise StoreError(f"{self.peer} sent a frame whose head is no object.")
        body = memoryview(self._exactly(body_size, end))
        sizes = head.pop("parts", None)
        whole = isinstance(sizes, list) and all(type(n) is int and n >= 0 for n in sizes)
        if not isinstance(sizes, list) or not whole or sum(sizes) != body_size:
            raise StoreError(f"{self.peer} sent a frame whose parts do not add up.")
        parts, at = [], 0
        for n in sizes:
            parts.append(body[at : at + n])
            at += n
        self.bytes_received += _LENGTHS.size + head_size + body_size
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

    def close(self) -> None:
        """Close the connection; a thread that waits in `receive` gets an UnreachableError."""
        with contextlib.suppress(OSError):  # the other side was faster
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def listen(address: str, name: str = "") -> socket.socket:
    """Return a socket that listens at HOST:PORT; port 0 takes any that is free.

    Args:
      name: key or flag that gave the address, for messages.
    """
    host, port = split_address(address)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        given = f"{name} is {address}, which" if name else address
        raise StoreError(
            f"{given} cannot be listened at ({error.strerror or error}); free the port or give another one."
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
    return "no answer in time" if isinstance(error, TimeoutError) else str(error.strerror or error)
