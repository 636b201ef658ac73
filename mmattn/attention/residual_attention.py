"""Residual attention: a small hourglass looks at the map from afar and says what in it to strengthen.

Paper   Wang, Jiang, Qian, Yang, Li, Zhang, Wang, Tang: Residual Attention Network for Image Classification, CVPR 2017.
        https://arxiv.org/abs/1704.06904

    M = sigmoid(W2 relu(norm(W1 relu(norm(hourglass(x))))))     mixed attention, eq. 4
    H = (1 + M) T                                               attention residual learning, eq. 3
    y = H with the trunk T = x                                  the mask branch alone
    x' = R(x),  T = R(R(x')),  y = R((1 + M(x')) T)             the whole module, p = 1, t = 2, r = 1

    The hourglass halves the map d times by max pooling, each time followed by a residual unit R, and returns by
    bilinear interpolation and a unit for each level, adding what a unit makes of the level it comes back to.

Differs The wiring is that of the authors' published network: one more unit at the lowest level, none on the way to the
        level of x, interpolation with aligned corners. Sizes are those of the maps, not of a 224 x 224 image.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from mmattn.catalogue import register
from mmattn.layers import AttentionTap, check_batch

Norm = Callable[[int], nn.Module]


@register(paper="1704.06904", kinds=("spatial",), example={"channels": 8, "downsamplings": 2})
class ResidualAttention(nn.Module):
    """Attention module of the Residual Attention Network, by default its mask branch alone. The authors put one to
    three with trunk into each of the first three stages.

    Args:
        channels: Channels of the feature map, in and out; a multiple of 4.
        downsamplings: How often the mask branch halves the map; the authors take 3, 2 and 1 at strides 4, 8 and 16.
        trunk: Add the trunk, and the units before and after.
        norm: Makes the norms from the number of channels.

    Shape:
        x: (b, c, h, w), returns (b, c, h, w). The map has a value for each position and channel, (b, c, h, w), in
        (0, 1).

    Raises:
        ValueError: Channels that 4 does not divide, or no downsampling; in training, one image that the mask branch
            shrinks to one pixel, under a batch norm.
    """

    def __init__(
        self, channels: int, *, downsamplings: int = 1, trunk: bool = False, norm: Norm = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        if channels % 4:
            raise ValueError(f"{channels} channels: must be a multiple of 4")
        if downsamplings < 1:
            raise ValueError(f"downsamplings {downsamplings}: the mask branch needs one or more")
        self.downsamplings = downsamplings
        self.first = _Unit(channels, norm) if trunk else nn.Identity()
        self.trunk = nn.Sequential(_Unit(channels, norm), _Unit(channels, norm)) if trunk else nn.Identity()
        self.last = _Unit(channels, norm) if trunk else nn.Identity()
        self.mask = nn.Sequential(
            _Hourglass(channels, downsamplings, norm),
            *(norm(channels), nn.ReLU(inplace=True), nn.Conv2d(channels, channels, kernel_size=1, bias=False)),
            *(norm(channels), nn.ReLU(inplace=True), nn.Conv2d(channels, channels, kernel_size=1, bias=False)),
        )
        self.tap = AttentionTap("spatial")

    def forward(self, x: Tensor) -> Tensor:
        if max(x.shape[2:]) <= 2**self.downsamplings:  # the lowest level is one pixel
            check_batch(self, x[:, :, :1, :1])
        x = self.first(x)  # (b, c, h, w)
        gate = self.mask(x).sigmoid()  # (b, c, h, w)
        return self.last((1 + self.tap(gate)) * self.trunk(x))


class _Hourglass(nn.Module):
    """Down by ``depth`` levels and up again; one level of it holds the hourglass of the levels below."""

    def __init__(self, channels: int, depth: int, norm: Norm) -> None:
        super().__init__()
        self.down = _Unit(channels, norm)
        self.skip = _Unit(channels, norm) if depth > 1 else None
        self.below = _Hourglass(channels, depth - 1, norm) if depth > 1 else None
        self.up = _Unit(channels, norm)

    def forward(self, x: Tensor) -> Tensor:
        u = self.down(F.max_pool2d(x, kernel_size=3, stride=2, padding=1))  # (b, c, h / 2, w / 2), rounded up
        if self.below is not None:
            u = self.below(u) + self.skip(u)
        return F.interpolate(self.up(u), size=x.shape[2:], mode="bilinear", align_corners=True)  # (b, c, h, w)


class _Unit(nn.Module):
    """A residual unit R: norm, ReLU and convolution, three times over, beside the identity."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        hidden = channels // 4
        self.residual = nn.Sequential(
            *(norm(channels), nn.ReLU(inplace=True), nn.Conv2d(channels, hidden, kernel_size=1, bias=False)),
            *(norm(hidden), nn.ReLU(inplace=True), nn.Conv2d(hidden, hidden, 3, padding=1, bias=False)),
            *(norm(hidden), nn.ReLU(inplace=True), nn.Conv2d(hidden, channels, kernel_size=1, bias=False)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)
