"""Run a segmentor on an image and draw what it saw."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from torch import nn

from mmattn.capture import Captured, capture
from mmattn.cli import UserError
from mmattn.datasets.labels import IGNORE
from mmattn.engine.config import clear_registry_errors, datasets
from mmattn.evaluation.palettes import CITYSCAPES, Palette
from mmattn.registry import DATASETS
from mmattn.visualization.figure import paint
from mmattn.visualization.images import CITYSCAPES_IMAGE, find_label, read_image, read_label
from mmattn.visualization.options import PLAIN, Options
from mmattn.visualization.saliency import saliency
from mmattn.visualization.scene import Point, Scene, spread_points
from mmattn.visualization.views import Overlay, View, side_by_side, views


def draw(
    model: nn.Module | Mapping[str, nn.Module],
    image: str | Path | np.ndarray,
    *,
    points: Sequence[Point] = (),
    note: str = "",
    options: Options = PLAIN,
) -> Figure:
    """One figure of an image: input, prediction, ground truth where there is one, and the attention of the model.

    Args:
        model: A segmentor with its config in ``model.cfg``, as :func:`mmattn.engine.config.build_model` and mmseg's
            ``init_model`` return it. Several of them by their names are drawn side by side.
        image: A file, or (h, w, 3) uint8, red green blue. Ground truth is looked for beside a file of the config's
            data, and beside one named as in Cityscapes if the model knows the classes of Cityscapes.
        points: Query pixels (x, y) of the image; by default three of :func:`spread_points`.
        note: Small print in the heading.
        options: What to show, and how.

    Returns:
        The figure; ``savefig`` writes it.

    Raises:
        UserError: The image cannot be read, a point is outside it, or the model has no attention to show.
    """
    path = None if isinstance(image, np.ndarray) else Path(image)
    pixels = image if path is None else read_image(path)
    (height, width), name = pixels.shape[:2], path or "the image"
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(f"point {x},{y} is outside {name}: x goes from 0 to {width - 1}, y from 0 to {height - 1}")
    models = model if isinstance(model, Mapping) else {"": model}
    scenes = {name: observe(model, pixels, path) for name, model in models.items()}
    first = next(iter(scenes.values()))
    points = list(points) or spread_points(first.prediction)
    shown = {name: _views(scene, points, options) for name, scene in scenes.items()}
    bands, predictions = next(iter(shown.values())), None
    if len(scenes) > 1:
        bands = side_by_side(shown, first.queries(points))
        predictions = {f"prediction, {name}": scene.prediction for name, scene in scenes.items()}
    if options.saliency:
        panels = [Overlay(saliency(pixels), "")]
        bands.append(View("Bottom-up saliency", "what stands out by itself", "Itti, Koch, Niebur 1998", "of 1", panels))
    title = path.name if path else ""
    return paint(first, points, bands, title=title, note=note, options=options, predictions=predictions)


def observe(model: nn.Module, image: np.ndarray, path: Path | None = None) -> Scene:
    """Run a segmentor on one image, and add the ground truth that lies beside its file.

    Args:
        model: As in :func:`draw`.
        image: (h, w, 3) uint8, red green blue.
        path: Its file.

    Raises:
        UserError: The ground truth is not of this image, or the model has no attention to show.
    """
    beside = find_label(path) if path and _known(path, model) else None
    scene = look(model, image, label=_checked(beside, image, _palette(model)) if beside else None)
    expect_attention(scene.maps)
    return scene


def expect_attention(maps: Sequence[Captured]) -> None:
    """Refuse a model in which nothing was captured.

    Raises:
        UserError: There is no map.
    """
    if not maps:
        raise UserError(
            "this model has no attention to show; add a decode head or a plugin of mmattn, as in configs/ccnet_r50.py"
        )


def _views(scene: Scene, points: Sequence[Point], options: Options) -> list[View]:
    shown = views(options.choose(scene.maps), scene.queries(points), scene.palette.classes, scene.reach)
    for view in shown:
        if not all(np.isfinite(panel.values).all() for panel in view.panels):
            raise UserError(f"the attention at {view.place} is not finite: look for NaN or inf in the checkpoint")
    return shown


def look(model: nn.Module, image: np.ndarray, label: np.ndarray | None = None) -> Scene:
    """Run a segmentor on one image through the test pipeline of its config, and watch.

    A model that slides a window over its input is given all of it at once: windows have no map in common.

    Args:
        model: As in :func:`draw`.
        image: (h, w, 3) uint8, red green blue.
        label: Ground truth (h, w) to go with it.
    """
    with torch.no_grad(), _whole(model), DefaultScope.overwrite_default_scope("mmattn"):
        with clear_registry_errors(model.cfg):
            pipeline = Compose(_pipeline(model.cfg))
        packed = pipeline({"img": np.ascontiguousarray(image[..., ::-1])})
        batch = {key: [packed[key]] for key in ("inputs", "data_samples")}
        batch = model.data_preprocessor(batch, False)
        with capture(model) as maps:
            (result,) = model(**batch, mode="predict")
    resized, padded = batch["data_samples"][0].img_shape, batch["inputs"].shape[2:]
    prediction = result.pred_sem_seg.data[0].cpu().numpy()
    return Scene(image, prediction, label, _palette(model), maps, (padded[0] / resized[0], padded[1] / resized[1]))


@contextmanager
def _whole(model: nn.Module) -> Iterator[None]:
    mode = model.test_cfg.get("mode", "whole")
    model.test_cfg["mode"] = "whole"
    try:
        yield
    finally:
        model.test_cfg["mode"] = mode


def _pipeline(cfg: Any) -> list[dict]:
    """The test pipeline of a config, for an image in memory and without labels."""
    steps = next((dataset.pipeline for _, dataset in datasets(cfg, "test_dataloader")), cfg.get("test_pipeline"))
    if not steps:
        raise UserError("the config has no test pipeline; give test_dataloader or test_pipeline")
    steps = [dict(step) for step in steps if not str(step["type"]).endswith("LoadAnnotations")]
    return [steps[0] | {"type": "LoadImageFromNDArray"}, *steps[1:]]


def _palette(model: nn.Module) -> Palette:
    """Names and colours of the classes; where the model knows none, numbers and colours of different hue."""
    meta = getattr(model, "dataset_meta", None) or {}
    classes, colours = tuple(meta.get("classes") or ()), tuple(map(tuple, meta.get("palette") or ()))
    classes += tuple(f"class {i}" for i in range(len(classes), max(2, model.num_classes)))
    hues = np.array([[(i * 111 % 180, 150, 210) for i in range(len(classes))]], np.uint8)
    colours += tuple(map(tuple, cv2.cvtColor(hues, cv2.COLOR_HSV2RGB)[0].tolist()))[len(colours) :]
    return Palette("", classes, colours)


def _known(image: Path, model: nn.Module) -> bool:
    """Whether the labels of an image are of the model's classes."""
    if image.stem.endswith(CITYSCAPES_IMAGE) and _palette(model).classes == CITYSCAPES.classes:
        return True
    return any(
        Path(dataset.data_root).resolve() in image.resolve().parents
        for _, dataset in datasets(model.cfg)
        if dataset.get("data_root") and not _counts_from_one(dataset)
    )


def _counts_from_one(dataset: Any) -> bool:
    """Whether label 0 stands for no class, as ``reduce_zero_label`` says; such labels are not shown."""
    default = inspect.signature(DATASETS.get(dataset.type)).parameters.get("reduce_zero_label")
    return dataset.get("reduce_zero_label", default is not None and default.default)


def _checked(path: Path, image: np.ndarray, palette: Palette) -> np.ndarray:
    label = read_label(path)
    (h, w), size = label.shape, image.shape[:2]
    if (h, w) != size:
        raise UserError(f"{path} is {w} x {h} pixels, its image {size[1]} x {size[0]}")
    unknown = np.setdiff1d(label, [*range(len(palette.classes)), IGNORE])
    if len(unknown):
        raise UserError(f"{path} has the value {unknown[0]}; there are {len(palette.classes)} classes, and {IGNORE}")
    return label
