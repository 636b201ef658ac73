"""Necks: mechanisms on the levels of a pyramid."""

from mmattn.necks.attention_neck import AttentionNeck
from mmattn.necks.gated_neck import GatedNeck

__all__ = ["AttentionNeck", "GatedNeck"]
