"""Attention by masks that each position predicts around itself."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.utils.flop_counter import register_flop_formula

from mmattn.layers import autocast_to, last, without_autocast
from mmattn.ops.product import mm
from mmattn.ops.psa_mask import Direction, psa_mask

#: Columns that predict at a time. Fewer skip more cells that are outside the map, more are quicker cell by cell.
COLUMNS = 32
#: Receivers at a time, in whole rows.
RECEIVERS = 128


def point_wise(
    masks: Tensor, weight: Tensor, x: Tensor, mask_size: tuple[int, int], direction: Direction, *, softmax: bool = True
) -> Tensor:
    """Sum over the sources of x, weighted by the masks that ``weight`` predicts from features ``masks``.

    Computes :func:`point_wise_reference` some rows of receivers at a time, and of the masks the cells that can lie on
    the map; backward computes the weights again. Memory grows with the positions, not with their pairs. An export holds
    the reference, so that it runs where mmattn is not. No second derivatives.

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
        collect = direction == "collect"
        masks, x = last(masks).flip(1), _turned(last(x), not collect)  # (b, h, w, channels), see _Rows
        out = x.new_empty(x.shape)
        rows = _Rows(x, weight, collect)
        for features, values, y in zip(masks, x.flatten(1, 2), out.flatten(1, 2), strict=True):
            rows.take(features)
            for at, attn in rows.weights(softmax):
                y[at] = mm(attn, values)
        return _turned(out, collect).permute(0, 3, 1, 2)


@_forward.register_fake
def _(masks: Tensor, weight: Tensor, x: Tensor, direction: str, softmax: bool) -> Tensor:
    return _like(x)


@torch.library.custom_op("mmattn::point_wise_backward", mutates_args=())
def _backward(
    grad: Tensor, masks: Tensor, weight: Tensor, x: Tensor, direction: str, softmax: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the features of the masks, of the weight and of x."""
    with without_autocast(x):
        collect = direction == "collect"
        grad, masks, x = _turned(last(grad), collect), last(masks).flip(1), _turned(last(x), not collect)
        wide = torch.promote_types(x.dtype, torch.float32)  # sums over rows
        dmasks, dweight, dx = (t.new_zeros(t.shape, dtype=wide) for t in (masks, weight, x))
        rows, drows = (_Rows(x, weight, collect) for _ in range(2))
        tokens = (t.flatten(1, 2) for t in (x, grad, dx))  # (b, n, c)
        for features, dfeatures, values, dout, dvalues in zip(masks, dmasks, *tokens, strict=True):
            rows.take(features)
            sums = [torch.zeros_like(features, dtype=wide) for features in rows.features]
            for at, attn in rows.weights(softmax):
                dvalues += mm(attn.mT, dout[at])
                dlogits = drows.attn[: len(attn)]
                dlogits.copy_(mm(dout[at], values.mT))
                if softmax:
                    torch.ops.aten._softmax_backward_data.out(dlogits, attn, 1, attn.dtype, grad_input=dlogits)
                drows.attn[len(attn) :] = 0
                drows.scatter(at.start // x.shape[2], rows.features, sums, dweight)
            for strip, total in zip(rows.strips, sums, strict=True):
                dfeatures[:, strip.columns] = total[rows.count - 1 :][: x.shape[1]]
        dmasks, dx = dmasks.flip(1).permute(0, 3, 1, 2), _turned(dx, not collect).permute(0, 3, 1, 2)
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
    """Columns of the map that predict, and the columns of their masks that can lie on it."""

    columns: slice
    cells: slice
    memory: Tensor  # (h + count - 1, count * columns, w + columns - 1), by row and column of the mask
    by_cell: Tensor  # the columns of it that are in ``cells``; all others are outside the mask, and 0
    by_position: Tensor  # (count, h, columns, w), by row of receivers, row of sources, predicting and other column


class _Rows:
    """Logits, then weights, between some rows of receivers and all sources of maps like x (b, h, w, c).

    Receivers run up the image and sources down, or the other way round: so a row of the mask is the sum of both, and a
    column that of the other column and of those that are left in the strip. Logits lie in memory by mask; views whose
    strides add up rows and columns have them by position. That is the skew.
    """

    def __init__(self, x: Tensor, weight: Tensor, collect: bool) -> None:
        (_, h, w, _), mw = x.shape, weight.shape[1]
        self.weight, self.collect, self.size, self.count = weight, collect, (h, w), _count(h, w)
        self.attn = x.new_zeros(self.count * w, h * w)
        order = (0, 2, 1, 3) if collect else (0, 2, 3, 1)
        self.pairs = self.attn.view(self.count, w, h, w).permute(order)  # (count, h, predicting, other)
        self.strips, self.features = [], []
        for columns, cells in _columns(w, mw):
            t = columns.stop - columns.start
            memory = x.new_zeros(h + self.count - 1, self.count * t, w + t - 1)
            row, block = memory.stride(0), t * memory.stride(1)
            strides = (row + block if collect else row - block, row, w + t - 2, 1)
            start = t - 1 + (0 if collect else (self.count - 1) * block)
            first = max(columns.stop - 1 - (mw - 1) // 2, 0)
            by_cell = memory[..., first : first + cells.stop - cells.start]
            by_position = memory.as_strided((self.count, h, t, w), strides, start)
            self.strips.append(_Strip(columns, cells, memory, by_cell, by_position))
            self.features.append(x.new_zeros(h + 2 * (self.count - 1), t, weight.shape[2]))

    def take(self, features: Tensor) -> None:
        """The features (h, w, d) that predict, in strips with rows of zeros around."""
        for strip, own in zip(self.strips, self.features, strict=True):
            own[self.count - 1 :][: len(features)] = features[:, strip.columns]

    def weights(self, softmax: bool) -> Iterator[tuple[slice, Tensor]]:
        """Which receivers, and what they take (receivers, n) from all positions."""
        h, w = self.size
        for start in range(0, h, self.count):
            rows, mask = _reach(start, self.count, h, len(self.weight))
            for strip, features in zip(self.strips, self.features, strict=True):
                strip.memory[: rows.start] = strip.memory[rows.stop :] = 0
                own, slab = self._own(strip, features, start, rows), self.weight[mask, strip.cells]
                if self.collect:
                    logits = mm(own, slab.flatten(0, 1).mT).unflatten(1, slab.shape[:2]).transpose(0, 1)
                else:
                    logits = torch.bmm(own, slab.mT)
                strip.by_cell[rows] = logits  # (rows, count * columns, cells)
                self.pairs[:, :, strip.columns] = strip.by_position
            stop = min(start + self.count, h)
            attn = self.attn[: (stop - start) * w]
            yield slice(start * w, stop * w), torch.softmax(attn, dim=1, out=attn) if softmax else attn

    def scatter(self, start: int, features: list[Tensor], dfeatures: list[Tensor], dweight: Tensor) -> None:
        """Adds what the gradient of the logits, in ``attn``, makes of those of the features and of the weight."""
        rows, mask = _reach(start, self.count, self.size[0], len(self.weight))
        for strip, own, total in zip(self.strips, features, dfeatures, strict=True):
            strip.by_position.copy_(self.pairs[:, :, strip.columns])
            dlogits = strip.by_cell[rows]  # (rows, count * columns, cells)
            own, slab = self._own(strip, own, start, rows), self.weight[mask, strip.cells]
            if self.collect:
                dlogits = dlogits.transpose(0, 1).flatten(1)  # (count * columns, rows * cells)
                dweight[mask, strip.cells] += mm(dlogits.mT, own).view_as(slab)
                total[self.count - 1 + start :][: self.count].flatten(0, 1).add_(mm(dlogits, slab.flatten(0, 1)))
            else:
                dweight[mask, strip.cells] += torch.bmm(dlogits.mT, own)
                down = torch.bmm(dlogits, slab).unflatten(1, (self.count, -1))
                for i in range(self.count):
                    total[rows.start + i : rows.stop + i] += down[:, i]

    def _own(self, strip: _Strip, features: Tensor, start: int, rows: slice) -> Tensor:
        """The features (count * columns, d) that collect, or for each row of the mask those that distribute there."""
        if self.collect:
            return features[self.count - 1 + start :][: self.count].flatten(0, 1)
        _, t, d = features.shape
        shape = (rows.stop - rows.start, self.count * t, d)
        return features.as_strided(shape, (t * d, d, 1), rows.start * t * d)


def _count(h: int, w: int) -> int:
    """Rows of receivers at a time."""
    return max(1, min(RECEIVERS // w, h // 8))


def _reach(start: int, count: int, h: int, mh: int) -> tuple[slice, slice]:
    """Sums of the rows of receivers, from the ``start``th on, and of sources that the mask covers, and its rows."""
    first = (mh - 1) // 2 + start - (h - 1)  # row of the mask where the sum is 0
    rows = slice(max(-first, 0), min(mh - first, h + count - 1))
    return rows, slice(rows.start + first, rows.stop + first)


def _columns(w: int, mw: int) -> Iterator[tuple[slice, slice]]:
    """Strips of columns of the map, and the columns of their masks that can lie on it."""
    for start in range(0, w, COLUMNS):
        stop = min(start + COLUMNS, w)
        middle = (mw - 1) // 2
        yield slice(start, stop), slice(max(middle - stop + 1, 0), min(middle - start + w, mw))


def _turned(x: Tensor, turn: bool) -> Tensor:
    """(b, h, w, c), upside down or not."""
    return x.flip(1) if turn else x


def _like(x: Tensor) -> Tensor:
    """Empty, channels_last."""
    b, c, h, w = x.shape
    return x.new_empty(b, h, w, c).permute(0, 3, 1, 2)


@register_flop_formula(torch.ops.mmattn.point_wise)
def _flops(masks: tuple[int, ...], weight: tuple[int, ...], x: tuple[int, ...], *_: object, **__: object) -> int:
    (b, d, h, w), (mh, mw, _), c = masks, weight, x[1]
    count = _count(h, w)
    reach = (_reach(start, count, h, mh)[0] for start in range(0, h, count))
    rows = count * sum(sums.stop - sums.start for sums in reach)
    cells = sum((own.stop - own.start) * (mask.stop - mask.start) for own, mask in _columns(w, mw))
    return 2 * b * (rows * cells * d + (h * w) ** 2 * c)


@register_flop_formula(torch.ops.mmattn.point_wise_backward)
def _flops_backward(
    _: object, masks: tuple[int, ...], weight: tuple[int, ...], x: tuple[int, ...], *__: object, **___: object
) -> int:
    return 3 * _flops(masks, weight, x) - 2 * masks[0] * (masks[2] * masks[3]) ** 2 * x[1]
