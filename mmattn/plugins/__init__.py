"""Mechanisms inside a backbone block: one plugin class for each entry of the catalogue.

    backbone=dict(type='ResNet', plugins=[dict(cfg=dict(type='mmattn.GlobalContext', ratio=1 / 16),
                                               stages=(False, True, True, True), position='after_conv3')])

A plugin is the mechanism itself under the constructor that mmcv calls: ``in_channels`` for ``channels``, a config for
each factory; arguments, parameter names and weights are the same.
"""

import inspect
from functools import partial
from typing import Any

from mmcv.cnn import ConvModule, build_norm_layer
from torch import nn

from mmattn.attention import entries
from mmattn.catalogue import Entry
from mmattn.registry import MODELS


def derive(entry: Entry) -> type[nn.Module]:
    """The plugin class of one mechanism. It takes ``norm_cfg`` where the mechanism takes a ``layer`` or a ``norm``."""
    factories = {"layer", "norm"} & set(inspect.signature(entry.cls).parameters)

    def __init__(self: nn.Module, in_channels: int, norm_cfg: dict | None = None, **arguments: Any) -> None:
        norm_cfg = norm_cfg or {"type": "BN"}
        if "layer" in factories:
            arguments["layer"] = conv_layer(norm_cfg, {"type": "ReLU"}, None)
        if "norm" in factories:
            arguments["norm"] = partial(_norm, norm_cfg)
        entry.cls.__init__(self, in_channels, **arguments)

    body = {"__init__": __init__, "__doc__": entry.cls.__doc__, "__module__": __name__, "_abbr_": entry.name}
    return type(entry.cls.__name__, (entry.cls,), body)


def _norm(norm_cfg: dict, channels: int) -> nn.Module:
    return build_norm_layer(norm_cfg, channels)[1]


def conv_layer(norm_cfg: dict | None, act_cfg: dict | None, conv_cfg: dict | None) -> partial[nn.Module]:
    """mmcv's ConvModule as the ``layer`` factory of a mechanism.

    Args:
        norm_cfg: Norm, where the mechanism does not say ``norm=None``.
        act_cfg: Activation, where the mechanism does not say ``act=None``.
        conv_cfg: Convolution.
    """
    return partial(_conv_module, conv_cfg, norm=norm_cfg, act=act_cfg)


def _conv_module(
    conv_cfg: dict | None,
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    *,
    padding: int = 0,
    norm: dict | None,
    act: dict | None,
) -> nn.Module:
    return ConvModule(
        in_channels, out_channels, kernel_size, padding=padding, conv_cfg=conv_cfg, norm_cfg=norm, act_cfg=act
    )


for _entry in entries():
    if len(_entry.inputs) == 1:
        MODELS.register_module(module=derive(_entry))
