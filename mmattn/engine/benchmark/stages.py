"""What happens around the network, mmseg's way and ours: loading, loss, the way from logits to classes, counting."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import mmseg.registry
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope, Registry
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric as MMSegIoUMetric
from mmseg.structures import SegDataSample
from torch import Tensor, nn

import mmattn.registry
from mmattn.cli import UserError
from mmattn.datasets.sample.labels import TRAIN_IDS
from mmattn.datasets.sample.scene import draw
from mmattn.engine import config
from mmattn.engine.benchmark.pairs import Pair, Setting, Side
from mmattn.evaluation.metrics import IoUMetric

CONFIG = config.CONFIGS / "ccnet_r50.py"
STRIDE = 8  # pixels of the image for each position of the map
CLASSES = 19
DRAWS = 8  # of the augmentation, one image each
SEGMENTOR = {
    "type": "EncoderDecoder",
    "backbone": {"type": "ResNet", "depth": 18, "base_channels": 4, "stem_channels": 4},
    "decode_head": {
        "type": "GCHead",
        "in_channels": 32,
        "channels": 8,
        "num_classes": CLASSES,
        "norm_cfg": {"type": "BN"},
        "loss_decode": {"type": "CrossEntropyLoss", "avg_non_ignore": True},
    },
    "test_cfg": {"mode": "whole"},
}


def street(size: tuple[int, int], number: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A drawn street of any size: image (h, w, 3) uint8, blue green red, and classes (h, w) uint8, 255 for none."""
    image, label = draw((1, 1, number))
    image = cv2.resize(image[..., ::-1], size[::-1], interpolation=cv2.INTER_LINEAR)
    return image, cv2.resize(TRAIN_IDS[label], size[::-1], interpolation=cv2.INTER_NEAREST)


def logits_of(labels: np.ndarray, size: tuple[int, int]) -> Tensor:
    """What a network could have said of an image: (classes, h, w), sure inside regions and torn at their rims."""
    known = torch.from_numpy(np.where(labels == 255, 0, labels)).long()
    regions = F.interpolate(F.one_hot(known, CLASSES).permute(2, 0, 1)[None].float(), size=size, mode="area")[0]
    generator = torch.Generator().manual_seed(3)
    return 8 * regions + torch.randn(regions.shape, generator=generator)


def _pixels(setting: Setting) -> tuple[int, int]:
    h, w = setting.size
    return STRIDE * h, STRIDE * w


def _samples(setting: Setting) -> tuple[list[np.ndarray], list[SegDataSample]]:
    size, labels, samples = _pixels(setting), [], []
    for i in range(setting.batch):
        labels.append(street(size, i)[1])
        shapes = dict.fromkeys(("ori_shape", "img_shape", "pad_shape"), size)
        sample = SegDataSample(metainfo={**shapes, "padding_size": [0] * 4, "img_path": f"{i}.png"})
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(labels[-1]).long()[None].to(setting.device))
        samples.append(sample)
    return labels, samples


def _segmentor(registry: Registry, scope: str, device: str) -> nn.Module:
    with DefaultScope.overwrite_default_scope(scope):
        torch.manual_seed(0)
        return registry.build(ConfigDict(SEGMENTOR)).to(device)


def _both(setting: Setting) -> tuple[nn.Module, nn.Module]:
    """Segmentors of both that are given their logits instead of computing them."""
    doors = ((mmseg.registry.MODELS, "mmseg"), (mmattn.registry.MODELS, "mmattn"))
    found = [_segmentor(registry, scope, setting.device) for registry, scope in doors]
    for model in found:
        model.decode_head.forward = lambda features: features[0]
    return found[0], found[1]


def _fed(model: nn.Module, step: Callable[[nn.Module], Any]) -> Side:
    def call(logits: Tensor) -> Any:
        model.extract_feat = lambda inputs: [logits]
        return step(model)

    return Side(call)


def upsample_argmax(setting: Setting) -> Pair:
    """From a head's logits to the class of each pixel, by ``predict`` of the segmentors."""
    labels, samples = _samples(setting)
    logits = torch.stack([logits_of(label, setting.size) for label in labels]).to(setting.device)
    image = torch.empty(setting.batch, 3, *_pixels(setting), device=setting.device)

    def predict(model: nn.Module) -> list[Tensor]:
        return [found.pred_sem_seg.data for found in model.eval().predict(image, samples)]

    return Pair(*(_fed(model, predict) for model in _both(setting)), (logits,), ("eval",))


def loss(setting: Setting) -> Pair:
    """From a head's logits to loss and accuracy, and back, by ``loss`` of the segmentors."""
    labels, samples = _samples(setting)
    logits = torch.stack([logits_of(label, setting.size) for label in labels]).to(setting.device)
    image = torch.empty(setting.batch, 3, *_pixels(setting), device=setting.device)

    def losses(model: nn.Module) -> dict[str, Tensor]:
        return model.loss(image, samples)

    return Pair(*(_fed(model, losses) for model in _both(setting)), (logits.requires_grad_(),), ("train",))


def classes_and_counts(setting: Setting) -> Pair:
    """From a head's logits to counts of pixels: :func:`upsample_argmax` and :func:`iou` together."""
    labels, samples = _samples(setting)
    logits = torch.stack([logits_of(label, setting.size) for label in labels]).to(setting.device)
    image = torch.empty(setting.batch, 3, *_pixels(setting), device=setting.device)
    metrics = iter((MMSegIoUMetric, IoUMetric))

    def side(model: nn.Module) -> Side:
        metric = next(metrics)

        def count(model: nn.Module) -> list[Tensor]:
            found = model.eval().predict(image, samples)
            pairs = [(sample.pred_sem_seg.data[0], sample.gt_sem_seg.data[0]) for sample in found]
            counts = [torch.stack([*metric.intersect_and_union(*p, CLASSES, 255)]).double().cpu() for p in pairs]
            return [sum(counts)]

        return _fed(model, count)

    return Pair(*(side(model) for model in _both(setting)), (logits,), ("eval",))


def fused_counts(setting: Setting) -> Side:
    """:func:`classes_and_counts` by the Triton kernel that makes no label map."""
    from mmattn.ops.kernels.upsample_argmax import confusion  # wants triton

    truth = torch.cat([sample.gt_sem_seg.data for sample in _samples(setting)[1]])  # (b, h, w)

    def count(logits: Tensor) -> list[Tensor]:
        counts = confusion(logits, truth)  # (true, predicted)
        both, predicted, true = counts.diagonal(), counts.sum(0), counts.sum(1)
        return [torch.stack([both, predicted + true - both, predicted, true]).double().cpu()]

    return Side(count)


def iou(setting: Setting) -> Pair:
    """From classes to counts of pixels."""
    labels, samples = _samples(setting)
    predicted = [torch.from_numpy(np.roll(np.where(label == 255, 0, label), 3, axis=1)).long() for label in labels]
    pairs = [(p.to(setting.device), s.gt_sem_seg.data[0]) for p, s in zip(predicted, samples, strict=True)]

    def side(metric: type[MMSegIoUMetric]) -> Side:
        return Side(lambda: [[x.double().cpu() for x in metric.intersect_and_union(*p, CLASSES, 255)] for p in pairs])

    return Pair(side(MMSegIoUMetric), side(IoUMetric), modes=("eval",))


def loading(setting: Setting, *, cached: bool = False) -> Pair:
    """Training images through the pipeline of ``configs/ccnet_r50.py``, from PNG, and ours from the cache if asked.

    The same :data:`DRAWS` draws for both.

    Raises:
        UserError: The cache is asked for and Zstandard is not installed.
    """
    if cached and find_spec("zstandard") is None:
        raise UserError("the cache is made with Zstandard: pip install zstandard")
    folder = TemporaryDirectory(prefix="mmattn_benchmark")
    h, w = _pixels(setting)
    image, label = street((h, w))
    paths = [Path(folder.name, name) for name in ("street_leftImg8bit.png", "street_gtFine_labelTrainIds.png")]
    for path, pixels in zip(paths, (image, label), strict=True):
        cv2.imwrite(str(path), pixels)
    if cached:
        from mmattn.datasets import cache

        for path, is_labels in zip(paths, (False, True), strict=True):
            cache.make(cache.File(path, is_labels, Path(folder.name)))
    options = {"crop_size": (h // 2, w // 2)}
    pipelines = {}
    for scope in ("mmseg", "mmattn"):
        cfg = config.read(CONFIG) if scope == "mmseg" else config.load_config(CONFIG)
        steps = cfg.train_dataloader.dataset.pipeline
        for step in steps:
            step.update({k: v for k, v in (*options.items(), ("scale", (w, h))) if k in step})
        with DefaultScope.overwrite_default_scope(scope):
            pipelines[scope] = Compose(steps)

    def side(scope: str) -> Side:
        def call(held: TemporaryDirectory = folder) -> list[Tensor]:
            found = []
            for seed in range(DRAWS):
                np.random.seed(seed)
                places = {"img_path": str(paths[0]), "seg_map_path": str(paths[1])}
                packed = pipelines[scope]({**places, "seg_fields": [], "reduce_zero_label": False})
                found += [packed["inputs"], packed["data_samples"].gt_sem_seg.data]
            return found

        return Side(call)

    return Pair(side("mmseg"), side("mmattn"), modes=("load",))
