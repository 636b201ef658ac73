"""mmseg's modules and ours, item by item: agreement first, then time, then memory."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mmattn.cli import UserError
from mmattn.engine.benchmark import claims, parts, stages
from mmattn.engine.benchmark.bars import BARS, MAP
from mmattn.engine.benchmark.measure import MIB, alternate, extra_memory, free, told
from mmattn.engine.benchmark.pairs import MODULES, DifferentError, Pair, Setting, check, flat, module_pair
from mmattn.engine.benchmark.report import Row

STAGES: dict[str, Callable[[Setting], Pair]] = {
    "upsample_argmax": stages.upsample_argmax,
    "iou": stages.iou,
    "classes_and_counts": stages.classes_and_counts,
    "loss": stages.loss,
    "loading_png": stages.loading,
    "loading_cache": partial(stages.loading, cached=True),
}
ITEMS: dict[str, Callable[[Setting], Pair]] = {**{item: partial(module_pair, item) for item in MODULES}, **STAGES}


def compare(
    items: Sequence[str],
    setting: Setting,
    *,
    sizes: Sequence[tuple[int, int]] = (),
    modes: Sequence[str] = (),
    repeat: int = 7,
    memory: bool = True,
    time: bool = True,
    alone: bool = False,
) -> Iterator[Row]:
    """Measure items one after the other, telling on stderr how far it is.

    What does not compute the same on both sides is not timed; its row says so.

    Args:
        items: Names of :data:`ITEMS`, of mechanisms, or config files, whose heads are meant; all of the first when
            empty.
        setting: Batch, precision, device.
        sizes: Maps to measure at; where empty, those that the bars of each item name.
        modes: Of ``eval``, ``train`` and ``load``, those to measure; all when empty.
        repeat: Samples of each side.
        memory: Measure the peak of extra memory as well, in a process for each number.
        time: Measure time.
        alone: Ours alone.

    Yields:
        A row for each item, size and mode.

    Raises:
        UserError: There is no such item.
    """
    for item in items:
        maker(item)
    jobs = [(item, size) for item in items or ITEMS for size in sizes or sizes_of(item)]
    for item, size in told(jobs, lambda job: f"{parts.label(job[0])} at {job[1][0]}x{job[1][1]}"):
        placed = replace(setting, size=size)
        try:
            pair = maker(item)(placed)
        except UserError as error:  # something that it needs is not installed
            yield Row(parts.label(item), "-", size, note=f"not measured: {error}")
            continue
        pair = replace(pair, theirs=None) if alone else pair
        for mode in pair.modes:
            if not modes or mode in modes:
                yield measure(item, pair, mode, placed, repeat, memory, time)


def claimed(
    papers: Sequence[str], items: Sequence[str], setting: Setting, **options: Any
) -> Iterator[tuple[str, list[Row]]]:
    """What papers claim, beside what is measured: a table of the claims, and the rows that it is made of.

    Args:
        papers: Names of :data:`~mmattn.engine.benchmark.claims.PAPERS`; all when empty.
        items: Of :data:`~mmattn.engine.benchmark.claims.PAIRS`, those to measure; all that the papers want when empty.
        setting: Batch, precision, device.
        options: Of :func:`compare`.

    Raises:
        UserError: There is no such paper or item.
    """
    for given, known in ((papers, claims.PAPERS), (items, claims.PAIRS)):
        for name in given:
            if name not in known:
                raise UserError(f"there is no {name!r}; there are {', '.join(known)}")
    for paper in (claims.PAPERS[name] for name in papers or claims.PAPERS):
        if wanted := [item for item in paper.items if not items or item in items]:
            rows = list(compare(wanted, setting, sizes=[paper.size], modes=paper.modes, **options))
            yield claims.table(paper, rows), rows


def maker(item: str) -> Callable[[Setting], Pair]:
    """What makes the pair of an item.

    Raises:
        UserError: There is no such item.
    """
    for known in (ITEMS, claims.PAIRS):
        if item in known:
            return known[item]
    return parts.maker(item, ITEMS)


def sizes_of(item: str) -> list[tuple[int, int]]:
    """Maps that the bars of an item name, the small one where they name none."""
    return sorted({size for name, _, size in BARS if name == item}) or [MAP]


def measure(item: str, pair: Pair, mode: str, setting: Setting, repeat: int, memory: bool, time: bool = True) -> Row:
    """One row of :func:`compare`."""
    train = mode == "train"
    row = Row(parts.label(item), mode, setting.size, setting.batch, str(setting.dtype).removeprefix("torch."))
    needed = pair.held[train] * 4 * setting.batch * math.prod(setting.size) ** 2 / MIB
    sides = {"theirs": pair.theirs, "ours": pair.ours} if pair.theirs else {"ours": pair.ours}
    if needed > 0.8 * free(setting.device) and pair.theirs:
        del sides["theirs"]
        row = replace(row, note=f"not compared: mmseg's needs {needed / 1024:.0f} GiB, which are not free here")
    try:
        found = counts(item, mode, setting, sides)
    except ValueError as error:  # it does not train on one image
        return replace(row, note=f"not measured: {error}")
    if len(sides) > 1 and time:
        try:
            row = replace(row, difference=check(pair, train, setting))
        except DifferentError as error:
            return replace(row, note=f"not timed, as ours differs: {error}")
    if time:
        calls = [partial(side.step, pair.inputs, train, setting) for side in sides.values()]
        for name, times in zip(sides, alternate(calls, repeat, setting.device), strict=True):
            found |= {name: times.median, f"{name}_iqr": times.iqr}
    if memory:
        for name in sides:
            found[f"{name}_mib"] = extra_memory(prepare, item, name, train, setting, device=setting.device)
    return replace(row, **found)


def counts(item: str, mode: str, setting: Setting, sides: Iterable[str]) -> dict[str, int]:
    """Parameters, and the MACs of one step of each side, counted on tensors without numbers; nothing for a stage."""
    if item in STAGES:
        return {}
    pair = maker(item)(replace(setting, device="meta", dtype=torch.float32))
    found = {"parameters": sum(p.numel() for module in pair.ours.modules for p in module.parameters())}
    for name in sides:
        side = getattr(pair, name)
        for module in side.modules:
            module.train(mode == "train")
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(mode == "train"):
            ends = [y for y in flat(side.call(*pair.inputs)) if y.requires_grad]
            if ends:
                torch.autograd.backward(ends, [torch.empty_like(y) for y in ends])
        found["macs" if name == "ours" else "theirs_macs"] = counter.get_total_flops() // 2
    return found


def prepare(item: str, side: str, train: bool, setting: Setting) -> Callable[[], object]:
    """One side of an item, ready to be called once in a process of its own."""
    pair = maker(item)(setting)
    return partial(getattr(pair, side).step, pair.inputs, train, setting)
