"""mmseg's augmentation, draw for draw and bit for bit, in a fraction of the time.

Under the scope ``mmattn`` these take the place of the transforms of the same names, so that every config gets them:

    Resize                 only promises the image; RandomResize and RandomChoiceResize resize through it
    RandomCrop             makes the part of the promise that it keeps, and counts classes without sorting pixels
    RandomFlip             flips into memory that what follows reads quickly
    PhotoMetricDistortion  looks values up in tables of 256 entries
    PackSegInputs          takes the channels apart in one step

A transform in between that is not one of these sees the whole image, and all is as with mmseg's.
"""

import cv2
import mmcv
import numpy as np
from mmcv.transforms.utils import cache_randomness
from mmseg.datasets.transforms import PackSegInputs as MMSegPackSegInputs
from mmseg.datasets.transforms import PhotoMetricDistortion as MMSegPhotoMetricDistortion
from mmseg.datasets.transforms import RandomCrop as MMSegRandomCrop
from mmseg.datasets.transforms import RandomFlip as MMSegRandomFlip
from mmseg.datasets.transforms import Resize as MMSegResize
from numpy import random

from mmattn.datasets.promises import Promise, Results, unmade
from mmattn.registry import TRANSFORMS

VALUES = np.arange(256, dtype=np.uint8)
FLIPS = {"horizontal": 1, "vertical": 0, "diagonal": -1}  # as cv2.flip counts them


class Resized(Promise):
    """``cv2.resize`` of an image, computed where it is looked at and equal to the bit.

    Args:
        source: The image, (h, w) or (h, w, 3), uint8.
        size: Width and height to resize to.
        nearest: Take the nearest pixel, as for labels; else interpolate bilinearly.
    """

    def __init__(self, source: np.ndarray | Promise, size: tuple[int, int], *, nearest: bool = False) -> None:
        self.source = source
        self.nearest = nearest
        self.shape = (size[1], size[0], *source.shape[2:])
        self.last: tuple[tuple, np.ndarray] | None = None  # a crop is looked at before it is taken

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        bounds = self.bounds(window)
        if self.last is None or self.last[0] != bounds:
            self.last = bounds, (self._nearest if self.nearest else self._bilinear)(*bounds)
        return self.last[1]

    def _nearest(self, top: int, bottom: int, left: int, right: int) -> np.ndarray:
        (height, width), (h, w) = self.shape[:2], self.source.shape[:2]
        rows, columns = nearest_pixels(h, height)[top:bottom], nearest_pixels(w, width)[left:right]
        return self.source[:, :].take(rows, axis=0).take(columns, axis=1)

    def _bilinear(self, top: int, bottom: int, left: int, right: int) -> np.ndarray:
        (height, width), (h, w) = self.shape[:2], self.source.shape[:2]
        # the positions that OpenCV interpolates at count from the first pixel, and round on the way: only what comes
        # after the window can be left out
        part = self._until(_reach(bottom, h, height), _reach(right, w, width), top * h // height, left * w // width)
        whole = cv2.resize(part, None, fx=width / w, fy=height / h, interpolation=cv2.INTER_LINEAR)
        return whole[top:bottom, left:right]

    def _until(self, bottom: int, right: int, top: int, left: int) -> np.ndarray:
        """The source's first rows and columns; before ``top`` and ``left`` they may be anything."""
        top, left = max(0, top - 1), max(0, left - 1)
        if isinstance(self.source, np.ndarray) or (top, left) == (0, 0):
            return self.source[:bottom, :right]
        part = np.empty((bottom, right, *self.source.shape[2:]), dtype=np.uint8)
        part[top:, left:] = self.source[top:bottom, left:right]
        return part


def _reach(stop: int, source: int, target: int) -> int:
    """How many of the ``source`` pixels the first ``stop`` of ``target`` pixels are interpolated from."""
    return min(source, stop * source // target + 3)


def nearest_pixels(source: int, target: int) -> np.ndarray:
    """Which of ``source`` pixels OpenCV takes for each of ``target`` pixels."""
    pixels = np.arange(source, dtype=np.float32)[None]
    return cv2.resize(pixels, (target, 1), interpolation=cv2.INTER_NEAREST)[0].astype(np.intp)


@TRANSFORMS.register_module()
class Resize(MMSegResize):
    """mmseg's, made where it is looked at.

    Args:
        *args: As of mmseg's ``Resize``.
        **kwargs: As of mmseg's ``Resize``.
    """

    def _resize_img(self, results: dict | Results) -> None:
        if self.interpolation != "bilinear" or not self._can_wait(results, ["img"]):
            return super()._resize_img(results)
        source = unmade(results, "img")
        (width, height), (h, w) = self._size(source, results), source.shape[:2]
        results["img"] = Resized(source, (width, height))
        results["img_shape"] = (height, width)
        results["scale_factor"] = (width / w, height / h)
        results["keep_ratio"] = self.keep_ratio

    def _resize_seg(self, results: dict | Results) -> None:
        fields = [key for key in results.get("seg_fields", []) if results.get(key) is not None]
        if not self._can_wait(results, fields):
            return super()._resize_seg(results)
        for key in fields:
            results[key] = Resized(results[key], self._size(results[key], results), nearest=True)

    def _can_wait(self, results: dict | Results, keys: list[str]) -> bool:
        return self.backend == "cv2" and isinstance(results, Results) and all(_eight_bit(results.data[k]) for k in keys)

    def _size(self, source: np.ndarray | Promise, results: Results) -> tuple[int, int]:
        """Width and height after resizing."""
        scale = results["scale"]
        return mmcv.rescale_size(source.shape[1::-1], scale) if self.keep_ratio else scale


@TRANSFORMS.register_module()
class RandomCrop(MMSegRandomCrop):
    """mmseg's, making no more of a promised image than it keeps.

    Args:
        *args: As of mmseg's ``RandomCrop``.
        **kwargs: As of mmseg's ``RandomCrop``.
    """

    @cache_randomness
    def crop_bbox(self, results: dict | Results) -> tuple[int, int, int, int]:
        """Draws top, bottom, left and right; again, ten times at most, while one class fills the crop."""
        height, width = unmade(results, "img").shape[:2]
        box = self._draw(height, width)
        if self.cat_max_ratio < 1:
            labels = unmade(results, "gt_seg_map")
            for _ in range(10):
                counts = count_labels(self.crop(labels, box), self.ignore_index)
                if len(counts) > 1 and counts.max() / counts.sum() < self.cat_max_ratio:
                    break
                box = self._draw(height, width)
        return box

    def crop(self, img: np.ndarray | Promise, crop_bbox: tuple[int, int, int, int]) -> np.ndarray:
        """The part of an image, promised or not, inside the box."""
        top, bottom, left, right = crop_bbox
        return img[top:bottom, left:right]

    def transform(self, results: dict | Results) -> dict | Results:
        """Crops ``img`` and the label maps, and sets ``img_shape``."""
        box = self.crop_bbox(results)
        for key in ("img", *results.get("seg_fields", [])):
            results[key] = self.crop(unmade(results, key), box)
        results["img_shape"] = results["img"].shape[:2]
        return results

    def _draw(self, height: int, width: int) -> tuple[int, int, int, int]:
        top = random.randint(0, max(height - self.crop_size[0], 0) + 1)
        left = random.randint(0, max(width - self.crop_size[1], 0) + 1)
        return top, top + self.crop_size[0], left, left + self.crop_size[1]


def count_labels(labels: np.ndarray, ignore_index: int) -> np.ndarray:
    """How many pixels each label has that occurs and is not ignored."""
    if labels.dtype != np.uint8:
        found, counts = np.unique(labels, return_counts=True)
        return counts[found != ignore_index]
    counts = cv2.calcHist([labels], [0], None, [256], [0, 256]).ravel().astype(np.int64)  # float32, exact to 2^24
    return counts[(counts > 0) & (ignore_index != VALUES)]


@TRANSFORMS.register_module()
class RandomFlip(MMSegRandomFlip):
    """mmseg's, whose image is no view that runs backwards: all that follows would copy it slowly.

    Args:
        *args: As of mmseg's ``RandomFlip``.
        **kwargs: As of mmseg's ``RandomFlip``.
    """

    def _flip_seg_map(self, seg_map: np.ndarray, direction: str) -> np.ndarray:
        if self.swap_seg_labels is not None or not _eight_bit(seg_map):
            return super()._flip_seg_map(seg_map, direction)
        return cv2.flip(seg_map, FLIPS[direction])

    def _flip(self, results: dict | Results) -> None:
        image = results["img"]
        super()._flip(results)
        if _eight_bit(image):
            results["img"] = cv2.flip(image, FLIPS[results["flip_direction"]])


@TRANSFORMS.register_module()
class PhotoMetricDistortion(MMSegPhotoMetricDistortion):
    """mmseg's, computed for the 256 values that a pixel can have instead of for every pixel.

    Args:
        *args: As of mmseg's ``PhotoMetricDistortion``.
        **kwargs: As of mmseg's ``PhotoMetricDistortion``.
    """

    def convert(self, img: np.ndarray, alpha: float = 1, beta: float = 0) -> np.ndarray:
        """``alpha img + beta``, clipped to 0 and 255."""
        if img.dtype != np.uint8:
            return super().convert(img, alpha, beta)
        return cv2.LUT(img, super().convert(VALUES, alpha, beta))

    def saturation(self, img: np.ndarray) -> np.ndarray:
        """Draws whether and by how much to stretch the saturation."""
        if not _eight_bit(img):
            return super().saturation(img)
        if not random.randint(2):
            return img
        return _in_hsv(img, 1, self.convert(VALUES, alpha=random.uniform(self.saturation_lower, self.saturation_upper)))

    def hue(self, img: np.ndarray) -> np.ndarray:
        """Draws whether and by how much to turn the hue."""
        if not _eight_bit(img):
            return super().hue(img)
        if not random.randint(2):
            return img
        turned = (VALUES.astype(int) + random.randint(-self.hue_delta, self.hue_delta)) % 180
        return _in_hsv(img, 0, turned.astype(np.uint8))


def _in_hsv(image: np.ndarray, channel: int, table: np.ndarray) -> np.ndarray:
    """A BGR image after one channel of its HSV form went through a table."""
    hsv = mmcv.bgr2hsv(image)
    cv2.insertChannel(cv2.LUT(cv2.extractChannel(hsv, channel), table), hsv, channel)
    return mmcv.hsv2bgr(hsv)


@TRANSFORMS.register_module()
class PackSegInputs(MMSegPackSegInputs):
    """mmseg's, given an image whose channels are already apart.

    Args:
        *args: As of mmseg's ``PackSegInputs``.
        **kwargs: As of mmseg's ``PackSegInputs``.
    """

    def transform(self, results: dict | Results) -> dict:
        """Packs ``inputs`` and ``data_samples``."""
        image = results.get("img")
        if image is not None and image.ndim == 3 and _eight_bit(image):
            results = {**results, "img": np.stack(cv2.split(image)).transpose(1, 2, 0)}
        return super().transform(results)


def _eight_bit(image: np.ndarray | Promise) -> bool:
    """Whether it is (h, w) or (h, w, 3), uint8."""
    return image.shape[2:] in ((), (3,)) and (isinstance(image, Promise) or image.dtype == np.uint8)
