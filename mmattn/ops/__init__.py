"""Functions that mechanisms are made of: exact lean paths, and plain torch references beside them."""

from mmattn.ops.additive import additive
from mmattn.ops.attention import attend
from mmattn.ops.attention_pool import attention_pool
from mmattn.ops.criss_cross import criss_cross
from mmattn.ops.gram import gram
from mmattn.ops.kernels import use_triton
from mmattn.ops.pixel_loss import pixel_loss
from mmattn.ops.point_wise import point_wise
from mmattn.ops.product import product
from mmattn.ops.psa_mask import psa_mask
from mmattn.ops.pyramid import pyramid
from mmattn.ops.upsample_argmax import upsample_argmax

__all__ = [
    "additive",
    "attend",
    "attention_pool",
    "criss_cross",
    "gram",
    "pixel_loss",
    "point_wise",
    "product",
    "psa_mask",
    "pyramid",
    "upsample_argmax",
    "use_triton",
]
