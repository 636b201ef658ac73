"""Bricks that two or more mechanisms share."""

from mmattn.layers.attend import attend, autocast_to, plane, tokens, without_autocast
from mmattn.layers.conv import ConvNormAct, Layer, check_batch, kaiming_start, project, zero_start
from mmattn.layers.scale import Scale
from mmattn.layers.tap import AttentionTap, LossTap

__all__ = [
    "AttentionTap",
    "ConvNormAct",
    "Layer",
    "LossTap",
    "Scale",
    "attend",
    "autocast_to",
    "check_batch",
    "kaiming_start",
    "plane",
    "project",
    "tokens",
    "without_autocast",
    "zero_start",
]
