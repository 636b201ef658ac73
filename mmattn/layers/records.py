"""What a tap hands out: factors, and the maps they stand for, computed on demand.

Every record has ``kind`` and ``size``, the (h, w) grid of its queries. Those that relate positions have
``row(y, x)``: what the query position attends to, (b, heads, h', w') over the grid of keys, summing to 1 wherever the
mechanism takes a softmax; and ``received()``, the mean of all rows. Others have ``gate()``, ``regions()`` or
``channels()``. No record holds an N x N matrix. Factors are kept as the mechanism had them; maps are float32 or wider.
Positions are (row, column), counted from the upper left.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

#: Rows of one map that are in memory at a time.
CHUNK = 256


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
        h, w = self.size
        if not (0 <= y < h and 0 <= x < w):
            raise IndexError(f"position ({y}, {x}) is outside the {h} x {w} grid")
        return self.rows(torch.tensor([y]), torch.tensor([x]))[:, :, 0]

    def rows(self, ys: Tensor, xs: Tensor) -> Tensor:
        """What several positions attend to.

        Args:
            ys: (queries,) rows of the positions.
            xs: (queries,) their columns.

        Returns:
            (b, heads, queries, h', w').

        Raises:
            TypeError: The mechanism does not relate positions.
        """
        raise TypeError(f"a {self.kind} map has no rows: it does not relate positions")

    def received(self) -> Tensor:
        """How much each position is attended to: the mean of all rows, some of them in memory at a time.

        Returns:
            (b, heads, h', w').

        Raises:
            TypeError: The mechanism does not relate positions.
        """
        h, w = self.size
        chunks = torch.arange(h * w).split(CHUNK)
        return sum(self.rows(at // w, at % w).sum(2) for at in chunks) / (h * w)

    def gate(self) -> Tensor:
        """What multiplies, (b, c or 1, h or 1, w or 1).

        Raises:
            TypeError: The mechanism does not multiply.
        """
        raise TypeError(f"a {self.kind} map is no gate")

    def regions(self) -> Tensor:
        """What each region is gathered from, (b, regions, h', w').

        Raises:
            TypeError: The mechanism has no regions.
        """
        raise TypeError(f"a {self.kind} map has no regions")


@dataclass(frozen=True)
class Gate(Record):
    """A map that multiplies: (b, c, 1, 1) of kind ``channel``, (b, 1, h, w) of kind ``spatial`` or ``mask``."""

    kind: str
    value: Tensor

    @property
    def size(self) -> tuple[int, int]:
        return tuple(self.value.shape[-2:])

    def gate(self) -> Tensor:
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

    def weights(self, ys: Tensor, xs: Tensor) -> Tensor:
        """The rows over the keys as the mechanism has them, (b, heads, queries, m)."""
        q = wide(self.q[:, :, ys * self.size[1] + xs])  # (b, heads, queries, d)
        logits = q @ wide(self.k).mT * self.scale
        return logits.softmax(-1) if self.softmax else logits

    def rows(self, ys: Tensor, xs: Tensor) -> Tensor:
        return self.weights(ys, xs).unflatten(-1, self.key_size)


@dataclass(frozen=True)
class Additive(Record):
    """Non-local's concatenation form: ``relu(a_i + b_j) / m``. a is (b, n), b is (b, m)."""

    kind: ClassVar[str] = "pairwise"
    a: Tensor
    b: Tensor
    size: tuple[int, int]
    key_size: tuple[int, int]

    def rows(self, ys: Tensor, xs: Tensor) -> Tensor:
        a = wide(self.a[:, ys * self.size[1] + xs])  # (b, queries)
        weights = (a[:, :, None] + wide(self.b)[:, None]).relu() / self.b.shape[1]  # (b, queries, m)
        return weights[:, None].unflatten(-1, self.key_size)


@dataclass(frozen=True)
class Pyramid(Pairwise):
    """Attention to the pooled cells of a pyramid. k is (b, heads, sum of s * s, d), fine cells after coarse ones.

    A row spreads each cell's weight evenly over the pixels it averages. As the cell's value is the mean of its
    pixels, this is exactly what each pixel contributes.

    Attributes:
        scales: Cells per side, in the order of the keys.
    """

    scales: tuple[int, ...] = ()

    def rows(self, ys: Tensor, xs: Tensor) -> Tensor:
        weights, (h, w) = self.weights(ys, xs), self.key_size
        plane = weights.new_zeros(*weights.shape[:3], h, w)
        for s, cells in zip(self.scales, weights.split([s * s for s in self.scales], dim=-1), strict=True):
            tall = _cells(h, s, weights)  # (s, h), each row sums to 1
            across = _cells(w, s, weights)  # (s, w)
            plane += tall.mT @ cells.unflatten(-1, (s, s)) @ across
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

    def weights(self, ys: Tensor, xs: Tensor) -> Tensor:
        """Over the column, from the top, and then over the row, (b, queries, h + w); the query counts in its row."""
        q, k = wide(self.q[:, :, ys, xs]), wide(self.k)  # (b, d, queries), (b, d, h, w)
        column = torch.einsum("bdr,bdir->bri", q, k[:, :, :, xs])  # (b, queries, h)
        column[:, torch.arange(len(ys), device=ys.device), ys] = float("-inf")
        line = torch.einsum("bdr,bdrj->brj", q, k[:, :, ys])  # (b, queries, w)
        return torch.cat([column, line], dim=2).softmax(2)

    def rows(self, ys: Tensor, xs: Tensor) -> Tensor:
        attn, (h, w), query = self.weights(ys, xs), self.size, torch.arange(len(ys))
        plane = attn.new_zeros(len(attn), len(ys), h, w)
        plane[:, query, :, xs] = attn[..., :h].transpose(0, 1)
        plane[:, query, ys] += attn[..., h:]
        return plane[:, None]


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
        return wide(self.soft)

    def weights(self) -> Tensor:
        """(b, regions, h, w): how much each pixel attends to each region; sums to 1 over regions."""
        return (torch.einsum("bdyx,bdr->bryx", wide(self.q), wide(self.k)) * self.scale).softmax(1)

    def rows(self, ys: Tensor, xs: Tensor) -> Tensor:
        logits = torch.einsum("bdq,bdr->brq", wide(self.q[:, :, ys, xs]), wide(self.k)) * self.scale
        return torch.einsum("brq,bryx->bqyx", logits.softmax(1), self.regions())[:, None]


@dataclass(frozen=True)
class PointWise(Record):
    """PSANet's predicted masks: position p has the logit ``q[:, :, p] . k[dy * mw + dx]`` at the offset (dy, dx).

    ``collect`` masks are predicted where information arrives, ``distribute`` masks where it leaves. Positions outside
    the mask have logit 0 before the softmax over sources.

    Attributes:
        q: (b, d, h, w), what the masks are predicted from.
        k: (b, mh * mw, d), the convolution that predicts them.
        mask_size: (mh, mw), or None when the h * w logits of a position are its sources themselves.
    """

    kind: ClassVar[str] = "pairwise"
    q: Tensor
    k: Tensor
    mask_size: tuple[int, int] | None
    direction: Literal["collect", "distribute"]
    softmax: bool = True

    @property
    def size(self) -> tuple[int, int]:
        return tuple(self.q.shape[-2:])

    def rows(self, ys: Tensor, xs: Tensor) -> Tensor:
        logits = torch.stack([self._logits(y, x) for y, x in zip(ys.tolist(), xs.tolist(), strict=True)], dim=1)
        weights = logits.softmax(2) if self.softmax else logits
        return weights[:, None].unflatten(3, self.size)

    def _logits(self, y: int, x: int) -> Tensor:
        """What the query attends to before the softmax, (b, h * w)."""
        channel, inside = (part.to(self.q.device) for part in self.channels(y, x))
        q = self.q[:, :, y, x, None] if self.direction == "collect" else self.q.flatten(2)  # (b, d, 1 or h * w)
        return (wide(q).mT * wide(self.k[:, channel])).sum(2) * inside

    def channels(self, y: int, x: int) -> tuple[Tensor, Tensor]:
        """Which logit of a mask relates the query and each position, and whether there is one, (h * w,) both."""
        h, w = self.size
        if self.mask_size is None:
            channel = torch.arange(h * w) if self.direction == "collect" else torch.full((h * w,), y * w + x)
            return channel, torch.ones(h * w, dtype=torch.bool)
        (mh, mw), toward = self.mask_size, 1 if self.direction == "collect" else -1
        dy = ((torch.arange(h) - y) * toward + (mh - 1) // 2)[:, None]
        dx = (torch.arange(w) - x) * toward + (mw - 1) // 2
        inside = (dy >= 0) & (dy < mh) & (dx >= 0) & (dx < mw)  # (h, w)
        return torch.where(inside, dy * mw + dx, 0).flatten(), inside.flatten()
