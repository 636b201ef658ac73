"""Dense attention that never holds the weights, in four kernels; values may be wider than keys.

Paper   Dao: FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning, ICLR 2024.
        https://arxiv.org/abs/2307.08691

    S = scale Q K^T,  L = log rowsum exp S,  O = exp(S - L) V      algorithm 1: one pass over blocks of keys
    D = rowsum(dO * O)                                             algorithm 2: the weights again, from L
    P = exp(S - L),   dS = P * (dO V^T - D)
    dQ = scale dS K,  dK = scale dS^T Q,  dV = P^T dO

Differs dQ, dK and dV have a pass each: no atomic additions, so the same sums on every run, and values twice as wide in
        the registers. L is kept as max S and log rowsum exp(S - max S), which stays exact where logits are large.
        Exponentials have base 2.
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.utils.flop_counter import register_flop_formula

from mmattn.layers import autocast_to


def flash(q: Tensor, k: Tensor, v: Tensor, scale: float = 1.0) -> Tensor:
    """``softmax(scale q k^T) v`` and its gradients, in memory that grows with n + m.

    Sums are float32. Tokens are read where they are, the rows or the columns of a matrix next to each other in memory
    and 16 elements apart; others are copied. float32 is multiplied as ``torch.backends.cuda.matmul.allow_tf32`` says.
    No second derivatives.

    Args:
        q: (b, n, d), float32, float16 or bfloat16; d at most 256.
        k: (b, m, d), m at least 1.
        v: (b, m, e); e at most 512.
        scale: Factor on the logits.

    Returns:
        (b, n, e), laid out in memory as q is.
    """
    return _flash(*autocast_to(q, k, v), scale)[0]


@dataclass(frozen=True)
class Blocks:
    """How many queries and keys a program holds at a time, and columns of the values; what runs it."""

    queries: int
    keys: int
    values: int
    stages: int
    warps: int = 8


def blocks(kernel: str, dtype: torch.dtype, precision: str, d: int, e: int) -> Blocks:
    """Blocks that neither spill registers nor outgrow the shared memory of an H100.

    Args:
        kernel: "forward", "queries" (dQ), "keys" (dK) or "values" (dV).
        dtype: Of q, k and v.
        precision: In which float32 is multiplied, "ieee" or "tf32".
        d: Width of keys.
        e: Width of values.
    """
    d, e = power(d), power(e)
    if dtype == torch.float32:
        small = 32 if precision == "tf32" else 16
        own, other, values, stages = (32, 32, 64, 2) if kernel in ("forward", "values") else (small, small, 32, 1)
    elif kernel in ("forward", "values"):
        own, other, values, stages = 128, 64, 256, 2
    else:  # all columns of the values at once
        own, other, values, stages = 128 if d + e <= 576 else 64, 64 if d + e <= 256 else 32, e, 2
    queries, keys = (own, other) if kernel in ("forward", "queries") else (other, own)
    return Blocks(queries, keys, min(e, values), stages)


def power(width: int) -> int:
    """The block that holds a width: a power of two, and no less than tensor cores take."""
    return max(16, triton.next_power_of_2(width))


@triton.jit
def load(x, start, n, across, along, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows from ``start`` of x (n, width), zeros where it ends."""
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    inside = (start + row < n)[:, None] & (column < width)[None]
    x += tl.cast(start, tl.int64) * across
    return tl.load(x + row[:, None] * across + column[None] * along, mask=inside, other=0.0)


@triton.jit
def store(x, value, start, n, across, along, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Writes rows from ``start`` of x (n, width)."""
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    inside = (start + row < n)[:, None] & (column < width)[None]
    x += tl.cast(start, tl.int64) * across
    tl.store(x + row[:, None] * across + column[None] * along, value.to(x.dtype.element_ty), mask=inside)


@triton.jit
def _forward(
    Q, K, V, Out, L, n, m, scale,
    qb, qn, qd, kb, km, kd, vb, vm, ve, ob, on, oe,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """O (b, n, E) of one block of queries and one of columns, and L (b, 2, n)."""
    here, image, first = tl.program_id(0) * BLOCK_N, tl.program_id(1).to(tl.int64), tl.program_id(2) * BLOCK_E
    q = load(Q + image * qb, here, n, qn, qd, D, BLOCK_N, BLOCK_D)
    K += image * kb
    V += image * vb + first.to(tl.int64) * ve
    highest = tl.full([BLOCK_N], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_N], tl.float32)
    o = tl.zeros([BLOCK_N, BLOCK_E], tl.float32)
    for start in range(0, m, BLOCK_M):
        k = load(K, start, m, km, kd, D, BLOCK_M, BLOCK_D)
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale  # (n, m)
        s = tl.where((start + tl.arange(0, BLOCK_M) < m)[None], s, float("-inf"))
        higher = tl.maximum(highest, tl.max(s, 1))
        p = tl.exp2(s - higher[:, None])
        shrink = tl.exp2(highest - higher)
        total = total * shrink + tl.sum(p, 1)
        v = load(V, start, m, vm, ve, E - first, BLOCK_M, BLOCK_E)
        o = tl.dot(p.to(v.dtype), v, o * shrink[:, None], input_precision=PRECISION)
        highest = higher
    store(Out + image * ob + first.to(tl.int64) * oe, o / total[:, None], here, n, on, oe, E - first, BLOCK_N, BLOCK_E)
    if first == 0:
        row = here + tl.arange(0, BLOCK_N)
        tl.store(L + 2 * image * n + row, highest, mask=row < n)
        tl.store(L + 2 * image * n + n + row, tl.log2(total), mask=row < n)


@triton.jit
def _queries(
    Q, K, V, Out, L, dO, Delta, dQ, n, m, scale, slope,
    qb, qn, qd, kb, km, kd, vb, vm, ve, ob, on, oe, gb, gn, ge, dqb, dqn, dqd,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dQ (b, n, D) of one block of queries, and Delta (b, n), the paper's D."""
    here, image = tl.program_id(0) * BLOCK_N, tl.program_id(1).to(tl.int64)
    row = here + tl.arange(0, BLOCK_N)
    K += image * kb
    V += image * vb
    Out += image * ob
    dO += image * gb
    delta = tl.zeros([BLOCK_N], tl.float32)
    for first in tl.static_range(0, E, BLOCK_E):
        do = load(dO + first * ge, here, n, gn, ge, E - first, BLOCK_N, BLOCK_E)
        o = load(Out + first * oe, here, n, on, oe, E - first, BLOCK_N, BLOCK_E)
        delta += tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)
    tl.store(Delta + image * n + row, delta, mask=row < n)
    q = load(Q + image * qb, here, n, qn, qd, D, BLOCK_N, BLOCK_D)
    highest = tl.load(L + 2 * image * n + row, mask=row < n, other=0.0)
    total = tl.load(L + 2 * image * n + n + row, mask=row < n, other=0.0)
    dq = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for start in range(0, m, BLOCK_M):
        k = load(K, start, m, km, kd, D, BLOCK_M, BLOCK_D)
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale  # (n, m)
        s = tl.where((start + tl.arange(0, BLOCK_M) < m)[None], s, float("-inf"))
        dp = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        for first in tl.static_range(0, E, BLOCK_E):
            if BLOCK_E < E:  # else it is there already
                do = load(dO + first * ge, here, n, gn, ge, E - first, BLOCK_N, BLOCK_E)
            v = load(V + first * ve, start, m, vm, ve, E - first, BLOCK_M, BLOCK_E)
            dp = tl.dot(do, tl.trans(v), dp, input_precision=PRECISION)
        ds = tl.exp2(s - highest[:, None] - total[:, None]) * (dp - delta[:, None])
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)
    store(dQ + image * dqb, dq * slope, here, n, dqn, dqd, D, BLOCK_N, BLOCK_D)


@triton.jit
def _keys(
    Q, K, V, L, dO, Delta, dK, n, m, scale, slope,
    qb, qn, qd, kb, km, kd, vb, vm, ve, gb, gn, ge, dkb, dkm, dkd,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dK (b, m, D) of one block of keys."""
    here, image = tl.program_id(0) * BLOCK_M, tl.program_id(1).to(tl.int64)
    Q += image * qb
    V += image * vb
    dO += image * gb
    k = load(K + image * kb, here, m, km, kd, D, BLOCK_M, BLOCK_D)
    if BLOCK_E >= E:
        v = load(V, here, m, vm, ve, E, BLOCK_M, BLOCK_E)
    dk = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(0, n, BLOCK_N):
        row = start + tl.arange(0, BLOCK_N)
        highest = tl.load(L + 2 * image * n + row, mask=row < n, other=0.0)
        total = tl.load(L + 2 * image * n + n + row, mask=row < n, other=0.0)
        delta = tl.load(Delta + image * n + row, mask=row < n, other=0.0)
        q = load(Q, start, n, qn, qd, D, BLOCK_N, BLOCK_D)
        s = tl.dot(k, tl.trans(q), input_precision=PRECISION) * scale  # (m, n)
        dp = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for first in tl.static_range(0, E, BLOCK_E):
            if BLOCK_E < E:
                v = load(V + first * ve, here, m, vm, ve, E - first, BLOCK_M, BLOCK_E)
            do = load(dO + first * ge, start, n, gn, ge, E - first, BLOCK_N, BLOCK_E)
            dp = tl.dot(v, tl.trans(do), dp, input_precision=PRECISION)
        ds = tl.exp2(s - highest[None] - total[None]) * (dp - delta[None])
        dk = tl.dot(ds.to(q.dtype), q, dk, input_precision=PRECISION)
    store(dK + image * dkb, dk * slope, here, m, dkm, dkd, D, BLOCK_M, BLOCK_D)


@triton.jit
def _values(
    Q, K, L, dO, dV, n, m, scale,
    qb, qn, qd, kb, km, kd, gb, gn, ge, dvb, dvm, dve,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dV (b, m, E) of one block of keys and one of columns."""
    here, image, first = tl.program_id(0) * BLOCK_M, tl.program_id(1).to(tl.int64), tl.program_id(2) * BLOCK_E
    k = load(K + image * kb, here, m, km, kd, D, BLOCK_M, BLOCK_D)
    Q += image * qb
    dO += image * gb + first.to(tl.int64) * ge
    dV += image * dvb + first.to(tl.int64) * dve
    dv = tl.zeros([BLOCK_M, BLOCK_E], tl.float32)
    for start in range(0, n, BLOCK_N):
        row = start + tl.arange(0, BLOCK_N)
        highest = tl.load(L + 2 * image * n + row, mask=row < n, other=0.0)
        total = tl.load(L + 2 * image * n + n + row, mask=row < n, other=0.0)
        q = load(Q, start, n, qn, qd, D, BLOCK_N, BLOCK_D)
        s = tl.dot(k, tl.trans(q), input_precision=PRECISION) * scale  # (m, n)
        p = tl.exp2(s - highest[None] - total[None])
        do = load(dO, start, n, gn, ge, E - first, BLOCK_N, BLOCK_E)
        dv = tl.dot(p.to(do.dtype), do, dv, input_precision=PRECISION)
    store(dV, dv, here, m, dvm, dve, E - first, BLOCK_M, BLOCK_E)


def _constants(kernel: str, q: Tensor, v: Tensor) -> dict[str, object]:
    """What the kernels are compiled for."""
    d, e = q.shape[2], v.shape[2]
    matmul = torch.backends.cuda.matmul
    tf32 = matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32
    precision = "tf32" if tf32 else "ieee"
    use = blocks(kernel, q.dtype, precision, d, e)
    return {
        "D": d, "E": e, "BLOCK_D": power(d), "BLOCK_E": use.values, "BLOCK_N": use.queries, "BLOCK_M": use.keys,
        "PRECISION": precision, "num_warps": use.warps, "num_stages": use.stages,
    }  # fmt: skip


def _even(x: Tensor) -> Tensor:
    """Itself where whole vectors can be loaded, else a copy; what is loaded one by one spills registers."""
    b, n, c = x.stride()
    return x if (n == 1 and c % 16 == b % 16 == 0) or (c == 1 and n % 16 == b % 16 == 0) else x.contiguous()


def _empty(q: Tensor, width: int) -> Tensor:
    """(b, n, width), laid out as q is."""
    b, n, _ = q.shape
    return q.new_empty(b, width, n).mT if _even(q).stride(2) != 1 else q.new_empty(b, n, width)


@torch.library.custom_op("mmattn::flash", mutates_args=())
def _flash(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """O (b, n, e) and L (b, 2, n)."""
    (b, n, _), (_, m, e) = q.shape, v.shape
    q, k, v = (_even(x) for x in (q, k, v))
    out, logs = _empty(q, e), q.new_empty(b, 2, n, dtype=torch.float32)
    constants = _constants("forward", q, v)
    grid = (triton.cdiv(n, constants["BLOCK_N"]), b, triton.cdiv(e, constants["BLOCK_E"]))
    strides = (stride for x in (q, k, v, out) for stride in x.stride())
    with torch.cuda.device_of(q):
        _forward[grid](q, k, v, out, logs, n, m, scale * math.log2(math.e), *strides, **constants)
    return out, logs


@_flash.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return _empty(q, v.shape[2]), q.new_empty(len(q), 2, q.shape[1], dtype=torch.float32)


@torch.library.custom_op("mmattn::flash_backward", mutates_args=())
def _flash_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, logs: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    (b, n, _), m = q.shape, k.shape[1]
    grad, q, k, v = (_even(x) for x in (grad, q, k, v))
    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    delta = logs.new_empty(b, n)
    scales = (scale * math.log2(math.e), scale)
    with torch.cuda.device_of(q):
        constants = _constants("queries", q, v)
        strides = (stride for x in (q, k, v, out, grad, dq) for stride in x.stride())
        grid = (triton.cdiv(n, constants["BLOCK_N"]), b)
        _queries[grid](q, k, v, out, logs, grad, delta, dq, n, m, *scales, *strides, **constants)
        constants = _constants("keys", q, v)
        strides = (stride for x in (q, k, v, grad, dk) for stride in x.stride())
        grid = (triton.cdiv(m, constants["BLOCK_M"]), b)
        _keys[grid](q, k, v, logs, grad, delta, dk, n, m, *scales, *strides, **constants)
        constants = _constants("values", q, v)
        strides = (stride for x in (q, k, grad, dv) for stride in x.stride())
        grid = (triton.cdiv(m, constants["BLOCK_M"]), b, triton.cdiv(v.shape[2], constants["BLOCK_E"]))
        _values[grid](q, k, logs, grad, dv, n, m, scales[0], *strides, **constants)
    return dq, dk, dv


@_flash_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, logs: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (torch.empty_like(_even(x)) for x in (q, k, v))
    return dq, dk, dv


def _setup(ctx: FunctionCtx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    *saved, ctx.scale = inputs
    ctx.save_for_backward(*saved, *output)
    ctx.set_materialize_grads(False)


def _gradients(ctx: FunctionCtx, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    return (None,) * 4 if grad is None else (*_flash_backward(grad, *ctx.saved_tensors, ctx.scale), None)


_flash.register_autograd(_gradients, setup_context=_setup)


@register_flop_formula(torch.ops.mmattn.flash)
def _flops(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], *_: object, **__: object) -> int:
    b, n, d = q
    return 2 * b * n * k[1] * (d + v[2])


@register_flop_formula(torch.ops.mmattn.flash_backward)
def _flops_backward(
    _: object, q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], *__: object, **___: object
) -> int:
    b, n, d = q
    return 2 * b * n * k[1] * (3 * d + 2 * v[2])
