"""Convolutional block attention: a gate for each channel, then a gate for each position of what has passed.

Paper   Woo, Park, Lee, Kweon: CBAM: Convolutional Block Attention Module, ECCV 2018. https://arxiv.org/abs/1807.06521

    x' = Mc(x) x,  y = Ms(x') x'                                                    eq. 1
    Mc(x) = sigmoid(MLP(mean of x) + MLP(max of x))     over positions              eq. 2
    Ms(x) = sigmoid(conv7x7[max of x; mean of x])       over channels               eq. 3

Differs As in the authors' code, a norm of one channel follows the convolution and starts with weight 0, so that Ms
        starts as 1/2; ``spatial_norm=False`` is the paper, ``zero_gamma=False`` starts the norm at 1. The norm keeps
        its own momentum, the authors' is 0.01. Their further pools ``lp`` (root of the sum of squares) and ``lse``
        (log of the sum of exponentials) are here too.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from mmattn.catalogue import register
from mmattn.layers import AttentionTap, kaiming_start, narrow, zero_start

_POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "avg": lambda x: x.mean(dim=(2, 3), keepdim=True),
    "max": lambda x: x.amax(dim=(2, 3), keepdim=True),
    "lp": lambda x: torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True),
    "lse": lambda x: x.logsumexp(dim=(2, 3), keepdim=True),
}


@register(paper="1807.06521", kinds=("channel", "spatial"), example={"channels": 16, "reduction": 4})
class CBAM(nn.Module):
    """Channel gate, then spatial gate. The authors put it at the end of each residual block, before the sum.

    Args:
        channels: Channels of the feature map, in and out.
        reduction: Ratio by which the MLP is narrower than ``channels``.
        kernel_size: Odd side of the spatial kernel.
        pools: What the MLP sees, of ``avg``, ``max``, ``lp`` and ``lse``; its answers are added.
        spatial_norm: Whether a norm follows the spatial convolution.
        zero_gamma: Whether the weight of that norm starts at 0.
        norm: Makes that norm.

    Shape:
        x: (b, c, h, w), returns (b, c, h, w). The maps are (b, c, 1, 1) and (b, 1, h, w), in (0, 1).

    Raises:
        ValueError: No such pools, an even kernel, or a reduction below 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        kernel_size: int = 7,
        pools: Sequence[Literal["avg", "max", "lp", "lse"]] = ("avg", "max"),
        spatial_norm: bool = True,
        zero_gamma: bool = True,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        if not pools or set(pools) - set(_POOLS):
            raise ValueError(f"no pools {pools!r}: one or more of {', '.join(_POOLS)}")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {kernel_size}: must be odd, so that the map keeps its size")
        hidden = narrow(channels, reduction)
        self.pools, self.zero_gamma = tuple(pools), zero_gamma
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, kernel_size=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, kernel_size=1),
        )
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = norm(1) if spatial_norm else nn.Identity()
        self.tap_channel = AttentionTap("channel")
        self.tap_spatial = AttentionTap("spatial")
        self.init_weights()

    def init_weights(self) -> None:
        """The authors' start."""
        for layer in (self.mlp[0], self.mlp[2]):
            layer.reset_parameters()
            nn.init.zeros_(layer.bias)
        kaiming_start(self.conv)
        if self.zero_gamma and getattr(self.norm, "weight", None) is not None:
            zero_start(self.norm)

    def forward(self, x: Tensor) -> Tensor:
        logits = sum(self.mlp(_POOLS[pool](x)) for pool in self.pools)  # (b, c, 1, 1)
        x = x * self.tap_channel(logits.sigmoid())  # (b, c, h, w)
        planes = torch.cat([x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)], dim=1)  # (b, 2, h, w)
        return x * self.tap_spatial(self.norm(self.conv(planes)).sigmoid())
