"""Functions that mechanisms are made of: exact lean paths, and plain torch references beside them."""

from mmattn.ops.additive import additive
from mmattn.ops.attention import attend
from mmattn.ops.attention_pool import attention_pool
from mmattn.ops.criss_cross import criss_cross
from mmattn.ops.gram import gram
from mmattn.ops.kernels import use_triton
from mmattn.ops.point_wise import point_wise
from mmattn.ops.psa_mask import psa_mask

__all__ = ["additive", "attend", "attention_pool", "criss_cross", "gram", "point_wise", "psa_mask", "use_triton"]
