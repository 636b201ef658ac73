"""Spatial pyramid attention: scale each channel by what the image, its quarters and its sixteenths say of it.

Paper   Guo, Ma, Sansom, McGuire, Kalaani, Chen, Tang, Yang, Fu: SPANet: Spatial Pyramid Attention Network for Enhanced
        Image Recognition, ICME 2020. https://ieeexplore.ieee.org/document/9102906

    p = [mean over 1 x 1, 2 x 2 and 4 x 4 cells]       21 numbers for each channel
    s = sigmoid(W2 relu(W1 p))
    y = s x

    SPPSE     p is taken from x itself
    PSPPSE    p is taken from the input u of the block whose last feature is x
    CPSPPSE   p is taken from relu(norm(Wc u)), where u has other channels than x

Differs The authors' CPSPPSE layer returns s and leaves the product to its caller. The bottleneck has c / r channels, as
        in their ResNet, ResNeXt, MobileNet and VGG; ``wide`` is the 21 c / r of their DenseNet.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmattn.catalogue import register
from mmattn.layers import AttentionTap, ConvNormAct, Layer, narrow

SCALES = (1, 2, 4)
CELLS = sum(scale * scale for scale in SCALES)


@register(
    paper="https://ieeexplore.ieee.org/document/9102906",
    kinds=("channel",),
    example={"channels": 16, "reduction": 4},
)
class SpatialPyramid(nn.Module):
    """Channel gate of SPANet. The authors put it at the end of each residual block, before the sum.

    Args:
        channels: Channels of the feature map, in and out.
        reduction: Ratio r by which the bottleneck is narrower.
        wide: A bottleneck of 21 c / r channels instead of c / r.
        source_channels: Channels of ``source``, where they are not ``channels``.
        layer: Makes the convolution, norm and activation that bring ``source`` to ``channels``.

    Shape:
        x: (b, c, h, w), source: (b, source_channels, h', w') or None for x, returns (b, c, h, w). The map is
        (b, c, 1, 1), in (0, 1).

    Raises:
        ValueError: A reduction below 1, or no ``source`` although its channels were announced.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        wide: bool = False,
        source_channels: int | None = None,
        layer: Layer = ConvNormAct,
    ) -> None:
        super().__init__()
        hidden = narrow((CELLS if wide else 1) * channels, reduction)
        self.connect = layer(source_channels, channels) if (source_channels or channels) != channels else None
        self.w1 = nn.Linear(CELLS * channels, hidden, bias=False)
        self.w2 = nn.Linear(hidden, channels, bias=False)
        self.tap = AttentionTap("channel")

    def forward(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        if self.connect is not None:
            if source is None:
                raise ValueError("SpatialPyramid with source_channels needs the input of the block as a second map")
            source = self.connect(source)  # (b, c, h', w')
        seen = x if source is None else source
        pyramid = torch.cat([F.adaptive_avg_pool2d(seen, scale).flatten(1) for scale in SCALES], dim=1)  # (b, 21 c)
        gate = self.w2(self.w1(pyramid).relu()).sigmoid()  # (b, c)
        return x * self.tap(gate[..., None, None])
