"""Global second-order pooling: a gate from how the channels, or the positions, vary together.

Paper   Gao, Xie, Wang, Li: Global Second-order Pooling Convolutional Networks, CVPR 2019.
        https://arxiv.org/abs/1811.12006

    channel  a = relu(norm(W relu(x))), d channels at n positions
             C = covariance of the channels over the positions, (d, d)
             y = sigmoid(W2 R norm(C)) x,  R a convolution of each row of C on its own, to 4 numbers
    spatial  a = norm(W relu(x)) pooled to a grid of m cells
             C = covariance of the cells over the channels, (m, m)
             y = relu(sigmoid(W2 relu(R norm(C))) x), the gate spread over (h, w)
    fused    sum or max of both, or norm(G1 y1 + G2 y2), each G a convolution in groups along the height

Differs The authors' code divides by m where the d channels belong, so that its covariance of the cells is not centred;
        ``code_covariance`` does so too, for their weights. The paper has a LeakyReLU of slope 0.1 after R in the
        channel gate, the code has none: ``leaky``.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmattn.catalogue import register
from mmattn.layers import AttentionTap, kaiming_start, wide, without_autocast

Norm = Callable[[int], nn.Module]


@register(
    paper="1811.12006",
    kinds=("channel", "spatial"),
    example={"channels": 8, "mode": "sum", "hidden": 6, "grid": (3, 2)},
)
class SecondOrder(nn.Module):
    """GSoP block. The authors put it at the end of the last block of each stage, before the sum.

    Args:
        channels: Channels of the feature map, in and out; for ``concat`` a multiple of ``channels // 64``.
        mode: ``channel`` or ``spatial`` gate, or both fused by ``sum``, ``max`` or ``concat``.
        hidden: Width d of the map whose covariance is taken.
        sub_sample: Stride at which the channel gate looks at the map; the authors take 2 at 256 channels.
        leaky: The paper's LeakyReLU in the channel gate.
        grid: Cells (h, w) of the spatial gate.
        code_covariance: The authors' covariance of the positions.
        norm: Makes the norms from the number of channels.

    Shape:
        x: (b, c, h, w), returns (b, c, h, w). The maps are (b, c, 1, 1) and (b, 1, h, w), in (0, 1).

    Raises:
        ValueError: No such mode, or channels that do not divide.
    """

    def __init__(
        self,
        channels: int,
        *,
        mode: Literal["channel", "spatial", "sum", "max", "concat"] = "channel",
        hidden: int = 128,
        sub_sample: int = 1,
        leaky: bool = False,
        grid: tuple[int, int] = (8, 8),
        code_covariance: bool = False,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        if mode not in ("channel", "spatial", "sum", "max", "concat"):
            raise ValueError(f"no mode {mode!r}: channel, spatial, sum, max or concat")
        self.mode = mode
        if mode != "spatial":
            self.channel = _ChannelGate(channels, hidden, sub_sample, leaky, norm)
        if mode != "channel":
            self.spatial = _SpatialGate(channels, hidden, grid, code_covariance, norm)
        if mode == "concat":
            self.concat = _Concat(channels, norm)
        self.init_weights()

    def init_weights(self) -> None:
        """Kaiming convolutions, as the authors'."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                kaiming_start(module)

    def forward(self, x: Tensor) -> Tensor:
        if self.mode in ("channel", "spatial"):
            return getattr(self, self.mode)(x)
        y1, y2 = self.channel(x), self.spatial(x)  # (b, c, h, w) each
        if self.mode == "sum":
            return y1 + y2
        return torch.maximum(y1, y2) if self.mode == "max" else self.concat(y1, y2)


class _ChannelGate(nn.Module):
    def __init__(self, channels: int, hidden: int, sub_sample: int, leaky: bool, norm: Norm) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(channels, hidden, 1, sub_sample), norm(hidden), nn.ReLU(inplace=True))
        self.rows = _rows(hidden, channels, nn.LeakyReLU(0.1) if leaky else nn.Identity(), norm)
        self.tap = AttentionTap("channel")

    def forward(self, x: Tensor) -> Tensor:
        covariance = _covariance(self.reduce(x.relu()).flatten(2))  # (b, d, d)
        gate = self.rows(covariance[..., None])  # (b, c, 1, 1)
        return x * self.tap(gate)


class _SpatialGate(nn.Module):
    def __init__(self, channels: int, hidden: int, grid: tuple[int, int], code_covariance: bool, norm: Norm) -> None:
        super().__init__()
        cells = grid[0] * grid[1]
        self.grid, self.code_covariance = tuple(grid), code_covariance
        self.reduce = nn.Sequential(nn.Conv2d(channels, hidden, kernel_size=1), norm(hidden))
        self.rows = _rows(cells, cells, nn.ReLU(inplace=True), norm)
        self.tap = AttentionTap("spatial")

    def forward(self, x: Tensor) -> Tensor:
        cells = F.adaptive_avg_pool2d(self.reduce(x.relu()), self.grid)  # (b, d, *grid)
        covariance = _covariance(cells.flatten(2).mT, self.code_covariance)  # (b, m, m)
        gate = self.rows(covariance[..., None]).view(-1, 1, *self.grid)
        gate = F.adaptive_avg_pool2d(gate, x.shape[2:])  # (b, 1, h, w)
        return (x * self.tap(gate)).relu()


class _Concat(nn.Module):
    """Two convolutions along the height, shorter where there are more groups; their sum, normalised."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        groups = max(1, channels // 64)
        reach = 7 - math.ceil(math.log2(groups))
        if channels % groups:
            raise ValueError(f"{channels} channels: concat needs a multiple of its {groups} groups")
        self.conv1 = nn.Conv2d(channels, channels, (2 * reach + 1, 1), padding=(reach, 0), groups=groups)
        self.conv2 = nn.Conv2d(channels, channels, (2 * reach + 1, 1), padding=(reach, 0), groups=groups)
        self.norm = norm(channels)

    def forward(self, y1: Tensor, y2: Tensor) -> Tensor:
        return self.norm(self.conv1(y1) + self.conv2(y2))


def _rows(width: int, out_channels: int, act: nn.Module, norm: Norm) -> nn.Sequential:
    """A gate (b, out_channels, 1, 1) from the rows of a covariance (b, width, width, 1)."""
    rows = nn.Conv2d(width, 4 * width, (width, 1), groups=width)
    return nn.Sequential(norm(width), rows, act, nn.Conv2d(4 * width, out_channels, kernel_size=1), nn.Sigmoid())


def _covariance(rows: Tensor, code: bool = False) -> Tensor:
    """Of the rows of (b, r, n) over the n columns, or as the authors' code has it, (b, r, r)."""
    with without_autocast(rows):
        x = wide(rows)
        if code:
            r, total = rows.shape[1], x.sum(dim=2, keepdim=True)  # (b, r, 1)
            covariance = x @ x.mT / r - total @ total.mT / r**2
        else:
            centred = x - x.mean(dim=2, keepdim=True)
            covariance = centred @ centred.mT / rows.shape[2]
    return covariance.to(rows.dtype)
