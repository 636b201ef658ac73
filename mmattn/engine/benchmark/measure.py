"""Clocks: two functions in turn, what a call holds in a process of its own, and what it ran on."""

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F

from mmattn.cli import UserError

T = TypeVar("T")
SHORT = 0.02  # seconds that one sample takes at least
LONG = 1.0  # seconds of a call that need not be warmed up twice
MIB = 2**20
PACKAGES = ("mmattn", "onedl-mmengine", "onedl-mmcv", "onedl-mmsegmentation", "mmengine", "mmcv-lite", "mmsegmentation")


@dataclass(frozen=True)
class Times:
    """Seconds of single calls, one for each sample."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle of the samples."""
        return statistics.median(self.samples)

    @property
    def iqr(self) -> float | None:
        """How far the middle half of the samples reaches; None of fewer than three."""
        if len(self.samples) < 3:
            return None
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return high - low


def alternate(calls: Sequence[Callable[[], object]], repeat: int, device: str = "cpu") -> list[Times]:
    """Time functions in turn, A B A B, so that what the machine does meanwhile hits all of them.

    Args:
        calls: They are called once each before anything counts.
        repeat: Samples of each; short calls are repeated within a sample.
        device: ``cuda`` times by events on the current stream.

    Returns:
        Times, in the order of ``calls``.
    """
    clock = _events if device.startswith("cuda") else _watch
    counts = []
    for call in calls:
        first = clock(call, 1)
        if first < LONG or device.startswith("cuda"):  # where the first call loads and compiles
            first = clock(call, 1)
        counts.append(max(1, round(SHORT / max(first, 1e-9))))
    samples: list[list[float]] = [[] for _ in calls]
    for _ in range(repeat):
        for call, count, found in zip(calls, counts, samples, strict=True):
            found.append(clock(call, count))
    return [Times(tuple(found)) for found in samples]


def _watch(call: Callable[[], object], count: int) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - begin) / count


def _events(call: Callable[[], object], count: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / count


def replayed(call: Callable[[], object]) -> Callable[[], object]:
    """A call as a CUDA graph, whose replay costs the kernels alone; the call itself where it cannot be recorded."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            call()
    except RuntimeError:  # something in it waits for the GPU
        torch.cuda.synchronize()
        return call
    return graph.replay


def extra_memory(prepare: Callable[..., Callable[[], object]], *args: Any, device: str = "cpu") -> float | None:
    """MiB that a call needs at its peak, beyond what was there before it.

    On the CPU it is resident memory, measured in a process of its own, where nothing that ran before is left over; on
    CUDA what the allocator hands out.

    Args:
        prepare: A function of a module: makes the call. What it allocates itself does not count.
        args: Its arguments.
        device: Where the call computes.

    Returns:
        The peak; None where the call did not come to its end, or where the system does not tell.
    """
    if device.startswith("cuda"):
        return _allocated(prepare(*args))
    return apart(_peak, prepare, *args)


def apart(function: Callable[..., T], *args: Any) -> T | None:
    """What a function of a module returns in a process of its own, with as many threads as here.

    The process comes, where the system can, from one that has done nothing but import the modules of the function and
    of functions among its arguments, which saves each of them the seconds of the imports.

    Returns:
        None where the process came to no end of its own; the system kills those that want too much memory.

    Raises:
        UserError: The function raised it.
    """
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([call.__module__ for call in (function, *args) if callable(call)])  # once
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, torch.get_num_threads(), function, args))
    process.start()
    sender.close()
    try:
        found = receiver.recv()
    except EOFError:
        found = None
    process.join()
    if isinstance(found, UserError):
        raise found
    return found


def _allocated(call: Callable[[], object]) -> float | None:
    call()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / MIB


def _child(sender: Connection, threads: int, function: Callable[..., object], args: tuple) -> None:
    torch.set_num_threads(threads)
    try:
        sender.send(function(*args))
    except UserError as error:
        sender.send(error)


def _peak(prepare: Callable[..., Callable[[], object]], *args: Any) -> float | None:
    """MiB that a call adds to what is resident."""
    _load_kernels()
    call = prepare(*args)
    before = forget_peak()
    call()
    return None if before is None else peak() - before


def peak() -> float | None:
    """MiB that were resident at most since :func:`forget_peak`; None where the system does not tell."""
    return _status("VmHWM")


def _load_kernels() -> None:
    """Use what loads libraries and starts threads when it is first used."""
    x = torch.randn(1, 16, 32, 32, requires_grad=True)
    y = F.interpolate(F.conv2d(x, x.new_ones(16, 16, 1, 1)), scale_factor=2.0, mode="bilinear").flatten(2)
    (y @ y.mT).softmax(dim=2).sum().backward()


def forget_peak() -> float | None:
    """Set the peak of resident memory back to what is resident now; that, in MiB."""
    resident = _status("VmRSS")
    if resident is not None:
        Path("/proc/self/clear_refs").write_text("5")
    return resident


def _status(field: str) -> float | None:
    """A number of Linux' ``/proc/self/status``, in MiB."""
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), None)


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


def machine(device: str = "cpu") -> dict[str, Any]:
    """What a measurement ran on, and when."""
    found = {
        "date": datetime.now().astimezone().isoformat(timespec="minutes"),
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        **{name: found for name in PACKAGES if (found := _version(name))},
        **({"commit": commit} if (commit := _commit()) else {}),
    }
    return found | ({"gpu": torch.cuda.get_device_name(device)} if device.startswith("cuda") else {})


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit that is checked out, where this is a clone and git is there."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
