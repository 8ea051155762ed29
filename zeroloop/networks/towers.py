"""The bodies and heads of networks: residual convolutions for boards, residual MLP for vectors.

Convolutions are initialised for ReLU (He et al. 2015) and each block's last layer starts at zero, so that
a deep tower without normalisation starts as the identity (Zhang et al. 2019, "Fixup").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..config import NetworkConfig


class Convolution(nn.Module):
    """A convolution with bias that keeps the board's size, with batch norm behind it where asked for."""

    def __init__(self, inputs: int, outputs: int, size: int, norm: str, zero: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, padding=size // 2)
        self.norm = nn.BatchNorm2d(outputs) if norm == "batch" else None
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        if zero:
            nn.init.zeros_(self.conv.weight if self.norm is None else self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[n, inputs, H, W]` to `[n, outputs, H, W]`."""
        y: Tensor = self.conv(x)
        return y if self.norm is None else self.norm(y)

    def fold(self) -> None:
        """Fold the batch norm into the convolution; for inference only."""
        if self.norm is not None:
            self.conv = nn.utils.fusion.fuse_conv_bn_eval(self.conv, self.norm)
            self.norm = None


class SqueezeExcitation(nn.Module):
    """Scale channels by a gate computed from their board-wide means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Linear(channels, max(channels // 4, 1))
        self.up = nn.Linear(max(channels // 4, 1), channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[n, C, H, W]` to the same shape."""
        gate = torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class GlobalPooling(nn.Module):
    """Add to every cell a linear map of the channels' board-wide mean and maximum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Linear(2 * channels, channels)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[n, C, H, W]` to the same shape."""
        pooled = torch.cat((x.mean((2, 3)), x.amax((2, 3))), 1)
        mixed: Tensor = self.mix(pooled)
        return x + mixed[:, :, None, None]


class Block(nn.Module):
    """Two convolutions and a shortcut, with the options of the config between and behind them."""

    def __init__(self, channels: int, norm: str, excite: bool, pool: bool) -> None:
        super().__init__()
        self.first = Convolution(channels, channels, 3, norm)
        self.pool = GlobalPooling(channels) if pool else None
        self.second = Convolution(channels, channels, 3, norm, zero=True)
        self.excite = SqueezeExcitation(channels) if excite else None

    def forward(self, x: Tensor) -> Tensor:
        """Map `[n, C, H, W]` to the same shape."""
        y = self.first(x)
        if self.pool is not None:
            y = self.pool(y)
        y = self.second(torch.relu(y))
        if self.excite is not None:
            y = self.excite(y)
        out: Tensor = torch.relu(x + y)
        return out


class ResidualTower(nn.Module):
    """Planes to features `[n, channels, H, W]`; globals are added to every cell of the stem."""

    def __init__(self, config: NetworkConfig, planes: tuple[int, int, int], global_facts: int) -> None:
        super().__init__()
        self.stem = Convolution(planes[0], config.channels, 3, config.norm)
        self.facts = nn.Linear(global_facts, config.channels, bias=False) if global_facts else None
        self.blocks = nn.ModuleList(
            Block(
                config.channels,
                config.norm,
                config.squeeze_excitation,
                config.global_pooling and i % 2 == 1,
            )
            for i in range(config.blocks)
        )

    def forward(self, planes: Tensor, global_facts: Tensor) -> Tensor:
        """Return features `[n, channels, H, W]`."""
        x: Tensor = self.stem(planes)
        if self.facts is not None:
            x = x + self.facts(global_facts)[:, :, None, None]
        x = torch.relu(x)
        for block in self.blocks:
            x = block(x)
        return x


class MlpTower(nn.Module):
    """Flattened planes and globals to features `[n, channels, 1, 1]` through residual two-layer blocks."""

    def __init__(self, config: NetworkConfig, planes: tuple[int, int, int], global_facts: int) -> None:
        super().__init__()
        width = config.channels
        self.stem = nn.Linear(math.prod(planes) + global_facts, width)
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(config.blocks))
        seconds = [nn.Linear(width, width) for _ in range(config.blocks)]
        for layer in seconds:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.second = nn.ModuleList(seconds)

    def forward(self, planes: Tensor, global_facts: Tensor) -> Tensor:
        """Return features `[n, channels, 1, 1]`."""
        x = torch.relu(self.stem(torch.cat((planes.flatten(1), global_facts), 1)))
        for first, second in zip(self.first, self.second, strict=True):
            x = torch.relu(x + second(torch.relu(first(x))))
        return x[:, :, None, None]


class ConvolutionHead(nn.Module):
    """1 x 1 convolution, ReLU, one linear layer: `[n, channels, H, W]` to `[n, outputs]`."""

    def __init__(self, channels: int, inner: int, area: int, outputs: int, norm: str) -> None:
        super().__init__()
        self.squeeze = Convolution(channels, inner, 1, norm)
        self.linear = nn.Linear(inner * area, outputs)
        nn.init.normal_(self.linear.weight, std=0.1 / math.sqrt(inner * area))
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[n, outputs]`."""
        y: Tensor = self.linear(torch.relu(self.squeeze(x)).flatten(1))
        return y


class PlanesHead(nn.Module):
    """Two 1 x 1 convolutions with ReLU between: `[n, channels, H, W]` to `[n, planes * H * W]`.

    Source: the policy head of AlphaZero (Silver et al. 2018): a plane of moves for each kind of move.
    """

    def __init__(self, channels: int, inner: int, planes: int, norm: str) -> None:
        super().__init__()
        self.squeeze = Convolution(channels, inner, 1, norm)
        self.planes = Convolution(inner, planes, 1, "none")
        nn.init.normal_(self.planes.conv.weight, std=0.1 / math.sqrt(inner))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[n, planes * H * W]`."""
        y: Tensor = self.planes(torch.relu(self.squeeze(x))).flatten(1)
        return y


class ValueHead(nn.Module):
    """1 x 1 convolution, hidden layer, logits over outcomes seen from the seat to move."""

    def __init__(self, config: NetworkConfig, area: int, outcomes: int) -> None:
        super().__init__()
        self.squeeze = Convolution(config.channels, config.value_channels, 1, config.norm)
        self.hidden = nn.Linear(config.value_channels * area, config.value_hidden)
        self.linear = nn.Linear(config.value_hidden, outcomes)
        nn.init.normal_(self.linear.weight, std=0.1 / math.sqrt(config.value_hidden))
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[n, R]`."""
        hidden = torch.relu(self.hidden(torch.relu(self.squeeze(x)).flatten(1)))
        y: Tensor = self.linear(hidden)
        return y
