"""Mechanisms at the door: one class for each entry of the catalogue that can stand in a network.

    backbone=dict(type='ResNet', plugins=[dict(cfg=dict(type='mmattn.GlobalContext', ratio=1 / 16),
                                               stages=(False, True, True, True), position='after_conv3')])

Each is the mechanism itself under the constructor that mmcv calls: ``in_channels`` for ``channels``, a config for each
factory; arguments, parameter names and weights are the same.
"""

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

from mmcv.cnn import ConvModule, build_norm_layer
from torch import nn

from mmattn.attention import entries
from mmattn.catalogue import Entry
from mmattn.cli import UserError
from mmattn.registry import MODELS

#: What each place of the catalogue is called in messages.
_WHERE = {
    "plugin": "in a block of a backbone (plugins=...)",
    "wrapper": "after a module of a backbone (AttentionBackbone)",
    "neck": "in a neck",
    "head": "in a head",
}


def derive(entry: Entry) -> type[nn.Module]:
    """The class of one mechanism at the door. It takes ``norm_cfg``, for a mechanism with a ``layer`` or a ``norm``."""
    factories = {"layer", "norm"} & set(inspect.signature(entry.cls).parameters)

    def __init__(self: nn.Module, in_channels: int, norm_cfg: dict | None = None, **arguments: Any) -> None:
        norm_cfg = norm_cfg or {"type": "BN"}
        if "layer" in factories:
            arguments["layer"] = conv_layer(norm_cfg, {"type": "ReLU"}, None)
        if "norm" in factories:
            arguments["norm"] = partial(_norm, norm_cfg)
        entry.cls.__init__(self, in_channels, **arguments)

    body = {"__init__": __init__, "__doc__": entry.cls.__doc__, "__module__": __name__}
    return type(entry.cls.__name__, (entry.cls,), body | {"_abbr_": entry.name, "entry": entry})


def build(cfg: Mapping[str, Any], channels: int, norm_cfg: dict | None, place: str, **arguments: Any) -> nn.Module:
    """The module of a config such as ``dict(type='SqueezeExcite')``, at one of the catalogue's places.

    Args:
        cfg: Of a mechanism, or of any registered module with ``in_channels``.
        channels: Of the features there.
        norm_cfg: How the place normalises; a mechanism does so too unless its config names another.
        place: One of :data:`mmattn.catalogue.PLACES`.
        arguments: What the place knows beside that.

    Raises:
        UserError: The mechanism cannot stand there.
    """
    entry = entry_of(cfg)
    if entry is not None:
        if place not in entry.places:
            where = " or ".join(_WHERE[known] for known in entry.places)
            raise UserError(f"{entry.cls.__name__} does not stand {_WHERE[place]}; it stands {where}")
        arguments["norm_cfg"] = norm_cfg
    return MODELS.build({"in_channels": channels, **arguments, **cfg})


def entry_of(cfg: Mapping[str, Any]) -> Entry | None:
    """The catalogue's entry of a config; None for what is not of the catalogue."""
    kind = MODELS.get(cfg["type"]) if isinstance(cfg["type"], str) else cfg["type"]
    return getattr(kind, "entry", None)


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
    if _entry.places:
        MODELS.register_module(module=derive(_entry))
