"""One image and its label, read as training reads them, and what is wrong with the two files."""

from hashlib import blake2b
from typing import Any, NamedTuple

import mmcv
import numpy as np
from mmengine import fileio

PNG, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
JPEG, JPEG_SCAN, JPEG_END = b"\xff\xd8\xff", b"\xda", b"\xff\xd9"


class Loading(NamedTuple):
    """How the pipeline of a split decodes its files."""

    colours: str  # such as "color"
    image_backend: str
    image_args: dict[str, Any] | None  # of the file backend
    label_backend: str
    label_args: dict[str, Any] | None


class Pair(NamedTuple):
    """What the dataset lists under one index."""

    image: str
    label: str | None
    loading: Loading


class Fault(NamedTuple):
    """What is wrong with one file."""

    kind: str
    file: str
    detail: str = ""


class Seen(NamedTuple):
    """What a pair holds."""

    faults: list[Fault]
    size: tuple[int, int] | None = None  # width, height
    digest: bytes = b""  # of the image's pixels
    counts: np.ndarray | None = None  # (256,), pixels of each value in the file, where the label is usable


def look(pair: Pair) -> Seen:
    """Read an image and its label."""
    faults: list[Fault] = []
    how = pair.loading
    image = _read("image", pair.image, how.image_args, faults, how.colours, how.image_backend)
    size = digest = None
    if image is not None:
        size = image.shape[1::-1]
        digest = blake2b(np.ascontiguousarray(image), digest_size=16, key=repr(image.shape).encode()).digest()
    counts = None if pair.label is None else _count(pair, image, faults)
    return Seen(faults, size, digest or b"", counts)


def _count(pair: Pair, image: np.ndarray | None, faults: list[Fault]) -> np.ndarray | None:
    path, how = pair.label, pair.loading
    labels = _read("label", path, how.label_args, faults, "unchanged", how.label_backend)
    if labels is None:
        return None
    labels = labels[..., 0] if labels.shape[2:] == (1,) else labels
    if labels.ndim != 2:
        faults.append(Fault("colour label", path, f"{labels.shape[-1]} channels"))
        return None
    with np.errstate(invalid="ignore"):
        values = labels.astype(np.uint8)  # as mmseg does
    wrong = labels[values != labels]
    if wrong.size:
        became = f"{wrong[0]} would be read as {values[values != labels][0]}"
        faults.append(Fault("bit depth", path, f"{labels.dtype} instead of 8 bits: {became}"))
    if image is not None and labels.shape != image.shape[:2]:
        (height, width), (h, w) = labels.shape, image.shape[:2]
        turned = ", turned by 90 degrees" if (height, width) == (w, h) else ""
        faults.append(Fault("size", path, f"{width}x{height}, its image {w}x{h}{turned}"))
    return np.bincount(values.ravel(), minlength=256)


def _read(
    what: str, path: str, args: dict[str, Any] | None, faults: list[Fault], colours: str, backend: str
) -> np.ndarray | None:
    """The pixels; None, and a fault, where training would stop."""
    try:
        content = fileio.get(path, backend_args=args)
    except FileNotFoundError:
        faults.append(Fault(f"missing {what}", path))
        return None
    except OSError as error:
        faults.append(Fault(f"unreadable {what}", path, error.strerror or str(error)))
        return None
    if not content:
        faults.append(Fault(f"unreadable {what}", path, "it is empty"))
        return None
    try:
        pixels = mmcv.imfrombytes(content, flag=colours, backend=backend)
    except Exception:  # decoders raise what they like: whatever it is, training stops
        pixels = None
    if cut_off(content):
        faults.append(Fault(f"unreadable {what}", path, "its end is missing"))
        return None
    if pixels is None:
        faults.append(Fault(f"unreadable {what}", path, "damaged, or no image"))
    return pixels


def cut_off(content: bytes) -> bool:
    """Whether a PNG or JPEG lacks its end; some versions of the decoders fill up the rest and say nothing."""
    if content.startswith(PNG):
        return PNG_END not in content[-1024:] and PNG_END not in content
    if not content.startswith(JPEG):
        return False
    at = 2
    while content[at : at + 1] == b"\xff":  # a segment; a thumbnail inside one has an end of its own
        if content[at + 1 : at + 2] == JPEG_SCAN:
            return content.rfind(JPEG_END) < at
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return at >= len(content)
