"""Bottom-up saliency: what pops out for people pops out here."""

import cv2
import numpy as np
import pytest

from mmattn.visualization.saliency import _promoted, saliency

CELL, ROWS, ODD = 64, 8, (5, 2)


def bars(colour: tuple[int, int, int] = (40, 150, 40), lean: tuple[int, int] = (0, 16)) -> np.ndarray:
    """Upright green bars, and one that has another colour or leans."""
    image = np.full((ROWS * CELL, ROWS * CELL, 3), 190, np.uint8)
    for row in range(ROWS):
        for column in range(ROWS):
            (y, x), odd = ((row + 0.5) * CELL, (column + 0.5) * CELL), (row, column) == ODD
            dx, dy = lean if odd else (0, 16)
            ends = [(int(x + sign * dx), int(y + sign * dy)) for sign in (-1, 1)]
            cv2.line(image, *ends, colour if odd else (40, 150, 40), 8)
    return image


@pytest.mark.parametrize("odd", [{"colour": (190, 40, 40)}, {"lean": (11, 11)}], ids=["red among green", "leaning"])
def test_the_odd_one_pops_out(odd: dict) -> None:
    found = saliency(bars(**odd))
    cells = found.reshape(ROWS, CELL // 16, ROWS, CELL // 16).max((1, 3))
    assert np.unravel_index(cells.argmax(), cells.shape) == ODD
    others = np.delete(cells.ravel(), ODD[0] * ROWS + ODD[1])
    assert np.median(others) < 0.7
    alike = saliency(bars())[16:24, 8:16]
    assert alike.max() < 2 * np.median(alike), "with nothing odd, the middle is all alike"


def test_promotion_by_hand() -> None:
    """Local maxima 4, 2 and 1, as shares 1, 0.5 and 0.25: the factor is (1 - 0.375)^2."""
    x = np.zeros((7, 7), np.float32)
    x[1, 1], x[1, 5], x[5, 3], x[5, 4] = 4, 2, 1, 0.5
    np.testing.assert_allclose(_promoted(x), x / 4 * 0.625**2, rtol=1e-6)
    alone = np.where(x == 4, x, 0)
    np.testing.assert_allclose(_promoted(alone), alone / 4)
    assert not _promoted(np.ones((5, 5), np.float32)).any(), "all alike"


def test_axes_are_alike() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 420, 3), dtype=np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), 3)
    turned = saliency(np.ascontiguousarray(image.transpose(1, 0, 2)))
    np.testing.assert_allclose(turned.T, saliency(image), atol=1e-4)


def test_brightness_of_a_hue_does_not_matter_much() -> None:
    dark = (bars(colour=(190, 40, 40)) // 2).astype(np.uint8)
    assert np.corrcoef(saliency(dark).ravel(), saliency(bars(colour=(190, 40, 40))).ravel())[0, 1] > 0.99


@pytest.mark.parametrize("size", [(1, 1), (33, 57), (4000, 200), (1, 3000), (256, 512)])
def test_every_size(size: tuple[int, int]) -> None:
    found = saliency(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    assert found.dtype == np.float32
    assert found.max() == (1 if max(size) > 1 else 0)
    assert found.min() >= 0
    assert not saliency(np.full((*size, 3), 90, np.uint8)).any()
