"""Cross entropy of upsampled logits, without the upsampled logits."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from mmattn.layers import wide
from mmattn.ops.upsample_argmax import SIDE, exact_step

ELEMENTS = 2**18  # logits upsampled at once on a CPU: what a cache holds


class PixelLoss(NamedTuple):
    """What :func:`pixel_loss` returns.

    Attributes:
        sums: (losses,), with gradients: the cross entropy of all pixels, weighted, added up.
        correct: Of how many pixels the label has the largest logit, int64; a tie is enough.
    """

    sums: Tensor
    correct: Tensor


def pixel_loss(
    logits: Tensor,
    label: Tensor,
    weights: Tensor,
    pixel_weight: Tensor | None = None,
    *,
    ignore_index: int = 255,
    align_corners: bool = False,
) -> PixelLoss:
    """Cross entropy of bilinearly upsampled logits, under one or more weightings of the classes.

    Computes :func:`pixel_loss_reference` a few rows of pixels at a time, the gradient of the logits with them: memory
    is that of the logits, not of the image. In float32 or wider, whatever their type. No second derivatives.

    Args:
        logits: (b, classes, h, w).
        label: (b, height, width), int64: classes and ``ignore_index``.
        weights: (losses, classes); each row makes one sum.
        pixel_weight: (b, height, width).
        ignore_index: Pixels of this label do not count.
        align_corners: As of ``torch.nn.functional.interpolate``.
    """
    return PixelLoss(*_PixelLoss.apply(logits, label, weights, pixel_weight, ignore_index, align_corners))


def pixel_loss_reference(
    logits: Tensor,
    label: Tensor,
    weights: Tensor,
    pixel_weight: Tensor | None = None,
    *,
    ignore_index: int = 255,
    align_corners: bool = False,
) -> PixelLoss:
    """:func:`pixel_loss` in plain torch."""
    pixels = F.interpolate(wide(logits), size=label.shape[1:], mode="bilinear", align_corners=align_corners)
    sums = []
    for weight in weights.to(pixels):
        losses = F.cross_entropy(pixels, label, weight, ignore_index=ignore_index, reduction="none")  # (b, H, W)
        sums.append((losses if pixel_weight is None else losses * pixel_weight).sum())
    counted = label != ignore_index
    best = pixels.gather(1, label.where(counted, 0)[:, None])[:, 0] == pixels.amax(1)
    return PixelLoss(torch.stack(sums), (best & counted).sum())


@torch.no_grad()
def by_strips(
    function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, label: Tensor, *, align_corners: bool = False
) -> Tensor:
    """What a function says of each pixel, without a gradient; it sees some rows of bilinearly upsampled logits.

    These are bit by bit torch's own, so that they can be put in order. That needs a scale that floating point steps
    through exactly, a power of two; with any other the function sees one image after the other.

    Args:
        function: From logits (1, classes, rows, width) and labels (1, rows, width) to (1, rows, width).
        logits: (b, classes, h, w).
        label: (b, height, width), int64.
        align_corners: As of ``torch.nn.functional.interpolate``.

    Returns:
        (b, height, width).
    """
    (height, width), (b, classes, h, _) = label.shape[1:], logits.shape
    steps = [exact_step(n, to, align_corners) for n, to in zip(logits.shape[2:], (height, width), strict=True)]
    step = steps[0] if all(steps) and min(height, width) > SIDE else 0
    count = max(_budget(logits) // (classes * width * step), -(-SIDE // step)) if step else h  # rows of logits at once
    layout = torch.contiguous_format if logits.is_contiguous() else torch.channels_last
    images = []
    for i in range(b):
        strips = []
        for y in range(0, h, count):
            above, below = max(y - (not align_corners), 0), min(y + count + 1, h)
            rows = logits[i : i + 1, :, above:below].contiguous(memory_format=layout)
            tall = (below - above - align_corners) * step + align_corners if step else height
            pixels = F.interpolate(rows, size=(tall, width), mode="bilinear", align_corners=align_corners)
            at = slice(y * step, (y + count) * step) if y + count < h else slice(y * step, height)
            pixels = pixels[:, :, (y - above) * step :][:, :, : at.stop - at.start]
            strips.append(function(pixels, label[i : i + 1, at]))
        images.append(torch.cat(strips, dim=1))
    return torch.cat(images)


class _PixelLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        logits: Tensor,
        label: Tensor,
        weights: Tensor,
        pixel_weight: Tensor | None,
        ignore_index: int,
        align_corners: bool,
    ) -> tuple[Tensor, Tensor]:
        strips = _Strips(logits, label.shape[1:], align_corners)
        weights = weights.to(logits.device, strips.dtype)
        sums = weights.new_zeros(len(weights))
        correct = torch.zeros((), dtype=torch.long, device=logits.device)
        needed = len(weights) if ctx.needs_input_grad[0] else 0
        gradients = [torch.zeros_like(logits, dtype=strips.dtype) for _ in range(needed)]
        for i, rows in strips:
            target = label[i, rows]  # (rows, width)
            counted = target != ignore_index
            target = target.where(counted, 0)[None]
            pixels = strips.up(i, rows)  # (classes, rows, width)
            correct += ((pixels.gather(0, target)[0] == pixels.amax(0)) & counted).sum()
            pixels = pixels.log_softmax(0)
            entropy = -pixels.gather(0, target)[0]
            share = counted if pixel_weight is None else counted * pixel_weight[i, rows].to(strips.dtype)
            factors = weights[:, target[0]] * share  # (losses, rows, width)
            sums += (entropy * factors).sum((1, 2))
            if needed:  # d entropy / d pixels = softmax - one at the label
                pixels.exp_().scatter_add_(0, target, pixels.new_full((), -1).expand_as(target))
            for gradient, factor in zip(gradients, factors, strict=False):
                strips.down(pixels * factor, rows, gradient[i])
        ctx.save_for_backward(*(gradient.to(logits.dtype) for gradient in gradients))
        ctx.mark_non_differentiable(correct)
        return sums, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        total = sum(g * gradient for g, gradient in zip(grad, ctx.saved_tensors, strict=True))
        return total, None, None, None, None, None


def _budget(x: Tensor) -> int:
    return ELEMENTS if x.is_cpu else 64 * ELEMENTS


class _Strips:
    """Rows of pixels of upsampled logits, image by image, and the way back.

    Iterates over (image, rows), rows a slice of the height.
    """

    def __init__(self, logits: Tensor, size: tuple[int, int], align_corners: bool) -> None:
        self.logits, self.size, self.align_corners = logits, size, align_corners
        self.dtype = torch.promote_types(logits.dtype, torch.float32)
        h = logits.shape[2]
        ones = torch.eye(h, dtype=self.dtype, device=logits.device)[None]
        share = self._upsample(ones, size[0])[0]  # (h, height), the columns sum to 1
        self.above = (share > 0).int().argmax(0)  # (height,): the first of the two rows between which a pixel is
        self.below = (self.above + 1).clamp(max=h - 1)
        self.share = share.gather(0, self.above[None])[0, :, None]  # (height, 1), of the row above

    def __iter__(self) -> Iterator[tuple[int, slice]]:
        (height, width), (b, classes) = self.size, self.logits.shape[:2]
        count = max(1, _budget(self.logits) // (classes * max(width, 1)))
        return ((i, slice(y, y + count)) for i in range(b) for y in range(0, height, count))

    def up(self, i: int, rows: slice) -> Tensor:
        """Pixels (classes, rows, width)."""
        image, share = self.logits[i].to(self.dtype), self.share[rows]
        lines = image[:, self.above[rows]] * share + image[:, self.below[rows]] * (1 - share)  # (classes, rows, w)
        return self._upsample(lines, self.size[1])

    def down(self, pixels: Tensor, rows: slice, to: Tensor) -> None:
        """Add the gradient of the logits (classes, h, w) to ``to``, given that of the pixels."""
        shape, share = [*pixels.shape[:2], to.shape[2]], self.share[rows]
        backward = torch.ops.aten.upsample_linear1d_backward
        lines = backward(pixels, pixels.shape[2:], shape, self.align_corners)  # (classes, rows, w)
        to.index_add_(1, self.above[rows], lines * share)
        to.index_add_(1, self.below[rows], lines * (1 - share))

    def _upsample(self, lines: Tensor, width: int) -> Tensor:
        return F.interpolate(lines, size=width, mode="linear", align_corners=self.align_corners)
