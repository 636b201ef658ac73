"""Means of a map over the cells of coarse grids."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmattn.ops.product import product


def pyramid(x: Tensor, scales: Sequence[int]) -> Tensor:
    """Means of (b, c, h, w) over s x s cells, for each s of ``scales``.

    Means over columns are a product with a matrix, one for all grids: it reads the map once, and backward makes one
    gradient of its size. What is left has s columns, and its rows are pooled as in :func:`pyramid_reference`.

    Returns:
        (b, c, S), the cells of each grid in reading order; S is the sum of all s^2.

    Source: Zhu et al., Asymmetric Non-local Neural Networks, ICCV 2019, section 3.2.
    """
    if torch.compiler.is_exporting():
        return pyramid_reference(x, scales)
    one = torch.eye(x.shape[3], dtype=x.dtype, device=x.device)  # (w, w)
    means = torch.cat([F.adaptive_avg_pool1d(one, s) for s in scales], dim=1)  # (w, sum of s)
    strips = product(x.flatten(1, 2), means.expand(len(x), -1, -1)).unflatten(1, x.shape[1:3])  # (b, c, h, sum of s)
    grids = zip(strips.split(list(scales), dim=3), scales, strict=True)
    return torch.cat([F.adaptive_avg_pool2d(strip, s).flatten(2) for strip, s in grids], dim=2)


def pyramid_reference(x: Tensor, scales: Sequence[int]) -> Tensor:
    """:func:`pyramid` in plain torch."""
    return torch.cat([F.adaptive_avg_pool2d(x, s).flatten(2) for s in scales], dim=2)
