"""Products of the rows of a matrix with each other."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from mmattn.layers import autocast_to
from mmattn.ops.product import product


def gram(x: Tensor) -> Tensor:
    """``x x^T`` of (b, c, n), with one product in backward instead of two: its gradient is (g + g^T) x.

    Returns:
        (b, c, c).
    """
    return gram_reference(x) if torch.compiler.is_exporting() else _Gram.apply(*autocast_to(x))


def gram_reference(x: Tensor) -> Tensor:
    """:func:`gram` in plain torch."""
    return x @ x.mT


class _Gram(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return product(x, x.mT)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return product(grad + grad.mT, x)
