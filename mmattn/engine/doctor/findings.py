"""From what was seen to what is wrong, and to what to change."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from mmattn.engine.doctor.splits import Named, Split, through

FORMULA = "median frequency balancing, Eigen and Fergus 2015"
# what is wrong with single files: kind -> headline, what comes of it
STOPS = "training stops there"
FILES = {
    "missing image": ("images that are listed but missing", STOPS),
    "missing label": ("images without a label", STOPS),
    "unreadable image": ("images that cannot be read whole", STOPS),
    "unreadable label": ("labels that cannot be read whole", STOPS),
    "size": ("labels of another size than their image", STOPS),
    "colour label": ("labels that are colour pictures, where the class of each pixel is needed", STOPS),
    "bit depth": ("labels of more than 8 bits", "values are cut to 8 bits, and become other classes"),
}
DOUBTS = {
    "only ignored": ("labels in which every pixel is ignored", "nothing is learned from them"),
    "label alone": ("labels without an image", "they are not used"),
    "twice": ("images that come more than once", "they count as often"),
}


@dataclass
class Finding:
    """One kind of fault.

    Attributes:
        kind: A short fixed name.
        is_error: Training would stop, or learn something wrong.
        split: Where; empty for all.
        text: What was found.
        comes: What comes of it, or what it means.
        files: Each a file with a detail; not more than a thousand of ``count``.
        count: Of the files.
        values: Of labels outside the classes: value, pixels, and files.
    """

    kind: str
    is_error: bool
    split: str
    text: str
    comes: str = ""
    files: list[tuple[str, str]] = field(default_factory=list)
    count: int = 0
    values: list[tuple[int, int, Named]] = field(default_factory=list)


def diagnose(splits: Sequence[Split]) -> list[Finding]:
    """Everything that is wrong, errors first."""
    found = [finding for split in splits for finding in (*_files(split), *_values(split), *_classes(split))]
    found += _shifts(splits)
    return sorted(found, key=lambda finding: not finding.is_error)


def _files(split: Split) -> Iterator[Finding]:
    for kind, named in split.named.items():
        if kind in FILES:
            yield Finding(kind, True, split.name, *FILES[kind], named.kept, named.count)
        elif kind in DOUBTS:
            yield Finding(kind, False, split.name, *DOUBTS[kind], named.kept, named.count)
        else:
            trained = "also in train" in kind
            comes = "the score counts what was trained on" if trained else "both scores count them"
            yield Finding("two splits", trained, split.name, f"images that are {kind}", comes, named.kept, named.count)


def _values(split: Split) -> Iterator[Finding]:
    if not split.outside:
        return
    last = len(split.classes) - 1
    values = [(value, pixels, files) for value, (pixels, files) in split.outside.items()]
    values.sort(key=lambda each: -each[1])
    text = f"labels outside the classes, which are 0 to {last}, or {split.ignore} to ignore"
    if split.reduced:
        text = f"labels outside the classes, which are 1 to {last + 1}, or 0 and 255 to ignore"
    comes = STOPS
    if split.pairs[0].label.endswith((".jpg", ".jpeg")):
        comes += "; JPEG changes values: labels have to be PNG"
    yield Finding("outside", True, split.name, text, comes, values=values)


def _classes(split: Split) -> Iterator[Finding]:
    if not split.raw.any():
        return
    pixels, number = split.pixels, len(split.classes)
    absent = [name for name, count in zip(split.classes, pixels[:number], strict=True) if not count]
    if len(absent) == number:
        comes = "there is nothing to learn" if split.is_trained else "there is nothing to score"
        yield Finding("no class", True, split.name, "every pixel of every label is ignored", comes)
    elif absent:
        comes = "they cannot be learned" if split.is_trained else "the mean leaves them out, or counts them as 0"
        yield Finding("absent", False, split.name, f"classes that never occur: {', '.join(absent)}", comes)


def _shifts(splits: Sequence[Split]) -> Iterator[Finding]:
    if seen := suspect(splits):
        kind, text, comes, is_error = seen
        yield Finding(kind, is_error, "", text, comes)


def suspect(splits: Sequence[Split]) -> tuple[str, str, str, bool] | None:
    """Whether the labels as a whole look as if they meant something else: kind, what is seen, what it means, error."""
    labelled = [split for split in splits if split.raw.any()]
    if not labelled:
        return None
    split, raw = labelled[0], sum(each.raw for each in labelled)
    number, held = len(split.classes), set(np.flatnonzero(raw).tolist())
    classes = held - {255, split.ignore}
    outside = any(each.outside for each in labelled)
    if 255 in held and held <= {0, 255} and number > 1:
        share = raw[255] / raw.sum()
        comes = f"255 ({share:.1%} of the pixels) is {'ignored' if split.ignore == 255 else 'no class'}, so class 1, "
        return "mask", "all labels are 0 or 255, as masks are drawn", f"{comes}{split.classes[1]!r}, never occurs", True
    if outside and len(held) == number > 2 and min(np.diff(sorted(held))) > 1:
        text = f"there are {number} classes, and labels hold {number} values far apart"
        return "grey levels", text, "they look like grey levels drawn to be seen, one for each class", True
    if outside and split.kind == "CityscapesDataset" and classes <= set(range(34)):
        return "label ids", "labels are Cityscapes' labelIds, of 34 classes", "training reads labelTrainIds", True
    if not split.reduced and outside and max(classes) == number:
        return "off by one", f"labels are {min(classes)} to {number}", outcome(labelled, True), True
    if split.reduced and 0 in held and not outside and number not in held:
        whole = held >= set(range(number))
        text = "reduce_zero_label=True is for labels that start at 1; these look as if they started at 0"
        return "reduced", text, outcome(labelled, False), whole
    return None


def outcome(splits: Sequence[Split], reduce: bool) -> str:
    """What labels would become with or without ``reduce_zero_label``."""
    number, ignore = len(splits[0].classes), splits[0].ignore
    pixels = sum(through(split.tables[reduce], split.raw) for split in splits)
    held = np.flatnonzero(pixels)
    outside = [label for label in held if label >= number and label != ignore]
    zero = sum(int(split.raw[0]) for split in splits) / max(1, sum(int(split.raw.sum()) for split in splits))
    absent = [name for name, count in zip(splits[0].classes, pixels[:number], strict=True) if not count]
    moved = f"0 ({zero:.1%} of the pixels) is ignored and 1 to {number} are the classes"
    stayed = f"0 ({zero:.1%} of the pixels) is {splits[0].classes[0]!r}, and each label the class of its number"
    strays = f"{len(outside)} values are outside" if len(outside) > 1 else f"{len(outside) or 'no'} value is outside"
    lost = f"these never occur: {', '.join(absent)}" if absent else "every class occurs"
    return f"with reduce_zero_label={reduce}, {moved if reduce else stayed}; {strays}, {lost}"


def class_weights(split: Split) -> list[float]:
    """Median frequency balancing (Eigen and Fergus 2015): the median of all frequencies over that of the class.

    The frequency of a class is its share of the pixels of those images that hold it. A class that never occurs gets 1.
    """
    number = len(split.classes)
    pixels, context = split.pixels[:number], split.context[:number]
    frequency = np.divide(pixels, context, out=np.zeros(number), where=context > 0)
    if not frequency.any():
        return [1.0] * number
    median = np.median(frequency[frequency > 0])
    return [round(float(median / each), 4) if each else 1.0 for each in frequency]
