"""Scaled dot-product attention, the step that most mechanisms share."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.utils.flop_counter import register_flop_formula

from mmattn.layers import autocast_to, without_autocast
from mmattn.ops import kernels
from mmattn.ops.product import dense, mm, product

#: Queries that are attended to at a time. All pairs of positions of up to so many queries, or keys, may be in memory.
CHUNK = 256


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float = 1.0) -> Tensor:
    """``softmax(scale q k^T) v``, in memory that grows with n + m instead of n m.

    Where queries or keys are few, plain products are quickest and small. On CUDA torch's fused kernels take every
    width that is a multiple of 8, values wider than keys too; elsewhere they want one width, and fall back to all
    pairs: :func:`chunked` does not. An export holds torch's own operator, so that it runs where mmattn is not. See
    :class:`~mmattn.ops.use_triton` for a kernel of our own.

    Args:
        q: (b, n, d).
        k: (b, m, d).
        v: (b, m, e).
        scale: Factor on the logits.

    Returns:
        (b, n, e), laid out in memory as q is: tokens of a contiguous map give such a map.

    Source: Vaswani et al., Attention Is All You Need, NeurIPS 2017, eq. 1.
    """
    if kernels.dense(q, k, v) and not torch.compiler.is_exporting():
        from mmattn.ops.kernels.attention import flash  # wants triton

        return flash(q, k, v, scale)
    if torch.compiler.is_exporting() or fused(q.device.type, q.dtype, q.shape[2], v.shape[2]):
        q, k, v = (x.contiguous()[:, None] for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, scale=scale)[:, 0]
    if min(q.shape[1], k.shape[1]) <= CHUNK:
        if _turned(q):
            attn = (product(k, q.mT) * scale).softmax(dim=1).to(v.dtype)  # (b, m, n)
            return product(v.mT, attn).mT
        attn = (product(q, k.mT) * scale).softmax(dim=2).to(v.dtype)  # (b, n, m)
        return product(attn, v)
    return chunked(q, k, v, scale)


def attend_reference(q: Tensor, k: Tensor, v: Tensor, scale: float = 1.0) -> Tensor:
    """:func:`attend` in plain torch."""
    attn = (q @ k.mT * scale).softmax(dim=-1)  # (b, n, m)
    return attn @ v


def chunked(q: Tensor, k: Tensor, v: Tensor, scale: float = 1.0) -> Tensor:
    """:func:`attend`, :data:`CHUNK` queries after :data:`CHUNK` queries; backward computes the weights again.

    Any strides, widths and device; nothing is copied. No second derivatives.
    """
    return _forward(*autocast_to(q, k, v), scale)


def _turned(x: Tensor) -> bool:
    """Whether the rows of (b, n, d) lie next to each other in memory, and not the columns."""
    return x.stride(1) == 1 and x.stride(2) != 1


def _empty(q: Tensor, width: int) -> Tensor:
    """(b, n, width), laid out as q is."""
    b, n, _ = q.shape
    return q.new_empty(b, width, n).mT if _turned(q) else q.new_empty(b, n, width)


def fused(device: str, dtype: torch.dtype, *widths: int) -> bool:
    """Whether torch has a kernel of its own for keys and values of these widths."""
    return device == "cuda" and dtype != torch.float64 and all(width % 8 == 0 for width in widths)


@torch.library.custom_op("mmattn::attend", mutates_args=())
def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    with without_autocast(q):
        out = _empty(q, v.shape[2])
        for queries, keys, values, y in zip(q, dense(k), dense(v), out, strict=True):
            for at, attn in _weights(queries, keys, scale):
                y[at] = mm(attn, values)
                del attn  # before the next ones are made
        return out


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return _empty(q, v.shape[2])


@torch.library.custom_op("mmattn::attend_backward", mutates_args=())
def _backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    with without_autocast(q):
        wide = torch.promote_types(q.dtype, torch.float32)  # sums over chunks
        dq = torch.empty_like(q, memory_format=torch.contiguous_format)
        dk, dv = (x.new_zeros(x.mT.shape, dtype=wide) for x in (k, v))  # (b, d or e, m)
        for queries, keys, values, dout, *sums in zip(q, dense(k), dense(v), grad, dq, dk, dv, strict=True):
            for at, attn in _weights(queries, keys, scale):
                sums[2] += mm(dout[at].mT, attn)
                logits = mm(dout[at], values.mT)  # the gradient of the weights, then of the logits
                torch.ops.aten._softmax_backward_data.out(logits, attn, 1, attn.dtype, grad_input=logits)
                sums[0][at] = mm(logits, keys, scale)
                sums[1] += mm(queries[at].mT, logits, scale)
                del attn, logits  # before the next ones are made
        return dq, dk.mT.to(k.dtype), dv.mT.to(v.dtype)


@_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    dq = torch.empty_like(q, memory_format=torch.contiguous_format)
    dk, dv = (x.new_empty(x.mT.shape).mT for x in (k, v))
    return dq, dk, dv


def _weights(q: Tensor, k: Tensor, scale: float) -> Iterator[tuple[slice, Tensor]]:
    """Which queries (n, d), and their weights over the keys (m, d)."""
    for start in range(0, len(q), CHUNK):
        at = slice(start, min(start + CHUNK, len(q)))
        yield at, _softmax(mm(q[at], k.mT, scale))  # kept by whoever takes it alone


def _softmax(logits: Tensor) -> Tensor:
    """Over the keys, in place."""
    return torch.softmax(logits, dim=1, out=logits)


def _setup(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
    *saved, ctx.scale = inputs
    ctx.save_for_backward(*saved)


def _gradients(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward(grad, *ctx.saved_tensors, ctx.scale), None


_forward.register_autograd(_gradients, setup_context=_setup)


@register_flop_formula(torch.ops.mmattn.attend)
def _flops(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], *_: object, **__: object) -> int:
    b, n, d = q
    return 2 * b * n * k[1] * (d + v[2])


@register_flop_formula(torch.ops.mmattn.attend_backward)
def _flops_backward(
    _: object, q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], *__: object, **___: object
) -> int:
    b, n, d = q
    return 2 * b * n * k[1] * (3 * d + 2 * v[2])
