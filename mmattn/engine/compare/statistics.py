"""Which differences are real: paired tests, over several trainings, or over the test images of one.

Over trainings, Student's paired t test: what is asked is whether another training would show the difference again. Over
images, a permutation test, which exchanges the two models' counts on images at random, and an interval from a bootstrap
over the same images: what is asked is whether other images would show it, of these two trainings alone.

Source  Good: Permutation, Parametric and Bootstrap Tests of Hypotheses, 2005. Holm: A Simple Sequentially Rejective
        Multiple Test Procedure, 1979.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

DRAWS = 10_000
LEVEL = 0.05
TOGETHER = 1000  # draws in memory


@dataclass(frozen=True)
class Difference:
    """Of one model's mIoU from another's, in points.

    Attributes:
        mean: The difference.
        low: Where its 95 % interval begins.
        high: Where that ends.
        p: How probable so large a difference is where there is none; not corrected for other tests.
        over: What it was tested over, such as ``3 seeds``.
    """

    mean: float
    low: float
    high: float
    p: float
    over: str


def iou(counts: np.ndarray) -> np.ndarray:
    """IoU in percent, NaN where a class is neither predicted nor there.

    Args:
        counts: Pixels that are both, predicted and true, by class, (..., 3, classes).

    Returns:
        (..., classes)
    """
    both, predicted, true = np.moveaxis(np.asarray(counts, dtype=float), -2, 0)
    union = predicted + true - both
    return 100 * np.divide(both, union, out=np.full_like(both, np.nan), where=union > 0)


def miou(counts: np.ndarray) -> np.ndarray:
    """Mean IoU over the classes that occur, of counts (..., 3, classes)."""
    return np.nanmean(iou(counts), axis=-1)


def over_seeds(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Paired t test of two models trained with the same seeds.

    Args:
        ours: mIoU by seed, two at least.
        theirs: Likewise, in the same order.
    """
    gaps = np.subtract(ours, theirs)
    mean, error = gaps.mean(), gaps.std(ddof=1) / np.sqrt(len(gaps))
    reach = error * stats.t.ppf(1 - LEVEL / 2, len(gaps) - 1)
    t = np.divide(abs(mean), error, out=np.array(np.inf if mean else 0.0), where=error > 0)
    p = 2 * stats.t.sf(t, len(gaps) - 1)
    return Difference(float(mean), float(mean - reach), float(mean + reach), float(p), f"{len(gaps)} seeds")


def over_images(ours: np.ndarray, theirs: np.ndarray, block: int = 1) -> Difference:
    """Permutation test and bootstrap interval of two models on the same images.

    Args:
        ours: Counts by image, (images, 3, classes); see :func:`iou`.
        theirs: Likewise, in the same order.
        block: So many images that follow each other are drawn together: frames of a video resemble their neighbours.
    """
    ours, theirs = _blocks(ours, block), _blocks(theirs, block)
    gap = miou(ours.sum(axis=0)) - miou(theirs.sum(axis=0))
    rng, n = np.random.default_rng(0), len(ours)
    drawn = [
        miou(_sums(times, ours)) - miou(_sums(times, theirs))
        for times in (rng.multinomial(n, np.full(n, 1 / n), TOGETHER) for _ in range(DRAWS // TOGETHER))
    ]
    low, high = np.nanpercentile(drawn, (50 * LEVEL, 100 - 50 * LEVEL))
    at_least, change = 0, ours - theirs
    for swapped in (rng.integers(0, 2, (TOGETHER, n)) for _ in range(DRAWS // TOGETHER)):
        moved = _sums(swapped, change)
        found = miou(ours.sum(axis=0) - moved) - miou(theirs.sum(axis=0) + moved)
        at_least += np.sum(np.abs(found) >= abs(gap) - 1e-9)
    p = (1 + at_least) / (1 + DRAWS)
    return Difference(float(gap), float(low), float(high), float(p), _over(len(ours), block))


def spread_over_images(counts: np.ndarray, block: int = 1) -> tuple[float, float]:
    """The 95 % interval of one model's mIoU over images (images, 3, classes), from a bootstrap."""
    counts = _blocks(counts, block)
    rng, n = np.random.default_rng(0), len(counts)
    draws = (rng.multinomial(n, np.full(n, 1 / n), TOGETHER) for _ in range(DRAWS // TOGETHER))
    low, high = np.nanpercentile([miou(_sums(times, counts)) for times in draws], (50 * LEVEL, 100 - 50 * LEVEL))
    return float(low), float(high)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's correction: with these, an error in any of the tests is as rare as it was in each.

    Args:
        ps: One for each test, in any order.

    Returns:
        The corrected ones, in that order.
    """
    corrected, least = [0.0] * len(ps), 0.0
    for rank, i in enumerate(np.argsort(ps, kind="stable")):
        least = max(least, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = least
    return corrected


def _blocks(counts: np.ndarray, block: int) -> np.ndarray:
    return np.add.reduceat(np.asarray(counts, dtype=float), range(0, len(counts), block), axis=0)


def _sums(times: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Counts added up, each block so many times: (draws, n) and (n, 3, classes) to (draws, 3, classes)."""
    return np.tensordot(times, counts, axes=1)


def _over(blocks: int, block: int) -> str:
    return f"{blocks} images" if block == 1 else f"{blocks} groups of {block} images"
