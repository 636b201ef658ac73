"""Facades, roofs, walls and fences."""

import numpy as np

from .labels import Label
from .light import Light
from .sketch import Colour, Sketch, Sprite, shaded

Rng = np.random.Generator

PLASTER: tuple[Colour, ...] = (
    (206, 194, 170), (190, 168, 132), (172, 160, 152), (214, 206, 196), (186, 142, 112), (160, 148, 128),
    (152, 92, 74), (128, 76, 62), (140, 152, 158), (196, 178, 118), (122, 118, 114), (168, 122, 96), (110, 124, 132),
)  # fmt: skip
FLOOR = 3.1  # metres from floor to floor


def wall_colour(rng: Rng) -> Colour:
    r, g, b = np.array(PLASTER[rng.integers(len(PLASTER))]) * rng.uniform(0.75, 1.12) * rng.uniform(0.94, 1.06, 3)
    return r, g, b


def facade(
    rng: Rng, light: Light, width: float, height: float, *, colour: Colour, shop: bool, scale: float
) -> list[Sprite]:
    """A front of plaster or brick with rows of windows; at night also the light in them."""
    sheet, glow = Sketch(width, height, scale=scale), Sketch(width, height, scale=scale)
    sheet.box(0, 0, width, height, colour)
    if rng.random() < 0.4:
        _courses(sheet, colour, rng.uniform(0.25, 0.4))
    sheet.grain(rng, rng.uniform(0.08, 0.28), cell=int(rng.integers(16, 96)))
    trim = shaded(colour, rng.uniform(0.65, 1.35)) if rng.random() < 0.6 else (225, 222, 214)
    glass = rng.uniform(40, 100) * np.array([0.86, 0.96, 1.08])
    bay, wide, tall = rng.uniform(2.0, 3.4), rng.uniform(0.4, 0.72), rng.uniform(0.42, 0.66)
    modern = rng.random() < 0.25
    if modern:
        wide, tall = 0.9, 0.6
    columns, floors = max(1, round(width / bay)), max(1, int(height / FLOOR))
    bay, storey = width / columns, height / floors
    balcony = rng.random(columns) < rng.choice([0.0, 0.0, 0.4])
    for floor in range(1 if shop else 0, floors):
        for column in range(columns):
            x, y = (column + 0.5 - wide / 2) * bay, (floor + 0.22) * storey
            w, h = wide * bay, tall * storey
            _window(rng, sheet, glow, x, y, w, h, glass, trim, lit=rng.random() < light.lamps, plain=modern)
            if balcony[column] and floor:
                sheet.box(x - 0.25, y - 0.35, x + w + 0.25, y + 0.55, shaded(trim, 0.7))
        if rng.random() < 0.3:
            sheet.box(0, floor * storey - 0.1, width, floor * storey + 0.08, trim)
    if shop:
        _shops(rng, sheet, glow, light, width, storey)
    else:
        x = rng.uniform(0.1, 0.8) * width
        sheet.box(x, 0, x + 1.1, 2.3, shaded(trim, 0.45))
    for x in rng.uniform(0.3, width - 0.3, int(rng.integers(0, 4))):  # drain pipes
        sheet.box(x - 0.1, 0, x + 0.1, height, shaded(trim, 0.75))
        sheet.box(x - 0.05, 0, x + 0.02, height, shaded(trim, 1.1))
    for _ in range(int(rng.integers(0, 5))):
        poster(rng, sheet, rng.uniform(0, width - 1), rng.uniform(1, min(height - 2, 4)))
    sheet.box(0, 0, width, 0.5, shaded(colour, 0.7))
    sheet.box(0, height - 0.35, width, height, trim)
    sheet.fade(rng.uniform(0.72, 0.95), 1.05)
    sprites = [sheet.sprite(Label.BUILDING)]
    return [*sprites, glow.sprite(Label.BUILDING, glows=True)] if light.lamps > 0 else sprites


def gable(rng: Rng, width: float, height: float, colour: Colour, *, scale: float) -> Sprite:
    """A side wall: nearly blank, sometimes with an advertisement or a few windows."""
    sheet = Sketch(width, height, scale=scale)
    sheet.box(0, 0, width, height, shaded(colour, rng.uniform(0.8, 1.05)))
    if rng.random() < 0.5:
        _courses(sheet, colour, 0.4)
    sheet.grain(rng, 0.3, cell=48)
    if rng.random() < 0.25:
        y = rng.uniform(2, max(2.1, height - 5))
        sheet.box(width * 0.2, y, width * 0.8, y + 3.5, tuple(rng.uniform(40, 230, 3)))
        sheet.box(width * 0.3, y + 1.5, width * 0.7, y + 2.2, tuple(rng.uniform(40, 230, 3)))
    for floor in range(int(height / FLOOR)) if rng.random() < 0.5 else ():
        sheet.box(width * 0.4, floor * FLOOR + 1, width * 0.4 + 1, floor * FLOOR + 2.4, (62, 70, 80))
    return sheet.sprite(Label.BUILDING)


def roof(rng: Rng, width: float, depth: float, *, scale: float) -> Sprite:
    sheet = Sketch(width, depth, scale=scale)
    tone = ((142, 74, 54), (96, 70, 62), (86, 88, 94), (118, 96, 84))[rng.integers(4)]
    sheet.box(0, 0, width, depth, tone)
    _courses(sheet, tone, 0.35)
    sheet.grain(rng, 0.3)
    for x in np.arange(1.5, width - 1.5, rng.uniform(3, 5)) if rng.random() < 0.6 else ():
        sheet.box(x, depth * 0.25, x + 1, depth * 0.6, (70, 80, 92))
    return sheet.sprite(Label.BUILDING)


def wall(rng: Rng, width: float, height: float, *, scale: float) -> Sprite:
    """A free-standing wall of brick, concrete or field stone, at times with graffiti or ivy."""
    sheet = Sketch(width, height, scale=scale)
    style = rng.choice(["brick", "concrete", "stone", "plaster"])
    if style == "plaster" or rng.random() < 0.5:
        base = wall_colour(rng)
    elif style == "brick":
        base = tuple(np.array([150, 88, 68]) * rng.uniform(0.7, 1.2) * rng.uniform(0.9, 1.1, 3))
    else:
        base = tuple(rng.uniform(105, 175) * np.array([1.03, 1, 0.95]))
    sheet.box(0, 0, width, height, base)
    if style == "brick":
        _courses(sheet, base, 0.14)
    if style == "stone":
        for _ in range(int(width * height * 5)):
            at = rng.uniform(0, width), rng.uniform(0, height)
            sheet.disc(at, (rng.uniform(0.12, 0.3), rng.uniform(0.08, 0.18)), shaded(base, rng.uniform(0.75, 1.2)))
    if style in ("concrete", "plaster"):
        for x in np.arange(rng.uniform(0, 2), width, rng.uniform(1.8, 3.2)):
            sheet.box(x, 0, x + 0.07, height, shaded(base, 0.72))
    sheet.grain(rng, 0.35, cell=56)
    for _ in range(int(rng.integers(0, 4)) if rng.random() < 0.4 else 0):
        x, ink = rng.uniform(0, width), tuple(rng.uniform(20, 235, 3))
        points = [(x + i * 0.22, height * rng.uniform(0.2, 0.75)) for i in range(int(rng.integers(4, 9)))]
        sheet.stroke(points, 0.09, ink)
    sheet.box(0, height - 0.14, width, height, shaded(base, rng.uniform(0.8, 1.3)))
    sheet.fade(0.72, 1.05)
    return sheet.sprite(Label.WALL)


def fence(rng: Rng, width: float, height: float, *, scale: float) -> Sprite:
    """Pickets, iron bars, planks, wire mesh or a guard rail; what shows through belongs to it."""
    sheet = Sketch(width, height, scale=scale)
    style = rng.choice(["pickets", "bars", "planks", "mesh", "rail"])
    paint: Colour = {
        "pickets": (196, 182, 158), "bars": (44, 48, 50), "planks": (134, 104, 78), "mesh": (112, 128, 118),
        "rail": (172, 176, 180),
    }[str(style)]  # fmt: skip
    if rng.random() < 0.5:
        paint = tuple(np.array(paint) * rng.uniform(0.7, 1.25, 3))
    step, bar = {
        "pickets": (0.19, 0.11),
        "bars": (0.16, 0.04),
        "planks": (0.3, 0.27),
        "mesh": (0.14, 0.025),
        "rail": (2.0, 0.14),
    }[str(style)]
    for x in np.arange(0, width, step):
        sheet.box(
            x,
            0,
            x + bar,
            height * (0.97 if style != "pickets" else rng.uniform(0.9, 1)),
            shaded(paint, rng.uniform(0.85, 1.1)),
        )
    for y in np.arange(0.08, height, 0.14) if style == "mesh" else (height * 0.2, height * 0.82):
        sheet.box(0, y, width, y + (0.025 if style == "mesh" else 0.08), paint)
    if style == "rail":
        sheet.box(0, height * 0.42, width, height * 0.85, paint)
        sheet.box(0, height * 0.6, width, height * 0.66, shaded(paint, 0.6))
    for x in np.arange(0, width, 2.4):
        sheet.box(x, 0, x + 0.1, height, shaded(paint, 0.8))
    sheet.grain(rng, 0.2)
    return sheet.sprite(Label.FENCE, np.full(sheet.pixels.shape[:2], 255, np.uint8))


def poster(rng: Rng, sheet: Sketch, x: float, y: float) -> None:
    """An advertisement in the colours and shapes of traffic signs, about one metre wide."""
    ink = ((190, 36, 40), (34, 78, 158), (232, 232, 226), (240, 190, 40), (34, 34, 36), (40, 110, 70))
    a, b, c = (ink[i] for i in rng.permutation(len(ink))[:3])
    if rng.random() < 0.5:
        sheet.disc((x + 0.5, y + 0.5), 0.5, a)
        sheet.disc((x + 0.5, y + 0.5), 0.35, b)
    else:
        sheet.box(x, y, x + rng.uniform(0.8, 1.6), y + 1, a)
        sheet.polygon([(x + 0.1, y + 0.1), (x + 0.7, y + 0.1), (x + 0.4, y + 0.85)], b)
    sheet.box(x + 0.25, y + 0.42, x + 0.75, y + 0.58, c)


def _window(
    rng: Rng, sheet: Sketch, glow: Sketch, x: float, y: float, w: float, h: float, glass: np.ndarray, trim: Colour,
    *, lit: bool, plain: bool,
) -> None:  # fmt: skip
    if not plain:
        sheet.box(x - 0.12, y - 0.16, x + w + 0.12, y + h + 0.1, trim)
    pane = tuple(glass * rng.uniform(0.7, 1.5))
    sheet.box(x, y, x + w, y + h, pane)
    sheet.polygon([(x, y + h), (x + w, y + h), (x, y + h * rng.uniform(0.2, 0.9))], shaded(pane, 1.35))
    if rng.random() < 0.3:
        sheet.box(
            x, y + h * rng.uniform(0.3, 0.8), x + w, y + h, tuple(rng.uniform(120, 220) * np.array([1, 0.96, 0.88]))
        )
    if lit:
        glow.box(x, y, x + w, y + h, tuple(rng.uniform(0.65, 1.0) * np.array([255, 214, 138])))
    if not plain:
        sheet.box(x + w / 2 - 0.04, y, x + w / 2 + 0.04, y + h, trim)


def _shops(rng: Rng, sheet: Sketch, glow: Sketch, light: Light, width: float, storey: float) -> None:
    x = 0.4
    while x < width - 2:
        w = min(rng.uniform(3, 6), width - x - 0.4)
        pane = tuple(rng.uniform(40, 110) * np.array([0.9, 0.98, 1.04]))
        sheet.box(x, 0.5, x + w, storey * 0.68, pane)
        for _ in range(6):
            px, py = x + rng.uniform(0, w - 0.5), rng.uniform(0.5, storey * 0.5)
            sheet.box(px, py, px + rng.uniform(0.2, 0.6), py + rng.uniform(0.2, 0.5), tuple(rng.uniform(50, 200, 3)))
        sheet.box(x + w - 1.1, 0, x + w - 0.15, storey * 0.66, (52, 50, 50))
        if rng.random() < light.lamps * 1.4:
            glow.box(x, 0.6, x + w - 1.2, storey * 0.66, (250, 226, 172))
        awning = tuple(rng.uniform(50, 220, 3))
        sheet.box(x - 0.15, storey * 0.68, x + w + 0.15, storey * 0.9, awning)
        for stripe in np.arange(x, x + w, 0.6) if rng.random() < 0.4 else ():
            sheet.box(stripe, storey * 0.68, stripe + 0.3, storey * 0.9, (232, 228, 220))
        sheet.box(x + w * 0.25, storey * 0.75, x + w * 0.75, storey * 0.84, shaded(awning, 1.7))
        x += w + 0.5


def _courses(sheet: Sketch, colour: Colour, step: float) -> None:
    """Horizontal joints of brick, boards or tiles."""
    for y in np.arange(step, sheet.height, step):
        sheet.box(0, y, sheet.width, y + step * 0.18, shaded(colour, 0.82))
