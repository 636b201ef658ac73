"""Frequency channel attention: squeeze each channel by one cosine of the 2-D DCT, of which the mean is only the lowest.

Paper   Qin, Zhang, Wu, Li: FcaNet: Frequency Channel Attention Networks, ICCV 2021. https://arxiv.org/abs/2012.11879

    f(k, t, n) = cos(pi k (t + 1/2) / n)                                                     eq. 3
    z_c = sum_ij x_c[i, j] f(u, i, h) f(v, j, w)      (u, v) of the group that c is in       eq. 7, 8
    s = sigmoid(W2 relu(W1 z))                                                               eq. 10
    y = s x

Differs As in the authors' code: the cosines have unit norm, so (0, 0) is sqrt(h w) times the mean; x is pooled to the
        fixed grid h x w first; W1 and W2 have no biases. Parameters and the buffer have the names of the authors'
        checkpoints. Their grids of 56, 28, 14 and 7 are for the stages of a ResNet on 224 x 224 images; for anything
        else they recommend 7, the default here.
"""

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmattn.catalogue import register
from mmattn.layers import AttentionTap, narrow

#: Frequencies uv on a grid of 7: the best and the worst ones alone on ImageNet, and the lowest.
_ORDERS = {
    "top": "00 01 60 05 02 10 12 40 50 16 30 04 06 03 35 22 46 63 33 53 55 21 61 52 54 32 31 41 23 20 65 13",
    "low": "00 01 10 11 02 20 21 12 22 03 30 40 04 13 31 05 14 23 32 41 50 06 15 24 33 42 51 60 16 25 34 43",
    "bot": "66 14 34 36 26 43 11 24 44 45 56 15 42 62 25 51 64 13 65 20 23 41 31 32 54 52 61 21 55 53 33 63",
}


@register(paper="2012.11879", kinds=("channel",), example={"channels": 32, "reduction": 4})
class FrequencyChannel(nn.Module):
    """Multi-spectral channel gate of FcaNet. The authors put it at the end of each residual block, before the sum.

    Args:
        channels: Channels of the feature map, in and out; a multiple of the number of frequencies.
        reduction: Ratio by which the bottleneck is narrower than ``channels``.
        frequencies: ``top16``, ``low32``, ``bot32`` and so on up to 32, or a list of (u, v), down and across. They
            are meant on a grid of 7; finer grids take them ``size // 7`` times higher.
        size: Grid (h, w) that maps are pooled to.

    Shape:
        x: (b, c, h, w), returns (b, c, h, w); the map is (b, c, 1, 1), in (0, 1).

    Raises:
        ValueError: No such frequencies, channels that they do not divide, a grid below 7, where all of them are 0, or a
            reduction below 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        frequencies: str | Sequence[tuple[int, int]] = "top16",
        size: tuple[int, int] = (7, 7),
    ) -> None:
        super().__init__()
        if min(size) < 7:
            raise ValueError(f"size {tuple(size)}: the frequencies need a grid of 7 x 7 or more")
        hidden = narrow(channels, reduction)
        self.size = tuple(size)
        self.dct_layer = _Cosines(channels, _frequencies(frequencies), self.size)
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, channels, bias=False),
        )
        self.tap = AttentionTap("channel")

    def forward(self, x: Tensor) -> Tensor:
        z = self.dct_layer(F.adaptive_avg_pool2d(x, self.size))  # (b, c)
        gate = self.fc(z).sigmoid()[:, :, None, None]  # (b, c, 1, 1)
        return x * self.tap(gate)


class _Cosines(nn.Module):
    """Products of two cosines, one for each channel; a group of neighbouring channels shares one."""

    def __init__(self, channels: int, frequencies: list[tuple[int, int]], size: tuple[int, int]) -> None:
        super().__init__()
        if channels % len(frequencies):
            raise ValueError(f"{channels} channels: must be a multiple of the {len(frequencies)} frequencies")
        h, w = size
        filters = torch.stack([torch.outer(_cosine(u, h), _cosine(v, w)) for u, v in frequencies])  # (f, h, w)
        weight = filters.repeat_interleave(channels // len(frequencies), dim=0)  # (c, h, w)
        self.register_buffer("weight", weight.to(torch.get_default_dtype()))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).sum(dim=(2, 3))


def _cosine(k: int, length: int) -> Tensor:
    """The cosine of frequency k, meant on a grid of 7, over ``length`` positions; its norm is 1."""
    t = torch.arange(length, dtype=torch.float64) + 0.5  # (length,)
    return F.normalize(torch.cos(torch.pi * k * (length // 7) * t / length), dim=0)


def _frequencies(given: str | Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    if isinstance(given, str):
        name = re.fullmatch(r"(top|low|bot)([1-9]|[12]\d|3[0-2])", given)
        if name is None:
            raise ValueError(f"no frequencies {given!r}: top, low or bot and how many of 32, such as 'top16'")
        return [(int(u), int(v)) for u, v in _ORDERS[name[1]].split()[: int(name[2])]]
    if not given or not all(len(pair) == 2 and all(k in range(7) for k in pair) for pair in given):
        raise ValueError(f"frequencies {given!r}: pairs (u, v), each number 0 to 6")
    return [(u, v) for u, v in given]
