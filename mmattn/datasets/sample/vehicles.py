"""Cars, vans, trucks, buses and trams: a side view pulled out to the width of the vehicle."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .canvas import Face
from .labels import Label
from .sketch import Colour, Point, Sketch, Sprite, shaded

Rng = np.random.Generator
Array = np.ndarray
GLASS: Colour = (52, 60, 68)
TYRE: Colour = (30, 30, 32)
PAINTS: tuple[Colour, ...] = (
    (224, 226, 228), (34, 36, 40), (150, 154, 160), (92, 96, 102), (146, 32, 34), (38, 62, 118), (52, 94, 78), (196, 170, 66),
    (190, 190, 186), (106, 70, 52), (214, 108, 42), (108, 146, 178), (66, 28, 44), (236, 232, 220),
)  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """A strip across the vehicle from ``low`` to ``high``, both (metres from the rear, height)."""

    low: Point
    high: Point
    skin: Sprite


@dataclass(frozen=True)
class Vehicle:
    """A side view and the panels that join its two sides.

    Args:
        side: Side view, rear at the left.
        length, height, width: Size in metres.
        panels: Rear, roof, front and what lies between.
    """

    side: Sprite
    length: float
    height: float
    width: float
    panels: Sequence[Panel]

    def faces(self, x: float, z: float, heading: float) -> list[Face]:
        """The vehicle with its middle at (x, z), its front towards ``heading`` radians right of straight ahead."""
        ahead = np.array([np.sin(heading), 0.0, np.cos(heading)])
        right, up = np.array([ahead[2], 0.0, -ahead[0]]), np.array([0.0, 1.0, 0.0])
        rear = np.array([x, 0.0, z]) - ahead * self.length / 2
        half = right * self.width / 2
        faces = [Face(self.side, rear + s * half, ahead * self.length, up * self.height, s * right) for s in (-1, 1)]
        heart = rear + ahead * self.length / 2 + up * self.height * 0.45
        for panel in self.panels:
            low, high = (rear + ahead * p[0] + up * p[1] for p in (panel.low, panel.high))
            normal = np.cross(high - low, right)
            normal *= np.sign(normal @ ((low + high) / 2 - heart)) / np.linalg.norm(normal)
            faces.append(Face(panel.skin, low - half, half * 2, high - low, normal))
        return faces


def paint_job(rng: Rng) -> Colour:
    r, g, b = np.array(PAINTS[rng.integers(len(PAINTS))]) * rng.uniform(0.8, 1.1) * rng.uniform(0.93, 1.07, 3)
    return r, g, b


def car(rng: Rng, *, lamps: bool) -> Vehicle:
    """A hatchback, an estate, a saloon, a small van or an off-roader."""
    body = rng.choice(["hatch", "hatch", "estate", "saloon", "van", "tall"])
    length, height, bonnet, rear_slant, boot, screen = {
        "hatch": (4.1, 1.5, 1.0, 0.35, 0.0, 0.8),
        "estate": (4.7, 1.5, 1.2, 0.35, 0.0, 0.85),
        "saloon": (4.7, 1.45, 1.2, 0.6, 0.65, 0.85),
        "van": (4.9, 2.0, 0.7, 0.1, 0.0, 0.75),
        "tall": (4.5, 1.72, 1.1, 0.3, 0.0, 0.7),
    }[str(body)]
    length, width = length * rng.uniform(0.95, 1.05), rng.uniform(1.75, 1.95)
    paint, belt, nose = paint_job(rng), height * 0.62, height * 0.5
    front, top = length - bonnet, (boot + rear_slant, length - bonnet - screen)
    profile = [(0.03, 0.3), (0, belt), (boot, belt + 0.04), (top[0], height), (top[1], height), (front, belt + 0.02), (length - 0.05, nose),
               (length, 0.32)]  # fmt: skip
    side = Sketch(length, height, scale=56)
    side.polygon(profile, paint)
    side.box(0.1, 0.22, length - 0.1, 0.34, (38, 38, 40))
    sill = belt + 0.06
    windows = [(boot + 0.12, sill), (top[0] + 0.06, height - 0.1), (top[1] - 0.04, height - 0.1), (front - 0.12, sill)]
    if body != "van" or rng.random() < 0.5:
        side.polygon(windows, GLASS)
        side.polygon([windows[1], windows[2], (top[1], (sill + height) / 2)], shaded(GLASS, 1.5))
    else:
        side.polygon([(top[1] - 0.5, sill), (top[1] - 0.5, height - 0.2), windows[2], windows[3]], GLASS)
    for door in (0.36, 0.6):
        side.stroke([(length * door, 0.36), (length * door, height - 0.06)], 0.05, shaded(paint, 0.6))
        side.box(length * door - 0.28, sill - 0.16, length * door - 0.1, sill - 0.11, shaded(paint, 0.5))
    side.polygon([(0.02, 0.52), (length, 0.52), (length, 0.32), (0.02, 0.32)], shaded(paint, 0.82))
    side.box(0.0, belt - 0.2, 0.16, belt - 0.02, (170, 30, 30))
    side.box(length - 0.3, nose - 0.14, length - 0.04, nose - 0.02, (226, 226, 214))
    _wheels(rng, side, (0.19 * length, 0.8 * length), 0.33)
    tail, face = Sketch(width, belt, scale=64), Sketch(width, nose, scale=64)
    _tail(rng, tail, paint, lamps)
    _nose(rng, face, paint, lamps)
    glass, cover = _pane(width, height - belt), _sheet(paint, 1.04)
    panels = [
        Panel((0, 0), (0, belt), tail.sprite(Label.CAR)),
        Panel((boot, belt), (top[0], height), glass),
        Panel((top[0], height), (top[1], height), cover),
        Panel((front, belt), (top[1], height), glass),
        Panel((length - 0.02, nose), (front, belt), cover),
        Panel((length, 0), (length, nose), face.sprite(Label.CAR)),
    ]
    if boot:
        panels.append(Panel((0, belt), (boot, belt + 0.04), cover))
    return Vehicle(side.sprite(Label.CAR), length, height, width, panels)


def truck(rng: Rng, *, lamps: bool) -> Vehicle:
    """A lorry with a box, a tarpaulin, a container or a tipper behind the cab."""
    length, height, width = rng.uniform(6.5, 10), rng.uniform(3.1, 3.8), 2.45
    cab, load, floor = 2.1, length - 2.5, 1.05
    paint = paint_job(rng)
    cargo = paint_job(rng) if rng.random() < 0.6 else (218, 218, 214)
    style = rng.choice(["box", "box", "tarpaulin", "container", "tipper"])
    top = height * 0.75 if style == "tipper" else height
    side = Sketch(length, height, scale=40)
    side.box(0.1, 0.62, length - 0.6, 0.95, (44, 44, 46))
    side.box(0, floor, load, top, cargo)
    _cargo(rng, side, load, floor, top, cargo, str(style))
    head = min(height - 0.2, 2.9)
    side.polygon(
        [(length - cab, 0.5), (length - cab, head), (length - 0.35, head), (length, 1.4), (length, 0.45)], paint
    )
    side.polygon(
        [(length - 1.35, 1.55), (length - 1.35, head - 0.35), (length - 0.45, head - 0.35), (length - 0.12, 1.55)],
        GLASS,
    )
    side.stroke([(length - 1.5, 0.6), (length - 1.5, head - 0.2)], 0.05, shaded(paint, 0.6))
    side.box(length - 0.5, 1.7, length - 0.3, 2.2, TYRE)
    side.grain(rng, 0.2)
    _wheels(
        rng, side, (0.17 * length, length - 1.2) if length < 7.5 else (0.14 * length, 0.27 * length, length - 1.2), 0.52
    )
    back, face = Sketch(width, top, scale=48), Sketch(width, head, scale=48)
    _doors(rng, back, cargo, floor)
    _cab(rng, face, paint, lamps)
    plate, cover = _sheet(shaded(cargo, 0.95), 1), _sheet(paint, 1)
    panels = [
        Panel((0, 0), (0, top), back.sprite(Label.TRUCK)),
        Panel((0, top), (load, top), plate.named(Label.TRUCK)),
        Panel((load, floor), (load, top), plate.named(Label.TRUCK)),
        Panel((length - cab, head), (length - 0.35, head), cover.named(Label.TRUCK)),
        Panel((length - 0.05, 0), (length - 0.05, head), face.sprite(Label.TRUCK)),
    ]
    return Vehicle(side.sprite(Label.TRUCK), length, height, width, panels)


def bus(rng: Rng, *, lamps: bool) -> Vehicle:
    length, height, width = rng.uniform(9.5, 12.5), rng.uniform(3.0, 3.3), 2.5
    paint, stripe = paint_job(rng), paint_job(rng)
    side = Sketch(length, height, scale=40)
    side.box(0, 0.3, length, height, paint)
    side.box(0, 0.3, length, rng.uniform(0.6, 1.2), stripe)
    low, high = 1.25, height - 0.55
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
        side.box(x + 0.4, 1.1, x + 2.1, 1.6, tuple(rng.uniform(60, 240, 3)))
    side.grain(rng, 0.12)
    _wheels(rng, side, (0.24 * length, 0.78 * length), 0.5)
    back, face = Sketch(width, height, scale=48), Sketch(width, height, scale=48)
    _coach_end(rng, back, paint, stripe, front=False, lamps=lamps)
    _coach_end(rng, face, paint, stripe, front=True, lamps=lamps)
    panels = [
        Panel((0, 0), (0, height), back.sprite(Label.BUS)),
        Panel((length, 0), (length, height), face.sprite(Label.BUS)),
    ]
    return Vehicle(side.sprite(Label.BUS), length, height, width, panels)


def tram(rng: Rng, *, lamps: bool) -> Vehicle:
    """A tram of several coaches, with skirts down to the rails and gear on the roof."""
    length, height, width = rng.uniform(16, 28), 3.7, 2.5
    paint, stripe = paint_job(rng), paint_job(rng)
    side = Sketch(length, height, scale=32)
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
    back, face = Sketch(width, body, scale=48), Sketch(width, body, scale=48)
    for end, lit in ((back, False), (face, lamps)):
        end.box(0, 0.18, width, body, paint)
        end.polygon([(0.08, 1.15), (0.22, body - 0.6), (width - 0.22, body - 0.6), (width - 0.08, 1.15)], GLASS)
        end.polygon([(0.4, body - 0.65), (1.2, body - 0.65), (0.5, 1.3)], shaded(GLASS, 1.5))
        end.box(0.4, body - 0.5, width - 0.4, body - 0.16, (30, 28, 26))
        end.box(0.6, body - 0.42, width - 0.6, body - 0.24, (240, 170, 60))
        end.box(0, 0.18, width, 0.55, shaded(stripe, 0.55))
        _lights(end, 0.78, (250, 246, 226) if lit else (170, 170, 164))
        end.grain(rng, 0.08)
    panels = [
        Panel((0, 0), (lean, body), back.sprite(Label.TRAIN)),
        Panel((length, 0), (length - lean, body), face.sprite(Label.TRAIN)),
    ]
    return Vehicle(side.sprite(Label.TRAIN), length, height, width, panels)


def _coach_end(rng: Rng, end: Sketch, paint: Colour, stripe: Colour, *, front: bool, lamps: bool) -> None:
    w, h = end.width, end.height
    for x in (0.15, w - 0.55):
        end.box(x, 0, x + 0.4, 0.5, TYRE)
    end.box(0, 0.3, w, h, paint)
    end.box(0, 0.3, w, 0.95, stripe)
    if front:
        end.box(0.1, 1.15, w - 0.1, h - 0.55, GLASS)
        end.polygon([(0.3, h - 0.6), (1.2, h - 0.6), (0.4, 1.3)], shaded(GLASS, 1.5))
        end.box(0.3, h - 0.48, w - 0.3, h - 0.12, (26, 24, 22))
        end.box(0.55, h - 0.4, w - 0.6, h - 0.2, (244, 176, 60))
        _lights(end, 0.7, (250, 246, 226) if lamps else (190, 190, 184))
    else:
        end.box(0.3, 1.7, w - 0.3, h - 0.5, GLASS)
        end.box(0.4, 1.0, w - 0.4, 1.5, shaded(paint, 0.7))
        _lights(end, 0.8, (226, 40, 36) if lamps else (160, 32, 32))
    end.grain(rng, 0.1)


def _cargo(rng: Rng, side: Sketch, load: float, floor: float, top: float, cargo: Colour, style: str) -> None:
    if style == "box" and rng.random() < 0.7:
        side.box(load * 0.2, floor + 0.7, load * 0.8, floor + 1.5, paint_job(rng))
        side.disc((load * 0.3, floor + 1.1), 0.5, paint_job(rng))
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
    _lights(face, 0.7, (250, 246, 226) if lamps else (196, 196, 190))
    face.box(w / 2 - 0.3, 0.5, w / 2 + 0.3, 0.64, (226, 224, 204))
    face.grain(rng, 0.1)


def _tail(rng: Rng, tail: Sketch, paint: Colour, lamps: bool) -> None:
    w, h = tail.width, tail.height
    for x in (0.08, w - 0.36):
        tail.box(x, 0, x + 0.28, 0.4, TYRE)
    tail.box(0, 0.3, w, h, paint)
    tail.box(0.02, 0.26, w - 0.02, 0.42, shaded(paint, 0.45))
    red = (236, 40, 34) if lamps else (162, 26, 28)
    for x in (0.03, w - 0.35):
        tail.box(x, h - 0.28, x + 0.32, h - 0.06, red)
    tail.box(w / 2 - 0.28, h * 0.56, w / 2 + 0.28, h * 0.56 + 0.13, (230, 228, 210))
    tail.stroke([(0.1, h * 0.5), (w - 0.1, h * 0.5)], 0.03, shaded(paint, 0.6))
    tail.grain(rng, 0.08)


def _nose(rng: Rng, face: Sketch, paint: Colour, lamps: bool) -> None:
    w, h = face.width, face.height
    for x in (0.08, w - 0.36):
        face.box(x, 0, x + 0.28, 0.4, TYRE)
    face.box(0, 0.26, w, h, paint)
    face.box(w * 0.25, 0.28, w * 0.75, h - 0.12, (34, 34, 36))
    face.box(w / 2 - 0.28, 0.34, w / 2 + 0.28, 0.46, (230, 228, 210))
    _lights(face, h - 0.16, (255, 250, 232) if lamps else (212, 214, 212))
    face.grain(rng, 0.08)


def _lights(end: Sketch, y: float, colour: Colour) -> None:
    for x in (0.08, end.width - 0.4):
        end.box(x, y - 0.1, x + 0.32, y + 0.08, colour)


def _wheels(rng: Rng, side: Sketch, at: Sequence[float], radius: float) -> None:
    rim = rng.uniform(90, 190)
    for x in at:
        side.disc((x, radius + 0.03), radius * 1.16, (24, 24, 26))
        side.disc((x, radius), radius, TYRE)
        side.disc((x, radius), radius * 0.62, (rim, rim, rim))
        side.disc((x, radius), radius * 0.2, (60, 60, 62))


def _pane(width: float, height: float) -> Sprite:
    pane = Sketch(width, height, scale=48)
    pane.box(0, 0, width, height, GLASS)
    pane.polygon([(0.2, height), (width * 0.55, height), (0.3, 0)], shaded(GLASS, 1.55))
    return pane.sprite(Label.CAR)


def _sheet(paint: Colour, factor: float) -> Sprite:
    sheet = Sketch(0.5, 0.5, scale=16)
    sheet.box(0, 0, 0.5, 0.5, shaded(paint, factor))
    return sheet.sprite(Label.CAR)
