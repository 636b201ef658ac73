"""Attention of each position to its own column and row."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.utils.flop_counter import register_flop_formula

from mmattn.layers import autocast_to, last, without_autocast
from mmattn.ops import kernels


def criss_cross(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One softmax over the h + w - 1 positions of the query's column and row; the query itself counts once.

    Computes :func:`criss_cross_reference` by strided products of rows and of columns. Nothing is copied when the
    channels of q, k and v lie next to each other in memory, as in channels_last and in parts of one such map. An export
    holds the reference, so that it runs where mmattn is not. No second derivatives.

    Args:
        q: (b, d, h, w).
        k: (b, d, h, w).
        v: (b, c, h, w).

    Returns:
        (b, c, h, w), channels_last: at each position the values of its column and row, weighted.

    Source: Huang et al., CCNet, ICCV 2019, eq. 1 and 2.
    """
    if torch.compiler.is_exporting():
        return criss_cross_reference(q, k, v)
    if kernels.lines(q, k, v):
        from mmattn.ops.kernels.criss_cross import predict_criss_cross  # wants triton

        return predict_criss_cross(q, k, v)
    return _forward(*autocast_to(q, k, v))[0]


def criss_cross_reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """:func:`criss_cross` in plain torch."""
    h = q.shape[2]
    twice = torch.eye(h, dtype=torch.bool, device=q.device)
    columns = torch.einsum("bdhw,bdiw->bhwi", q, k)  # (b, h, w, h)
    columns = columns.masked_fill(twice[:, None], float("-inf"))  # the query is counted in its row
    rows = torch.einsum("bdhw,bdhj->bhwj", q, k)  # (b, h, w, w)
    attn = torch.cat([columns, rows], dim=3).softmax(dim=3)  # (b, h, w, h + w)
    column, row = attn.to(v.dtype).split([h, q.shape[3]], dim=3)
    return torch.einsum("bhwi,bciw->bchw", column, v) + torch.einsum("bhwj,bchj->bchw", row, v)


@torch.library.custom_op("mmattn::criss_cross", mutates_args=())
def _forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The result (b, c, h, w) and the weights (b, h, w, h + w)."""
    with without_autocast(q):
        q, k, v = last(q), last(k), last(v)  # (b, h, w, channels)
        b, h, w, _ = q.shape
        attn = q.new_empty(b, h, w, h + w)
        column, row = _parts(attn, h)  # (b, w, h, h), (b, h, w, w)
        _product(q, k.mT, row)
        _product(_turned(q), _turned(k).mT, column)
        column.diagonal(dim1=2, dim2=3).fill_(float("-inf"))  # the query is counted in its row
        torch.softmax(attn, dim=3, out=attn)
        out = torch.empty_like(v, memory_format=torch.contiguous_format)  # (b, h, w, c)
        _product(row, v, out)
        _product(column, _turned(v), _turned(out), add=True)
        return out.permute(0, 3, 1, 2), attn


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    (b, _, h, w), c = q.shape, v.shape[1]
    return v.new_empty(b, h, w, c).permute(0, 3, 1, 2), q.new_empty(b, h, w, h + w)


@torch.library.custom_op("mmattn::criss_cross_backward", mutates_args=())
def _backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, attn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    with without_autocast(q):
        grad, q, k, v = last(grad), last(q), last(k), last(v)  # (b, h, w, channels)
        h = q.shape[1]
        logits = torch.empty_like(attn)  # the gradient of the weights, then of the logits
        _product(grad, v.mT, _parts(logits, h)[1])
        _product(_turned(grad), _turned(v).mT, _parts(logits, h)[0])
        torch.ops.aten._softmax_backward_data.out(logits, attn, 3, attn.dtype, grad_input=logits)
        out = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v)]
        for result, weights, x in zip(out, (logits, logits, attn), (k, q, grad), strict=True):
            column, row = _parts(weights, h)
            if result is not out[0]:  # keys and values gather from the queries that saw them
                column, row = column.mT, row.mT
            _product(row, x, result)
            _product(column, _turned(x), _turned(result), add=True)
        dq, dk, dv = (x.permute(0, 3, 1, 2) for x in out)
        return dq, dk, dv


@_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, attn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (torch.empty_like(x, memory_format=torch.channels_last) for x in (q, k, v))
    return dq, dk, dv


def _setup(ctx: FunctionCtx, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.set_materialize_grads(False)


def _gradients(ctx: FunctionCtx, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    return (None, None, None) if grad is None else _backward(grad, *ctx.saved_tensors)


_forward.register_autograd(_gradients, setup_context=_setup)


@register_flop_formula(torch.ops.mmattn.criss_cross)
def _flops(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], **_: object) -> int:
    b, d, h, w = q
    return 2 * b * h * w * (h + w) * (d + v[1])


@register_flop_formula(torch.ops.mmattn.criss_cross_backward)
def _flops_backward(grad: tuple[int, ...], q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], *_, **__) -> int:
    return 2 * _flops(q, k, v)


def _turned(x: Tensor) -> Tensor:
    """(b, h, w, c) as (b, w, h, c), a view."""
    return x.transpose(1, 2)


def _parts(weights: Tensor, h: int) -> tuple[Tensor, Tensor]:
    """(b, h, w, h + w) as weights of the columns (b, w, h, h) and of the rows (b, h, w, w), views."""
    return _turned(weights[..., :h]), weights[..., h:]


def _product(x: Tensor, y: Tensor, out: Tensor, *, add: bool = False) -> None:
    """``x @ y`` of (b, lines, ., .) written or added to ``out``, image by image: matmul would copy turned maps."""
    for a, b, c in zip(x, y, out, strict=True):
        torch.baddbmm(c, a, b, beta=int(add), out=c)
