"""Connection: this process as a driver on a Ray cluster, or on a small one made for one run."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import ray
from ray import _raylet
from ray._private import worker as _worker
from ray.exceptions import AuthenticationError, RayError

from ..distributed.frames import split_address
from ..errors import RefusedError, UnreachableError

OBJECTS = 100 << 20
"""Bytes of the object store of a cluster made for one run: a model, and games on their way."""
ENDING = 20.0
"""Seconds that the processes of a local cluster have to end."""
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


def check_head(head: str) -> None:
    """Refuse a head that has another zeroloop or Python; one that `ray start` made is not asked.

    Raises:
      UnreachableError: no Ray head answers there. RefusedError: see above, or it has another token.
    """
    answers(head)
    raylet: Any = _raylet
    try:
        rows = raylet.GcsClient(address=head).get_all_node_info(timeout=10)
    except (AuthenticationError, RayError, RuntimeError) as error:
        if isinstance(error, AuthenticationError) or "oken" in str(error):
            raise RefusedError(
                f"the head at {head} does not take this machine's token: copy the head's ~/.ray/auth_token "
                "to ~/.ray/auth_token here. It is the cluster's password."
            ) from error
        raise UnreachableError(f"the Ray head at {head} does not answer ({type(error).__name__}).") from error
    heads = [dict(info.labels) for info in rows.values() if "head" in info.resources_total]
    for labels in heads:
        for name, own in common().items():
            if labels.get(name, own) != own:
                raise RefusedError(
                    f"the head at {head} has {name} {labels[name]}, this machine {own}; install the same "
                    "on both."
                )


@contextlib.contextmanager
def connected(address: str, cpus: float) -> Iterator[None]:
    """Be a driver while the context lasts.

    Args:
      address: `local`, `auto` or HOST:PORT. cpus: processors that a local cluster says it has.

    Raises:
      UnreachableError: there is no such cluster, or this machine is not in it.
    """
    folder = _folder() if address == "local" else ""
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
        check_head(address)
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)} if _main() else {}
    # Ray prints what happens to processes on standard output, which belongs to --json.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            _init(address, options)
            for number, action in before.items():
                signal.signal(number, action)
            yield
        finally:
            own = _processes() if folder else []
            ray.shutdown()
            for process in own:  # Ray asks them to end and does not look back
                process.wait(ENDING)
            for number, action in before.items():
                signal.signal(number, action)
            if folder:
                shutil.rmtree(folder, ignore_errors=True)


def _folder() -> str:
    """Make the folder of a local cluster; those of drivers that were killed go."""
    root = pathlib.Path(tempfile.gettempdir())
    for path in root.glob("zeroloop-ray-*-*"):
        try:
            os.kill(int(path.name.split("-")[2]), 0)
        except ProcessLookupError:
            shutil.rmtree(path, ignore_errors=True)
        except (PermissionError, ValueError):
            continue  # another user's, or none of ours
    return tempfile.mkdtemp(prefix=f"zeroloop-ray-{os.getpid()}-")


def _processes() -> list[subprocess.Popen[bytes]]:
    """Return the processes of the cluster that this driver has made."""
    node = _worker._global_node
    return [info.process for infos in node.all_processes.values() for info in infos] if node else []


def _init(address: str, options: dict[str, Any]) -> None:
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        told = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        where = "this machine" if address in ("auto", "local") else address
        raise UnreachableError(
            f"no Ray cluster of {where} could be joined ({told}). Start one with 'zeroloop cluster "
            "start-head', join this machine with 'zeroloop cluster start-worker --head ADDRESS', or use "
            "--ray local."
        ) from error


def _main() -> bool:
    return threading.current_thread() is threading.main_thread()


def common() -> dict[str, str]:
    """Return what all machines of a cluster must have in common, as labels of a node."""
    return {"zeroloop": version("zeroloop"), "python": ".".join(str(n) for n in sys.version_info[:3])}
