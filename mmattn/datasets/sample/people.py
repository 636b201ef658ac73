"""People on foot, and riders with their bicycles and motorcycles."""

import cv2
import numpy as np

from .labels import Label
from .sketch import Colour, Point, Sketch, Sprite, shaded

Rng = np.random.Generator
SKINS: tuple[Colour, ...] = ((234, 192, 160), (208, 160, 124), (160, 112, 80), (108, 74, 54))
HAIR: tuple[Colour, ...] = ((36, 28, 24), (92, 64, 40), (180, 148, 96), (150, 150, 150), (120, 56, 34))
LEATHER: Colour = (38, 34, 34)
TYRES: Colour = (30, 30, 32)


def cloth(rng: Rng) -> Colour:
    """Mostly muted, at times bright."""
    grey, hue = rng.uniform(35, 175), rng.uniform(25, 225, 3)
    r, g, b = grey + (hue - grey) * rng.choice([0.2, 0.5, 0.9])
    return r, g, b


def person(rng: Rng) -> tuple[Sprite, float, float]:
    """Someone standing or walking; returns the sprite, its width and its height in metres."""
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
    _head(rng, sheet, (x, 1.74), skin)
    if rng.random() < 0.25:
        at = x + 0.36, 0.62
        sheet.box(at[0] - 0.13, at[1] - 0.2, at[0] + 0.13, at[1] + 0.16, cloth(rng))
    _round(sheet)
    sheet.grain(rng, 0.2, cell=16)
    return sheet.sprite(Label.PERSON), 1.2 * tall / 1.88, 2.1 * tall / 1.88


def bicycle(rng: Rng, *, ridden: bool) -> list[Sprite]:
    """A bicycle of 1.9 m x 2 m from the side, and its rider."""
    bike, paint = Sketch(1.9, 2.0, scale=96), cloth(rng)
    rear, front, pedal, seat, bar = (0.4, 0.36), (1.5, 0.36), (0.86, 0.34), (0.7, 0.92), (1.34, 1.02)
    for hub in (rear, front):
        bike.ring(hub, 0.33, 0.055, TYRES)
        for spoke in range(6):
            reach = 0.32 * np.cos(spoke * np.pi / 6), 0.32 * np.sin(spoke * np.pi / 6)
            bike.stroke(
                [(hub[0] - reach[0], hub[1] - reach[1]), (hub[0] + reach[0], hub[1] + reach[1])], 0.012, (150, 150, 150)
            )
    for pipe in ([rear, pedal, seat, rear], [seat, (1.3, 0.82), pedal], [(1.28, 0.86), front]):
        bike.stroke(pipe, 0.065, paint)
    bike.stroke([(0.7, 0.9), (0.68, 1.0)], 0.05, (60, 60, 60))
    bike.stroke([(0.55, 1.02), (0.82, 1.0)], 0.09, LEATHER)
    bike.stroke([(1.3, 0.82), bar, (1.22, 1.1)], 0.05, (70, 70, 70))
    bike.disc(pedal, 0.1, (60, 60, 62))
    if rng.random() < 0.4:
        bike.box(1.38, 0.78, 1.72, 1.02, (126, 98, 66))
    if rng.random() < 0.4:
        bike.box(0.12, 0.72, 0.6, 0.8, (50, 50, 52))
    sprites = [
        bike.sprite(Label.BICYCLE, _solid(bike, [rear, seat, bar, (1.3, 0.8), pedal], hubs=(rear, front), radius=0.36))
    ]
    if ridden:
        sprites.append(_rider(rng, 1.9, hip=(0.7, 1.03), hand=(1.26, 1.1), foot=(0.9, 0.24), lean=0.22))
    return sprites


def motorcycle(rng: Rng, *, ridden: bool) -> list[Sprite]:
    """A motorcycle or a scooter of 2.2 m x 2 m from the side, and its rider."""
    bike, paint = Sketch(2.2, 2.0, scale=96), shaded(cloth(rng), 1.1)
    rear, front = (0.42, 0.32), (1.78, 0.32)
    for hub in (rear, front):
        bike.disc(hub, 0.32, TYRES)
        bike.disc(hub, 0.19, (128, 128, 130))
        bike.disc(hub, 0.07, (50, 50, 50))
    if rng.random() < 0.5:
        bike.polygon(
            [
                (0.2, 0.5),
                (0.3, 0.86),
                (1.0, 0.84),
                (1.1, 0.42),
                (1.45, 0.4),
                (1.6, 1.05),
                (1.75, 0.98),
                (1.7, 0.3),
                (0.8, 0.24),
            ],
            paint,
        )
    else:
        bike.polygon([(0.4, 0.3), (0.6, 0.75), (1.45, 0.85), (1.5, 0.4), (1.1, 0.22)], (62, 62, 66))
        bike.disc((1.05, 0.46), (0.26, 0.2), (120, 122, 126))
        bike.polygon([(0.98, 0.78), (1.08, 1.02), (1.4, 1.04), (1.55, 0.8)], paint)
        bike.polygon([(0.08, 0.86), (0.3, 0.72), (0.8, 0.7), (0.7, 0.86)], paint)
        bike.stroke([(0.3, 0.36), (1.2, 0.34)], 0.09, (170, 170, 172))
    bike.stroke([front, (1.5, 1.08)], 0.08, (90, 90, 94))
    bike.stroke([(1.5, 1.08), (1.32, 1.16)], 0.06, LEATHER)
    bike.stroke([(0.35, 0.88), (0.95, 0.86)], 0.14, LEATHER)
    bike.disc((1.64, 0.95), 0.1, (240, 236, 214))
    bike.box(0.04, 0.72, 0.14, 0.82, (196, 30, 30))
    bike.grain(rng, 0.15)
    sprites = [
        bike.sprite(Label.MOTORCYCLE, _solid(bike, [(0.5, 0.3), (0.5, 0.8), (1.45, 0.95), (1.6, 0.4), (1.1, 0.2)]))
    ]
    if ridden:
        sprites.append(_rider(rng, 2.2, hip=(0.72, 0.95), hand=(1.34, 1.14), foot=(0.98, 0.3), lean=0.14, helmet=True))
    return sprites


def _rider(
    rng: Rng, width: float, *, hip: Point, hand: Point, foot: Point, lean: float, helmet: bool = False
) -> Sprite:
    sheet = Sketch(width, 2.0, scale=96)
    top, legs, skin = cloth(rng), cloth(rng), SKINS[rng.integers(len(SKINS))]
    neck = (hip[0] + lean + 0.08, hip[1] + 0.52)
    knee = ((hip[0] + foot[0]) / 2 + 0.26, (hip[1] + foot[1]) / 2 + 0.14)
    back = (foot[0] - 0.12, foot[1] + 0.18)
    sheet.stroke([hip, (knee[0] - 0.08, knee[1] - 0.1), back], 0.16, shaded(legs, 0.7))
    sheet.stroke([hip, knee, foot], 0.19, legs)
    sheet.stroke([foot, (foot[0] + 0.15, foot[1] - 0.01)], 0.1, LEATHER)
    sheet.stroke([(hip[0], hip[1] + 0.06), (neck[0] - 0.02, neck[1] - 0.06)], 0.32, top)
    elbow = ((neck[0] + hand[0]) / 2 + 0.02, (neck[1] + hand[1]) / 2 - 0.12)
    sheet.stroke([(neck[0], neck[1] - 0.06), elbow, hand], 0.12, shaded(top, 0.85))
    sheet.disc(hand, 0.06, skin)
    head = (neck[0] + 0.08, neck[1] + 0.19)
    if rng.random() < 0.3:
        sheet.stroke([(hip[0] - 0.12, hip[1] + 0.2), (neck[0] - 0.2, neck[1] - 0.08)], 0.2, cloth(rng))
    _head(rng, sheet, head, skin)
    if helmet or rng.random() < 0.5:
        sheet.disc((head[0] - 0.01, head[1] + 0.04), (0.17, 0.15 if helmet else 0.1), cloth(rng))
        if helmet:
            sheet.box(head[0] + 0.02, head[1] - 0.02, head[0] + 0.15, head[1] + 0.07, (40, 46, 54))
    _round(sheet)
    sheet.grain(rng, 0.2, cell=16)
    return sheet.sprite(Label.RIDER)


def _head(rng: Rng, sheet: Sketch, at: Point, skin: Colour) -> None:
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


def _round(sheet: Sketch) -> None:
    """Light from one side makes a flat figure round."""
    alpha = sheet.pixels[..., 3].astype(np.float32) / 255
    left = cv2.blur(np.roll(alpha, 5, axis=1), (15, 15)) - cv2.blur(np.roll(alpha, -5, axis=1), (15, 15))
    sheet.tint(1 - 0.45 * left)


def _solid(sheet: Sketch, *outlines: list[Point], hubs: tuple[Point, ...] = (), radius: float = 0.0) -> np.ndarray:
    """Frame and whole wheels: what shows through between spokes and pipes counts too."""
    filled = Sketch(sheet.width, sheet.height, scale=sheet.scale)
    filled.pixels[..., 3] = sheet.pixels[..., 3]
    for outline in outlines:
        filled.polygon(outline, LEATHER)
    for hub in hubs:
        filled.disc(hub, radius, LEATHER)
    return filled.pixels[..., 3].copy()
