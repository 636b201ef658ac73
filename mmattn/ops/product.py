"""Products of matrices, by whichever of torch's libraries is quicker at them."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from mmattn.layers import autocast_to


def product(x: Tensor, y: Tensor) -> Tensor:
    """``x y`` of (b, n, k) and (b, k, m), like ``x @ y``.

    In float32 on x86 by oneDNN, the library of torch's convolutions. ``@`` asks MKL, which on processors that are not
    Intel's uses half the width of the registers, and takes twice as long.
    """
    if torch.compiler.is_compiling():  # it chooses by itself
        return x @ y
    x, y = autocast_to(x, y)
    if not _by_onednn(x) or len(x) == 0:
        return x @ y
    if len(x) == 1:
        return _Product.apply(x.squeeze(0), y.squeeze(0))[None]
    return torch.stack([_Product.apply(a, b) for a, b in zip(x, y, strict=True)])


class _Product(torch.autograd.Function):
    """Of two matrices."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return mm(x, y)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y = ctx.saved_tensors
        dx, dy = ctx.needs_input_grad
        return _Product.apply(grad, y.mT) if dx else None, _Product.apply(x.mT, grad) if dy else None


def mm(x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
    """``scale x y`` of two matrices, as in :func:`product` and without gradient."""
    if not _by_onednn(x) or 0 in (*x.shape, *y.shape):
        return torch.addmm(x.new_empty(()), x, y, beta=0, alpha=scale)
    x = x if scale == 1 else x * scale
    return torch.ops.mkldnn._linear_pointwise(x, dense(y).mT, None, "none", [], "")


def dense(x: Tensor) -> Tensor:
    """Matrices, copied where neither rows nor columns lie one after the other: oneDNN takes forever with others."""
    return x if x.is_contiguous() or x.mT.is_contiguous() else x.contiguous()


def _by_onednn(x: Tensor) -> bool:
    available = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    return available and torch.backends.mkldnn.enabled and x.device.type == "cpu" and x.dtype == torch.float32
