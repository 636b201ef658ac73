"""Whole models: what each setting of ours costs beside mmseg's plain one, and how cost grows with the map."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mmseg.registry
import torch
from mmengine.config import ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmattn.cli import UserError
from mmattn.engine import config, costs, fast
from mmattn.engine.benchmark import peers
from mmattn.engine.benchmark.measure import MIB, alternate, extra_memory, free, told
from mmattn.engine.benchmark.pairs import HELD, NAMES, Setting, distance, fill, flat, mmseg_can_build
from mmattn.engine.benchmark.parts import DENSE
from mmattn.engine.benchmark.report import Row
from mmattn.engine.benchmark.stages import STRIDE

#: Settings of a model, each with what it adds to the plain one.
VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "channels_last": ("channels_last",),
    "folded": ("folded",),
    "bf16": ("folded", "channels_last", "bfloat16"),
    "fast": ("fast",),
    "compile": ("folded", "channels_last", "bfloat16", "compile"),
}
GENTLE = {"bf16": 5e-2, "fast": 5e-2, "compile": 5e-2}  # of the logits; others agree to float32
TIGHT = 2e-4
TRAINED = ("plain", "channels_last")


def build(path: Path, variant: str, device: str) -> nn.Module:
    """A model with random weights, the same each time; ``variant`` is one of :data:`VARIANTS`, or ``mmseg``.

    Raises:
        UserError: mmseg does not have it, or the config does not load.
    """
    torch.manual_seed(0)
    model = config.build_model(config.load_config(path), device=device)
    fill(model)
    if variant == "mmseg":
        return _theirs(path, model).to(device).eval()
    for step in VARIANTS[variant]:
        _STEPS[step](model)
    return model


def _theirs(path: Path, ours: nn.Module) -> nn.Module:
    cfg = config.read(path)
    config.without_pretrained(cfg)
    head = cfg.model.decode_head
    if isinstance(head, dict):
        head.type = NAMES.get(head.type, head.type)
    with DefaultScope.overwrite_default_scope("mmseg"), mmseg_can_build():
        try:
            model = mmseg.registry.MODELS.build(ConfigDict(cfg.model))
        except KeyError as error:
            raise UserError(f"mmseg has no such model as {path}: {error.args[0]}") from error
    model = revert_sync_batchnorm(model)
    model.load_state_dict(ours.state_dict())
    return model


def _compile(model: nn.Module) -> None:
    model.extract_feat = torch.compile(model.extract_feat)
    model.decode_head.forward = torch.compile(model.decode_head.forward)


_STEPS: dict[str, Callable[[nn.Module], Any]] = {
    "channels_last": lambda model: model.to(memory_format=torch.channels_last),
    "folded": fast.fold_batch_norms,
    "bfloat16": fast.compute_in_bfloat16,
    "fast": fast.quicken,
    "compile": _compile,
}


def _inputs(model: nn.Module, batch: int, size: tuple[int, int], device: str) -> tuple[Tensor, list[SegDataSample]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, *size, generator=generator).to(device)
    labels = torch.randint(0, model.num_classes, (batch, 1, *size), generator=generator).to(device)
    return images, [SegDataSample(gt_sem_seg=PixelData(data=x), metainfo={"img_shape": size}) for x in labels]


def step(model: nn.Module, mode: str, batch: int, size: tuple[int, int], device: str) -> Callable[[], object]:
    """What to time: prediction of random images, classes and all, or in training losses and gradients."""
    images, samples = _inputs(model, batch, size, device)

    def predict() -> object:
        with torch.no_grad():
            return [found.pred_sem_seg.data for found in model.eval()(images, mode="predict")]

    def train() -> object:
        losses = model.train()(images, samples, mode="loss")
        total = sum(value for key, value in losses.items() if "loss" in key)
        return torch.autograd.grad(total, [p for p in model.parameters() if p.requires_grad], allow_unused=True)

    return predict if mode == "eval" else train


def result(model: nn.Module, mode: str, batch: int, size: tuple[int, int], device: str) -> Callable[[], Tensor]:
    """What must be the same for both: the logits of random images, or in training the losses, without dropout."""
    images, samples = _inputs(model, batch, size, device)

    def logits() -> Tensor:
        with torch.no_grad():
            return next(iter(flat(model.eval()(images))))

    def losses() -> Tensor:
        model.train()
        for layer in model.modules():
            if isinstance(layer, nn.Dropout | nn.Dropout2d):
                layer.eval()
        with torch.no_grad():
            found = model(images, samples, mode="loss")
        return torch.stack([found[key] for key in sorted(found) if "loss" in key])

    return logits if mode == "eval" else losses


def prepare(
    path: Path, variant: str, mode: str, batch: int, size: tuple[int, int], device: str
) -> Callable[[], object]:
    """:func:`step` of a model of its own."""
    return step(build(path, variant, device), mode, batch, size, device)


def compare(
    paths: Sequence[Path],
    variants: Sequence[str],
    setting: Setting,
    *,
    sizes: Sequence[tuple[int, int]] = (),
    modes: Sequence[str] = ("eval",),
    repeat: int,
    memory: bool,
    time: bool = True,
    alone: bool = False,
) -> Iterator[Row]:
    """Time whole models and measure their memory, each setting beside mmseg's plain float32.

    Args:
        paths: Configs.
        variants: Of :data:`VARIANTS`.
        setting: Size of the map, batch and device.
        sizes: Maps to measure at, instead of the one of ``setting``.
        modes: ``eval`` and ``train``; in the latter folded and bfloat16 settings are left out, as they only predict.
        repeat: Samples of each.
        memory: Measure the peak of extra memory as well.
        time: Measure time.
        alone: Ours alone.

    Yields:
        A row for each config, size, mode and setting; the logits of both, or in training the losses, were compared
        first.

    Raises:
        UserError: A config does not load, there is no such setting, or none that trains.
    """
    for variant in variants:
        if variant not in VARIANTS:
            raise UserError(f"there is no setting {variant!r}; there are {', '.join(VARIANTS)}")
    wanted = {mode: [name for name in variants if mode == "eval" or name in TRAINED] for mode in modes}
    if not all(wanted.values()):
        raise UserError(f"--setting {' '.join(variants)}: only {' and '.join(TRAINED)} can be trained")
    jobs = [(path, size, mode) for path in paths for size in sizes or [setting.size] for mode in modes]
    for path, size, mode in told(jobs, lambda job: f"{job[0].stem}, {job[2]}, map {job[1][0]}x{job[1][1]}"):
        yield from _rows(path, wanted[mode], replace(setting, size=size), mode, repeat, memory, time, alone)


def _rows(
    path: Path,
    variants: Sequence[str],
    setting: Setting,
    mode: str,
    repeat: int,
    memory: bool,
    time: bool,
    by_itself: bool,
) -> Iterator[Row]:
    size = (STRIDE * setting.size[0], STRIDE * setting.size[1])
    models, notes = {name: build(path, name, setting.device) for name in variants}, dict.fromkeys(variants, "")
    alone, counted = "", {}
    if not by_itself:
        try:
            models = {"mmseg": build(path, "mmseg", setting.device), **models}
            alone = _too_large(models["mmseg"], mode, setting)
        except UserError as error:
            alone = str(error)
    if alone:
        models.pop("mmseg", None)
        notes = dict.fromkeys(variants, alone)
    if mode == "eval":
        parts = costs.model_costs(path, size)
        counted = {"parameters": sum(part.parameters for part in parts)}
        counted["macs"] = setting.batch * sum(part.flops for part in parts) // 2
    differences: dict[str, float] = {}
    if time and "mmseg" in models:
        at = (mode, setting.batch, size, setting.device)
        logits = {name: result(model, *at)() for name, model in models.items()}
        differences = {name: distance(logits.pop(name), logits["mmseg"]) for name in variants}
        for name, difference in differences.items():
            if not difference <= GENTLE.get(name, TIGHT):
                notes[name] = f"not timed, as ours differs: the logits are off by {difference:.1e}"
                del models[name]
    seconds: dict[str, float] = {}
    spread: dict[str, float | None] = {}
    if time:
        calls = [step(model, mode, setting.batch, size, setting.device) for model in models.values()]
        times = dict(zip(models, alternate(calls, repeat, setting.device), strict=True))
        seconds = {name: one.median for name, one in times.items()}
        spread = {name: one.iqr for name, one in times.items()}
    names = list(models)
    models.clear()
    peaks: dict[str, float | None] = {}
    for name in names if memory else ():
        args = (path, name, mode, setting.batch, size, setting.device)
        peaks[name] = extra_memory(prepare, *args, device=setting.device)
    for name in variants:
        mine = name in names
        rate = f"{setting.batch / seconds[name]:.2f} images/s" if name in seconds else ""
        yield Row(
            path.stem,
            name if mode == "eval" else f"{mode}, {name}",
            setting.size,
            setting.batch,
            theirs=seconds.get("mmseg") if mine else None,
            ours=seconds.get(name),
            theirs_mib=peaks.get("mmseg") if mine else None,
            ours_mib=peaks.get(name),
            theirs_iqr=spread.get("mmseg") if mine else None,
            ours_iqr=spread.get(name),
            **counted,
            difference=differences.get(name),
            note="; ".join(filter(None, [notes[name], rate])),
        )


def _too_large(theirs: nn.Module, mode: str, setting: Setting) -> str:
    """Why mmseg's model cannot run in the memory that is free; empty when it can."""
    heads = theirs.decode_head if isinstance(theirs.decode_head, nn.ModuleList) else [theirs.decode_head]
    maps = HELD.get(DENSE.get(type(heads[-1]).__name__, ""), (0, 0))[mode == "train"]
    needed = maps * 4 * setting.batch * math.prod(setting.size) ** 2 / MIB
    if needed < 0.8 * free(setting.device):
        return ""
    return f"not compared: mmseg's needs {needed / 1024:.0f} GiB, which are not free here"


def scaling(
    sizes: Sequence[tuple[int, int]], setting: Setting, repeat: int, alone: bool = False
) -> Iterator[tuple[list[Row], str]]:
    """How the time of criss-cross attention and the memory of dense attention grow with the number of positions.

    Yields:
        The rows of one item, and the exponents that fit them best.
    """
    for item, memory in (("criss_cross", False), ("pam", True)):
        options = {"repeat": repeat, "memory": memory, "time": not memory, "alone": alone}
        rows = list(peers.compare([item], setting, sizes=sizes, modes=["eval"], **options))
        found = []
        for side in ("theirs", "ours"):
            values = [getattr(row, f"{side}_mib" if memory else side) for row in rows]
            fitted = exponent([math.prod(row.size) for row in rows], values)
            found.append(f"{'mmseg' if side == 'theirs' else side} N^{fitted:.2f}" if fitted else f"{side} not fitted")
        yield rows, f"{item}, {'memory' if memory else 'time'}: {', '.join(found)}"


def exponent(counts: Sequence[int], values: Sequence[float | None]) -> float | None:
    """The slope of a line through the logarithms; None for fewer than two values."""
    points = [(math.log(n), math.log(value)) for n, value in zip(counts, values, strict=True) if value]
    if len(points) < 2:
        return None
    x, y = (sum(column) / len(points) for column in zip(*points, strict=True))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)
