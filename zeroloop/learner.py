"""Learner: turns batches into weights. Knows networks and batches, nothing of games or files."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .config import LearnConfig
from .errors import BackendError, LearningError
from .evaluator.choice import cores
from .gradient_processes import GradientProcesses, check_processes
from .gradients import Arrays, Gradients
from .networks import Network
from .replay import Batch

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
      BackendError: the precision or the number of processes does not fit the device.
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
        check_processes(config.processes, device)
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
        self._scaler = torch.amp.GradScaler(device, enabled=config.precision == "fp16")
        shared = max(1, cores() // config.processes)
        threads = (config.threads or shared) if device == "cpu" else 1
        make = Gradients if config.processes == 1 else GradientProcesses
        self._gradients = make(self.network, config, points, device, threads)

    def step(self, batch: Batch, progress: float = 0.0) -> dict[str, float]:
        """Make one optimiser step and return each head's mean loss over the rows that train it.

        Raises:
          LearningError: a loss is not finite.
          BackendError: a helper process of learn.processes failed; the weights are as before.
        """
        config = self.config
        rate = learning_rate(config, self.steps, progress)
        for group in (g for optimizer in self._optimizers for g in optimizer.param_groups):
            group["lr"] = rate
        n = len(batch.importance)
        losses = self._gradients.add(_arrays(batch), self._scaler)
        if not all(math.isfinite(x) for x in losses.values()):
            told = ", ".join(f"{head} {value}" for head, value in losses.items())
            raise LearningError(
                f"the loss is not finite at step {self.steps} ({told}), with learn.learning_rate="
                f"{config.learning_rate}. Start a new run with a lower rate or "
                "learn.clip_norm=1; the last checkpoint is unharmed."
            )
        for parameter, updated, _ in self._slots:
            if updated is not parameter and parameter.grad is not None:
                updated.grad = _as_matrix(parameter.grad)
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
        importance = torch.from_numpy(batch.importance)
        trained = {h: float((torch.from_numpy(w) * importance).sum()) for h, w in batch.weights.items()}
        shown = {h: loss * n / trained[h] for h, loss in losses.items() if trained[h] > 0}
        return {**shown, "learning_rate": rate}

    def wait(self) -> None:
        """Wait until the device has done what the last step gave it."""
        if self.device == "cuda":
            torch.cuda.synchronize()

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
                value.copy_(part[name])  # in place: replicas share these parameters
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
        """Stop the threads, and end the helper processes."""
        self._gradients.close()


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


def _arrays(batch: Batch) -> Arrays:
    return {
        "planes": batch.planes,
        "facts": batch.global_facts,
        "legal": batch.legal,
        "mask": batch.legal_mask,
        "importance": batch.importance,
        **{f"targets.{head}": rows for head, rows in batch.targets.items()},
        **{f"weights.{head}": rows for head, rows in batch.weights.items()},
    }
