"""A vehicle: a side view pulled out to its width, and the parts that all kinds share."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .canvas import Face
from .labels import Label
from .sketch import Colour, Point, Sketch, Sprite, shaded

Rng = np.random.Generator
GLASS: Colour = (52, 60, 68)
TYRE: Colour = (30, 30, 32)
LIT: Colour = (252, 248, 230)
PAINTS: tuple[Colour, ...] = (
    (224, 226, 228), (34, 36, 40), (150, 154, 160), (92, 96, 102), (146, 32, 34), (38, 62, 118), (52, 94, 78),
    (196, 170, 66), (190, 190, 186), (106, 70, 52), (214, 108, 42), (108, 146, 178), (66, 28, 44), (236, 232, 220),
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


def wheels(rng: Rng, side: Sketch, at: Sequence[float], radius: float) -> None:
    rim = rng.uniform(90, 190)
    for x in at:
        side.disc((x, radius + 0.03), radius * 1.16, (24, 24, 26))
        side.disc((x, radius), radius, TYRE)
        side.disc((x, radius), radius * 0.62, (rim, rim, rim))
        side.disc((x, radius), radius * 0.2, (60, 60, 62))


def lights(end: Sketch, y: float, colour: Colour) -> None:
    for x in (0.08, end.width - 0.4):
        end.box(x, y - 0.1, x + 0.32, y + 0.08, colour)


def pane(width: float, height: float) -> Sprite:
    """A window across a car."""
    glass = Sketch(width, height, scale=32)
    glass.box(0, 0, width, height, GLASS)
    glass.polygon([(0.2, height), (width * 0.55, height), (0.3, 0)], shaded(GLASS, 1.55))
    return glass.sprite(Label.CAR)


def plain(colour: Colour, label: Label) -> Sprite:
    """One colour for a panel of any size."""
    sheet = Sketch(0.25, 0.25, scale=16)
    sheet.box(0, 0, 0.25, 0.25, colour)
    return sheet.sprite(label)
