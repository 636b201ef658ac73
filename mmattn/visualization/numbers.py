"""What is measured of attention, as a figure: for each layer the distribution of each number."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmattn.cli import harmless
from mmattn.evaluation.attention import Layer
from mmattn.visualization.figure import FILL, INK, LINE, MUTED, STYLE

TITLES = {
    "entropy": "entropy, 1: all alike",
    "distance": "distance, in diagonals",
    "own_class": "share on own class",
    "dependence": "dependence on the query",
    "saliency": "correlation with saliency",
    "gate": "mean gate of an image",
    "saturated": "share of the gate at 0 or 1",
}
BINS = 40


def distributions(layers: Mapping[str, Layer], title: str = "") -> Figure:
    """One row for each layer, one column for each measure that any of them has.

    The dashed line is the mean, the dotted one in ``own_class`` what the frequency of the classes alone would give.

    Args:
        layers: By the name to write beside the row.
        title: Heading.
    """
    measures = [name for name in TITLES if any(name in layer.values for layer in layers.values())]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.6 * len(measures) + 0.4, 1.6 * len(layers) + 0.9), facecolor="white")
        FigureCanvasAgg(figure)
        figure.suptitle(harmless(title), x=0.02, ha="left", size=12, weight="bold", parse_math=False)
        axes = figure.subplots(len(layers), len(measures), squeeze=False)
        for row, (name, layer) in enumerate(layers.items()):
            for column, measure in enumerate(measures):
                ax = axes[row, column]
                ax.set_title(TITLES[measure] if row == 0 else "", size=9, loc="left")
                if measure in layer.values:
                    chance = layer.means().get("chance") if measure == "own_class" else None
                    _histogram(ax, layer.samples(measure).numpy(), _ends(layers.values(), measure), chance)
                else:
                    ax.axis("off")
            axes[row, 0].text(0, -0.3, name, transform=axes[row, 0].transAxes, size=8, color=MUTED, parse_math=False)
        figure.tight_layout(rect=(0.01, 0.01, 0.99, 0.97))
    return figure


def _ends(layers: Sequence[Layer], measure: str) -> tuple[float, float]:
    """The same for all layers, so that they can be compared."""
    values = np.concatenate([layer.samples(measure).numpy() for layer in layers if measure in layer.values])
    low, high = min(0.0, float(values.min())), max(float(values.max()), 1e-3)
    return low, high if measure in ("distance", "saliency") else max(high, 1.0)


def _histogram(ax: Axes, values: np.ndarray, ends: tuple[float, float], chance: float | None) -> None:
    ax.hist(values, bins=BINS, range=ends, color=FILL, lw=0)
    ax.axvline(values.mean(), color=INK, lw=0.9, ls=(0, (4, 3)))
    if chance is not None:
        ax.axvline(chance, color=INK, lw=0.9, ls=(0, (1, 2)))
    ax.set_xlim(*ends)
    ax.set_yticks([])
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(length=2, width=0.6, color=LINE, labelcolor=MUTED, labelsize=7.5)
    ax.text(1, 1.03, f"{values.mean():.3f}", transform=ax.transAxes, ha="right", size=8.5, weight="bold")
