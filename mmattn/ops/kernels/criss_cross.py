"""Attention of each position to its row and column, for prediction; no weights are kept.

Paper   Huang et al.: CCNet: Criss-Cross Attention for Semantic Segmentation, ICCV 2019. https://arxiv.org/abs/1811.11721

    S = q k^T,  m = max S,  l = sum exp(S - m),  O = exp(S - m) v / l      over the row of the position
    the same, from these m, l and O on                                     over its column, without the position

Each pass takes lines as FlashAttention-2 takes images. Exponentials have base 2. There is no backward pass.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmattn.layers import autocast_to, last
from mmattn.ops.kernels.attention import load, power, store


def predict_criss_cross(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """:func:`mmattn.ops.criss_cross` without gradients. Sums are float32.

    Args:
        q: (b, d, h, w), float32, float16 or bfloat16; d at most 256.
        k: (b, d, h, w).
        v: (b, c, h, w).

    Returns:
        (b, c, h, w), channels_last.
    """
    return _predict(*autocast_to(q, k, v))


def settings(dtype: torch.dtype, d: int, c: int) -> dict[str, object]:
    """What the kernel is compiled for: blocks that neither spill registers nor outgrow the memory of an H100."""
    block, columns = (32, 64) if dtype == torch.float32 else (64, 256)
    return {
        "D": d, "E": c, "BLOCK_D": power(d), "BLOCK_E": min(power(c), columns), "BLOCK_N": block, "BLOCK_M": block,
        "num_warps": 8, "num_stages": 2,
    }  # fmt: skip


@triton.jit
def _lines(
    Q, K, V, Out, Highest, Total, n, plane,
    qb, ql, qn, qd, kb, kl, kn, kd, vb, vl, vn, ve, ob, ol, on, oe, sl, sn,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """O, m and l of a block of a line and one of channels; of COLUMNS, from those of the rows on."""
    parts = tl.cdiv(n, BLOCK_N)
    line, here = (tl.program_id(0) // parts).to(tl.int64), tl.program_id(0) % parts * BLOCK_N
    image, first = tl.program_id(1).to(tl.int64), tl.program_id(2) * BLOCK_E
    K += image * kb + line * kl
    V += image * vb + line * vl + first.to(tl.int64) * ve
    Out += image * ob + line * ol + first.to(tl.int64) * oe
    row = here + tl.arange(0, BLOCK_N)
    sums = image * plane + line * sl + row.to(tl.int64) * sn
    if COLUMNS:
        highest = tl.load(Highest + sums, mask=row < n, other=0.0)
        total = tl.load(Total + sums, mask=row < n, other=1.0)
        o = load(Out, here, n, on, oe, E - first, BLOCK_N, BLOCK_E).to(tl.float32) * total[:, None]
    else:
        highest = tl.full([BLOCK_N], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_N], tl.float32)
        o = tl.zeros([BLOCK_N, BLOCK_E], tl.float32)
    q = load(Q + image * qb + line * ql, here, n, qn, qd, D, BLOCK_N, BLOCK_D)
    for start in range(0, n, BLOCK_M):
        key = start + tl.arange(0, BLOCK_M)
        k = load(K, start, n, kn, kd, D, BLOCK_M, BLOCK_D)
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * 1.4426950408889634  # (n, m), base 2
        seen = (key < n)[None]
        if COLUMNS:
            seen = seen & (row[:, None] != key[None])
        s = tl.where(seen, s, float("-inf"))
        higher = tl.maximum(highest, tl.max(s, 1))
        p = tl.exp2(s - higher[:, None])
        shrink = tl.exp2(highest - higher)
        total = total * shrink + tl.sum(p, 1)
        v = load(V, start, n, vn, ve, E - first, BLOCK_M, BLOCK_E)
        o = tl.dot(p.to(v.dtype), v, o * shrink[:, None], input_precision="ieee")
        highest = higher
    store(Out, o / total[:, None], here, n, on, oe, E - first, BLOCK_N, BLOCK_E)
    if not COLUMNS:  # noqa: SIM102 - known when compiling, unlike the next
        if first == 0:
            tl.store(Highest + sums, highest, mask=row < n)
            tl.store(Total + sums, total, mask=row < n)


@torch.library.custom_op("mmattn::predict_criss_cross", mutates_args=())
def _predict(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = last(q), last(k), last(v)  # (b, h, w, channels)
    b, h, w, d = q.shape
    c = v.shape[3]
    out = torch.empty_like(v, memory_format=torch.contiguous_format)
    sums = q.new_empty(2, b, h, w, dtype=torch.float32)
    constants = settings(q.dtype, d, c)
    with torch.cuda.device_of(q):
        for line, along in ((1, 2), (2, 1)):  # rows, then columns
            n = q.shape[along]
            strides = (x.stride(i) for x in (q, k, v, out) for i in (0, line, along, 3))
            grid = (q.shape[line] * triton.cdiv(n, constants["BLOCK_N"]), b, triton.cdiv(c, constants["BLOCK_E"]))
            steps = sums.stride(line + 1), sums.stride(along + 1)
            _lines[grid](q, k, v, out, *sums, n, h * w, *strides, *steps, COLUMNS=line == 2, **constants)
    return out.permute(0, 3, 1, 2)


@_predict.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.empty_like(v, memory_format=torch.channels_last)
