"""The splits of a config, and every pair in them, looked at on all cores."""

import os
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmattn.cli import UserError
from mmattn.engine import datacheck
from mmattn.engine.config import IMAGES, LABELS, clear_registry_errors, datasets, walk
from mmattn.engine.doctor.reading import Loading, Pair, Seen, look
from mmattn.registry import TRANSFORMS

KEPT = 1000  # files that are named of one kind in one split


@dataclass
class Named:
    """Files of one kind: all counted, the first ones kept."""

    count: int = 0
    kept: list[tuple[str, str]] = field(default_factory=list)  # file, detail

    def add(self, file: str, detail: str = "") -> None:
        self.count += 1
        if len(self.kept) < KEPT:
            self.kept.append((file, detail))


@dataclass
class Split:
    """One dataset of the config, and what was found in it.

    Attributes:
        name: Such as ``train``, or ``val, test`` where both loaders list the same files.
        keys: Where it stands in the config.
        kind: The dataset's type.
        folder: Of the images.
        classes: Names.
        ignore: The label that is not counted.
        reduced: Whether the config sets ``reduce_zero_label``.
        tables: What becomes of each value in a file, without and with ``reduce_zero_label``.
        pairs: Images and labels.
        raw: Pixels of each value in the files.
        images: Images that hold each label, as training reads it.
        context: Pixels of those images.
        outside: Pixels and files of each value outside the classes.
        named: Files by kind of fault.
        sizes: Images of each width and height.
        faulty: Indices of the pairs at which training would stop or go wrong.
        strayed: Indices of the pairs whose labels are outside the classes.
    """

    name: str
    keys: list[str]
    kind: str
    folder: str
    classes: tuple[str, ...]
    ignore: int
    reduced: bool
    tables: tuple[np.ndarray, np.ndarray]
    pairs: list[Pair]
    raw: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    images: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    context: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    outside: dict[int, tuple[int, Named]] = field(default_factory=dict)
    named: dict[str, Named] = field(default_factory=dict)
    sizes: Counter = field(default_factory=Counter)
    faulty: set[int] = field(default_factory=set)
    strayed: set[int] = field(default_factory=set)

    @property
    def is_trained(self) -> bool:
        return self.name.startswith("train")

    @property
    def table(self) -> np.ndarray:
        return self.tables[self.reduced]

    @property
    def pixels(self) -> np.ndarray:
        """Pixels of each label, (256,), as training reads them."""
        return through(self.table, self.raw)

    def fault(self, kind: str, file: str, detail: str = "") -> None:
        self.named.setdefault(kind, Named()).add(file, detail)

    def add(self, index: int, seen: Seen) -> None:
        """Take in what a pair holds."""
        label = self.pairs[index].label
        for fault in seen.faults:
            self.fault(*fault)
            self.faulty.add(index)
        if seen.size:
            self.sizes[seen.size] += 1
        if seen.counts is None:
            return
        self.raw += seen.counts
        pixels = through(self.table, seen.counts)
        self.images += pixels > 0
        self.context += np.where(pixels > 0, pixels[: len(self.classes)].sum(), 0)
        if pixels[self.ignore] == pixels.sum():
            self.fault("only ignored", label)
        for value in np.flatnonzero(seen.counts):
            if self.is_outside(self.table[value]):
                before, files = self.outside.setdefault(int(value), (0, Named()))
                files.add(label, f"{seen.counts[value]} pixels")
                self.strayed.add(index)
                self.outside[int(value)] = before + int(seen.counts[value]), files

    def is_outside(self, label: int) -> bool:
        return label >= len(self.classes) and label != self.ignore


def through(table: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Pixels of each value, (256,), after the values went through a table."""
    found = np.zeros(256, np.int64)
    np.add.at(found, table, counts)
    return found


def splits(cfg: Config) -> list[Split]:
    """The datasets of all loaders, each with the files that it lists.

    Raises:
        UserError: There is none; one has no classes or no images; a folder is missing.
    """
    found: list[Split] = []
    for key, dataset in datasets(cfg):
        built = datacheck.open_dataset(cfg, key, dataset)
        built.serialize_data = False  # no worker process will copy it
        built.full_init()
        split = _split(cfg, key, dataset, built)
        same = [other for other in found if other.pairs == split.pairs and not other.is_trained]
        if same:
            same[0].keys.append(key)
            same[0].name += f", {split.name}"
        else:
            found.append(split)
    if not found:
        raise UserError(f"{cfg.filename} names no dataset: it has no train_, val_ or test_dataloader")
    return found


def _split(cfg: Config, key: str, dataset: ConfigDict, built: BaseDataset) -> Split:
    listed = [built.get_data_info(index) for index in range(len(built))]
    datacheck.expect_images(key, built, listed)
    nodes = {str(node.get("type")).rpartition(".")[2]: node for _, node in walk(dataset.pipeline)}
    with clear_registry_errors(cfg):
        images = TRANSFORMS.build(nodes.get(IMAGES, {"type": f"mmattn.{IMAGES}"}))
        labels = TRANSFORMS.build(nodes.get(LABELS, {"type": f"mmattn.{LABELS}"}))
    how = Loading(
        images.color_type, images.imdecode_backend, images.backend_args, labels.imdecode_backend, labels.backend_args
    )
    reduced = bool(listed[0].get("reduce_zero_label"))
    if labels.reduce_zero_label not in (None, reduced):
        raise UserError(
            f"{key}: {LABELS} has reduce_zero_label={labels.reduce_zero_label}, the dataset {reduced}: set it in the "
            f"dataset alone"
        )
    loader, _, path = key.partition("_dataloader.dataset")
    split = Split(
        name=f"{loader}{path}".replace(".datasets", ""),
        keys=[key],
        kind=str(dataset.type).rpartition(".")[2],
        folder=str((getattr(built, "data_prefix", None) or {}).get("img_path") or dataset.get("data_root") or ""),
        classes=tuple(map(str, built.metainfo["classes"])),
        ignore=labels.ignore_index,
        reduced=reduced,
        tables=(read_as(nodes, listed[0], False), read_as(nodes, listed[0], True)),
        pairs=[Pair(item["img_path"], item.get("seg_map_path"), how) for item in listed],
    )
    if "seg_map_suffix" in vars(built) and not built.ann_file and built.data_prefix.get("seg_map_path"):
        _labels_alone(split, Path(built.data_prefix["seg_map_path"]), built.seg_map_suffix)
    return split


def read_as(nodes: dict, item: dict, reduce: bool) -> np.ndarray:
    """What training reads for each of the 256 values of a file: a picture of them all goes through the loading."""
    loading = {"type": f"mmattn.{LABELS}", **nodes.get(LABELS, {}), "num_classes": None, "reduce_zero_label": None}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "values.png"
        Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(path)
        entry = {"seg_map_path": str(path), "reduce_zero_label": reduce, "label_map": item.get("label_map")}
        return TRANSFORMS.build(loading).transform({**entry, "seg_fields": []})["gt_seg_map"].ravel()


def _labels_alone(split: Split, folder: Path, suffix: str) -> None:
    """Labels of which the dataset lists no image: a sign of a wrong suffix, or of lost images."""
    listed = {os.path.realpath(pair.label) for pair in split.pairs if pair.label}
    for root, _, names in os.walk(folder):
        for name in sorted(names):
            path = os.path.join(root, name)
            if name.endswith(suffix) and os.path.realpath(path) not in listed:
                split.fault("label alone", path)


def examine(found: Sequence[Split]) -> None:
    """Look at every file, on all cores, and tell on stderr how far it is."""
    jobs = [(split, index) for split in found for index in range(len(split.pairs))]
    first_seen: dict[bytes, tuple[Split, int]] = {}
    looked = _looked_at([split.pairs[index] for split, index in jobs])
    for (split, index), seen in zip(jobs, looked, strict=True):
        split.add(index, seen)
        if seen.digest:
            _compare(split, index, *first_seen.setdefault(seen.digest, (split, index)))


def _compare(split: Split, index: int, other: Split, first: int) -> None:
    """Note an image that was seen before."""
    if split is other and index == first:
        return
    kind = "twice" if other is split else f"also in {other.name}"
    image, twin = split.pairs[index].image, other.pairs[first].image
    split.fault(kind, image, "the same file" if image == twin else f"the same picture as {twin}")
    if other is not split and other.is_trained:
        other.faulty.add(first)


def _looked_at(pairs: Sequence[Pair]) -> Iterator[Seen]:
    workers = os.cpu_count() or 1
    pool = ThreadPoolExecutor(workers)  # reading, decoding and hashing release the interpreter
    waiting: deque[Future[Seen]] = deque()
    try:
        with decoders_silent() as stderr, bar(Console(file=stderr)) as progress:
            task = progress.add_task("", total=len(pairs))
            for index in range(len(pairs) + 4 * workers):
                if index < len(pairs):
                    waiting.append(pool.submit(look, pairs[index]))
                if waiting and index >= 4 * workers:
                    yield waiting.popleft().result()
                    progress.advance(task)
    finally:
        pool.shutdown(cancel_futures=True)


def bar(console: Console) -> Progress:
    """How far it is, and how long it will take, where a terminal can show it."""
    columns = (TextColumn("read"), BarColumn(), MofNCompleteColumn(), TextColumn("ETA"), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def decoders_silent() -> Iterator[TextIO]:
    """Gives stderr, while what libpng and libjpeg write there themselves goes nowhere."""
    with os.fdopen(os.dup(2), "w") as stderr, open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield stderr
        finally:
            os.dup2(stderr.fileno(), 2)
