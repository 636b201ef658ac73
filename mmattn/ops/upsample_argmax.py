"""The class of each pixel, from the logits of a coarser map."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmattn.ops import kernels

SIDE = 128  # torch rounds otherwise where a result is smaller than this
ELEMENTS = 2**18  # interpolated at once on a CPU: what a cache holds


def upsample_argmax(logits: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """Class of the largest of bilinearly interpolated logits, the first of equal ones.

    Equal to :func:`upsample_argmax_reference` in every pixel. Between four positions that agree on their class, by more
    than rounding can undo, all pixels are of that class. The other cells alone are interpolated, a few at a time, by
    torch's own function. That needs finite logits and a scale that floating point steps through exactly, a power of
    two; otherwise one image after the other is interpolated as a whole.

    Args:
        logits: (b, classes, h, w).
        size: Height and width of the result.
        align_corners: As of ``torch.nn.functional.interpolate``.

    Returns:
        (b, height, width), int64.
    """
    if torch.compiler.is_exporting():
        return upsample_argmax_reference(logits, size, align_corners=align_corners)
    if kernels.labels(logits):
        from mmattn.ops.kernels.upsample_argmax import label_map  # wants triton

        return label_map(logits, size, align_corners=align_corners)
    logits, size = logits.detach(), tuple(size)
    out = torch.empty(len(logits), *size, dtype=torch.long, device=logits.device)
    steps = tuple(exact_step(n, to, align_corners) for n, to in zip(logits.shape[2:], size, strict=True))
    dense = logits.is_contiguous() or logits.is_contiguous(memory_format=torch.channels_last)
    exact = dense and all(steps) and min(size) > SIDE and bool(logits.isfinite().all())
    for i, label in enumerate(out):
        image = logits[i : i + 1]
        if exact:
            _by_cells(image, label, steps, align_corners)
        else:
            label.copy_(_classes(image, size, align_corners))
    return out


def upsample_argmax_reference(logits: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """:func:`upsample_argmax` in plain torch."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners).argmax(1)


def exact_step(n: int, to: int, align_corners: bool) -> int:
    """Pixels from one position to the next, if that is a power of two, else 0."""
    cells, pixels = (n - 1, to - 1) if align_corners else (n, to)
    step = pixels // cells if n > 1 else 0
    return step if step > 1 and step.bit_count() == 1 and step * cells == pixels else 0


def _classes(image: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """(1, classes, h, w) to (height, width)."""
    pixels = F.interpolate(image, size=size, mode="bilinear", align_corners=align_corners)
    return pixels[0].max(0).indices  # many times as fast as argmax


def _by_cells(image: Tensor, out: Tensor, steps: tuple[int, int], align_corners: bool) -> None:
    """Classes of one image, (1, classes, h, w), into ``out`` (height, width)."""
    (_, classes, h, w), (rows, columns) = image.shape, steps
    label, agreed = _agreement(image[0])
    y, x = (torch.arange(n, device=out.device).repeat_interleave(s) for n, s in zip((h, w), steps, strict=True))
    torch.index_select(label[:, x[: out.shape[1]]], 0, y[: len(out)], out=out)  # class of the nearest position
    _label_rim(image, out, steps, align_corners)

    top, left = (0, 0) if align_corners else (rows // 2, columns // 2)  # pixels before the first position
    inner = out[top:, left:][: (h - 1) * rows, : (w - 1) * columns]
    inner = inner.unflatten(1, (-1, columns)).unflatten(0, (-1, rows)).transpose(1, 2)  # (h - 1, w - 1, rows, columns)
    differs = F.pad(~agreed, (0, 1))  # (h - 1, w): the cell right of and below each position
    y, x = (differs | differs.roll(1, dims=1)).nonzero(as_tuple=True)  # positions to the left or right of such a cell
    at = F.pad(torch.stack([y, y + 1]) * w + x, (0, SIDE))  # (2, n)
    count = (1 if out.is_cpu else 64) * ELEMENTS // (2 * classes * rows * columns)
    count = max(count, SIDE // columns)
    for i in range(0, len(x), count):
        cells = _strip(image, at[:, i : i + count + 1], steps, (top, left))
        to = y[i : i + count], x[i : i + count]
        real = differs[to]  # the others lie between positions that are no neighbours
        inner[to[0][real], to[1][real]] = cells[: len(real)][real]


def _agreement(image: Tensor) -> tuple[Tensor, Tensor]:
    """Class of each position (h, w), and whether the four around a cell share it for certain (h - 1, w - 1)."""
    largest, label = image.max(0)  # (h, w)
    second = image.scatter(0, label[None], float("-inf")).amax(0)
    number = torch.finfo(image.dtype)
    rounding = 8 * number.eps * (largest.abs() + second.abs()) + number.smallest_normal
    sure = largest - second > rounding
    known = label.masked_fill(~sure, -1)
    same = (known[:, 1:] == known[:, :-1]) & sure[:, 1:]  # (h, w - 1)
    return label, same[1:] & same[:-1] & (known[1:, 1:] == known[:-1, 1:])


def _label_rim(image: Tensor, out: Tensor, steps: tuple[int, int], align_corners: bool) -> None:
    """The pixels before the first position and after the last, where one row or column decides."""
    (height, width), (rows, columns) = out.shape, steps
    layout = torch.contiguous_format if image.is_contiguous() else torch.channels_last
    first, last = (x.contiguous(memory_format=layout) for x in (image[..., :1], image[..., -1:]))  # (1, classes, h, 1)
    if align_corners:
        out[-1] = _classes(image[:, :, -1:], (1, width), True)
        out[:, -1:] = _classes(last, (height, 1), True)
        return
    top, left = rows // 2, columns // 2
    out[:top] = _classes(image[:, :, :1], (rows, width), False)[:top]
    out[-top:] = _classes(image[:, :, -1:], (rows, width), False)[-top:]
    out[:, :left] = _classes(first, (height, columns), False)[:, :left]
    out[:, -left:] = _classes(last, (height, columns), False)[:, -left:]


def _strip(image: Tensor, at: Tensor, steps: tuple[int, int], before: tuple[int, int]) -> Tensor:
    """Classes between columns of two positions each, (2, n) indices into h * w, put side by side.

    Returns:
        (n - 1, rows, columns).
    """
    (rows, columns), (top, left), n = steps, before, at.shape[1]
    if image.is_contiguous():
        strip = image[0].flatten(1)[:, at][None]  # (1, classes, 2, n)
    else:
        strip = image[0].permute(1, 2, 0).flatten(0, 1)[at].permute(2, 0, 1)[None]
    upsample = torch.ops.aten.upsample_bilinear2d  # F.interpolate makes the rows below the cells as well
    if top:
        pixels = upsample(strip, (top + rows, n * columns), False, rows, columns)
    else:
        pixels = upsample(strip, (rows + 1, (n - 1) * columns + 1), True)
    pixels = pixels[0, :, top:, left:][:, :rows].unfold(2, columns, columns)  # (classes, rows, n - 1, columns)
    return pixels.max(0).indices.transpose(0, 1)
