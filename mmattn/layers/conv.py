"""Convolution, normalisation, activation: the brick of most heads, with the parameter names of published checkpoints.

Mechanisms made of such bricks take a factory ``layer`` with the signature of :class:`ConvNormAct`; they pass
``norm=None`` or ``act=None`` where the paper has none, and leave the rest to whoever chose the factory.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import nn

Layer = Callable[..., nn.Module]


class ConvNormAct(nn.Sequential):
    """Children ``conv``, ``bn`` and ``activate``; the convolution has a bias only where no norm follows.

    Weights start Kaiming-normal (fan-out), as in mmcv's ConvModule.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Side of the kernel.
        padding: Zeros added on each side.
        norm: Makes the norm from the number of channels; None for none.
        act: Makes the activation; None for none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        padding: int = 0,
        norm: Callable[[int], nn.Module] | None = nn.BatchNorm2d,
        act: Callable[[], nn.Module] | None = nn.ReLU,
    ) -> None:
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, bias=norm is None)
        kaiming_start(conv)
        children: OrderedDict[str, Any] = OrderedDict(conv=conv)
        if norm is not None:
            children["bn"] = norm(out_channels)
        if act is not None:
            children["activate"] = act()
        super().__init__(children)


def kaiming_start(conv: nn.Conv2d, mode: str = "fan_out") -> None:
    """Kaiming-normal weights for ReLU, bias 0."""
    nn.init.kaiming_normal_(conv.weight, mode=mode, nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def zero_start(layer: nn.Module) -> None:
    """Weight and bias 0: whatever follows a zeroed layer starts as nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
