"""Door: what both sides of a new connection show each other before the first call. No password travels.

    client                                      server
    enter: version, nonce                ->
                                         <-     nonce, and whether it has a password
    proof, or none                       ->
                                         <-     its own proof, or why it refuses

A proof is the HMAC-SHA-256 (RFC 2104) of its side and both nonces under the password: one that was recorded
opens nothing, and a worker gives no game to a server that does not know the password. What follows is not
encrypted. The password is read from WORKER_PASSWORD, or from the file that WORKER_PASSWORD_FILE names.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import os
import pathlib
import re
import secrets
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from ..errors import RefusedError, StoreError, UnreachableError
from .frames import Channel, split_address

DOOR = 1
"""Version of what is said here."""
SECONDS = 10.0
"""In which a connection must be through; a server keeps a stranger no longer."""
LONGEST = 4096
"""Bytes of a head at the door."""
TOLD = 100
"""Refusals that are told to a person, each host and reason once."""
PASSWORD, FILE = "WORKER_PASSWORD", "WORKER_PASSWORD_FILE"
SET = f"set {PASSWORD} to the same on both machines"


def own_password() -> str:
    """Return this process's password, empty for none.

    Raises:
      StoreError: both variables are set, or the file is empty or cannot be read.
    """
    given, path = os.environ.get(PASSWORD, ""), os.environ.get(FILE, "")
    if not path:
        return given
    if given:
        raise StoreError(f"{PASSWORD} and {FILE} are both set; unset one of them.")
    try:
        found = pathlib.Path(path).read_text(errors="surrogateescape").strip()
    except OSError as error:
        raise StoreError(
            f"{FILE} is '{path}', which cannot be read ({error.strerror}); name a file that holds the "
            "password."
        ) from error
    if not found:
        raise StoreError(f"{FILE} is '{path}', which is empty; write the password into it.")
    return found


class Door:
    """Where a server takes in who connects.

    Args:
      password: None: `own_password()`; empty: whoever comes is taken in.
      say: takes a sentence for a person about who was turned away.
    """

    def __init__(self, password: str | None = None, say: Callable[[str], None] | None = None) -> None:
        self.password = own_password() if password is None else password
        self._say = say
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def admit(self, channel: Channel) -> None:
        """Take a connection in; it has no timeout then.

        Raises:
          RefusedError: the other side has no or a wrong password, or is of another version; it was told.
          StoreError: it is no zeroloop, is gone, or was not through in SECONDS.
        """
        end = time.monotonic() + SECONDS
        head = _hear(channel, end)
        nonces = str(head.get("nonce")), secrets.token_hex(32)
        if head.get("call") != "enter" or head.get("door") != DOOR or not _is_nonce(nonces[0]):
            self._refuse(
                channel,
                f"the server is zeroloop {version('zeroloop')}, the client of another version{_named(head)}; "
                "install the same on both machines.",
            )
        channel.send({"door": DOOR, "nonce": nonces[1], "password": bool(self.password)})
        head = _hear(channel, end)
        proof, wants = str(head.get("proof", "")), head.get("wants") is True
        if not self.password and wants:
            self._refuse(channel, f"the client has a password, the server none; {SET}, or on neither.")
        if self.password and not proof:
            self._refuse(channel, f"the server asks for a password, and the client has none; {SET}.")
        if self.password and not _agrees(proof, _proof(self.password, "client", nonces)):
            self._refuse(channel, f"the client's password is not the server's; {SET}.")
        channel.send(
            {"door": DOOR, "proof": _proof(self.password, "server", nonces) if self.password else ""}
        )
        channel.set_timeout(None)

    def _refuse(self, channel: Channel, why: str) -> None:
        with contextlib.suppress(UnreachableError):  # gone already: nobody is left to be told
            channel.send({"door": DOOR, "refused": why})
        error = RefusedError(f"{channel.peer} was turned away: {why}")
        told = f"{channel.peer.rpartition(':')[0]} {why}"
        with self._lock:
            first = told not in self._told and len(self._told) < TOLD
            if first:
                self._told.add(told)
        if first and self._say is not None:
            self._say(str(error))
        raise error


def connect(address: str, password: str | None = None, seconds: float = 2 * SECONDS) -> Channel:
    """Return a channel to the server at HOST:PORT, which has taken us in; its timeout is `seconds`.

    Args:
      password: None: `own_password()`; empty: none.

    Raises:
      UnreachableError: nobody answers. RefusedError: no, another or a wrong password, on either side; or
        another version. StoreError: no zeroloop is there.
    """
    if password is None:
        password = own_password()
    channel = Channel.connect(address, min(SECONDS, seconds))
    try:
        _enter(channel, address, password, time.monotonic() + seconds)
        channel.set_timeout(seconds)
    except StoreError:
        channel.close()
        raise
    return channel


def _enter(channel: Channel, address: str, password: str, end: float) -> None:
    mine, own = secrets.token_hex(32), version("zeroloop")
    channel.send({"call": "enter", "door": DOOR, "zeroloop": own, "nonce": mine})
    head = _hear(channel, end)
    nonces = mine, str(head.get("nonce"))
    if head.get("door") != DOOR or not ("refused" in head or _is_nonce(nonces[1])):
        said = f" (it said: {str(head['refused'])[:200]})" if "refused" in head else ""
        raise RefusedError(
            f"{address} has another version of zeroloop than this one, {own}; install the same on both "
            f"machines{said}."
        )
    _check(head, address)
    known = head.get("password") is True
    proof = _proof(password, "client", nonces) if password and known else ""
    channel.send({"proof": proof, "wants": bool(password)})
    if password and not known:
        raise RefusedError(
            f"{address} has no password, but here one is set: it is a stranger, or was started without it. "
            f"{SET[0].upper()}{SET[1:]}, or on neither."
        )
    head = _hear(channel, end)
    _check(head, address)
    if password and not _agrees(str(head.get("proof")), _proof(password, "server", nonces)):
        raise RefusedError(
            f"{address} does not know the password that is set here, so nothing is sent to it; check the "
            f"address, and {SET}."
        )


def warning(name: str, address: str, password: str | None = None) -> str:
    """Return the sentence about an address that strangers reach and that asks for no password, else "".

    Args:
      name: key or flag that gave the address. password: None: `own_password()`.
    """
    if is_loopback(address) or (own_password() if password is None else password):
        return ""
    return (
        f"{name} is {address}, which other machines reach, and there is no password: whoever reaches it can "
        f"take part. Set {PASSWORD} here and on the workers' machines, or use a network that you trust."
    )


def is_loopback(address: str) -> bool:
    """Return whether only this machine reaches HOST:PORT."""
    host = split_address(address)[0]
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):  # a name: other machines may know it
        return ipaddress.ip_address(host).is_loopback
    return False


def _hear(channel: Channel, end: float) -> dict[str, Any]:
    return channel.receive(LONGEST, 0, end)[0]


def _check(head: dict[str, Any], address: str) -> None:
    if "refused" in head:
        raise RefusedError(f"{address} refuses: {str(head['refused'])[:400]}")


def _is_nonce(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{64}", text) is not None


def _proof(password: str, side: str, nonces: tuple[str, str]) -> str:
    text = f"zeroloop {DOOR} {side} {nonces[0]} {nonces[1]}"
    return hmac.new(password.encode(errors="surrogateescape"), text.encode(), "sha256").hexdigest()


def _agrees(given: str, right: str) -> bool:
    """Compare in a time that does not tell how much agrees."""
    return hmac.compare_digest(given.encode(errors="replace"), right.encode())


def _named(head: dict[str, Any]) -> str:
    found = head.get("zeroloop")
    return f", {found[:40]}" if isinstance(found, str) else ""
