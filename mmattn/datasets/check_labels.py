"""Reading images and labels, where a bad file is named instead of derailing the training.

Under the scope ``mmattn`` these take the place of the transforms of the same names, so that every config gets them.
"""

import cv2
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from mmseg.datasets.transforms import LoadAnnotations as MMSegLoadAnnotations

from mmattn.cli import UserError
from mmattn.registry import TRANSFORMS

UNREADABLE = (OSError, SyntaxError, ValueError, AssertionError, cv2.error)  # what OpenCV, Pillow and mmcv raise


@TRANSFORMS.register_module()
class LoadImageFromFile(MMCVLoadImageFromFile):
    """mmcv's, naming the file that cannot be read.

    Raises:
        UserError: The file is missing, empty, truncated or no image.
    """

    def transform(self, results: dict) -> dict | None:
        """Adds ``img``, ``img_shape`` and ``ori_shape``."""
        try:
            return super().transform(results)
        except UNREADABLE as error:
            raise _unreadable(results["img_path"], error) from error


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

    def transform(self, results: dict) -> dict:
        """Adds ``gt_seg_map``."""
        try:
            results = super().transform(results)
        except UNREADABLE as error:
            raise _unreadable(results["seg_map_path"], error) from error
        labels, path, image = results["gt_seg_map"], results["seg_map_path"], results.get("img_path")
        if labels.ndim != 2:
            raise UserError(f"{path} is a colour picture: expected one channel that holds the class of each pixel")
        size = results.get("ori_shape")  # as the image was read, before any resizing
        if size is not None and labels.shape != tuple(size[:2]):
            raise UserError(
                f"{path} is {labels.shape[1]}x{labels.shape[0]}, but its image {image} is {size[1]}x{size[0]}"
            )
        if self.num_classes is not None:
            wrong = labels[(labels >= self.num_classes) & (labels != self.ignore_index)]
            if wrong.size:
                raise UserError(
                    f"{path} holds the label {wrong[0]}: with {self.num_classes} classes labels are 0 to "
                    f"{self.num_classes - 1}, or {self.ignore_index} for pixels to ignore"
                )
        return results


def _unreadable(path: str, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path} does not exist")
    return UserError(f"{path} cannot be read as an image: it is damaged, empty or something else")
