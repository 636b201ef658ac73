"""Bricks that two or more mechanisms share."""

from mmattn.layers.attend import attend, plane, tokens, without_autocast
from mmattn.layers.conv import ConvNormAct, Layer, check_batch, kaiming_start, zero_start
from mmattn.layers.scale import Scale
from mmattn.layers.tap import AttentionTap, LossTap

__all__ = [
    "AttentionTap",
    "ConvNormAct",
    "Layer",
    "LossTap",
    "Scale",
    "attend",
    "check_batch",
    "kaiming_start",
    "plane",
    "tokens",
    "without_autocast",
    "zero_start",
]
