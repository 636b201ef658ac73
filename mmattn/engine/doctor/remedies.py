"""What to change: settings of a config that goes on from the one that was examined, and how to mend files."""

import os
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config, ConfigDict

from mmattn.cli import as_typed
from mmattn.engine import config
from mmattn.engine.doctor.findings import FORMULA, Finding, class_weights
from mmattn.engine.doctor.splits import Split

REWRITE = """from pathlib import Path
import numpy as np
from PIL import Image

table = np.full(256, 255, np.uint8)
table[{values}] = range({number})
for folder in {folders}:
    for path in Path(folder).rglob("*.png"):
        target = Path(folder + "_index") / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(table[np.asarray(Image.open(path))]).save(target)
"""


@dataclass
class Remedy:
    """Something to change.

    Attributes:
        why: In one line.
        settings: Of the config, by dotted key.
        code: Python to run before.
        command: For the shell, instead of settings.
    """

    why: str
    settings: dict[str, Any] = field(default_factory=dict)
    code: str = ""
    command: str = ""


def remedies(cfg: Config, splits: Sequence[Split], found: Sequence[Finding], folder: Path) -> list[Remedy]:
    """What would make the errors go; more than one where it is the user's choice.

    Args:
        cfg: The config.
        splits: As examined.
        found: As of :func:`~mmattn.engine.doctor.findings.diagnose`.
        folder: Where the lists of good files are written, should some have to be left out.
    """
    kinds = {finding.kind for finding in found}
    shifted = _relabel(cfg, splits, kinds)
    left_out = _leave_out(cfg, splits, folder, with_strayed=not shifted)
    if not shifted:
        return [left_out] if left_out.settings else []
    for remedy in shifted if left_out.settings else ():
        remedy.settings |= left_out.settings
        remedy.why += f"; {left_out.why}"
    return shifted


def _relabel(cfg: Config, splits: Sequence[Split], kinds: set[str]) -> list[Remedy]:
    keys = [key for split in splits for key in split.keys]
    raw = sum(split.raw for split in splits)
    outside = {value for split in splits for value in split.outside}
    if "label ids" in kinds:
        root = _node(cfg, keys[0]).get("data_root") or "data/cityscapes"
        return [Remedy("make the labels", command=shlex.join(["python", "tools/prepare_data.py", "cityscapes", root]))]
    if kinds & {"mask", "grey levels"}:
        return [_rewrite(cfg, keys, np.flatnonzero(raw).tolist())]
    if "reduced" in kinds:
        return [Remedy("labels start at 0", {f"{key}.reduce_zero_label": False for key in keys})]
    found = []
    if "off by one" in kinds:
        why = "if label 1 is the first class and 0 is to be ignored" if raw[0] else "labels start at 1"
        found.append(Remedy(why, {f"{key}.reduce_zero_label": True for key in keys}))
    if len(outside) == 1 and not raw[255] and not splits[0].reduced and (raw[0] or not found):
        value = outside.pop()
        found.append(Remedy(f"if label {value} is to be ignored", _ignore(cfg, value)))
    return found


def _ignore(cfg: Config, value: int) -> dict[str, Any]:
    """Settings that ignore another label, in losses, padding and scores."""
    settings = {f"{key}.ignore_index": value for key, _ in _heads(cfg)}
    if "data_preprocessor" in cfg.get("model", {}):
        settings["model.data_preprocessor.seg_pad_val"] = value
    for key in ("val_evaluator", "test_evaluator"):
        if isinstance(cfg.get(key), Mapping):
            settings |= {f"{key}.{name}": each for name, each in cfg[key].items()}  # stated whole
            settings[f"{key}.ignore_index"] = value
    return settings


def _rewrite(cfg: Config, keys: Sequence[str], values: Sequence[int]) -> Remedy:
    """Write labels anew, the smallest value as 0."""
    settings, folders = {}, []
    for key in keys:
        node = _node(cfg, key)
        prefix = str((node.get("data_prefix") or {}).get("seg_map_path") or "").rstrip("/")
        settings[f"{key}.data_prefix.seg_map_path"] = f"{prefix}_index"
        folders.append(os.path.join(node.get("data_root") or "", prefix))
    code = REWRITE.format(values=list(values), number=len(values), folders=sorted(set(folders)))
    return Remedy("write the labels anew, each value as a class", settings, code)


def _leave_out(cfg: Config, splits: Sequence[Split], folder: Path, with_strayed: bool) -> Remedy:
    """Lists of the files that are good, where these are most."""
    remedy = Remedy("leave out the files named above, or mend them")
    for split in splits:
        bad = split.faulty | (split.strayed if with_strayed else set())
        node = _node(cfg, split.keys[0])
        suffix = node.get("img_suffix") or os.path.splitext(split.pairs[0].image)[1]
        good = [pair.image for index, pair in enumerate(split.pairs) if index not in bad]
        if not bad or len(good) < len(bad) or not all(path.endswith(suffix) for path in good):
            continue
        path = folder / f"{split.name.replace(', ', '_')}_good.txt"
        names = [os.path.relpath(image, split.folder).removesuffix(suffix) for image in good]
        path.write_text("".join(f"{name}\n" for name in names), errors="surrogateescape")
        remedy.settings |= {f"{key}.ann_file": str(path.resolve()) for key in split.keys}
    return remedy


def weights(cfg: Config, splits: Sequence[Split]) -> list[Remedy]:
    """Class weights for each loss that takes them and has none."""
    losses = [
        f"{key}.{path}" if path else key
        for key, loss in _losses(cfg)
        for path, node in config.walk(loss)
        if str(node.get("type")).endswith("CrossEntropyLoss") and not node.get("class_weight")
    ]
    trained = next((split for split in splits if split.is_trained and split.raw.any()), None)
    if not losses or trained is None:
        return []
    found = class_weights(trained)
    return [Remedy(f"should rare classes count more ({FORMULA})", {f"{key}.class_weight": found for key in losses})]


def _losses(cfg: Config) -> list[tuple[str, Any]]:
    return [(f"{key}.loss_decode", head.loss_decode) for key, head in _heads(cfg) if head.get("loss_decode")]


def _heads(cfg: Config) -> list[tuple[str, ConfigDict]]:
    """The heads, with their dotted keys."""
    found = []
    for name in ("decode_head", "auxiliary_head"):
        head = (cfg.get("model") or {}).get(name) or []
        numbered = enumerate(head) if isinstance(head, list | tuple) else ()
        found += [(f"model.{name}.{i}", each) for i, each in numbered] or [(f"model.{name}", head)] if head else []
    return found


def _node(cfg: Config, key: str) -> ConfigDict:
    return next(node for path, node in config.datasets(cfg) if path == key)


def to_paste(remedy: Remedy, path: Path, base: Sequence[str], options: Sequence[str]) -> str:
    """The remedy as text: what to run first, what to save, and the command that then trains.

    Args:
        remedy: One of :func:`remedies`.
        path: The config.
        base: The files laid over it.
        options: As of ``--cfg-options``.
    """
    heading = f"{remedy.why[0].upper()}{remedy.why[1:]}:"
    if remedy.command:
        return as_typed(f"{heading}\n\n{remedy.command}")
    name = _free_name()
    files = [config.base_file(each) for each in base]
    data = next((file for file in reversed(files) if "train_dataloader" in config.read(file)), None)
    text, more = paste(remedy.settings, data or config.find(path))
    base, start = list(base), str(path)
    if text and data:
        base[files.index(data)] = name
    elif text:
        start = name
    command = ["python", "tools/train.py", start, *(["--base", *base] if base else [])]
    options = [*options, *more]
    command += ["--cfg-options", *options] if options else []
    first = f"# run once\n{remedy.code}\n" if remedy.code else ""
    saved = f"# save as {name}\n{text}\n" if text else ""
    return as_typed(f"{heading}\n\n{first}{saved}{shlex.join(command)}")


def _free_name() -> str:
    """Of a file that is not there yet: it might be what the next one goes on from."""
    return next(name for n in count(1) if not os.path.lexists(name := f"fixed{n if n > 1 else ''}.py"))


def paste(settings: Mapping[str, Any], parent: Path) -> tuple[str, list[str]]:
    """Settings as a config file, and those that only ``--cfg-options`` can reach: inside lists.

    Args:
        settings: By dotted key.
        parent: The config that the file goes on from.
    """
    tree: dict[str, Any] = {}
    options = []
    shared = ""
    for key, value in settings.items():
        parts = key.split(".")
        if any(part.isdigit() for part in parts):
            options.append(f"{key}={str(value).replace(' ', '')}")
            continue
        node = tree
        for part in parts[:-1]:
            node = node.setdefault(part, {})
        if parts[-1] == "class_weight":
            shared = textwrap.fill(f"class_weight = {value}", 100, subsequent_indent="    ") + "\n"
            value = _Name("class_weight")
        node[parts[-1]] = value
    inside = os.path.relpath(parent)
    base = inside if not inside.startswith("..") else str(parent.resolve())
    lines = "".join(f"{name} = {_python(value)}\n" for name, value in tree.items())
    return f"_base_ = [{base!r}]\n{shared}{lines}" if tree else "", options


class _Name(str):
    """A variable of the file."""

    __repr__ = str.__str__


def _python(value: Any, depth: int = 1) -> str:
    if not isinstance(value, Mapping):
        return repr(value)
    flat = f"dict({', '.join(f'{key}={_python(each)}' for key, each in value.items())})"
    if len(flat) + 4 * depth < 90:
        return flat
    inner = "".join(f"{'    ' * depth}{key}={_python(each, depth + 1)},\n" for key, each in value.items())
    return f"dict(\n{inner}{'    ' * (depth - 1)})"
