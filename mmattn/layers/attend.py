"""Scaled dot-product attention, the step that most mechanisms share."""

from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float = 1.0) -> Tensor:
    """``softmax(scale q k^T) v`` over the last two axes.

    Args:
        q: (..., n, d).
        k: (..., m, d).
        v: (..., m, e).
        scale: Factor on the logits.

    Returns:
        (..., n, e).
    """
    attn = (q @ k.mT * scale).softmax(dim=-1)  # (..., n, m)
    return attn @ v


def tokens(x: Tensor) -> Tensor:
    """A feature map (b, c, h, w) as its positions in reading order, (b, h * w, c)."""
    return x.flatten(2).mT


def plane(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The inverse of :func:`tokens`: (b, h * w, c) as (b, c, h, w)."""
    return x.mT.unflatten(2, size)
