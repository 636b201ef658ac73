"""Attention whose weights are rectified sums of a number of the query and a number of the key."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmattn.layers import autocast_to


def additive(a: Tensor, b: Tensor, v: Tensor) -> Tensor:
    """Mean over j of ``relu(a_i + b_j) v_j``, in n log n time and without the pairs.

    The keys that a query takes are the largest ones, and what it takes of them is ``a_i sum v_j + sum b_j v_j``: sums
    over sorted keys up to where ``b_j > -a_i``. Sums are float64, for the two may nearly cancel. An export holds the
    reference: runtimes do not know all that this needs.

    Args:
        a: (b, n).
        b: (b, m).
        v: (b, m, e).

    Returns:
        (b, n, e).
    """
    if torch.compiler.is_exporting():
        return additive_reference(a, b, v)
    a, b, v = autocast_to(a, b, v)
    dtype, a, b, v = v.dtype, a.double(), b.double(), v.double()
    keys, order = b.sort(dim=1, descending=True)  # (b, m) each
    v = v.gather(1, order[..., None].expand_as(v))  # (b, m, e)
    sums = torch.cat([v, keys[..., None] * v], dim=2).cumsum(dim=1)  # (b, m, 2 e)
    sums = F.pad(sums, (0, 0, 1, 0))  # (b, m + 1, 2 e), of the first 0, 1, ... m keys
    count = torch.searchsorted(-keys.detach(), a.detach())  # (b, n), keys with -b_j < a_i
    own, other = sums.gather(1, count[..., None].expand(-1, -1, sums.shape[2])).chunk(2, dim=2)  # (b, n, e) each
    return ((a[..., None] * own + other) / b.shape[1]).to(dtype)


def additive_reference(a: Tensor, b: Tensor, v: Tensor) -> Tensor:
    """:func:`additive` in plain torch."""
    return (a[:, :, None] + b[:, None]).relu() / b.shape[1] @ v
