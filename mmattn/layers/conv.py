"""Convolution, normalisation, activation: the brick of most heads, with the parameter names of published checkpoints.

Mechanisms made of such bricks take a factory ``layer`` with the signature of :class:`ConvNormAct`; they pass
``norm=None`` or ``act=None`` where the paper has none, and leave the rest to whoever chose the factory.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

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


def check_batch(block: nn.Module, x: Tensor) -> None:
    """Refuse to train a batch norm on one value per channel, in words that help.

    Call it on features pooled to one pixel. With ``SyncBN`` on several processes one image each is enough.

    Raises:
        ValueError: A batch norm of ``block`` is training and ``x`` (b, c, h, w) has one value per channel.
    """
    if x.numel() != x.shape[1] or (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    if any(isinstance(norm, _BatchNorm) and norm.training for norm in block.modules()):
        raise ValueError(
            f"{type(block).__name__} normalises over the batch after pooling to one pixel: with one image that is one "
            "value per channel. Train with two or more images per GPU, or with a norm such as GroupNorm "
            "(norm_cfg=dict(type='GN', num_groups=...))"
        )


def project(x: Tensor, *convs: nn.Conv2d) -> tuple[Tensor, ...]:
    """Several 1 x 1 convolutions with bias of one map, as one.

    Args:
        x: (b, c, h, w).
        convs: The convolutions.

    Returns:
        What ``conv(x)`` gives for each, (b, out_channels, h, w): parts of one map, which is channels_last where x is.
    """
    weight = torch.cat([conv.weight for conv in convs])  # (o, c, 1, 1)
    bias = torch.cat([conv.bias for conv in convs])  # (o,)
    return F.conv2d(x, weight, bias).split([conv.out_channels for conv in convs], dim=1)


def narrow(channels: int, reduction: int) -> int:
    """Width of a bottleneck: ``channels / reduction``, and never nothing.

    Raises:
        ValueError: A reduction below 1.
    """
    if reduction < 1:
        raise ValueError(f"reduction {reduction}: must be at least 1")
    return max(1, channels // reduction)


def context_transform(channels: int, ratio: float) -> nn.Sequential:
    """GCNet's bottleneck with a layer norm, on a context (b, c, 1, 1).

    Args:
        channels: Channels, in and out.
        ratio: Width inside as a share of ``channels``.

    Raises:
        ValueError: A ratio that leaves no channels inside.

    Source: Cao et al., GCNet, ICCV Workshops 2019, figure 4 (d).
    """
    hidden = int(channels * ratio)
    if hidden < 1:
        raise ValueError(f"{channels} channels times ratio {ratio} leave none for the transform")
    return nn.Sequential(
        nn.Conv2d(channels, hidden, kernel_size=1),
        nn.LayerNorm([hidden, 1, 1]),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, channels, kernel_size=1),
    )


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
