"""Checkpoints: fetched, read without running what they hold, and compared with the model before they are used."""

import difflib
import os
import re
import socket
import sys
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import get_deprecated_model_names, get_external_models, get_mmcls_models
from torch import nn

from mmattn.cli import UserError
from mmattn.compat.checkpoints import TRUSTED

SHOWN = 4  # parameters named of each kind
TIMEOUT = 15.0  # seconds without an answer from a server
CLASSIFIER = re.compile(r"conv_seg\.(weight|bias)$")


def load_weights(model: nn.Module, source: str | Path, *, finetune: bool = False, partial: bool = False) -> dict:
    """Put a checkpoint's weights into a model.

    An auxiliary head may be missing on either side: prediction does without.

    Args:
        model: Any model; mmseg's parameter names.
        source: File, URL or ``open-mmlab://name``.
        finetune: Let classifiers of another number of classes keep their own weights, and say so.
        partial: Load what fits, and say what does not.

    Returns:
        The ``meta`` of the checkpoint; empty when it has none.

    Raises:
        UserError: The file is missing, no checkpoint or holds code, or it does not fit; the message names the first
            parameters that do not.
    """
    checkpoint = read_checkpoint(source)
    meta = _meta(checkpoint, source)
    state = OrderedDict((key.removeprefix("module."), value) for key, value in _state(checkpoint, source).items())
    own = model.state_dict()
    reshaped = {
        key: f"{key} {tuple(value.shape)}, here {tuple(own[key].shape)}"
        for key, value in state.items()
        if key in own and value.shape != own[key].shape
    }
    state = OrderedDict((key, value) for key, value in state.items() if key not in reshaped)
    missing, unexpected = model.load_state_dict(state, strict=False)
    fitting = len(state) - len(unexpected)
    misfit = {
        "missing": [key for key in missing if key not in reshaped and not key.endswith("num_batches_tracked")],
        "unexpected": unexpected,
        "of another shape": [text for key, text in reshaped.items() if not (finetune and CLASSIFIER.search(key))],
    }
    serious = {kind: [k for k in keys if not k.startswith("auxiliary_head.")] for kind, keys in misfit.items()}
    if not fitting or (any(serious.values()) and not partial):
        hint = "; --partial loads what fits" if finetune and fitting else ""
        raise UserError(f"{source} does not fit this model, it is of another architecture{hint}{_list(serious)}")
    new = [key for key in reshaped if CLASSIFIER.search(key)]
    if finetune and (new or any(misfit.values())):
        rest = _list(misfit | {"new classes": new})
        print_log(f"{source} fits but for what follows, which starts anew{rest}", "current")
    return meta


def check_backbone(backbone: nn.Module, source: str | Path, prefix: str = "") -> None:
    """Compare pretrained weights with a backbone. MMEngine would start from random ones without a word on the screen.

    Args:
        backbone: Is not changed.
        source: File, URL or ``open-mmlab://name``.
        prefix: Of its parameters in the checkpoint.

    Raises:
        UserError: Nothing fits, or as of :func:`read_checkpoint`.
    """
    state = _state(read_checkpoint(source), source)
    prefix = f"{prefix.rstrip('.')}." if prefix else ""
    own = {prefix + key: value.shape for key, value in backbone.state_dict().items()}
    fitting = sum(own.get(key) == value.shape for key, value in state.items())
    if not fitting:
        names = f"it holds {next(iter(state))}, the backbone has {next(iter(own))}"
        raise UserError(f"{source} does not fit {type(backbone).__name__}, it is of another architecture: {names}")
    counted = sum(not key.endswith("num_batches_tracked") for key in own)
    if fitting < counted:
        print_log(f"{source} fills {fitting} of the {counted} tensors of {type(backbone).__name__}", "current")


def read_checkpoint(source: str | Path) -> dict[str, Any]:
    """A checkpoint's content, on the CPU.

    Raises:
        UserError: The file is missing or unreachable, truncated, no checkpoint, or holds code.
    """
    path = locate(source)
    try:
        checkpoint = CheckpointLoader.load_checkpoint(str(path), map_location="cpu", logger="silent")
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise UserError(f"{path} cannot be read: it is truncated, or no checkpoint") from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path} is no checkpoint: it holds a {type(checkpoint).__name__}")
    return checkpoint


def trust(files: Iterable[str]) -> None:
    """Let checkpoints run the code that they hold when they are loaded, and say so.

    Args:
        files: As ``--trust-checkpoint`` names them; no URLs.

    Raises:
        UserError: There is no such file.
    """
    for file in files:
        path = Path(file).expanduser()
        if not path.is_file():
            raise UserError(f"--trust-checkpoint {file}: there is no such file")
        TRUSTED.add(path.resolve())
        print(f"trusting {path}: the code in it runs when it is loaded", file=sys.stderr)


def locate(source: str | Path) -> Path:
    """The local file of a path, URL, ``open-mmlab://name`` or ``mmcls://name``; fetched when it is not there yet.

    Raises:
        UserError: There is no such file or name, or the server does not answer; the message has the URL and where to
            put the file by hand.
    """
    url = _url(str(source))
    if url is None:
        path = Path(source).expanduser()
        if not path.is_file():
            raise UserError(f"there is no checkpoint {path}" + (": it is a folder" if path.is_dir() else ""))
        return path
    path = Path(torch.hub.get_dir(), "checkpoints", os.path.basename(urlparse(url).path))
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(TIMEOUT)
        try:
            torch.hub.download_url_to_file(url, str(path))
        except (OSError, RuntimeError) as error:
            raise UserError(f"cannot fetch {url} ({error}); fetch it elsewhere and put it at {path}") from error
        finally:
            socket.setdefaulttimeout(before)
    return path


def _url(source: str) -> str | None:
    """The URL behind a source; None for a path."""
    scheme, separator, name = source.partition("://")
    if not separator:
        return None
    if scheme in ("http", "https"):
        return source
    if scheme in ("open-mmlab", "openmmlab"):
        known, name = get_external_models(), get_deprecated_model_names().get(name, name)
    elif scheme == "mmcls":
        known = get_mmcls_models()
    else:
        raise UserError(f"{source}: expected a path, http(s)://, open-mmlab:// or mmcls://")
    if name not in known:
        near = difflib.get_close_matches(name, known)
        raise UserError(f"{source}: no such weights" + (f"; did you mean {', '.join(near)}?" if near else ""))
    return known[name]


def _state(checkpoint: dict, source: str | Path) -> dict[str, torch.Tensor]:
    state = checkpoint.get("state_dict", checkpoint)
    named = isinstance(state, dict) and all(isinstance(name, str) for name in state)
    if not named or not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{source} is no checkpoint of a model: it holds no weights under 'state_dict'")
    return state


def _meta(checkpoint: dict, source: str | Path) -> dict[str, Any]:
    meta = {} if checkpoint.get("meta") is None else checkpoint["meta"]
    try:
        named = {} if meta.get("dataset_meta") is None else meta["dataset_meta"]
        classes, palette = named.get("classes"), named.get("palette")
        right = all(isinstance(name, str) for name in classes or ())
        right &= all(0 <= red <= 255 >= green >= 0 <= blue <= 255 for red, green, blue in palette or ())
    except (AttributeError, TypeError, ValueError, RuntimeError):  # a tensor is neither true nor false
        right = False
    if not right:
        raise UserError(f"{source} is no checkpoint of a model: its 'meta' names no classes and colours as mmseg does")
    return meta


def _list(misfit: dict[str, list[str]]) -> str:
    lines = ""
    for kind, keys in misfit.items():
        if keys:
            more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
            lines += f"\n  {kind}: {'; '.join(keys[:SHOWN])}{more}"
    return lines
