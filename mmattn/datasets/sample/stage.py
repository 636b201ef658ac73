"""Where faces are put up before the picture is painted."""

from dataclasses import dataclass, field

import numpy as np

from .camera import Camera
from .canvas import Face
from .light import Light
from .sketch import Sprite
from .street import Street

UP = np.array([0.0, 1.0, 0.0])


@dataclass
class Stage:
    """The street while it is being furnished.

    Args:
        rng: Draws everything.
        camera: Tells from which distance a thing at the roadside is in view.
        street: Ground plan.
        light: Tells whether lamps are lit.

    Attributes:
        faces: All to paint.
        shady: Those that cast a shadow on the ground.
        patches: Flat, soft shade under vehicles.
    """

    rng: np.random.Generator
    camera: Camera
    street: Street
    light: Light
    faces: list[Face] = field(default_factory=list)
    shady: list[Face] = field(default_factory=list)
    patches: list[Face] = field(default_factory=list)

    def stand(
        self, sprites: list[Sprite], x: float, z: float, size: tuple[float, float], *, turn: float = 0, base: float = 0
    ) -> None:
        """Put up a flat cut-out.

        Args:
            sprites: Painted one over the other.
            x: Middle of its lower edge, across the street.
            z: The same, along the street.
            size: Width and height in metres; a negative width mirrors it.
            turn: Radians by which it turns out of the image plane.
            base: Height of its lower edge above the ground.
        """
        width, height = size
        across = np.array([np.cos(turn), 0.0, np.sin(turn)])
        normal = np.array([np.sin(turn), 0.8, -np.cos(turn)]) / np.hypot(1, 0.8)
        origin = np.array([x, base, z]) - across * width / 2
        new = [Face(sprite, origin, across * width, UP * height, normal) for sprite in sprites]
        self.faces += new
        self.shady += [face for face in new if not face.sprite.glows]

    def build(self, faces: list[Face]) -> list[Face]:
        """Put up the faces of a body, without those that look away from the camera; returns what is in view."""
        seen = [face for face in faces if face.normal @ (self.camera.position - face.centre) > 0.3]
        self.faces += seen
        return seen

    def sight(self, x: float) -> float:
        """Distance at which a point of the street at ``x`` comes into view."""
        return max(4.0, abs(x - self.camera.x) * 2 * self.camera.focal / self.camera.width)

    def detail(self, z: float) -> float:
        """Pixels per metre worth drawing at a distance of ``z`` metres and beyond."""
        return float(np.clip(1.2 * self.camera.focal / max(z, 1), 7, 56))

    def clear(self, x: float, z: float, room: float) -> bool:
        """Whether no vehicle is within ``room`` metres of a point of the street."""
        places = [(patch.origin, patch.origin + patch.u + patch.v) for patch in self.patches]
        return not any(a[0] - room < x < b[0] + room and a[2] - room < z < b[2] + room for a, b in places)

    def some(self, share: float) -> bool:
        """True in this share of the cases."""
        return bool(self.rng.random() < share)

    def facing(self, width: float, height: float) -> tuple[float, float]:
        """A size that faces right, or, mirrored, left."""
        return (width if self.some(0.5) else -width), height
