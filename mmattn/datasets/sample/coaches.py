"""Buses and trams."""

import numpy as np

from .buildings import poster
from .labels import Label
from .sketch import Colour, Sketch, shaded
from .vehicle import GLASS, LIT, TYRE, Panel, Rng, Vehicle, lights, paint_job, wheels


def bus(rng: Rng, *, lamps: bool) -> Vehicle:
    """A bus with one or two decks."""
    double = rng.random() < 0.4
    length, height, width = rng.uniform(9.5, 12.5), rng.uniform(3.0, 3.3) + 1.3 * double, 2.5
    paint, stripe = paint_job(rng), paint_job(rng)
    side = Sketch(length, height, scale=44)
    side.box(0, 0.3, length, height, paint)
    side.box(0, 0.3, length, rng.uniform(0.6, 1.2), stripe)
    low, high = 1.25, 2.55
    if double:
        side.box(0.2, 3.0, length - 0.05, height - 0.4, GLASS)
        for x in np.arange(0.2, length, 2.0):
            side.box(x, 3.0, x + 0.1, height - 0.4, paint)
    side.box(0.4, low, length - 0.1, high, GLASS)
    for x in np.arange(0.4, length, rng.uniform(1.3, 1.9)):
        side.box(x, low, x + 0.12, high, shaded(GLASS, 0.5))
        side.polygon([(x + 0.2, high), (x + 0.9, high), (x + 0.3, low + 0.2)], shaded(GLASS, 1.45))
    for x in (length - 2.1, length * 0.45):
        side.box(x, 0.38, x + 1.25, high, shaded(GLASS, 0.75))
        side.box(x + 0.58, 0.38, x + 0.67, high, paint)
    if rng.random() < 0.5:
        x = length * 0.12
        side.box(x, 0.5, x + 2.6, high, tuple(rng.uniform(40, 220, 3)))
        poster(rng, side, x + 0.6, 1.2)
    side.grain(rng, 0.12)
    wheels(rng, side, (0.24 * length, 0.78 * length), 0.5)
    back, face = Sketch(width, height, scale=44), Sketch(width, height, scale=44)
    _bus_end(rng, back, paint, stripe, front=False, lamps=lamps)
    _bus_end(rng, face, paint, stripe, front=True, lamps=lamps)
    panels = [
        Panel((0, 0), (0, height), back.sprite(Label.BUS)),
        Panel((length, 0), (length, height), face.sprite(Label.BUS)),
    ]
    return Vehicle(side.sprite(Label.BUS), length, height, width, panels)


def tram(rng: Rng, *, lamps: bool) -> Vehicle:
    """A tram of several coaches, with skirts down to the rails and gear on the roof."""
    length, height, width = rng.uniform(16, 28), 3.7, 2.5
    paint, stripe = paint_job(rng), paint_job(rng)
    side = Sketch(length, height, scale=36)
    body = height - 0.4
    lean = rng.uniform(0.2, 0.7)  # how far the windscreens slope
    side.polygon([(0, 0.18), (0, 1.0), (lean, body), (length - lean, body), (length, 1.0), (length, 0.18)], paint)
    side.box(lean, body - 0.32, length - lean, body, stripe)
    side.box(0, 0.18, length, 0.5, shaded(stripe, 0.55))
    low, high = 1.2, body - 0.5
    side.polygon([(0.15, low), (lean, high), (length - lean, high), (length - 0.15, low)], GLASS)
    coach = length / max(2, round(length / 8))
    for start in np.arange(0, length - 1, coach):
        for x in np.arange(start + 0.9, start + coach - 1, 1.6):
            side.box(x, low, x + 0.1, high, paint)
            side.polygon([(x + 0.3, high), (x + 1.0, high), (x + 0.4, low + 0.1)], shaded(GLASS, 1.4))
        x = start + coach / 2 - 0.75
        side.box(x, 0.35, x + 1.5, body - 0.35, stripe)
        side.box(x + 0.12, 0.6, x + 0.68, body - 0.5, GLASS)
        side.box(x + 0.82, 0.6, x + 1.38, body - 0.5, GLASS)
        if start:
            side.box(start - 0.3, 0.25, start + 0.3, body, (58, 58, 60))
        side.box(start + 1, body, start + coach - 1.5, height, (128, 130, 132))
    side.grain(rng, 0.12)
    back, face = Sketch(width, body, scale=36), Sketch(width, body, scale=36)
    for end, lit in ((back, False), (face, lamps)):
        end.box(0, 0.18, width, body, paint)
        end.polygon([(0.08, 1.15), (0.22, body - 0.6), (width - 0.22, body - 0.6), (width - 0.08, 1.15)], GLASS)
        end.polygon([(0.4, body - 0.65), (1.2, body - 0.65), (0.5, 1.3)], shaded(GLASS, 1.5))
        end.box(0.4, body - 0.5, width - 0.4, body - 0.16, (30, 28, 26))
        end.box(0.6, body - 0.42, width - 0.6, body - 0.24, (240, 170, 60))
        end.box(0, 0.18, width, 0.55, shaded(stripe, 0.55))
        end.disc((width / 2, 0.8), 0.2, LIT if lit else (190, 190, 184))
        lights(end, 0.78, LIT if lit else (170, 170, 164))
        end.grain(rng, 0.08)
    panels = [
        Panel((0, 0), (lean, body), back.sprite(Label.TRAIN)),
        Panel((length, 0), (length - lean, body), face.sprite(Label.TRAIN)),
    ]
    return Vehicle(side.sprite(Label.TRAIN), length, height, width, panels)


def _bus_end(rng: Rng, end: Sketch, paint: Colour, stripe: Colour, *, front: bool, lamps: bool) -> None:
    w, h = end.width, end.height
    for x in (0.15, w - 0.55):
        end.box(x, 0, x + 0.4, 0.5, TYRE)
    end.box(0, 0.3, w, h, paint)
    end.box(0, 0.3, w, 0.95, stripe)
    if h > 3.8:  # the upper deck
        end.box(0.15, 3.1, w - 0.15, h - 0.35, GLASS)
        h = 3.1
    if front:
        end.box(0.1, 1.15, w - 0.1, h - 0.55, GLASS)
        end.polygon([(0.3, h - 0.6), (1.2, h - 0.6), (0.4, 1.3)], shaded(GLASS, 1.5))
        end.box(0.3, h - 0.48, w - 0.3, h - 0.12, (26, 24, 22))
        end.box(0.55, h - 0.4, w - 0.6, h - 0.2, (244, 176, 60))
        lights(end, 0.7, LIT if lamps else (190, 190, 184))
    else:
        end.box(0.3, 1.7, w - 0.3, h - 0.5, GLASS)
        end.box(0.4, 1.0, w - 0.4, 1.5, shaded(paint, 0.7))
        lights(end, 0.8, (226, 40, 36) if lamps else (160, 32, 32))
    end.grain(rng, 0.1)
