"""Testing: what a checkpoint scores on the test data of a config, as a table, as JSON and as predictions on disk."""

import json
import math
import re
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.model import is_model_wrapper

import mmattn
from mmattn import stack
from mmattn.cli import UserError
from mmattn.datasets import sample
from mmattn.engine import config
from mmattn.engine.config import clear_registry_errors, datasets, walk, without_pretrained
from mmattn.engine.datacheck import CITYSCAPES, check_data
from mmattn.engine.fast import quicken
from mmattn.engine.quiet import QuietRunner
from mmattn.engine.weights import load_weights, read_checkpoint
from mmattn.evaluation.metrics import IoUMetric

LINES = 10  # of progress
TRAINING = ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler")
TRAINING += ("val_dataloader", "val_cfg", "val_evaluator")


def prepare(
    path: str | Path,
    checkpoint: str,
    *,
    options: Sequence[str] = (),
    base: Sequence[str] = (),
    work_dir: str | None = None,
    launcher: str = "none",
) -> Config:
    """The config to test a checkpoint with.

    A checkpoint of the built-in sample is tested on the sample, with the config that its training wrote beside it,
    unless other data than Cityscapes' usual place are asked for.

    Args:
        path: The config file.
        checkpoint: File or URL.
        options: As of ``--cfg-options``.
        base: Files to lay over the config.
        work_dir: Where logs and scores go; ``work_dirs/<name of the config>`` when neither this nor the config names
            one.
        launcher: ``none`` for a single process.

    Raises:
        UserError: The config or an option is wrong, or the checkpoint cannot be read.
    """
    cfg = config.load_config(path, options, base)
    drawn = Path(config.read(config.base_file("sample")).data_root)
    recorded = str((read_checkpoint(checkpoint).get("meta") or {}).get("cfg"))  # text; it is searched, never run
    if re.search(rf"data_root=['\"]{drawn}", recorded) and CITYSCAPES in _roots(cfg):
        written = Path(checkpoint).with_name(Path(cfg.filename).name)
        if not written.is_file():
            raise UserError(f"{checkpoint} was trained on the built-in sample: test it with the config of its training")
        print(f"{checkpoint} was trained on the built-in sample: testing it there, with {written}", flush=True)
        cfg = config.load_config(written, options, base)
    config.check_backends(cfg)
    if drawn in _roots(cfg):
        sample.ensure(drawn)
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get("work_dir") or f"work_dirs/{Path(path).stem}"
    return cfg


def evaluate(
    cfg: Config,
    checkpoint: str,
    *,
    tta: bool = False,
    fast: bool = False,
    out: Path | None = None,
    values: str = "palette",
    format_only: bool = False,
    pictures: dict[str, Any] | None = None,
) -> Path | None:
    """Run a checkpoint over ``test_dataloader`` and write ``metrics.json``.

    Args:
        cfg: As of :func:`prepare`; used up.
        checkpoint: File or URL.
        tta: Average over the scales and flips of the config's ``tta_pipeline``.
        fast: Predict in the setting of :func:`mmattn.engine.fast.quicken`, which ``metrics.json`` names.
        out: Folder for the predictions, one PNG for each image.
        values: What they hold, ``"palette"`` or ``"labelids"``; see ``SavePredictions``.
        format_only: Write predictions and read no labels.
        pictures: Arguments of mmseg's visualization hook, with ``save_dir``, to draw the predictions.

    Returns:
        The JSON file; None with ``format_only`` and in all processes but the first.

    Raises:
        UserError: The checkpoint or the data are missing or do not fit the config.
    """
    without_pretrained(cfg)
    cfg.load_from, cfg.resume = None, False
    inference = _inference(cfg, tta)
    if tta:
        _augment(cfg)
    if format_only:
        for _, dataset in datasets(cfg, "test_dataloader"):
            dataset.pipeline = _without_labels(dataset.pipeline)
            dataset.get("data_prefix", {}).pop("seg_map_path", None)
    if pictures:
        _draw(cfg, **pictures)
    check_data(cfg, "test_dataloader")
    for key in TRAINING:  # upstream builds the training data to ask for the iteration
        cfg.pop(key, None)
    cfg.test_evaluator = [] if format_only else _evaluators(cfg)
    if out:
        cfg.test_evaluator.append(ConfigDict(type="mmattn.SavePredictions", folder=str(out), values=values))

    with clear_registry_errors(cfg):
        runner = QuietRunner.from_cfg(Config(cfg._cfg_dict))  # nameless: the config that the training wrote stays
        runner.speak(every=math.ceil(len(runner.test_dataloader) / LINES))
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model = model.module if tta else model
        load_weights(model, checkpoint)
        if fast:
            inference["fast"] = quicken(model)
        dataset = runner.test_dataloader.dataset
        if out:
            _expect_different_names(dataset)
        begin = time.perf_counter()
        scores = runner.test()
    if format_only or not is_main_process():
        return None
    metric = next((found for found in runner.test_evaluator.metrics if isinstance(found, IoUMetric)), None)
    record = {
        "config": cfg.filename,
        "checkpoint": str(checkpoint),
        "dataset": [{"key": key} | _place(found) for key, found in datasets(cfg, "test_dataloader")],
        "images": len(dataset),
        "inference": inference,
        "scores": scores,  # percent
        "classes": metric.per_class if metric else {},
        "classes_in_no_label": metric.absent if metric else [],
        "seconds": round(time.perf_counter() - begin, 1),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "versions": {"mmattn": mmattn.__version__} | _versions(),
    }
    path = Path(runner.log_dir, "metrics.json")
    path.write_text(json.dumps(_plain(record), indent=2) + "\n")
    return path


def _roots(cfg: Config) -> set[Path]:
    return {Path(dataset.get("data_root") or ".") for _, dataset in datasets(cfg, "test_dataloader")}


def _inference(cfg: Config, tta: bool) -> dict:
    """The mode of inference; a slide without window or stride gets the training crop, overlapping by a third."""
    test_cfg = cfg.model.setdefault("test_cfg", ConfigDict())
    mode = test_cfg.setdefault("mode", "whole")
    if mode not in ("whole", "slide"):
        raise UserError(f"model.test_cfg.mode is {mode!r}; expected 'whole' or 'slide'")
    if mode == "slide":
        crop = test_cfg.get("crop_size") or next(
            (node["crop_size"] for _, node in walk(cfg.get("train_dataloader")) if node.get("crop_size")), None
        )
        if crop is None:
            raise UserError('sliding needs its window: --cfg-options model.test_cfg.crop_size="(512,1024)"')
        test_cfg.crop_size = _sides("crop_size", crop)
        overlapping = tuple(max(1, round(2 * side / 3)) for side in test_cfg.crop_size)
        test_cfg.stride = _sides("stride", test_cfg.get("stride", overlapping))
    return {**test_cfg, "tta": tta}


def _sides(key: str, value: Any) -> tuple[int, int]:
    sides = (value, value) if isinstance(value, int) else value
    right = isinstance(sides, tuple | list) and len(sides) == 2
    if not right or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(f"model.test_cfg.{key} is {value}; expected height and width, such as 512,1024")
    return tuple(sides)


def _augment(cfg: Config) -> None:
    """Wrap the model, and exchange the test pipeline, for test-time augmentation."""
    if "tta_pipeline" not in cfg:
        raise UserError("--tta: the config has no tta_pipeline")
    for _, dataset in datasets(cfg, "test_dataloader"):
        dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(cfg.get("tta_model") or {"type": "SegTTAModel"}, module=cfg.model)


def _without_labels(pipeline: list) -> list:
    """The pipeline, and those nested in it, without the steps that read labels."""
    kept = []
    for step in pipeline:
        if isinstance(step, list | tuple):
            kept += [inner] if (inner := _without_labels(step)) else []
        elif not str(step["type"]).endswith("LoadAnnotations"):
            if "transforms" in step:
                step.transforms = _without_labels(step.transforms)
            kept.append(step)
    return kept


def _draw(cfg: Config, save_dir: str | None, **options: Any) -> None:
    hook = cfg.default_hooks.get("visualization")
    if hook is None:
        raise UserError("--show and --show-dir need default_hooks.visualization = dict(type='SegVisualizationHook')")
    hook.setdefault("interval", 1)  # upstream draws every 50th
    hook.update(draw=True, **options)
    if save_dir:
        cfg.visualizer.save_dir = save_dir


def _evaluators(cfg: Config) -> list[ConfigDict]:
    """The config's metrics, with our IoU in the place of mmseg's."""
    found = cfg.get("test_evaluator") or []
    found = list(found) if isinstance(found, list | tuple) else [found]
    for evaluator in found:
        if str(evaluator.get("type")).removeprefix("mmseg.") == "IoUMetric":
            evaluator.type = "mmattn.IoUMetric"
    return found


def _expect_different_names(dataset: Any) -> None:
    """Predictions are called as their images are: two images of one name would overwrite each other."""
    names = Counter(Path(dataset.get_data_info(i)["img_path"]).stem for i in range(len(dataset)))
    name, count = names.most_common(1)[0]
    if count > 1:
        raise UserError(f"--out: {count} images are called {name}; test their folders one by one")


def _place(dataset: ConfigDict) -> dict:
    images = dataset.get("data_prefix", {}).get("img_path")
    return {"type": str(dataset.type), "data_root": dataset.get("data_root"), "images": images}


def _versions() -> dict[str, str]:
    found = {}
    for module in ("torch", "mmengine", "mmcv", "mmseg"):
        for package in stack.MINIMUM[module]:
            with suppress(PackageNotFoundError):
                found[package] = version(package)
    return found


def _plain(value: Any) -> Any:
    """As JSON has it: NaN becomes null, numpy's numbers Python's, tuples lists."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value
