"""mmseg's modules and ours, item by item: agreement first, then time, then memory."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from mmattn.cli import UserError
from mmattn.engine.benchmark import stages
from mmattn.engine.benchmark.bars import BARS, MAP
from mmattn.engine.benchmark.measure import MIB, alternate, extra_memory
from mmattn.engine.benchmark.pairs import MODULES, DifferentError, Pair, Setting, check, module_pair
from mmattn.engine.benchmark.report import Row

T = TypeVar("T")
ITEMS: dict[str, Callable[[Setting], Pair]] = {
    **{item: partial(module_pair, item) for item in MODULES},
    "upsample_argmax": stages.upsample_argmax,
    "iou": stages.iou,
    "classes_and_counts": stages.classes_and_counts,
    "loss": stages.loss,
    "loading_png": stages.loading,
    "loading_cache": partial(stages.loading, cached=True),
}
# maps of all pairs of positions that mmseg's module holds, by mode
HELD = {"pam": {"eval": 2, "train": 3}, "non_local": {"eval": 2, "train": 3}}


def compare(
    items: Sequence[str],
    setting: Setting,
    *,
    sizes: Sequence[tuple[int, int]] = (),
    modes: Sequence[str] = (),
    repeat: int = 7,
    memory: bool = True,
) -> Iterator[Row]:
    """Measure items one after the other, telling on stderr how far it is.

    What does not compute the same on both sides is not timed; its row says so.

    Args:
        items: Names of :data:`ITEMS`; all when empty.
        setting: Batch, precision, device.
        sizes: Maps to measure at; where empty, those that the bars of each item name.
        modes: Of ``eval``, ``train`` and ``load``, those to measure; all when empty.
        repeat: Samples of each side.
        memory: Measure the peak of extra memory as well, in a process for each number.

    Yields:
        A row for each item, size and mode.

    Raises:
        UserError: There is no such item.
    """
    for item in items:
        if item not in ITEMS:
            raise UserError(f"there is no item {item!r}; there are {', '.join(ITEMS)}")
    jobs = [(item, size) for item in items or ITEMS for size in sizes or sizes_of(item)]
    for item, size in told(jobs, lambda job: f"{job[0]} at {job[1][0]}x{job[1][1]}"):
        placed = replace(setting, size=size)
        try:
            pair = ITEMS[item](placed)
        except UserError as error:  # something that it needs is not installed
            yield Row(item, "-", size, note=f"not measured: {error}")
            continue
        for mode in pair.modes:
            if not modes or mode in modes:
                yield measure(item, pair, mode, placed, repeat, memory)


def sizes_of(item: str) -> list[tuple[int, int]]:
    """Maps that the bars of an item name, the small one where they name none."""
    return sorted({size for name, _, size in BARS if name == item}) or [MAP]


def measure(item: str, pair: Pair, mode: str, setting: Setting, repeat: int, memory: bool) -> Row:
    """One row of :func:`compare`."""
    train = mode == "train"
    row = Row(item, mode, setting.size, setting.batch, str(setting.dtype).removeprefix("torch."))
    needed = held(item, mode, setting)
    sides = {"theirs": pair.theirs, "ours": pair.ours}
    if needed > 0.8 * free(setting.device):
        del sides["theirs"]
        row = replace(row, note=f"not compared: mmseg's needs {needed / 1024:.0f} GiB, which are not free here")
    else:
        try:
            row = replace(row, difference=check(pair, train, setting))
        except DifferentError as error:
            return replace(row, note=f"not timed, as ours differs: {error}")
    calls = [partial(side.step, pair.inputs, train, setting) for side in sides.values()]
    times = alternate(calls, repeat, setting.device)
    found = {name: time.median for name, time in zip(sides, times, strict=True)}
    if memory:
        for name in sides:
            found[f"{name}_mib"] = extra_memory(prepare, item, name, train, setting, device=setting.device)
    return replace(row, **found)


def prepare(item: str, side: str, train: bool, setting: Setting) -> Callable[[], object]:
    """One side of an item, ready to be called once in a process of its own."""
    pair = ITEMS[item](setting)
    return partial(getattr(pair, side).step, pair.inputs, train, setting)


def held(item: str, mode: str, setting: Setting) -> float:
    """MiB of the maps between all positions that mmseg's module holds."""
    h, w = setting.size
    return HELD.get(item, {}).get(mode, 0) * 4 * setting.batch * (h * w) ** 2 / MIB


def free(device: str) -> float:
    """MiB that can be had."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0] / MIB
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable")), float("inf"))


def told(steps: Sequence[T], name: Callable[[T], str] = str) -> Iterator[T]:
    """Pass steps on, telling on stderr which one it is and how long the rest will take."""
    begin = time.monotonic()
    for done, step in enumerate(steps):
        left = f", about {(time.monotonic() - begin) / done * (len(steps) - done):.0f} s left" if done else ""
        print(f"[{done + 1}/{len(steps)}] {name(step)}{left}", file=sys.stderr, flush=True)
        yield step
