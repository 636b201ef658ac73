"""Pairs to compare: mmseg's module and ours, with the same weights and on the same inputs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import mmcv
import torch
from mmseg.models import decode_heads
from mmseg.models.decode_heads import cc_head, psa_head
from torch import Tensor, nn

from mmattn.registry import MODELS

NORM = {
    "norm_cfg": {"type": "BN"},
    "num_classes": 19,
    "loss_decode": {"type": "CrossEntropyLoss", "avg_non_ignore": True},
}
STAGE = {"in_channels": 2048, "channels": 512, **NORM}
# item -> mmseg's name of the head, its arguments, and the module in it
MODULES: dict[str, tuple[str, dict[str, Any], str]] = {
    "pam": ("DAHead", {"pam_channels": 64, **STAGE}, "pam"),
    "non_local": ("NLHead", STAGE, "nl_block"),
    "criss_cross": ("CCHead", STAGE, "cca"),
    "cam": ("DAHead", {"pam_channels": 64, **STAGE}, "cam"),
    "afnb": (
        "ANNHead",
        {"in_channels": [1024, 2048], "in_index": [0, 1], "channels": 512, "project_channels": 256, **NORM},
        "fusion",
    ),
    "apnb": (
        "ANNHead",
        {"in_channels": [1024, 2048], "in_index": [0, 1], "channels": 512, "project_channels": 256, **NORM},
        "context",
    ),
    "ocr": ("OCRHead", {"ocr_channels": 256, **STAGE}, "object_context_block"),
    "gc": ("GCHead", STAGE, "gc_block"),
    "psa": (
        "PSAHead",
        {"mask_size": (97, 97), "shrink_factor": 1, "in_channels": 512, "channels": 512, **NORM},
        "",
    ),
}
# maps between all positions that mmseg's module holds, in eval and in training
HELD = {"pam": (2, 3), "non_local": (2, 3), "psa": (0.4, 0.6)}
NAMES = {"ANLHead": "ANNHead"}  # ours that mmseg calls something else
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


class DifferentError(Exception):
    """What was to be timed does not compute the same."""


@dataclass(frozen=True)
class Setting:
    """What to measure with.

    Attributes:
        size: Rows and columns of the map, an eighth of the image's.
        batch: Images.
        dtype: float32, or what autocast computes in.
        device: Such as ``cpu`` or ``cuda``.
    """

    size: tuple[int, int] = (64, 128)
    batch: int = 1
    dtype: torch.dtype = torch.float32
    device: str = "cpu"


@dataclass(frozen=True)
class Side:
    """One of two implementations.

    Attributes:
        call: Takes the inputs of the pair.
        modules: Those whose parameters get gradients in training.
    """

    call: Callable[..., Any]
    modules: Sequence[nn.Module] = ()

    def step(self, inputs: Sequence[Any], train: bool, setting: Setting) -> list[Tensor]:
        """One forward, or forward and backward: the results, followed in training by the gradients.

        The gradients are those of the inputs, then one vector of those of all parameters, by name.
        """
        for module in self.modules:
            module.train(train)
        half = setting.dtype in (torch.bfloat16, torch.float16)
        precision = torch.autocast(setting.device.partition(":")[0], setting.dtype) if half else nullcontext()
        with torch.set_grad_enabled(train), precision:
            out = list(flat(self.call(*inputs)))
        if not train:
            return out
        leaves = [x for x in flat(inputs) if x.requires_grad]
        named = sorted((name, p) for i, m in enumerate(self.modules) for name, p in m.named_parameters(prefix=str(i)))
        weights = [p for _, p in named]
        ends = [y for y in out if y.requires_grad]
        found = torch.autograd.grad(ends, [*leaves, *weights], [_start(y) for y in ends], allow_unused=True)
        found = [torch.zeros_like(x) if g is None else g for x, g in zip([*leaves, *weights], found, strict=True)]
        ours = [g.flatten() for g in found[len(leaves) :]]
        return [y.detach() for y in out] + found[: len(leaves)] + ([torch.cat(ours)] if ours else [])


@dataclass(frozen=True)
class Pair:
    """mmseg's implementation and ours, and what both are called with.

    Attributes:
        theirs: None where mmseg has no such thing.
        ours: Ours.
        inputs: Of both.
        modes: In which they can be measured.
        held: Maps between all positions that mmseg's holds at its peak, in eval and in training.
    """

    theirs: Side | None
    ours: Side
    inputs: tuple[Any, ...] = ()
    modes: tuple[str, ...] = ("eval", "train")
    held: tuple[float, float] = (0, 0)


def flat(values: Any) -> Iterable[Tensor]:
    """The tensors in tuples, lists and dicts."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        for key in sorted(values):
            yield from flat(values[key])
    elif isinstance(values, list | tuple):
        for value in values:
            yield from flat(value)


def check(pair: Pair, train: bool, setting: Setting) -> float:
    """Compare both sides before they are timed.

    Integers must be equal. Floating point must agree to the precision of the type, gradients to four times that (a ReLU
    at zero falls to either side); where it does not, both are held against float64, and ours may be off by twice as
    much as mmseg's is.

    Returns:
        The largest relative difference, of results and in training of gradients.

    Raises:
        DifferentError: Ours computes something else.
    """
    ours, theirs = (side.step(pair.inputs, train, setting) for side in (pair.ours, pair.theirs))
    shapes = [[tuple(x.shape) for x in found] for found in (theirs, ours)]
    if shapes[0] != shapes[1]:
        raise DifferentError(f"shapes differ: mmseg's {shapes[0]}, ours {shapes[1]}")
    exact: list[Tensor] = []
    worst = 0.0
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if not b.is_floating_point():
            if wrong := int((a != b).sum()):
                raise DifferentError(f"result {i}: {wrong} of {b.numel()} values differ")
            continue
        error, allowed = distance(a, b), TOLERANCE[setting.dtype] * (4 if train else 1)
        if not error <= allowed:  # NaN too
            exact = exact or _exact(pair, train, setting)
            error, allowed = distance(a, exact[i]), max(allowed, 2 * distance(b, exact[i]))
        if not error <= allowed:
            raise DifferentError(f"result {i} is off by {error:.1e}; {allowed:.1e} is allowed")
        worst = max(worst, error)
    return worst


def _exact(pair: Pair, train: bool, setting: Setting) -> list[Tensor]:
    """mmseg's results in float64."""
    side = pair.theirs
    for module in side.modules:
        module.double()
    inputs = [_double(x) for x in pair.inputs]
    try:
        return side.step(inputs, train, replace(setting, dtype=torch.float64))
    finally:
        for module in side.modules:
            module.float()


def _double(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().double().requires_grad_(value.requires_grad) if value.is_floating_point() else value
    return [_double(x) for x in value] if isinstance(value, list | tuple) else value


def distance(a: Tensor, b: Tensor) -> float:
    """Relative difference of two tensors, by their norms."""
    a, b = a.double(), b.double()
    return ((a - b).norm() / b.norm().clamp_min(1e-30)).item()


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


@cache
def _noise(shape: torch.Size, device: torch.device) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(device)


def _start(y: Tensor) -> Tensor:
    """A gradient to begin with, the same for both sides; 1 for a loss."""
    return torch.ones_like(y) if y.dim() == 0 else _noise(y.shape, y.device).to(y.dtype)


def fill(module: nn.Module) -> None:
    """Let what starts as nothing do something: zeroed weights, scales and the statistics of batch norms."""
    for name, p in module.named_parameters():
        if name.endswith("scale"):
            nn.init.constant_(p, 0.5)
        elif not p.any():
            nn.init.normal_(p, std=0.05)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(buffer, std=0.1)
        elif name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 1.5)


@cache
def criss_cross_of_mmcv() -> type[nn.Module]:
    """mmcv's module, of plain torch; where mmcv.ops does not import without compiled operators, out of its file."""
    try:
        from mmcv.ops import CrissCrossAttention
    except ModuleNotFoundError:
        path = Path(mmcv.__file__).parent / "ops" / "cc_attention.py"
        spec = spec_from_file_location("mmattn_benchmark_cc_attention", path)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.CrissCrossAttention
    return CrissCrossAttention


class GatheredMask(nn.Module):
    """mmcv's ``PSAMask``, compiled there, as one gather; the indices are made once."""

    def __init__(self, psa_type: str, mask_size: tuple[int, int]) -> None:
        super().__init__()
        self.collect, self.mask_size = psa_type == "collect", mask_size
        self._known: tuple[Any, Tensor, Tensor] | None = None

    def forward(self, mask: Tensor) -> Tensor:
        (mh, mw), (h, w) = self.mask_size, mask.shape[2:]
        if self._known is None or self._known[0] != (h, w, mask.device):
            y, x = torch.meshgrid(*(torch.arange(n, device=mask.device) for n in (h, w)), indexing="ij")
            dy, dx = (z.flatten()[:, None] - z.flatten() for z in (y, x))  # (n, n), other by own
            dy, dx = dy + (mh - 1) // 2, dx + (mw - 1) // 2
            inside = (dy >= 0) & (dy < mh) & (dx >= 0) & (dx < mw)
            self._known = (h, w, mask.device), (dy * mw + dx).where(inside, 0)[None], inside
        _, channel, inside = self._known
        full = mask.flatten(2).gather(1, channel.expand(len(mask), -1, -1)) * inside  # (b, n, n)
        return (full if self.collect else full.mT).unflatten(2, (h, w)).contiguous()


@contextmanager
def mmseg_can_build() -> Iterator[None]:
    """Give mmseg's heads what they lack without compiled operators."""
    kept = cc_head.CrissCrossAttention, psa_head.PSAMask
    cc_head.CrissCrossAttention, psa_head.PSAMask = criss_cross_of_mmcv(), GatheredMask
    try:
        yield
    finally:
        cc_head.CrissCrossAttention, psa_head.PSAMask = kept


def head_pair(name: str, arguments: dict[str, Any], device: str = "cpu") -> tuple[nn.Module, nn.Module]:
    """mmseg's head of that name and ours, with the same weights, none of them zero."""
    torch.manual_seed(0)
    with mmseg_can_build():
        theirs = getattr(decode_heads, name)(**arguments)
    fill(theirs)
    ours = MODELS.build({"type": name, **arguments})
    ours.load_state_dict(theirs.state_dict())
    return theirs.to(device), ours.to(device)


def module_pair(item: str, setting: Setting) -> Pair:
    """The two implementations of one of :data:`MODULES`."""
    name, arguments, path = MODULES[item]
    heads = head_pair(name, arguments, setting.device)
    b, (h, w) = setting.batch, setting.size

    def maps(*channels: int) -> tuple[Tensor, ...]:
        return tuple(torch.randn(b, c, h, w, device=setting.device).requires_grad_() for c in channels)

    if item == "psa":  # what is predicted and what is gathered; the convolutions around it are the same
        h, w = max(1, h // 2), max(1, w // 2)
        for head in heads:
            for layer in ("reduce", "reduce_p", "proj", "bottleneck", "conv_seg"):
                setattr(head, layer, nn.Identity())
            head.dropout = None
        sides = [Side(lambda x, head=head: head([x]), [head]) for head in heads]
        return Pair(*sides, maps(512), held=HELD["psa"])
    blocks = [head.get_submodule(path) for head in heads]
    if item == "ocr":
        theirs, ours = heads
        gather, block = theirs.spatial_gather_module, theirs.object_context_block
        x, guess = maps(512, 19)
        sides = Side(lambda x, p: block(x, gather(x, p)), [block]), Side(ours.object_context_block, [blocks[1]])
        return Pair(*sides, (x, guess))
    channels = (1024, 2048) if item == "afnb" else (512,)
    return Pair(*(Side(block, [block]) for block in blocks), maps(*channels), held=HELD.get(item, (0, 0)))
