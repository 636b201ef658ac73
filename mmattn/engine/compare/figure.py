"""A comparison as a figure: scores with their intervals, scores against costs, and where the classes gain and lose."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from mmattn.engine.compare.page import Row
from mmattn.visualization.figure import FILL, INK, LINE, MUTED, STYLE

SOLID = {"svg.hashsalt": "mmattn"}  # the same numbers give the same file


def draw(rows: Sequence[Row], floor: str, classes: Sequence[str]) -> Figure:
    """One figure of a comparison.

    Args:
        rows: In the order of the table.
        floor: The config that the others are compared with.
        classes: Names of the classes.
    """
    rows = sorted(rows, key=lambda row: row.mean)
    height = 0.27 * len(rows) + 0.9
    with matplotlib.rc_context(STYLE | SOLID):
        figure = Figure(figsize=(10.5, 2 * height + 1.1), facecolor="white", layout="constrained")
        FigureCanvasSVG(figure)
        panels = [["scores", "costs"], ["gains", "gains"]]
        axes = figure.subplot_mosaic(panels, height_ratios=(height, height + 0.9))
        at = next((row.mean for row in rows if row.name == floor), None)
        _scores(axes["scores"], rows, at)
        _costs(axes["costs"], rows, floor)
        _gains(axes["gains"], rows[::-1], floor, classes)
    return figure


def _scores(ax: Axes, rows: Sequence[Row], floor: float | None) -> None:
    ax.set_title("mIoU, with its 95 % interval", size=9, loc="left")
    for y, row in enumerate(rows):
        ax.plot([row.low, row.high], [y, y], color=LINE, lw=2, solid_capstyle="butt")
        ax.plot([r.miou for r in row.results], [y] * len(row.results), "o", color=MUTED, ms=2.5)
        ax.plot(row.mean, y, "o", color=FILL, ms=5.5)
    if floor is not None:
        ax.axvline(floor, color=INK, lw=0.8, ls=(0, (4, 3)), zorder=0)
    _names(ax, rows)


def _costs(ax: Axes, rows: Sequence[Row], floor: str) -> None:
    ax.set_title("mIoU against GFLOP of one image", size=9, loc="left")
    for row in rows:
        x = row.results[0].flops / 1e9
        ax.plot(x, row.mean, "o", color=INK if row.name == floor else FILL, ms=5)
        label = {"xytext": (4, 3), "textcoords": "offset points", "size": 6.5, "color": MUTED, "parse_math": False}
        ax.annotate(row.name, (x, row.mean), **label)
    ax.margins(x=0.18, y=0.1)
    _plain(ax)


def _gains(ax: Axes, rows: Sequence[Row], floor: str, classes: Sequence[str]) -> None:
    base = next((row.iou for row in rows if row.name == floor), None)
    shown = [row for row in rows if row.name != floor]
    if base is None or not shown:
        ax.axis("off")
        return
    ax.set_title(f"IoU of each class, points above {floor}", size=9, loc="left", parse_math=False)
    gaps = np.array([row.iou - base for row in shown])
    reach = max(1.0, float(np.nanpercentile(np.abs(gaps), 98)))
    ax.imshow(gaps, cmap="PuOr_r", vmin=-reach, vmax=reach, aspect="auto")
    for (y, x), gap in np.ndenumerate(gaps):
        if np.isfinite(gap):
            strong = abs(gap) > 0.65 * reach
            ax.text(x, y, f"{gap:+.1f}", ha="center", va="center", size=6.5, color="white" if strong else INK)
    ax.set_xticks(range(len(classes)), classes, rotation=30, ha="right", size=7, parse_math=False)
    _names(ax, shown)
    ax.spines[:].set_visible(False)


def _names(ax: Axes, rows: Sequence[Row]) -> None:
    ax.set_yticks(range(len(rows)), [row.name for row in rows], parse_math=False)
    _plain(ax)


def _plain(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(length=2, width=0.6, color=LINE, labelcolor=MUTED, labelsize=7.5)
