"""Smooth random fields: dirt, clouds, asphalt, leaves."""

import cv2
import numpy as np

Array = np.ndarray


def tile(rng: np.random.Generator, height: int, width: int, *, cell: int = 24, octaves: int = 3) -> Array:
    """(height, width) float32 of mean about 0 and deviation about 0.3, lumps of ``cell`` pixels and finer ones."""
    field = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        step = max(1, cell >> octave)
        grid = rng.standard_normal((height // step + 2, width // step + 2)).astype(np.float32)
        rough = cv2.resize(grid, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
        field += rough[:height, :width] * 0.5**octave
    return field * (0.3 / np.sqrt(sum(0.25**o for o in range(octaves))))
