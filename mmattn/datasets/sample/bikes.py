"""Bicycles and motorcycles, and who rides them."""

import numpy as np

from .labels import Label
from .people import LEATHER, SKINS, Rng, cloth, head, round_off
from .sketch import Colour, Point, Sketch, Sprite, shaded

TYRES: Colour = (30, 30, 32)


def bicycle(rng: Rng, *, ridden: bool) -> tuple[list[Sprite], tuple[float, float]]:
    """A bicycle from the side, at times with its rider; returns the sprites, their width and their height in metres."""
    bike, paint = Sketch(1.9, 2.0, scale=96), cloth(rng)
    rear, front, pedal, seat, bar = (0.4, 0.36), (1.5, 0.36), (0.86, 0.34), (0.7, 0.92), (1.34, 1.02)
    for hub in (rear, front):
        bike.ring(hub, 0.33, 0.055, TYRES)
        for spoke in range(6):
            x, y = 0.32 * np.cos(spoke * np.pi / 6), 0.32 * np.sin(spoke * np.pi / 6)
            bike.stroke([(hub[0] - x, hub[1] - y), (hub[0] + x, hub[1] + y)], 0.012, (150, 150, 150))
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
    sprites = [bike.sprite(Label.BICYCLE, _solid(bike, [rear, seat, bar, pedal], hubs=(rear, front)))]
    if ridden:
        sprites.append(_rider(rng, 1.9, hip=(0.7, 1.03), hand=(1.26, 1.1), foot=(0.9, 0.24), lean=0.22))
    return sprites, (1.9, 2.0)


def motorcycle(rng: Rng, *, ridden: bool) -> tuple[list[Sprite], tuple[float, float]]:
    """A motorcycle or a scooter, like :func:`bicycle`."""
    bike, paint = Sketch(2.2, 2.0, scale=96), shaded(cloth(rng), 1.1)
    rear, front = (0.42, 0.32), (1.78, 0.32)
    for hub in (rear, front):
        bike.disc(hub, 0.32, TYRES)
        bike.disc(hub, 0.19, (128, 128, 130))
        bike.disc(hub, 0.07, (50, 50, 50))
    if rng.random() < 0.5:
        rear_end, footboard = [(0.8, 0.24), (0.2, 0.5), (0.3, 0.86), (1.0, 0.84)], [(1.1, 0.42), (1.45, 0.4)]
        bike.polygon([*rear_end, *footboard, (1.6, 1.05), (1.75, 0.98), (1.7, 0.3)], paint)
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
    body = [(0.5, 0.3), (0.5, 0.8), (1.45, 0.95), (1.6, 0.4), (1.1, 0.2)]
    sprites = [bike.sprite(Label.MOTORCYCLE, _solid(bike, body))]
    if ridden:
        sprites.append(_rider(rng, 2.2, hip=(0.72, 0.95), hand=(1.34, 1.14), foot=(0.98, 0.3), lean=0.14, helmet=True))
    return sprites, (2.2, 2.0)


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
    face = (neck[0] + 0.08, neck[1] + 0.19)
    if rng.random() < 0.3:
        sheet.stroke([(hip[0] - 0.12, hip[1] + 0.2), (neck[0] - 0.2, neck[1] - 0.08)], 0.2, cloth(rng))
    head(rng, sheet, face, skin)
    if helmet or rng.random() < 0.5:
        sheet.disc((face[0] - 0.01, face[1] + 0.04), (0.17, 0.15 if helmet else 0.1), cloth(rng))
        if helmet:
            sheet.box(face[0] + 0.02, face[1] - 0.02, face[0] + 0.15, face[1] + 0.07, (40, 46, 54))
    round_off(sheet)
    sheet.grain(rng, 0.2, cell=16)
    return sheet.sprite(Label.RIDER)


def _solid(sheet: Sketch, frame: list[Point], *, hubs: tuple[Point, ...] = ()) -> np.ndarray:
    """Frame and whole wheels: what shows through between spokes and pipes counts too."""
    filled = Sketch(sheet.width, sheet.height, scale=sheet.scale)
    filled.pixels[..., 3] = sheet.pixels[..., 3]
    filled.polygon(frame, LEATHER)
    for hub in hubs:
        filled.disc(hub, 0.36, LEATHER)
    return filled.pixels[..., 3].copy()
