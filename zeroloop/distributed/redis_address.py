"""Address of a Redis server, and what goes wrong there in words. Knows no client package.

A password is read from the address or else from REDIS_PASSWORD, and stands in no message; the file of the
certificate authority is `redis.ca` or else REDIS_CA.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import RefusedError, StoreError, UnreachableError

TIMEOUT = 5.0
"""Seconds without an answer after which the server counts as unreachable."""

REASONS = {
    "OOM": "its memory is full; raise its maxmemory, or lower redis.episodes or redis.positions",
    "MISCONF": "it refuses writes because it cannot save to its disk; look into its log, free some space",
    "READONLY": "it is a read-only replica; give the address of the primary",
    "LOADING": "it is loading its data after a start",
    "BUSY": "it is busy with somebody's script",
    "MASTERDOWN": "it is a replica whose primary is down",
    "NOREPLICAS": "it has too few replicas to take writes",
    "CLUSTERDOWN": "its cluster is down",
    "TRYAGAIN": "its cluster is being rearranged",
}
"""What the server says while it does not work, by the first word; it may work again."""

WORDS = {
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "BusyLoadingError": "LOADING",
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
    "TryAgainError": "TRYAGAIN",
    "NoPermissionError": "NOPERM",
    "AuthenticationError": "AUTH",
    "MovedError": "MOVED",
    "AskError": "MOVED",
    "ClusterCrossSlotError": "MOVED",
    "InvalidResponse": "PROTOCOL",
    "TimeoutError": "TIMEOUT",
    "ConnectionError": "CONNECTION",
}
"""First words that the client package takes off an error, by the class that it makes of it."""


@dataclass(frozen=True)
class Address:
    """Where a server is and how one logs in."""

    tls: bool
    host: str
    port: int
    database: int
    user: str
    password: str = field(repr=False)
    ca: str

    @staticmethod
    def parse(url: str, ca: str = "") -> Address:
        """Read `redis://USER:PASSWORD@HOST:PORT/DATABASE`; `rediss://` means TLS.

        Raises:
          StoreError: no address of a Redis server, or a file of certificates that is not there.
        """
        try:
            parts = urlsplit(url)
            port = parts.port or 6379
        except ValueError:
            parts, port = urlsplit(""), 0  # the error's text may hold the password
        database = parts.path.strip("/") or "0"
        if parts.scheme not in ("redis", "rediss") or not parts.hostname or not database.isdigit():
            raise StoreError(
                "redis.url is no address of a Redis server; give redis://HOST:PORT/DATABASE, or rediss://..."
            )
        tls, ca = parts.scheme == "rediss", ca or os.environ.get("REDIS_CA", "")
        if tls and ca and not os.path.isfile(ca):
            raise StoreError(f"redis.ca is '{ca}', which is no file.")
        password = unquote(parts.password or "") or os.environ.get("REDIS_PASSWORD", "")
        user = unquote(parts.username or "")
        return Address(tls, parts.hostname, port, int(database), user, password, ca)

    @property
    def name(self) -> str:
        """The address for messages."""
        return f"{'rediss' if self.tls else 'redis'}://{self.host}:{self.port}/{self.database}"

    def settings(self) -> dict[str, Any]:
        """Return the arguments of a client."""
        found: dict[str, Any] = {"host": self.host, "port": self.port, "db": self.database}
        if self.password:
            found |= {"username": self.user or None, "password": self.password}
        if self.tls:
            found |= {"ssl": True, "ssl_cert_reqs": "required", "ssl_check_hostname": True}
            found |= {"ssl_ca_certs": self.ca or None}
        return found


def in_words(error: Exception, name: str, namespace: str, gives_password: bool) -> StoreError:
    """Return an error of the client package as one sentence: may be asked again, turned away, or damaged."""
    text = str(error).strip().rstrip(".")
    word = WORDS.get(type(error).__name__) or (text.split() or [""])[0]
    if word in REASONS:
        return UnreachableError(f"{name} does not work at present: {REASONS[word]}.")
    if word in ("AUTH", "NOAUTH", "WRONGPASS"):
        given = "the one given is wrong" if gives_password else "none was given"
        return RefusedError(
            f"{name} refuses the password: {given} ({text}). Set REDIS_PASSWORD to the server's."
        )
    if "CERTIFICATE_VERIFY_FAILED" in text:
        why = text.partition("FAILED] ")[2] or text
        return RefusedError(
            f"{name} shows a certificate that is not trusted ({why}); set redis.ca to its authority's file."
        )
    if word == "NOPERM":
        return RefusedError(f"{name} does not let this user work: {text}.")
    if word == "MOVED":
        return RefusedError(f"{name} is a Redis cluster; zeroloop needs a single server.")
    if word == "PROTOCOL":
        return RefusedError(f"{name} does not speak Redis; check the address and the port.")
    if word == "WRONGTYPE":
        return StoreError(
            f"keys of namespace '{namespace}' at {name} are another program's; give another redis.namespace."
        )
    if word == "TIMEOUT":
        hint = ", or does not speak TLS" if name.startswith("rediss") else ""
        return UnreachableError(f"{name} has not answered for {TIMEOUT:.0f} s{hint}.")
    if word == "CONNECTION":
        return UnreachableError(f"{name} is not there: {text}.")
    return StoreError(f"{name} answers with an error: {text}.")
