"""What moves: vehicles in their lanes, riders, and people on foot."""

import cv2
import numpy as np

from . import bikes, cars, coaches, people, trucks
from .canvas import Face
from .labels import Label
from .sketch import Sketch, Sprite
from .stage import UP, Stage
from .vehicle import Vehicle


def fill(stage: Stage) -> None:
    """Put vehicles, riders and people into the street."""
    _drive(stage)
    _ride(stage)
    _walk(stage)


def _drive(stage: Stage) -> None:
    """Fill the lanes; a tram and one or two large vehicles come first."""
    rng, street, lamps = stage.rng, stage.street, stage.light.lamps > 0.15
    parked = street.road - 1.15
    free: dict[float, float] = {street.lane / 2: rng.uniform(6, 16), -street.lane / 2: rng.uniform(3, 11)}
    if street.road > street.lane + 1.8:
        free |= {x: stage.sight(x) + rng.uniform(0, 6) for x in (parked, -parked)}
    if street.rails is not None:
        lane = street.rails
        free[lane] = _place(stage, coaches.tram(rng, lamps=lamps), lane, max(free[lane], rng.uniform(6, 12)))
    large = [make for make in (trucks.truck, coaches.bus) if stage.some(0.55)]
    for make in large or [rng.choice([trucks.truck, coaches.bus])]:
        lane = float(rng.choice(list(free)))
        free[lane] = _place(stage, make(rng, lamps=lamps), lane, max(free[lane], 8.0 if lane > 0 else 5.0))
    for lane, z in free.items():
        busy = rng.uniform(0.5, 0.95) if abs(lane) == parked else rng.uniform(0.25, 0.8)
        while z < 50:
            if stage.some(busy):
                z = _place(stage, cars.car(rng, lamps=lamps, scale=stage.detail(z)), lane, z)
            z += rng.uniform(0.8, 2.5) if abs(lane) == parked else rng.uniform(3, 14)


def _place(stage: Stage, vehicle: Vehicle, lane: float, z: float) -> float:
    """Put a vehicle into a lane at ``z`` metres and beyond; returns where the next one can be."""
    heading = (0.0 if lane > 0 else np.pi) + stage.rng.normal(0, 0.025)
    stage.shady += stage.build(vehicle.faces(lane + stage.rng.normal(0, 0.12), z + vehicle.length / 2, heading))
    width, length = vehicle.width + 0.5, vehicle.length + 0.6
    corner = np.array([lane - width / 2, 0, z - 0.3])
    stage.patches.append(Face(_SOFT, corner, np.array([width, 0, 0]), np.array([0, 0, length]), UP))
    return z + vehicle.length + 1.0


def _ride(stage: Stage) -> None:
    rng, road = stage.rng, stage.street.road
    for make, share in ((bikes.bicycle, 0.9), (bikes.motorcycle, 0.8)):
        for _ in range(int(rng.integers(1, 4)) if stage.some(share) else 0):
            x = rng.uniform(-0.75, 1) * (road - 0.6)
            z = max(4.5, stage.sight(x)) * rng.uniform(1.0, 1.8)
            if stage.clear(x, z, 0.3):
                sprites, size = make(rng, ridden=True)
                stage.stand(sprites, x, z, stage.facing(*size), turn=rng.uniform(-0.85, 0.85))


def _walk(stage: Stage) -> None:
    """People on the sidewalks, some in pairs, and at times some who cross the road."""
    rng, street = stage.rng, stage.street
    spots: list[tuple[float, float]] = []
    for _ in range(int(rng.integers(5, 10))):
        side = int(rng.integers(2))
        x = (-1, 1)[side] * rng.uniform(street.road + street.verge[side] + 0.3, street.front(side) - 0.3)
        spots.append((x, stage.sight(x) * rng.uniform(1.0, 1.7)))
        if stage.some(0.4):
            spots.append((x + 0.6, spots[-1][1] + 0.3))
    if stage.some(0.6):
        z = street.zebra or rng.uniform(5, 11)
        for _ in range(int(rng.integers(1, 4))):
            spots.append((rng.uniform(-street.road, street.road), z + rng.uniform(-1, 1)))
    for x, z in (spot for spot in spots if stage.clear(*spot, 0.1)):
        sprite, size = people.person(rng)
        stage.stand([sprite], x, z, stage.facing(*size), turn=rng.uniform(-0.4, 0.4))


def _soft_patch() -> Sprite:
    sheet = Sketch(1, 1, scale=64)
    sheet.box(0.12, 0.06, 0.88, 0.94, (0, 0, 0))
    return Sprite(cv2.GaussianBlur(sheet.pixels, (0, 0), 4), Label.UNLABELED)


_SOFT = _soft_patch()
