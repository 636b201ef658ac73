"""Criss-cross attention: each position gathers from its own row and column; twice over, from everywhere.

Paper   Huang, Wang, Huang, Huang, Wei, Liu: CCNet: Criss-Cross Attention for Semantic Segmentation, ICCV 2019.
        https://arxiv.org/abs/1811.11721

    q = Wq x,  k = Wk x,  v = Wv x
    a = softmax over the h + w - 1 positions i on the row and column of u of  q_u . k_i          eq. 1
    y_u = gamma sum_i a_ui v_i + x_u                                                             eq. 2

The same module (same weights) applied R = 2 times in a row reaches every position from every other; the head repeats
it.

Differs gamma, a learned number that starts at 0, is in the authors' code and not in the paper.
"""

import torch
from torch import Tensor, nn

from mmattn.catalogue import register
from mmattn.layers import AttentionTap, Scale, narrow, project
from mmattn.layers.records import CrissCross as CrissCrossRecord
from mmattn.ops import criss_cross


@register(
    paper="1811.11721",
    kinds=("criss_cross",),
    example={"channels": 16},
    idle=("key_conv.bias",),
    identity=True,
)
class CrissCross(nn.Module):
    """Criss-cross attention of CCNet, one recurrence. Starts as the identity. The authors put it into the head, between
    two convolutions, and apply it twice: ``CCHead``.

    Args:
        channels: Channels of the feature map, in and out.
        reduction: Ratio by which queries and keys are narrower than ``channels``.

    Shape:
        x: (b, c, h, w), returns (b, c, h, w).

    Raises:
        ValueError: A reduction below 1.
    """

    def __init__(self, channels: int, *, reduction: int = 8) -> None:
        super().__init__()
        hidden = narrow(channels, reduction)
        self.query_conv = nn.Conv2d(channels, hidden, kernel_size=1)
        self.key_conv = nn.Conv2d(channels, hidden, kernel_size=1)
        self.value_conv = nn.Conv2d(channels, channels, kernel_size=1)
        self.gamma = Scale(0.0)
        self.tap = AttentionTap("criss_cross")

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        q, k, v = project(x, self.query_conv, self.key_conv, self.value_conv)  # (b, c / r or c, h, w)
        self.tap.offer(lambda: CrissCrossRecord(q, k))
        return self.gamma.add(x, criss_cross(q, k, v))

    def init_weights(self) -> None:
        """Restore the identity start."""
        nn.init.zeros_(self.gamma.scale)
