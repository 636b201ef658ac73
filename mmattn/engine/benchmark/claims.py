"""What papers claim of their costs, and the pairs that show whether it is so here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from mmcv.cnn import NonLocal2d
from torch import Tensor, nn

from mmattn.attention import NonLocal
from mmattn.engine.benchmark.pairs import HELD, STAGE, Pair, Setting, Side, fill, head_pair, module_pair
from mmattn.engine.benchmark.report import Row
from mmattn.plugins import conv_layer

REGIONS = STAGE["num_classes"]
NEAR = 0.2  # a claim holds where what is measured falls short of it, or differs from a plain count, by this at most
WIDE = {**STAGE, "in_channels": [1024, 2048], "in_index": [0, 1], "channels": 2048, "project_channels": 256}


def _map(setting: Setting, channels: int) -> Tensor:
    return torch.randn(setting.batch, channels, *setting.size, device=setting.device).requires_grad_()


def criss_cross_twice(setting: Setting) -> Pair:
    """Recurrent criss-cross attention, R = 2."""
    pair = module_pair("criss_cross", setting)
    sides = [Side(lambda x, block=side.modules[0]: block(block(x)), side.modules) for side in (pair.theirs, pair.ours)]
    return Pair(*sides, pair.inputs)


def non_local_wide(setting: Setting) -> Pair:
    """A non-local block on 2048 channels with 256 between them."""
    torch.manual_seed(0)
    theirs = NonLocal2d(2048, reduction=8, norm_cfg={"type": "BN"}, mode="embedded_gaussian")
    fill(theirs)
    ours = NonLocal(2048, reduction=8, layer=conv_layer({"type": "BN"}, None, None))
    ours.load_state_dict(theirs.state_dict())
    sides = [Side(block.to(setting.device), [block]) for block in (theirs, ours)]
    return Pair(*sides, (_map(setting, 2048),), held=HELD["non_local"])


def apnb_wide(setting: Setting) -> Pair:
    """Asymmetric pyramid attention on 2048 channels with 256 between them, without the join with x that follows it."""
    stages = [head.context.stages[0] for head in head_pair("ANNHead", WIDE, setting.device)]
    sides = [Side(lambda x, stage=stage: stage(x, x), [stage]) for stage in stages]
    return Pair(*sides, (_map(setting, 2048),))


def whole_head(name: str, arguments: Mapping[str, Any], setting: Setting) -> Pair:
    """A decode head on 2048 channels, with regions beside them where it wants some."""
    heads = head_pair(name, {**STAGE, **arguments}, setting.device)
    for head in heads:
        head.dropout = None
    inputs = [[_map(setting, 2048)], *([_map(setting, REGIONS)] if name == "OCRHead" else [])]
    held = HELD["pam"] if name == "DAHead" else (0, 0)
    return Pair(*(Side(head, [head]) for head in heads), tuple(inputs), held=held)


def self_attention(setting: Setting) -> Pair:
    """What OCR is compared with: a 3 x 3 convolution, self-attention of 256 channels, and a 1 x 1 convolution."""
    dense = head_pair("NLHead", STAGE, setting.device)
    regions = head_pair("OCRHead", {"ocr_channels": 256, **STAGE}, setting.device)
    sides = []
    for one, other in zip(dense, regions, strict=True):
        parts = [one.convs[0], one.nl_block, other.object_context_block.bottleneck]
        sides.append(Side(partial(_fused, *parts), parts))
    return Pair(*sides, (_map(setting, 2048),), held=HELD["non_local"])


def _fused(conv: nn.Module, block: nn.Module, fuse: nn.Module, x: Tensor) -> Tensor:
    x = conv(x)
    return fuse(torch.cat([block(x), x], dim=1))


PAIRS: dict[str, Callable[[Setting], Pair]] = {
    "non-local of 64 keys": partial(module_pair, "pam"),
    "criss-cross, twice": criss_cross_twice,
    "non-local, 2048 channels": non_local_wide,
    "APNB, 2048 channels": apnb_wide,
    "OCR": partial(whole_head, "OCRHead", {"ocr_channels": 256}),
    "self-attention": self_attention,
    "DANet": partial(whole_head, "DAHead", {"pam_channels": 64}),
    "CC-attention": partial(whole_head, "CCHead", {}),
}


@dataclass(frozen=True)
class Claim:
    """One number of a paper.

    Attributes:
        field: ``parameters``, ``macs``, ``mib`` or ``seconds`` of a row.
        published: The number, of ``items[0]``, or of how many times ``items[1]`` it takes.
        items: One of :data:`PAIRS`, or two whose ratio is claimed.
        mode: In which it is measured here.
    """

    field: str
    published: float
    items: tuple[str, ...]
    mode: str = "eval"


@dataclass(frozen=True)
class Paper:
    """The claims of a paper, all at one size."""

    name: str
    size: tuple[int, int]
    claims: tuple[Claim, ...]

    @property
    def items(self) -> list[str]:
        """Of :data:`PAIRS`, what has to be measured."""
        return list(dict.fromkeys(item for claim in self.claims for item in claim.items))

    @property
    def modes(self) -> list[str]:
        """In which."""
        return list(dict.fromkeys(claim.mode for claim in self.claims))


def _columns(item: str, parameters: float, mib: float, flops: float, seconds: float) -> tuple[Claim, ...]:
    numbers = {"parameters": parameters * 1e6, "mib": mib, "macs": flops * 1e9 / 2, "seconds": seconds}
    return tuple(Claim(field, value, (item,)) for field, value in numbers.items())


_DENSE, _CROSS = "non-local of 64 keys", "criss-cross, twice"
_WIDE, _PYRAMID = "non-local, 2048 channels", "APNB, 2048 channels"
PAPERS = {
    "ccnet": Paper(
        "CCNet, ICCV 2019: 512 channels, an image of 769 x 769",
        (97, 97),
        (
            Claim("macs", 108e9 / 2, (_DENSE,)),
            Claim("macs", 16.5e9 / 2, (_CROSS,)),
            Claim("macs", 108 / 16.5, (_DENSE, _CROSS)),
            Claim("mib", 11.0, (_DENSE, _CROSS), "train"),
            Claim("mib", 11.0, (_DENSE, _CROSS)),
        ),
    ),
    "ann": Paper(
        "ANN, ICCV 2019: 2048 channels, a map of 256 x 128",
        (128, 256),
        (Claim("seconds", 6.0, (_WIDE, _PYRAMID)), Claim("mib", 28.0, (_WIDE, _PYRAMID))),
    ),
    "ocr": Paper(
        "OCR, ECCV 2020: 2048 channels, a map of 128 x 128",
        (128, 128),
        (
            *_columns("OCR", 10.5, 202, 340, 0.045),
            *_columns("self-attention", 10.5, 2168, 619, 0.096),
            *_columns("DANet", 10.6, 2223, 1110, 0.121),
            *_columns("CC-attention", 10.6, 427, 804, 0.131),
            *(
                Claim(field, value, (item, "OCR"))
                for item, mib, seconds in (
                    ("self-attention", 2168, 0.096),
                    ("DANet", 2223, 0.121),
                    ("CC-attention", 427, 0.131),
                )
                for field, value in (("mib", mib / 202), ("seconds", seconds / 0.045))
            ),
        ),
    ),
}
FIELDS = {"theirs": {"macs": "theirs_macs", "mib": "theirs_mib", "seconds": "theirs"}}
FIELDS["ours"] = {"macs": "macs", "mib": "ours_mib", "seconds": "ours"}
UNITS = {"parameters": ("M parameters", 1e6), "macs": ("GFLOP", 0.5e9), "mib": ("MiB", 1), "seconds": ("ms", 1e-3)}
WHAT = {"parameters": "parameters", "macs": "operations", "mib": "memory", "seconds": "time"}


def measured(claim: Claim, rows: Sequence[Row], side: str) -> float | None:
    """The number of a claim on one side, ``theirs`` or ``ours``; None where it was not measured."""
    found = []
    for item in claim.items:
        row = next((row for row in rows if row.item == item and row.mode == claim.mode), None)
        found.append(row and getattr(row, FIELDS[side].get(claim.field, claim.field)))
    if not all(found):
        return None
    return found[0] / found[1] if len(found) > 1 else found[0]


def holds(claim: Claim, value: float | None) -> bool | None:
    """Whether a number bears a claim out; None where it cannot: milliseconds and MiB are those of a machine."""
    if value is None or (len(claim.items) == 1 and claim.field in ("mib", "seconds")):
        return None
    if len(claim.items) > 1:
        return value >= (1 - NEAR) * claim.published
    return abs(value / claim.published - 1) <= NEAR


def table(paper: Paper, rows: Sequence[Row]) -> str:
    """Markdown: the paper's numbers, mmseg's, ours, and whether they agree."""
    lines = [
        f"{paper.name}\n",
        "| | | paper | mmseg's modules | | ours | |",
        "|---|---|---:|---:|---|---:|---|",
    ]
    for claim in paper.claims:
        name, unit = f"{' : '.join(claim.items)}", UNITS[claim.field]
        cells = [name, f"{WHAT[claim.field]}{', training' if claim.mode == 'train' else ''}"]
        cells.append(_number(claim.published, claim, unit))
        for side in ("theirs", "ours"):
            value = measured(claim, rows, side)
            verdict = {None: "", True: "holds", False: "does not hold"}[holds(claim, value)]
            cells += [_number(value, claim, unit), verdict]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _number(value: float | None, claim: Claim, unit: tuple[str, float]) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}x" if len(claim.items) > 1 else f"{value / unit[1]:.4g} {unit[0]}"
