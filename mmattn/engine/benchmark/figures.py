"""Figures of measured rows: time and memory over the size of the map, and mIoU over memory."""

from collections.abc import Sequence
from math import ceil, prod
from pathlib import Path
from statistics import mean, stdev

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from mmattn.cli import UserError
from mmattn.engine.benchmark.report import Row
from mmattn.engine.compare import results

OURS, THEIRS = "#0072b2", "#d55e00"  # told apart by colour-blind readers too
COLUMNS = (5, 4, 3)
SHAPES = {"eval": "o", "train": "s"}


def draw(rows: Sequence[Row], folder: Path, scores: Path | None = None) -> list[Path]:
    """Draw what was measured.

    Args:
        rows: Of any items, modes and sizes.
        folder: Where the SVG files go.
        scores: Folder of the results of ``tools/compare.py``, for the figure of mIoU over memory.

    Returns:
        The files: ``time.svg`` and ``memory.svg``, each where there is something to draw, and ``miou.svg``.

    Raises:
        UserError: The folder cannot be written, or no result is of a model that was measured.
    """
    figures = {}
    for name, field, label in (("time", "", "time, ms"), ("memory", "_mib", "peak memory beyond the input, MiB")):
        if any(getattr(row, f"ours{field}") for row in rows):
            figures[name] = over_size(rows, field, label)
    if scores is not None:
        figures["miou"] = over_memory(rows, scores)
    paths = [folder / f"{name}.svg" for name in figures]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, figure in zip(paths, figures.values(), strict=True):
            with matplotlib.rc_context({"svg.hashsalt": "mmattn", "svg.fonttype": "none"}):
                figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}") from error
    return paths


def over_size(rows: Sequence[Row], field: str, label: str) -> Figure:
    """A panel for each item over the positions of the map, all on the same logarithmic axes; mmseg's dashed."""
    items = list(dict.fromkeys(row.item for row in rows))
    columns = min((len(items), *COLUMNS), key=lambda n: (n > max(COLUMNS), -len(items) % n))  # few empty places
    lines = ceil(len(items) / columns)
    figure = Figure(figsize=(2.3 * columns + 0.6, 1.9 * lines + 0.9), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
    scale = 1 if field else 1e3
    for panel, item in zip(panels, items, strict=False):
        for mode, dtype in dict.fromkeys((row.mode, row.dtype) for row in rows if row.item == item):
            of = [row for row in rows if (row.item, row.mode, row.dtype) == (item, mode, dtype)]
            name = " ".join([mode, *([dtype] if len({row.dtype for row in rows}) > 1 else [])])
            for side, colour, style in (("theirs", THEIRS, "--"), ("ours", OURS, "-")):
                points = [(prod(row.size), scale * v) for row in of if (v := getattr(row, side + field))]
                text = f"{'mmseg' if side == 'theirs' else 'mmattn'}, {name}"
                hollow = {"mfc": "white"} if dtype != "float32" else {}
                mark = SHAPES.get(mode, "^")
                if points:
                    x, y = zip(*sorted(points), strict=True)
                    panel.plot(x, y, style, c=colour, marker=mark, ms=4, label=text, **hollow)
        panel.set_title(item, fontsize=9)
        panel.set(xscale="log", yscale="log")
    for panel in panels[len(items) :]:
        panel.set_visible(False)
    sizes = sorted({row.size for row in rows}, key=prod)
    for i, panel in enumerate(panels):
        panel.set_xticks([prod(size) for size in sizes], ["x".join(map(str, size)) for size in sizes], rotation=45)
        panel.xaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.tick_params(labelsize=7, labelbottom=i + columns >= len(items))
        panel.grid(alpha=0.25, which="major")
    figure.supxlabel("map, rows x columns, by the number of positions", fontsize=9)
    figure.supylabel(label, fontsize=9)
    known = {text: line for panel in panels for line, text in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(known.values(), known.keys(), loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    return figure


def over_memory(rows: Sequence[Row], scores: Path) -> Figure:
    """mIoU over peak memory of the models that have both; a bar is the standard deviation over the seeds.

    Raises:
        UserError: No result is of a model that was measured.
    """
    seeds = results.by_config(results.load_all(scores))
    found = {Path(name).name: [result.miou for result in of.values()] for name, of in seeds.items()}
    memory = {row.item: row.ours_mib for row in reversed(rows) if row.ours_mib and row.item in found}
    if not memory:
        measured = ", ".join(dict.fromkeys(row.item for row in rows))
        raise UserError(f"{scores} has results of {', '.join(found) or 'no model'}; measured here: {measured}")
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for item, mib in memory.items():
        spread = stdev(found[item]) if len(found[item]) > 1 else None
        axes.errorbar(mib, mean(found[item]), spread, fmt="o", c=OURS, ms=5, capsize=3, lw=1)
    _name(axes, [(mib, mean(found[item]), item) for item, mib in memory.items()])
    axes.set(xscale="log", xlabel="peak memory of inference beyond the input, MiB", ylabel="mIoU, %")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(which="both", labelsize=8)
    axes.grid(alpha=0.25)
    axes.margins(x=0.25, y=0.12)
    return figure


def _name(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Names beside points, each a line above the one below it where they would meet."""
    last: float | None = None
    low, high = axes.get_ylim()
    step = (high - low) / 22
    for x, y, name in sorted(points, key=lambda point: point[1]):
        at = y if last is None else max(y, last + step)
        axes.annotate(name, (x, y), (x * 1.03, at), fontsize=8, va="center", annotation_clip=False)
        last = at
