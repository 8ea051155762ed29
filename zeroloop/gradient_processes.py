"""Gradient processes: helpers that compute parts of a batch beside the learner, each on a GPU of its own.

`learn.processes` = N makes N - 1 helpers. A helper keeps nothing from step to step: it is sent its rows over
a socket and the weights by a broadcast, and its gradients are added to the learner's by a reduce, each one
flat buffer (torch.distributed: NCCL between GPUs, gloo between CPUs). Optimiser, loss scale, averages and
checkpoints stay in the learner's process, so ranks cannot drift apart, a loss that overflows anywhere skips
the step everywhere, and a run may go on with another number of processes. Batch norm's running averages are
those of the learner's own rows. DistributedDataParallel would need the optimiser and its state in every rank
and divides by ranks where the loss here is divided by rows; what it has more, communication during the
backward pass, saves little with networks of a few megabytes.

Both collectives begin only when every helper has answered over its socket. One that is dead or silent is
therefore named in seconds, and no process waits in a collective for it.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed

from .config import LearnConfig, NetworkConfig
from .distributed.frames import Channel, listen
from .errors import BackendError, UnreachableError
from .gradients import Arrays, Flat, Gradients, edges
from .networks import Network, Shapes, build

SECONDS = 30.0
"""Longest silence of a helper, beside ten times what the learner's own part takes."""
START_SECONDS = 300.0
"""Longest start of a helper, which imports torch and meets its GPU."""
LOOPBACK = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
STOPS = (signal.SIGINT, signal.SIGTERM)
"""The learner's process answers these; a helper ends with its learner, so that a last step can be made."""
AFTER = "The last checkpoint is unharmed: the same command goes on from it."


class Place(NamedTuple):
    """Which of the processes this is, and where it computes."""

    rank: int
    processes: int
    store: str
    """File through which the processes find one another."""
    device: str
    threads: int


class Helper(NamedTuple):
    """One helper as the learner sees it."""

    place: Place
    process: BaseProcess
    connection: socket.socket
    channel: Channel

    def __str__(self) -> str:
        place = self.place
        return (
            f"Helper process {place.rank} of learn.processes={place.processes} "
            f"(pid {self.process.pid}, {place.device})"
        )


class Apart(BackendError):
    """A collective failed, for want of another process."""


@contextlib.contextmanager
def _collective() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise Apart(str(error)) from error


class GradientProcesses:
    """Computes the gradients of a network on this process and on helpers that it starts.

    Args: as those of `Gradients`; `device` is `cpu`, or `cuda`: GPU 0 here and GPU i for helper i.

    Raises:
      BackendError: the machine has not so many GPUs. Later: a helper failed; weights and optimiser are as
        before the step, and nothing more can be computed.
    """

    def __init__(
        self, network: Network, config: LearnConfig, points: npt.NDArray[Any], device: str, threads: int
    ) -> None:
        self._own = Gradients(network, config, points, device, threads)
        self.replicas = self._own.replicas
        self._flat = Flat(network)
        self._joined, self._ended = False, ""
        self._folder = tempfile.mkdtemp(prefix="zeroloop-")
        first = f"{device}:0" if device == "cuda" else device
        self._place = Place(0, config.processes, os.path.join(self._folder, "store"), first, threads)
        self._helpers: list[Helper] = []
        atexit.register(self._end, 0.0)  # before multiprocessing's own, which would wait for the helpers
        for rank in range(1, config.processes):
            where = f"{device}:{rank}" if device == "cuda" else device
            place = self._place._replace(rank=rank, device=where)
            self._helpers.append(_start(place, network, config, points))

    def add(self, arrays: Arrays, scaler: torch.amp.GradScaler) -> dict[str, float]:
        """Add the gradients of a batch's mean loss; return each head's share of that loss."""
        if self._ended:
            raise BackendError(self._ended)
        try:
            if not self._joined:
                self._join()
            return self._add(arrays, scaler)
        except BaseException as error:
            self._ended = f"The processes of learn.processes have ended, because: {error}"
            self._end(0.0)
            raise

    def _join(self) -> None:
        """Wait until the helpers are up, and form the group of the collectives with them."""
        if distributed.is_initialized():
            raise BackendError(
                "learn.processes is above 1, but this process belongs to a group of torch.distributed "
                "already; close its other learner first, or set learn.processes=1."
            )
        for helper in self._helpers:
            self._answer(helper, "started", START_SECONDS)
        for helper in self._helpers:
            self._send(helper, {})
        with self._together():
            _meet(self._place)
        self._joined = True

    def _add(self, arrays: Arrays, scaler: torch.amp.GradScaler) -> dict[str, float]:
        n, parts = len(arrays["importance"]), self._own.parts
        cuts = edges(n, parts * self._place.processes)
        for helper in self._helpers:
            own = cuts[helper.place.rank * parts : (helper.place.rank + 1) * parts + 1]
            rows = {k: v[own[0] : own[-1]] for k, v in arrays.items()}
            head = {"cuts": [c - own[0] for c in own], "total": n, "scale": scaler.get_scale()}
            self._send(helper, *_packed(head, rows))
        for helper in self._helpers:
            self._answer(helper, "taken its rows", SECONDS)
        with self._together():
            self._flat.pack_weights()
            distributed.broadcast(self._flat.buffer, 0)
        begun = time.monotonic()
        rows = {k: v[: cuts[parts]] for k, v in arrays.items()}
        losses = self._own.add_part(rows, cuts[: parts + 1], n, scaler.scale)
        seconds = SECONDS + 10 * (time.monotonic() - begun)
        for helper in self._helpers:
            for name, value in self._answer(helper, "computed its gradients", seconds)["losses"].items():
                losses[name] += value
        with self._together():
            self._flat.pack_gradients()
            distributed.reduce(self._flat.buffer, 0)
            self._flat.unpack_gradients()
        return losses

    def _send(self, helper: Helper, head: dict[str, Any], parts: list[memoryview] | None = None) -> None:
        helper.channel.set_timeout(SECONDS)
        try:
            helper.channel.send(head, parts or [])
        except UnreachableError as error:
            raise _lost(helper, f"has not read what it was sent in {SECONDS:.0f} s") from error

    def _answer(self, helper: Helper, what: str, seconds: float) -> dict[str, Any]:
        helper.channel.set_timeout(seconds)
        try:
            head, _ = helper.channel.receive()
        except UnreachableError as error:
            raise _lost(helper, f"has not {what} in {seconds:.0f} s") from error
        if "error" in head:
            raise BackendError(f"{helper} failed: {head['error']}. {AFTER}")
        if "apart" in head:
            raise self._blame(helper, head["apart"])
        return head

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """Name the helper for which a collective fails."""
        try:
            with _collective():
                yield
        except Apart as error:
            raise self._blame(None, str(error)) from error

    def _blame(self, told: Helper | None, reason: str) -> BackendError:
        """Return the error of a failed collective: a helper was killed, or else one is silent."""
        others = [h for h in self._helpers if h is not told]
        limit = time.monotonic() + 2.0
        while time.monotonic() < limit:  # a process that is killed loses its sockets first
            time.sleep(0.02)
            for helper in others:
                if (helper.process.exitcode or 0) < 0:
                    return _lost(helper, "")
        for helper in others:
            if not wait([helper.connection], timeout=0.0):
                return _lost(helper, f"has not taken part in adding gradients in {SECONDS:.0f} s")
        return BackendError(f"The processes of learn.processes have lost one another: {reason}. {AFTER}")

    def close(self) -> None:
        """End the helpers and stop the threads."""
        self._ended = self._ended or "the learner is closed."
        self._end(5.0)
        self._own.close()

    def _end(self, seconds: float) -> None:
        """End the helpers; each has so long to do it by itself."""
        atexit.unregister(self._end)
        for helper in self._helpers:
            helper.channel.close()
        for helper in self._helpers:
            helper.process.join(seconds)
            if helper.process.exitcode is None:
                helper.process.kill()
                helper.process.join()
            helper.process.close()
        self._helpers = []
        if self._joined:
            distributed.destroy_process_group()
            self._joined = False
        shutil.rmtree(self._folder, ignore_errors=True)


def check_processes(count: int, device: str) -> None:
    """Check that `learn.processes` fits the machine.

    Raises:
      BackendError: it does not.
    """
    if count == 1:
        return
    if device not in ("cpu", "cuda"):
        raise BackendError(
            f"learn.processes is {count}, but on {device} there is one; set learn.processes=1 or "
            "run.device=cpu."
        )
    if device == "cuda" and count > torch.cuda.device_count():
        raise BackendError(
            f"learn.processes is {count}, each on a GPU of its own, but torch sees "
            f"{torch.cuda.device_count()}; set learn.processes to that at most, or look at "
            "CUDA_VISIBLE_DEVICES."
        )


def _start(place: Place, network: Network, config: LearnConfig, points: npt.NDArray[Any]) -> Helper:
    """Start a helper; it is not waited for."""
    mine, theirs = _pair()
    process = multiprocessing.get_context("spawn").Process(
        target=_help,
        args=(theirs, place, network.config, network.shapes, config, points),
        name=f"gradients-{place.rank}",
        daemon=True,
    )
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # the helper inherits it
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
    return Helper(place, process, mine, Channel(mine))


def _pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a connection on the loopback interface."""
    with listen("127.0.0.1:0") as door:
        mine = socket.create_connection(door.getsockname())
        theirs, peer = door.accept()
    if peer != mine.getsockname():
        raise BackendError("another program connected to the socket of a helper process; start again.")
    return mine, theirs


def _meet(place: Place) -> None:
    """Join the group of all processes; return when everybody has."""
    gpu = place.device != "cpu"
    given = {"GLOO_SOCKET_IFNAME": LOOPBACK, "TORCH_NCCL_BLOCKING_WAIT": "1"}
    before = {name: os.environ.get(name) for name in given}
    os.environ |= given
    try:
        distributed.init_process_group(
            "nccl" if gpu else "gloo",
            store=distributed.FileStore(place.store, place.processes),  # type: ignore[attr-defined]
            rank=place.rank,
            world_size=place.processes,
            timeout=timedelta(seconds=SECONDS),
            device_id=torch.device(place.device) if gpu else None,
        )
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _lost(helper: Helper, otherwise: str) -> BackendError:
    """Return the error of a helper that is dead or, otherwise, silent."""
    helper.process.join(1.0)
    code = helper.process.exitcode
    how = otherwise if code is None else f"has ended with exit code {code}"
    if code is not None and code < 0:
        how = f"was ended by {signal.Signals(-code).name}"
    why = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
    return BackendError(f"{helper} {how}{why}. {AFTER}")


def _packed(head: dict[str, Any], arrays: Arrays) -> tuple[dict[str, Any], list[memoryview]]:
    """Return a frame's head and parts; the widest types come first, so that every part is aligned."""
    order = sorted(arrays, key=lambda name: -arrays[name].itemsize)
    flat = {name: np.ascontiguousarray(arrays[name]) for name in order}
    spec = [[name, a.dtype.str, a.shape] for name, a in flat.items()]
    return {**head, "arrays": spec}, [a.reshape(-1).view(np.uint8).data for a in flat.values()]


def _unpacked(head: dict[str, Any], parts: list[memoryview]) -> Arrays:
    return {
        name: np.frombuffer(part, dtype).reshape(shape)
        for (name, dtype, shape), part in zip(head["arrays"], parts, strict=True)
    }


# In a helper.


def _help(
    connection: socket.socket,
    place: Place,
    network: NetworkConfig,
    shapes: Shapes,
    config: LearnConfig,
    points: npt.NDArray[Any],
) -> None:
    """Compute what is asked for until the learner's process closes the connection or ends."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(place,), daemon=True).start()
    channel = Channel(connection)
    try:
        _compute(channel, place, build(network, shapes), config, points)
    except UnreachableError:
        os._exit(0)  # the learner is gone, and what torch still waits for will not come
    except Exception as error:
        with contextlib.suppress(UnreachableError):
            kind = "apart" if isinstance(error, Apart) else "error"
            channel.send({kind: f"{type(error).__name__}: {error}"})
        raise SystemExit(1) from error


def _end_with_parent(place: Place) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    shutil.rmtree(os.path.dirname(place.store), ignore_errors=True)
    os._exit(1)


def _compute(
    channel: Channel, place: Place, network: Network, config: LearnConfig, points: npt.NDArray[Any]
) -> None:
    torch.set_num_threads(1)
    network.to(place.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    gradients, flat = Gradients(network, config, points, place.device, place.threads), Flat(network)
    channel.send({"started": place.rank})
    channel.receive()
    with _collective():
        _meet(place)
    while True:
        head, parts = channel.receive()
        arrays, scale = _unpacked(head, parts), float(head["scale"])
        channel.send({"taken": place.rank})
        with _collective():
            distributed.broadcast(flat.buffer, 0)
        flat.unpack_weights()
        losses = gradients.add_part(arrays, head["cuts"], head["total"], partial(torch.mul, other=scale))
        flat.pack_gradients()
        channel.send({"losses": losses})
        with _collective():
            distributed.reduce(flat.buffer, 0)
        for parameter in network.parameters():
            parameter.grad = None
