"""What stands along a street: lamps, signs, traffic lights, bins."""

import numpy as np

from .buildings import wall_colour
from .labels import Label
from .sketch import Colour, Sketch, Sprite, shaded

Rng = np.random.Generator
RED: Colour = (190, 36, 40)
BLUE: Colour = (34, 78, 158)
WHITE: Colour = (232, 232, 226)
DARK: Colour = (34, 34, 36)


def pole(rng: Rng, width: float, height: float) -> Sprite:
    """A post in one colour: only its shape tells it from a wall or a car."""
    sheet = Sketch(width, height, scale=40)
    grey = rng.choice([58, 90, 126, 160]) * rng.uniform(0.9, 1.1, 3)
    sheet.box(0, 0, width, height, wall_colour(rng) if rng.random() < 0.4 else tuple(grey))
    sheet.tint(np.linspace(1.08, 0.88, sheet.pixels.shape[1])[None, :])
    if rng.random() < 0.2:
        sheet.box(0, 0.9, width, 1.4, tuple(rng.uniform(60, 230, 3)))
    sheet.grain(rng, 0.15)
    return sheet.sprite(Label.POLE)


def lamp(*, lit: bool) -> list[Sprite]:
    """The arm and the head of a street lamp, 2.2 m x 0.9 m, the pole at the left."""
    arm, head = Sketch(2.2, 0.9, scale=40), Sketch(2.2, 0.9, scale=40)
    arm.stroke([(0.06, 0), (0.12, 0.5), (0.6, 0.72), (1.5, 0.78)], 0.14, (112, 114, 114))
    arm.polygon([(1.3, 0.66), (2.15, 0.7), (2.1, 0.84), (1.4, 0.88)], (92, 94, 96))
    head.polygon([(1.4, 0.6), (2.1, 0.64), (2.1, 0.7), (1.4, 0.68)], (255, 236, 190))
    return [arm.sprite(Label.POLE), head.sprite(Label.POLE, glows=True)] if lit else [arm.sprite(Label.POLE)]


def traffic_light(rng: Rng) -> list[Sprite]:
    """Housing and lamps of 0.5 m x 1.35 m, seen from the front or, dark, from behind."""
    housing, lamps = Sketch(0.5, 1.35, scale=80), Sketch(0.5, 1.35, scale=80)
    colour = ((30, 32, 32), (36, 52, 44), (64, 64, 60), (186, 152, 40))[rng.choice(4, p=[0.45, 0.25, 0.15, 0.15])]
    housing.polygon(
        [
            (0.03, 0.08),
            (0.08, 0.02),
            (0.42, 0.02),
            (0.47, 0.08),
            (0.47, 1.27),
            (0.42, 1.33),
            (0.08, 1.33),
            (0.03, 1.27),
        ],
        colour,
    )
    front = rng.random() < 0.8
    on = rng.integers(3)
    shine: tuple[Colour, ...] = ((64, 226, 130), (252, 190, 50), (248, 52, 40))
    for i in range(3) if front else ():
        at = (0.25, 0.27 + 0.41 * i)
        housing.disc(at, 0.17, shaded(colour, 0.5))
        housing.disc(at, 0.15, shaded(shine[i], 0.25))
        if i == on:
            lamps.disc(at, 0.15, shine[i])
    housing.grain(rng, 0.15)
    return (
        [housing.sprite(Label.TRAFFIC_LIGHT), lamps.sprite(Label.TRAFFIC_LIGHT, glows=True)]
        if front
        else [housing.sprite(Label.TRAFFIC_LIGHT)]
    )


def sign(rng: Rng) -> tuple[Sprite, tuple[float, float]]:
    """A traffic sign; returns the sprite, and its width and height in metres."""
    shape = rng.choice(["ban", "order", "warning", "parking", "stop", "priority", "guide", "back"])
    if shape == "guide":
        return _guide(rng)
    sheet, c = Sketch(1, 1, scale=96), 0.5
    corner = np.pi / 8 + np.arange(8) * np.pi / 4
    if shape == "ban":
        sheet.disc((c, c), 0.48, RED)
        sheet.disc((c, c), 0.34, WHITE)
        _figures(rng, sheet)
    elif shape == "order":
        sheet.disc((c, c), 0.48, BLUE)
        sheet.stroke([(0.3, 0.3), (0.65, 0.65), (0.65, 0.4)], 0.1, WHITE)
    elif shape == "warning":
        sheet.polygon([(0.02, 0.08), (0.98, 0.08), (c, 0.95)], RED)
        sheet.polygon([(0.2, 0.18), (0.8, 0.18), (c, 0.74)], WHITE)
        sheet.box(0.45, 0.25, 0.55, 0.5, DARK)
    elif shape == "parking":
        sheet.box(0.06, 0.06, 0.94, 0.94, BLUE)
        sheet.stroke([(0.38, 0.2), (0.38, 0.78), (0.6, 0.78), (0.64, 0.6), (0.38, 0.5)], 0.1, WHITE)
    elif shape == "stop":
        sheet.polygon([(c + 0.49 * np.cos(a), c + 0.49 * np.sin(a)) for a in corner], RED)
        sheet.box(0.18, 0.42, 0.82, 0.58, WHITE)
    elif shape == "priority":
        sheet.polygon([(0.02, c), (c, 0.02), (0.98, c), (c, 0.98)], WHITE)
        sheet.polygon([(0.14, c), (c, 0.14), (0.86, c), (c, 0.86)], (240, 190, 40))
    else:
        sheet.disc((c, c), 0.48, (142, 144, 146))
        sheet.box(0.1, 0.46, 0.9, 0.52, (110, 112, 114))
    sheet.grain(rng, 0.12)
    size = rng.uniform(0.75, 1.05)
    return sheet.sprite(Label.TRAFFIC_SIGN), (size, size)


def bin_or_box(rng: Rng) -> tuple[Sprite, tuple[float, float]]:
    """A litter bin, a switch box or a sack: in the way, and not evaluated."""
    w, h = rng.uniform(0.5, 1.1), rng.uniform(0.7, 1.4)
    sheet = Sketch(w, h, scale=64)
    colour = tuple(rng.uniform(40, 190) * rng.uniform(0.7, 1.3, 3))
    sheet.polygon([(w * 0.08, 0), (w * 0.92, 0), (w, h * 0.85), (w * 0.9, h), (w * 0.1, h), (0, h * 0.85)], colour)
    sheet.box(0, h * 0.78, w, h * 0.86, shaded(colour, 0.6))
    sheet.box(w * 0.3, h * 0.3, w * 0.7, h * 0.55, shaded(colour, 1.4))
    sheet.grain(rng, 0.3)
    return sheet.sprite(Label.STATIC), (w, h)


def _guide(rng: Rng) -> tuple[Sprite, tuple[float, float]]:
    w, h = rng.uniform(1.2, 2.2), rng.uniform(0.7, 1.3)
    sheet = Sketch(w, h, scale=72)
    paint = ((240, 200, 50), BLUE, WHITE, (40, 110, 70))[rng.integers(4)]
    ink = WHITE if sum(paint) < 400 else DARK
    sheet.box(0, 0, w, h, ink)
    sheet.box(0.05, 0.05, w - 0.05, h - 0.05, paint)
    for y in np.arange(0.2, h - 0.15, 0.3):
        sheet.box(0.15, y, w * rng.uniform(0.5, 0.85), y + 0.12, ink)
    return sheet.sprite(Label.TRAFFIC_SIGN), (w, h)


def _figures(rng: Rng, sheet: Sketch) -> None:
    if rng.random() < 0.7:
        sheet.ring((0.38, 0.5), 0.1, 0.06, DARK)
        sheet.ring((0.62, 0.5), 0.1, 0.06, DARK)
    else:
        sheet.box(0.26, 0.45, 0.74, 0.55, RED)
