"""Finding and reading the images to show."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from mmattn.cli import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
CITYSCAPES_IMAGE = "_leftImg8bit"


def find_images(patterns: Iterable[str]) -> list[Path]:
    """The image files that files, folders and globs stand for, each once, in order.

    Raises:
        UserError: Something does not exist, or a folder or pattern has no image.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            files = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
            missing = f"{path} has no image: none of its files ends in {', '.join(SUFFIXES)}"
        elif path.exists():
            files = [path]
        else:
            files = [Path(f) for f in sorted(glob.glob(pattern, recursive=True)) if Path(f).is_file()]
            missing = f"no image at {pattern}: give files, folders or patterns"
        if not files:
            raise UserError(missing)
        found.update(dict.fromkeys(files))
    return list(found)


def told_apart(images: Sequence[Path]) -> list[str]:
    """What to call each of several files: its name, or where several have that its path in the folder of all."""
    names = Counter(image.name for image in images)
    root = os.path.commonpath([image.absolute().parent for image in images])
    return [image.name if names[image.name] == 1 else os.path.relpath(image.absolute(), root) for image in images]


def read_image(path: Path) -> np.ndarray:
    """An image as (h, w, 3) uint8, red green blue; grey, 16-bit and transparent ones are brought to that.

    Raises:
        UserError: The file is not there or is not an image.
    """
    return np.ascontiguousarray(_decode(path, cv2.IMREAD_COLOR)[..., ::-1])


def read_label(path: Path) -> np.ndarray:
    """A label image as (h, w) uint8.

    Raises:
        UserError: The file is not there, is not an image or has several channels.
    """
    label = _decode(path, cv2.IMREAD_UNCHANGED)
    if label.ndim != 2 or label.dtype != np.uint8:
        raise UserError(f"{path} is no label image: it should have one 8-bit channel, not {label.shape} {label.dtype}")
    return label


def find_label(image: Path) -> Path | None:
    """The labels of an image in the folders of Cityscapes, or in an img_dir with an ann_dir beside, if they exist."""
    if image.stem.endswith(CITYSCAPES_IMAGE):
        name = image.stem.removesuffix(CITYSCAPES_IMAGE) + "_gtFine_labelTrainIds.png"
        images, labels = "leftImg8bit", "gtFine"
    else:
        name, images, labels = image.stem + ".png", "img_dir", "ann_dir"
    folders = image.absolute().parent.parts
    path = Path(*(labels if folder == images else folder for folder in folders), name)
    return path if images in folders and path.is_file() else None


def _decode(path: Path, mode: int) -> np.ndarray:
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if not data.size:
        raise UserError(f"{path} is empty")
    try:
        image = cv2.imdecode(data, mode)
    except cv2.error:  # a damaged head that promises a billion rows
        image = None
    if image is None:
        raise UserError(f"{path} is not an image that OpenCV can read: damaged, cut short, or of another type")
    return image
