"""Same numbers from the same checkpoint: our heads against mmseg's own classes, as installed.

Where mmseg cannot build a head without compiled ops, the missing op is replaced by explicit loops written here.
"""

from pathlib import Path

import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.models import decode_heads
from mmseg.models.decode_heads import cc_head, psa_head
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmattn.registry import MODELS

NORM = {"norm_cfg": {"type": "BN"}, "num_classes": 5}
ONE_LEVEL = {"in_channels": 12, "channels": 16, **NORM}
CASES = {
    "da": ("DAHead", {"pam_channels": 4, **ONE_LEVEL}),
    "cc": ("CCHead", {"recurrence": 2, **ONE_LEVEL}),
    "cc-once-no-concat": ("CCHead", {"recurrence": 1, "concat_input": False, **ONE_LEVEL}),
    "cc-leaky-dilated": ("CCHead", {**ONE_LEVEL, "act_cfg": {"type": "LeakyReLU"}, "dilation": 2}),
    "gc": ("GCHead", ONE_LEVEL),
    "gc-avg-both": (
        "GCHead",
        {"ratio": 1 / 8, "pooling_type": "avg", "fusion_types": ("channel_add", "channel_mul"), **ONE_LEVEL},
    ),
    "gc-mul": ("GCHead", {"fusion_types": ("channel_mul",), **ONE_LEVEL}),
    "nl": ("NLHead", ONE_LEVEL),
    "nl-no-norm": ("NLHead", {**ONE_LEVEL, "norm_cfg": None, "reduction": 4}),
    "nl-unscaled": ("NLHead", {"use_scale": False, **ONE_LEVEL}),
    "nl-gaussian": ("NLHead", {"mode": "gaussian", "reduction": 1, **ONE_LEVEL}),
    "nl-dot-product": ("NLHead", {"mode": "dot_product", **ONE_LEVEL}),
    "nl-concatenation": ("NLHead", {"mode": "concatenation", **ONE_LEVEL}),
    "ann": (
        "ANNHead",
        {"in_channels": [8, 12], "in_index": [0, 1], "channels": 16, "project_channels": 6, **NORM},
    ),
    "ann-pools": (
        "ANNHead",
        {
            "in_channels": [8, 12],
            "in_index": [0, 1],
            "channels": 16,
            "project_channels": 6,
            "query_scales": (1, 1),
            "key_pool_scales": (1, 2, 5),
            **NORM,
        },
    ),
    "ocr": ("OCRHead", {"ocr_channels": 8, **ONE_LEVEL}),
    "ocr-no-dropout": ("OCRHead", {"ocr_channels": 8, "dropout_ratio": 0, **ONE_LEVEL}),
    "psa": ("PSAHead", {"mask_size": (5, 7), **ONE_LEVEL}),
    "psa-even-mask": ("PSAHead", {"mask_size": (4, 6), **ONE_LEVEL}),
    "psa-large-mask": ("PSAHead", {"mask_size": (21, 24), "shrink_factor": 1, "align_corners": True, **ONE_LEVEL}),
    "psa-collect": ("PSAHead", {"mask_size": (5, 7), "psa_type": "collect", "psa_softmax": False, **ONE_LEVEL}),
    "psa-distribute": (
        "PSAHead",
        {"mask_size": (5, 7), "psa_type": "distribute", "normalization_factor": None, **ONE_LEVEL},
    ),
    "psa-compact": ("PSAHead", {"mask_size": (5, 6), "compact": True, **ONE_LEVEL}),
    "psa-compact-collect": ("PSAHead", {"mask_size": (5, 6), "compact": True, "psa_type": "collect", **ONE_LEVEL}),
    "psa-compact-distribute": (
        "PSAHead",
        {"mask_size": (5, 6), "compact": True, "psa_type": "distribute", **ONE_LEVEL},
    ),
}
SIZES = {"psa-compact": [(9, 11), (10, 12)], "psa-compact-collect": [(9, 11)], "psa-compact-distribute": [(9, 11)]}


class LoopCrissCross(nn.Module):
    """Criss-cross attention of the CCNet paper, one pixel at a time, with mmcv's parameter names."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.query_conv = nn.Conv2d(in_channels, in_channels // 8, 1)
        self.key_conv = nn.Conv2d(in_channels, in_channels // 8, 1)
        self.value_conv = nn.Conv2d(in_channels, in_channels, 1)
        self.gamma = nn.Module()
        self.gamma.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.query_conv(x), self.key_conv(x), self.value_conv(x)
        h, w = x.shape[2:]
        out = []
        for y in range(h):
            for z in range(w):
                cross = [(i, z) for i in range(h) if i != y] + [(y, j) for j in range(w)]
                logits = torch.stack([(q[:, :, y, z] * k[:, :, i, j]).sum(1) for i, j in cross], 1)
                values = torch.stack([v[:, :, i, j] for i, j in cross], 1)
                out.append((logits.softmax(1)[:, :, None] * values).sum(1))
        return self.gamma.scale * torch.stack(out, 2).unflatten(2, (h, w)) + x


class LoopPSAMask(nn.Module):
    """The PSA mask, one pair of positions at a time."""

    def __init__(self, psa_type: str, mask_size: tuple[int, int]) -> None:
        super().__init__()
        self.collect, self.mask_size = psa_type == "collect", mask_size

    def forward(self, mask: Tensor) -> Tensor:
        (mh, mw), (b, _, h, w) = self.mask_size, mask.shape
        rows = [[torch.zeros(b, dtype=mask.dtype)] * (h * w) for _ in range(h * w)]
        for y in range(h):
            for x in range(w):
                for i in range(mh):
                    for j in range(mw):
                        oy, ox = y + i - (mh - 1) // 2, x + j - (mw - 1) // 2
                        if 0 <= oy < h and 0 <= ox < w:
                            own, other = y * w + x, oy * w + ox
                            source, receiver = (other, own) if self.collect else (own, other)
                            rows[source][receiver] = mask[:, i * mw + j, y, x]
        return torch.stack([torch.stack(row, 1) for row in rows], 1).unflatten(2, (h, w))


class OutOfPlaceReLU(nn.Module):
    """mmcv divides what its ReLU returns in place, which autograd refuses."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu().clone()


@pytest.fixture(autouse=True)
def _missing_ops(monkeypatch):
    monkeypatch.setattr(cc_head, "CrissCrossAttention", LoopCrissCross)
    monkeypatch.setattr(psa_head, "PSAMask", LoopPSAMask)


def build_pair(name: str, arguments: dict) -> tuple[nn.Module, nn.Module]:
    """Ours, found by mmseg's name under our scope, and mmseg's, with the same random weights, gammas not zero."""
    torch.manual_seed(0)
    theirs = getattr(decode_heads, name)(**arguments)
    if arguments.get("mode") == "concatenation":
        theirs.nl_block.concat_project.activate = OutOfPlaceReLU()
    ours = MODELS.build({"type": name, **arguments})
    assert type(ours).__module__.startswith("mmattn.")
    for tensor in [*theirs.parameters(), *theirs.buffers()]:
        if tensor.is_floating_point():
            tensor.data.normal_(std=0.3)
    for key, buffer in theirs.named_buffers():
        if key.endswith("running_var"):
            buffer.data.abs_().add_(0.5)
    assert not ours.load_state_dict(theirs.state_dict(), strict=True).missing_keys
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def inputs_for(name: str, arguments: dict, size: tuple[int, int], dtype: torch.dtype) -> list:
    """Feature maps, and the first head's logits for the cascade."""
    torch.manual_seed(1)
    channels = arguments["in_channels"]
    levels = [
        torch.randn(2, c, *size, dtype=dtype).requires_grad_()
        for c in (channels if isinstance(channels, list) else [channels])
    ]
    if name == "OCRHead":
        return [levels, torch.randn(2, 5, *size, dtype=dtype).requires_grad_()]
    return [levels]


def samples(size: tuple[int, int]) -> list[SegDataSample]:
    torch.manual_seed(2)
    labels = torch.randint(0, 5, (2, 1, size[0] * 4, size[1] * 4))
    labels[:, :, :3] = 255
    return [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]


def leaves(inputs: list) -> list[Tensor]:
    return [*inputs[0], *inputs[1:]]


def both_sizes(case: str) -> list[tuple[int, int]]:
    return SIZES.get(case, [(7, 9), (8, 5)])


@pytest.mark.parametrize("case", CASES)
def test_logits_and_input_gradients(case):
    name, arguments = CASES[case]
    ours, theirs = (head.double().eval() for head in build_pair(name, arguments))
    for size in both_sizes(case):
        results = []
        for head in (ours, theirs):
            inputs = inputs_for(name, arguments, size, torch.float64)
            logits = head(*inputs)
            logits = logits if isinstance(logits, tuple) else (logits,)
            weights = [torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x) for x in logits]
            gradients = torch.autograd.grad(
                sum((a * b).sum() for a, b in zip(logits, weights, strict=True)), leaves(inputs)
            )
            results.append([*logits, *gradients])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_losses_in_training(case):
    name, arguments = CASES[case]
    ours, theirs = (head.double().train() for head in build_pair(name, arguments))
    size = both_sizes(case)[0]
    results = []
    for head in (ours, theirs):
        inputs = inputs_for(name, arguments, size, torch.float64)
        torch.manual_seed(3)  # the same dropout
        losses = head.loss(*inputs, samples(size), {})
        total = sum(value for key, value in losses.items() if "loss" in key)
        gradients = torch.autograd.grad(total, leaves(inputs))
        results.append((losses, gradients))
    assert list(results[0][0]) == list(results[1][0])
    for key, value in results[0][0].items():
        torch.testing.assert_close(value, results[1][0][key], rtol=1e-9, atol=1e-9, msg=key)
    for a, b in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_float32_is_as_exact_as_theirs(case):
    name, arguments = CASES[case]
    ours, theirs = (head.eval() for head in build_pair(name, arguments))
    size = both_sizes(case)[0]
    wide = inputs_for(name, arguments, size, torch.float64)
    narrow = [[x.detach().float() for x in wide[0]], *(x.detach().float() for x in wide[1:])]
    with torch.no_grad():
        errors = []
        for head in (ours, theirs):
            single = head.float()(*narrow)
            exact = head.double()(*wide)
            pairs = zip(single, exact, strict=True) if isinstance(single, tuple) else [(single, exact)]
            errors.append(max(((a - b).norm() / b.norm()).item() for a, b in pairs))
    assert errors[0] <= 2 * errors[1] + 1e-8, errors


SHIPPED = sorted(
    path
    for family in ("danet", "ccnet", "ann", "ocrnet", "psanet", "gcnet", "nonlocal_net")
    for path in (Path(mmseg.__file__).parent / ".mim/configs" / family).glob("*.py")
)


def test_shipped_configs_build_the_same_heads():
    """Every config that mmseg ships for the seven families: same parameter names and shapes under our scope."""
    assert len(SHIPPED) >= 50
    seen = set()
    for path in SHIPPED:
        heads = Config.fromfile(path).model.decode_head
        for head in heads if isinstance(heads, list) else [heads]:
            if str(head) in seen:
                continue
            seen.add(str(head))
            arguments = {key: value for key, value in head.items() if key != "type"}
            with torch.device("meta"):
                ours = MODELS.build(head)
                theirs = getattr(decode_heads, head.type)(**arguments)
            shapes = [{key: value.shape for key, value in each.state_dict().items()} for each in (ours, theirs)]
            assert shapes[0] == shapes[1], f"{path.name}: {head.type}"
            if head.type != "FCNHead":
                assert type(ours).__module__.startswith("mmattn.heads"), path.name
    assert len(seen) >= 20


def test_mended_crashes_run():
    """What mmseg stops at: OCR's scale, ANN without dropout and with pooled queries."""
    size = (8, 10)
    x = torch.randn(2, 12, *size)
    ocr = MODELS.build({"type": "OCRHead", "ocr_channels": 8, "scale": 2, **ONE_LEVEL}).eval()
    assert ocr([x], torch.randn(2, 5, *size)).shape == (2, 5, *size)
    arguments = {**CASES["ann"][1], "dropout_ratio": 0, "query_scales": (1, 2)}
    ann = MODELS.build({"type": "ANLHead", **arguments})
    assert ann([torch.randn(2, 8, *size), x]).shape == (2, 5, *size)
