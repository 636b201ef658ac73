"""Whether a graph computes what the model does, on noise and on photographs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import torch
from mmengine.registry import DefaultScope
from mmseg.structures import SegDataSample
from torch import nn

from mmattn.cli import UserError
from mmattn.engine.config import datasets
from mmattn.engine.export.graphs import Logits
from mmattn.visualization.images import find_images, read_image

TOLERANCE = 1e-3  # of the largest logit; what two libraries round differently is a hundredth of that
PHOTO = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")


@dataclass(frozen=True)
class Expected:
    """What the model makes of some images.

    Args:
        images: (b, h, w, 3), uint8, blue green red.
        inputs: (b, 3, h, w), the same ones as the backbone gets them.
        logits: (b, classes, h, w).
        labels: (b, h, w).
        margin: (b, h, w), between the two largest logits, or between the probability and its threshold.
    """

    images: np.ndarray
    inputs: np.ndarray
    logits: np.ndarray
    labels: np.ndarray
    margin: np.ndarray


def expected(model: nn.Module, images: np.ndarray) -> Expected:
    """Preprocess and predict as in a test.

    Raises:
        UserError: The model pads images before it predicts, or takes none of this size.
    """
    (height, width), pixels = images.shape[1:3], torch.from_numpy(images).permute(0, 3, 1, 2)
    meta = {"img_shape": (height, width), "ori_shape": (height, width)}
    samples = [SegDataSample(metainfo=meta) for _ in images]
    with torch.no_grad(), DefaultScope.overwrite_default_scope("mmattn"):
        data = model.data_preprocessor({"inputs": list(pixels), "data_samples": samples}, False)
        if tuple(data["inputs"].shape[2:]) != (height, width):
            raise UserError("the model pads images in tests, a graph does not: take data_preprocessor.test_cfg out")
        try:
            logits = Logits(model)(data["inputs"])
        except ValueError as error:
            raise UserError(f"the model takes no images of {height} x {width}: {error}") from error
        results = model(**data, mode="predict")
    labels = torch.stack([result.pred_sem_seg.data[0] for result in results])
    if logits.shape[1] > 1:
        largest = logits.topk(2, dim=1).values
        margin = largest[:, 0] - largest[:, 1]
    else:
        margin = (logits[:, 0].sigmoid() - model.decode_head.threshold).abs()
    inputs, logits, labels, margin = (x.numpy() for x in (data["inputs"], logits, labels, margin))
    return Expected(images, inputs, logits, labels, margin)


def compare(graph: Callable[[np.ndarray], np.ndarray], wanted: Expected, argmax: bool) -> tuple[str, bool]:
    """Run a graph, and say how far it is from the model.

    Args:
        graph: From images to labels, with ``argmax``; else from inputs to logits.
        wanted: What the model makes of the same images.
        argmax: Whether the graph gives labels.

    Returns:
        The difference in words, and whether it is rounding alone: logits differ by less than :data:`TOLERANCE` of the
        largest, labels where two logits are that close.
    """
    scale = float(np.abs(wanted.logits).max())
    found = graph(wanted.images if argmax else wanted.inputs)
    right = wanted.labels if argmax else wanted.logits
    if found.shape != right.shape:
        return f"its result is {found.shape}, not {right.shape}", False
    if not argmax:
        difference = float(np.abs(found - wanted.logits).max())
        return f"largest difference {difference:.1e}, of logits up to {scale:.1f}", difference <= TOLERANCE * scale
    differs = found != wanted.labels
    text = f"{differs.sum()} of {differs.size} labels differ"
    if not differs.any():
        return text, True
    margin = float(wanted.margin[differs].max())
    return f"{text}, where two logits are {margin:.1e} apart, of logits up to {scale:.1f}", margin <= TOLERANCE * scale


def photos(model: nn.Module, given: Sequence[Path] = ()) -> list[Path]:
    """The photographs to compare on: those given, else the first test images of the config, else one that comes with
    matplotlib.

    Raises:
        UserError: Something given does not exist or has no image.
    """
    if given:
        return find_images(map(str, given))
    for _, dataset in datasets(model.cfg, "test_dataloader"):
        folder = Path(dataset.get("data_root") or ".", (dataset.get("data_prefix") or {}).get("img_path") or ".")
        if folder.is_dir():
            with suppress(UserError):  # it has no image
                return find_images([str(folder)])[:2]
    return [PHOTO]


def batches(photos: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> Iterator[tuple[str, np.ndarray]]:
    """For each size noise and photographs, (b, h, w, 3) uint8: one image of the first, two of the second.

    Raises:
        UserError: A file is not there or is not an image.
    """
    noise = np.random.default_rng(0)
    read = [np.ascontiguousarray(read_image(path)[..., ::-1]) for path in photos]
    for i, (height, width) in enumerate(sizes):
        count = 1 + i % 2
        size = f"{count} x {height} x {width}"
        yield f"noise, {size}", noise.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
        shown = [cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image in (read * 2)[:count]]
        if len(read) < count:
            shown[-1] = np.ascontiguousarray(shown[-1][:, ::-1])  # mirrored, so that no two are equal
        yield f"{', '.join(dict.fromkeys(path.name for path in photos[:count]))}, {size}", np.stack(shown)
