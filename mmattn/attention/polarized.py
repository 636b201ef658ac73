"""Polarized self-attention: a channel gate and a spatial gate that keep full resolution in the other dimension.

Paper   Liu, Liu, Fan, Huang: Polarized Self-Attention: Towards High-quality Pixel-wise Regression, 2021.
        https://arxiv.org/abs/2107.00782

    channel   a = sigmoid(LayerNorm(Wz (Wv x  softmax over positions of Wq x)))              eq. 2
    spatial   s = sigmoid(softmax over channels of mean(Wq' x)  .  Wv' x)                    eq. 3
    parallel    y = a x + s x                                                                eq. 4
    sequential  y = s(a x) (a x)                                                             eq. 5

Differs ``variant="code"`` is what the authors published: no LayerNorm after Wz in the parallel form, a bottleneck of
        c / 8 with LayerNorm and ReLU in the sequential one; the spatial softmax runs over the positions, after the
        product (parallel) or on Wv' x (sequential), so that the spatial gate is nearly constant. The default is the
        paper.

Not to be confused with PSANet's point-wise spatial attention, which is abbreviated PSA as well.
"""

from typing import Literal

from torch import Tensor, nn

from mmattn.catalogue import register
from mmattn.layers import AttentionTap


@register(paper="2107.00782", kinds=("channel", "spatial"), example={"channels": 16})
class Polarized(nn.Module):
    """Polarized self-attention. The authors put it into each block of HRNet, after the first convolution.

    Args:
        channels: Channels of the feature map, in and out; even, and a multiple of 8 for the sequential code.
        sequential: Spatial gate of what the channel gate has passed, instead of both side by side.
        variant: ``paper`` or ``code``.

    Shape:
        x: (b, c, h, w), returns (b, c, h, w). The maps are (b, c, 1, 1) and (b, 1, h, w), in (0, 1).

    Raises:
        ValueError: No such variant, or channels that do not divide.
    """

    def __init__(self, channels: int, *, sequential: bool = False, variant: Literal["paper", "code"] = "paper") -> None:
        super().__init__()
        if variant not in ("paper", "code"):
            raise ValueError(f"no variant {variant!r}: paper or code")
        if channels % (8 if sequential and variant == "code" else 2):
            raise ValueError(f"{channels} channels: must be even, and a multiple of 8 for the sequential code")
        half, eighth = channels // 2, channels // 8
        self.sequential, self.variant = sequential, variant
        self.channel_q = _projection(channels, 1)
        self.channel_v = _projection(channels, half)
        if variant == "paper":
            up = (nn.Conv2d(half, channels, kernel_size=1, bias=False), nn.LayerNorm([channels, 1, 1]))
        elif sequential:
            narrow, wide = nn.Conv2d(half, eighth, kernel_size=1), nn.Conv2d(eighth, channels, kernel_size=1)
            up = (narrow, nn.LayerNorm([eighth, 1, 1]), nn.ReLU(inplace=True), wide)
        else:
            up = (nn.Conv2d(half, channels, kernel_size=1, bias=False),)
        self.channel_up = nn.Sequential(*up)
        self.spatial_q = _projection(channels, half)
        self.spatial_v = _projection(channels, half)
        self.tap_channel = AttentionTap("channel")
        self.tap_spatial = AttentionTap("spatial")

    def forward(self, x: Tensor) -> Tensor:
        refined = x * self.tap_channel(self._channel_gate(x))  # (b, c, h, w)
        if self.sequential:
            return refined * self.tap_spatial(self._spatial_gate(refined))
        return refined + x * self.tap_spatial(self._spatial_gate(x))

    def _channel_gate(self, x: Tensor) -> Tensor:
        q = self.channel_q(x).flatten(2).softmax(dim=2)  # (b, 1, n)
        v = self.channel_v(x).flatten(2)  # (b, c / 2, n)
        context = v @ q.mT  # (b, c / 2, 1)
        return self.channel_up(context[..., None]).sigmoid()  # (b, c, 1, 1)

    def _spatial_gate(self, x: Tensor) -> Tensor:
        q = self.spatial_q(x).mean(dim=(2, 3))[:, None]  # (b, 1, c / 2)
        v = self.spatial_v(x).flatten(2)  # (b, c / 2, n)
        if self.variant == "paper":
            logits = q.softmax(dim=2) @ v  # (b, 1, n)
        elif self.sequential:
            logits = q @ v.softmax(dim=2)  # (b, 1, n)
        else:
            logits = (q @ v).softmax(dim=2)  # (b, 1, n)
        return logits.sigmoid().unflatten(2, x.shape[2:])  # (b, 1, h, w)


def _projection(channels: int, width: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, width, kernel_size=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")
    return conv
