"""Lorries."""

import numpy as np

from .buildings import poster
from .labels import Label
from .sketch import Colour, Sketch, shaded
from .vehicle import GLASS, LIT, TYRE, Panel, Rng, Vehicle, lights, paint_job, plain, wheels


def truck(rng: Rng, *, lamps: bool) -> Vehicle:
    """A lorry with a box, a tarpaulin, a container or a tipper behind the cab."""
    length, height, width = rng.uniform(6.5, 10), rng.uniform(3.1, 3.8), 2.45
    cab, load, floor = 2.1, length - 2.5, 1.05
    paint = paint_job(rng)
    cargo = paint_job(rng) if rng.random() < 0.6 else (218, 218, 214)
    style = rng.choice(["box", "box", "tarpaulin", "container", "tipper"])
    top = height * 0.75 if style == "tipper" else height
    side = Sketch(length, height, scale=44)
    side.box(0.1, 0.62, length - 0.6, 0.95, (44, 44, 46))
    side.box(0, floor, load, top, cargo)
    _cargo(rng, side, load, floor, top, cargo, str(style))
    head = min(height - 0.2, 2.9)
    x, sill, lintel = length - 1.35, 1.55, head - 0.35
    side.polygon(
        [(length - cab, 0.5), (length - cab, head), (length - 0.35, head), (length, 1.4), (length, 0.45)], paint
    )
    side.polygon([(x, sill), (x, lintel), (length - 0.45, lintel), (length - 0.12, sill)], GLASS)
    side.stroke([(length - 1.5, 0.6), (length - 1.5, head - 0.2)], 0.05, shaded(paint, 0.6))
    side.box(length - 0.5, 1.7, length - 0.3, 2.2, TYRE)
    side.grain(rng, 0.2)
    axles = (0.17 * length,) if length < 7.5 else (0.14 * length, 0.27 * length)
    wheels(rng, side, (*axles, length - 1.2), 0.52)
    back, face = Sketch(width, top, scale=44), Sketch(width, head, scale=44)
    _doors(rng, back, cargo, floor)
    _cab(rng, face, paint, lamps)
    plate, cover = plain(shaded(cargo, 0.95), Label.TRUCK), plain(paint, Label.TRUCK)
    panels = [
        Panel((0, 0), (0, top), back.sprite(Label.TRUCK)),
        Panel((0, top), (load, top), plate),
        Panel((load, floor), (load, top), plate),
        Panel((length - cab, head), (length - 0.35, head), cover),
        Panel((length - 0.05, 0), (length - 0.05, head), face.sprite(Label.TRUCK)),
    ]
    return Vehicle(side.sprite(Label.TRUCK), length, height, width, panels)


def _cargo(rng: Rng, side: Sketch, load: float, floor: float, top: float, cargo: Colour, style: str) -> None:
    if style == "box" and rng.random() < 0.7:
        side.box(load * 0.2, floor + 0.7, load * 0.8, floor + 1.5, paint_job(rng))
        poster(rng, side, load * 0.3, floor + 0.6)
    if style in ("tarpaulin", "container", "tipper"):
        for x in np.arange(0, load, {"tarpaulin": 1.2, "container": 0.28, "tipper": 0.9}[style]):
            side.box(x, floor, x + 0.1, top, shaded(cargo, 0.75))
    if style == "tipper":
        side.polygon([(0.3, top), (load * 0.4, min(side.height, top + 0.7)), (load - 0.4, top)], (122, 104, 84))
    side.box(0, floor, load, floor + 0.16, shaded(cargo, 0.6))


def _doors(rng: Rng, back: Sketch, cargo: Colour, floor: float) -> None:
    w, h = back.width, back.height
    for x in (0.1, w - 0.6):
        back.box(x, 0, x + 0.5, 0.95, TYRE)
    back.box(0.1, 0.5, w - 0.1, 0.75, (50, 50, 52))
    back.box(0, floor - 0.05, w, h, cargo)
    back.stroke([(w / 2, floor), (w / 2, h)], 0.05, shaded(cargo, 0.55))
    for x in (w * 0.3, w * 0.7):
        back.stroke([(x, floor), (x, h)], 0.04, (120, 122, 124))
    back.stroke([(0.05, floor), (0.05, h - 0.04), (w - 0.05, h - 0.04), (w - 0.05, floor)], 0.08, shaded(cargo, 0.7))
    for x in (0.1, w - 0.6):
        back.box(x, 0.75, x + 0.5, 0.98, (184, 30, 28))
    back.box(w / 2 - 0.3, 0.55, w / 2 + 0.3, 0.7, (230, 226, 200))
    back.grain(rng, 0.25)


def _cab(rng: Rng, face: Sketch, paint: Colour, lamps: bool) -> None:
    w, h = face.width, face.height
    for x in (0.1, w - 0.55):
        face.box(x, 0, x + 0.45, 0.6, TYRE)
    face.box(0, 0.4, w, h, paint)
    face.box(0.12, 1.5, w - 0.12, h - 0.35, GLASS)
    face.polygon([(0.3, h - 0.4), (1.1, h - 0.4), (0.4, 1.6)], shaded(GLASS, 1.5))
    face.box(0.5, 0.75, w - 0.5, 1.35, shaded(paint, 0.5))
    lights(face, 0.7, LIT if lamps else (196, 196, 190))
    face.box(w / 2 - 0.3, 0.5, w / 2 + 0.3, 0.64, (226, 224, 204))
    face.grain(rng, 0.1)
