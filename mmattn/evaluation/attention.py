"""Attention in numbers: how wide, how far, at what, and whether it depends on who asks.

A row is what one query attends to: non-negative weights (h, w) that sum to 1, of one head. Distances are shares of the
image's diagonal.

Source  Query dependence: Cao et al., GCNet, ICCV Workshops 2019, section 3.1, which found it missing in non-local
        blocks. Distance: Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, appendix D.7.
"""

import math
from collections import defaultdict
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

SATURATED, DEAD = 0.01, 0.01


def shares(rows: Tensor) -> Tensor:
    """Weights (..., h, w) as shares: where a mechanism takes no softmax, their moduli over the sum of these."""
    rows = rows.abs()
    return rows / rows.sum((-2, -1), keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)


def entropy(rows: Tensor) -> Tensor:
    """Entropy of rows (..., h, w), from 0 where they are one position to 1 where they are all positions alike."""
    positions = rows.shape[-2] * rows.shape[-1]
    return torch.special.entr(rows).sum((-2, -1)) / math.log(max(positions, 2))


def distance(rows: Tensor, at: Tensor, reach: tuple[float, float], aspect: float) -> Tensor:
    """Mean distance between a query and what it attends to.

    Args:
        rows: (queries, heads, h, w).
        at: (queries, 2), rows and columns of the queries, in fractions of the map.
        reach: Height and width of the map in image heights and widths.
        aspect: Width of the image over its height.

    Returns:
        (queries, heads), in diagonals of the image.
    """
    tall, wide = (length / math.hypot(1, aspect) for length in (reach[0], reach[1] * aspect))
    h, w = rows.shape[-2:]
    y, x = ((torch.arange(n, dtype=rows.dtype, device=rows.device) + 0.5) / n for n in (h, w))
    away = torch.hypot((y[:, None] - at[:, 0, None, None]) * tall, (x - at[:, 1, None, None]) * wide)  # (queries, h, w)
    return (rows * away[:, None]).sum((-2, -1))


def own_class(rows: Tensor, classes: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Share of the attention to labelled pixels that goes to the query's own class, and what chance would give it.

    Args:
        rows: (queries, heads, h, w).
        classes: (classes, h, w), which share of a cell's pixels is of each class; unlabelled pixels are in none.
        own: (queries,) class of each query.

    Returns:
        (queries, heads): the share; (queries,): the class's share of all labelled pixels.
    """
    labelled = (rows * classes.sum(0)).sum((-2, -1)).clamp(min=1e-12)
    share = (rows * classes[own][:, None]).sum((-2, -1)) / labelled
    frequency = classes.sum((-2, -1)) / classes.sum().clamp(min=1e-12)
    return share, frequency[own]


def query_dependence(rows: Tensor) -> Tensor:
    """Mean total variation distance between a query's row and the mean row of the other queries.

    0 when all rows are the same, 1 when none has a position in common with another.

    Args:
        rows: (queries, heads, h, w).

    Returns:
        (heads,).
    """
    count = len(rows)
    apart = (rows - rows.mean(0)).abs().sum((-2, -1)).mean(0) / 2
    return apart * count / max(count - 1, 1)


def correlation(x: Tensor, y: Tensor) -> float | None:
    """Pearson's, between a map and another (h, w) resized to it; None where one of them is constant."""
    y = F.interpolate(y[None, None].to(x), size=x.shape, mode="bilinear", align_corners=False)[0, 0]
    x, y = x - x.mean(), y - y.mean()
    norm = x.norm() * y.norm()
    return float((x * y).sum() / norm) if norm > 1e-12 else None


def class_shares(label: Tensor, count: int, size: tuple[int, int], reach: tuple[float, float]) -> Tensor:
    """Which share of each cell's pixels is of each class.

    Args:
        label: (h, w) classes; those of ``count`` and more are unlabelled.
        count: Number of classes.
        size: Grid of the cells.
        reach: Height and width that the grid covers, in those of the label; what it covers beyond is in no class.

    Returns:
        (count, *size), float32.
    """
    h, w = label.shape
    below, right = (round(n * (share - 1)) for n, share in zip((h, w), reach, strict=True))
    label = F.pad(label.long(), (0, right, 0, below), value=count).clamp(0, count)
    found = torch.zeros(count, *size, device=label.device)
    for c in label.unique().tolist():
        if c < count:
            found[c] = F.adaptive_avg_pool2d((label == c).float()[None], size)[0]
    return found


@dataclass
class Layer:
    """What is known of one tap, image after image.

    Attributes:
        place: Dotted place of the tap.
        mechanism: Class name of the mechanism.
        kind: Kind of its maps.
        images: How many were looked at.
        values: Every measured number by its name, one for each query and head, or for each image.
    """

    place: str
    mechanism: str
    kind: str
    images: int = 0
    values: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    _greatest: Tensor | None = None

    def note(self, **measured: Tensor | float | None) -> None:
        """Keep numbers under their names; None is not kept."""
        for name, value in measured.items():
            if value is not None:
                self.values[name].append(torch.as_tensor(value, dtype=torch.float32).flatten().cpu())

    def note_gate(self, gate: Tensor) -> None:
        """Keep what is asked of a gate (c or 1, h or 1, w or 1)."""
        self.note(
            gate=gate.mean(),
            spread=gate.std(correction=0),
            saturated=((gate < SATURATED) | (gate > 1 - SATURATED)).float().mean(),
        )
        if self.kind == "channel":
            channels = gate.amax((1, 2)).cpu()
            self._greatest = channels if self._greatest is None else torch.maximum(self._greatest, channels)

    def means(self) -> dict[str, float]:
        """The mean of each measure, and the share of channels that no image opens."""
        found = {name: float(torch.cat(values).mean()) for name, values in self.values.items()}
        if self._greatest is not None:
            found["dead"] = float((self._greatest < DEAD).float().mean())
        return found

    def samples(self, name: str) -> Tensor:
        """All numbers of a measure."""
        return torch.cat(self.values[name])


def pick(size: tuple[int, int], count: int, generator: torch.Generator) -> Tensor:
    """Different cells of a grid (h, w), as many as asked for or all, at random: (cells, 2), rows and columns."""
    at = torch.randperm(size[0] * size[1], generator=generator)[:count]
    return torch.stack([at // size[1], at % size[1]], dim=1)
