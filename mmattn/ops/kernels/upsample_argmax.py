"""The class of each pixel from the logits of a coarser map, and how often it was right, without the upsampled logits.

    y = r_y (Y + 1/2) - 1/2,  not below 0     position of pixel Y on the coarse map; r_y Y with align_corners
    z = (1 - dy) ((1 - dx) z00 + dx z01) + dy ((1 - dx) z10 + dx z11)      its four neighbours, dy, dx = y, x mod 1
    label = first argmax over classes of z, counts[truth, label] += 1

The order of operations, in float32, and the rounding to the type of the logits are those of torch's
``upsample_bilinear2d`` on CUDA.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128  # pixels of a row that a program labels
COPIES = 64  # of the counts, so that few programs add to one at a time


def label_map(
    logits: Tensor, size: tuple[int, int], *, align_corners: bool = False, dtype: torch.dtype = torch.int64
) -> Tensor:
    """Class of the largest of bilinearly interpolated logits, the first of equal ones.

    Args:
        logits: (b, classes, h, w), float32, float16 or bfloat16, any strides.
        size: Height and width of the result.
        align_corners: As of ``torch.nn.functional.interpolate``.
        dtype: Integer type of the result.

    Returns:
        (b, height, width).
    """
    out = torch.empty(len(logits), *size, dtype=dtype, device=logits.device)
    _run(logits, out, out, align_corners, count=False)
    return out


def confusion(logits: Tensor, truth: Tensor, *, align_corners: bool = False, ignore_index: int = 255) -> Tensor:
    """How often pixels of each class are labelled as each class, without the label map.

    Args:
        logits: (b, classes, h, w), float32, float16 or bfloat16, any strides.
        truth: True classes (b, height, width), integer. What is no class does not count.
        align_corners: As of ``torch.nn.functional.interpolate``.
        ignore_index: Pixels of this truth do not count.

    Returns:
        (classes, classes), int64: rows are the true classes, columns the predicted ones.
    """
    classes = logits.shape[1]
    counts = torch.zeros(COPIES, classes, classes, dtype=torch.int64, device=logits.device)
    _run(logits, truth.contiguous(), counts, align_corners, count=True, ignore=ignore_index)
    return counts.sum(0)


def _run(x: Tensor, labels: Tensor, counts: Tensor, align_corners: bool, *, count: bool, ignore: int = -1) -> None:
    (b, classes, h, w), (height, width) = x.shape, labels.shape[1:]
    steps = (_step(n, to, align_corners) for n, to in ((h, height), (w, width)))
    grid = (triton.cdiv(width, BLOCK), height, b)
    with torch.cuda.device_of(x):
        _label[grid](
            x, labels, counts, classes, h, w, height, width, *steps, *x.stride(), ignore,
            ALIGN=align_corners, COUNT=count, COPIES=COPIES, BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip


def _step(n: int, to: int, align_corners: bool) -> float:
    """Positions from one pixel to the next."""
    return n / to if not align_corners else (n - 1) / (to - 1) if to > 1 else 0.0


@triton.jit
def _neighbours(pixel, step, n, ALIGN: tl.constexpr):
    """The position before a pixel, the one after, and how far between them the pixel is."""
    at = step * pixel.to(tl.float32) if ALIGN else tl.maximum(step * (pixel.to(tl.float32) + 0.5) - 0.5, 0.0)
    before = at.to(tl.int32)
    return before, tl.minimum(before + 1, n - 1), at - before.to(tl.float32)


@triton.jit
def _label(
    X, Labels, Counts, classes, h, w, height, width, step_y, step_x, xb, xc, xh, xw, ignore,
    ALIGN: tl.constexpr, COUNT: tl.constexpr, COPIES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Labels (b, height, width) of one stretch of a row, or what they add to Counts (COPIES, classes, classes)."""
    row, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    top, bottom, dy = _neighbours(row, step_y, h, ALIGN)
    left, right, dx = _neighbours(tl.minimum(column, width - 1), step_x, w, ALIGN)
    upper, lower = X + image * xb + top.to(tl.int64) * xh, X + image * xb + bottom.to(tl.int64) * xh
    left, right = left.to(tl.int64) * xw, right.to(tl.int64) * xw

    best = tl.full([BLOCK], float("-inf"), tl.float32)
    label = tl.zeros([BLOCK], tl.int32)
    for c in range(classes):
        plane = tl.cast(c, tl.int64) * xc
        above = (1 - dx) * tl.load(upper + plane + left).to(tl.float32)
        above += dx * tl.load(upper + plane + right).to(tl.float32)
        below = (1 - dx) * tl.load(lower + plane + left).to(tl.float32)
        below += dx * tl.load(lower + plane + right).to(tl.float32)
        z = ((1 - dy) * above + dy * below).to(X.dtype.element_ty).to(tl.float32)
        better = (z > best) | ((z != z) & (best == best))  # not a number is the largest, as in torch
        best, label = tl.where(better, z, best), tl.where(better, c, label)

    pixel = (image * height + row) * width + column
    if COUNT:
        truth = tl.load(Labels + pixel, mask=inside, other=0).to(tl.int32)
        inside = inside & (truth != ignore) & (truth >= 0) & (truth < classes)
        copy = (tl.program_id(0) + tl.program_id(1) * tl.num_programs(0)) % COPIES
        tl.atomic_add(Counts + (copy * classes + truth) * classes + label, tl.full([BLOCK], 1, tl.int64), mask=inside)
    else:
        tl.store(Labels + pixel, label.to(Labels.dtype.element_ty), mask=inside)
