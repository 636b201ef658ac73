"""Trees, hedges and bushes.

A crown takes long to draw, so each plant comes from a nursery of shapes and gets a tint of its own.
"""

from functools import cache

import cv2
import numpy as np

from .labels import Label
from .sketch import Colour, Sketch, Sprite, shaded, tinted

Rng = np.random.Generator
GREENS: tuple[Colour, ...] = (
    (72, 104, 46), (54, 84, 44), (96, 116, 56), (62, 92, 62), (128, 122, 52), (168, 124, 52),
    (150, 86, 48), (84, 92, 70),
)  # fmt: skip


@cache
def _nursery(kind: str) -> tuple[Sprite, ...]:
    rng = np.random.default_rng(len(kind))
    grow = {"tree": _tree, "conifer": _conifer, "bush": _bush}[kind]
    return tuple(grow(rng) for _ in range(24))


def plant(rng: Rng, kind: str) -> Sprite:
    """A "tree", a "conifer" or a "bush", filling its sprite from the ground to the top."""
    stock = _nursery(kind)
    return tinted(stock[rng.integers(len(stock))], rng.uniform(0.75, 1.2) * rng.uniform(0.85, 1.15, 3))


def _tree(rng: Rng) -> Sprite:
    """Trunk, boughs, and a crown of leaf clusters, light on top."""
    width = rng.uniform(0.6, 0.85)
    sheet = Sketch(width, 1, scale=256)
    bark, middle = shaded((98, 82, 66), rng.uniform(0.6, 1.2)), width / 2
    sheet.polygon([(middle - 0.035, 0), (middle + 0.035, 0), (middle, 0.7)], bark)
    for side in (-1, 1):
        sheet.stroke([(middle, 0.3), (middle + side * width * 0.25, 0.55)], 0.02, bark)
    crown = rng.uniform(0.58, 0.68)
    _leaves(rng, sheet, (middle, crown), (width * 0.42, (1 - crown) * 0.84), 200, 0.06)
    return sheet.sprite(Label.VEGETATION, _closed(sheet, 11))


def _conifer(rng: Rng) -> Sprite:
    width = rng.uniform(0.35, 0.5)
    sheet = Sketch(width, 1, scale=256)
    sheet.box(width * 0.47, 0, width * 0.53, 0.3, (82, 66, 54))
    green = shaded((58, 84, 54), rng.uniform(0.8, 1.2))
    for layer in range(26):
        t = layer / 26
        y, half = 0.12 + 0.83 * t, width * 0.48 * (1 - t) + 0.01
        tips = [
            (width / 2 + half * np.sin(i * 2.4 + layer) * rng.uniform(0.6, 1), y - rng.uniform(0, 0.08))
            for i in range(9)
        ]
        sheet.polygon([*tips, (width / 2, y + 0.07)], shaded(green, rng.uniform(0.6, 1.3)))
    return sheet.sprite(Label.VEGETATION, _closed(sheet, 11))


def _bush(rng: Rng) -> Sprite:
    width = rng.uniform(1.3, 2.6)
    sheet = Sketch(width, 1, scale=110)
    _leaves(rng, sheet, (width / 2, 0.42), (width * 0.44, 0.46), int(70 + 60 * width), 0.1)
    return sheet.sprite(Label.VEGETATION, _closed(sheet, 7))


def hedge(rng: Rng, width: float, height: float, *, scale: float) -> Sprite:
    """A clipped hedge, or ivy over a wall."""
    sheet = Sketch(width, height, scale=scale)
    green = GREENS[rng.integers(4)]
    sheet.box(0, 0, width, height * 0.95, shaded(green, 0.7))
    for _ in range(int(90 * width * height / 4)):
        at, tone = (rng.uniform(0, width), rng.uniform(0, height * 0.97)), rng.uniform(0.55, 1.45)
        sheet.disc(at, (rng.uniform(0.05, 0.14), rng.uniform(0.04, 0.1)), shaded(green, tone), turn=rng.uniform(0, 180))
    sheet.fade(0.6, 1.15)
    return sheet.sprite(Label.VEGETATION)


def _leaves(
    rng: Rng, sheet: Sketch, centre: tuple[float, float], radii: tuple[float, float], count: int, size: float
) -> None:
    green = shaded(GREENS[rng.integers(len(GREENS))], rng.uniform(0.75, 1.2))
    angle, reach = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.random(count))
    x = centre[0] + radii[0] * reach * np.cos(angle)
    y = centre[1] + radii[1] * reach * np.sin(angle)
    for i in range(count):
        bright = 0.55 + 0.45 * (y[i] - centre[1] + radii[1]) / (2 * radii[1]) + rng.normal(0, 0.14) + 0.25 * i / count
        spread = size * rng.uniform(0.5, 1.35)
        sheet.disc(
            (x[i], y[i]), (spread, spread * 0.7), shaded(green, max(0.3, bright * 0.95)), turn=rng.uniform(0, 180)
        )
    sheet.grain(rng, 0.35, cell=8)


def _closed(sheet: Sketch, size: int) -> np.ndarray:
    """What shows between the leaves counts as plant."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return cv2.morphologyEx(sheet.pixels[..., 3].copy(), cv2.MORPH_CLOSE, kernel)
