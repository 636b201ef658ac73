"""An image, what the model makes of it, and the points to ask about."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from mmattn.capture import Captured
from mmattn.evaluation.palettes import Palette

Point = tuple[int, int]  # (x, y) in pixels of the image


@dataclass(frozen=True)
class Query:
    """A point in fractions of what the maps cover, and what the model says is there."""

    y: float
    x: float
    caption: str = ""

    def cell(self, size: tuple[int, int]) -> tuple[int, int]:
        """The cell (row, column) of a grid (h, w) that the point is in."""
        h, w = size
        return min(int(self.y * h), h - 1), min(int(self.x * w), w - 1)


@dataclass(frozen=True)
class Scene:
    """An image, what the model makes of it, and the attention on the way.

    Attributes:
        image: (h, w, 3) uint8, red green blue.
        prediction: (h, w) class of each pixel.
        label: (h, w) ground truth, 255 where there is none.
        palette: Names and colours of the classes.
        maps: What the taps showed.
        reach: Height and width that the maps cover, in image heights and widths; above 1 where the input was padded.
    """

    image: np.ndarray
    prediction: np.ndarray
    label: np.ndarray | None
    palette: Palette
    maps: Sequence[Captured]
    reach: tuple[float, float] = (1.0, 1.0)

    def queries(self, points: Sequence[Point]) -> list[Query]:
        """Points of the image as places on the maps."""
        h, w = self.prediction.shape
        return [
            Query(
                (y + 0.5) / h / self.reach[0],
                (x + 0.5) / w / self.reach[1],
                self.palette.classes[self.prediction[y, x]],
            )
            for x, y in points
        ]


def spread_points(prediction: np.ndarray, count: int = 3) -> list[Point]:
    """Pixels to ask about: deep inside the largest regions of different classes, the largest class first.

    Where there are fewer classes than points, the rest is as far as can be from the others.

    Args:
        prediction: (h, w) class of each pixel.
        count: How many; an image with fewer pixels gives fewer.
    """
    step = max(1, max(prediction.shape) // 512)  # coarse is good enough
    coarse = prediction[::step, ::step]
    classes, areas = np.unique(coarse, return_counts=True)
    points = [_deepest(coarse == c) for c in classes[np.argsort(-areas, kind="stable")][:count]]
    while len(points) < min(count, coarse.size):
        points.append(_farthest(coarse.shape, points))
    return [(x * step, y * step) for x, y in points]


def _deepest(region: np.ndarray) -> Point:
    """The pixel farthest from the outside of a region; of several the one nearest to its centre."""
    depth = cv2.distanceTransform(np.pad(region, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    deep = np.argwhere(depth > depth.max() - 0.5)
    centre = np.argwhere(region).mean(0)
    y, x = deep[((deep - centre) ** 2).sum(1).argmin()]
    return int(x), int(y)


def _farthest(size: tuple[int, ...], points: Sequence[Point]) -> Point:
    """The pixel farthest from the points, the outer tenth of the image left out where it can be."""
    free = np.ones(size, np.uint8)
    for x, y in points:
        free[y, x] = 0
    distance = cv2.distanceTransform(free, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    top, left = size[0] // 10, size[1] // 10
    inner = distance[top : size[0] - top, left : size[1] - left]
    y, x = np.unravel_index(int(inner.argmax()), inner.shape)
    return int(x) + left, int(y) + top
