"""What a figure shows of each captured map: numbers and captions, nothing painted yet.

Every record type says in one function here which views it has. A new one needs a function more, and nothing else.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, singledispatch
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from mmattn.capture import Captured, compose
from mmattn.layers.records import (
    Additive,
    ChannelPairwise,
    CrissCross,
    Gate,
    Pairwise,
    PointWise,
    Pyramid,
    Record,
    Regions,
)
from mmattn.visualization.scene import Query

SHARE = "\N{MULTIPLICATION SIGN} uniform"  # 1 where a position gets as much as if all were weighted alike


@dataclass(frozen=True)
class Overlay:
    """A map to lay over the image.

    Attributes:
        values: (h, w).
        caption: What it is.
        point: The point that it belongs to.
        reach: Height and width that it covers, in image heights and widths; above 1 where the input was padded.
    """

    values: np.ndarray
    caption: str
    point: int | None = None
    reach: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True)
class Bars:
    """One value for each of the things counted: channels, positions or both."""

    values: np.ndarray
    label: str
    counted: str


@dataclass(frozen=True)
class Matrix:
    """What each channel (row) takes from each other (column)."""

    values: np.ndarray


@dataclass(frozen=True)
class View:
    """One band of the figure: panels that share a colour scale.

    Attributes:
        title: The mechanism.
        note: What it shows, in plain words.
        place: Dotted place of the tap in the model.
        unit: Unit of the values.
        panels: What to paint.
    """

    title: str
    note: str
    place: str
    unit: str
    panels: Sequence[Overlay | Bars | Matrix]


def views(
    maps: Sequence[Captured],
    queries: Sequence[Query],
    classes: Sequence[str] = (),
    reach: tuple[float, float] = (1.0, 1.0),
) -> list[View]:
    """All views of what one forward captured, in order of firing.

    Args:
        maps: What :func:`mmattn.capture.capture` gave; of a batch the first image is shown.
        queries: The points whose rows to show.
        classes: Names of the classes, for mechanisms that have a region for each.
        reach: As of the scene.
    """
    shown = []
    for name, group in groupby(maps, key=lambda m: m.name):
        steps = list(group)
        word = "hop" if isinstance(steps[0].record, CrissCross) else "step"
        for step in steps:
            title = step.mechanism if len(steps) == 1 else f"{step.mechanism}, {word} {step.step + 1} of {len(steps)}"
            for note, unit, panels in describe(step.record, queries, classes):
                shown.append(View(title, note, name, unit, panels))
        hops = [step.record for step in steps if isinstance(step.record, CrissCross)]
        if len(hops) > 1:
            panels = _rows(queries, hops[0].size, partial(_composed, hops))
            title = f"{steps[0].mechanism}, {_count(len(hops))} hops together"
            shown.append(View(title, "where each point looks in the end", name, SHARE, panels))
    return [
        replace(view, panels=[replace(p, reach=reach) if isinstance(p, Overlay) else p for p in view.panels])
        for view in shown
    ]


def side_by_side(of_models: Mapping[str, Sequence[View]], queries: Sequence[Query]) -> list[View]:
    """Views of several models in each other's company: for each point what all of them make of it, then the rest.

    Where a model shows a point more than once in one place, as the hops of a recurrence, the last one counts.

    Args:
        of_models: The views of each model, by its name.
        queries: The points.
    """
    pointed = [
        (model, view)
        for model, shown in of_models.items()
        for view in {view.place: view for view in shown if _has_points(view)}.values()
    ]
    together = []
    for i, query in enumerate(queries):
        for unit in dict.fromkeys(view.unit for _, view in pointed):
            panels = [
                replace(panel, caption=f"{model}: {view.title}")
                for model, view in pointed
                for panel in view.panels
                if view.unit == unit and panel.point == i
            ]
            note = f"where point {i + 1} looks, which the first model takes for {query.caption}"
            together.append(View(f"Point {i + 1}", note, ", ".join(of_models), unit, panels))
    for model, shown in of_models.items():
        together += [replace(view, title=f"{model}: {view.title}") for view in shown if not _has_points(view)]
    return together


def _has_points(view: View) -> bool:
    return any(isinstance(panel, Overlay) and panel.point is not None for panel in view.panels)


Description = tuple[str, str, Sequence[Overlay | Bars | Matrix]]


@singledispatch
def describe(record: Record, queries: Sequence[Query], classes: Sequence[str]) -> list[Description]:
    """(note, unit, panels) for each view of a record."""
    raise TypeError(f"no view of a {type(record).__name__}")


@describe.register(Pairwise)
@describe.register(Additive)
def _(record: Pairwise | Additive, queries: Sequence[Query], classes: Sequence[str]) -> list[Description]:
    note = "where each point looks"
    if isinstance(record, Pyramid):
        note += f", through the averages of {', '.join(f'{s} x {s}' for s in record.scales)} cells"
    if isinstance(record, Pairwise) and record.q.shape[1] > 1:
        note += f", mean of {record.q.shape[1]} heads"
    if isinstance(record, Additive) or not record.softmax:
        return [(note, "weight", _rows(queries, record.size, record.row))]
    return [(note, SHARE, _rows(queries, record.size, lambda y, x: record.row(y, x) * math.prod(record.key_size)))]


@describe.register
def _(record: CrissCross, queries: Sequence[Query], classes: Sequence[str]) -> list[Description]:
    count = sum(record.size) - 1
    panels = _rows(queries, record.size, lambda y, x: record.row(y, x) * count)
    return [("where each point looks along its row and column", SHARE, panels)]


@describe.register
def _(record: PointWise, queries: Sequence[Query], classes: Sequence[str]) -> list[Description]:
    note = {
        "collect": "collect: where each point looks, by the mask it predicts itself",
        "distribute": "distribute: what reaches each point, by the masks that all others predict",
    }[record.direction]
    if not record.softmax:
        return [(note, "weight", _rows(queries, record.size, record.row))]
    return [(note, SHARE, _rows(queries, record.size, lambda y, x: record.row(y, x) * math.prod(record.size)))]


@describe.register
def _(record: Regions, queries: Sequence[Query], classes: Sequence[str]) -> list[Description]:
    soft, weights = record.regions()[0], record.weights()[0]  # (regions, h', w'), (regions, h, w)
    of_classes = len(classes) == len(soft)
    names = list(classes) if of_classes else [f"region {r}" for r in range(len(soft))]
    count = soft[0].numel()
    rows = _rows(queries, record.size, lambda y, x: record.row(y, x) * count)
    for i, query in enumerate(queries):
        here = weights[(slice(None), *query.cell(record.size))]  # (regions,)
        top = [f"{names[r]} {float(here[r]):.0%}" for r in here.argsort(descending=True)[:2].tolist()]
        rows[i] = replace(rows[i], caption=f"{query.caption} → {', '.join(top)}")
    used = weights.mean((1, 2)).argsort(descending=True)[: max(3, len(queries))].tolist()
    gathered = [Overlay(_array(soft[r]) * count, names[r]) for r in used]
    attended = [Overlay(_array(weights[r]), f"{names[r]}, {float(weights[r].mean()):.0%} of all") for r in used]
    return [
        (f"where each point looks, through the soft {'class ' * of_classes}regions", SHARE, rows),
        ("the regions most used: what each is gathered from", SHARE, gathered),
        ("how much each point looks at those regions", "weight", attended),
    ]


@describe.register
def _(record: Gate, queries: Sequence[Query], classes: Sequence[str]) -> list[Description]:
    gate = _array(record.gate()[0])  # (c or 1, h or 1, w or 1)
    if record.kind == "channel":
        return [("how much of each channel passes", "gate", [Bars(gate.ravel(), "gate", "channels")])]
    if gate.size > 1 and abs(float(gate.sum()) - 1) < 1e-3:  # a softmax over positions
        note, unit, gate = "what the whole image is summed up from, the same for every point", SHARE, gate * gate.size
    else:
        note, unit = "which positions pass" if record.kind == "mask" else "how much of each position passes", "gate"
    if len(gate) == 1:
        planes = [Overlay(gate[0], "")]
    elif len(gate) <= 6:
        planes = [Overlay(plane, f"part {i}") for i, plane in enumerate(gate, start=1)]
    else:
        planes = [Overlay(gate.mean(0), f"mean of {len(gate)} channels")]
    return [(note, unit, [*planes, Bars(gate.ravel(), unit, "values" if len(gate) > 1 else "positions")])]


@describe.register
def _(record: ChannelPairwise, queries: Sequence[Query], classes: Sequence[str]) -> list[Description]:
    attn = record.channels()[0]  # (c, c)
    received = attn.mean(0)
    order = received.argsort(descending=True)
    panels = [
        Matrix(_array(attn[order][:, order] * len(attn))),
        Bars(_array(received * len(attn)), f"taken from it, {SHARE}", "channels"),
    ]
    return [("what each channel takes from each other, the most taken from first", SHARE, panels)]


def _rows(queries: Sequence[Query], size: tuple[int, int], row: Callable[[int, int], Tensor]) -> list[Overlay]:
    return [
        Overlay(_array(row(*query.cell(size))[0].mean(0)), query.caption, point) for point, query in enumerate(queries)
    ]


def _composed(hops: Sequence[CrissCross], y: int, x: int) -> Tensor:
    return compose(hops, y, x) * math.prod(hops[0].size)


def _array(x: Tensor) -> np.ndarray:
    return x.detach().to("cpu", torch.float32).numpy()


def _count(n: int) -> str:
    return {2: "both", 3: "all three"}.get(n, f"all {n}")
