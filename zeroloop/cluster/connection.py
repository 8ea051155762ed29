"""Connection: this process as a driver on a Ray cluster, or on a small one made for one run."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import ray

from ..distributed.frames import split_address
from ..errors import UnreachableError

OBJECTS = 100 << 20
"""Bytes of the object store of a cluster made for one run: a model, and games on their way."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"


def answers(address: str, timeout: float = 5.0) -> None:
    """Return if something that may be Ray's head listens at HOST:PORT.

    Raises:
      UnreachableError: nothing listens there, or something else.
    """
    host, port = split_address(address)
    try:
        with socket.create_connection((host, port), timeout) as connection:
            connection.settimeout(timeout)
            connection.sendall(PREFACE)
            head = b""
            while len(head) < 9 and (data := connection.recv(9 - len(head))):
                head += data
    except OSError as error:
        raise UnreachableError(
            f"no Ray head answers at {address} ({error.strerror or error}). Check the address, that "
            "'zeroloop cluster start-head' runs there, and that the firewall lets the port through."
        ) from error
    if len(head) < 9 or head[3] != 4:  # HTTP/2 begins with its settings
        raise UnreachableError(
            f"what answers at {address} is not Ray; another server, such as Redis, may have the port. Give "
            "the address that 'zeroloop cluster start-head' printed."
        )


@contextlib.contextmanager
def connected(address: str, cpus: float) -> Iterator[None]:
    """Be a driver while the context lasts.

    Args:
      address: `local`, `auto` or HOST:PORT. cpus: processors that a local cluster says it has.

    Raises:
      UnreachableError: there is no such cluster, or this machine is not in it.
    """
    folder = tempfile.mkdtemp(prefix="zeroloop-ray-") if address == "local" else ""
    options: dict[str, Any] = {"address": address}
    if folder:
        options |= {
            "num_cpus": cpus,
            "include_dashboard": False,
            "object_store_memory": OBJECTS,
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": folder,
        }
    elif address != "auto":
        answers(address)
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)} if _main() else {}
    # Ray prints what happens to processes on standard output, which belongs to --json.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            _init(address, options)
            for number, action in before.items():
                signal.signal(number, action)
            yield
        finally:
            ray.shutdown()
            for number, action in before.items():
                signal.signal(number, action)
            if folder:
                shutil.rmtree(folder, ignore_errors=True)


def _init(address: str, options: dict[str, Any]) -> None:
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        words = str(error).strip().splitlines()
        told = words[0].rstrip(".") if words else type(error).__name__
        where = "this machine" if address in ("auto", "local") else address
        raise UnreachableError(
            f"no Ray cluster of {where} could be joined ({told}). Start one with 'zeroloop cluster "
            "start-head', join this machine with 'zeroloop cluster start-worker --head ADDRESS', or use "
            "--ray local."
        ) from error


def _main() -> bool:
    return threading.current_thread() is threading.main_thread()


def python() -> str:
    """Return the version of Python, which must be the same on all machines."""
    return ".".join(str(n) for n in sys.version_info[:3])
