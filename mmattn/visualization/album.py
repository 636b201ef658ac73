"""A figure for each of many images."""

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from mmattn.cli import UserError, harmless
from mmattn.engine.config import find
from mmattn.visualization.look import draw
from mmattn.visualization.options import PLAIN, Options
from mmattn.visualization.scene import Point

DPI = 150


def fill(
    models: Mapping[str, nn.Module],
    images: Sequence[Path],
    folder: Path,
    *,
    suffix: str = ".png",
    points: Sequence[Point] = (),
    note: str = "",
    options: Options = PLAIN,
) -> None:
    """Draw every image into a folder, telling how far it is.

    A file is called as its image, with ``_attention`` and the suffix at its end; images of one name keep their folders.
    What is written before something goes wrong stays.

    Args:
        models: As in :func:`mmattn.visualization.draw`, by their names.
        images: The files.
        folder: Made where it is missing.
        suffix: Of a format that matplotlib writes, such as ``.png``, ``.pdf`` or ``.svg``.
        points: Query pixels, the same for all images.
        note: Small print in the heading.
        options: What to show, and how.

    Raises:
        UserError: As ``draw``, or the folder cannot be written to.
    """
    begin = time.perf_counter()
    for i, (image, target) in enumerate(zip(images, targets(images, folder, suffix), strict=True)):
        figure = draw(models, image, points=points, note=note, options=options)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(target, dpi=DPI)
        except OSError as error:
            raise UserError(f"cannot write {target}: {error.strerror}; choose another --out-dir") from error
        left = (time.perf_counter() - begin) / (i + 1) * (len(images) - i - 1)
        done = harmless(f"[{i + 1}/{len(images)}] {target}")
        print(done + f"  ({_minutes(left)} left)" * (i + 1 < len(images)), flush=True)


def targets(images: Sequence[Path], folder: Path, suffix: str = ".png") -> list[Path]:
    """Where the figure of each image goes."""
    names = Counter(image.stem for image in images)
    root = os.path.commonpath([os.path.dirname(os.path.abspath(image)) for image in images])
    found = []
    for image in images:
        inside = image.name if names[image.stem] == 1 else os.path.relpath(image, root)
        kind = image.suffix.replace(".", "_") if names[image.stem] > 1 else ""
        found.append(folder / Path(inside).parent / f"{image.stem}{kind}_attention{suffix}")
    return found


def names_of(models: Sequence[tuple[Path, str]]) -> list[str]:
    """What to call each of several configs and checkpoints: as short as tells them apart."""
    for name in (
        lambda config, checkpoint: config.stem,
        lambda config, checkpoint: Path(checkpoint).stem,
        lambda config, checkpoint: f"{Path(checkpoint).parent.name}/{Path(checkpoint).stem}",
    ):
        found = [name(*model) for model in models]
        if len(set(found)) == len(found):
            return found
    return [f"{i}: {name}" for i, name in enumerate(found, start=1)]


def prepare_folder(folder: Path) -> Path:
    """The folder, made where it is missing.

    Raises:
        UserError: It cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}; choose another --out-dir") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to the folder {folder}; choose another --out-dir")
    return folder


def folder_of(config: Path, checkpoint: str) -> Path:
    """Where figures go when nobody says: beside a checkpoint file, else into a work directory of the config's name."""
    return (Path(checkpoint).parent if Path(checkpoint).is_file() else Path("work_dirs", config.stem)) / "visualize"


def config_of(config: Path, checkpoint: str) -> Path:
    """The config that the checkpoint was trained with, which training leaves beside it under the config's name."""
    config = find(config)
    beside = Path(checkpoint).parent / config.name
    if not Path(checkpoint).is_file() or not beside.is_file() or not config.is_file() or beside.samefile(config):
        return config
    print(harmless(f"using {beside}, the config that the checkpoint was trained with, instead of {config}"))
    return beside


def device_of(name: str | None) -> str:
    """The device called so; without a name a GPU where there is one.

    Raises:
        UserError: There is no such device here.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).partition(chr(10))[0]}") from error
    return name


def _minutes(seconds: float) -> str:
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"
