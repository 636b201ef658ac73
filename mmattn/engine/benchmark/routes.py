"""``tools/test.py`` and mmseg's own testing, stage by stage, on the same frames and weights."""

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import torch
from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmattn.cli import UserError
from mmattn.engine import config
from mmattn.engine.benchmark.measure import apart, forget_peak, peak, told
from mmattn.engine.benchmark.pairs import fill, mmseg_can_build
from mmattn.engine.benchmark.report import Row
from mmattn.engine.benchmark.stages import STRIDE, street
from mmattn.engine.evaluate import TRAINING, evaluate
from mmattn.engine.quiet import QuietRunner

SAME = 0.011  # mIoU is rounded to two digits
STAGES = ("loading", "preparing", "network", "classes", "counting", "rest")
NAMES = ("{}_leftImg8bit.png", "{}_gtFine_labelTrainIds.png")


def compare(
    path: Path, checkpoint: str | None, data: Path | None, *, size: tuple[int, int], count: int, repeat: int
) -> Iterator[Row]:
    """Test a model by both routes, in turn, each time in a process of its own.

    Args:
        path: A config whose head mmseg has too.
        checkpoint: File or URL; without one the weights are random.
        data: A folder in the layout of Cityscapes whose validation frames are taken, in turn until there are enough;
            without one, streets are drawn.
        size: Rows and columns of the drawn frames.
        count: Frames.
        repeat: Runs of each.

    Yields:
        The whole, then each stage, in the plain setting and in the fast one.

    Raises:
        UserError: The config does not load, there are no frames, or a checkpoint does not fit.
    """
    with TemporaryDirectory(prefix="mmattn_benchmark") as folder:
        place = Path(folder)
        rows, columns = lay_out(place, data, size, count)
        if checkpoint is None:
            checkpoint = str(place / "random.pth")
            torch.manual_seed(0)
            model = config.build_model(config.load_config(path))
            fill(model)
            torch.save(model.state_dict(), checkpoint)
        jobs = [
            (scope, fast)
            for _ in range(repeat)
            for scope, fast in (("mmseg", False), ("mmattn", False), ("mmattn", True))
        ]
        found: dict[tuple[str, bool], list[dict]] = defaultdict(list)
        for job in told(jobs, lambda job: f"{path.stem}, {job[0]}{', fast' if job[1] else ''}"):
            outcome = apart(run, str(path), checkpoint, folder, (rows, columns), *job)
            if outcome is None:
                raise UserError(
                    f"testing {path} in scope {job[0]} came to no end: look for memory, {count} frames at a time"
                )
            found[job].append(outcome)
    theirs = found["mmseg", False]
    for fast in (False, True):
        ours = found["mmattn", fast]
        known = {"item": f"{path.stem.partition('_')[0]}_test", "size": (rows // STRIDE, columns // STRIDE)}
        mode = "fast" if fast else "plain"
        miou = [outcomes[0]["mIoU"] for outcomes in (theirs, ours)]
        scores = "mIoU {:.2f} and {:.2f}".format(*miou)
        if not fast and abs(miou[0] - miou[1]) > SAME:
            yield Row(**known, mode=mode, note=f"not timed, as ours differs: {scores}")
            continue
        yield Row(
            **known,
            mode=mode,
            theirs=_median(theirs, "total"),
            ours=_median(ours, "total"),
            theirs_mib=_median(theirs, "mib"),
            ours_mib=_median(ours, "mib"),
            note=f"{count} frames, {scores}",
        )
        for stage in STAGES:
            yield Row(**known, mode=f"{mode}, {stage}", theirs=_median(theirs, stage), ours=_median(ours, stage))


def _median(outcomes: Sequence[dict], key: str) -> float | None:
    return median(outcome[key] for outcome in outcomes) if outcomes[0][key] is not None else None


def lay_out(place: Path, data: Path | None, size: tuple[int, int], count: int) -> tuple[int, int]:
    """Put frames where Cityscapes has those for validation.

    Returns:
        Rows and columns of a frame.

    Raises:
        UserError: ``data`` has no frames, or one without labels.
    """
    folders = [place / kind / "val" / "town" for kind in ("leftImg8bit", "gtFine")]
    for folder in folders:
        folder.mkdir(parents=True)
    if data is None:
        for i in range(count):
            for target, name, pixels in zip(folders, NAMES, street(size, i), strict=True):
                cv2.imwrite(str(target / name.format(f"{i:03d}")), pixels)
        return size
    images = sorted(data.glob("leftImg8bit/val/**/*_leftImg8bit.png"))
    if not images:
        raise UserError(f"{data} has no leftImg8bit/val/*/*_leftImg8bit.png: name a folder in the layout of Cityscapes")
    sources = [(image, _label_of(data, image)) for image in images]
    for i, pair in enumerate(islice(cycle(sources), count)):
        for target, name, source in zip(folders, NAMES, pair, strict=True):
            (target / name.format(f"{i:03d}")).symlink_to(source.resolve())
    return cv2.imread(str(images[0])).shape[:2]


def _label_of(data: Path, image: Path) -> Path:
    folder = data / "gtFine" / image.relative_to(data / "leftImg8bit").parent
    label = folder / image.name.replace("_leftImg8bit", "_gtFine_labelTrainIds")
    if not label.is_file():
        raise UserError(f"{image} has no {label}; python tools/prepare_data.py cityscapes {data} makes it")
    return label


def run(
    path: str, checkpoint: str, data: str, size: tuple[int, int], scope: str, fast: bool
) -> dict[str, float | None]:
    """One test.

    Returns:
        Seconds of each stage and in total, the peak of resident memory in MiB beyond that before it, and the mIoU.
    """
    with (
        TemporaryDirectory(prefix="mmattn_benchmark") as work,
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        _watched() as seconds,
    ):
        before = forget_peak()
        cfg = config.read(path) if scope == "mmseg" else config.load_config(path)
        cfg.default_scope, cfg.work_dir, cfg.launcher = scope, work, "none"
        cfg.test_dataloader.update(num_workers=0, persistent_workers=False)  # stages do not overlap
        for _, dataset in config.datasets(cfg, "test_dataloader"):
            dataset.data_root = data
            for step in dataset.pipeline:
                if str(step.type).endswith("Resize"):
                    step.scale = size[::-1]
        if scope == "mmattn":
            evaluate(cfg, checkpoint, fast=fast)
        else:
            _as_mmseg(cfg, checkpoint)
    found: dict[str, float | None] = dict(seconds)
    known = sum(seconds[stage] for stage in STAGES if stage != "rest")
    return found | {"rest": seconds["total"] - known, "mib": None if before is None else peak() - before}


def _as_mmseg(cfg: Config, checkpoint: str) -> None:
    """What mmseg's tools/test.py does, with mmseg's classes alone."""
    cfg.load_from = checkpoint
    config.without_pretrained(cfg)
    for key in TRAINING:
        cfg.pop(key, None)
    with mmseg_can_build():
        runner = QuietRunner.from_cfg(Config(cfg._cfg_dict))
    runner.test()


@contextlib.contextmanager
def _watched() -> Iterator[dict[str, float]]:
    """Time the stages of the next ``Runner.test``."""
    seconds: dict[str, float] = dict.fromkeys((*STAGES, "total", "mIoU"), 0.0)
    test = Runner.test

    def watched(runner: Runner) -> dict[str, float]:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        dataset, evaluator = runner.test_dataloader.dataset, runner.test_evaluator
        for owner, name, stage in (
            (dataset, "prepare_data", "loading"),
            (model.data_preprocessor, "forward", "preparing"),
            (model, "extract_feat", "network"),
            (model.decode_head, "forward", "network"),
            (model, "predict", "classes"),
            (evaluator, "process", "counting"),
            (evaluator, "evaluate", "counting"),
        ):
            setattr(owner, name, _timed(getattr(owner, name), seconds, stage))
        begin = _now()
        scores = test(runner)
        seconds["total"] = _now() - begin
        seconds["classes"] -= seconds["network"]
        seconds["mIoU"] = scores["mIoU"]
        return scores

    Runner.test = watched
    try:
        yield seconds
    finally:
        Runner.test = test


def _timed(call: Callable[..., Any], seconds: dict[str, float], stage: str) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        begin = _now()
        found = call(*args, **kwargs)
        seconds[stage] += _now() - begin
        return found

    return timed


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
