"""People on foot."""

import cv2
import numpy as np

from .labels import Label
from .sketch import Colour, Point, Sketch, Sprite, shaded

Rng = np.random.Generator
SKINS: tuple[Colour, ...] = ((234, 192, 160), (208, 160, 124), (160, 112, 80), (108, 74, 54))
HAIR: tuple[Colour, ...] = ((36, 28, 24), (92, 64, 40), (180, 148, 96), (150, 150, 150), (120, 56, 34))
LEATHER: Colour = (38, 34, 34)


def cloth(rng: Rng) -> Colour:
    """Mostly muted, at times bright."""
    grey, hue = rng.uniform(35, 175), rng.uniform(25, 225, 3)
    r, g, b = grey + (hue - grey) * rng.choice([0.2, 0.5, 0.9])
    return r, g, b


def person(rng: Rng) -> tuple[Sprite, tuple[float, float]]:
    """Someone standing or walking; returns the sprite, and its width and height in metres."""
    tall = rng.uniform(1.15, 1.4) if rng.random() < 0.12 else rng.uniform(1.58, 1.92)
    sheet = Sketch(1.2, 2.1, scale=96)
    top, legs, skin = cloth(rng), cloth(rng), SKINS[rng.integers(len(SKINS))]
    stride, x = rng.uniform(0.02, 0.3), 0.6
    for sign in (-1, 1):
        foot = (x + sign * stride, 0.06)
        knee = (x + sign * stride * 0.5 + 0.04, 0.5)
        sheet.stroke([(x + sign * 0.06, 0.95), knee, foot], 0.19, shaded(legs, 0.85 if sign < 0 else 1))
        sheet.stroke([foot, (foot[0] + 0.13, 0.05)], 0.1, LEATHER)
    outfit = rng.choice(["jacket", "coat", "dress"], p=[0.6, 0.22, 0.18])
    hem = {"jacket": 0.85, "coat": 0.55, "dress": 0.5}[str(outfit)]
    flare = {"jacket": 0.19, "coat": 0.23, "dress": 0.3}[str(outfit)]
    _arm(sheet, (x - 0.2, 1.48), rng.uniform(-0.28, 0.05), shaded(top, 0.78), skin)
    sheet.polygon(
        [(x - flare, hem), (x + flare, hem), (x + 0.17, 1.1), (x + 0.24, 1.52), (x - 0.24, 1.52), (x - 0.17, 1.1)], top
    )
    if rng.random() < 0.35:
        sheet.box(x - 0.25, 1.05, x - 0.12, 1.5, cloth(rng))
    _arm(sheet, (x + 0.2, 1.48), rng.uniform(-0.05, 0.32), shaded(top, 0.9), skin)
    head(rng, sheet, (x, 1.74), skin)
    if rng.random() < 0.25:
        at = x + 0.36, 0.62
        sheet.box(at[0] - 0.13, at[1] - 0.2, at[0] + 0.13, at[1] + 0.16, cloth(rng))
    round_off(sheet)
    sheet.grain(rng, 0.2, cell=16)
    return sheet.sprite(Label.PERSON), (1.2 * tall / 1.88, 2.1 * tall / 1.88)


def head(rng: Rng, sheet: Sketch, at: Point, skin: Colour) -> None:
    hair = HAIR[rng.integers(len(HAIR))]
    sheet.stroke([(at[0], at[1] - 0.2), at], 0.1, shaded(skin, 0.8))
    if rng.random() < 0.4:
        sheet.disc((at[0] - 0.02, at[1] - 0.04), (0.14, 0.2), hair)
    sheet.disc(at, (0.11, 0.14), skin)
    sheet.disc((at[0] - 0.015, at[1] + 0.06), (0.125, 0.1), hair)


def _arm(sheet: Sketch, shoulder: Point, swing: float, colour: Colour, skin: Colour) -> None:
    hand = (shoulder[0] + swing, shoulder[1] - 0.62)
    elbow = (shoulder[0] + swing * 0.25, shoulder[1] - 0.33)
    sheet.stroke([shoulder, elbow, hand], 0.13, colour)
    sheet.disc(hand, 0.065, skin)


def round_off(sheet: Sketch) -> None:
    """Light from one side makes a flat figure round."""
    alpha = sheet.pixels[..., 3].astype(np.float32) / 255
    left = cv2.blur(np.roll(alpha, 5, axis=1), (15, 15)) - cv2.blur(np.roll(alpha, -5, axis=1), (15, 15))
    sheet.tint(1 - 0.45 * left)
