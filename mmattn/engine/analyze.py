"""Attention in numbers over the test split of a config: what ``tools/analyze_attention.py`` does."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmattn.attention.point_wise import PointWiseLayers
from mmattn.capture import Captured, capture, compose, owner
from mmattn.engine.config import clear_registry_errors
from mmattn.engine.datacheck import check_data
from mmattn.evaluation import attention
from mmattn.evaluation.attention import Layer
from mmattn.evaluation.metrics import IoUMetric
from mmattn.layers.records import CrissCross, Gate
from mmattn.registry import DATASETS
from mmattn.visualization.look import expect_attention
from mmattn.visualization.saliency import saliency


@dataclass
class Report:
    """What a run over a split found.

    Attributes:
        images: How many.
        queries: Queries asked in each map of each image, at most.
        layers: By the name of the tap, with the step where one fires repeatedly.
        miou: Of the model as it is, in percent.
        without: mIoU with one mechanism switched off, by the place of that mechanism.
    """

    images: int
    queries: int
    layers: dict[str, Layer] = field(default_factory=dict)
    miou: float = math.nan
    without: dict[str, float] = field(default_factory=dict)


def analyze(
    model: nn.Module, *, limit: int | None = None, queries: int = 128, ablate: bool = True, seed: int = 0
) -> Report:
    """Look at the attention of a model on every image of its config's test split.

    One image is in memory at a time, and of each map as many rows as there are queries.

    Args:
        model: As :func:`mmattn.engine.config.build_model` returns it.
        limit: So many images, evenly spread; all by default.
        queries: Positions whose rows are asked for in each map of each image, drawn at random.
        ablate: Run the split once more for each mechanism, with that one switched off.
        seed: Of the positions.

    Raises:
        UserError: The model has no attention, or the data are not as the config says.
    """
    cfg = model.cfg
    check_data(cfg, "test_dataloader")
    with clear_registry_errors(cfg), DefaultScope.overwrite_default_scope("mmattn"):
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
        count = min(limit or len(dataset), len(dataset))
        chosen = np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist()
        report, generator = Report(count, queries), torch.Generator().manual_seed(seed)
        report.miou = _run(model, dataset, chosen, "attention", partial(_measure, report, queries, generator))
        places = {owner(model, layer.place): None for layer in report.layers.values()} if ablate else {}
        for place in places:
            with switched_off(model.get_submodule(place)):
                report.without[place] = _run(model, dataset, chosen, f"without {place}")
    return report


@dataclass
class _Seen:
    """One image, as far as maps are compared with it.

    Attributes:
        label: (h, w) ground truth.
        count: Number of classes.
        saliency: Bottom-up, of some coarse grid.
        reach: Height and width that the maps cover, in those of the image.
    """

    label: Tensor
    count: int
    saliency: Tensor
    reach: tuple[float, float]
    _classes: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def own(self, at: Tensor) -> Tensor:
        """Class of the pixel at each place (n, 2) of the maps; ``count`` where there is none."""
        size = torch.tensor(self.label.shape)
        pixels = (at * torch.tensor(self.reach) * size).long()
        inside = (pixels < size).all(1)
        found = self.label[tuple(torch.where(inside[:, None], pixels, 0).T)].long()
        return torch.where(inside, found, self.count).clamp(max=self.count)

    def classes(self, size: tuple[int, int]) -> Tensor:
        """Share of each class in each cell of a grid that the maps have, (count, *size)."""
        if size not in self._classes:
            self._classes[size] = attention.class_shares(self.label, self.count, size, self.reach)
        return self._classes[size]


def _run(model: nn.Module, dataset: Any, chosen: Sequence[int], title: str, watch: Callable | None = None) -> float:
    """Predict the chosen images and score them; the mIoU."""
    metric = IoUMetric(iou_metrics=["mIoU"])
    metric.dataset_meta = dataset.metainfo
    MMLogger.get_current_instance().setLevel(logging.WARNING)  # the table of the classes is not asked for
    begin, said = time.perf_counter(), 0.0
    for done, number in enumerate(chosen, start=1):
        packed = dataset[number]
        batch = model.data_preprocessor({key: [packed[key]] for key in ("inputs", "data_samples")}, False)
        with torch.no_grad(), capture(model) if watch else nullcontext() as maps:
            (sample,) = model(**batch, mode="predict")
        if watch:
            resized, padded = batch["data_samples"][0].img_shape, batch["inputs"].shape[2:]
            image = np.ascontiguousarray(packed["inputs"].permute(1, 2, 0).numpy()[..., ::-1])  # blue came first
            stands_out = torch.from_numpy(saliency(image))
            reach = (padded[0] / resized[0], padded[1] / resized[1])
            watch(maps, _Seen(sample.gt_sem_seg.data[0].cpu(), len(dataset.metainfo["classes"]), stands_out, reach))
        metric.process({}, [sample.to_dict()])
        passed = time.perf_counter() - begin
        if passed - said > 5 or done == len(chosen):
            print(f"{title}: {done}/{len(chosen)}, {passed / done * (len(chosen) - done):.0f} s left", flush=True)
            said = passed
    return metric.evaluate(size=len(chosen))["mIoU"]


def _measure(report: Report, queries: int, generator: torch.Generator, maps: Sequence[Captured], seen: _Seen) -> None:
    expect_attention(maps)
    for place, group in groupby(maps, key=lambda m: m.name):
        steps = list(group)
        for m in steps:
            name = place if len(steps) == 1 else f"{place}, step {m.step + 1}"
            layer = report.layers.setdefault(name, Layer(m.name, m.mechanism, m.kind))
            layer.images += 1
            if isinstance(m.record, Gate):
                gate = m.record.gate()[0].cpu()  # (c or 1, h or 1, w or 1)
                layer.note_gate(gate)
                layer.note(saliency=attention.correlation(gate.mean(0), seen.saliency))
            elif m.kind != "channel_pairwise":
                at = attention.pick(m.record.size, queries, generator)  # (queries, 2)
                rows = m.record.rows(*at.T)[0].transpose(0, 1)  # (queries, heads, h', w')
                _measure_rows(layer, rows, (at + 0.5) / torch.tensor(m.record.size), seen)
        if len(steps) > 1 and isinstance(steps[0].record, CrissCross):
            hops = [m.record for m in steps]
            layer = report.layers.setdefault(f"{place}, together", Layer(place, steps[0].mechanism, steps[0].kind))
            layer.images += 1
            at = attention.pick(hops[0].size, queries, generator)
            rows = torch.stack([compose(hops, y, x)[0] for y, x in at.tolist()])  # (queries, 1, h, w)
            _measure_rows(layer, rows, (at + 0.5) / torch.tensor(hops[0].size), seen)


def _measure_rows(layer: Layer, rows: Tensor, at: Tensor, seen: _Seen) -> None:
    """Of the rows (queries, heads, h', w') of queries at the places (queries, 2), in fractions of the map."""
    rows = attention.shares(rows.cpu())
    tall, wide = seen.label.shape
    layer.note(
        entropy=attention.entropy(rows),
        distance=attention.distance(rows, at, seen.reach, wide / tall),
        dependence=attention.query_dependence(rows),
        saliency=attention.correlation(rows.mean((0, 1)), seen.saliency),
    )
    own = seen.own(at)
    known = own < seen.count
    if known.any():
        share, chance = attention.own_class(rows[known], seen.classes(tuple(rows.shape[2:])), own[known])
        layer.note(own_class=share, chance=chance)


@contextmanager
def switched_off(module: nn.Module) -> Iterator[None]:
    """A mechanism that does nothing: it gives out what came in, or zeros where it gives out something of another shape.

    Args:
        module: The mechanism; the head itself where a head is one, as PSANet's.
    """
    if isinstance(module, PointWiseLayers):  # inside a head it is a method, whose result the head concatenates
        module.point_wise = torch.zeros_like
        try:
            yield
        finally:
            del module.point_wise
        return

    def unchanged(_: nn.Module, inputs: tuple, out: Tensor) -> Tensor:
        return next((x for x in inputs if isinstance(x, Tensor) and x.shape == out.shape), torch.zeros_like(out))

    handle = module.register_forward_hook(unchanged)
    try:
        yield
    finally:
        handle.remove()


def table(report: Report) -> str:
    """The means of a report as text, one line for each layer."""
    lines = [["layer", "mechanism", "entropy", "distance", "own class (chance)", "dependence", "saliency", "gate", ""]]
    for name, layer in report.layers.items():
        means = layer.means()
        cell = lambda key, means=means: f"{means[key]:.3f}" if key in means else "-"  # noqa: E731
        own = f"{cell('own_class')} ({cell('chance')})" if "own_class" in means else "-"
        gate = f"{cell('gate')} +- {cell('spread')}" if "gate" in means else "-"
        notes = [f"{means[key]:.0%} {key}" for key in ("saturated", "dead") if key in means]
        cells = [cell("entropy"), cell("distance"), own, cell("dependence"), cell("saliency"), gate, ", ".join(notes)]
        lines.append([name, layer.mechanism, *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    text += ["", f"mIoU {report.miou:.2f} on {report.images} images"]
    text += [f"mIoU {miou:.2f} without {place} ({miou - report.miou:+.2f})" for place, miou in report.without.items()]
    return "\n".join(text)


def record(report: Report) -> dict[str, Any]:
    """A report for JSON: means, and standard deviations over queries, heads and images."""
    layers = {}
    for name, layer in report.layers.items():
        spread = {key: float(layer.samples(key).std(correction=0)) for key in layer.values}
        about = {"place": layer.place, "mechanism": layer.mechanism, "kind": layer.kind, "images": layer.images}
        layers[name] = about | {"mean": layer.means(), "std": spread}
    return {
        "images": report.images,
        "queries": report.queries,
        "mIoU": report.miou,
        "mIoU_without": report.without,
        "layers": layers,
    }
