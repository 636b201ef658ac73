"""Gather-excite: gather what a neighbourhood, or the whole image, says of each channel, and scale the channel by it.

Paper   Hu, Shen, Albanie, Sun, Vedaldi: Gather-Excite: Exploiting Feature Context in Convolutional Neural Networks,
        NeurIPS 2018. https://arxiv.org/abs/1810.12348

    y = x sigmoid(up(gather(x)))                up: nearest neighbour, back to (h, w)

    GE-theta-minus   gather = mean over windows of 2 e - 1 at stride e, without parameters
    GE-theta         gather = log2(e) depthwise 3 x 3 convolutions of stride 2, each with a norm, ReLU between;
                     without extent, one depthwise convolution as large as the map, with a norm
    GE-theta-plus    gather = W2 relu(W1 relu(GE-theta's))

    e is the extent, 2, 4 or 8; without it the whole image is gathered into one number per channel.

Differs GE-theta without extent first averages its input over a grid of ``size``, so that it runs at any input size; on
        a map of exactly that size it is the paper's. The ReLU before W1 is in the authors' code; ``relu=False`` leaves
        it out. Norms keep their own momentum, the authors' is 0.05.
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from mmattn.catalogue import register
from mmattn.layers import AttentionTap, check_batch, kaiming_start, narrow


@register(paper="1810.12348", kinds=("channel",), example={"channels": 16, "size": 3, "reduction": 4})
class GatherExcite(nn.Module):
    """Gate of GENet. The authors put it at the end of each residual block, before the sum.

    Args:
        channels: Channels of the feature map, in and out.
        variant: ``theta_minus``, ``theta`` or ``theta_plus``.
        extent: 2, 4 or 8; None for the whole image.
        size: Side, or (h, w), of the grid that parameters gather from without extent.
        reduction: Ratio by which the bottleneck of ``theta_plus`` is narrower than ``channels``.
        relu: Whether ``theta_plus`` clips what was gathered before its bottleneck.
        norm: Makes the norms of the gathering convolutions.

    Shape:
        x: (b, c, h, w), returns (b, c, h, w). The map is (b, c, 1, 1), in (0, 1); with an extent it is of kind
        ``spatial`` and (b, c, h, w).

    Raises:
        ValueError: No such variant or extent, a reduction below 1, or training a batch norm on one value per channel.
    """

    def __init__(
        self,
        channels: int,
        *,
        variant: Literal["theta_minus", "theta", "theta_plus"] = "theta_plus",
        extent: Literal[2, 4, 8] | None = None,
        size: int | tuple[int, int] = 7,
        reduction: int = 16,
        relu: bool = True,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        if variant not in ("theta_minus", "theta", "theta_plus"):
            raise ValueError(f"no variant {variant!r}: theta_minus, theta or theta_plus")
        if extent not in (None, 2, 4, 8):
            raise ValueError(f"no extent {extent!r}: 2, 4, 8 or None for the whole image")
        self.extent = extent
        self.gather = _mean(extent) if variant == "theta_minus" else _convolutions(channels, extent, size, norm)
        self.excite = nn.Identity()
        if variant == "theta_plus":
            hidden = narrow(channels, reduction)
            self.excite = nn.Sequential(
                nn.ReLU() if relu else nn.Identity(),
                nn.Conv2d(channels, hidden, kernel_size=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(hidden, channels, kernel_size=1),
            )
        self.tap = AttentionTap("channel" if extent is None else "spatial")
        self.init_weights()

    def init_weights(self) -> None:
        """The authors' start: Kaiming for the depthwise convolutions, small numbers for the bottleneck."""
        for layer in self.gather.modules():
            if isinstance(layer, nn.Conv2d):
                kaiming_start(layer, mode="fan_in")
        for layer in self.excite.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        check_batch(self, x[..., :1, :1] if self.extent is None else x[..., :: self.extent, :: self.extent])
        gate = self.excite(self.gather(x)).sigmoid()  # (b, c, h / e, w / e), rounded up
        if self.extent is not None:
            gate = F.interpolate(gate, size=x.shape[2:])  # (b, c, h, w)
        return x * self.tap(gate)


def _mean(extent: int | None) -> nn.Module:
    if extent is None:
        return nn.AdaptiveAvgPool2d(1)
    return nn.AvgPool2d(2 * extent - 1, stride=extent, padding=extent - 1, count_include_pad=False)


def _convolutions(
    channels: int, extent: int | None, size: int | tuple[int, int], norm: Callable[[int], nn.Module]
) -> nn.Sequential:
    if extent is None:
        conv = nn.Conv2d(channels, channels, size, groups=channels, bias=False)
        return nn.Sequential(nn.AdaptiveAvgPool2d(size), conv, norm(channels))
    layers: list[nn.Module] = []
    for _ in range(extent.bit_length() - 1):  # log2
        conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2, padding=1, groups=channels, bias=False)
        layers += [conv, norm(channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])
