"""Flat drawings in metres: the cut-outs from which the street is put together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from .labels import Label
from .noise import tile

Array = np.ndarray
Point = tuple[float, float]
Colour = tuple[float, float, float]  # red, green, blue in 0..255
SHIFT = 4  # sub-pixel bits of OpenCV's drawing functions


@dataclass(frozen=True)
class Sprite:
    """A drawing with transparency.

    Args:
        texture: (h, w, 4) uint8, red, green, blue, all times alpha, and alpha.
        label: What it shows.
        mask: (h, w) uint8; where it is above 127 the label is written. None: where alpha is.
        glows: Shines by itself, so that no shade falls on it.
    """

    texture: Array
    label: Label
    mask: Array | None = None
    glows: bool = False


class Sketch:
    """A transparent sheet of ``width`` x ``height`` metres; (0, 0) is its lower left corner."""

    def __init__(self, width: float, height: float, *, scale: float = 64) -> None:
        self.width, self.height, self.scale = width, height, scale
        size = max(2, round(height * scale)), max(2, round(width * scale))
        self.pixels = np.zeros((*size, 4), np.uint8)

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        cv2.fillPoly(self.pixels, [self._fixed(points)], (*colour, 255), cv2.LINE_AA, SHIFT)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)

    def stroke(self, points: Sequence[Point], thick: float, colour: Colour, *, closed: bool = False) -> None:
        width = max(1, round(thick * self.scale))
        cv2.polylines(self.pixels, [self._fixed(points)], closed, (*colour, 255), width, cv2.LINE_AA, SHIFT)

    def disc(self, centre: Point, radius: float | Point, colour: Colour, *, turn: float = 0) -> None:
        rx, ry = (radius, radius) if isinstance(radius, (int, float)) else radius
        axes = round(rx * self.scale * 2**SHIFT), round(ry * self.scale * 2**SHIFT)
        x, y = self._fixed([centre])[0].tolist()
        cv2.ellipse(self.pixels, (x, y), axes, -turn, 0, 360, (*colour, 255), -1, cv2.LINE_AA, SHIFT)

    def ring(self, centre: Point, radius: float, thick: float, colour: Colour) -> None:
        x, y = self._fixed([centre])[0].tolist()
        width = max(1, round(thick * self.scale))
        cv2.circle(
            self.pixels, (x, y), round(radius * self.scale * 2**SHIFT), (*colour, 255), width, cv2.LINE_AA, SHIFT
        )

    def tint(self, factor: Array | float) -> None:
        """Multiply the colours by a factor that broadcasts to (h, w) or (h, w, 3)."""
        factor = np.asarray(factor, np.float32)
        factor = factor[..., None] if factor.ndim == 2 else factor
        colours = self.pixels[..., :3] * factor
        self.pixels[..., :3] = np.minimum(colours, self.pixels[..., 3:])

    def grain(self, rng: np.random.Generator, strength: float, *, cell: int = 24) -> None:
        """Uneven paint, dirt and wear."""
        h, w = self.pixels.shape[:2]
        self.tint(1 + strength * tile(rng, h, w, cell=cell))

    def fade(self, bottom: float, top: float) -> None:
        """Darken or lighten linearly from bottom to top."""
        self.tint(np.linspace(top, bottom, len(self.pixels), dtype=np.float32)[:, None])

    def sprite(self, label: Label, mask: Array | None = None, *, glows: bool = False) -> Sprite:
        return Sprite(self.pixels, label, mask, glows)

    def _fixed(self, points: Sequence[Point]) -> Array:
        """Pixels in OpenCV's fixed-point numbers, from the upper left corner."""
        xy = np.array(points, np.float32) * (self.scale * 2**SHIFT)
        xy[:, 1] = len(self.pixels) * 2**SHIFT - xy[:, 1]
        return np.rint(xy - 2 ** (SHIFT - 1)).astype(np.int32)


def tinted(sprite: Sprite, factor: Array) -> Sprite:
    """The same sprite, its colours times ``factor``."""
    texture = sprite.texture.copy()
    for channel, table in enumerate(np.minimum(np.arange(256) * factor[:, None], 255).astype(np.uint8)):
        texture[..., channel] = np.minimum(table[texture[..., channel]], texture[..., 3])
    return replace(sprite, texture=texture)


def shaded(colour: Colour, factor: float) -> Colour:
    r, g, b = (min(255.0, c * factor) for c in colour)
    return r, g, b
