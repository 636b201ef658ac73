"""Bricks that two or more mechanisms share."""

from mmattn.layers.tap import AttentionTap

__all__ = ["AttentionTap"]
