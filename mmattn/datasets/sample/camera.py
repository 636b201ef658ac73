"""A pinhole camera that looks along a street: x is right, y is up, z is ahead, in metres.

The optical axis is level, and the horizon is moved by shifting the image, so verticals stay vertical.
"""

from dataclasses import dataclass
from functools import cached_property
from math import cos, sin

import numpy as np

Array = np.ndarray
NEAR = 0.5  # metres; nothing closer is drawn


@dataclass(frozen=True)
class Camera:
    """Where the picture is taken from.

    Args:
        width: Image width in pixels.
        height: Image height in pixels.
        focal: Focal length in pixels.
        horizon: Row of the horizon.
        x: Position across the street in metres.
        y: Height above the road in metres.
        yaw: Turn to the right in radians.
    """

    width: int
    height: int
    focal: float
    horizon: float
    x: float
    y: float
    yaw: float

    @property
    def position(self) -> Array:
        return np.array([self.x, self.y, 0.0])

    @cached_property
    def matrix(self) -> Array:
        """(3, 4) projection: homogeneous world point -> (column, row, 1) times depth."""
        c, s = cos(self.yaw), sin(self.yaw)
        turn = np.array([[c, 0, -s], [0, -1, 0], [s, 0, c]])
        lens = np.array([[self.focal, 0, self.width / 2], [0, self.focal, self.horizon], [0, 0, 1]])
        return lens @ np.column_stack([turn, -turn @ self.position])

    def plane(self, origin: Array, u: Array, v: Array) -> Array:
        """(3, 3) homography of a plane: origin + s u + t v as (s, t, 1) -> (column, row, 1) times depth."""
        p = self.matrix
        return np.column_stack([p[:, :3] @ u, p[:, :3] @ v, p @ np.append(origin, 1.0)])


def outline(plane: Array) -> Array:
    """Pixel corners (n, 2) of the unit square under a homography, cut off before the camera; may be empty."""
    corners = np.array([[0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]]) @ plane.T
    kept = []
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if a[2] >= NEAR:
            kept.append(a)
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            kept.append(a + (b - a) * (NEAR - a[2]) / (b[2] - a[2]))
    points = np.array(kept).reshape(-1, 3)
    return points[:, :2] / points[:, 2:]
