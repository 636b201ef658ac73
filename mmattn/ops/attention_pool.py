"""One attention map for the whole image, and the mean of the image that it weighs."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from mmattn.layers import autocast_to
from mmattn.ops.product import product


def attention_pool(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``attn = softmax over positions of weight . x + bias``, and ``sum attn x``.

    Two products of the map with a vector, and a gradient made in one pass over the map, which takes along that of
    whatever is done with the map returned. No second derivatives.

    Args:
        x: (b, c, h, w).
        weight: (1, c, 1, 1), that of a convolution.
        bias: (1,); without effect, and so is its gradient 0.

    Returns:
        The context (b, c, 1, 1); without gradient the attention (b, 1, h, w), float32 or wider; and x.

    Source: Cao et al., GCNet, ICCV Workshops 2019, eq. 4.
    """
    if torch.compiler.is_exporting():
        return *attention_pool_reference(*autocast_to(x, weight, bias)), x
    context, attn, x = _Pool.apply(x, *autocast_to(weight, bias))
    return context.mT[..., None], attn.unflatten(2, x.shape[2:]), x


def attention_pool_reference(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`attention_pool` in plain torch."""
    logits = F.conv2d(x, weight, bias).flatten(2)  # (b, 1, n)
    attn = logits.softmax(dim=2, dtype=torch.promote_types(x.dtype, torch.float32))  # (b, 1, n)
    context = x.flatten(2) @ attn.to(x.dtype).mT  # (b, c, 1)
    return context[..., None], attn.detach().unflatten(2, x.shape[2:])


class _Pool(torch.autograd.Function):
    """On x (b, c, h, w), weight (1, c, 1, 1) and bias (1,): context (b, 1, c), map (b, 1, n) and x."""

    @staticmethod
    def forward(ctx: FunctionCtx, image: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = image.to(weight.dtype).flatten(2)  # (b, c, n)
        logits = weight.view(1, 1, -1) @ x  # (b, 1, n); a bias changes no softmax
        attn = logits.softmax(dim=2, dtype=torch.promote_types(x.dtype, torch.float32))  # (b, 1, n)
        ctx.save_for_backward(image, weight, attn)
        ctx.mark_non_differentiable(attn)
        ctx.set_materialize_grads(False)
        return product(attn.to(x.dtype), x.mT), attn, image.view_as(image)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor | None, _: None, other: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return other, None, None
        image, weight, attn = ctx.saved_tensors
        x = image.to(weight.dtype).flatten(2)  # (b, c, n)
        dattn = (grad @ x).to(attn.dtype)  # (b, 1, n)
        dlogits = torch.ops.aten._softmax_backward_data(dattn, attn, 2, attn.dtype)  # (b, 1, n)
        positions = torch.cat([dlogits, attn], dim=1).to(x.dtype)  # (b, 2, n)
        channels = torch.cat([weight.view(1, 1, -1).expand_as(grad), grad], dim=1)  # (b, 2, c)
        dx = torch.empty_like(x)
        turned = x.stride(2) != 1
        rows, columns, out = (positions, channels, dx.mT) if turned else (channels, positions, dx)
        for row, column, to in zip(rows, columns, out, strict=True):  # two outer products
            torch.outer(row[0], column[0], out=to)
            to.addr_(row[1], column[1])
        dimage = dx.view_as(image).to(image.dtype)
        dimage = dimage if other is None else dimage.add_(other)
        dweight = product(positions, x.mT)[:, 0].sum(0)  # (c,), and not by one row alone: that sums in half precision
        return dimage, dweight.view_as(weight), x.new_zeros(1)
