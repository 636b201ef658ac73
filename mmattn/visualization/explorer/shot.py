"""One model's view of one image, ready for the page."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from mmattn.cli import UserError
from mmattn.datasets.labels import IGNORE
from mmattn.visualization.explorer.codes import Blob, Codes
from mmattn.visualization.explorer.features import Features, featured
from mmattn.visualization.explorer.layers import layers
from mmattn.visualization.images import read_image
from mmattn.visualization.look import observe
from mmattn.visualization.options import PLAIN, Options
from mmattn.visualization.scene import Scene

SIDE = 2048  # longest side of the image that the page shows
QUALITY = 87  # of its JPEG


@dataclass(frozen=True)
class Shot:
    """What the page needs of one model and one image.

    Attributes:
        name: Of the image.
        size: Its height and width.
        photo: JPEG, no side longer than 2048.
        entry: What the page reads, but for the numbers.
        blob: The numbers.
    """

    name: str
    size: tuple[int, int]
    photo: bytes
    entry: dict
    blob: str


def shoot(model: nn.Module, image: Path | str | np.ndarray, options: Options = PLAIN) -> Shot:
    """Run a model on an image, and make what it attends to small enough for a page.

    Args:
        model: As of :func:`mmattn.visualization.draw`.
        image: As there.
        options: Which layers, mechanisms and heads.

    Raises:
        UserError: As there.
    """
    path = None if isinstance(image, np.ndarray) else Path(image)
    with featured(model) as features:
        scene = observe(model, read_image(path) if path else image, path)
    return develop(scene, path.name if path else "image", features, options)


def develop(scene: Scene, name: str, features: Features | None = None, options: Options = PLAIN) -> Shot:
    """What a model saw, made small enough for a page.

    Args:
        scene: The image and the maps.
        name: What to call the image.
        features: What went into the channel gates.
        options: As of :func:`shoot`.

    Raises:
        UserError: A map is not finite, or there is none of those asked for.
    """
    maps = options.choose(scene.maps)
    for one in maps:
        if not all(torch.isfinite(x).all() for x in vars(one.record).values() if isinstance(x, torch.Tensor)):
            raise UserError(f"the attention at {one.name} is not finite: look for NaN or inf in the checkpoint")
    blob, palette, size = Blob(), scene.palette, scene.image.shape[:2]
    scale = min(1.0, SIDE / max(size))
    shown = (max(1, round(size[1] * scale)), max(1, round(size[0] * scale)))  # width, height
    pixels = cv2.resize(scene.image, shown, interpolation=cv2.INTER_AREA) if scale < 1 else scene.image
    _, photo = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    entry = {
        "reach": list(scene.reach),
        "shown": [shown[1], shown[0]],
        "classes": list(palette.classes),
        "colours": [list(map(int, colour)) for colour in palette.colours],
        "ignore": IGNORE,
        "prediction": blob.put(_classes(scene.prediction, shown)),
        "truth": None if scene.label is None else blob.put(_classes(scene.label, shown)),
        "layers": layers(maps, features or {}, palette.classes, blob),
    }
    return Shot(name, (size[0], size[1]), photo.tobytes(), entry, blob.text())


def _classes(plane: np.ndarray, shown: tuple[int, int]) -> Codes:
    plane = cv2.resize(plane.astype(np.int32), shown, interpolation=cv2.INTER_NEAREST)
    return Codes(plane.reshape(1, -1).astype(np.uint32), np.zeros(1, int), np.ones(1))
