"""Learner: turns batches into weights. Knows networks and batches, nothing of games or files.

On a CPU the batch is split among threads, each with a replica that shares the parameters; the gradients
are added in a fixed order, so a step is reproducible and no OpenMP barrier can stall on a busy core.
"""

from __future__ import annotations

import copy
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import LearnConfig
from .errors import BackendError, LearningError
from .evaluator.choice import cores
from .networks import Network
from .replay import Batch

DEFAULT_AUXILIARY_WEIGHT = 0.15
HIDDEN = ("tower.blocks.", "tower.first.", "tower.second.")
"""Parameters of the tower's hidden layers, behind its stem."""


def learning_rate(config: LearnConfig, step: int, progress: float) -> float:
    """Return the rate of a step (counted from 0) at this progress of the run, 0..1."""
    rate = config.learning_rate * min(1.0, (step + 1) / max(config.warmup_steps, 1))
    done = (progress - config.decay_from) / max(1e-9, 1 - config.decay_from)
    done = min(max(done, 0.0), 1.0)
    if config.schedule == "linear":
        return rate * (1 - (1 - config.final_rate) * done)
    if config.schedule == "cosine":
        share = 0.5 * (1 + math.cos(math.pi * done))
        return rate * (config.final_rate + (1 - config.final_rate) * share)
    if config.schedule == "step":
        return rate * (config.final_rate if done > 0 else 1.0)
    return rate


class Learner:
    """Weights, their moving average, and the optimiser.

    Args:
      points: `f4 [R, P]`, points over the scale of each outcome seen from the mover; for the mse value loss.
      device: torch device of the training.

    Raises:
      BackendError: the precision does not fit the device.
    """

    def __init__(
        self,
        network: Network,
        config: LearnConfig,
        points: np.ndarray[Any, Any],
        device: str = "cpu",
    ) -> None:
        if config.precision == "fp16" and device == "cpu":
            raise BackendError("learn.precision=fp16 needs a GPU; on a CPU use bf16 or fp32.")
        self.config, self.device = config, device
        torch.set_num_threads(1)  # of this thread: the replicas below bring their own
        self.network = network.to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.steps = 0
        self.ema = {
            name: value.detach().clone().float()
            for name, value in self.network.state_dict().items()
            if value.is_floating_point()
        }
        self._slots = _slots(self.network, config)
        self._optimizers = list(dict.fromkeys(slot.optimizer for slot in self._slots))
        self._points = torch.from_numpy(points[:, 0].copy()).to(device)
        self._scaler = torch.amp.GradScaler(device, enabled=config.precision == "fp16")
        threads = (config.threads or cores()) if device == "cpu" else 1
        self._replicas = [self.network]
        for _ in range(threads - 1):
            replica = copy.deepcopy(self.network)
            for mine, shared in zip(replica.parameters(), self.network.parameters(), strict=True):
                mine.data = shared.data
            self._replicas.append(replica)
        self._pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        for replica in self._replicas:
            replica.train()

    def step(self, batch: Batch, progress: float = 0.0) -> dict[str, float]:
        """Make one optimiser step and return each head's mean loss over the rows that train it.

        Raises:
          LearningError: a loss is not finite.
        """
        config = self.config
        rate = learning_rate(config, self.steps, progress)
        for group in (g for optimizer in self._optimizers for g in optimizer.param_groups):
            group["lr"] = rate
        n = len(batch.importance)
        parts = len(self._replicas) * config.accumulate
        edges = np.linspace(0, n, parts + 1).astype(int)
        tensors = _tensors(batch, self.device)
        losses: dict[str, float] = {}
        for round_ in range(config.accumulate):
            first = round_ * len(self._replicas)
            slices = [
                slice(int(edges[first + i]), int(edges[first + i + 1])) for i in range(len(self._replicas))
            ]
            jobs = [
                self._pool.submit(self._backward, replica, _cut(tensors, part), n)
                for replica, part in zip(self._replicas, slices, strict=True)
            ]
            for job in jobs:
                for head, value in job.result().items():
                    losses[head] = losses.get(head, 0.0) + value
        if not all(math.isfinite(x) for x in losses.values()):
            told = ", ".join(f"{head} {value}" for head, value in losses.items())
            raise LearningError(
                f"the loss is not finite at step {self.steps} ({told}), with learn.learning_rate="
                f"{config.learning_rate}. Start a new run with a lower rate or "
                "learn.clip_norm=1; the last checkpoint is unharmed."
            )
        self._gather_gradients()
        if config.clip_norm > 0:
            for optimizer in self._optimizers:
                self._scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_([slot.updated for slot in self._slots], config.clip_norm)
        for optimizer in self._optimizers:
            self._scaler.step(optimizer)
        self._scaler.update()
        for slot in self._slots:
            slot.parameter.grad = slot.updated.grad = None
        self.steps += 1
        self._average()
        trained = {h: float((w * tensors["importance"]).sum()) for h, w in tensors["weights"].items()}
        shown = {h: loss * n / trained[h] for h, loss in losses.items() if trained[h] > 0}
        return {**shown, "learning_rate": rate}

    def _backward(self, network: Network, part: dict[str, Any], total: int) -> dict[str, float]:
        """Add a part's gradients to the replica; return each head's share of the mean loss."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
        precision = self.config.precision
        with torch.autocast(self.device, dtype[precision], enabled=precision != "fp32"):
            planes = part["planes"]
            if planes.numel():
                planes = planes.contiguous(memory_format=torch.channels_last)
            heads = network(planes, part["facts"])
        loss = torch.zeros((), device=self.device)
        shares: dict[str, Tensor] = {}
        for head, logits in heads.items():
            each = self._head_loss(head, logits.float(), part)
            share = (each * part["weights"][head] * part["importance"]).sum() / total
            shares[head] = share.detach()
            default = 1.0 if head in ("policy", "value") else DEFAULT_AUXILIARY_WEIGHT
            loss = loss + self.config.head_weights.get(head, default) * share
        self._scaler.scale(loss).backward()
        return {head: float(share) for head, share in shares.items()}

    def _head_loss(self, head: str, logits: Tensor, part: dict[str, Any]) -> Tensor:
        """Return the loss of each row, `f32 [n]`."""
        target = part["targets"][head]
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

    def _gather_gradients(self) -> None:
        mine = [p.grad for p in self.network.parameters() if p.grad is not None]
        for replica in self._replicas[1:]:
            theirs = [p.grad for p in replica.parameters() if p.grad is not None]
            torch._foreach_add_(mine, theirs)
            for p in replica.parameters():
                p.grad = None
        for parameter, updated, _ in self._slots:
            if updated is not parameter and parameter.grad is not None:
                updated.grad = _as_matrix(parameter.grad)

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema, 1 - 1 / (self.steps / 4 + 1))
        state = self.network.state_dict()
        torch._foreach_lerp_(list(self.ema.values()), [state[k] for k in self.ema], 1 - decay)

    def averaged(self) -> Network:
        """Return a copy of the network with the averaged weights, on the CPU."""
        network = copy.deepcopy(self.network).cpu()
        state = network.state_dict()
        network.load_state_dict({k: self.ema[k].cpu() if k in self.ema else v for k, v in state.items()})
        return network.eval()

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that a resumed learner needs, as named tensors."""
        out = {f"weights.{k}": v for k, v in self.network.state_dict().items()}
        out |= {f"ema.{k}": v for k, v in self.ema.items()}
        for i, slot in enumerate(self._slots):
            for key, value in slot.optimizer.state.get(slot.updated, {}).items():
                out[f"optimizer.{i}.{key}"] = value
        if self._scaler.is_enabled():
            state = self._scaler.state_dict()
            out["scale"] = torch.tensor(state["scale"])
            out["scale_age"] = torch.tensor(state["_growth_tracker"])
        out["steps"] = torch.tensor(self.steps)
        return {k: v.detach().cpu().contiguous() for k, v in out.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Continue from `tensors()`."""
        part = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                value.copy_(part[name])  # in place: the replicas share these parameters
            for name, mine in self.ema.items():
                mine.copy_(tensors[f"ema.{name}"])
        for i, (_, updated, optimizer) in enumerate(self._slots):
            found = {
                key.split(".", 2)[2]: value
                for key, value in tensors.items()
                if key.startswith(f"optimizer.{i}.")
            }
            if found:
                # The moments need their parameter's memory layout: the fused kernel walks both alike.
                optimizer.state[updated] = {
                    k: v.clone().to(updated.device) if k == "step" else torch.empty_like(updated).copy_(v)
                    for k, v in found.items()
                }
        if self._scaler.is_enabled():
            state = {"scale": float(tensors["scale"]), "_growth_tracker": int(tensors["scale_age"])}
            self._scaler.load_state_dict(self._scaler.state_dict() | state)
        self.steps = int(tensors["steps"])

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()


class _Slot(NamedTuple):
    """A parameter of the network and who updates it."""

    parameter: nn.Parameter
    updated: nn.Parameter
    """The parameter itself, or its memory seen as a matrix."""
    optimizer: torch.optim.Optimizer


def _slots(network: Network, config: LearnConfig) -> list[_Slot]:
    """Give every parameter its optimiser: Muon takes matrices only, so it sees convolutions as such."""
    hidden: list[tuple[nn.Parameter, nn.Parameter]] = []
    decayed, plain = list[nn.Parameter](), list[nn.Parameter]()
    for name, parameter in network.named_parameters():
        if parameter.ndim <= 1:
            plain.append(parameter)
        elif config.optimizer == "muon" and name.startswith(HIDDEN):
            updated = parameter if parameter.ndim == 2 else nn.Parameter(_as_matrix(parameter.data))
            hidden.append((parameter, updated))
        else:
            decayed.append(parameter)
    adamw = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        fused=True,
    )
    slots = [_Slot(p, p, adamw) for p in (*decayed, *plain)]
    if hidden:
        muon = torch.optim.Muon(
            [updated for _, updated in hidden],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        slots += [_Slot(p, updated, muon) for p, updated in hidden]
    return slots


def _as_matrix(weight: Tensor) -> Tensor:
    """Return the memory of a channels-last convolution `[out, in, h, w]` as `[out, h * w * in]`."""
    return weight.permute(0, 2, 3, 1).view(len(weight), -1)


def _tensors(batch: Batch, device: str) -> dict[str, Any]:
    def move(array: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    return {
        "planes": move(batch.planes),
        "facts": move(batch.global_facts),
        "legal": move(batch.legal),
        "mask": move(batch.legal_mask),
        "importance": move(batch.importance),
        "targets": {k: move(v) for k, v in batch.targets.items()},
        "weights": {k: move(v) for k, v in batch.weights.items()},
    }


def _cut(tensors: dict[str, Any], part: slice) -> dict[str, Any]:
    return {
        k: {h: t[part] for h, t in v.items()} if isinstance(v, dict) else v[part] for k, v in tensors.items()
    }
