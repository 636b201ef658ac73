"""Cars and small vans."""

from .labels import Label
from .sketch import Colour, Sketch, shaded
from .vehicle import GLASS, LIT, TYRE, Panel, Rng, Vehicle, lights, paint_job, pane, plain, wheels


def car(rng: Rng, *, lamps: bool, scale: float) -> Vehicle:
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
    back = [(0.03, 0.3), (0, belt), (boot, belt + 0.04), (top[0], height)]
    profile = [*back, (top[1], height), (front, belt + 0.02), (length - 0.05, nose), (length, 0.32)]
    side = Sketch(length, height, scale=scale)
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
    wheels(rng, side, (0.19 * length, 0.8 * length), 0.33)
    tail, face = Sketch(width, belt, scale=scale), Sketch(width, nose, scale=scale)
    _tail(rng, tail, paint, lamps)
    _nose(rng, face, paint, lamps)
    glass, cover = pane(width, height - belt), plain(paint, Label.CAR)
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
    lights(face, h - 0.16, LIT if lamps else (212, 214, 212))
    face.grain(rng, 0.08)
