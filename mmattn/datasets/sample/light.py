"""Weather and hour: where the light comes from and which colour it has."""

from dataclasses import dataclass
from math import cos, radians, sin

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Light:
    """Light of one picture; colours are factors of red, green and blue, or 0..255 for the sky.

    Args:
        sun: Unit vector towards the sun.
        direct: Colour of sunlight; zero when the sky is covered.
        ambient: Colour of the light in the shade.
        zenith: Sky far up.
        skyline: Sky at the horizon, and haze.
        clouds: Share of the sky under clouds, 0 to 1.
        haze: Distance in metres at which haze takes 63 %.
        lamps: Share of windows and lamps that are lit.
    """

    sun: Array
    direct: Array
    ambient: Array
    zenith: Array
    skyline: Array
    clouds: float
    haze: float
    lamps: float

    def shade(self, normal: Array) -> Array:
        """Colour factor of a surface that faces ``normal``."""
        return self.ambient * (0.9 + 0.1 * normal[1]) + self.direct * max(0.0, float(normal @ self.sun))


def draw_light(rng: np.random.Generator) -> Light:
    """A clear day, thin clouds, a covered sky, a low sun, or dusk."""
    hour = rng.choice(["clear", "clear", "cloudy", "covered", "low", "low", "dusk"])
    height = radians(rng.uniform(10, 22) if hour == "low" else rng.uniform(28, 60))
    azimuth = radians(rng.uniform(0, 360))
    sun = np.array([sin(azimuth) * cos(height), sin(height), cos(azimuth) * cos(height)])
    direct, ambient, zenith, skyline, clouds, haze, lamps = {
        "clear": ((0.74, 0.69, 0.60), (0.52, 0.56, 0.64), (62, 112, 190), (186, 208, 228), 0.3, 320, 0.0),
        "cloudy": ((0.42, 0.40, 0.37), (0.66, 0.68, 0.72), (116, 146, 188), (206, 214, 222), 0.7, 220, 0.0),
        "covered": ((0.0, 0.0, 0.0), (0.88, 0.90, 0.94), (168, 176, 186), (210, 214, 217), 1.0, 140, 0.1),
        "low": ((1.05, 0.72, 0.42), (0.56, 0.53, 0.60), (92, 118, 172), (246, 202, 150), 0.5, 170, 0.25),
        "dusk": ((0.0, 0.0, 0.0), (0.50, 0.52, 0.66), (48, 60, 110), (214, 150, 130), 0.6, 200, 0.55),
    }[hour]
    jitter = rng.uniform(0.9, 1.1, 3)
    return Light(
        sun=sun,
        direct=np.array(direct) * jitter,
        ambient=np.array(ambient) * rng.uniform(0.92, 1.08),
        zenith=np.array(zenith) * rng.uniform(0.9, 1.1, 3),
        skyline=np.array(skyline) * rng.uniform(0.93, 1.04, 3),
        clouds=clouds,
        haze=haze * rng.uniform(0.7, 1.4),
        lamps=lamps,
    )
