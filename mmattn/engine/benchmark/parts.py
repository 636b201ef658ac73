"""Mechanisms of the catalogue and decode heads of configs as pairs; alone where mmseg has no such thing."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import mmseg.registry
import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope, Registry
from torch import Tensor, nn

import mmattn.registry
from mmattn.attention import entries
from mmattn.catalogue import Entry
from mmattn.cli import UserError
from mmattn.engine import config, guide
from mmattn.engine.benchmark.pairs import HELD, NAMES, Pair, Setting, Side, fill, mmseg_can_build
from mmattn.engine.benchmark.stages import STRIDE

CHANNELS = 512  # of the maps that mechanisms are measured on: the width of the heads
#: Mechanisms that mmseg has too, where the item of the benchmark has another name.
PEERS = {
    "asymmetric_fusion": "afnb",
    "asymmetric_non_local": "apnb",
    "channel_attention": "cam",
    "global_context": "gc",
    "object_context": "ocr",
    "point_wise": "psa",
    "position_attention": "pam",
}
DENSE = {"DAHead": "pam", "NLHead": "non_local", "PSAHead": "psa"}


def maker(item: str, items: Mapping[str, Callable[[Setting], Pair]]) -> Callable[[Setting], Pair]:
    """What makes the pair of a mechanism, ``cbam`` or ``CBAM``, or of the head of a config, ``configs/ccnet_r50.py``.

    Args:
        item: Its name.
        items: Pairs that are known already, those of :data:`PEERS` among them.

    Raises:
        UserError: There is no such mechanism.
    """
    if item.endswith(".py"):
        return partial(head, Path(item))
    for entry in entries():
        if item in (entry.name, entry.cls.__name__):
            return items.get(PEERS.get(entry.name, entry.name)) or partial(mechanism, entry)
    known = [*items, *(entry.name for entry in entries())]
    raise UserError(f"there is no item {item!r}; there are {', '.join(dict.fromkeys(known))}")


def chosen(mechanisms: Sequence[str], heads: Sequence[str], *, everything: bool = False) -> list[str]:
    """Items by their names or, for ``all``, every mechanism and the head of every config.

    Args:
        mechanisms: Names, or ``all``.
        heads: Config files, or ``all``.
        everything: Both when neither is given.
    """
    if everything and not mechanisms and not heads:
        mechanisms = heads = ["all"]
    found = [entry.name for entry in entries()] if "all" in mechanisms else list(mechanisms)
    if "all" in heads:
        return found + [str(path) for path in sorted(config.CONFIGS.glob("*.py"))]
    return found + [str(Path(head).with_suffix(".py")) for head in heads]


def label(item: str) -> str:
    """How a row names an item."""
    return f"{Path(item).stem} head" if item.endswith(".py") else item


def mechanism(entry: Entry, setting: Setting) -> Pair:
    """A mechanism with its default arguments on maps of :data:`CHANNELS`; a second map is as large as the first."""
    arguments, widths = guide.instance(entry, CHANNELS)
    torch.manual_seed(0)
    module = entry.cls(**arguments)
    fill(module)
    module.to(setting.device)
    shapes = [(setting.batch, width, *setting.size) for width in widths]
    return Pair(None, Side(module, [module]), _maps(shapes, setting))


def head(path: Path, setting: Setting) -> Pair:
    """The decode heads of a config, a cascade as one, on maps like those of its backbone, without dropout.

    Raises:
        UserError: The config does not load, or names what does not exist.
    """
    cfg = config.load_config(path)
    torch.manual_seed(0)
    ours = _heads(cfg, mmattn.registry.MODELS, "mmattn")
    for part in ours:
        fill(part)
    try:
        theirs = _heads(config.read(path), mmseg.registry.MODELS, "mmseg")
    except KeyError:
        theirs = []
    for part, other in zip(theirs, ours, strict=False):
        part.load_state_dict(other.state_dict())
    with torch.device("meta"), torch.no_grad(), DefaultScope.overwrite_default_scope("mmattn"):
        backbone = mmattn.registry.MODELS.build({**cfg.model.backbone, "init_cfg": None, "pretrained": None})
        image = torch.zeros(setting.batch, 3, *(STRIDE * side for side in setting.size))
        shapes = [x.shape for x in backbone.eval()(image)]
    used = {i for part in ours for i in (part.in_index if isinstance(part.in_index, list | tuple) else [part.in_index])}
    features = _maps(shapes, setting)
    for i, x in enumerate(features):
        x.requires_grad_(i % len(features) in {j % len(features) for j in used})
    held = HELD.get(DENSE.get(type(ours[-1]).__name__, ""), (0, 0))
    sides = [
        Side(partial(_cascade, [part.to(setting.device) for part in parts]), parts) if parts else None
        for parts in (theirs, ours)
    ]
    return Pair(*sides, (features,), held=held)


def _maps(shapes: Iterable[tuple[int, ...]], setting: Setting) -> tuple[Tensor, ...]:
    return tuple(torch.randn(tuple(shape), device=setting.device).requires_grad_() for shape in shapes)


def _heads(cfg: Config, registry: Registry, scope: str) -> list[nn.Module]:
    head = cfg.model.decode_head
    configs = [dict(one) for one in (head if isinstance(head, list) else [head])]
    if scope == "mmseg":
        configs = [one | {"type": NAMES.get(one["type"], one["type"])} for one in configs]
    with DefaultScope.overwrite_default_scope(scope), mmseg_can_build():
        parts = [registry.build(ConfigDict(one)) for one in configs]
    for part in map(revert_sync_batchnorm, parts):
        for layer in part.modules():
            if isinstance(layer, nn.Dropout | nn.Dropout2d):
                layer.p = 0.0  # both sides are to compute the same
    return parts


def _cascade(parts: list[nn.Module], features: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    first, *rest = parts
    out = first(features)
    for part in rest:
        out = part(features, out)
    return out
