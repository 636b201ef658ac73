"""Intersection over union without rounding on the way, and predictions as files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmseg.evaluation import IoUMetric as MMSegIoUMetric
from PIL import Image
from torch import Tensor

from mmattn.cli import UserError
from mmattn.datasets.labels import TRAINED
from mmattn.registry import METRICS


@METRICS.register_module()
class IoUMetric(MMSegIoUMetric):
    """mmseg's metric, with counts that stay exact however many pixels there are.

    mmseg adds float32 counts, which lose pixels beyond 2^24; here they are int64, and stay on the device until the end.
    Several processes exchange their sums, in no file: they need no folder in common, and score what one does.
    After ``compute_metrics``, ``per_class`` holds each score for each class, unrounded, in percent, and NaN where a
    class has no pixel to be scored on; ``absent`` names the classes that occur in no label.

    Args:
        *args: As of mmseg's ``IoUMetric``.
        **kwargs: As of mmseg's ``IoUMetric``.
    """

    default_prefix = ""  # keys are "mIoU"; None means the same, and a warning
    per_class: dict[str, dict[str, float]]
    absent: tuple[str, ...]

    @staticmethod
    def intersect_and_union(
        pred_label: Tensor, label: Tensor, num_classes: int, ignore_index: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pixel counts by class of one image.

        Args:
            pred_label: Predicted classes, (h, w).
            label: True classes, (h, w).
            num_classes: Number of classes.
            ignore_index: Pixels of this label do not count.

        Returns:
            Intersection, union, predicted and true pixels: (num_classes,) each, int64, on the device of the labels.

        Raises:
            UserError: A label is neither a class nor ``ignore_index``.
        """
        if not 0 <= ignore_index < 256:  # a row of its own for what is ignored
            label, ignore_index = label.masked_fill(label == ignore_index, num_classes), num_classes
        rows = max(num_classes, ignore_index + 1)
        pairs = torch.add(pred_label.long(), label.long(), alpha=num_classes).flatten()
        counts = torch.bincount(pairs, minlength=rows * num_classes)  # (true * predicted,)
        scored, other = counts[: num_classes**2].view(num_classes, num_classes), counts[num_classes**2 :]
        if other[: (ignore_index - num_classes) * num_classes].any() or len(counts) > rows * num_classes:
            raise UserError(f"labels hold other values than {num_classes} classes and ignore_index={ignore_index}")
        if ignore_index < num_classes:
            scored[ignore_index] = 0
        both, predicted, true = scored.diagonal(), scored.sum(dim=0), scored.sum(dim=1)
        return both, predicted + true - both, predicted, true

    @staticmethod
    def total_area_to_metrics(*areas_and_options: Any, **options: Any) -> dict[str, np.ndarray]:
        """mmseg's scores of pixel counts, in float64 arithmetic."""
        areas = (x.double() if isinstance(x, Tensor) else x for x in areas_and_options)
        return MMSegIoUMetric.total_area_to_metrics(*areas, **options)

    def evaluate(self, size: int) -> dict[str, float]:
        """Scores over the images of all processes.

        Args:
            size: Number of images. A sampler deals them out in turn; what it adds to make the shares equal is left out.
        """
        rank, processes = get_dist_info()
        if processes > 1 and not self.format_only:
            nothing = (torch.zeros(len(self.dataset_meta["classes"]), dtype=torch.int64),) * 4
            own = self.results[: len(range(rank, size, processes))] or [nothing]
            self.results = [tuple(sum(column).cpu() for column in zip(*own, strict=True))]
            self.collect_device, size = "gpu", processes  # which is any device, without a file
        return super().evaluate(size)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Scores over all images; see mmseg's ``IoUMetric``."""
        if not self.format_only:
            areas = [sum(column) for column in zip(*results, strict=True)]
            scores = self.total_area_to_metrics(*areas, self.metrics, self.nan_to_num, self.beta)
            names = self.dataset_meta["classes"]
            self.absent = tuple(name for name, area in zip(names, areas[3].tolist(), strict=True) if area == 0)
            self.per_class = {
                name: {key: float(100 * values[i]) for key, values in scores.items() if key != "aAcc"}
                for i, name in enumerate(names)
            }
            if self.absent:
                print_log(f"in no label, so without accuracy: {', '.join(self.absent)}", "current")
        return super().compute_metrics(results)


@METRICS.register_module()
class SavePredictions(BaseMetric):
    """Writes each prediction as ``<name of the image>.png``; measures nothing.

    Args:
        folder: Where the files go; made when missing.
        values: ``"palette"``: class indices, with the palette in the file, so that every viewer shows colours.
            ``"labelids"``: the ids that the Cityscapes server takes.

    Raises:
        UserError: ``"labelids"`` with other classes than Cityscapes' 19 (when the first image is written).
    """

    default_prefix = ""

    def __init__(self, folder: str, values: str = "palette") -> None:
        super().__init__(collect_device="gpu")  # any device, without a file
        self.folder = Path(folder)
        self.values = values

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Write the predictions of one batch."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for sample in data_samples:
            classes = sample["pred_sem_seg"]["data"].squeeze(0).cpu().numpy().astype(np.uint8)  # (h, w)
            picture = self._label_ids(classes) if self.values == "labelids" else self._with_palette(classes)
            picture.save(self.folder / f"{Path(sample['img_path']).stem}.png")
            self.results.append(None)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Nothing to measure."""
        return {}

    def _label_ids(self, classes: np.ndarray) -> Image.Image:
        if tuple(self.dataset_meta["classes"]) != tuple(label.name for label in TRAINED):
            raise UserError("label ids exist for Cityscapes' 19 classes alone; use --out-format palette")
        return Image.fromarray(np.array([label.id for label in TRAINED], dtype=np.uint8)[classes])

    def _with_palette(self, classes: np.ndarray) -> Image.Image:
        picture = Image.fromarray(classes)
        colours = np.asarray(self.dataset_meta["palette"], dtype=np.uint8)  # (classes, 3)
        picture.putpalette(colours.tobytes())  # from here on it is of mode P
        return picture
