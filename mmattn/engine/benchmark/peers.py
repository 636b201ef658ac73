"""mmseg's modules and ours, item by item: agreement first, then time, then memory."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from mmattn.cli import UserError
from mmattn.engine.benchmark.measure import alternate, extra_memory
from mmattn.engine.benchmark.pairs import MODULES, DifferentError, Pair, Setting, check, module_pair
from mmattn.engine.benchmark.report import Row

T = TypeVar("T")
ITEMS: dict[str, Callable[[Setting], Pair]] = {item: partial(module_pair, item) for item in MODULES}


def compare(
    items: Sequence[str],
    setting: Setting,
    *,
    modes: Sequence[str] = ("eval", "train"),
    repeat: int = 7,
    memory: bool = True,
) -> Iterator[Row]:
    """Measure items one after the other, telling on stderr how far it is.

    What does not compute the same on both sides is not timed; its row says so.

    Args:
        items: Names of :data:`ITEMS`; all when empty.
        setting: Size, batch, precision, device.
        modes: Of ``eval`` and ``train``, those to measure.
        repeat: Samples of each side.
        memory: Measure the peak of extra memory as well, in a process for each number.

    Yields:
        A row for each item and mode.

    Raises:
        UserError: There is no such item.
    """
    for item in items:
        if item not in ITEMS:
            raise UserError(f"there is no item {item!r}; there are {', '.join(ITEMS)}")
    for item in told(list(items or ITEMS)):
        pair = ITEMS[item](setting)
        for mode in pair.modes:
            if mode in modes:
                yield measure(item, pair, mode, setting, repeat, memory)


def measure(item: str, pair: Pair, mode: str, setting: Setting, repeat: int, memory: bool) -> Row:
    """One row of :func:`compare`."""
    train = mode == "train"
    known = {"item": item, "mode": mode, "size": setting.size, "batch": setting.batch}
    known["dtype"] = str(setting.dtype).removeprefix("torch.")
    try:
        difference = check(pair, train, setting)
    except DifferentError as error:
        return Row(**known, note=f"not timed, as ours differs: {error}")
    calls = [partial(side.step, pair.inputs, train, setting) for side in (pair.theirs, pair.ours)]
    theirs, ours = (times.median for times in alternate(calls, repeat, setting.device))
    peaks: list[float | None] = [None, None]
    if memory:
        peaks = [
            extra_memory(prepare, item, name, train, setting, device=setting.device) for name in ("theirs", "ours")
        ]
    return Row(**known, theirs=theirs, ours=ours, theirs_mib=peaks[0], ours_mib=peaks[1], difference=difference)


def prepare(item: str, side: str, train: bool, setting: Setting) -> Callable[[], object]:
    """One side of an item, ready to be called once in a process of its own."""
    pair = ITEMS[item](setting)
    return partial(getattr(pair, side).step, pair.inputs, train, setting)


def told(steps: Sequence[T]) -> Iterator[T]:
    """Pass steps on, telling on stderr which one it is and how long the rest will take."""
    begin = time.monotonic()
    for done, step in enumerate(steps):
        left = (time.monotonic() - begin) / done * (len(steps) - done) if done else None
        rest = "" if left is None else f", {left:.0f} s left"
        print(f"[{done + 1}/{len(steps)}] {step}{rest}", file=sys.stderr, flush=True)
        yield step
