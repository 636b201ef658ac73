"""The findings as text for a terminal, and as JSON."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size

from mmattn.cli import harmless
from mmattn.engine.doctor.findings import FORMULA, Finding, class_weights
from mmattn.engine.doctor.remedies import Remedy
from mmattn.engine.doctor.splits import Split

FEW = 5  # files that are shown of one kind
EIGHTHS = " ▏▎▍▌▋▊▉█"


def summary(splits: Sequence[Split]) -> str:
    """One line for each split: how many images, of which size, where."""
    first = splits[0]
    lines = [f"{first.kind}, {len(first.classes)} classes, {first.ignore} is ignored", ""]
    wide = max(len(split.name) for split in splits)
    for split in splits:
        lines.append(
            f"  {split.name:{wide}}  {len(split.pairs):7,} images   {_sizes(split):20} {harmless(split.folder)}"
        )
    return "\n".join(lines)


def _sizes(split: Split) -> str:
    sizes = sorted(split.sizes, key=lambda size: size[0] * size[1])
    both = dict.fromkeys(f"{width}x{height}" for width, height in (sizes[:1] + sizes[-1:]))
    return " to ".join(both) or "-"


def chart(splits: Sequence[Split], width: int, ascii_only: bool = False) -> str:
    """Bars: how much of the pixels each class has.

    Args:
        splits: As examined; bars are drawn of the first one that has labels.
        width: Columns of the terminal.
        ascii_only: Draw with ``#``.
    """
    labelled = [split for split in splits if split.raw.any()]
    if not labelled:
        return "no split has labels"
    drawn = labelled[0]
    names = [harmless(name) for name in drawn.classes]
    wide = min(24, max(map(cell_len, [*names, "ignored"])))
    columns = [f"{split.name.split('_')[0][:9]:>9}" for split in labelled]
    room = max(8, min(40, width - 9 - wide - 10 * len(labelled) - 20))
    shares = [split.pixels / max(1, split.raw.sum()) for split in labelled]
    most = max(*shares[0][: len(names)], shares[0][drawn.ignore], 1e-9)
    lines = [f"{'class':{wide + 5}} {' ' * room}{''.join(f' {c}' for c in columns)}{'images':>9}{'weight':>10}"]
    weights = class_weights(drawn)
    for label, name in [*enumerate(names), (drawn.ignore, "ignored")]:
        numbers = "".join(f"{_percent(share[label]):>10}" for share in shares)
        of_class = f"{drawn.images[label]:>9,}" + (f"{weights[label]:>10.4f}" if label < len(names) else "")
        fit = set_cell_size(name, wide)
        lines.append(f"{label:4} {fit} {_bar(shares[0][label] / most, room, ascii_only)}{numbers}{of_class}".rstrip())
    return "\n".join(lines)


def _percent(share: float) -> str:
    if not share:
        return "-"
    return f"{share:.2%}" if share >= 5e-5 else "<0.01%"


def _bar(share: float, room: int, ascii_only: bool) -> str:
    if ascii_only:
        return ("#" * max(round(share * room), int(share > 0))).ljust(room)
    eighths = max(round(share * room * 8), int(share > 0))
    return ("█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()).ljust(room)


def findings(found: Sequence[Finding]) -> str:
    """Each kind of fault with its first files."""
    return "\n\n".join("\n".join(_finding(finding)) for finding in found)


def _finding(finding: Finding) -> Iterator[str]:
    where = f"{finding.split}: " if finding.split else ""
    count = f" ({finding.count:,})" if finding.count else ""
    yield harmless(f"{'error  ' if finding.is_error else 'warning'}  {where}{finding.text}{count}")
    if finding.comes:
        yield harmless(f"         {finding.comes}")
    for file, detail in finding.files[:FEW]:
        yield harmless(f"           {file}{f'  ({detail})' if detail else ''}")
    if finding.count > FEW:
        yield f"           and {finding.count - FEW:,} more"
    for value, pixels, files in finding.values[:FEW]:
        such = "" if files.count == 1 else "such as "
        yield harmless(
            f"           {value:3}  {pixels:,} pixels in {files.count:,} file{'s'[: files.count != 1]}, "
            f"{such}{files.kept[0][0]}"
        )
    if len(finding.values) > FEW:
        yield f"           and {len(finding.values) - FEW} more values"


def verdict(splits: Sequence[Split], found: Sequence[Finding], seconds: float) -> str:
    """The last word, in one line."""
    errors = sum(finding.is_error for finding in found)
    doubts = len(found) - errors
    images = sum(len(split.pairs) for split in splits)
    read = f"{images:,} images read in {seconds:.1f} s"
    kinds = [f"{n} {what}{'s'[: n != 1]}" for n, what in ((errors, "error"), (doubts, "warning")) if n]
    return f"{read}: {' and '.join(kinds) or 'all is well'}"


def record(
    splits: Sequence[Split], found: Sequence[Finding], remedies: Sequence[Remedy], seconds: float
) -> dict[str, Any]:
    """All of it for JSON."""
    trained = next((split for split in splits if split.raw.any()), None)
    weights = class_weights(trained) if trained else []
    return {
        "seconds": round(seconds, 2),
        "classes": list(splits[0].classes),
        "ignore_index": splits[0].ignore,
        "class_weight": weights,
        "class_weight_formula": FORMULA,
        "splits": [_split_record(split) for split in splits],
        "findings": [_finding_record(finding) for finding in found],
        "remedies": [vars(remedy) for remedy in remedies],
    }


def _split_record(split: Split) -> dict[str, Any]:
    number = len(split.classes)
    return {
        "name": split.name,
        "keys": split.keys,
        "folder": split.folder,
        "images": len(split.pairs),
        "sizes": {f"{width}x{height}": count for (width, height), count in sorted(split.sizes.items())},
        "reduce_zero_label": split.reduced,
        "pixels": split.pixels[:number].tolist(),
        "pixels_ignored": int(split.pixels[split.ignore]),
        "images_of_class": split.images[:number].tolist(),
        "values_in_files": {str(value): int(count) for value, count in enumerate(split.raw) if count},
    }


def _finding_record(finding: Finding) -> dict[str, Any]:
    kept = [{"file": file, "detail": detail} for file, detail in finding.files]
    values = [
        {"value": value, "pixels": pixels, "files": files.count, "named": [file for file, _ in files.kept]}
        for value, pixels, files in finding.values
    ]
    return {
        "kind": finding.kind,
        "severity": "error" if finding.is_error else "warning",
        "split": finding.split,
        "text": finding.text,
        "comes": finding.comes,
        "count": finding.count or sum(each["files"] for each in values),
        "files": kept,
        "values": values,
    }
