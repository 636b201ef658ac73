"""Records made small: factors rotated so that few columns matter, rounded as far as their rows allow.

``q k^T = (Q u sqrt(s)) (K v sqrt(s))^T`` with the orthogonal parts Q and K of the factors and the singular value
decomposition of what remains, a small square matrix. Each column is rounded in steps in inverse proportion to its
partner's size, so that all contribute the same error; columns smaller than a step vanish. The step is the widest
with which the sampled rows stay close enough.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch

import torch
from torch import Tensor

from mmattn.capture import compose
from mmattn.layers.records import CrissCross, Pairwise, PointWise, Record, Regions
from mmattn.visualization.explorer.codes import Codes, encode

TOLERANCE = 1e-2  # greatest error of a row, in parts of its maximum
AIM = 0.65 * TOLERANCE  # of the sampled rows, so that all others stay below as well
WIDEST = 0.1  # step tried first, in logits, or in parts of the largest weight where there is no softmax
NARROWEST = 2.0**-20  # step tried last, in parts of the first
SAMPLES = 24  # queries spread over the grid, and half as many of the largest and the smallest factors

Arrays = dict[str, Codes]


Rounded = tuple[Record, Arrays]  # a record as the page will have it, and the arrays it is made of


@dataclass(frozen=True)
class Shrunk:
    """Records as the page has them.

    Attributes:
        records: With rounded factors.
        arrays: The factors of each.
        error: Greatest error of the sampled rows, in parts of their maxima.
        width: Columns before and after.
    """

    records: Sequence[Record]
    arrays: Sequence[Arrays]
    error: float
    width: tuple[int, int]


def shrink(records: Sequence[Record]) -> Shrunk:
    """Round records of one grid as far as their sampled rows stay within :data:`AIM`.

    Args:
        records: One, or the hops of criss-cross attention, whose composition is watched as well.
    """
    records = [one_image(record) for record in records]
    at = _samples(records[0])
    exact = _rows(records, at)
    rounders = [rounder(record) for record in records]
    soft = getattr(records[0], "softmax", True)
    step = WIDEST * (1.0 if soft else float(exact[0].abs().max()) or 1.0)
    narrowest = step * NARROWEST
    while True:
        rounded, arrays = zip(*(round_to(step) for round_to in rounders), strict=True)
        found = _rows(rounded, at)
        error = max(_error(a, b) for a, b in zip(found, exact, strict=True))
        if error <= AIM or step <= narrowest:
            return Shrunk(rounded, arrays, error, (_width(records[0]), len(arrays[0]["q"].step)))
        step *= min(0.8, max(0.9 * AIM / error, 0.02))


def one_image(record: Record) -> Record:
    """The first image of the batch, float32 on the CPU."""
    tensors = {name: value for name, value in vars(record).items() if isinstance(value, Tensor)}
    return replace(record, **{name: value[:1].detach().float().cpu() for name, value in tensors.items()})


def _rows(records: Sequence[Record], at: Sequence[tuple[int, int]]) -> list[Tensor]:
    rows = [torch.stack([record.row(y, x)[0] for y, x in at]).flatten(0, 1) for record in records]
    if len(records) > 1:
        few = 3 if len(records) == 2 else 1
        rows.append(torch.stack([compose(records, y, x)[0, 0] for y, x in at[::-1][:few]]))
    return rows


def _error(found: Tensor, exact: Tensor) -> float:
    """Greatest difference of (rows, h, w), in parts of each row's maximum; a row of zeros has to stay one."""
    top = exact.abs().amax((1, 2), keepdim=True).clamp(min=torch.finfo(exact.dtype).tiny)
    return float(((found - exact).abs() / top).max())


def _samples(record: Record) -> list[tuple[int, int]]:
    h, w = record.size
    q = record.q[0]
    strength = q.norm(dim=-1).amax(0) if isinstance(record, Pairwise) else q.norm(dim=0).flatten()
    order = strength.argsort().tolist()
    spread = [(2 * i + 1) * h * w // (2 * SAMPLES) for i in range(SAMPLES)]
    chosen = dict.fromkeys([*spread, *order[: SAMPLES // 2], *order[-SAMPLES // 2 :]])
    return [divmod(i, w) for i in chosen]


def _width(record: Record) -> int:
    return record.q.shape[-1] if isinstance(record, Pairwise) else record.q.shape[1]


def split(q: Tensor, k: Tensor, shift: bool) -> tuple[Tensor, Tensor]:
    """Other factors of ``q k^T``, their columns in falling order, in float64.

    Args:
        q: (n, d).
        k: (m, d).
        shift: Whether each row of the product may change by a constant, as before a softmax.
    """
    q, k = q.double(), k.double()
    if shift:
        k = k - k.mean(0)
    (basis_q, rest_q), (basis_k, rest_k) = torch.linalg.qr(q), torch.linalg.qr(k)
    u, s, vh = torch.linalg.svd(rest_q @ rest_k.T, full_matrices=False)
    return basis_q @ (u * s.sqrt()), basis_k @ (vh.T * s.sqrt())


def _round_pair(q: Tensor, k: Tensor, step: float) -> tuple[Codes, Codes]:
    """Factors rounded so that each column errs the product by about one step."""
    pair = [encode(own, step / _rms(other)) for own, other in ((q, k), (k, q))]
    kept = (pair[0].values().abs().amax(0) * pair[1].values().abs().amax(0) > 0).numpy()
    kept[0] = True
    return tuple(Codes(c.codes[kept], c.low[kept], c.step[kept]) for c in pair)


def _rms(columns: Tensor) -> Tensor:
    return columns.square().mean(0).sqrt().clamp(min=1e-12)


@singledispatch
def rounder(record: Record) -> Callable[[float], Rounded]:
    """What rounds a record to a step."""
    raise TypeError(f"a {type(record).__name__} has no factors")


@rounder.register
def _(record: Pairwise) -> Callable[[float], Rounded]:
    heads = [split(q, k * record.scale, record.softmax) for q, k in zip(record.q[0], record.k[0], strict=True)]

    def round_to(step: float) -> Rounded:
        arrays: Arrays = {}
        for head, (q, k) in enumerate(heads):
            number = str(head or "")
            arrays[f"q{number}"], arrays[f"k{number}"] = _round_pair(q, k, step)
        q, k = (_stack([codes.values() for name, codes in arrays.items() if name[0] == of]) for of in "qk")
        return replace(record, q=q[None], k=k[None], scale=1.0), arrays

    return round_to


def _stack(heads: Sequence[Tensor]) -> Tensor:
    """(n, columns) of each head, filled up to the widest."""
    width = max(head.shape[1] for head in heads)
    return torch.stack([torch.nn.functional.pad(head, (0, width - head.shape[1])) for head in heads])


@rounder.register
def _(record: CrissCross) -> Callable[[float], Rounded]:
    q, k = split(record.q[0].flatten(1).T, record.k[0].flatten(1).T, shift=True)

    def round_to(step: float) -> Rounded:
        arrays = dict(zip("qk", _round_pair(q, k, step), strict=True))
        q_, k_ = (arrays[name].values().T.unflatten(1, record.size)[None] for name in "qk")
        return replace(record, q=q_, k=k_), arrays

    return round_to


@rounder.register
def _(record: Regions) -> Callable[[float], Rounded]:
    q, k = split(record.q[0].flatten(1).T, record.k[0].T * record.scale, shift=True)
    soft = record.soft[0].flatten(1).T  # (n, regions)
    top = soft.amax(0)

    def round_to(step: float) -> Rounded:
        arrays = dict(zip("qk", _round_pair(q, k, step), strict=True)) | {
            "soft": encode(soft, top * min(step, 1 / 255))
        }
        q_, k_, soft_ = (arrays[name].values().T for name in ("q", "k", "soft"))
        rounded = replace(
            record,
            q=q_.unflatten(1, record.size)[None],
            k=k_[None],
            scale=1.0,
            soft=soft_.view_as(record.soft[0])[None],
        )
        return rounded, arrays

    return round_to


@rounder.register
def _(record: PointWise) -> Callable[[float], Rounded]:
    used = offsets(record)
    q, k = split(record.q[0].flatten(1).T, record.k[0, used], shift=False)

    def round_to(step: float) -> Rounded:
        arrays = dict(zip("qk", _round_pair(q, k, step), strict=True))
        q_, seen = arrays["q"].values(), arrays["k"].values()  # (n, columns), (offsets, columns)
        k_ = seen.new_zeros(record.k.shape[1], seen.shape[1]).index_copy(0, used, seen)
        return replace(record, q=q_.T.unflatten(1, record.size)[None], k=k_[None]), arrays

    return round_to


def offsets(record: PointWise) -> Tensor:
    """The logits of a mask that fall inside the image for some position, as indices."""
    if record.mask_size is None:
        return torch.arange(record.k.shape[1])
    (h, w), (mh, mw) = record.size, record.mask_size
    inside = [(torch.arange(m) - (m - 1) // 2).abs() < length for m, length in ((mh, h), (mw, w))]
    return (inside[0][:, None] & inside[1]).flatten().nonzero()[:, 0]
