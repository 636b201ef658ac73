"""Attention by masks that each position predicts around itself."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.utils.flop_counter import register_flop_formula

from mmattn.layers import autocast_to, last, without_autocast
from mmattn.ops.attention import add_product
from mmattn.ops.psa_mask import Direction, psa_mask

#: Columns that predict at a time. Fewer skip more cells that are outside the map, more are quicker cell by cell.
COLUMNS = 32
#: Receivers at a time, in whole rows.
RECEIVERS = 256


def point_wise(
    masks: Tensor, weight: Tensor, x: Tensor, mask_size: tuple[int, int], direction: Direction, *, softmax: bool = True
) -> Tensor:
    """Sum over the sources of x, weighted by the masks that ``weight`` predicts from features ``masks``.

    Computes :func:`point_wise_reference` row by row of receivers, and of a mask only the cells that can lie on the map;
    backward computes the weights again. Memory grows with the positions, not with their pairs. An export holds the
    reference, so that it runs where mmattn is not. No second derivatives.

    Args:
        masks: (b, d, h, w).
        weight: (mh * mw, d, 1, 1), that of a convolution; see :func:`mmattn.ops.psa_mask`.
        x: (b, c, h, w).
        mask_size: (mh, mw).
        direction: ``collect`` when the mask of p weights what p receives, ``distribute`` when it weights what p sends.
        softmax: Normalise over the sources, all of them: the logit of those outside the mask is 0.

    Returns:
        (b, c, h, w), channels_last.

    Raises:
        ValueError: ``weight`` does not have mh * mw rows.

    Source: Zhao et al., PSANet, ECCV 2018, eq. 6 and 7.
    """
    mh, mw = mask_size
    if len(weight) != mh * mw:
        raise ValueError(f"masks of {mh} x {mw} need {mh * mw} channels, not {len(weight)}")
    if torch.compiler.is_exporting():
        return point_wise_reference(masks, weight, x, mask_size, direction, softmax=softmax)
    masks, weight, x = autocast_to(masks, weight, x)
    return _forward(masks, weight.reshape(mh, mw, -1), x, direction, softmax)


def point_wise_reference(
    masks: Tensor, weight: Tensor, x: Tensor, mask_size: tuple[int, int], direction: Direction, *, softmax: bool = True
) -> Tensor:
    """:func:`point_wise` in plain torch, which makes every mask whole and all pairs of positions."""
    logits = torch.nn.functional.conv2d(masks, weight)  # (b, mh mw, h, w)
    full = psa_mask(logits, mask_size, direction).flatten(2)  # (b, n, n), sources by receivers
    attn = full.softmax(dim=1) if softmax else full  # (b, n, n)
    return (x.flatten(2) @ attn).view_as(x)


@torch.library.custom_op("mmattn::point_wise", mutates_args=())
def _forward(masks: Tensor, weight: Tensor, x: Tensor, direction: str, softmax: bool) -> Tensor:
    with without_autocast(x):
        masks, x = (_turned(last(t), direction) for t in (masks, x))  # (b, h, w, channels)
        out = x.new_empty(x.shape)
        rows = _Rows(x, weight, direction)
        for features, values, y in zip(masks, x.flatten(1, 2), out.flatten(1, 2), strict=True):
            for at, attn in rows.weights(features, softmax):
                torch.mm(attn, values, out=y[at])
        return _turned(out, direction).permute(0, 3, 1, 2)


@_forward.register_fake
def _(masks: Tensor, weight: Tensor, x: Tensor, direction: str, softmax: bool) -> Tensor:
    return _like(x)


@torch.library.custom_op("mmattn::point_wise_backward", mutates_args=())
def _backward(
    grad: Tensor, masks: Tensor, weight: Tensor, x: Tensor, direction: str, softmax: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the features of the masks, of the weight and of x."""
    with without_autocast(x):
        grad, masks, x = (_turned(last(t), direction) for t in (grad, masks, x))  # (b, h, w, channels)
        wide = torch.promote_types(x.dtype, torch.float32)  # sums over rows
        dmasks, dweight, dx = (t.new_zeros(t.shape, dtype=wide) for t in (masks, weight, x))
        rows, drows = (_Rows(x, weight, direction) for _ in range(2))
        tokens = (t.flatten(1, 2) for t in (x, grad, dx))  # (b, n, c)
        for features, dfeatures, values, dout, dvalues in zip(masks, dmasks, *tokens, strict=True):
            for at, attn in rows.weights(features, softmax):
                add_product(dvalues, attn.mT, dout[at])
                dlogits = drows.attn[: len(attn)]
                torch.mm(dout[at], values.mT, out=dlogits)
                if softmax:
                    torch.ops.aten._softmax_backward_data.out(dlogits, attn, 1, attn.dtype, grad_input=dlogits)
                drows.scatter(at.start // x.shape[2], features, dfeatures, dweight)
        dmasks, dx = (_turned(t, direction).permute(0, 3, 1, 2) for t in (dmasks, dx))
        return dmasks.to(masks.dtype), dweight.to(weight.dtype), dx.to(x.dtype)


@_backward.register_fake
def _(
    grad: Tensor, masks: Tensor, weight: Tensor, x: Tensor, direction: str, softmax: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return _like(masks), torch.empty_like(weight), _like(x)


def _setup(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
    *saved, ctx.direction, ctx.softmax = inputs
    ctx.save_for_backward(*saved)


def _gradients(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward(grad, *ctx.saved_tensors, ctx.direction, ctx.softmax), None, None


_forward.register_autograd(_gradients, setup_context=_setup)


class _Strip(NamedTuple):
    """Columns of the map that predict, and the columns of their masks that can lie on it.

    In memory the logits of a strip are (h, columns, w + columns - 1), each mask moved so that it starts where that of
    the last column does. A view that starts one later with each column has them by position: that is the skew.
    """

    columns: slice
    cells: slice
    by_cell: Tensor  # (h, columns, cells), a part; what is left out is outside the mask, and 0
    by_position: Tensor  # (h, columns, w)


class _Rows:
    """Logits, then weights, between some rows of receivers and all sources of maps like x (b, h, w, c)."""

    def __init__(self, x: Tensor, weight: Tensor, direction: str) -> None:
        (_, h, w, _), mw = x.shape, weight.shape[1]
        self.weight, self.collect = weight, direction == "collect"
        count = min(max(RECEIVERS // w, 1), h)
        self.attn = x.new_zeros(count * w, h * w)
        order = (0, 2, 1, 3) if self.collect else (0, 2, 3, 1)
        self.pairs = self.attn.view(count, w, h, w).permute(order)  # (count, h, predicting, other)
        self.strips = []
        for columns, cells in _columns(w, mw):
            t = columns.stop - columns.start
            memory = x.new_zeros(h, t, w + t - 1)
            by_position = memory.as_strided((h, t, w), (t * (w + t - 1), w + t - 2, 1), t - 1)
            first = max(columns.stop - 1 - (mw - 1) // 2, 0)
            by_cell = memory[..., first : first + cells.stop - cells.start]
            self.strips.append(_Strip(columns, cells, by_cell, by_position))

    def weights(self, features: Tensor, softmax: bool) -> Iterator[tuple[slice, Tensor]]:
        """Which receivers, and what they take (receivers, n) from all positions, by ``features`` (h, w, d)."""
        (h, w, _), count = features.shape, len(self.pairs)
        for start in range(0, h, count):
            rows = range(start, min(start + count, h))
            for row, pairs in zip(rows, self.pairs, strict=False):
                others, _ = _reach(row, h, len(self.weight))
                pairs[: others.start] = pairs[others.stop :] = 0
                for strip in self.strips:
                    own, cells = self._factors(strip, row, features)
                    strip.by_cell[others] = torch.bmm(own, cells.mT)
                    pairs[others, strip.columns] = strip.by_position[others]
            attn = self.attn[: len(rows) * w]
            yield slice(start * w, rows.stop * w), torch.softmax(attn, dim=1, out=attn) if softmax else attn

    def scatter(self, start: int, features: Tensor, dfeatures: Tensor, dweight: Tensor) -> None:
        """Adds what the gradient of the logits, in ``attn``, makes of those of the features and of the weight."""
        h = len(features)
        for row, pairs in zip(range(start, h), self.pairs, strict=False):
            others, mask = _reach(row, h, len(self.weight))
            for strip in self.strips:
                own, cells = self._factors(strip, row, features)
                strip.by_position[others] = pairs[others, strip.columns]
                dlogits = strip.by_cell[others]
                dweight[mask, strip.cells] += torch.bmm(dlogits.mT, own)
                down = torch.bmm(dlogits, cells)  # (others, columns, d)
                if self.collect:
                    dfeatures[row, strip.columns] += down.sum(0, dtype=dfeatures.dtype)
                else:
                    dfeatures[others, strip.columns] += down

    def _factors(self, strip: _Strip, row: int, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (others, columns, d) and the weight's rows (others, cells, d) that make the logits of a strip."""
        others, mask = _reach(row, len(features), len(self.weight))
        cells = self.weight[mask, strip.cells]
        own = features[row : row + 1] if self.collect else features[others]
        return own[:, strip.columns].expand(len(cells), -1, -1), cells


def _reach(row: int, h: int, mh: int) -> tuple[slice, slice]:
    """Rows of the map whose masks reach ``row``, or that its mask reaches, and the rows of the masks there."""
    first = row - (mh - 1) // 2  # row of the map that the mask starts with
    others = slice(max(first, 0), min(first + mh, h))
    return others, slice(others.start - first, others.stop - first)


def _columns(w: int, mw: int) -> Iterator[tuple[slice, slice]]:
    """Strips of columns of the map, and the columns of their masks that can lie on it."""
    for start in range(0, w, COLUMNS):
        stop = min(start + COLUMNS, w)
        middle = (mw - 1) // 2
        yield slice(start, stop), slice(max(middle - stop + 1, 0), min(middle - start + w, mw))


def _turned(x: Tensor, direction: str) -> Tensor:
    """(b, h, w, c), upside down for ``distribute``: so in both directions the mask runs down as the other row does."""
    return x if direction == "collect" else x.flip(1)


def _like(x: Tensor) -> Tensor:
    """Empty, channels_last."""
    b, c, h, w = x.shape
    return x.new_empty(b, h, w, c).permute(0, 3, 1, 2)


@register_flop_formula(torch.ops.mmattn.point_wise)
def _flops(masks: tuple[int, ...], weight: tuple[int, ...], x: tuple[int, ...], *_: object, **__: object) -> int:
    (b, d, h, w), (mh, mw, _), c = masks, weight, x[1]
    rows = sum(others.stop - others.start for others, _ in (_reach(row, h, mh) for row in range(h)))
    cells = sum((own.stop - own.start) * (mask.stop - mask.start) for own, mask in _columns(w, mw))
    return 2 * b * (rows * cells * d + (h * w) ** 2 * c)


@register_flop_formula(torch.ops.mmattn.point_wise_backward)
def _flops_backward(
    _: object, masks: tuple[int, ...], weight: tuple[int, ...], x: tuple[int, ...], *__: object, **___: object
) -> int:
    return 3 * _flops(masks, weight, x) - 2 * masks[0] * (masks[2] * masks[3]) ** 2 * x[1]
