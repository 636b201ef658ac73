"""Double attention: a few soft regions are gathered from the whole image, and each position is handed its mix of them.

Paper   Chen, Kalantidis, Li, Yan, Feng: A^2-Nets: Double Attention Networks, NeurIPS 2018.
        https://arxiv.org/abs/1810.11579

    A = Wa x,  B = softmax over positions of Wb x,  V = softmax over the n regions of Wv x
    g_r = sum_i B_ri A_i                                            section 3.1
    z_j = sum_r V_rj g_r                                            section 3.2
    y = x + Wo z

Differs ``zero_init`` starts Wo at 0, so that the block starts as the identity; the paper has no such start. No code by
        the authors was found.
"""

import torch
from torch import Tensor, nn

from mmattn.catalogue import register
from mmattn.layers import AttentionTap, zero_start
from mmattn.layers.records import Regions


@register(paper="1810.11579", kinds=("regions",), example={"channels": 16}, idle=("gather.bias",))
class DoubleAttention(nn.Module):
    """Double attention (A^2) block. Its cost grows with the number of positions, not with their square. The paper puts
    five of them into the second and third stage of ResNet-50.

    Args:
        channels: Channels of the feature map, in and out.
        m: Channels of what is gathered; ``channels // 4`` when None.
        n: Regions it is gathered into; ``channels // 4`` when None.
        zero_init: Start as the identity.

    Shape:
        x: (b, c, h, w), returns (b, c, h, w). The record has the maps of the n regions, each sums to 1 over positions,
        and how much each position takes from each of them, which sums to 1 over regions.

    Raises:
        ValueError: m or n below 1.
    """

    def __init__(self, channels: int, *, m: int | None = None, n: int | None = None, zero_init: bool = False) -> None:
        super().__init__()
        m = channels // 4 if m is None else m
        n = channels // 4 if n is None else n
        if m < 1 or n < 1:
            raise ValueError(f"m={m}, n={n}: each must be at least 1")
        self.zero_init = zero_init
        self.feature = nn.Conv2d(channels, m, kernel_size=1)
        self.gather = nn.Conv2d(channels, n, kernel_size=1)
        self.distribute = nn.Conv2d(channels, n, kernel_size=1)
        self.out = nn.Conv2d(m, channels, kernel_size=1)
        self.tap = AttentionTap("regions")
        self.init_weights()

    def init_weights(self) -> None:
        """The identity start, where asked for."""
        if self.zero_init:
            zero_start(self.out)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        soft = self.gather(x).flatten(2).softmax(dim=2)  # (b, n, h * w)
        context = self.feature(x).flatten(2) @ soft.mT  # (b, m, n)
        logits = self.distribute(x)  # (b, n, h, w)
        z = context @ logits.flatten(2).softmax(dim=1)  # (b, m, h * w)
        self.tap.offer(lambda: Regions(logits, _unit_keys(logits), 1.0, soft.unflatten(2, size)))
        return x + self.out(z.unflatten(2, size))


def _unit_keys(logits: Tensor) -> Tensor:
    """Keys (b, n, n) with which the products of ``logits`` (b, n, h, w) as queries are the logits themselves."""
    b, n = logits.shape[:2]
    return torch.eye(n, dtype=logits.dtype, device=logits.device).expand(b, n, n)
