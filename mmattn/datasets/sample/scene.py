"""One picture of the sample: plan a street, paint it from far to near, and photograph it."""

import cv2
import numpy as np

from . import roadside, traffic
from .camera import NEAR, Camera
from .canvas import Canvas, Face
from .ground import paint_ground, paint_sky
from .labels import Label
from .light import Light, draw_light
from .noise import tile
from .stage import UP, Stage
from .street import draw_street

Rng = np.random.Generator
Array = np.ndarray
HEIGHT, WIDTH = 256, 512
FINE = 2  # painted this many times larger


def draw(seed: tuple[int, ...]) -> tuple[Array, Array]:
    """Draw a street.

    Args:
        seed: Integers that fix the picture.

    Returns:
        The image (256, 512, 3) uint8, red, green, blue, and its label ids (256, 512) uint8.
    """
    rng = np.random.default_rng(seed)
    light, street = draw_light(rng), draw_street(rng)
    camera = Camera(
        width=WIDTH * FINE,
        height=HEIGHT * FINE,
        focal=WIDTH * FINE * rng.uniform(0.7, 0.95),
        horizon=HEIGHT * FINE * rng.uniform(0.38, 0.47),
        x=street.lane / 2 + rng.normal(0, 0.3),
        y=rng.uniform(1.25, 1.9),
        yaw=rng.normal(0, 0.06),
    )
    stage = Stage(rng, camera, street, light)
    roadside.furnish(stage)
    traffic.fill(stage)
    canvas = Canvas(camera, light)
    paint_sky(canvas, rng)
    paint_ground(canvas, street, rng)
    sunny = float(light.direct.mean() / (light.direct + light.ambient).mean())
    canvas.cast([_shadow(face, light.sun) for face in stage.shady] if sunny else [], 0.85 * sunny)
    canvas.cast(stage.patches, 0.62)
    for face in sorted(stage.faces, key=lambda face: -_distance(camera, face)):
        canvas.paint(face)
    return _photograph(canvas, light, rng)


def _shadow(face: Face, sun: Array) -> Face:
    """What keeps the sun off the ground, laid down along the sun's rays."""
    origin, u, v = (p - sun * p[1] / sun[1] for p in (face.origin, face.u, face.v))
    return Face(face.sprite, origin, u, v, UP)


def _distance(camera: Camera, face: Face) -> float:
    return max(NEAR, float(np.linalg.norm(face.centre - camera.position)))


def _photograph(canvas: Canvas, light: Light, rng: Rng) -> tuple[Array, Array]:
    """Haze, glare, lens, exposure and noise."""
    solid = (canvas.near > 0)[..., None]
    clear = np.exp(-1 / (np.maximum(canvas.near, 1e-4) * light.haze))[..., None]
    colour = np.where(solid, light.skyline + (canvas.colour - light.skyline) * clear, canvas.colour)
    colour = cv2.resize(colour.astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    label = canvas.label[FINE // 2 :: FINE, FINE // 2 :: FINE].copy()
    if rng.random() < 0.35:
        _bonnet(colour, label, rng)
    colour += 0.45 * cv2.GaussianBlur(np.maximum(colour - 225, 0), (0, 0), 7)
    across, down = np.linspace(-1, 1, WIDTH, dtype=np.float32), np.linspace(-1, 1, HEIGHT, dtype=np.float32)[:, None]
    colour *= (1.03 - 0.14 * (across**2 + down**2) ** 1.2)[..., None]
    colour = 255 * (colour.clip(0) / 255) ** rng.uniform(0.85, 1.1)
    wanted = rng.uniform(82, 102) if light.lamps > 0.3 else rng.uniform(98, 130)
    colour *= (wanted / np.median(colour)) ** 0.8 * rng.uniform(0.92, 1.08, 3)
    colour = cv2.GaussianBlur(colour.astype(np.float32), (0, 0), rng.uniform(0.5, 1.0))
    colour *= 1 + rng.uniform(0.06, 0.15) * tile(rng, HEIGHT, WIDTH, cell=3)[..., None]
    colour += rng.uniform(3, 9) * rng.standard_normal(colour.shape, dtype=np.float32)
    over = np.maximum(colour - 215, 0)
    colour = np.minimum(colour, 215) + 40 * (1 - np.exp(-over / 40))  # a soft shoulder instead of clipping
    return colour.clip(0, 255).astype(np.uint8), label


def _bonnet(colour: Array, label: Array, rng: Rng) -> None:
    """The bonnet of the car that carries the camera."""
    across = np.linspace(-1, 1, WIDTH)
    edge = HEIGHT - rng.uniform(10, 24) * (1 - 0.35 * across**4)
    below = np.arange(HEIGHT)[:, None] - edge[None, :]
    inside = below > 0
    gloss = rng.uniform(30, 130) * (1.25 - 0.5 * np.clip(below / 20, 0, 1))
    gloss *= 1 + 0.4 * tile(rng, HEIGHT, WIDTH, cell=90)
    colour[inside] = (gloss[..., None] * rng.uniform(0.9, 1.1, 3))[inside]
    label[inside] = Label.EGO_VEHICLE
