"""What stands beside the road: houses, walls, fences, plants, poles, lights and signs."""

import numpy as np

from . import bikes, buildings, furniture, plants
from .canvas import Face
from .stage import UP, Stage
from .street import FAR, Lot

TOWARDS = np.array([0.0, 0.0, -1.0])


def furnish(stage: Stage) -> None:
    """Put up both sides of the street, and what closes it."""
    for side, sign in enumerate((-1, 1)):
        front = stage.street.front(side)
        for lot in stage.street.sides[side]:
            if lot.end > 0.8 * stage.sight(front):
                _build(stage, sign, sign * front, lot)
        if stage.some(0.6):
            _plant_trees(stage, sign, stage.street.verge[side])
        kerb = sign * (stage.street.road + stage.rng.uniform(0.35, 0.6))
        _lamps(stage, sign, kerb)
        for _ in range(int(stage.rng.integers(1, 4))):
            _signs(stage, kerb + sign * stage.rng.uniform(0, 0.5))
        if stage.some(0.75):
            _traffic_lights(stage, sign, kerb)
        _bollards_and_bins(stage, sign, kerb, front)
        _parked_bikes(stage, sign * (stage.street.road + stage.street.verge[side] + stage.rng.uniform(0.4, 1.2)))
    _close(stage)


def _build(stage: Stage, sign: int, x: float, lot: Lot) -> None:
    rng, length, scale = stage.rng, lot.end - lot.start, min(32.0, stage.detail(lot.start))
    if lot.use == "building":
        _house(stage, sign, x, lot.start, (length, 12, lot.height), scale, shop=stage.some(0.45))
    elif lot.use != "crossing":
        height = rng.uniform(1.8, 3.4) if lot.use == "wall" else rng.uniform(1.3, 2.3)
        barrier = buildings.wall if lot.use == "wall" else plants.hedge if stage.some(0.08) else buildings.fence
        sprite = barrier(rng, length, height, scale=scale)
        start, along = np.array([x, 0, lot.start]), np.array([0, 0, length])
        stage.build([Face(sprite, start, along, UP * height, np.array([-sign, 0.0, 0.0]))])
        for _ in range(int(length / 4) + 1):
            away, z = sign * rng.uniform(2, 9), rng.uniform(lot.start, lot.end)
            _plant(stage, x + away, z, rng.uniform(4, 9) if stage.some(0.55) else 0.0)
        if stage.some(0.5):
            away, size = sign * rng.uniform(10, 14), (length * 0.8, 10, rng.uniform(6, 11))
            _house(stage, sign, x + away, lot.start + 1, size, min(10, scale), shop=False)


def _house(
    stage: Stage, sign: int, x: float, z: float, size: tuple[float, float, float], scale: float, *, shop: bool
) -> None:
    """A block along the street with a facade, a side wall towards the camera and at times a pitched roof."""
    rng, (length, depth, height) = stage.rng, size
    colour = buildings.wall_colour(rng)
    corner, along, inward = np.array([x, 0, z]), np.array([0, 0, length]), np.array([-sign, 0.0, 0.0])
    front = buildings.facade(rng, stage.light, length, height, colour=colour, shop=shop, scale=scale)
    stage.build([Face(sprite, corner, along, UP * height, inward) for sprite in front])
    gable = buildings.gable(rng, depth, height, colour, scale=min(16, scale))
    stage.build([Face(gable, corner, -inward * depth, UP * height, TOWARDS)])
    if stage.some(0.5):
        back, up = 3.5, rng.uniform(2, 4)
        slope = np.hypot(back, up)
        normal = np.array([-sign * up, back, 0]) / slope
        roof = buildings.roof(rng, length, slope, scale=min(14, scale))
        stage.build([Face(roof, corner + UP * height, along, np.array([sign * back, up, 0]), normal)])


def _plant(stage: Stage, x: float, z: float, height: float) -> None:
    """A tree, or, where the height is 0, a bush."""
    kind = "bush" if not height else "conifer" if stage.some(0.2) else "tree"
    sprite = plants.plant(stage.rng, kind)
    height = height or stage.rng.uniform(0.8, 1.7)
    h, w = sprite.texture.shape[:2]
    stage.stand([sprite], x, z, (height * w / h, height))


def _plant_trees(stage: Stage, sign: int, verge: float) -> None:
    rng, x = stage.rng, sign * (stage.street.road + max(0.8, verge * 0.6))
    z, step, height = stage.sight(x) * rng.uniform(1.0, 1.8), rng.uniform(7, 14), rng.uniform(5, 8.5)
    while z < FAR * 0.7:
        _plant(stage, x, z, height * rng.uniform(0.85, 1.15))
        z += step * rng.uniform(0.8, 1.3)


def _close(stage: Stage) -> None:
    """Houses and trees across the far end."""
    rng, x = stage.rng, -70.0
    while x < 70:
        width, height = rng.uniform(9, 16), rng.uniform(6, 16)
        if stage.some(0.55):
            colour = buildings.wall_colour(rng)
            front = buildings.facade(rng, stage.light, width, height, colour=colour, shop=False, scale=6)
            stage.stand(front, x, FAR + 5, (width, height))
        else:
            _plant(stage, x, FAR, rng.uniform(8, 15))
            _plant(stage, x + 5, FAR - 4, rng.uniform(6, 12))
        x += width * 0.95


def _lamps(stage: Stage, sign: int, kerb: float) -> None:
    rng = stage.rng
    z, step, height = stage.sight(kerb) * rng.uniform(1.0, 1.6), rng.uniform(14, 24), rng.uniform(5.5, 8)
    for _ in range(4):
        thick = rng.uniform(0.18, 0.28)
        stage.stand([furniture.pole(rng, thick, height)], kerb, z, (thick, height))
        arm = furniture.lamp(lit=stage.light.lamps > 0.2)
        stage.stand(arm, kerb - sign * 1.1, z, (-sign * 2.2, 0.9), base=height - 0.1)
        z += step


def _signs(stage: Stage, x: float) -> None:
    rng, low = stage.rng, stage.rng.uniform(1.9, 2.5)
    z = stage.sight(x) * rng.uniform(1.05, 1.8)
    stage.stand([furniture.pole(rng, 0.12, low + 0.9)], x, z, (0.12, low + 0.9))
    for _ in range(int(rng.integers(1, 3))):
        sprite, size = furniture.sign(rng)
        stage.stand([sprite], x, z - 0.06, size, turn=rng.uniform(-0.4, 0.4), base=low)
        low += size[1] + 0.05


def _traffic_lights(stage: Stage, sign: int, x: float) -> None:
    rng, scale = stage.rng, stage.rng.uniform(1.15, 1.5)
    z, size = stage.sight(x) * rng.uniform(1.05, 1.7), (0.5 * scale, 1.35 * scale)
    stage.stand([furniture.pole(rng, 0.16, 3.6)], x, z, (0.16, 3.6))
    for base in (2.4,) if stage.some(0.6) else (2.2, 3.7):
        stage.stand(furniture.traffic_light(rng), x, z - 0.1, size, base=base, turn=rng.uniform(-0.4, 0.4))
    if stage.some(0.35):  # an arm over the road
        reach = rng.uniform(2.5, 4)
        stage.stand([furniture.pole(rng, 0.18, 5.6)], x, z, (0.18, 5.6))
        stage.stand([furniture.pole(rng, reach, 0.14)], x - sign * reach / 2, z, (reach, 0.14), base=5.4)
        stage.stand(furniture.traffic_light(rng), x - sign * reach, z - 0.1, size, base=4.4)


def _bollards_and_bins(stage: Stage, sign: int, kerb: float, front: float) -> None:
    rng, x = stage.rng, kerb + sign * 0.2
    for i in range(int(rng.integers(3, 7)) if stage.some(0.3) else 0):
        stage.stand([furniture.pole(rng, 0.16, 0.95)], x, stage.sight(x) * 1.1 + 1.8 * i, (0.16, 0.95))
    for _ in range(int(rng.integers(0, 3))):
        sprite, size = furniture.bin_or_box(rng)
        x = sign * (front - rng.uniform(0.3, 0.8))
        stage.stand([sprite], x, stage.sight(x) * rng.uniform(1.1, 2), size)


def _parked_bikes(stage: Stage, x: float) -> None:
    rng = stage.rng
    for make, share in ((bikes.bicycle, 0.6), (bikes.motorcycle, 0.5)):
        z = stage.sight(x) * rng.uniform(1.0, 1.6)
        for i in range(int(rng.integers(1, 4)) if stage.some(share) else 0):
            sprites, size = make(rng, ridden=False)
            stage.stand(sprites, x, z + 0.9 * i, stage.facing(*size), turn=rng.uniform(-0.7, 0.7))
