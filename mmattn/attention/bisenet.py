"""BiSeNet's two channel gates: one refines a feature map, one fuses a detailed map with a map of context.

Paper   Yu, Wang, Peng, Gao, Yu, Sang: BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation,
        ECCV 2018. https://arxiv.org/abs/1808.00897

Attention refinement (ARM):
    f = relu(BN(W x)), W 3 x 3
    y = sigmoid(BN(Wg mean of f over positions)) f                                figure 2 (b)
Feature fusion (FFM):
    f = relu(BN(W [x, context]))
    y = f + sigmoid(W2 relu(W1 mean of f over positions)) f                       figure 2 (c)

Differs Both are as in the authors' code, where the gate of the ARM is not followed by an activation of its own, and
        W1 and W2 have neither norm nor bias. A context of another size than x is scaled to it, bilinearly with
        ``align_corners=False``; in the authors' network this stands before the module, with aligned corners.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmattn.catalogue import register
from mmattn.layers import AttentionTap, ConvNormAct, Layer, check_batch, kaiming_start


@register(paper="1808.00897", kinds=("channel",), example={"channels": 16})
class AttentionRefinement(nn.Module):
    """Attention refinement module (ARM). The authors put it on the last two stages of the context path.

    Args:
        channels: Channels of the input.
        out_channels: Channels of the output; ``channels`` when None.
        layer: Makes convolution, norm and activation.

    Shape:
        x: (b, c, h, w), returns (b, out_channels, h, w). The map is (b, out_channels, 1, 1), in (0, 1).

    Raises:
        ValueError: Training a batch norm on one image.
    """

    def __init__(self, channels: int, *, out_channels: int | None = None, layer: Layer = ConvNormAct) -> None:
        super().__init__()
        out_channels = channels if out_channels is None else out_channels
        self.conv = layer(channels, out_channels, 3, padding=1)
        self.gate = layer(out_channels, out_channels, act=None)
        self.tap = AttentionTap("channel")

    def forward(self, x: Tensor) -> Tensor:
        f = self.conv(x)  # (b, out_channels, h, w)
        z = f.mean(dim=(2, 3), keepdim=True)  # (b, out_channels, 1, 1)
        check_batch(self, z)
        return f * self.tap(self.gate(z).sigmoid())


@register(
    paper="1808.00897",
    kinds=("channel",),
    example={"channels": 16, "context_channels": 24},
    inputs=(16, 24),
    places=("neck",),
)
class FeatureFusion(nn.Module):
    """Feature fusion module (FFM). The authors put it where the spatial path and the context path meet.

    Args:
        channels: Channels of the detailed map.
        context_channels: Channels of the map of context.
        out_channels: Channels of the output; ``channels`` when None.
        reduction: Ratio by which the gate's bottleneck is narrower than ``out_channels``.
        layer: Makes convolution, norm and activation.

    Shape:
        x: (b, c, h, w), context: (b, context_channels, h', w'), returns (b, out_channels, h, w). The map is
        (b, out_channels, 1, 1), in (0, 1).

    Raises:
        ValueError: A reduction that leaves the bottleneck without channels.
    """

    def __init__(
        self,
        channels: int,
        *,
        context_channels: int,
        out_channels: int | None = None,
        reduction: int = 1,
        layer: Layer = ConvNormAct,
    ) -> None:
        super().__init__()
        out_channels = channels if out_channels is None else out_channels
        if not 1 <= reduction <= out_channels:
            raise ValueError(f"reduction={reduction}: between 1 and the {out_channels} channels of the output")
        hidden = out_channels // reduction
        self.conv = layer(channels + context_channels, out_channels)
        self.w1 = nn.Conv2d(out_channels, hidden, kernel_size=1, bias=False)
        self.w2 = nn.Conv2d(hidden, out_channels, kernel_size=1, bias=False)
        kaiming_start(self.w1)
        kaiming_start(self.w2)
        self.tap = AttentionTap("channel")

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        context = F.interpolate(context, size=x.shape[2:], mode="bilinear")  # (b, context_channels, h, w)
        f = self.conv(torch.cat([x, context], dim=1))  # (b, out_channels, h, w)
        z = f.mean(dim=(2, 3), keepdim=True)  # (b, out_channels, 1, 1)
        gate = self.tap(self.w2(self.w1(z).relu()).sigmoid())  # (b, out_channels, 1, 1)
        return f + f * gate
