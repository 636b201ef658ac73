"""The ground and the sky: everything that is not put up in the street."""

import cv2
import numpy as np

from .canvas import Canvas
from .labels import Label
from .noise import tile
from .street import Street

Array = np.ndarray
GRID = 512  # pixels of a ground texture, which repeats
SCALE = 24  # pixels per metre of a ground texture


def paint_sky(canvas: Canvas, rng: np.random.Generator) -> None:
    light, (height, width) = canvas.light, canvas.label.shape
    up = np.clip(1 - np.arange(height) / canvas.camera.horizon, 0, 1).astype(np.float32)[:, None, None]
    sky = light.skyline + (light.zenith - light.skyline) * up**0.7
    puffs = cv2.resize(tile(rng, height // 4, width // 4, cell=int(rng.integers(16, 48)), octaves=4), (width, height))
    puffs = np.clip((puffs + light.clouds - 0.5) * 2.2, 0, 1)[..., None] * (0.25 + 0.75 * up)
    cloud = np.minimum(255, light.skyline * (0.9 + 0.35 * light.direct.mean()))
    canvas.colour[:] = sky + (cloud - sky) * puffs * 0.8


def paint_ground(canvas: Canvas, street: Street, rng: np.random.Generator) -> None:
    camera = canvas.camera
    top = int(np.ceil(camera.horizon + 1))
    rows, columns = np.mgrid[top : camera.height, 0 : camera.width].astype(np.float32)
    east, north, origin = np.array([1.0, 0, 0]), np.array([0, 0, 1.0]), np.zeros(3)
    inverse = np.linalg.inv(camera.plane(origin, east, north)).astype(np.float32)
    x, z, near = (a * columns + b * rows + c for a, b, c in inverse)
    x, z = x / near, z / near
    zone = _zones(street, x, z)
    sharp = np.clip(14 * near * camera.focal / 1000, 0.05, 1)[..., None]  # far textures blur into their mean
    colour = np.empty((*x.shape, 3), np.float32)
    usual = {Label.ROAD: _asphalt, Label.SIDEWALK: _paving, Label.TERRAIN: _grass}
    for label, material in usual.items():
        if rng.random() < 0.25:
            material = (_asphalt, _paving, _gravel)[rng.integers(3)]
        base, texture = material(rng)
        here = _look_up(texture, x, z)[..., None]
        where = zone == label
        colour[where] = (base * (1 + here * sharp))[where]
    colour *= (1 + 0.35 * _look_up(tile(rng, GRID, GRID, cell=128), x / 3, z / 3))[..., None]
    _mark(street, rng, x, z, zone, colour, sharp[..., 0])
    sunlit = 1 - _building_shadow(street, canvas.light.sun, x, z)
    up = np.array([0.0, 1.0, 0.0])
    lit, shaded = canvas.light.shade(up), canvas.light.ambient
    colour *= shaded + (lit - shaded) * sunlit[..., None]
    canvas.colour[top:], canvas.label[top:], canvas.near[top:] = colour, zone, near * 0.98
    canvas.near[top:][near < 1 / 400] = 0


def _zones(street: Street, x: Array, z: Array) -> Array:
    """Label id of each ground point."""
    zone = np.full(x.shape, Label.SIDEWALK, np.uint8)
    for side, sign in enumerate((-1, 1)):
        out = sign * x
        behind = out > street.front(side)
        for lot in street.sides[side]:
            along = (z >= lot.start) & (z < lot.end)
            if lot.use == "crossing":
                zone[along & (out > street.road)] = Label.ROAD
            elif lot.use != "building":
                zone[along & behind] = Label.TERRAIN
        kerb = (out > street.road + 0.3) & (out < street.road + street.verge[side]) & (zone == Label.SIDEWALK)
        zone[kerb] = Label.TERRAIN
    zone[np.abs(x) <= street.road] = Label.ROAD
    return zone


def _mark(
    street: Street, rng: np.random.Generator, x: Array, z: Array, zone: Array, colour: Array, sharp: Array
) -> None:
    """Kerbs, lines, a pedestrian crossing, rails, manholes and mended patches."""
    road, out = zone == Label.ROAD, np.abs(x)
    kerb = np.abs(out - street.road - 0.12) < 0.13
    colour[kerb & ~road] *= rng.uniform(1.1, 1.35)
    colour[(np.abs(out - street.road + 0.12) < 0.14) & road] *= 0.72
    for _ in range(int(rng.integers(2, 7))):
        px, pz, w, d = (
            rng.uniform(-street.road, street.road),
            rng.uniform(3, 35),
            rng.uniform(0.4, 2.2),
            rng.uniform(0.5, 6),
        )
        colour[(np.abs(x - px) < w / 2) & (np.abs(z - pz) < d / 2) & road] *= rng.uniform(0.72, 1.18)
    for _ in range(int(rng.integers(0, 4))):
        px, pz = rng.uniform(-street.road, street.road), rng.uniform(3, 25)
        colour[((x - px) ** 2 + (z - pz) ** 2 < 0.1) & road] *= 0.6
    line = np.zeros(x.shape, bool)
    middle = rng.choice(["dashed", "solid", "none"], p=[0.65, 0.2, 0.15])
    if middle != "none":
        line |= (np.abs(x) < 0.08) & ((z % 6 < 3) | (middle == "solid"))
    if rng.random() < 0.5:
        line |= (np.abs(out - street.lane - 0.1) < 0.07) & (z % 9 < 5)
    if street.zebra is not None:
        stripe = (np.abs(z - street.zebra) < 1.7) & (out < street.road - 0.3)
        line = (line & ~stripe) | (stripe & ((x + 100) % 1.0 < 0.5))
        line |= (np.abs(z - street.zebra + 2.6) < 0.2) & (x > 0) & (x < street.road - 0.3)
    paint = rng.uniform(190, 235) * np.array([1.0, 0.98, rng.choice([0.95, 0.95, 0.55])])
    worn = (0.75 + 0.5 * _look_up(tile(rng, GRID, GRID, cell=12), x, z)).clip(0, 0.95) * sharp.clip(0.4, 1)
    here = line & road
    colour[here] += ((paint - colour) * worn[..., None])[here]
    if street.rails is not None:
        apart = np.abs(np.abs(x - street.rails) - 0.72)
        colour[(apart < 0.16) & road] *= 0.75
        colour[(apart < 0.05) & road] = (150, 146, 140)


def _building_shadow(street: Street, sun: Array, x: Array, z: Array) -> Array:
    """1 where a building keeps the sun off the ground, softened to 0."""
    if abs(sun[0]) < 1e-3:
        return np.zeros(x.shape, np.float32)
    side = int(sun[0] > 0)
    away = (street.front(side) - np.sign(sun[0]) * x).clip(0)  # metres to the building line, across the street
    hit = z + away * sun[2] / abs(sun[0])
    ray = away * sun[1] / abs(sun[0])  # height of the sun ray there
    lots = street.sides[side]
    ends, heights = np.array([lot.end for lot in lots]), np.array([lot.height for lot in lots] + [0.0])
    tall = heights[np.searchsorted(ends, hit)]
    return ((tall - ray) / 0.4 + 0.5).clip(0, 1).astype(np.float32)


def _look_up(texture: Array, x: Array, z: Array) -> Array:
    columns, rows = (x * SCALE) % GRID, (z * SCALE) % GRID
    return cv2.remap(
        texture, columns.astype(np.float32), rows.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
    )


def _asphalt(rng: np.random.Generator) -> tuple[Array, Array]:
    base = rng.uniform(70, 135) * rng.uniform(0.93, 1.07, 3)
    texture = 0.3 * tile(rng, GRID, GRID, cell=2, octaves=1) + 0.3 * tile(rng, GRID, GRID, cell=32)
    if rng.random() < 0.15:
        texture += _bricks(rng, 6, 5)  # cobbles
    return base, texture


def _paving(rng: np.random.Generator) -> tuple[Array, Array]:
    base = rng.uniform(80, 165) * np.array([1.06, 1.0, 0.94]) ** rng.uniform(-0.6, 2.2)
    texture = 0.25 * tile(rng, GRID, GRID, cell=2, octaves=1) + 0.25 * tile(rng, GRID, GRID, cell=24)
    style = rng.choice(["slabs", "bricks", "plain"], p=[0.5, 0.3, 0.2])
    if style != "plain":
        texture += _bricks(rng, 16, 16) if style == "slabs" else _bricks(rng, 8, 4)
    return base, texture


def _grass(rng: np.random.Generator) -> tuple[Array, Array]:
    fresh, dry, soil = np.array([88, 118, 52]), np.array([138, 128, 78]), np.array([112, 94, 74])
    share = rng.dirichlet([1.2, 0.8, 0.5])
    base = (share[0] * fresh + share[1] * dry + share[2] * soil) * rng.uniform(0.8, 1.25)
    return base, 0.6 * tile(rng, GRID, GRID, cell=3, octaves=1) + 0.5 * tile(rng, GRID, GRID, cell=40)


def _gravel(rng: np.random.Generator) -> tuple[Array, Array]:
    base = rng.uniform(80, 150) * np.array([1.08, 1.0, 0.9]) ** rng.uniform(0.3, 1.6)
    return base, 0.5 * tile(rng, GRID, GRID, cell=3, octaves=1) + 0.4 * tile(rng, GRID, GRID, cell=40)


def _bricks(rng: np.random.Generator, width: int, height: int) -> Array:
    """Joints and uneven tones of laid stones; the sizes in pixels divide the grid about evenly."""
    rows, columns = np.mgrid[0:GRID, 0:GRID]
    course = rows // height
    shifted = columns + (course % 2) * (width // 2)
    stone = (course % 97) * 131 + shifted // width
    tone = rng.standard_normal(4096).astype(np.float32)[stone % 4096] * 0.07
    joint = (rows % height == 0) | (shifted % width == 0)
    return np.where(joint, np.float32(-0.28), tone)
