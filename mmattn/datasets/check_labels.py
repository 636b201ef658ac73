"""Reading images and labels, where a bad file is named instead of derailing the training.

Under the scope ``mmattn`` these take the place of the transforms of the same names, so that every config gets them.
"""

import numpy as np
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from mmseg.datasets.transforms import LoadAnnotations as MMSegLoadAnnotations

from mmattn.cli import UserError
from mmattn.datasets import cache, transforms  # noqa: F401  registers the transforms
from mmattn.datasets.prepare import UNREADABLE
from mmattn.datasets.promises import Results
from mmattn.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadImageFromFile(MMCVLoadImageFromFile):
    """mmcv's, naming the file that cannot be read.

    Raises:
        UserError: The file is missing, empty, truncated or no image.
    """

    def transform(self, results: dict) -> Results | None:
        """Adds ``img``, ``img_shape`` and ``ori_shape``."""
        if (stored := self._stored(results)) is not None:
            shape = stored.shape[:2]
            return Results(results, img=stored, img_shape=shape, ori_shape=shape)
        try:
            loaded = super().transform(results)
        except UNREADABLE as error:
            raise _unreadable(results["img_path"], error) from error
        return None if loaded is None else Results(loaded)

    def _stored(self, results: dict) -> cache.Stored | None:
        """The image in the cache, where it is the same as this transform would read."""
        own = (self.color_type, self.imdecode_backend, self.to_float32, self.backend_args, self.file_client_args)
        if own != ("color", "cv2", False, None, None):
            return None
        return cache.find(results["img_path"], lambda: self._read(results["img_path"]))

    def _read(self, path: str) -> np.ndarray:
        try:
            return super().transform({"img_path": path})["img"]
        except UNREADABLE as error:
            raise _unreadable(path, error) from error


@TRANSFORMS.register_module()
class LoadAnnotations(MMSegLoadAnnotations):
    """mmseg's, checking that the labels belong to the image and to the classes.

    Args:
        num_classes: Labels are 0 to ``num_classes - 1``, or ``ignore_index``; None checks no values.
        ignore_index: Label that no loss and no metric counts.
        **kwargs: As of mmseg's ``LoadAnnotations``.

    Raises:
        UserError: The file cannot be read, has another size than its image, or holds a value outside the classes.
    """

    def __init__(self, num_classes: int | None = None, ignore_index: int = 255, **kwargs) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def _load_seg_map(self, results: dict) -> None:
        if (stored := self._stored(results)) is None:
            return super()._load_seg_map(results)
        results["gt_seg_map"] = stored[:, :]
        results["seg_fields"].append("gt_seg_map")

    def _stored(self, results: dict) -> cache.Stored | None:
        """The labels in the cache, where this transform would read them as they are."""
        renumbered = self.reduce_zero_label or results["reduce_zero_label"] or results.get("label_map")
        if renumbered or (self.imdecode_backend, self.backend_args) != ("pillow", None):
            return None

        def read() -> np.ndarray:
            super(LoadAnnotations, self)._load_seg_map(loaded := {**results, "seg_fields": []})
            return loaded["gt_seg_map"]

        return cache.find(results["seg_map_path"], read, is_labels=True)

    def transform(self, results: dict) -> dict:
        """Adds ``gt_seg_map``."""
        try:
            results = super().transform(results)
        except UNREADABLE as error:
            raise _unreadable(results["seg_map_path"], error) from error
        labels, path, image = results["gt_seg_map"], results["seg_map_path"], results.get("img_path")
        size = results.get("ori_shape")  # as the image was read, before any resizing
        if labels.ndim < 2 and size is not None and labels.size == size[0] * size[1]:
            labels = results["gt_seg_map"] = labels.reshape(size[:2])  # mmseg drops a side of one pixel
        if labels.ndim != 2:
            raise UserError(f"{path} is a colour picture: expected one channel that holds the class of each pixel")
        if size is not None and labels.shape != tuple(size[:2]):
            raise UserError(
                f"{path} is {labels.shape[1]}x{labels.shape[0]}, but its image {image} is {size[1]}x{size[0]}"
            )
        if self.num_classes is not None:
            wrong = self._outside(labels)
            if wrong.size:
                raise UserError(
                    f"{path} holds the label {wrong[0]}: with {self.num_classes} classes labels are 0 to "
                    f"{self.num_classes - 1}, or {self.ignore_index} for pixels to ignore"
                )
        return results

    def _outside(self, labels: np.ndarray) -> np.ndarray:
        if labels.dtype == np.uint8 and self.ignore_index == 255 and (labels + np.uint8(1)).max() <= self.num_classes:
            return labels[:0]  # in one pass, where 255 became 0
        return labels[(labels >= self.num_classes) & (labels != self.ignore_index)]


def _unreadable(path: str, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path} does not exist")
    return UserError(f"{path} cannot be read as an image: it is damaged, empty or something else")
