"""What a result depends on, as plain values: two results compare when these agree, and what differs can be named."""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmattn.cli import UserError
from mmattn.engine.config import datasets
from mmattn.engine.datacheck import open_dataset

TRAINING = ("default_scope", "model", "train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler")
TRAINING += ("auto_scale_lr", "custom_hooks", "load_from", "randomness", "on_nan")
TESTING = ("test_dataloader", "test_evaluator", "test_cfg")
# how many processes load changes nothing; val_interval neither, since nothing is chosen by it
FREE = {
    "train_dataloader": ("num_workers", "persistent_workers", "pin_memory", "prefetch_factor"),
    "test_dataloader": ("num_workers", "persistent_workers", "pin_memory", "prefetch_factor"),
    "train_cfg": ("val_interval", "val_begin"),
    "randomness": ("seed",),
}
SHOWN = 3  # differences in a message


def settings(cfg: Config) -> dict[str, dict[str, Any]]:
    """What trains and what tests a config's model, without the seed and what changes no number.

    Args:
        cfg: As of :func:`mmattn.engine.train.prepare`, or as a training wrote it.

    Returns:
        ``training`` and ``testing``, each with JSON's types alone.
    """
    training, testing = ({key: _plain(cfg[key]) for key in keys if cfg.get(key)} for keys in (TRAINING, TESTING))
    for part in (training, testing):
        for key, free in FREE.items():
            for name in free if isinstance(part.get(key), dict) else ():
                part[key].pop(name, None)
    testing["inference"] = training["model"].pop("test_cfg", None)
    return {"training": training, "testing": testing}


def with_data(found: dict[str, dict[str, Any]], cfg: Config) -> dict[str, dict[str, Any]]:
    """Settings, and what the data are that they name: how many images, and a digest of names and sizes of all files.

    Raises:
        UserError: The data are not there.
    """
    parts = (("training", "train_dataloader"), ("testing", "test_dataloader"))
    return {part: found[part] | {"data": _data(cfg, loader)} for part, loader in parts}


def differences(now: Any, before: Any, key: str = "") -> Iterator[str]:
    """Every value that differs, with its dotted key."""
    if isinstance(now, Mapping) and isinstance(before, Mapping):
        for name in sorted({*now, *before}):
            yield from differences(now.get(name), before.get(name), f"{key}.{name}" if key else name)
    elif isinstance(now, list) and isinstance(before, list) and len(now) == len(before):
        for i, (ours, theirs) in enumerate(zip(now, before, strict=True)):
            yield from differences(ours, theirs, f"{key}.{i}")
    elif now != before:
        yield f"{key} is {_short(now)}, was {_short(before)}"


def named(found: Iterator[str]) -> str:
    """The first differences, and how many more there are."""
    listed = list(found)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return "; ".join(listed[:SHOWN]) + more


def protocol(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The part of the settings that compared models share: all but the model and how it is optimized."""
    training = found["training"]
    return {
        "train_cfg": training["train_cfg"],
        "train_dataloader": training["train_dataloader"],
        "optim_wrapper": {"type": training["optim_wrapper"].get("type")},
        "data": training["data"],
        "testing": found["testing"],
    }


def _data(cfg: Config, loader: str) -> dict[str, Any]:
    digest, images = sha256(), 0
    for key, dataset in datasets(cfg, loader):
        for item in open_dataset(cfg, key, dataset).load_data_list():
            images += 1
            for path in (Path(item[part]) for part in ("img_path", "seg_map_path") if part in item):
                if not path.is_file():
                    raise UserError(f"{key}: there is no {path}")
                digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return {"images": images, "digest": digest.hexdigest()[:16]}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _short(value: Any) -> str:
    text = "not there" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
