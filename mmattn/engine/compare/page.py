"""The page of a comparison: composed once, written as Markdown and as one HTML file."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import combinations
from statistics import mean, stdev

import numpy as np

from mmattn.engine.compare.results import Result, by_config
from mmattn.engine.compare.statistics import LEVEL, Difference, holm, over_images, over_seeds, spread_over_images

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1rem 0; background: #fff; overflow-x: auto; }
svg { max-width: 100%; height: auto; }
pre { white-space: pre-wrap; }
"""


@dataclass(frozen=True)
class Row:
    """One config.

    Attributes:
        name: Of the config.
        results: One for each seed.
        low: Where the 95 % interval of its mIoU begins, over images, or over trainings where there are several.
        high: Where that ends.
    """

    name: str
    results: Sequence[Result]
    low: float
    high: float

    @property
    def mean(self) -> float:
        """mIoU over the seeds."""
        return mean(result.miou for result in self.results)

    @property
    def iou(self) -> np.ndarray:
        """By class, over the seeds."""
        return np.mean([result.iou for result in self.results], axis=0)


@dataclass(frozen=True)
class Heading:
    """A line over what follows."""

    text: str


@dataclass(frozen=True)
class Code:
    """Lines to type."""

    text: str


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column names the rows."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


Part = Heading | Code | Table | str  # a string is a paragraph


def rows(results: Iterable[Result], block: int = 1) -> list[Row]:
    """The configs, best first.

    Args:
        results: That can be compared.
        block: As of :func:`~mmattn.engine.compare.statistics.over_images`.
    """
    found = []
    for name, seeds in by_config(results).items():
        own = [seeds[seed] for seed in sorted(seeds)]
        if len(own) > 1:
            spread = over_seeds([result.miou for result in own], [0.0] * len(own))
            found.append(Row(name, own, spread.low, spread.high))
        else:
            found.append(Row(name, own, *spread_over_images(own[0].counts, block)))
    return sorted(found, key=lambda row: -row.mean)


def difference(ours: Row, theirs: Row, block: int = 1) -> Difference | None:
    """Test two configs on the seeds that both have: over these, or over images where it is one.

    Returns:
        None where they have no seed in common.
    """
    first, second = ({result.seed: result for result in row.results} for row in (ours, theirs))
    if not (seeds := sorted(first.keys() & second.keys())):
        return None
    if len(seeds) > 1:
        return over_seeds([first[seed].miou for seed in seeds], [second[seed].miou for seed in seeds])
    return over_images(first[seeds[0]].counts, second[seeds[0]].counts, block)


def compose(
    found: Sequence[Row], floor: str, *, block: int = 1, command: str = "", notes: Sequence[str] = ()
) -> list[Part]:
    """All of the page but its figure.

    Args:
        found: As of :func:`rows`.
        floor: The config that the others are compared with.
        block: As of :func:`rows`.
        command: What made the page.
        notes: What is missing, failed or left out, a line each.
    """
    base = next((row for row in found if row.name == floor), None)
    others = [row for row in found if row is not base]
    tested = {row.name: difference(row, base, block) for row in others} if base else {}
    tests = {name: test for name, test in tested.items() if test}
    p = dict(zip(tests, holm([test.p for test in tests.values()]), strict=True))
    parts: list[Part] = [_protocol(found), *_missing(notes), _scores(found, floor, tests, p), *_reading(found, block)]
    parts += [Heading("Of all pairs"), _pairs(found, block)]
    parts += [Heading("IoU of each class"), _classes(found)]
    return [*parts, Heading("How it was made"), *_made(found), *([Code(command)] if command else [])]


def markdown(parts: Sequence[Part], title: str, figure: str) -> str:
    """The page as Markdown, its figure in a file beside it."""
    blocks = [f"# {_md(title)}"]
    for part in parts:
        if isinstance(part, Heading):
            blocks.append(f"## {_md(part.text)}")
        elif isinstance(part, Code):
            blocks.append(f"```\n{part.text}\n```")
        elif isinstance(part, Table):
            lines = [part.header, ["---", *["---:"] * (len(part.header) - 1)], *part.rows]
            blocks.append("\n".join(f"| {' | '.join(map(_md, line))} |" for line in lines))
        else:
            blocks.append(_md(part))
    return "\n\n".join([blocks[0], *blocks[1:3], f"![scores, costs and classes]({figure})", *blocks[3:]]) + "\n"


def html(parts: Sequence[Part], title: str, figure: str) -> str:
    """The page as one HTML file.

    Args:
        parts: As of :func:`compose`.
        title: Heading.
        figure: The figure as SVG.
    """
    blocks = [f"<h1>{escape(title)}</h1>"]
    for part in parts:
        if isinstance(part, Heading):
            blocks.append(f"<h2>{escape(part.text)}</h2>")
        elif isinstance(part, Code):
            blocks.append(f"<pre>{escape(part.text)}</pre>")
        elif isinstance(part, Table):
            head, *body = [part.header, *part.rows]
            lines = [f"<thead>{_tr('th', head)}</thead>", "<tbody>", *(_tr("td", line) for line in body), "</tbody>"]
            blocks.append("<div class=wide><table>\n" + "\n".join(lines) + "\n</table></div>")
        else:
            blocks.append(f"<p>{escape(part)}</p>")
    blocks.insert(3, f"<figure>{figure[figure.index('<svg') :]}</figure>")
    head = f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(title)}</title>'
    return "\n".join([head, f"<style>{STYLE}</style>", *blocks]) + "\n"


def _tr(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"


def _md(text: str) -> str:
    return text if set(text) <= {"-", ":"} else re.sub(r"([\\`*|<>\[\]])", r"\\\1", text)


def _protocol(found: Sequence[Row]) -> str:
    first = found[0].results[0]
    training, data = first.settings["training"], first.settings["testing"]["data"]
    batch, images = training["train_dataloader"].get("batch_size", 1), training["data"]["images"]
    return (
        f"Each model has the same budget, {first.iterations} iterations of {batch} images out of {images}, and is "
        f"tested after the last on the same {data['images']} images. Nothing is chosen by a score."
    )


def _missing(notes: Sequence[str]) -> list[Part]:
    return [f"Not in the tables: {'; '.join(notes)}."] if notes else []


def _scores(found: Sequence[Row], floor: str, tests: dict[str, Difference], p: dict[str, float]) -> Table:
    header = ["config", "seeds", "mIoU", "95 % interval", f"against {floor}", "p", "real?"]
    header += ["parameters", "GFLOP", "training, ms an iteration", "test, ms an image"]
    lines = []
    for row in found:
        cells = [row.name, str(len(row.results)), _mean([result.miou for result in row.results], 2)]
        cells.append(f"{row.low:.2f} to {row.high:.2f}")
        test = tests.get(row.name)
        if test is None:
            cells += ["-"] * 3
        else:
            cells.append(f"{test.mean:+.2f} ({test.low:+.2f} to {test.high:+.2f})")
            cells += [f"{p[row.name]:.4f}", "yes" if p[row.name] < LEVEL else "not shown"]
        own = row.results[0]
        cells += [f"{own.parameters / 1e6:.2f} M", f"{own.flops / 1e9:.2f}"]
        times = ([getattr(r, key) for r in row.results] for key in ("train_seconds", "test_seconds"))
        lines.append([*cells, *(f"{1e3 * mean(seconds):.0f}" for seconds in times)])
    return Table(header, lines)


def _mean(values: Sequence[float], digits: int) -> str:
    if np.isnan(values).all():
        return "-"
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"


def _reading(found: Sequence[Row], block: int) -> list[Part]:
    several = sum(len(row.results) > 1 for row in found)
    parts = [
        "mIoU in percent, with the standard deviation over seeds; p after Holm's correction for all rows of the table. "
        f"A difference is called real where p is below {LEVEL}; otherwise none was shown, which does not say that "
        "there is none."
    ]
    if several < len(found):
        together = f"; {block} images that follow each other count as one" if block > 1 else ""
        parts.append(
            "Where a model has one seed, its interval and its test are over the test images (bootstrap; permutation of "
            f"the two models' counts{together}): real then means that these two trained networks differ on images like "
            "these. One seed does not measure the spread between trainings: another seed may turn the difference round."
        )
    if several:
        parts.append(
            "Where two models have several seeds in common, their difference is tested over these (paired t test): "
            "real then means that other trainings would show it on these test images."
        )
    return parts


def _pairs(found: Sequence[Row], block: int) -> str:
    tests = [(a, b, test) for a, b in combinations(found, 2) if (test := difference(a, b, block))]
    corrected = holm([test.p for *_, test in tests])
    real = [
        f"{a.name} above {b.name} by {test.mean:.2f} (p {p:.4f}, over {test.over})"
        for (a, b, test), p in zip(tests, corrected, strict=True)
        if p < LEVEL
    ]
    listed = f": {'; '.join(real)}" if real else ""
    return f"Of {len(tests)} pairs of models, Holm's correction over all of them, {len(real)} differ{listed}."


def _classes(found: Sequence[Row]) -> Table:
    lines = []
    for row in found:
        each = zip(*(result.iou.tolist() for result in row.results), strict=True)
        lines.append([row.name, *(_mean(values, 1) for values in each), f"{row.mean:.2f}"])
    return Table(["config", *found[0].results[0].classes, "mIoU"], lines)


def _made(found: Sequence[Row]) -> list[Part]:
    results = [result for row in found for result in row.results]
    dates = sorted({result.machine["date"][:10] for result in results})
    keys = ("cpu", "gpu", "cores", "threads", "torch")
    machines = sorted({", ".join(f"{k} {r.machine[k]}" for k in keys if k in r.machine) for r in results})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    first = results[0]
    return [
        f"Tested on {when}: {'; '.join(machines)}. Parameters and GFLOP are of backbone, neck and decode head for an "
        f"image of {first.size[0]} x {first.size[1]}; times are medians, loading included, on the machine as it was."
    ]
