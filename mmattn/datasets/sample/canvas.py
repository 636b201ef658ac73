"""Picture and label map, painted in lock-step: what covers a pixel in one covers it in the other."""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from .camera import Camera, outline
from .labels import Label
from .light import Light
from .sketch import Sprite

Array = np.ndarray


@dataclass(frozen=True)
class Face:
    """A sprite put up in the street as the parallelogram origin + s u + t v, t = 0 at the sprite's lower edge.

    Args:
        sprite: What is painted.
        origin: Lower left corner in metres.
        u: From lower left to lower right.
        v: From lower left to upper left.
        normal: Unit vector out of the face, for the light.
    """

    sprite: Sprite
    origin: Array
    u: Array
    v: Array
    normal: Array

    @property
    def centre(self) -> Array:
        return self.origin + (self.u + self.v) / 2


class Canvas:
    """A picture in progress.

    Attributes:
        colour: (h, w, 3) float32, red, green, blue in 0..255.
        label: (h, w) uint8 label ids.
        near: (h, w) float32, one over the depth in metres; 0 is infinitely far.
    """

    def __init__(self, camera: Camera, light: Light) -> None:
        size = camera.height, camera.width
        self.camera, self.light = camera, light
        self.colour = np.zeros((*size, 3), np.float32)
        self.label = np.full(size, Label.SKY, np.uint8)
        self.near = np.zeros(size, np.float32)

    def paint(self, face: Face) -> None:
        """Paint a face over everything that is farther away."""
        found = self._locate(face)
        if found is None:
            return
        window, inside, near, to_window, size = found
        sprite = face.sprite
        texture = _warp(sprite.texture, to_window, inside.shape, size).astype(np.float32)
        seen = inside & (near >= 0.995 * self.near[window])  # a glow lies on its own face
        alpha = texture[..., 3:] / 255 * seen[..., None]
        shade = 1.0 if sprite.glows else self.light.shade(face.normal).astype(np.float32)
        self.colour[window] += alpha * -self.colour[window] + texture[..., :3] * shade * seen[..., None]
        if sprite.mask is None:
            covered = alpha[..., 0] > 0.5
        else:
            covered = (_warp(sprite.mask, to_window, inside.shape, size) > 127) & seen
        self.label[window][covered] = sprite.label
        self.near[window][covered] = near[covered]

    def cast(self, faces: Iterable[Face], strength: float) -> None:
        """Darken what is painted so far by the shadows of faces, without adding up where they overlap."""
        shadow = np.zeros(self.label.shape, np.float32)
        for face in faces:
            found = self._locate(face)
            if found is not None:
                window, inside, _, to_window, size = found
                alpha = _warp(face.sprite.texture[..., 3], to_window, inside.shape, size).astype(np.float32) / 255
                shadow[window] = np.maximum(shadow[window], alpha * inside)
        self.colour *= (1 - strength * shadow)[..., None]

    def _locate(self, face: Face) -> tuple | None:
        """Window, pixels inside, their nearness, homography from the unit square to the window, size in pixels."""
        plane = self.camera.plane(face.origin, face.u, face.v)
        corners = outline(plane)
        if len(corners) < 3:
            return None
        x0, y0 = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
        x1 = min(int(np.ceil(min(corners[:, 0].max(), 1e6))) + 1, self.camera.width)
        y1 = min(int(np.ceil(min(corners[:, 1].max(), 1e6))) + 1, self.camera.height)
        if x0 >= x1 or y0 >= y1 or abs(np.linalg.det(plane)) < 1e-6:
            return None
        inside = np.zeros((y1 - y0, x1 - x0), np.uint8)
        fixed = np.clip((corners - (x0, y0)) * 16, -(2**24), 2**24).round().astype(np.int32)
        cv2.fillConvexPoly(inside, fixed, 1, cv2.LINE_8, 4)
        a, b, c = np.linalg.inv(plane)[2]
        columns, rows = np.arange(x0, x1, dtype=np.float32), np.arange(y0, y1, dtype=np.float32)
        near = (a * columns)[None, :] + (b * rows + c)[:, None]
        to_window = np.array([[1, 0, -x0], [0, 1, -y0], [0, 0, 1]]) @ plane
        edges = np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1)
        size = int(np.clip(edges.max(), 4, 4096))
        return (slice(y0, y1), slice(x0, x1)), inside.astype(bool), near.astype(np.float32), to_window, size


def _warp(texture: Array, plane: Array, shape: tuple[int, int], size: int) -> Array:
    """Texture seen through a homography, first shrunk to about the size in which it appears."""
    h, w = texture.shape[:2]
    if max(h, w) > 1.5 * size:
        ratio = size / max(h, w)
        texture = cv2.resize(
            texture, (max(2, round(w * ratio)), max(2, round(h * ratio))), interpolation=cv2.INTER_AREA
        )
        h, w = texture.shape[:2]
    unit = np.array([[1 / w, 0, 0.5 / w], [0, -1 / h, 1 - 0.5 / h], [0, 0, 1]])
    return cv2.warpPerspective(
        texture, plane @ unit, (shape[1], shape[0]), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
