"""Networks: observation in, one tensor per named head out. Torch only; knows shapes, never games."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config import NetworkConfig
from ..errors import ConfigError
from .towers import ConvolutionHead, MlpTower, PlanesHead, ResidualTower, ValueHead


class Shapes(NamedTuple):
    """What a network must fit: all that it knows of a game."""

    planes: tuple[int, int, int]
    """Channels, height, width; any may be 0."""
    globals: int
    actions: int
    """A: logits of the policy head, one per action id."""
    outcomes: int
    """R: logits of the value head, one per outcome as seen from the seat to move."""


class Network(nn.Module):
    """A tower and named heads: `policy [n, A]` and `value [n, R]` logits, and those of the config."""

    def __init__(self, config: NetworkConfig, shapes: Shapes) -> None:
        super().__init__()
        self.config, self.shapes = config, shapes
        if config.kind == "residual":
            self.tower: nn.Module = ResidualTower(config, shapes.planes, shapes.globals)
        else:
            self.tower = MlpTower(config, shapes.planes, shapes.globals)
        area = shapes.planes[1] * shapes.planes[2] if config.kind == "residual" else 1
        heads: dict[str, nn.Module] = {
            "policy": _policy_head(config, shapes, area),
            "value": ValueHead(config, area, shapes.outcomes),
        }
        for name in config.heads:
            heads[name] = _policy_head(config, shapes, area)
        self.heads = nn.ModuleDict(heads)

    def forward(self, planes: Tensor, global_facts: Tensor) -> dict[str, Tensor]:
        """Return the logits of every head.

        Args:
          planes: `f32 [n, C, H, W]`. global_facts: `f32 [n, G]`.
        """
        features = self.tower(planes, global_facts)
        return {name: head(features) for name, head in self.heads.items()}


def _policy_head(config: NetworkConfig, shapes: Shapes, area: int) -> nn.Module:
    if config.policy_head == "linear":
        return ConvolutionHead(config.channels, config.policy_channels, area, shapes.actions, config.norm)
    if config.kind != "residual" or shapes.actions % area:
        raise ConfigError(
            f"network.policy_head is planes, but this game has {shapes.actions} actions on {area} cells and "
            f"network.kind is {config.kind}; planes need the residual kind and a multiple of the cells. "
            "Set network.policy_head=linear."
        )
    return PlanesHead(config.channels, config.policy_channels, shapes.actions // area, config.norm)


def build(config: NetworkConfig, shapes: Shapes, seed: int = 0) -> Network:
    """Return a freshly initialised network; equal seeds give equal weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(config, shapes)


def folded(network: Network) -> Network:
    """Return a copy for inference whose batch norms are folded into the convolutions before them."""
    plain = copy.deepcopy(network).eval()
    for module in list(plain.modules()):
        fold = getattr(module, "fold", None)
        if fold is not None:
            fold()
    return plain


__all__ = ["Network", "Shapes", "build", "folded"]
