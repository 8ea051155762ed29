"""Torch inference: CPU (bf16, channels last), CUDA (one captured graph, pinned memory, own stream), MPS.

On a GPU `submit` returns at once, so that another group of games can search meanwhile, and the legal ids'
logits are gathered before they cross to the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import BackendError
from ..networks import Network, folded
from . import Floats, Output

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class TorchBackend:
    """A network on one torch device for one batch size.

    Raises:
      BackendError: the device is absent.
    """

    gathers = True

    def __init__(
        self, network: Network, points: Floats, batch: int, precision: str, device: str, width: int
    ) -> None:
        available = {
            "cpu": True,
            "cuda": torch.cuda.is_available(),
            "mps": torch.backends.mps.is_available(),
        }
        if not available.get(device, False):
            here = ", ".join(name for name, present in available.items() if present)
            raise BackendError(f"device '{device}' is not present; available: {here}.")
        self.name, self.batch = f"torch-{device}-{precision}", batch
        self._device = torch.device(device)
        self._dtype = DTYPES[precision]
        self._network = folded(network).to(self._device, self._dtype)
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._points = torch.from_numpy(points).to(self._device)
        shapes, pin = network.shapes, device == "cuda"
        self._host = (
            torch.zeros(batch, *shapes.planes, pin_memory=pin),
            torch.zeros(batch, shapes.globals, pin_memory=pin),
            torch.zeros(batch, width, dtype=torch.int64, pin_memory=pin),
        )
        self._inputs = tuple(x.to(self._device) for x in self._host) if device != "cpu" else self._host
        self._out = (
            torch.zeros(batch, width, pin_memory=pin),
            torch.zeros(batch, points.shape[1], pin_memory=pin),
        )
        self._stream: Any = torch.cuda.Stream() if device == "cuda" else None
        self._graph: Any = None
        if device == "cuda":
            self._capture()

    @torch.inference_mode()
    def _forward(self) -> tuple[Tensor, Tensor]:
        planes, facts, legal = self._inputs
        # Channels-last matters for convolutions only, and a batch without planes cannot have it.
        planes = planes.to(self._dtype)
        if planes.numel():
            planes = planes.contiguous(memory_format=torch.channels_last)
        heads = self._network(planes, facts.to(self._dtype))
        logits = torch.gather(heads["policy"].float(), 1, legal)
        values = torch.softmax(heads["value"].float(), 1) @ self._points
        return logits, values

    def _capture(self) -> None:
        """Record the forward pass as one CUDA graph, after a warm-up outside of it."""
        with torch.cuda.stream(self._stream):
            for _ in range(3):
                self._forward()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._answers = self._forward()
        self._stream.synchronize()

    def submit(self, planes: Floats, global_facts: Floats, legal: npt.NDArray[np.int32]) -> Any:
        """Copy the batch and start it; on CUDA nothing waits."""
        torch.set_num_threads(1)  # of the calling thread: every search thread computes for itself
        for host, given in zip(self._host, (planes, global_facts, legal), strict=True):
            host.copy_(torch.from_numpy(given))
        if self._graph is None:
            if self._inputs is not self._host:
                for device, host in zip(self._inputs, self._host, strict=True):
                    device.copy_(host)
            for out, answer in zip(self._out, self._forward(), strict=True):
                out.copy_(answer)
            return None
        with torch.cuda.stream(self._stream):
            for device, host in zip(self._inputs, self._host, strict=True):
                device.copy_(host, non_blocking=True)
            self._graph.replay()
            for out, answer in zip(self._out, self._answers, strict=True):
                out.copy_(answer, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        return event

    def result(self, ticket: Any) -> Output:
        """Wait for the batch and return views of the host's copies."""
        if ticket is not None:
            ticket.synchronize()
        return Output(self._out[0].numpy(), self._out[1].numpy())
