"""The plan of a street: which lots, vehicles, people and furniture stand where."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np

from . import buildings, furniture, people, plants, vehicles
from .camera import Camera
from .canvas import Face
from .ground import Lot, Street
from .labels import Label
from .light import Light
from .sketch import Sketch, Sprite
from .vehicles import Vehicle

Rng = np.random.Generator
Array = np.ndarray
UP = np.array([0.0, 1.0, 0.0])
FAR = 130.0  # metres; the street ends here


@dataclass
class Plan:
    """Faces to paint, and flat patches of shade under vehicles.

    Args:
        rng: Draws everything.
        camera: Tells from which distance a thing at the roadside is in view.
        street: Ground plan.
        light: Whether lamps are lit.
    """

    rng: Rng
    camera: Camera
    street: Street
    light: Light
    faces: list[Face] = field(default_factory=list)
    movable: list[Face] = field(default_factory=list)
    patches: list[Face] = field(default_factory=list)

    def furnish(self) -> None:
        """Put up everything."""
        for side in (0, 1):
            for lot in self.street.sides[side]:
                self._build(side, lot)
            self._plant_trees(side)
            self._furnish_sidewalk(side)
        self._close_street()
        self._traffic()
        self._riders()
        self._people()

    def stand(self, sprites: list[Sprite], x: float, z: float, width: float, height: float, *, turn: float = 0.0, base: float = 0.0,
              off: float = 0.0) -> None:  # fmt: skip
        """Put up a flat cut-out, its lower edge ``base`` above the ground, turned out of the image plane by ``turn``."""
        across = np.array([np.cos(turn), 0.0, np.sin(turn)])
        normal = np.array([np.sin(turn), 0.8, -np.cos(turn)])
        origin = np.array([x, base, z]) - across * (width / 2 - off)
        new = [Face(s, origin, across * width, UP * height, normal / np.linalg.norm(normal)) for s in sprites]
        self.faces += new
        self.movable += new[-1:] if not new[-1].sprite.glows else new[:1]

    def sight(self, x: float) -> float:
        """Distance at which a point of the street at ``x`` comes into view."""
        return max(3.5, abs(x - self.camera.x) * 2 * self.camera.focal / self.camera.width)

    def _detail(self, z: float) -> float:
        """Pixels per metre worth drawing at a distance of ``z`` metres and beyond."""
        return float(np.clip(1.2 * self.camera.focal / max(z, 1), 7, 36))

    def some(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    # -- along the street ---------------------------------------------------------------------------------------

    def _build(self, side: int, lot: Lot) -> None:
        rng, sign, x = self.rng, (-1, 1)[side], (-1, 1)[side] * self.street.front(side)
        start, along = np.array([x, 0.0, lot.start]), np.array([0.0, 0.0, lot.end - lot.start])
        inward = np.array([-sign, 0.0, 0.0])
        length, fine = lot.end - lot.start, self._detail(lot.start)
        if lot.use == "building":
            colour = buildings.wall_colour(rng)
            front = buildings.facade(
                rng, self.light, length, lot.height, colour=colour, shop=self.some(0.45), scale=fine
            )
            self.faces += [Face(s, start, along, UP * lot.height, inward) for s in front]
            depth = np.array([sign * 12.0, 0.0, 0.0])
            towards = np.array([0.0, 0.0, -1.0])
            self.faces.append(
                Face(buildings.gable(rng, 12, lot.height, colour, scale=fine), start, depth, UP * lot.height, towards)
            )
            if self.some(0.6):
                tilt = np.array([sign * 3.5, rng.uniform(2.0, 4.0), 0.0])
                normal = np.array([-sign * tilt[1], 3.5, 0.0]) / np.hypot(tilt[1], 3.5)
                eaves = start + UP * lot.height
                self.faces.append(
                    Face(buildings.roof(rng, length, float(np.hypot(*tilt[:2]))), eaves, along, tilt, normal)
                )
        elif lot.use in ("garden", "wall"):
            tall = rng.uniform(1.7, 3.2) if lot.use == "wall" else rng.uniform(1.1, 1.9)
            sprite = (
                buildings.wall(rng, length, tall, scale=fine)
                if lot.use == "wall"
                else buildings.fence(rng, length, tall, scale=fine)
            )
            if lot.use == "garden" and self.some(0.15):
                sprite = plants.hedge(rng, length, tall, scale=fine)
            self.faces.append(Face(sprite, start, along, UP * tall, inward))
            for _ in range(int(length / 4) + 1):
                away, z = sign * rng.uniform(2, 9), rng.uniform(lot.start, lot.end)
                self._green(x + away, z, rng.uniform(4, 9) if self.some(0.55) else 0.0)
            if self.some(0.5):
                self._house(sign, x + sign * rng.uniform(10, 14), lot)

    def _house(self, sign: int, x: float, lot: Lot) -> None:
        height, length = self.rng.uniform(6, 11), (lot.end - lot.start) * 0.8
        colour = buildings.wall_colour(self.rng)
        start = np.array([x, 0.0, lot.start + 1])
        front = buildings.facade(self.rng, self.light, length, height, colour=colour, shop=False, scale=10)
        self.faces += [
            Face(s, start, np.array([0, 0, length]), UP * height, np.array([-sign, 0.0, 0.0])) for s in front
        ]
        side = buildings.gable(self.rng, 10, height, colour, scale=10)
        self.faces.append(Face(side, start, np.array([sign * 10.0, 0, 0]), UP * height, np.array([0.0, 0.0, -1.0])))

    def _green(self, x: float, z: float, height: float) -> None:
        kind = "bush" if not height else "conifer" if self.some(0.2) else "tree"
        sprite = plants.plant(self.rng, kind)
        height = height or self.rng.uniform(0.8, 1.7)
        h, w = sprite.texture.shape[:2]
        self.stand([sprite], x, z, height * w / h, height)

    def _plant_trees(self, side: int) -> None:
        rng, street, sign = self.rng, self.street, (-1, 1)[side]
        if not self.some(0.6):
            return
        x = sign * (street.road + max(0.8, street.verge[side] * 0.6))
        z, step, height = self.sight(x) * rng.uniform(1.0, 1.8), rng.uniform(7, 14), rng.uniform(5, 8.5)
        while z < FAR * 0.7:
            self._green(x, z, height * rng.uniform(0.85, 1.15))
            z += step * rng.uniform(0.8, 1.3)

    def _close_street(self) -> None:
        """Houses and trees across the far end."""
        x = -70.0
        while x < 70:
            width, height = self.rng.uniform(9, 16), self.rng.uniform(6, 16)
            if self.some(0.55):
                front = buildings.facade(
                    self.rng, self.light, width, height, colour=buildings.wall_colour(self.rng), shop=False, scale=6
                )
                self.stand(front, x, FAR + 5, width, height)
            else:
                self._green(x, FAR, self.rng.uniform(8, 15))
                self._green(x + 5, FAR - 4, self.rng.uniform(6, 12))
            x += width * 0.95

    def _furnish_sidewalk(self, side: int) -> None:
        rng, street, sign = self.rng, self.street, (-1, 1)[side]
        kerb = sign * (street.road + rng.uniform(0.35, 0.6))
        z, step, height = self.sight(kerb) * rng.uniform(1.0, 1.6), rng.uniform(14, 24), rng.uniform(5.5, 8)
        for _ in range(4):
            thick = rng.uniform(0.18, 0.28)
            self.stand([furniture.pole(rng, height, thick)], kerb, z, thick, height)
            arm = furniture.lamp(rng, lit=self.light.lamps > 0.2)
            self.stand(arm, kerb, z, -sign * 2.2, 0.9, base=height - 0.1, off=-sign * 1.1)
            z += step
        for _ in range(int(rng.integers(1, 4))):
            self._sign(kerb + sign * rng.uniform(0, 0.5))
        if self.some(0.65):
            self._traffic_light(kerb, sign)
        if self.some(0.3):
            x = kerb + sign * 0.2
            for i in range(int(rng.integers(3, 7))):
                self.stand([furniture.pole(rng, 0.95, 0.16)], x, self.sight(x) * 1.1 + 1.8 * i, 0.16, 0.95)
        for _ in range(int(rng.integers(0, 3))):
            sprite, w, h = furniture.bin_or_box(rng)
            x = sign * (street.front(side) - rng.uniform(0.3, 0.8))
            self.stand([sprite], x, self.sight(x) * rng.uniform(1.1, 2), w, h)
        for make, width, share in ((people.bicycle, 1.9, 0.6), (people.motorcycle, 2.2, 0.5)):
            x = sign * (street.road + street.verge[side] + rng.uniform(0.4, 1.2))
            z = self.sight(x) * rng.uniform(1.1, 1.9)
            for i in range(int(rng.integers(1, 4)) if self.some(share) else 0):
                self.stand(
                    make(rng, ridden=False), x, z + 0.9 * i, self._facing(width), 2.0, turn=rng.uniform(-0.7, 0.7)
                )

    def _facing(self, width: float) -> float:
        """Looking right, or, with a negative width, left."""
        return width if self.some(0.5) else -width

    def _sign(self, x: float) -> None:
        z, low = self.sight(x) * self.rng.uniform(1.05, 2.4), self.rng.uniform(1.9, 2.5)
        count = int(self.rng.integers(1, 3))
        self.stand([furniture.pole(self.rng, low + 0.9, 0.12)], x, z, 0.12, low + 0.9)
        for _ in range(count):
            sprite, w, h = furniture.sign(self.rng)
            self.stand([sprite], x, z - 0.06, w, h, turn=self.rng.uniform(-0.4, 0.4), base=low)
            low += h + 0.05

    def _traffic_light(self, x: float, sign: int) -> None:
        z, rng = self.sight(x) * self.rng.uniform(1.05, 2.2), self.rng
        self.stand([furniture.pole(rng, 3.6, 0.16)], x, z, 0.16, 3.6)
        scale = rng.uniform(1.0, 1.25)
        for base in (2.4,) if self.some(0.6) else (2.2, 3.7):
            self.stand(
                furniture.traffic_light(rng),
                x,
                z - 0.1,
                0.5 * scale,
                1.35 * scale,
                base=base,
                turn=rng.uniform(-0.4, 0.4),
            )
        if self.some(0.35):  # an arm over the road
            reach = rng.uniform(2.5, 4)
            self.stand([furniture.pole(rng, 5.6, 0.18)], x, z, 0.18, 5.6)
            self.stand([furniture.pole(rng, 0.14, reach)], x - sign * reach / 2, z, reach, 0.14, base=5.4)
            self.stand(furniture.traffic_light(rng), x - sign * reach, z - 0.1, 0.5 * scale, 1.35 * scale, base=4.4)

    # -- on the road --------------------------------------------------------------------------------------------

    def _traffic(self) -> None:
        """Fill the lanes; one or two large vehicles come first."""
        rng, street = self.rng, self.street
        lamps = self.light.lamps > 0.15
        parked = street.road - 1.15
        free = street.road > street.lane + 1.9
        lanes = {street.lane / 2: rng.uniform(8, 20), -street.lane / 2: rng.uniform(4, 14)}
        if free:
            lanes |= {parked: self.sight(parked) + rng.uniform(0, 5), -parked: self.sight(parked) + rng.uniform(0, 8)}
        if street.rails is not None:
            x = min(lanes, key=lambda lane: abs(lane - street.rails))
            lanes[x] = self._drive(vehicles.tram(rng, lamps=lamps), street.rails, max(lanes[x], rng.uniform(7, 14)), x)
        large = [make for make in (vehicles.truck, vehicles.bus) if self.some(0.55)]
        for make in large or ([vehicles.truck, vehicles.bus][int(rng.integers(2))],):
            x = float(rng.choice(list(lanes)))
            lanes[x] = self._drive(make(rng, lamps=lamps), x, max(lanes[x], 9.0 if x > 0 else 6.0), x)
        for x, z in lanes.items():
            busy = rng.uniform(0.25, 0.8) if abs(x) < parked or not free else rng.uniform(0.5, 0.95)
            while z < 75:
                if self.some(busy):
                    z = self._drive(vehicles.car(rng, lamps=lamps), x, z, x)
                z += rng.uniform(0.8, 2.5) if abs(x) == parked else rng.uniform(3, 14)

    def _drive(self, vehicle: Vehicle, x: float, z: float, lane: float) -> float:
        """Put a vehicle at ``z`` metres and beyond; returns where the next one can be."""
        heading = (0.0 if lane > 0 else np.pi) + self.rng.normal(0, 0.025)
        middle = z + vehicle.length / 2
        new = vehicle.faces(x + self.rng.normal(0, 0.12), middle, heading)
        new = [face for face in new if face.normal @ (self.camera.position - face.centre) > 0]
        self.faces += new
        self.movable += new
        w, d = vehicle.width + 0.5, vehicle.length + 0.6
        flat = np.array([x - w / 2, 0.0, z - 0.3]), np.array([w, 0.0, 0.0]), np.array([0.0, 0.0, d])
        self.patches.append(Face(_SOFT, *flat, UP))
        return z + vehicle.length + 1.0

    def _riders(self) -> None:
        rng, street = self.rng, self.street
        for make, width, share in ((people.bicycle, 1.9, 0.85), (people.motorcycle, 2.2, 0.75)):
            for _ in range(1 + self.some(0.35) if self.some(share) else 0):
                x = rng.uniform(-0.75, 1) * (street.road - 0.6)
                z = max(5.0, self.sight(x)) * rng.uniform(1.05, 2.2)
                self.stand(make(rng, ridden=True), x, z, self._facing(width), 2.0, turn=rng.uniform(-0.85, 0.85))

    def _people(self) -> None:
        rng, street = self.rng, self.street
        spots: list[tuple[float, float]] = []
        for _ in range(int(rng.integers(3, 8))):
            side = int(rng.integers(2))
            x = (-1, 1)[side] * rng.uniform(street.road + street.verge[side] + 0.3, street.front(side) - 0.3)
            spots.append((x, self.sight(x) * rng.uniform(1.05, 2.6)))
            if self.some(0.35):
                spots.append((x + 0.6, spots[-1][1] + 0.3))
        if self.some(0.5):
            z = street.zebra if street.zebra is not None else rng.uniform(6, 16)
            spots += [
                (rng.uniform(-street.road, street.road), z + rng.uniform(-1, 1)) for _ in range(int(rng.integers(1, 4)))
            ]
        for x, z in spots:
            sprite, w, h = people.person(rng)
            self.stand([sprite], x, z, self._facing(w), h, turn=rng.uniform(-0.4, 0.4))


def draw_street(rng: Rng) -> Street:
    """A ground plan with lots on both sides."""
    lane = rng.uniform(3.0, 3.6)
    road = lane + (rng.uniform(2.1, 2.5) if rng.random() < 0.6 else rng.uniform(0.2, 0.8))
    verge = tuple(rng.uniform(1.0, 2.6) if rng.random() < 0.45 else 0.0 for _ in range(2))
    return Street(
        road=road,
        sidewalk=rng.uniform(1.8, 3.6),
        verge=(verge[0], verge[1]),
        sides=(list(_lots(rng)), list(_lots(rng))),
        zebra=rng.uniform(6, 18) if rng.random() < 0.4 else None,
        rails=float(rng.choice([-lane / 2, -lane / 2, lane / 2])) if rng.random() < 0.5 else None,
        lane=lane,
    )


def _lots(rng: Rng) -> Iterator[Lot]:
    z, height = rng.uniform(-6, 0), rng.uniform(7, 15)
    share = rng.dirichlet([2.2, 1.4, 1.4]) * 0.92
    while z < FAR:
        use = str(rng.choice(["building", "garden", "wall", "crossing"], p=[*share, 0.08]))
        length = rng.uniform(6, 9) if use == "crossing" else rng.uniform(8, 20)
        tall = height * rng.uniform(0.75, 1.3)
        yield Lot(use, z, z + length, tall if use == "building" else 1.6)
        z += length


def _soft_patch() -> Sprite:
    sheet = Sketch(1, 1, scale=64)
    sheet.box(0.12, 0.06, 0.88, 0.94, (0, 0, 0))
    return Sprite(cv2.GaussianBlur(sheet.pixels, (0, 0), 4), Label.UNLABELED)


_SOFT = _soft_patch()
