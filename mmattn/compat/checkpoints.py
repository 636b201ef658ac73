"""Mends to how checkpoints are read: tensors and training state come back, code does not run."""

import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

from mmattn.cli import UserError

TRUSTED: set[Path] = set()  # files that may run their code, absolute


def load_weights_only() -> bool:
    """Read checkpoints without running code that they may hold, and all that mmengine writes into them.

    Upstream mmengine 0.10.7 leaves it to torch, which refuses the training log that a resume needs
    (open-mmlab/mmengine issue 1655) and runs everything in files from a URL. The maintained 0.10.12 allows ``getattr``
    and, where torch refuses still, loads again and runs everything. Both run the config in a checkpoint's ``meta`` when
    they resume. May go when both load weights only, from files and from URLs, and look at a config as text.
    """
    from mmengine.runner import checkpoint

    torch.serialization.add_safe_globals(_safe_globals())
    checkpoint.load_url = partial(checkpoint.load_url, weights_only=True)
    if hasattr(checkpoint, "_safe_torch_load"):
        checkpoint._safe_torch_load = partial(torch.load, weights_only=True)
    checkpoint.print_log = _log
    loader = checkpoint.CheckpointLoader
    loader.load_checkpoint = classmethod(_as_data(loader.load_checkpoint.__func__))
    return True


def _log(text: str, logger: Any = None, level: int = logging.INFO) -> None:
    """mmengine's ``print_log``, which would print names of parameters as they are where it is given no logger."""
    from mmengine.logging import print_log

    print_log(text, logger or "current", level)


def _safe_globals() -> list[Any]:
    """What mmengine's checkpoints hold beside tensors, as ``torch.serialization.add_safe_globals`` takes it."""
    from mmengine.config import ConfigDict
    from mmengine.logging import HistoryBuffer

    def method_of_history_buffer(owner: type, name: str) -> Callable[..., Any]:
        """The ``getattr`` of a pickled HistoryBuffer, which names its four statistics and nothing else."""
        if owner is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
            raise UnpicklingError(f"Unsupported global: GLOBAL builtins.getattr({owner!r}, {name!r})")
        return getattr(owner, name)

    reconstruct, scalar = np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    return [
        HistoryBuffer,
        ConfigDict,
        (method_of_history_buffer, "builtins.getattr"),
        np.ndarray,
        np.dtype,
        *{type(np.dtype(kind)) for kind in "?bhilqBHILQefd"},
        *((reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
        *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    ]


def _as_data(load: Callable[..., Any]) -> Callable[..., Any]:
    """``CheckpointLoader.load_checkpoint`` that runs nothing but what is trusted, and tells what torch refused."""

    def load_checkpoint(cls: type, filename: str, map_location: Any = None, *args: Any, **kwargs: Any) -> Any:
        try:
            if Path(filename).resolve() in TRUSTED:
                checkpoint = torch.load(filename, map_location=map_location, weights_only=False)
            else:
                checkpoint = load(cls, filename, map_location, *args, **kwargs)
        except UnpicklingError as error:
            found = re.search(r"GLOBAL (\S+)", str(error))
            if found is None:
                raise UserError(f"{filename} is not a checkpoint that torch can read") from error
            raise UserError(
                f"{filename} holds code ({found[1]}) and is refused; nothing of it ran. Ask its author for a file with "
                f"weights alone. If the file is your own: --trust-checkpoint {filename}"
            ) from error
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get("meta"), dict):
            checkpoint["meta"].pop("config", None)  # a resume would run it
        return checkpoint

    return load_checkpoint
