"""Decode heads: mmseg's arguments and parameter names around the mechanisms of :mod:`mmattn.attention`."""

import mmattn.registry  # noqa: F401  mends mmseg's packages before the heads import them
from mmattn.heads.anl_head import ANLHead
from mmattn.heads.attention_head import AttentionHead, CCHead, GCHead, NLHead, PolarizedHead
from mmattn.heads.da_head import DAHead
from mmattn.heads.ocr_head import OCRHead
from mmattn.heads.psa_head import PSAHead

__all__ = ["ANLHead", "AttentionHead", "CCHead", "DAHead", "GCHead", "NLHead", "OCRHead", "PSAHead", "PolarizedHead"]
