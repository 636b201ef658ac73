"""Necks: mechanisms on the levels of a pyramid."""

from mmattn.necks.attention_neck import AttentionNeck

__all__ = ["AttentionNeck"]
