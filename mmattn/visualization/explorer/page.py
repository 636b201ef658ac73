"""The page: a template, its style and its script in one file, and the numbers of every image and model."""

import base64
import html
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
from torch import nn

from mmattn.cli import UserError, harmless
from mmattn.visualization.explorer.shot import Shot, shoot
from mmattn.visualization.images import read_image, told_apart
from mmattn.visualization.options import PLAIN, Options
from mmattn.visualization.scene import Point

HERE = Path(__file__).parent
SCRIPTS = ("numbers.js", "rows.js", "colours.js", "charts.js", "panel.js", "explorer.js")
LOG = 3  # decades below the end of the colours, where they are logarithmic


def gather(
    models: Mapping[str, nn.Module],
    images: Sequence[Path],
    target: Path,
    points: Sequence[Point] = (),
    options: Options = PLAIN,
) -> None:
    """Write one page of several models and images, telling how far it is.

    Args:
        models: As of :func:`mmattn.visualization.draw`, by their names.
        images: The files.
        target: The page.
        points: The first is where the page begins to look, the second is pinned beside it; pixels (x, y).
        options: What to show, and how the page begins.

    Raises:
        UserError: As of :func:`shoot`, or the page cannot be written.
    """
    prepare(target)
    for image in images if points else ():
        height, width = read_image(image).shape[:2]
        for x, y in points:
            if not (0 <= x < width and 0 <= y < height):
                raise UserError(f"point {x},{y} is outside {image}: x goes from 0 to {width - 1}, y to {height - 1}")
    shots: list[dict[str, Shot]] = []
    begin, done = time.perf_counter(), 0
    for image, title in zip(images, told_apart(images), strict=True):
        shots.append({})
        for name, model in models.items():
            shots[-1][name] = replace(shoot(model, image, options), name=title)
            done += 1
            left = (time.perf_counter() - begin) / done * (len(images) * len(models) - done)
            line = harmless(f"[{done}/{len(images) * len(models)}] {image}, {name}")
            print(line + f"  ({left:.0f} s left)" * (left > 0), flush=True)
    try:
        size = target.write_text(render(shots, points, options), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; choose another --html") from error
    print(f"{harmless(str(target))}, {size / 1e6:.1f} MB")


def prepare(target: Path) -> None:
    """Make the folder of a page, before anything takes time.

    Raises:
        UserError: It cannot be made, or the page cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; choose another --html") from error
    if target.is_dir() or not os.access(target if target.exists() else target.parent, os.W_OK):
        raise UserError(f"cannot write {target}; choose another --html")


def render(images: Sequence[Mapping[str, Shot]], points: Sequence[Point] = (), options: Options = PLAIN) -> str:
    """The page as text.

    Args:
        images: For each image what each model saw, by the model's name; the same models for all.
        points: As of :func:`gather`.
        options: As of :func:`gather`.
    """
    firsts = [next(iter(shots.values())) for shots in images]
    height, width = firsts[0].size
    told = {
        "models": [harmless(name) for name in images[0]],
        "images": [{"name": harmless(shot.name), "size": list(shot.size)} for shot in firsts],
        "shots": [[shot.entry for shot in shots.values()] for shots in images],
        "points": [[(x + 0.5) / width, (y + 0.5) / height] for x, y in points],
        "begin": {"opacity": options.alpha, "clip": options.clip, "log": LOG if options.log else 1},
        "maps": {"up": _colours("inferno"), "both": _colours("RdBu_r")},
    }
    data = [_script("told", json.dumps(told), "application/json")]
    for i, (first, shots) in enumerate(zip(firsts, images, strict=True)):
        data.append(_script(f"photo-{i}", base64.b64encode(first.photo).decode()))
        data += [_script(f"numbers-{i}-{m}", shot.blob) for m, shot in enumerate(shots.values())]
    title = firsts[0].name if len(images) == 1 else f"{len(images)} images"
    parts = {
        "title": html.escape(harmless(f"{title}, seen by {' and '.join(images[0])}")),
        "style": (HERE / "explorer.css").read_text(encoding="utf-8"),
        "data": "\n".join(data),
        "script": "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS),
    }
    pieces = (HERE / "explorer.html").read_text(encoding="utf-8").split("@@")  # text, name, text, name, ... text
    return "".join(piece if i % 2 == 0 else parts[piece] for i, piece in enumerate(pieces))


def _script(name: str, text: str, kind: str = "text/plain") -> str:
    """Data for the script to read; nothing in it can end the element."""
    text = text.replace("<", "\\u003c") if kind == "application/json" else text
    return f'<script type="{kind}" id="{name}">{text}</script>'


def _colours(name: str) -> str:
    """256 colours of matplotlib in base64, three bytes each."""
    table = matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3]
    return base64.b64encode(table.tobytes()).decode()
