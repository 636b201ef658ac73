"""Bilinear resizing that learns only as it runs whether to align corners."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(x: Tensor, size: tuple[int, int], align_corners: bool | int) -> Tensor:
    """``torch.nn.functional.interpolate``, bilinear.

    An export leaves the size of the image open, and what follows from it: it holds two products with what each row
    and column gives to each new one.

    Args:
        x: (b, c, h, w).
        size: Height and width of the result.
        align_corners: As of ``interpolate``; in an export also a symbolic 0 or 1.

    Returns:
        (b, c, height, width).
    """
    if isinstance(align_corners, bool):
        return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
    rows, columns = (_shares(n, to, align_corners, x) for n, to in zip(x.shape[2:], size, strict=True))
    return rows @ x @ columns.mT


def _shares(n: int, to: int, aligned: int, x: Tensor) -> Tensor:
    """(to, n): what each of n positions gives to each new one."""
    old, new = (torch.arange(count, device=x.device) for count in (n, to))
    at = (2 * new + 1 - aligned) * (n - aligned) / (2 * (to - aligned)) - (1 - aligned) / 2  # (to,)
    at = at.clamp(torch.zeros_like(at), (n - 1) * torch.ones_like(at))
    return (1 - (at[:, None] - old).abs()).relu().to(x.dtype)
