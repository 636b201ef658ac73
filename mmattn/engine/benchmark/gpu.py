"""All of it on one GPU in one call, within a budget of time: mmseg's modules, our torch paths, our Triton kernels."""

import gc
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch

from mmattn.cli import UserError
from mmattn.engine.benchmark import models, stages
from mmattn.engine.benchmark.bars import AIMS, LARGE, MAP, Aim
from mmattn.engine.benchmark.measure import alternate, extra_memory, replayed
from mmattn.engine.benchmark.pairs import DifferentError, Setting, check, distance
from mmattn.engine.benchmark.peers import ITEMS
from mmattn.ops import kernels

DANET = stages.CONFIG.with_name("danet_r50.py")
REPLAYED = (
    "criss_cross",
    "gc",
    "psa",
    "cam",
    "apnb",
    "afnb",
    "ocr",
    "pam",
    "non_local",
)  # in eval: kernels alone count


@dataclass(frozen=True)
class Found:
    """Milliseconds and MiB of the implementations of one item: ``mmseg``, ``torch`` (ours) and ``triton`` (ours)."""

    item: str
    mode: str
    size: tuple[int, int]
    dtype: str
    batch: int
    ms: dict[str, float]
    mib: dict[str, float]
    note: str = ""

    @property
    def aim(self) -> Aim | None:
        """What was set out for."""
        return AIMS.get((self.item, self.mode, self.size)) if self.dtype == "bfloat16" else None


Job = tuple[str, Callable[[], Found]]


def jobs(device: str, scale: int = 1) -> Iterator[Job]:
    """What there is to measure, the most wanted first.

    Args:
        device: Such as ``cuda``.
        scale: Divides the sides of the maps, for a trial without a GPU.
    """
    small, large = (tuple(max(2, side // scale) for side in size) for size in (MAP, LARGE))
    half = Setting(small, 1, torch.bfloat16, device)
    wanted = [("pam", "eval", half), ("pam", "train", half)]
    wanted += [(item, "eval", half) for item in ("criss_cross", "gc", "afnb", "psa")]
    wanted += [("pam", mode, replace(half, size=large)) for mode in ("eval", "train")]
    yield from (_job(*job) for job in wanted)
    yield "classes_and_counts", partial(classes_and_counts, replace(half, size=large))
    yield "danet eval", partial(danet, "eval", replace(half, size=large))
    yield "danet train", partial(danet, "train", replace(half, batch=2))
    rest = [("non_local", "eval"), ("non_local", "train"), ("criss_cross", "train"), ("gc", "train"), ("psa", "train")]
    rest += [(item, mode) for item in ("cam", "apnb", "ocr") for mode in ("eval", "train")]
    rest += [("afnb", "train"), ("upsample_argmax", "eval"), ("loss", "train")]
    yield from (_job(*job, half) for job in rest)
    full = [(item, mode, replace(half, dtype=torch.float32)) for item in ITEMS for mode in ("eval", "train")]
    yield from (_job(*job) for job in full if job[0] not in ("iou", "loading_png", "loading_cache"))


def _job(item: str, mode: str, setting: Setting) -> Job:
    name = f"{item} {mode} {setting.size[0]}x{setting.size[1]} {setting.dtype}".replace("torch.", "")
    return name, partial(module, item, mode, setting)


def measure(device: str, budget: float, tell: Callable[[str], None], scale: int = 1) -> tuple[list[Found], list[str]]:
    """Work through :func:`jobs` while there is time.

    Args:
        device: Such as ``cuda``.
        budget: Seconds; what has begun is finished.
        tell: Called with each name before its measurement.
        scale: As of :func:`jobs`.

    Returns:
        What was found, and the names of what was dropped.

    Raises:
        UserError: There is no such device.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: {str(error).partition(chr(10))[0]}") from error
    torch.backends.cudnn.benchmark = True  # as the configs have it
    begin, found, dropped = time.monotonic(), [], []
    for name, job in jobs(device, scale):
        spent = time.monotonic() - begin
        if spent > budget:
            dropped.append(name)
            continue
        tell(f"{name} ({spent:.0f} of {budget:.0f} s)")
        try:
            found.append(job())
        except Exception as error:  # one item must not cost the others their time on the GPU
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            found.append(Found(name, "-", (0, 0), "-", 1, {}, {}, f"not measured: {reason}"))
        tell(f"  {', '.join(f'{side} {ms:.3g} ms' for side, ms in found[-1].ms.items()) or found[-1].note}")
        gc.collect()
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
    return found, dropped


def module(item: str, mode: str, setting: Setting) -> Found:
    """One of :data:`~mmattn.engine.benchmark.peers.ITEMS`.

    Raises:
        DifferentError: Ours, by torch or by Triton, does not compute the same.
    """
    pair, train = ITEMS[item](setting), mode == "train"
    if mode not in pair.modes:
        return _found(item, mode, setting, {}, note="has no such mode")
    check(pair, train, setting)
    theirs, ours = (partial(side.step, pair.inputs, train, setting) for side in (pair.theirs, pair.ours))
    sides, note = {"mmseg": (theirs, False), "torch": (ours, False)}, ""
    if _has_triton(setting):
        try:
            with kernels.use_triton():
                check(pair, train, setting)
            sides["triton"] = (ours, True)
        except DifferentError as error:
            note = f"Triton not timed, as it differs: {error}"
        except Exception as error:  # a kernel that does not compile must not cost the others their time
            traceback.print_exc()
            note = f"Triton not timed: {type(error).__name__}: {error}".partition("\n")[0]
    return _found(item, mode, setting, sides, replay=item in REPLAYED and not train, note=note)


def _has_triton(setting: Setting) -> bool:
    return setting.device.startswith("cuda") and kernels.missing() is None and setting.dtype != torch.float32


def _found(
    item: str,
    mode: str,
    setting: Setting,
    sides: dict[str, tuple[Callable[[], object], bool]],
    *,
    replay: bool = False,
    note: str = "",
) -> Found:
    calls, mib, notes = {}, {}, [note]
    cuda = setting.device.startswith("cuda")
    for name, (call, triton) in sides.items():
        calls[name] = _within(call, triton)
        if cuda:
            mib[name] = extra_memory(_same, calls[name], device=setting.device)
        if cuda and replay:
            recorded = replayed(calls[name])
            notes.append(f"{name} not as a graph" if recorded is calls[name] else "")
            calls[name] = recorded
    times = alternate(list(calls.values()), 9, setting.device)
    ms = {name: 1e3 * one.median for name, one in zip(calls, times, strict=True)}
    dtype = str(setting.dtype).removeprefix("torch.")
    return Found(item, mode, setting.size, dtype, setting.batch, ms, mib, "; ".join(filter(None, notes)))


def _same(call: Callable[[], object]) -> Callable[[], object]:
    return call


def _within(call: Callable[[], object], triton: bool) -> Callable[[], object]:
    if not triton:
        return call

    def switched() -> object:
        with kernels.use_triton():
            return call()

    return switched


def classes_and_counts(setting: Setting) -> Found:
    """From logits to the class of each pixel, and to the counts that IoU is made of; by Triton without label map.

    Raises:
        DifferentError: They are not the same.
    """
    pair = stages.classes_and_counts(setting)
    sides = {"mmseg": pair.theirs, "torch": pair.ours}
    if _has_triton(setting):
        sides["triton"] = stages.fused_counts(setting)
    for side in list(sides.values())[1:]:
        check(replace(pair, ours=side), False, setting)
    calls = {name: (partial(side.step, pair.inputs, False, setting), False) for name, side in sides.items()}
    return _found("classes_and_counts", "eval", setting, calls)


def danet(mode: str, setting: Setting) -> Found:
    """The whole of DANet, classes of pixels or gradients included, under autocast; ours in its fast setting.

    Raises:
        DifferentError: Logits, or in training the losses, are not the same to the precision of the type.
    """
    size = (stages.STRIDE * setting.size[0], stages.STRIDE * setting.size[1])
    sides, seen = {}, []
    for name, variant in (("mmseg", "mmseg"), ("torch", "fast" if mode == "eval" else "channels_last")):
        model = models.build(DANET, variant, setting.device)
        call = _cast(models.step(model, mode, setting.batch, size, setting.device), setting)
        seen.append(_cast(models.result(model, mode, setting.batch, size, setting.device), setting)())
        sides[name] = (call, False)
    if not (error := distance(seen[1], seen[0])) < models.GENTLE["fast"]:
        raise DifferentError(f"the results are off by {error:.1e}")
    if _has_triton(setting):
        sides["triton"] = (sides["torch"][0], True)
    return _found("danet", mode, setting, sides, note="ours channels_last" + (", folded" if mode == "eval" else ""))


def _cast(call: Callable[[], object], setting: Setting) -> Callable[[], object]:
    return torch.autocast(setting.device.partition(":")[0], setting.dtype)(call)


def table(rows: list[Found], dropped: list[str]) -> str:
    """Markdown: the aims beside what was measured."""
    heads = ["item", "mode", "map", "type", "floor ms", "aim", "mmseg estimated ms"]
    heads += ["mmseg ms", "torch ms", "Triton ms", "ratio", "MiB mmseg / torch / Triton", ""]
    lines = [f"| {' | '.join(heads)} |", "|---|---|---|---|" + "---:|" * 8 + "---|"]
    for row in rows:
        aim = row.aim or Aim()
        best = min((row.ms[name] for name in ("torch", "triton") if name in row.ms), default=None)
        ratio = f"{row.ms['mmseg'] / best:.2f}x" if best and "mmseg" in row.ms else "-"
        goal = [
            f"{aim.ms:g} ms" if aim.ms else "",
            f"{aim.rate:g} images/s" if aim.rate else "",
            f"{aim.gb:g} GB" if aim.gb else "",
        ]
        rate = f"{1e3 * row.batch / best:.1f} images/s" if aim.rate and best else ""
        cells = [
            row.item,
            row.mode,
            "x".join(map(str, row.size)) + (f", batch {row.batch}" if row.batch > 1 else ""),
            row.dtype,
        ]
        cells += [_number(aim.floor), "".join(goal) or "-", _number(aim.mmseg)]
        cells += [_number(row.ms.get(name)) for name in ("mmseg", "torch", "triton")]
        cells += [ratio, " / ".join(_number(row.mib.get(name)) for name in ("mmseg", "torch", "triton"))]
        lines.append(f"| {' | '.join([*cells, '; '.join(filter(None, [rate, row.note]))])} |")
    late = [f"\nNot measured, as the time was up: {', '.join(dropped)}."] if dropped else []
    return "\n".join([*lines, *late]) + "\n"


def as_json(rows: list[Found]) -> list[dict[str, Any]]:
    """The rows with their aims."""
    return [asdict(row) | {"aim": row.aim and asdict(row.aim)} for row in rows]


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.3g}"
