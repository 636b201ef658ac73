"""Bricks that two or more mechanisms share."""

from mmattn.layers.conv import (
    ConvNormAct,
    Layer,
    check_batch,
    context_transform,
    kaiming_start,
    narrow,
    project,
    zero_start,
)
from mmattn.layers.records import wide
from mmattn.layers.scale import Scale
from mmattn.layers.tap import AttentionTap, LossTap
from mmattn.layers.tokens import autocast_to, last, plane, tokens, without_autocast

__all__ = [
    "AttentionTap",
    "ConvNormAct",
    "Layer",
    "LossTap",
    "Scale",
    "autocast_to",
    "check_batch",
    "context_transform",
    "kaiming_start",
    "last",
    "narrow",
    "plane",
    "project",
    "tokens",
    "wide",
    "without_autocast",
    "zero_start",
]
