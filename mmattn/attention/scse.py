"""Concurrent spatial and channel squeeze-and-excitation: one gate for each channel beside one for each position.

Paper   Roy, Navab, Wachinger: Concurrent Spatial and Channel Squeeze & Excitation in Fully Convolutional Networks,
        MICCAI 2018. https://arxiv.org/abs/1803.02579

    cSE    y = x sigmoid(W2 relu(W1 z)),  z = mean of x over (h, w)         a gate for each channel
    sSE    y_i = x_i sigmoid(w . x_i + b)                                   a gate for each position i
    scSE   y = max(cSE(x), sSE(x)), element by element;  ``agg="add"``: y = cSE(x) + sSE(x)

Differs The maximum is the authors' code and the best of the journal version (TMI 2019); the MICCAI paper adds.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from mmattn.attention.squeeze_excite import SqueezeExcite
from mmattn.catalogue import register
from mmattn.layers import AttentionTap


@register(paper="1803.02579", kinds=("channel",), example={"channels": 16})
class ChannelSE(SqueezeExcite):
    """cSE: squeeze-and-excitation with a wide bottleneck. The authors put it after each block of encoder and decoder.

    Args:
        channels: Channels of the feature map, in and out.
        reduction: Ratio by which the bottleneck is narrower than ``channels``.

    Shape:
        x: (b, c, h, w), returns (b, c, h, w). The map is (b, c, 1, 1), in (0, 1).

    Raises:
        ValueError: A reduction below 1.
    """

    def __init__(self, channels: int, *, reduction: int = 2) -> None:
        super().__init__(channels, reduction=reduction)


@register(paper="1803.02579", kinds=("spatial",), example={"channels": 16})
class SpatialSE(nn.Module):
    """sSE: squeezes the channels, excites the positions. The authors put it after each block of encoder and decoder.

    Args:
        channels: Channels of the feature map, in and out.

    Shape:
        x: (b, c, h, w), returns (b, c, h, w). The map is (b, 1, h, w), in (0, 1).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, kernel_size=1)
        self.tap = AttentionTap("spatial")

    def forward(self, x: Tensor) -> Tensor:
        return x * self.tap(self.conv(x).sigmoid())


@register(paper="1803.02579", kinds=("channel", "spatial"), example={"channels": 16})
class SCSE(nn.Module):
    """scSE: both gates at once. The authors put it after each block of encoder and decoder.

    Args:
        channels: Channels of the feature map, in and out.
        reduction: Ratio by which the bottleneck of cSE is narrower than ``channels``.
        agg: How cSE and sSE come together, ``max`` or ``add``.

    Shape:
        x: (b, c, h, w), returns (b, c, h, w). The maps are (b, c, 1, 1) and (b, 1, h, w), in (0, 1).

    Raises:
        ValueError: No such agg, or a reduction below 1.
    """

    def __init__(self, channels: int, *, reduction: int = 2, agg: Literal["max", "add"] = "max") -> None:
        super().__init__()
        if agg not in ("max", "add"):
            raise ValueError(f"no agg {agg!r}: max or add")
        self.channel = ChannelSE(channels, reduction=reduction)
        self.spatial = SpatialSE(channels)
        self.agg = agg

    def forward(self, x: Tensor) -> Tensor:
        channel, spatial = self.channel(x), self.spatial(x)  # (b, c, h, w), (b, c, h, w)
        return torch.maximum(channel, spatial) if self.agg == "max" else channel + spatial
