"""Attention gate: a coarse feature map says where a fine one is worth listening to.

Paper   Oktay, Schlemper, Le Folgoc, Lee, Heinrich, Misawa, Mori, McDonagh, Hammerla, Kainz, Glocker, Rueckert:
        Attention U-Net: Learning Where to Look for the Pancreas, MIDL 2018. https://arxiv.org/abs/1804.03999

    q = psi relu(Wx x + Wg g)                  Wx with kernel = stride = 2, Wg g scaled to the size of Wx x
    alpha = sigmoid(q), scaled to the size of x
    y = BN(W alpha x)
    variants    softplus instead of relu; softmax over positions instead of sigmoid

Differs The last W and its norm are in the authors' code and not in the paper, and so are the variants. A side of x that
        the stride does not divide is seen with zeros below and on the right, down to 1 x 1; the authors' code drops
        the rest, and fails below the stride. All scaling is bilinear, with ``align_corners=False``.

The popular 2-D port with a norm after each convolution, gating at the resolution of x, is another model.
"""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from mmattn.catalogue import register
from mmattn.layers import AttentionTap, kaiming_start


@register(
    paper="1804.03999",
    kinds=("spatial",),
    example={"channels": 16, "gate_channels": 24},
    inputs=(16, 24),
    places=("neck",),
)
class AttentionGate(nn.Module):
    """Additive attention gate on a skip connection. The authors put it on each skip connection of a U-Net but the
    finest.

    Args:
        channels: Channels of the fine map, in and out.
        gate_channels: Channels of the gate.
        inter_channels: Channels of what is compared; ``channels // 2`` when None. The authors' networks take
            ``channels``.
        stride: Factor by which the comparison is coarser than x.
        variant: ``sigmoid``, ``softplus`` or ``softmax``, the authors' concatenation, its debug and its residual mode.
        norm: Makes the last norm from the number of channels.

    Shape:
        x: (b, c, h, w), gate: (b, gate_channels, h', w') of any size, returns (b, c, h, w). The map is (b, 1, h, w), in
        (0, 1); with ``softmax`` it sums to 1 before it is scaled to the size of x.

    Raises:
        ValueError: No such variant, or channels or a stride below 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        gate_channels: int,
        inter_channels: int | None = None,
        stride: int = 2,
        variant: Literal["sigmoid", "softplus", "softmax"] = "sigmoid",
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        hidden = channels // 2 if inter_channels is None else inter_channels
        if hidden < 1 or stride < 1:
            raise ValueError(f"inter_channels={hidden}, stride={stride}: each must be at least 1")
        if variant not in ("sigmoid", "softplus", "softmax"):
            raise ValueError(f"no variant {variant!r}: sigmoid, softplus or softmax")
        self.stride, self.variant = stride, variant
        self.theta = nn.Conv2d(channels, hidden, kernel_size=stride, stride=stride, bias=False)
        self.phi = nn.Conv2d(gate_channels, hidden, kernel_size=1)
        self.psi = nn.Conv2d(hidden, 1, kernel_size=1)
        self.out = nn.Conv2d(channels, channels, kernel_size=1)
        self.norm = norm(channels)
        self.tap = AttentionTap("spatial")
        self.init_weights()

    def init_weights(self) -> None:
        """Kaiming-normal convolutions and a norm near 1, as in the authors' code."""
        for conv in (self.theta, self.phi, self.psi, self.out):
            kaiming_start(conv, mode="fan_in")
        if self.norm.weight is not None:
            nn.init.normal_(self.norm.weight, mean=1.0, std=0.02)
            nn.init.zeros_(self.norm.bias)

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        (h, w), s = x.shape[2:], self.stride
        theta = self.theta(F.pad(x, (0, -w % s, 0, -h % s)))  # (b, d, h / s, w / s)
        phi = F.interpolate(self.phi(gate), size=theta.shape[2:], mode="bilinear")  # (b, d, h / s, w / s)
        compared = F.softplus(theta + phi) if self.variant == "softplus" else (theta + phi).relu()
        logits = self.psi(compared)  # (b, 1, h / s, w / s)
        alpha = logits.flatten(2).softmax(dim=2).view_as(logits) if self.variant == "softmax" else logits.sigmoid()
        alpha = self.tap(F.interpolate(alpha, size=(h, w), mode="bilinear"))  # (b, 1, h, w)
        return self.norm(self.out(alpha * x))
