"""Bottom-up saliency: what stands out of an image by intensity, colour and orientation, with nothing learned.

Paper   Itti, Koch, Niebur: A Model of Saliency-Based Visual Attention for Rapid Scene Analysis, TPAMI 20(11), 1998.

    I = (r + g + b) / 3,  and R, G, B, Y broadly tuned to a colour, of r, g, b / I where I > max I / 10
    I(c, s)     = |I(c) - I(s)|                                     c in 2, 3, 4 and s = c + 3, c + 4    eq. 1
    RG(c, s)    = |(R - G)(c) - (R - G)(s)|                                                              eq. 2
    BY(c, s)    = |(B - Y)(c) - (B - Y)(s)|                                                              eq. 3
    O(c, s, t)  = |O(c, t) - O(s, t)|                               t in 0, 45, 90, 135 degrees          eq. 4
    N(m)        = m (1 - mean of the local maxima of m but the greatest)^2, m scaled to a maximum of 1
    C_I = sum N(I),  C_C = sum N(RG) + N(BY),  C_O = sum over t of N(sum N(O)),  at level 4              eq. 5 to 7
    S = (N(C_I) + N(C_C) + N(C_O)) / 3                                                                   eq. 8

    Level 0 is the image, each level half as large as the one before.

Differs In print the surround of eq. 2 and 3 has the other sign, under which red on green would cancel instead of
        standing out. O is the modulus of an even and an odd Gabor filter, so that the phase of an edge does not matter.
        Images with a side below 256 are enlarged first: level 8 would be less than a pixel. The sequence of glances
        that the authors simulate on S is left out.
"""

from collections.abc import Sequence
from itertools import product

import cv2
import numpy as np

CENTRES, DELTAS, ANGLES = (2, 3, 4), (3, 4), (0, 45, 90, 135)
LEVELS = max(CENTRES) + max(DELTAS) + 1
LEVEL = 4  # at which the maps are added up
LEAST, MOST = 256, 4096  # pixels of the shorter side, for every level to exist, and of the longer one once enlarged
Pyramid = Sequence[np.ndarray]


def saliency(image: np.ndarray) -> np.ndarray:
    """How much each place stands out.

    Args:
        image: (h, w, 3) uint8, red green blue.

    Returns:
        About (h / 16, w / 16), float32, from 0 to 1; 0 everywhere where nothing stands out.
    """
    pixels = _enlarged(image.astype(np.float32) / 255)
    intensity = pixels.mean(axis=2)
    bright = intensity > intensity.max() / 10
    hue = np.where(bright[..., None], pixels / np.maximum(intensity, 1e-6)[..., None], 0)
    r, g, b = np.moveaxis(hue, 2, 0)
    red, green, blue = r - (g + b) / 2, g - (r + b) / 2, b - (r + g) / 2
    yellow = (r + g) / 2 - np.abs(r - g) / 2 - b
    red, green, blue, yellow = (np.maximum(colour, 0) for colour in (red, green, blue, yellow))

    levels = _pyramid(intensity)
    of_intensity = _conspicuous(levels)
    of_colour = _conspicuous(_pyramid(red - green)) + _conspicuous(_pyramid(blue - yellow))
    of_orientation = sum(_promoted(_conspicuous([_oriented(level, angle) for level in levels])) for angle in ANGLES)
    return _to_one(_promoted(of_intensity) + _promoted(of_colour) + _promoted(of_orientation))


def _enlarged(pixels: np.ndarray) -> np.ndarray:
    h, w = pixels.shape[:2]
    factor = min(LEAST / min(h, w), MOST / max(h, w))
    if factor <= 1:
        return pixels
    return cv2.resize(pixels, (round(w * factor), round(h * factor)), interpolation=cv2.INTER_LINEAR)


def _pyramid(x: np.ndarray) -> Pyramid:
    levels = [x]
    while len(levels) < LEVELS:
        levels.append(_halved(levels[-1]))
    return levels


def _halved(x: np.ndarray) -> np.ndarray:
    """Blurred and halved; a new pixel lies between four old ones: on every second one, a side would be favoured."""
    blurred = cv2.GaussianBlur(x, (5, 5), 0, borderType=cv2.BORDER_REFLECT)
    h, w = x.shape
    return cv2.resize(blurred, ((w + 1) // 2, (h + 1) // 2), interpolation=cv2.INTER_LINEAR)


def _oriented(x: np.ndarray, angle: int) -> np.ndarray:
    """Modulus of the response to gratings whose stripes lie at an angle, of a period of 7 pixels."""
    parts = []
    for phase in (0, np.pi / 2):
        kernel = cv2.getGaborKernel((9, 9), 7 / 3, np.deg2rad(angle), 7, 1, phase, cv2.CV_32F)
        kernel -= kernel.mean()
        parts.append(cv2.filter2D(x, cv2.CV_32F, kernel / np.linalg.norm(kernel), borderType=cv2.BORDER_REFLECT))
    return np.hypot(*parts)


def _conspicuous(levels: Pyramid) -> np.ndarray:
    """Sum over the pairs of a centre and its surround of their difference, promoted."""
    total = np.zeros_like(levels[LEVEL])
    for c, delta in product(CENTRES, DELTAS):
        centre = levels[c]
        surround = cv2.resize(levels[c + delta], centre.shape[::-1], interpolation=cv2.INTER_LINEAR)
        contrast = _promoted(np.abs(centre - surround))
        for _ in range(c, LEVEL):
            contrast = _halved(contrast)
        total += contrast
    return total


def _promoted(x: np.ndarray) -> np.ndarray:
    """N: one peak alone stays, many alike vanish."""
    x = _to_one(x)
    peaks = np.sort(x[(x >= cv2.dilate(x, np.ones((3, 3), np.uint8))) & (x > 0)])[:-1]
    return x * (1 - (peaks.mean() if len(peaks) else 0)) ** 2


def _to_one(x: np.ndarray) -> np.ndarray:
    greatest = float(x.max())
    return x / greatest if greatest > 1e-6 else np.zeros_like(x)
