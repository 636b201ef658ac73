"""Rows of a benchmark, as a markdown table and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmattn.cli import UserError
from mmattn.engine import guide
from mmattn.engine.benchmark.bars import BARS, Bar


@dataclass(frozen=True)
class Row:
    """One item in one mode, mmseg's and ours.

    Attributes:
        item: What was measured.
        mode: ``eval``, ``train`` or a variant.
        size: Rows and columns of the map.
        batch: Images.
        dtype: Such as ``float32``.
        theirs: Seconds of mmseg's, sample by sample.
        ours: Seconds of ours.
        theirs_mib: Peak of extra memory; None where it was not measured or the process ended.
        ours_mib: Ours.
        difference: Largest relative difference between both.
        parameters: Learned numbers.
        theirs_macs: Multiplications with an addition of one call of mmseg's, in training with its gradient.
        macs: Ours.
        theirs_iqr: How far the middle half of the samples of mmseg's reaches, in seconds.
        ours_iqr: Ours.
        note: What the numbers do not say; with no times, why there are none.
    """

    item: str
    mode: str
    size: tuple[int, int]
    batch: int = 1
    dtype: str = "float32"
    theirs: float | None = None
    ours: float | None = None
    theirs_mib: float | None = None
    ours_mib: float | None = None
    difference: float | None = None
    parameters: int | None = None
    theirs_macs: int | None = None
    macs: int | None = None
    theirs_iqr: float | None = None
    ours_iqr: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """mmseg's time over ours: above 1 we are faster."""
        return self.theirs / self.ours if self.theirs and self.ours else None

    @property
    def bar(self) -> Bar | None:
        """What was set out for, at this size, with one image, in float32."""
        plain = self.batch == 1 and self.dtype == "float32"
        return BARS.get((self.item, self.mode, self.size)) if plain else None


def missed(row: Row) -> list[str]:
    """The parts of its bar that a row does not reach; what was not measured is not judged."""
    bar, found = row.bar, []
    if bar is None:
        return found
    if bar.ratio and row.ratio is not None and row.ratio < bar.ratio:
        found.append("time")
    if bar.share and row.theirs_mib and row.ours_mib is not None and row.ours_mib > bar.share * row.theirs_mib:
        found.append("memory")
    if bar.mib and row.ours_mib is not None and row.ours_mib > bar.mib:
        found.append("memory")
    return found


HEADS = (
    ("item", "---"),
    ("mode", "---"),
    ("map", "---"),
    ("parameters", "---:"),
    ("mmseg MACs", "---:"),
    ("our MACs", "---:"),
    ("mmseg ms (IQR)", "---:"),
    ("ours ms (IQR)", "---:"),
    ("ratio", "---:"),
    ("bar", "---:"),
    ("mmseg MiB", "---:"),
    ("ours MiB", "---:"),
    ("", "---"),
)


def table(rows: Sequence[Row]) -> str:
    """Markdown, a line for each row, losses as plainly as wins; columns that say nothing are left out."""
    cells = [_cells(row) for row in rows]
    kept = [i for i, (head, _) in enumerate(HEADS) if not head or any(line[i] != "-" for line in cells)]
    lines = [f"| {' | '.join(line[i] for i in kept)} |" for line in ([head for head, _ in HEADS], *cells)]
    lines.insert(1, f"|{'|'.join(HEADS[i][1] for i in kept)}|")
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> list[str]:
    short = missed(row)
    says = [f"misses the bar in {' and '.join(short)}" if short else "", row.note]
    return [
        row.item,
        row.mode,
        _size(row),
        *("-" if count is None else guide.short(count) for count in (row.parameters, row.theirs_macs, row.macs)),
        _ms(row.theirs, row.theirs_iqr),
        _ms(row.ours, row.ours_iqr),
        f"{row.ratio:.2f}x" if row.ratio else "-",
        _bar(row.bar),
        _mib(row.theirs_mib),
        _mib(row.ours_mib),
        "; ".join(filter(None, says)),
    ]


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows with their ratios and bars."""
    return [
        asdict(row) | {"ratio": row.ratio, "bar": row.bar and asdict(row.bar), "missed": missed(row)} for row in rows
    ]


def save(path: Path, machine: dict[str, Any], command: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write a measurement as JSON.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        path.write_text(json.dumps({"command": command, "machine": machine, "rows": rows}, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _size(row: Row) -> str:
    text = "x".join(map(str, row.size))
    return (
        text + (f", batch {row.batch}" if row.batch > 1 else "") + ("" if row.dtype == "float32" else f", {row.dtype}")
    )


def _ms(seconds: float | None, iqr: float | None) -> str:
    if seconds is None:
        return "-"
    digits = 0 if seconds >= 0.1 else 1 if seconds >= 0.01 else 3
    return f"{1e3 * seconds:.{digits}f}" + ("" if iqr is None else f" ({1e3 * iqr:.{digits}f})")


def _mib(mib: float | None) -> str:
    return "-" if mib is None else f"{mib:.0f}"


def _bar(bar: Bar | None) -> str:
    if bar is None:
        return "-"
    parts = [f"{bar.ratio:.2f}x" if bar.ratio else "", f"1/{1 / bar.share:.0f} of the memory" if bar.share else ""]
    parts.append(f"{bar.mib:.0f} MiB" if bar.mib else "")
    return ", ".join(filter(None, parts))
