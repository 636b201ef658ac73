"""Backbones: mechanisms around those that other packages have."""

from mmattn.backbones.attention_backbone import AttentionBackbone

__all__ = ["AttentionBackbone"]
