"""A lossless cache of images and labels: smaller than PNG, read several times as fast, and only where it is looked at.

    python tools/prepare_data.py cache configs/ccnet_r50.py

The folder ``mmattn_cache`` in a dataset's own holds one file for each image, under the image's path. While it is there
the loading transforms read it in place of the images; an image that has changed since is read itself.

Layout  Zstandard frames, which ``zstd -dc`` reads as well. The first is skippable and holds a header in JSON. Of an
        image each other frame holds 64 rows as three planes, green, blue - green and red - green, and of each row the
        difference to the one above, modulo 256. Of a label map one frame holds the labels as they are.
"""

import hashlib
import json
import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

import cv2
import mmcv
import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from mmattn.cli import UserError, as_typed
from mmattn.datasets.prepare import UNREADABLE, Report, in_parallel
from mmattn.datasets.promises import Promise

FOLDER, SUFFIX = "mmattn_cache", ".zst"
ROWS = 64  # of an image in each frame
START = struct.Struct("<III")  # a skippable frame's number, the length of what follows, the header's CRC-32
SKIPPABLE = 0x184D2A57
AGAIN = "`python tools/prepare_data.py cache CONFIG{}` makes it anew"


class Damaged(Exception):
    """A file of the cache is not what was written."""


@dataclass(frozen=True)
class Header:
    """What the first frame says."""

    shape: list[int]
    frames: list[int]  # bytes of each
    size: int  # of the original
    mtime_ns: int
    blake2b: str  # of the original's bytes

    @property
    def is_of_labels(self) -> bool:
        return len(self.shape) == 2


class Stored(Promise):
    """An image in the cache, decoded where it is looked at.

    Args:
        path: The file.
        original: Reads the image itself, should the file turn out to be damaged.

    Raises:
        Damaged: It has no header.
    """

    def __init__(self, path: str | Path, original: Callable[[], np.ndarray]) -> None:
        self.path, self.original = path, original
        self.header, self.start = _read_header(path)
        self.shape = tuple(self.header.shape)

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        try:
            return self.decode(window)
        except Damaged:
            _say("damaged", f"{self.path} is damaged, its image is read instead: {AGAIN.format(' --verify')}")
            return self.original()[window]

    def decode(self, window: tuple[slice, slice]) -> np.ndarray:
        """Part of the image.

        Raises:
            Damaged: The file does not hold it.
        """
        import zstandard

        top, bottom, left, right = self.bounds(window)
        height, width = self.shape[:2]
        rows = height if self.header.is_of_labels else ROWS
        first, last = top // rows, -(-bottom // rows)
        begins = list(accumulate(self.header.frames, initial=self.start))
        found = np.empty((max(0, bottom - top), max(0, right - left), *self.shape[2:]), dtype=np.uint8)
        if not found.size:
            return found
        try:
            with open(self.path, "rb") as file:
                file.seek(begins[first])
                data = memoryview(file.read(begins[last] - begins[first]))
            decompress = zstandard.ZstdDecompressor().decompress
            for i in range(first, last):
                frame = decompress(data[begins[i] - begins[first] : begins[i + 1] - begins[first]])
                strip = np.frombuffer(frame, dtype=np.uint8).reshape(-1, min(rows, height - i * rows), width)
                begin, end = max(top, i * rows), min(bottom, (i + 1) * rows)
                strip = strip[:, : end - i * rows, left:right]
                if not self.header.is_of_labels:
                    strip = _sum_rows(strip)
                _join(strip[:, begin - i * rows :], found[begin - top : end - top])
        except (OSError, ValueError, IndexError, zstandard.ZstdError) as error:
            raise Damaged(str(self.path)) from error
        return found


class File(NamedTuple):
    """An image or label map of a dataset."""

    path: Path
    is_labels: bool
    root: Path  # of the dataset


def find(path: str, original: Callable[[], np.ndarray], *, is_labels: bool = False) -> Stored | None:
    """What the cache has in the place of a file.

    Args:
        path: The image or label map.
        original: Reads it.
        is_labels: Which of the two it is.

    Returns:
        None when there is no cache, or the file has changed since it was made.
    """
    folder, name = os.path.split(path)
    found = _cache_of(folder)
    if found is None or not _can_read(found):
        return None
    try:
        stored = Stored(os.path.join(found, name + SUFFIX), original)
        if stored.header.is_of_labels != is_labels:
            return None
        if not _unchanged(stored.header, path):
            _say("stale", f"{path} has changed since {stored.path} was made, and is read itself: {AGAIN.format('')}")
            return None
        return stored
    except FileNotFoundError:
        return None
    except Damaged as error:
        _say("damaged", f"{error} is damaged, its image is read instead: {AGAIN.format('')}")
        return None


def build(datasets: Iterable[BaseDataset], verify: bool = False) -> Report:
    """Make what is missing of the cache of some datasets, on all cores.

    Args:
        datasets: As of mmseg; what they load does not matter.
        verify: Compare what is there with the content of the originals, not with their size and time alone.

    Raises:
        UserError: Zstandard is not installed.
    """
    try:
        import zstandard  # noqa: F401
    except ImportError:
        raise UserError("the cache is made with Zstandard: pip install zstandard") from None
    files = sorted({file for dataset in datasets for file in _files(dataset)})
    report = Report(counts={"images": sum(not file.is_labels for file in files)})
    report.counts["labels"] = len(files) - report.counts["images"]
    done = []
    for file, (made, problem) in zip(files, in_parallel(lambda file: make(file, verify), files, "cache"), strict=True):
        report.made += made is True
        report.kept += made is False
        report.problems += [problem] if problem else []
        done += [] if problem else [file]
    originals = sum(file.path.stat().st_size for file in done)
    cached = sum(target(file).stat().st_size for file in done)
    places = ", ".join(sorted({str(file.root / FOLDER) for file in done}))
    if done:
        report.notes.append(f"{places}: {cached / 1e6:.1f} MB for {originals / 1e6:.1f} MB")
    return report


def make(file: File, verify: bool = False) -> bool:
    """Write one file of the cache, whole or not at all.

    Returns:
        False when the right one was already there.

    Raises:
        UserError: The original cannot be read, or the cache not be written.
    """
    if _is_right(file, verify):
        return False
    try:
        status, content = file.path.stat(), file.path.read_bytes()
        pixels = read(content, file.is_labels)
    except FileNotFoundError as error:
        raise UserError(f"{file.path} does not exist") from error
    except UNREADABLE as error:
        raise UserError(f"{file.path} cannot be read as an image ({error}); fetch it again") from error
    if pixels is None:
        raise UserError(f"{file.path} cannot be read as an image; fetch it again")
    if pixels.ndim != (2 if file.is_labels else 3):
        raise UserError(f"{file.path} is not a label image: expected one channel that holds the class of each pixel")
    frames = _frames(pixels)
    head = Header(list(pixels.shape), [*map(len, frames)], status.st_size, status.st_mtime_ns, _digest(content))
    text = json.dumps(asdict(head)).encode()
    place = target(file)
    unfinished = place.with_name(place.name + ".part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(b"".join((START.pack(SKIPPABLE, len(text) + 4, zlib.crc32(text)), text, *frames)))
        if not np.array_equal(Stored(unfinished, lambda: pixels).decode(np.s_[:, :]), pixels):
            raise Damaged(f"{unfinished} does not hold what was written")
        os.replace(unfinished, place)
    except OSError as error:
        raise UserError(f"{place} cannot be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return True


def read(content: bytes, is_labels: bool) -> np.ndarray:
    """An image or label map as mmseg decodes it unless told otherwise."""
    if is_labels:
        labels = mmcv.imfrombytes(content, flag="unchanged", backend="pillow").astype(np.uint8)
        return labels[..., 0] if labels.shape[2:] == (1,) else labels
    return mmcv.imfrombytes(content, flag="color", backend="cv2")


def target(file: File) -> Path:
    """The file of the cache that belongs to one of the dataset."""
    path = file.root / FOLDER / file.path.relative_to(file.root)
    return path.with_name(path.name + SUFFIX)


def _files(dataset: BaseDataset) -> Iterable[File]:
    root = Path(getattr(dataset, "data_root", None) or ".")
    for entry in dataset.load_data_list():
        for key in ("img_path", "seg_map_path"):
            if entry.get(key):
                path = Path(entry[key])
                inside = path.is_relative_to(root) and ".." not in path.relative_to(root).parts
                yield File(path, key == "seg_map_path", root if inside else path.parent)


def _is_right(file: File, verify: bool) -> bool:
    try:
        stored = Stored(target(file), lambda: np.empty(0))
        if not verify:
            return stored.header.is_of_labels == file.is_labels and _unchanged(stored.header, file.path)
        stored.decode(np.s_[:, :])
        return _unchanged(stored.header, file.path) and _digest(file.path.read_bytes()) == stored.header.blake2b
    except (OSError, Damaged):
        return False


def _unchanged(header: Header, path: str | Path) -> bool:
    status = os.stat(path)
    return (header.size, header.mtime_ns) == (status.st_size, status.st_mtime_ns)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _read_header(path: str | Path) -> tuple[Header, int]:
    """The header of a file, and where its frames begin."""
    with open(path, "rb") as file:
        try:
            kind, length, check = START.unpack(file.read(START.size))
        except struct.error as error:
            raise Damaged(str(path)) from error
        text = file.read(length - 4)
        if kind != SKIPPABLE or zlib.crc32(text) != check:
            raise Damaged(str(path))
        return Header(**json.loads(text)), file.tell()


def _frames(pixels: np.ndarray) -> list[bytes]:
    import zstandard

    if pixels.ndim == 2:
        return [zstandard.ZstdCompressor(level=9, write_checksum=True).compress(np.ascontiguousarray(pixels))]
    compress = zstandard.ZstdCompressor(level=1, write_checksum=True).compress  # noise: higher levels gain nothing
    return [compress(_to_planes(pixels[top : top + ROWS])) for top in range(0, len(pixels), ROWS)]


def _to_planes(strip: np.ndarray) -> np.ndarray:
    blue, green, red = cv2.split(strip)
    return np.diff(np.stack([green, blue - green, red - green]), axis=1, prepend=np.uint8(0))


def _sum_rows(planes: np.ndarray) -> np.ndarray:
    planes = planes.copy()
    for above, row in pairwise(planes.swapaxes(0, 1)):
        np.add(above, row, out=row)
    return planes


def _join(planes: np.ndarray, image: np.ndarray) -> None:
    if len(planes) == 1:
        image[:] = planes[0]
        return
    green, blue, red = planes
    cv2.merge([np.add(blue, green, out=blue), green, np.add(red, green, out=red)], image)


@cache
def _cache_of(folder: str) -> str | None:
    """Where the cache has what belongs to the files of a folder; the nearest one wins."""
    here = Path(folder)
    found = next((root for root in (here, *here.parents) if (root / FOLDER).is_dir()), None)
    return None if found is None else str(found / FOLDER / here.relative_to(found))


@cache
def _can_read(place: str) -> bool:
    try:
        import zstandard  # noqa: F401
    except ImportError:
        _say("zstandard", f"{place} is not used, the images are read themselves: pip install zstandard")
        return False
    return True


_said: set[str] = set()


def _say(kind: str, line: str) -> None:
    """A warning of each kind once in a process."""
    if kind not in _said:
        _said.add(kind)
        print_log(as_typed(line), "current", logging.WARNING)
