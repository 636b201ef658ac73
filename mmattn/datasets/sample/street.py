"""The ground plan of a street: road, sidewalks, verges, and the lots behind them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

Rng = np.random.Generator
FAR = 130.0  # metres; the street ends here


@dataclass(frozen=True)
class Lot:
    """A stretch along one side of the street, from ``start`` to ``end`` metres ahead.

    Args:
        use: "building", "garden", "wall" or "crossing".
        height: How high it stands, for the shadow it casts.
    """

    use: str
    start: float
    end: float
    height: float


@dataclass(frozen=True)
class Street:
    """Ground plan; the middle of the road is x = 0.

    Args:
        road: Half the width of the road.
        sidewalk: Width of the sidewalks.
        verge: Width of the grass strip between the road and each sidewalk, left and right; 0 is none.
        sides: Lots on the left and on the right, from near to far.
        zebra: Distance of the pedestrian crossing, or None.
        rails: x of the middle of the tram track, or None.
        lane: Width of a lane.
    """

    road: float
    sidewalk: float
    verge: tuple[float, float]
    sides: tuple[list[Lot], list[Lot]]
    zebra: float | None
    rails: float | None
    lane: float

    def front(self, side: int) -> float:
        """Distance from the middle of the road to the building line; side 0 is left, 1 is right."""
        return self.road + self.verge[side] + self.sidewalk


def draw_street(rng: Rng) -> Street:
    """A ground plan with lots on both sides."""
    lane = rng.uniform(2.8, 3.3)
    road = lane + (rng.uniform(2.0, 2.3) if rng.random() < 0.35 else rng.uniform(0.1, 0.6))
    verge = tuple(rng.uniform(1.0, 2.4) if rng.random() < 0.5 else 0.0 for _ in range(2))
    return Street(
        road=road,
        sidewalk=rng.uniform(2.2, 3.8),
        verge=(verge[0], verge[1]),
        sides=(list(_lots(rng)), list(_lots(rng))),
        zebra=rng.uniform(5, 13) if rng.random() < 0.4 else None,
        rails=float(rng.choice([-lane / 2, -lane / 2, lane / 2])) if rng.random() < 0.5 else None,
        lane=lane,
    )


def _lots(rng: Rng) -> Iterator[Lot]:
    z, height = rng.uniform(-6, 0), rng.uniform(7, 15)
    share = rng.dirichlet([1.6, 2.4, 1.8]) * 0.92
    while z < FAR:
        use = str(rng.choice(["building", "garden", "wall", "crossing"], p=[*share, 0.08]))
        length = rng.uniform(6, 9) if use == "crossing" else rng.uniform(8, 20)
        tall = height * rng.uniform(0.75, 1.3)
        yield Lot(use, z, z + length, tall if use == "building" else 1.6)
        z += length
