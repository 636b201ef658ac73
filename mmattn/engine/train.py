"""Training: what ``tools/train.py`` does between its arguments and its last line."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.model import is_model_wrapper
from mmengine.registry import RUNNERS, init_default_scope
from mmengine.runner import Runner, find_latest_checkpoint

from mmattn.cli import UserError
from mmattn.datasets import sample
from mmattn.engine import checkpoints, config, datacheck, processes, weights
from mmattn.engine.quiet import QuietRunner

ONE_VALUE = re.compile(r"(one|more than 1) value per channel")  # said by mechanisms, and by torch
CHOOSES_DATA = re.compile(r"data_root|data_prefix|ann_file|dataset(\.type)?$")
BACKBONE_START = re.compile(r"model\.pretrained|model(\.backbone)+\.(pretrained|init_cfg\.checkpoint)")
BANNER = """{line}
{reason}: this trains on the built-in sample,
drawn street scenes with Cityscapes' 19 classes. Iterations: {iters}, from scratch.
Backbone: {backbone}. Decode head: as in the config.
The result says that everything works, not how good the model is on photographs.
{line}"""


@dataclass(frozen=True)
class Outcome:
    """What a training left behind.

    Attributes:
        metrics: Of the last validation, such as ``mIoU`` in percent; empty when the config validates nothing.
        config: The config as it was used, in the work directory.
        checkpoint: The last one written.
        image: One of the images validated on.
        main: Whether this process is the one to print.
    """

    metrics: Mapping[str, float]
    config: Path
    checkpoint: Path | None
    image: Path | None
    main: bool


def prepare(
    path: str | Path,
    *,
    options: Sequence[str] = (),
    base: Sequence[str] = (),
    work_dir: str | None = None,
    resume: bool = False,
    amp: bool = False,
    on_nan: str = "stop",
    from_scratch: bool = False,
    launcher: str = "none",
) -> Config:
    """Everything that can be found out before the first iteration.

    Args:
        path: The config file.
        options: As of ``--cfg-options``.
        base: Files to lay over the config.
        work_dir: Where checkpoints and logs go; ``work_dirs/<name of the config>`` when neither this nor the config
            names one, with ``_sample`` appended when the built-in sample takes the place of missing data.
        resume: Go on from the newest whole checkpoint in the work directory.
        amp: Train in mixed precision.
        on_nan: At a loss that is not finite ``stop``, or ``skip`` its batch.
        from_scratch: Leave out the pretrained weights that the config names.
        launcher: ``none`` for a single process.

    Returns:
        The config to train with.

    Raises:
        UserError: The config, an option, the data or the pretrained weights are not as they should be.
    """
    options = config.parse_options(options)
    asked = "sample" in base
    base = [name for name in base if name != "sample"]
    cfg = config.load_config(path, options, base)
    cfg.launcher = launcher
    for key in ("model", "train_dataloader", "train_cfg", "optim_wrapper"):
        if not cfg.get(key):
            raise UserError(f"{path} has no {key}: it is no config to train with")
    chosen = any(CHOOSES_DATA.search(key) for key in options)
    chosen |= any("train_dataloader" in config.read(config.base_file(name)) for name in base)
    missing = launcher == "none" and not chosen and datacheck.nothing_configured(cfg)
    config.check_backends(cfg)
    stem = cfg.get("work_dir") or f"work_dirs/{Path(path).stem}"
    cfg.work_dir = work_dir or (f"{stem}_sample" if asked or missing else stem)
    if asked or missing:
        reason = "As --base sample asks for" if asked else f"There is nothing at {datacheck.CITYSCAPES}"
        _use_sample(cfg, options, reason)
    else:
        datacheck.check_data(cfg)
    if from_scratch:
        config.without_pretrained(cfg)
    elif processes.first_of_machine():
        _find_pretrained(cfg)
    if amp:
        _mix_precision(cfg.optim_wrapper)
    cfg.resume = resume or cfg.get("resume", False)
    if on_nan != "stop":
        cfg.on_nan = on_nan
    _log_often_enough(cfg, options)
    return cfg


def _use_sample(cfg: Config, options: Mapping[str, Any], reason: str) -> None:
    """Give a config the sample's data, its schedule and a smaller backbone; the user's options still win."""
    base = config.read(config.base_file("sample"))
    small, weight = base.pop("small_backbones"), base.pop("class_weight")
    config.lay_over(cfg, base)
    config.without_pretrained(cfg)
    backbone = "as in the config"
    if not any(key.startswith("model.backbone") for key in options):
        backbone = _shrink(cfg, small) or backbone
    for head in config.heads(cfg.model):
        for _, loss in config.walk(head.get("loss_decode")):
            if str(loss.get("type")).endswith("CrossEntropyLoss"):
                loss.setdefault("class_weight", weight)
    if saver := (cfg.get("default_hooks") or {}).get("checkpoint"):
        saver.update(interval=cfg.train_cfg.max_iters // 4, max_keep_ckpts=1)  # an interrupted run can be resumed
    config.settle(cfg, options)
    init_default_scope(cfg.default_scope)
    with config.clear_registry_errors(cfg):
        config.fit_heads(cfg.model)
    iters = cfg.train_cfg.get("max_iters")
    if processes.first_of_machine():
        print(BANNER.format(line="=" * 90, reason=reason, iters=iters, backbone=backbone), flush=True)
    sample.ensure(Path(base.data_root))


def _shrink(cfg: Config, small: Mapping[str, Mapping]) -> str | None:
    """Give the backbone of a known family its small settings; what to call it then."""
    key, backbone = "model.backbone", cfg.model.backbone
    attended = isinstance(backbone.get("backbone"), Mapping)
    if attended:
        key, backbone = f"{key}.backbone", backbone.backbone
    for family, settings in small.items():
        if str(backbone.type).rpartition(".")[2].startswith(family):
            # names of modules and positions in a block go with the depth
            keep_depth = attended or backbone.get("plugins")
            cfg.merge_from_dict({key: {k: v for k, v in settings.items() if k != "depth" or not keep_depth}})
            return f"{family}, smaller than in the config"
    return None


def train(cfg: Config, *, partial: bool = False) -> Outcome:
    """Train, validate and write checkpoints.

    Args:
        cfg: As of :func:`prepare`.
        partial: Let ``load_from`` fit only in part.

    Raises:
        UserError: The config does not build, a checkpoint does not fit, a file of the data is bad, the loss is not
            finite, or the last checkpoint could not be saved.
    """
    config.check_optimizer(cfg)
    with config.clear_registry_errors(cfg):
        runner = _build_runner(cfg)
        finished = _check_start(cfg, runner, partial)
        try:
            runner.train()
        except ValueError as error:
            if not ONE_VALUE.search(str(error)):
                raise
            raise UserError(
                f"a batch norm is to be trained on one value: {error}. Take a larger batch, "
                f"train_dataloader.batch_size={2 * cfg.train_dataloader.batch_size}, or a larger crop_size"
            ) from error
        if runner.val_loop is None:
            metrics = {}
        elif finished:
            runner.logger.info(f"{cfg.work_dir} is trained to the end; validating what is there")
            metrics = runner.val()
        else:
            scalars = runner.message_hub.log_scalars
            metrics = {key.removeprefix("val/"): scalars[key].current() for key in scalars if key.startswith("val/")}
    latest = find_latest_checkpoint(cfg.work_dir)
    return Outcome(
        metrics={key: value for key, value in metrics.items() if not key.endswith("time")},
        config=Path(cfg.work_dir, Path(cfg.filename).name),
        checkpoint=Path(cfg.work_dir, Path(latest).name) if latest else None,
        image=_first_image(runner),
        main=is_main_process(),
    )


def _build_runner(cfg: Config) -> Runner:
    if "runner_type" in cfg:
        return RUNNERS.build(cfg)
    try:
        runner = QuietRunner.from_cfg(cfg)
    except OSError as error:
        if not Path(error.filename or "").is_relative_to(Path(cfg.work_dir).absolute()):
            raise
        raise UserError(f"work_dir {cfg.work_dir} cannot be written: {error.strerror}") from error
    runner.speak()
    return runner


def _check_start(cfg: Config, runner: Runner, partial: bool) -> bool:
    """Compare the checkpoint to start from with the model; whether it is at the end of the schedule already."""
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    start = cfg.get("load_from")
    if not cfg.resume:
        for key, source, prefix in _pretrained(cfg):
            if BACKBONE_START.fullmatch(key):
                weights.check_backbone(model.backbone, source, prefix)
        if start:
            weights.load_weights(model, start, finetune=True, partial=partial)
        return False
    if start is None:
        start, skipped = processes.from_main(lambda: checkpoints.find_newest(cfg))
        for reason in skipped:
            runner.logger.warning(f"--resume: skipped, {reason}")
    if start is None:
        runner.logger.info(f"--resume: no checkpoint in {cfg.work_dir} yet, starting from the beginning")
        runner._resume = False
        return False
    meta = weights.load_weights(model, start)
    if "iter" not in meta:
        raise UserError(f"{start} holds weights but no training to resume; start from it with load_from={start}")
    runner._load_from = str(start)
    if meta.get("seed") is not None:  # before the data are opened in the order that it gives
        runner._randomness_cfg.update(seed=meta["seed"])
        runner.set_randomness(**runner._randomness_cfg)
    return meta["iter"] >= runner.train_loop.max_iters


def _pretrained(cfg: Config) -> Iterator[tuple[str, str, str]]:
    """Key, source and prefix of the weights that parts of the model start from."""
    for key, node in config.walk(cfg.model, "model"):
        init = node.get("init_cfg")
        if isinstance(init, Mapping) and isinstance(init.get("checkpoint"), str):
            yield f"{key}.init_cfg.checkpoint", init["checkpoint"], init.get("prefix") or ""
        if isinstance(node.get("pretrained"), str):
            yield f"{key}.pretrained", node["pretrained"], ""


def _find_pretrained(cfg: Config) -> None:
    for key, source, _ in _pretrained(cfg):
        try:
            weights.locate(source)
        except UserError as error:
            raise UserError(f"{key}: {error}. Or train without: --from-scratch") from error


def _mix_precision(wrapper: ConfigDict) -> None:
    if wrapper.get("type", "OptimWrapper") not in ("OptimWrapper", "AmpOptimWrapper"):
        raise UserError(f"--amp needs optim_wrapper.type='OptimWrapper', the config has {wrapper.type!r}")
    wrapper.type = "AmpOptimWrapper"
    wrapper.setdefault("loss_scale", "dynamic")


def _log_often_enough(cfg: Config, options: Mapping[str, Any]) -> None:
    """A short training shows its progress too."""
    logger = (cfg.get("default_hooks") or {}).get("logger")
    iters = cfg.train_cfg.get("max_iters")
    if logger and iters and "default_hooks.logger.interval" not in options:
        logger.interval = max(1, min(logger.get("interval", 50), iters // 20))


def _first_image(runner: Runner) -> Path | None:
    if runner.val_loop is None:
        return None
    dataset = runner.val_dataloader.dataset
    return Path(dataset.get_data_info(0)["img_path"]) if hasattr(dataset, "get_data_info") else None
