"""Gradients of a batch: threads each compute a part of the rows, and the parts are added.

On a CPU each thread has a replica that shares the parameters; the gradients are added in a fixed order, so
a step is reproducible and no OpenMP barrier can stall on a busy core.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from .config import LearnConfig
from .networks import Network

DEFAULT_AUXILIARY_WEIGHT = 0.15

Arrays = dict[str, npt.NDArray[Any]]
"""Rows of a batch by name, `[n, ...]` each; `targets.HEAD` and `weights.HEAD` for every head."""
Scale = Callable[[Tensor], Tensor]


class Gradients:
    """Computes the gradients of a network on threads of this process.

    Args:
      network: on its device, channels last. Its gradients are added to, its weights are not changed.
      points: `f4 [R, P]`, points over the scale of each outcome seen from the mover; for the mse value loss.
      threads: parts that are computed at a time, on a CPU.
    """

    def __init__(
        self, network: Network, config: LearnConfig, points: npt.NDArray[Any], device: str, threads: int
    ) -> None:
        self.network, self.config, self.device = network, config, device
        self.parts = threads * config.accumulate
        """Parts of the rows: one for each thread in each round of accumulation."""
        self._points = torch.from_numpy(points[:, 0].copy()).to(device)
        self.replicas = [network]
        for _ in range(threads - 1):
            replica = copy.deepcopy(network)
            for mine, shared in zip(replica.parameters(), network.parameters(), strict=True):
                mine.data = shared.data
            self.replicas.append(replica)
        self._pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        for replica in self.replicas:
            replica.train()

    def add(self, arrays: Arrays, scaler: torch.amp.GradScaler) -> dict[str, float]:
        """Add the gradients of a batch's mean loss; return each head's share of that loss."""
        n = len(arrays["importance"])
        return self.add_part(arrays, edges(n, self.parts), n, scaler.scale)

    def add_part(self, arrays: Arrays, cuts: list[int], total: int, scale: Scale) -> dict[str, float]:
        """Add the gradients of some rows of a batch; return each head's share of the batch's mean loss.

        Args:
          cuts: where the parts of the rows begin and end, `parts + 1` of them.
          total: rows of the whole batch, by which losses are divided.
          scale: the loss scaling of fp16.
        """
        tensors = {k: torch.from_numpy(v).to(self.device, non_blocking=True) for k, v in arrays.items()}
        losses: dict[str, float] = {}
        for first in range(0, self.parts, len(self.replicas)):
            jobs = []
            for i, replica in enumerate(self.replicas, first):
                part = {k: v[cuts[i] : cuts[i + 1]] for k, v in tensors.items()}
                jobs.append(self._pool.submit(self._backward, replica, part, total, scale))
            for job in jobs:
                for head, value in job.result().items():
                    losses[head] = losses.get(head, 0.0) + value
        mine = [p.grad for p in self.network.parameters() if p.grad is not None]
        for replica in self.replicas[1:]:
            theirs = [p.grad for p in replica.parameters() if p.grad is not None]
            torch._foreach_add_(mine, theirs)
            for p in replica.parameters():
                p.grad = None
        return losses

    def _backward(
        self, network: Network, part: dict[str, Tensor], total: int, scale: Scale
    ) -> dict[str, float]:
        """Add a part's gradients to the replica; return each head's share of the mean loss."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
        precision, kind = self.config.precision, torch.device(self.device).type
        with torch.autocast(kind, dtype[precision], enabled=precision != "fp32"):
            planes = part["planes"]
            if planes.numel():
                planes = planes.contiguous(memory_format=torch.channels_last)
            heads = network(planes, part["facts"])
        loss = torch.zeros((), device=self.device)
        shares: dict[str, Tensor] = {}
        for head, logits in heads.items():
            each = self._head_loss(head, logits.float(), part)
            share = (each * part[f"weights.{head}"] * part["importance"]).sum() / total
            shares[head] = share.detach()
            default = 1.0 if head in ("policy", "value") else DEFAULT_AUXILIARY_WEIGHT
            loss = loss + self.config.head_weights.get(head, default) * share
        scale(loss).backward()
        return {head: float(share) for head, share in shares.items()}

    def _head_loss(self, head: str, logits: Tensor, part: dict[str, Tensor]) -> Tensor:
        """Return the loss of each row, `f32 [n]`."""
        target = part[f"targets.{head}"]
        if head == "policy":
            chosen = torch.gather(logits, 1, part["legal"])
            chosen = chosen.masked_fill(~part["mask"], -1e9)
            loss: Tensor = -(target * functional.log_softmax(chosen, 1)).sum(1)
            return loss
        if head == "value" and self.config.value_loss == "mse":
            predicted = torch.softmax(logits, 1) @ self._points
            loss = (predicted - target @ self._points) ** 2
            return loss
        loss = -(target * functional.log_softmax(logits, 1)).sum(1)
        return loss

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()


class Flat:
    """A network's weights or gradients as one buffer, for one collective instead of one for each."""

    def __init__(self, network: Network) -> None:
        self._parameters: list[Tensor] = list(network.parameters())
        sizes = [p.numel() for p in self._parameters]
        self.buffer = torch.zeros(sum(sizes), device=self._parameters[0].device)
        parts = self.buffer.split(sizes)
        self._views = [
            part.as_strided(p.shape, p.stride()) for part, p in zip(parts, self._parameters, strict=True)
        ]

    @torch.no_grad()
    def pack_weights(self) -> None:
        """Copy the weights into the buffer."""
        torch._foreach_copy_(self._views, self._parameters)

    @torch.no_grad()
    def unpack_weights(self) -> None:
        """Copy the buffer into the weights."""
        torch._foreach_copy_(self._parameters, self._views)

    def pack_gradients(self) -> None:
        """Copy the gradients into the buffer; a parameter that has none gives zeros."""
        for parameter, view in zip(self._parameters, self._views, strict=True):
            if parameter.grad is None:
                view.zero_()
        views, grads = self._with_gradient()
        torch._foreach_copy_(views, grads)

    def unpack_gradients(self) -> None:
        """Copy the buffer into the gradients."""
        views, grads = self._with_gradient()
        torch._foreach_copy_(grads, views)

    def _with_gradient(self) -> tuple[list[Tensor], list[Tensor]]:
        pairs = [(v, p.grad) for v, p in zip(self._views, self._parameters, strict=True)]
        return [v for v, g in pairs if g is not None], [g for _, g in pairs if g is not None]


def edges(rows: int, parts: int) -> list[int]:
    """Return where equal parts of the rows begin and end, `parts + 1` numbers."""
    return [int(x) for x in np.linspace(0, rows, parts + 1)]
