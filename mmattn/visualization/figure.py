"""Views painted: one figure, laid out in inches so that every image size and shape gets a tidy page."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from mmattn.cli import harmless
from mmattn.datasets.labels import IGNORE
from mmattn.visualization.options import PLAIN, Options
from mmattn.visualization.scene import Point, Scene
from mmattn.visualization.views import SHARE, Bars, Matrix, Overlay, View

WIDTH, MARGIN, GAP = 12.0, 0.35, 0.14  # inches, as all lengths here
TALLEST, FLATTEST, NARROWEST = 4.5, 0.8, 2.4  # of a panel; the last with its caption
CAPTION, HEADING, SPACE = 0.26, 0.5, 0.34  # line over a panel, lines over a view, space before a view
BAR = 0.3  # the line of the bar of colours, where its view has half of the page
INK, MUTED, LINE, FILL = "#1c1c1e", "#6e6e73", "#c7c7cc", "#8b4a8f"
UNLABELLED = (235, 235, 235)
CLASSES = 35  # named in the legend
LEAST = 4.0  # where they end at the least, in uniform shares: a map that looks everywhere alike stays dark
DECADES = 3  # of a logarithmic scale
PEAKED = 10.0  # uniform shares above which they follow the root, so that what is not the peak can be seen too
WEAKEST = 0.26  # opacity of a map where it is 0, as a share of that where it is strongest
STYLE = {"font.family": "DejaVu Sans", "text.color": INK, "axes.edgecolor": LINE, "axes.linewidth": 0.6}


def paint(
    scene: Scene,
    points: Sequence[Point],
    views: Sequence[View],
    *,
    title: str = "",
    note: str = "",
    options: Options = PLAIN,
    predictions: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """A figure of a scene: input with the points marked, predictions, ground truth, and below them every view.

    Cells of the maps are drawn as they are, unsmoothed. Colours end at a percentile of a view, and the bar says so.
    The figure is none of pyplot's: nothing has to be closed.

    Args:
        scene: The image and what the model made of it.
        points: Query pixels, in the order of the views' queries.
        views: What to show of the attention.
        title: Heading.
        note: Small print beside it.
        options: How to colour.
        predictions: What several models made of the image, by caption; by default the scene's own.
    """
    with matplotlib.rc_context(STYLE):
        page = _Page(scene, points, options)
        page.heading(title, note)
        marked = any(isinstance(p, Overlay) and p.point is not None for view in views for p in view.panels)
        page.images(predictions or {"prediction": scene.prediction}, marked)
        page.legend()
        for row in page.side_by_side(views):
            page.row(row)
        return page.finish()


class _Page:
    """Counts inches downwards while things are put on it; they are painted once its height is known."""

    def __init__(self, scene: Scene, points: Sequence[Point], options: Options) -> None:
        self.scene, self.points, self.options = scene, points, options
        self.height, self.width = scene.image.shape[:2]
        self.grey = _grey(scene.image)
        self.top = 0.25
        self.figure = Figure(facecolor="white")
        FigureCanvasAgg(self.figure)
        self.todo: list[Callable[[float], object]] = []

    def finish(self) -> Figure:
        height = self.top + MARGIN
        self.figure.set_size_inches(WIDTH, height)
        for task in self.todo:
            task(height)
        return self.figure

    def text(self, left: float, down: float, text: str, **style: object) -> None:
        text = harmless(text)
        y, style = self.top + down, {"va": "center_baseline", "ha": "left", "size": 9, "parse_math": False, **style}
        self.todo.append(lambda page: self.figure.text(left / WIDTH, 1 - y / page, text, **style))

    def measure(self, text: str, size: float) -> float:
        renderer = self.figure.canvas.get_renderer()
        pixels, _, _ = renderer.get_text_width_height_descent(harmless(text), FontProperties(size=size), False)
        return pixels / self.figure.dpi

    def axes(self, left: float, down: float, width: float, height: float, draw: Callable[[Axes], object]) -> None:
        y = self.top + down + height
        box = (left / WIDTH, width / WIDTH)
        self.todo.append(lambda page: draw(self.figure.add_axes((box[0], 1 - y / page, box[1], height / page))))

    def rule(self) -> None:
        y, ends = self.top, [MARGIN / WIDTH, 1 - MARGIN / WIDTH]
        self.todo.append(lambda page: self.figure.add_artist(Line2D(ends, [1 - y / page] * 2, color=LINE, lw=0.6)))

    # what is on it, from top to bottom

    def heading(self, title: str, note: str) -> None:
        if title or note:
            self.text(MARGIN, 0.1, title, size=14, weight="bold")
            self.text(WIDTH - MARGIN, 0.1, note, color=MUTED, ha="right")
            self.top += 0.32

    def images(self, predictions: Mapping[str, np.ndarray], marked: bool) -> None:
        scene, colours = self.scene, self.scene.palette.colours
        panels = [(f"input, {self.width} x {self.height}", scene.image)]
        panels += [(caption, _coloured(prediction, colours)) for caption, prediction in predictions.items()]
        if scene.label is not None:
            panels.append(("ground truth", _coloured(scene.label, colours)))
        columns, pitch, width, height = self.columns(len(panels))
        for i, (caption, image) in enumerate(panels):
            left = MARGIN + i % columns * pitch
            self.text(left, CAPTION / 2, caption)
            self.axes(left, CAPTION, width, height, lambda ax, image=image: self.picture(ax, image))
            if i == 0 and marked:
                self.axes(left, CAPTION, width, height, self.marks)
            if (i + 1) % columns == 0 or i + 1 == len(panels):
                self.top += CAPTION + height

    def legend(self) -> None:
        """The classes that occur, the most frequent first."""
        scene, names = self.scene, self.scene.palette.classes
        seen = scene.prediction if scene.label is None else np.stack([scene.prediction, scene.label])
        counts = np.bincount(seen.ravel(), minlength=IGNORE + 1)
        order = [c for c in np.argsort(-counts, kind="stable").tolist() if counts[c] and c < len(names)]
        entries = [(scene.palette.colours[c], names[c]) for c in order[:CLASSES]]
        if counts[IGNORE] and len(names) <= IGNORE:
            entries.append((UNLABELLED, "unlabelled"))
        if len(order) > CLASSES:
            entries.append(((255, 255, 255), f"and {len(order) - CLASSES} more"))
        left, self.top = MARGIN, self.top + 0.12
        for colour, name in entries:
            width = 0.21 + self.measure(name, 8.5) + 0.2
            if left > MARGIN and left + width > WIDTH - MARGIN:
                left, self.top = MARGIN, self.top + 0.21
            self.axes(left, 0.03, 0.14, 0.14, lambda ax, colour=colour: _swatch(ax, colour))
            self.text(left + 0.21, 0.1, name, size=8.5)
            left += width
        self.top += 0.2

    def side_by_side(self, views: Sequence[View]) -> list[list[View]]:
        """The rows of the page: views of one map each share one with the next, unless the image is too flat for it."""
        rows: list[list[View]] = []
        for narrow, run in groupby(views, self.is_narrow):
            alike, step = list(run), 2 if narrow else 1
            rows += [alike[i : i + step] for i in range(0, len(alike), step)]
        return rows

    def is_narrow(self, view: View) -> bool:
        return len(view.panels) == 1 and isinstance(view.panels[0], Overlay) and self.columns(2)[0] == 2

    def row(self, views: Sequence[View]) -> None:
        self.top += SPACE / 2
        self.rule()
        self.top += SPACE / 2
        begin, ends, pitch = self.top, [], (WIDTH - 2 * MARGIN + GAP) / (2 if self.is_narrow(views[0]) else 1)
        for i, view in enumerate(views):
            self.top = begin
            self.view(view, MARGIN + i * pitch, pitch - GAP)
            ends.append(self.top)
        self.top = max(ends)

    def view(self, view: View, left: float, width: float) -> None:
        whole = width > WIDTH / 2
        self.text(left, 0.08, view.title, size=11.5, weight="bold")
        self.text(left, 0.31, f"{view.note}  ·  {view.place}" if whole else view.note, color=MUTED)
        if not whole:
            self.text(left + width, 0.08, view.place, size=8, color=MUTED, ha="right")
        coloured = [panel for panel in view.panels if not isinstance(panel, Bars)]
        bars = [panel for panel in view.panels if isinstance(panel, Bars)]
        scale = _scale([panel.values for panel in coloured], view.unit, self.options)
        if coloured:
            self.colour_bar(left + width, 0 if whole else HEADING - 0.05, scale, coloured, view.unit)
        self.top += HEADING + (0 if whole else BAR)
        if bars:
            self.with_bars(coloured, bars, scale)
        else:
            self.overlays(coloured, scale, left)

    def with_bars(self, coloured: Sequence[Overlay | Matrix], bars: Sequence[Bars], scale: ScalarMappable) -> None:
        """A map on the left, if there is one, and its values sorted on the right."""
        left, height, ratio = MARGIN, 1.3, self.height / self.width
        self.top += 0.1
        for panel in coloured:
            if isinstance(panel, Matrix):
                left += 0.25
                width = tall = 3.0
                self.axes(left, 0, width, tall, lambda ax, p=panel: _matrix(ax, p, scale))
            else:
                width = max(min(WIDTH / 2 - MARGIN - GAP, TALLEST / ratio), 0.05)
                tall = max(width * ratio, 0.05)
                self.axes(left, 0, width, tall, lambda ax, p=panel: self.overlay(ax, p, scale))
            left, height = left + width + 0.2, max(height, tall)
        for panel in bars:
            left += 0.4
            self.axes(left, 0, WIDTH - MARGIN - left, height, lambda ax, p=panel: _bars(ax, p))
        self.top += height + 0.4

    def overlays(self, panels: Sequence[Overlay], scale: ScalarMappable, begin: float) -> None:
        columns, pitch, width, height = self.columns(max(2, len(panels)))
        for i, panel in enumerate(panels):
            left = text = begin + i % columns * pitch
            if panel.point is not None:
                badge = {"boxstyle": "circle,pad=0.2", "fc": "white", "ec": INK, "lw": 0.8}
                self.text(
                    left + 0.09, CAPTION / 2, str(panel.point + 1), size=7, weight="bold", ha="center", bbox=badge
                )
                text += 0.26
            self.text(text, CAPTION / 2, panel.caption)
            self.axes(left, CAPTION, width, height, lambda ax, p=panel: self.overlay(ax, p, scale))
            if (i + 1) % columns == 0 or i + 1 == len(panels):
                self.top += CAPTION + height + (GAP if i + 1 < len(panels) else 0)

    def columns(self, count: int) -> tuple[int, float, float, float]:
        """How many panels of the image's shape stand beside each other, their pitch, width and height."""
        ratio, room = self.height / self.width, WIDTH - 2 * MARGIN + GAP
        columns = min(count, 4)
        while columns > 1 and (room / columns - GAP) * ratio < FLATTEST:
            columns -= 1
        width = min(room / columns - GAP, TALLEST / ratio)
        pitch = min(room / columns, max(width + GAP, NARROWEST))
        return columns, pitch, max(width, 0.05), max(width * ratio, 0.05)

    def colour_bar(
        self, right: float, down: float, scale: ScalarMappable, panels: Sequence[Overlay | Matrix], unit: str
    ) -> None:
        largest = max(float(panel.values.max()) for panel in panels)
        low, high = scale.get_clim()
        clipped = largest > high * 1.005

        def draw(ax: Axes) -> None:
            ax.imshow(scale.cmap(np.linspace(0, 1, 256))[None], aspect="auto", extent=(0, 1, 0, 1))
            first, middle, last = _numbers(low, float(scale.norm.inverse(0.5)), high)
            ax.set_xticks([0, 0.5, 1], [first, middle, "≥ " * clipped + last])
            ax.set_yticks([])
            _quiet(ax)
            for label, side in zip(ax.get_xticklabels(), ("left", "center", "right"), strict=True):
                label.set_ha(side)

        left = right - 2.2
        self.axes(left, down + 0.05, 2.2, 0.1, draw)
        text = (
            unit + ", root scale" * isinstance(scale.norm, PowerNorm) + ", log scale" * isinstance(scale.norm, LogNorm)
        )
        text += f", at most {_numbers(low, largest)[1]}" * clipped
        self.text(left - 0.1, down + 0.1, text, size=8, color=MUTED, ha="right")

    # what is in a panel

    def picture(self, ax: Axes, image: np.ndarray) -> None:
        ax.imshow(image, extent=(0, self.width, self.height, 0), aspect="auto")
        self.frame(ax)

    def frame(self, ax: Axes) -> None:
        ax.set(xlim=(0, self.width), ylim=(self.height, 0), xticks=[], yticks=[])

    def marks(self, ax: Axes) -> None:
        ax.patch.set_alpha(0)
        self.frame(ax)
        for i, (x, y) in enumerate(self.points):
            at = (x + 0.5, y + 0.5)
            ax.plot(*at, "o", ms=11, mfc="white", mec=INK, mew=0.9, clip_on=False)
            ax.text(*at, str(i + 1), ha="center", va="center_baseline", size=7.5, weight="bold")

    def overlay(self, ax: Axes, panel: Overlay, scale: ScalarMappable) -> None:
        self.picture(ax, self.grey)
        colours = scale.to_rgba(panel.values)  # (h, w, 4)
        strength = np.clip(scale.norm(panel.values), 0, 1)
        if scale.get_clim()[0] < 0:
            strength = np.abs(2 * strength - 1)
        # what is weak lets the image through
        colours[..., 3] = self.options.alpha * (WEAKEST + (1 - WEAKEST) * np.sqrt(strength))
        extent = (0, self.width * panel.reach[1], self.height * panel.reach[0], 0)
        ax.imshow(colours, extent=extent, aspect="auto", interpolation="nearest")
        self.frame(ax)
        if panel.point is not None:
            x, y = self.points[panel.point]
            for colour, line in (("black", 2.8), ("white", 1.3)):
                ax.plot(x + 0.5, y + 0.5, "o", ms=8, mfc="none", mec=colour, mew=line, clip_on=False)


def _bars(ax: Axes, panel: Bars) -> None:
    order = np.argsort(-panel.values, kind="stable")
    values, mean = panel.values[order], panel.values.mean()
    ax.fill_between(np.arange(len(values) + 1), np.append(values, values[-1]), step="post", color=FILL, lw=0)
    ax.axhline(mean, color=INK, lw=0.8, ls=(0, (4, 3)))
    ax.set_xlim(0, len(values))
    ax.set_ylim(min(0, values[-1]), max(values[0] * 1.05, 1.0))
    ax.spines[["top", "right"]].set_visible(False)
    most = f", most in {', '.join(map(str, order[:3]))}" if panel.counted == "channels" else ""
    least, mean, greatest = _numbers(values[-1], mean, values[0])
    label = f"{len(values)} {panel.counted}, sorted{most}; {least} to {greatest}, mean {mean} (dashed)"
    ax.set_xlabel(label, size=8, color=MUTED)
    ax.set_ylabel(panel.label, size=8, color=MUTED)
    _quiet(ax)


def _matrix(ax: Axes, panel: Matrix, scale: ScalarMappable) -> None:
    ax.imshow(panel.values, cmap=scale.cmap, norm=scale.norm, aspect="auto")
    ax.set(xticks=[], yticks=[])
    ax.set_xlabel(f"from each of {len(panel.values)} channels", size=8, color=MUTED)
    ax.set_ylabel("to each", size=8, color=MUTED)


def _swatch(ax: Axes, colour: tuple[int, int, int]) -> None:
    ax.add_patch(Rectangle((0, 0), 1, 1, color=np.array(colour) / 255))
    ax.axis("off")


def _quiet(ax: Axes) -> None:
    ax.tick_params(length=2, width=0.6, pad=1.5, color=LINE, labelcolor=MUTED, labelsize=7.5)


def _scale(maps: Sequence[np.ndarray], unit: str, options: Options) -> ScalarMappable:
    """Colours for the maps of a view: from 0, from the least of a gate, or on both sides of 0; peaks by their root."""
    values = np.concatenate([values.ravel() for values in maps] or [np.zeros(1)])
    if values.min() < 0:
        end = float(np.percentile(np.abs(values), options.clip))
        return ScalarMappable(Normalize(-end, end), "RdBu_r")
    low = float(values.min()) if unit == "gate" else 0.0
    high = float(np.percentile(values[values > 0], options.clip)) if (values > 0).any() else 0.0
    if options.log and high > 0:
        return ScalarMappable(LogNorm(max(float(values.min()), high / 10**DECADES), high, clip=True), "inferno")
    if unit == SHARE and high > PEAKED:
        return ScalarMappable(PowerNorm(0.5, low, high), "inferno")
    return ScalarMappable(Normalize(low, max(high, LEAST if unit == SHARE else low + 1e-6)), "inferno")


def _grey(image: np.ndarray) -> np.ndarray:
    """The image to lay maps over, (h, w, 3): grey, its contrast stretched, so that dark scenes can be made out."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    low, high = np.percentile(grey, (1, 99))
    grey = 30 + 200 * np.clip((grey - low) / max(high - low, 1), 0, 1)
    return np.repeat(grey[..., None].astype(np.uint8), 3, axis=2)


def _coloured(classes: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> np.ndarray:
    table = np.full((IGNORE + 1, 3), UNLABELLED, np.uint8)
    table[: len(colours)] = colours[: IGNORE + 1]
    return table[classes]


def _numbers(*values: float) -> list[str]:
    """Numbers with as many digits as it takes to tell them apart."""
    span = max(values) - min(values) or abs(values[0]) or 1.0
    digits = min(max(0, 2 - math.floor(math.log10(span))), 9)
    return [f"{value:,.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:,.0f}" for value in values]
