"""Attention of each position to its own column and row."""

import torch
from torch import Tensor


def criss_cross(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One softmax over the h + w - 1 positions of the query's column and row; the query itself counts once.

    Args:
        q: (b, d, h, w).
        k: (b, d, h, w).
        v: (b, c, h, w).

    Returns:
        (b, c, h, w): at each position the values of its column and row, weighted.

    Source: Huang et al., CCNet, ICCV 2019, eq. 1 and 2.
    """
    h = q.shape[2]
    twice = torch.eye(h, dtype=torch.bool, device=q.device)
    columns = torch.einsum("bdhw,bdiw->bhwi", q, k)  # (b, h, w, h)
    columns = columns.masked_fill(twice[:, None], float("-inf"))  # the query is counted in its row
    rows = torch.einsum("bdhw,bdhj->bhwj", q, k)  # (b, h, w, w)
    attn = torch.cat([columns, rows], dim=3).softmax(dim=3)  # (b, h, w, h + w)
    column, row = attn.to(v.dtype).split([h, q.shape[3]], dim=3)
    return torch.einsum("bhwi,bciw->bchw", column, v) + torch.einsum("bhwj,bchj->bchw", row, v)
