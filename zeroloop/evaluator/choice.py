"""Which backend runs a network: resolves `auto` once, says what it picked, never falls back in silence."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import BackendError
from ..games.game import Game
from ..networks import Network, Shapes
from . import Backend, Floats, NetworkEvaluator, Output


class Choice(NamedTuple):
    """A backend by name: what `auto` was resolved to."""

    backend: str
    """`openvino` or `torch`."""
    device: str
    precision: str

    def __str__(self) -> str:
        return f"{self.backend} on {self.device}, {self.precision}"


def choose(device: str = "auto", backend: str = "auto", precision: str = "auto") -> Choice:
    """Resolve `auto` for this machine.

    Raises:
      BackendError: what was asked for by name is absent or cannot be combined.
    """
    import torch

    if device == "auto":
        mps = torch.backends.mps.is_available()
        device = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    if backend == "auto":
        installed = importlib.util.find_spec("openvino") is not None
        backend = "openvino" if device == "cpu" and installed else "torch"
    if backend == "openvino" and device != "cpu":
        raise BackendError(
            f"run.backend=openvino runs on the CPU only, but the device is {device}; "
            "set run.device=cpu or run.backend=torch."
        )
    absent = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if absent.get(device, False):
        raise BackendError(
            f"run.device is {device}, which this machine or this torch has not; use auto or cpu."
        )
    if precision == "auto":
        precision = "fp32" if device == "mps" or (device == "cpu" and not _cpu_bf16(backend)) else "bf16"
    if precision == "fp16" and device == "cpu":
        raise BackendError("run.precision=fp16 needs a GPU; on a CPU use bf16 or fp32.")
    return Choice(backend, device, precision)


def _cpu_bf16(backend: str) -> bool:
    if backend == "openvino":
        from .openvino import supports_bf16

        return supports_bf16()
    import torch

    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def shapes_of(game: Game) -> Shapes:
    """Return what a network of this game must fit."""
    seen = game.observation
    return Shapes(seen.planes, seen.globals, game.num_actions, len(game.relative_outcomes))


def relative_points(game: Game) -> Floats:
    """Return `f32 [R, P]`: points over the scale of each outcome, seat to move first."""
    return np.ascontiguousarray(game.relative_outcomes / np.float32(game.scale))


def make_evaluator(
    game: Game, network: Network, choice: Choice, batches: list[int], threads: int = 1
) -> NetworkEvaluator:
    """Return an evaluator of the network with these batch sizes, on `threads` threads of the CPU."""
    points = relative_points(game)
    width = max(game.max_legal, game.max_chance)

    def made(batch: int) -> Backend:
        if choice.backend == "openvino":
            from .openvino import OpenVinoBackend

            return OpenVinoBackend(network, points, batch, choice.precision, threads)
        from .torch import TorchBackend

        return TorchBackend(network, points, batch, choice.precision, choice.device, width)

    *smaller, largest = sorted(batches)
    later: list[Backend] = [OnDemand(b, str(choice), made) for b in smaller]
    return NetworkEvaluator(game, [*later, made(largest)])


class OnDemand:
    """A backend that is compiled at its first batch; see `evaluator.Backend`."""

    gathers = False
    """Known from the first batch on."""

    def __init__(self, batch: int, name: str, make: Callable[[int], Backend]) -> None:
        self.batch, self.name, self._make = batch, name, make
        self._made: Backend | None = None

    def submit(self, planes: Floats, global_facts: Floats, legal: npt.NDArray[np.int32]) -> Any:
        """Start a batch."""
        if self._made is None:
            self._made = self._make(self.batch)
            self.name, self.gathers = self._made.name, self._made.gathers
        return self._made, self._made.submit(planes, global_facts, legal)

    def result(self, ticket: Any) -> Output:
        """Wait for a ticket."""
        made, inner = ticket
        found: Output = made.result(inner)
        return found


def require_pure(game: Game, network: Network, choice: Choice, batch: int) -> None:
    """Check on random planes that an evaluation does not depend on its row or on its companions.

    Raises:
      BackendError: it does, so a deterministic run cannot use this backend.
    """
    backend = make_evaluator(game, network, choice, [batch]).backends[0]
    rng = np.random.default_rng(1)
    seen = game.observation
    planes, facts = rng.random((1, *seen.planes)), rng.random((1, seen.globals))
    legal = np.zeros((batch, max(game.max_legal, game.max_chance)), np.int32)
    first: tuple[bytes, bytes] | None = None
    for row in sorted({0, 1 % batch, batch // 2, batch - 1}):
        all_planes = rng.random((batch, *seen.planes)).astype(np.float32)
        all_facts = rng.random((batch, seen.globals)).astype(np.float32)
        all_planes[row], all_facts[row] = planes[0], facts[0]
        found = backend.result(backend.submit(all_planes, all_facts, legal))
        answer = found.logits[row].tobytes(), found.values[row].tobytes()
        if first is not None and answer != first:
            raise BackendError(
                f"{choice} answers differently in row {row} of a batch of {batch} than in row 0, so a "
                "deterministic run cannot use it; set another run.backend or run.precision=fp32."
            )
        first = answer


def cores() -> int:
    """Return the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
