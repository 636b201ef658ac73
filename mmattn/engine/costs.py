"""What a model costs: parameters and operations, counted without computing anything."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from mmengine.registry import init_default_scope
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

from mmattn.engine.config import build_model, load_config

# what products and attention can be on a CPU, and torch counts nothing for
_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_ATTENTION = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)


def _linear(x: tuple[int, ...], weight: tuple[int, ...], *_: object, **__: object) -> int:
    return 2 * prod(x) * weight[0]


def _attention(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], *_: object, **__: object) -> int:
    return 2 * prod(q[:3]) * k[2] * (q[3] + v[3])


for operator, count in ((_LINEAR, _linear), (_ATTENTION, _attention)):
    if operator is not None and operator not in flop_registry:
        register_flop_formula(operator)(count)


@dataclass(frozen=True)
class Cost:
    """Of one part of a model.

    Attributes:
        parameters: Learned numbers.
        flops: Floating-point operations for one image; a multiplication and an addition are two. Convolutions and
            matrix products count, those of attention included; norms, activations, softmax and resizing do not.
    """

    parameters: int
    flops: int


def model_costs(config: str | Path, size: tuple[int, int]) -> tuple[Cost, Cost]:
    """Costs of a config's backbone, its neck included, and of its decode heads; auxiliary heads only train.

    Args:
        config: The config file.
        size: Rows and columns of the image.

    Raises:
        UserError: The config does not build.
    """
    cfg = load_config(config)
    init_default_scope(cfg.default_scope)
    with torch.device("meta"), torch.no_grad():
        model = build_model(cfg, device="meta")
        features, backbone = _count(model.backbone, torch.zeros(1, 3, *size))
        if model.with_neck:
            features, neck = _count(model.neck, features)
            backbone = Cost(backbone.parameters + neck.parameters, backbone.flops + neck.flops)
        heads = model.decode_head if isinstance(model.decode_head, nn.ModuleList) else [model.decode_head]
        total, previous = Cost(0, 0), ()
        for head in heads:
            logits, cost = _count(head, features, *previous)
            previous = (logits,)
            total = Cost(total.parameters + cost.parameters, total.flops + cost.flops)
    return backbone, total


def _count(module: nn.Module, *inputs: object) -> tuple[object, Cost]:
    with FlopCounterMode(display=False) as counter:
        out = module(*inputs)
    return out, Cost(sum(p.numel() for p in module.parameters()), counter.get_total_flops())


def heads_table(configs: Path) -> str:
    """Markdown table of the models: what the decode head of each costs at 512 x 1024, and whose weights load into it.

    Args:
        configs: Folder of the config files.

    Raises:
        UserError: A config does not build.
    """
    lines = [
        "| config | head | parameters | GFLOP | with backbone | published weights |",
        "|---|---|---|---|---|---|",
    ]
    for path in sorted(configs.glob("*.py")):
        cfg = load_config(path)
        head = cfg.model.decode_head
        name = (head[-1] if isinstance(head, list) else head).type
        backbone, own = model_costs(path, (512, 1024))
        cells = [f"`{path.stem}`", f"`{name}`", f"{own.parameters / 1e6:.2f} M", f"{own.flops / 1e9:.0f}"]
        cells += [f"{(own.flops + backbone.flops) / 1e9:.0f}", f"[mmseg]({cfg.zoo})" if "zoo" in cfg else "-"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
