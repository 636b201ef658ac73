"""The built-in sample: street scenes in the layout of Cityscapes, drawn by code on first use.

``ensure(root)`` draws them once. The pictures depend on a seed and on this package's source alone: a change of either
draws them anew.
"""

import fcntl
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path

import cv2

from mmattn.cli import UserError

from .labels import TRAIN_IDS
from .scene import draw

SEED = 1
CITIES = {"train": ("sampleton", 160), "val": ("drawbridge", 32)}  # split -> city, number of pictures
STAMP = "sample.json"


def ensure(root: Path, *, progress: bool = True) -> Path:
    """Make sure that the built-in sample is at ``root``.

    Args:
        root: Folder of the dataset, drawn if it is missing or out of date.
        progress: Whether to tell on stderr how the drawing goes.

    Returns:
        ``root``.

    Raises:
        UserError: ``root`` holds something else, or cannot be written.
    """
    root = Path(root)
    place, stamp = root.resolve(), _stamp()
    if _read(place) == stamp:
        return root
    if place.exists() and not (place.is_dir() and ((place / STAMP).is_file() or not any(place.iterdir()))):
        raise UserError(f"{root} is not the built-in sample; move it away, or name another folder for the sample")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _alone_in(place.parent), tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as folder:
            if _read(place) == stamp:  # by now, drawn by another process
                return root
            drawn = Path(folder) / "drawn"
            _draw_all(drawn, progress)
            (drawn / STAMP).write_text(json.dumps(stamp, indent=2) + "\n")
            if place.exists():
                place.rename(Path(folder) / "old")
            drawn.rename(place)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot draw the built-in sample at {root}: {reason}; name another folder") from error
    return root


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is in the folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _stamp() -> dict[str, str | int]:
    """What the pictures depend on."""
    code = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return {"seed": SEED, "code": sha256(code).hexdigest()}


def _read(root: Path) -> dict | None:
    try:
        return json.loads((root / STAMP).read_text())
    except (OSError, ValueError):
        return None


def _draw_all(root: Path, progress: bool) -> None:
    jobs = [(root, split, number) for split, (_, count) in CITIES.items() for number in range(count)]
    for split, (city, _) in CITIES.items():
        for kind in ("leftImg8bit", "gtFine"):
            (root / kind / split / city).mkdir(parents=True)
    workers = min(len(jobs), os.cpu_count() or 1, 16)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        done = pool.map(_draw_one, *zip(*jobs, strict=True), chunksize=4)
        for _ in _told(done, len(jobs)) if progress else done:
            pass


def _draw_one(root: Path, split: str, number: int) -> None:
    cv2.setNumThreads(1)
    image, label = draw((SEED, list(CITIES).index(split), number))
    city = CITIES[split][0]
    name = f"{city}_{number:06d}_000019"
    annotation = root / "gtFine" / split / city / f"{name}_gtFine"
    _write(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", image[..., ::-1])
    _write(annotation.with_name(f"{annotation.name}_labelIds.png"), label)
    _write(annotation.with_name(f"{annotation.name}_labelTrainIds.png"), TRAIN_IDS[label])


def _write(path: Path, pixels: "cv2.typing.MatLike") -> None:
    """cv2.imwrite reports a full disk only by returning False, and cannot write to every path on Windows."""
    path.write_bytes(cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 4])[1].tobytes())


def _told(steps: Iterator[None], total: int) -> Iterator[None]:
    """Pass steps on and tell how many are done and how long the rest will take."""
    start, live = time.monotonic(), sys.stderr.isatty()
    for done, step in enumerate(steps, 1):
        left = (time.monotonic() - start) / done * (total - done)
        if live or done in (1, total) or done % 40 == 0:
            text = f"drawing the built-in sample: {done}/{total}, {left:.0f} s left"
            print(
                f"\r{text} " if live else text, end="" if live and done < total else "\n", file=sys.stderr, flush=True
            )
        yield step
