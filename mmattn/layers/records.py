"""What a tap hands out: factors, and the maps they stand for, computed on demand.

Every record has ``kind`` and ``size``, the (h, w) grid of its queries. Those that relate positions have
``row(y, x)``: what the query position attends to, (b, heads, h', w') over the grid of keys, summing to 1 wherever the
mechanism takes a softmax. No record holds an N x N matrix. Factors are kept as the mechanism had them; maps are float32
or wider. Positions are (row, column), counted from the upper left.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """In float32, or the wider type that x has."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Record:
    """Base of all records.

    Attributes:
        kind: One of :data:`mmattn.layers.tap.KINDS`.
        size: Grid (h, w) of the queries, or of the gate.
    """

    kind: str
    size: tuple[int, int]

    def row(self, y: int, x: int) -> Tensor:
        """What position (y, x) attends to.

        Returns:
            (b, heads, h', w') weights over the grid of keys.

        Raises:
            TypeError: The mechanism does not relate positions.
            IndexError: (y, x) is outside the grid.
        """
        raise TypeError(f"a {self.kind} map has no rows: it does not relate positions")

    def _index(self, y: int, x: int) -> int:
        h, w = self.size
        if not (0 <= y < h and 0 <= x < w):
            raise IndexError(f"position ({y}, {x}) is outside the {h} x {w} grid")
        return y * w + x


@dataclass(frozen=True)
class Gate(Record):
    """A map that multiplies: (b, c, 1, 1) of kind ``channel``, (b, 1, h, w) of kind ``spatial`` or ``mask``."""

    kind: str
    value: Tensor

    @property
    def size(self) -> tuple[int, int]:
        return tuple(self.value.shape[-2:])

    def gate(self) -> Tensor:
        """The gate, (b, c or 1, h or 1, w or 1)."""
        return wide(self.value)


@dataclass(frozen=True)
class Pairwise(Record):
    """Dense attention between positions: ``softmax(scale q k^T)``, or ``scale q k^T`` itself without ``softmax``.

    Attributes:
        q: (b, heads, n, d), n = h * w of ``size``.
        k: (b, heads, m, d), m = h' * w' of ``key_size``.
    """

    kind: ClassVar[str] = "pairwise"
    q: Tensor
    k: Tensor
    scale: float
    size: tuple[int, int]
    key_size: tuple[int, int]
    softmax: bool = True

    def weights(self, y: int, x: int) -> Tensor:
        """The row over the keys as the mechanism has them, (b, heads, m)."""
        q = wide(self.q[:, :, self._index(y, x)])  # (b, heads, d)
        logits = torch.einsum("bhd,bhmd->bhm", q, wide(self.k)) * self.scale
        return logits.softmax(-1) if self.softmax else logits

    def row(self, y: int, x: int) -> Tensor:
        return self.weights(y, x).unflatten(-1, self.key_size)


@dataclass(frozen=True)
class Additive(Record):
    """Non-local's concatenation form: ``relu(a_i + b_j) / m``. a is (b, n), b is (b, m)."""

    kind: ClassVar[str] = "pairwise"
    a: Tensor
    b: Tensor
    size: tuple[int, int]
    key_size: tuple[int, int]

    def row(self, y: int, x: int) -> Tensor:
        a = wide(self.a[:, self._index(y, x)])  # (b,)
        weights = (a[:, None] + wide(self.b)).relu() / self.b.shape[1]  # (b, m)
        return weights[:, None].unflatten(-1, self.key_size)


@dataclass(frozen=True)
class Pyramid(Pairwise):
    """Attention to the pooled cells of a pyramid. k is (b, heads, sum of s * s, d), fine cells after coarse ones.

    ``row`` spreads each cell's weight evenly over the pixels it averages. As the cell's value is the mean of its
    pixels, this is exactly what each pixel contributes.

    Attributes:
        scales: Cells per side, in the order of the keys.
    """

    scales: tuple[int, ...] = ()

    def row(self, y: int, x: int) -> Tensor:
        weights, (h, w) = self.weights(y, x), self.key_size
        plane = weights.new_zeros(*weights.shape[:2], h, w)
        for s, cells in zip(self.scales, weights.split([s * s for s in self.scales], dim=-1), strict=True):
            rows = _cells(h, s, weights)  # (s, h), each row sums to 1
            columns = _cells(w, s, weights)  # (s, w)
            plane += torch.einsum("bhij,iy,jx->bhyx", cells.unflatten(-1, (s, s)), rows, columns)
        return plane


def _cells(length: int, count: int, like: Tensor) -> Tensor:
    """Which positions each cell of adaptive average pooling averages, (count, length), rows summing to 1."""
    at = torch.arange(length, device=like.device)
    cell = torch.arange(count, device=like.device)[:, None]
    inside = (at >= cell * length // count) & (at < -((cell + 1) * length // -count))
    return (inside / inside.sum(1, keepdim=True)).to(like.dtype)


@dataclass(frozen=True)
class CrissCross(Record):
    """Attention along the query's column and row. q and k are (b, d, h, w); one softmax over h + w - 1 positions."""

    kind: ClassVar[str] = "criss_cross"
    q: Tensor
    k: Tensor

    @property
    def size(self) -> tuple[int, int]:
        return tuple(self.q.shape[-2:])

    def row(self, y: int, x: int) -> Tensor:
        self._index(y, x)
        q, k = wide(self.q[:, :, y, x]), wide(self.k)
        column = torch.einsum("bd,bdi->bi", q, k[:, :, :, x])  # (b, h)
        column[:, y] = float("-inf")  # the query itself counts once, in its row
        line = torch.einsum("bd,bdj->bj", q, k[:, :, y])  # (b, w)
        attn = torch.cat([column, line], dim=1).softmax(1)
        plane = attn.new_zeros(len(attn), 1, *self.size)
        plane[:, 0, :, x] = attn[:, : self.size[0]]
        plane[:, 0, y] += attn[:, self.size[0] :]
        return plane


@dataclass(frozen=True)
class ChannelPairwise(Record):
    """Attention between channels: softmax over the last axis of ``logits`` (b, c, c)."""

    kind: ClassVar[str] = "channel_pairwise"
    logits: Tensor
    size: tuple[int, int]

    def channels(self) -> Tensor:
        """(b, c, c): what each channel takes from each other."""
        return wide(self.logits).softmax(-1)


@dataclass(frozen=True)
class Regions(Record):
    """Attention to a few soft regions, each itself a softmax over positions.

    Attributes:
        q: (b, d, h, w) queries of the pixels.
        k: (b, d, regions) keys of the regions.
        soft: (b, regions, h', w'), what each region is gathered from; sums to 1 over positions.
    """

    kind: ClassVar[str] = "regions"
    q: Tensor
    k: Tensor
    scale: float
    soft: Tensor

    @property
    def size(self) -> tuple[int, int]:
        return tuple(self.q.shape[-2:])

    def regions(self) -> Tensor:
        """(b, regions, h', w'): what each region is gathered from."""
        return wide(self.soft)

    def weights(self) -> Tensor:
        """(b, regions, h, w): how much each pixel attends to each region; sums to 1 over regions."""
        return (torch.einsum("bdyx,bdr->bryx", wide(self.q), wide(self.k)) * self.scale).softmax(1)

    def row(self, y: int, x: int) -> Tensor:
        self._index(y, x)
        logits = torch.einsum("bd,bdr->br", wide(self.q[:, :, y, x]), wide(self.k)) * self.scale
        return torch.einsum("br,bryx->byx", logits.softmax(1), self.regions())[:, None]


@dataclass(frozen=True)
class PointWise(Record):
    """PSANet's predicted masks: position p and offset (dy, dx) have the logit ``logits[:, dy * mw + dx, p]``.

    ``collect`` masks are predicted where information arrives, ``distribute`` masks where it leaves. Positions outside
    the mask have logit 0 before the softmax over sources.

    Attributes:
        logits: (b, mh * mw, h, w).
        mask_size: (mh, mw), or None when the h * w logits of a position are its sources themselves.
    """

    kind: ClassVar[str] = "pairwise"
    logits: Tensor
    mask_size: tuple[int, int] | None
    direction: Literal["collect", "distribute"]
    softmax: bool = True

    @property
    def size(self) -> tuple[int, int]:
        return tuple(self.logits.shape[-2:])

    def row(self, y: int, x: int) -> Tensor:
        at, (h, w) = self._index(y, x), self.size
        logits = wide(self.logits)
        if self.mask_size is None:
            flat = logits.flatten(2)  # (b, h * w, h * w)
            weights = (flat[:, :, at] if self.direction == "collect" else flat[:, at]).unflatten(1, (h, w))
        else:
            mh, mw = self.mask_size
            toward = 1 if self.direction == "collect" else -1
            dy = (torch.arange(h, device=logits.device) - y)[:, None] * toward + (mh - 1) // 2
            dx = (torch.arange(w, device=logits.device) - x) * toward + (mw - 1) // 2
            inside = (dy >= 0) & (dy < mh) & (dx >= 0) & (dx < mw)  # (h, w)
            index = torch.where(inside, dy * mw + dx, 0).expand(len(logits), 1, h, w)
            predictor = logits[:, :, y, x, None, None].expand_as(logits) if toward == 1 else logits
            weights = predictor.gather(1, index)[:, 0] * inside  # (b, h, w)
        if self.softmax:
            weights = weights.flatten(1).softmax(1).unflatten(1, (h, w))
        return weights[:, None]
