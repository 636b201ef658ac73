"""Efficient channel attention: scale each channel by what its few neighbours and itself say of it.

Paper   Wang, Wu, Zhu, Li, Zuo, Hu: ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks,
        CVPR 2020. https://arxiv.org/abs/1910.03151

    z = mean of x over (h, w)
    s = sigmoid(C1D_k(z))                  one kernel of k numbers slides along the channels, zeros beyond the ends
    y = s x
    k = log2(c) / 2 + 1 / 2, rounded down, then up to the next odd number

Differs The authors' released networks set k by hand in each stage (3, 5, 5, 7 in ResNet-50); give ``kernel_size`` to
        load them.
"""

import math

from torch import Tensor, nn

from mmattn.catalogue import register
from mmattn.layers import AttentionTap


@register(paper="1910.03151", kinds=("channel",), example={"channels": 16})
class EfficientChannel(nn.Module):
    """Channel gate of ECA-Net. The authors put it at the end of each residual block, before the sum.

    Args:
        channels: Channels of the feature map, in and out.
        kernel_size: Odd k; the paper's choice for ``channels`` when None.

    Shape:
        x: (b, c, h, w), returns (b, c, h, w). The map is (b, c, 1, 1), in (0, 1).

    Raises:
        ValueError: An even kernel.
    """

    def __init__(self, channels: int, *, kernel_size: int | None = None) -> None:
        super().__init__()
        if kernel_size is None:
            kernel_size = int((math.log2(channels) + 1) / 2) | 1
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {kernel_size}: must be odd, so that each channel has as many left as right")
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.tap = AttentionTap("channel")

    def forward(self, x: Tensor) -> Tensor:
        z = x.mean(dim=(2, 3))  # (b, c)
        gate = self.conv(z[:, None]).sigmoid().mT[..., None]  # (b, c, 1, 1)
        return x * self.tap(gate)
