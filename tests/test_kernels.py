"""Triton kernels against plain torch in float64, values and gradients; what they need of a GPU; when they are chosen.

On a CUDA device the kernels themselves run. On a CPU Triton's interpreter runs them, and the compiler says what they
would need of an H100; both want triton, which has no dependencies:

    pip install --no-deps triton
    TRITON_INTERPRET=1 python -m pytest tests/test_kernels.py
    python -m pytest tests/test_kernels.py
"""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from mmattn.cli import UserError
from mmattn.layers import tokens
from mmattn.ops import attend, kernels
from mmattn.ops.attention import attend_reference
from mmattn.ops.upsample_argmax import upsample_argmax

TRITON = find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
WAY = "pip install --no-deps triton; TRITON_INTERPRET=1 python -m pytest tests/test_kernels.py"
runs = pytest.mark.skipif(
    not (TRITON and (INTERPRETED or torch.cuda.is_available())), reason=f"wants a CUDA device, or triton: {WAY}"
)
compiles = pytest.mark.skipif(
    not TRITON or INTERPRETED, reason="wants triton and its compiler: pip install --no-deps triton, no TRITON_INTERPRET"
)
WIDTHS = [(64, 512), (256, 256), (128, 128), (64, 64), (16, 16), (256, 512)]
DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * (not INTERPRETED)  # the interpreter cannot


# -- when they are chosen ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("dtype", "n", "d", "m", "e", "expected"),
    [
        (torch.bfloat16, 8192, 64, 8192, 512, True),
        (torch.float16, 512, 256, 512, 256, True),
        (torch.float32, 8192, 64, 8192, 512, False),
        (torch.float64, 8192, 64, 8192, 512, False),
        (torch.bfloat16, 511, 64, 8192, 512, False),
        (torch.bfloat16, 8192, 64, 511, 512, False),
        (torch.bfloat16, 8192, 272, 8192, 512, False),
        (torch.bfloat16, 8192, 64, 8192, 528, False),
        (torch.bfloat16, 8192, 65, 8192, 512, False),
        (torch.bfloat16, 8192, 64, 8192, 500, False),
    ],
)
def test_which_attention_the_kernel_suits(dtype, n, d, m, e, expected):
    assert kernels.suits(dtype, n, d, m, e) is expected


def test_torch_is_the_default():
    x = torch.empty(1, 512, 16, dtype=torch.float16, device="meta")
    assert not kernels.dense(x, x, x)


def test_the_switch_lasts_as_long_as_its_block(monkeypatch):
    monkeypatch.setattr(kernels, "missing", lambda: None)
    x = SimpleNamespace(device=SimpleNamespace(type="cuda"), dtype=torch.float16, shape=(1, 512, 16))
    with kernels.use_triton():
        assert kernels.dense(x, x, x)
        assert not kernels.dense(*[torch.zeros(1, 512, 16, dtype=torch.float16)] * 3)  # not on CUDA
        with kernels.use_triton(False):
            assert not kernels.dense(x, x, x)
        assert kernels.dense(x, x, x)
    assert not kernels.dense(x, x, x)


def test_autocast_decides_too(monkeypatch):
    monkeypatch.setattr(kernels, "missing", lambda: None)
    x = SimpleNamespace(device=SimpleNamespace(type="cuda"), dtype=torch.float32, shape=(1, 512, 16))
    with kernels.use_triton():
        assert not kernels.dense(x, x, x)
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind == "cuda")
        assert kernels.dense(x, x, x)


def test_attention_goes_to_the_kernel(monkeypatch):
    flash = SimpleNamespace(flash=lambda q, k, v, scale: ("kernel", scale))
    monkeypatch.setitem(sys.modules, "mmattn.ops.kernels.attention", flash)
    monkeypatch.setattr(kernels, "dense", lambda q, k, v: True)
    x = torch.zeros(1, 2, 3)
    assert attend(x, x, x, 0.5) == ("kernel", 0.5)


def test_labels_come_from_the_kernel(monkeypatch):
    label_map = SimpleNamespace(label_map=lambda x, size, align_corners: ("kernel", size, align_corners))
    monkeypatch.setitem(sys.modules, "mmattn.ops.kernels.upsample_argmax", label_map)
    monkeypatch.setattr(kernels, "missing", lambda: None)
    x = torch.zeros(1, 2, 3, 3)
    with kernels.use_triton():
        assert upsample_argmax(x, (6, 6)).shape == (1, 6, 6)  # not on CUDA
        monkeypatch.setattr(kernels, "labels", lambda x: True)
        assert upsample_argmax(x, (6, 6), align_corners=True) == ("kernel", (6, 6), True)


@pytest.mark.parametrize(
    ("triton", "cuda", "shared", "message"),
    [
        (False, True, kernels.SHARED, "triton is not installed.*pip install triton"),
        (True, False, kernels.SHARED, "no CUDA device is available"),
        (True, True, 101376, "A small GPU has 101376 bytes of shared memory"),
    ],
)
def test_what_is_missing_is_said(monkeypatch, triton, cuda, shared, message):
    device = SimpleNamespace(name="A small GPU", shared_memory_per_block_optin=shared)
    monkeypatch.setattr(kernels, "find_spec", lambda name: object() if triton else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: device)
    with pytest.raises(UserError, match=f"use_triton: {message}.*Without use_triton"):
        kernels.use_triton()
    kernels.use_triton(False)


# -- dense attention --------------------------------------------------------------------------------------------------
def matrices(n, d, m, e, dtype, *, batch=2, reach=1.0, seed=0, layout="rows"):
    """q, k and v whose largest product is about ``reach``; their rows or their columns next to each other."""
    torch.manual_seed(seed)
    q, k, v = (torch.randn(batch, *size, dtype=torch.float64) for size in ((n, d), (m, d), (m, e)))
    if batch:
        q, k = (x * (reach / (q.norm(dim=2).max() * k.norm(dim=2).max())) ** 0.5 for x in (q, k))
    order = (lambda x: x.mT.contiguous().mT) if layout == "columns" else torch.Tensor.contiguous
    return [order(x).to(dtype).to(DEVICE).requires_grad_() for x in (q, k, v)]


def results(function, inputs, scale=0.7):
    """Value and gradients, in float64."""
    out = function(*inputs, scale)
    weight = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(out)
    return [x.detach().double() for x in (out, *torch.autograd.grad(out, inputs, weight))]


@runs
@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("reach", [10, 1e4])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "size",
    [
        pytest.param((1, 3, 1, 5), id="pixel"),
        pytest.param((1, 16, 70, 32), id="query"),
        pytest.param((37, 6, 1, 9), id="key"),
        pytest.param((144, 16, 80, 32), id="whole blocks and others"),
        pytest.param((17, 20, 33, 272), id="columns in parts"),
    ],
)
def test_flash_is_as_exact_as_plain_torch(size, dtype, reach, layout):
    from mmattn.ops.kernels.attention import flash

    ratios = []
    for seed in range(2):
        inputs = matrices(*size, dtype, reach=reach, seed=seed, layout=layout)
        truth = results(attend_reference, [x.detach().double().requires_grad_() for x in inputs])
        rounding = torch.finfo(torch.float32).eps * (1 + reach / 8) * max(t.norm() for t in truth)  # of the logits
        floors = [torch.finfo(dtype).eps * t.norm() + rounding for t in truth]
        ours, plain = (
            torch.stack([(a - t).norm() + floor for a, t, floor in zip(results(f, inputs), truth, floors, strict=True)])
            for f in (flash, attend_reference)
        )
        ratios.append((ours / plain).log2())
    assert (torch.stack(ratios).mean(0) <= 1).all(), ratios


@runs
@pytest.mark.parametrize("size", [(4, 8), (3, 5)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_flash_takes_views_of_maps(size, memory_format):
    from mmattn.ops.kernels.attention import _even, flash

    torch.manual_seed(0)
    x = torch.randn(2, 16 + 16 + 32, *size, device=DEVICE).contiguous(memory_format=memory_format).requires_grad_()
    parts = [tokens(part) for part in x.split([16, 16, 32], dim=1)]
    for part in parts:
        assert (_even(part) is part) == (size == (4, 8) or memory_format == torch.channels_last)
    out, expected = flash(*parts), attend_reference(*parts)
    torch.testing.assert_close(out, expected)
    assert (out.mT if _even(parts[0]).stride(1) == 1 else out).is_contiguous()
    weight = torch.randn(1, device=DEVICE).expand_as(out)  # a gradient without strides
    torch.testing.assert_close(*(torch.autograd.grad(y, x, weight)[0] for y in (out, expected)))


@runs
def test_flash_of_no_images():
    from mmattn.ops.kernels.attention import flash

    inputs = matrices(5, 16, 6, 32, torch.float32, batch=0)
    assert [x.shape for x in results(flash, inputs)] == [(0, 5, 32), (0, 5, 16), (0, 6, 16), (0, 6, 32)]


@runs
def test_flash_is_an_operator_of_torch():
    from mmattn.ops.kernels.attention import flash

    for layout in ("rows", "columns"):
        inputs = matrices(16, 16, 32, 48, torch.float32, layout=layout)
        torch.library.opcheck(torch.ops.mmattn.flash.default, (*inputs, 0.7))
    compiled = torch.compile(flash, fullgraph=True, backend="aot_eager", dynamic=True)
    for a, b in zip(results(compiled, inputs), results(attend_reference, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    with torch.autocast(DEVICE, dtype=torch.float16):
        assert flash(*inputs).dtype == torch.float16


# -- labels -----------------------------------------------------------------------------------------------------------
def coarse(b, classes, h, w, dtype=torch.float32):
    torch.manual_seed(0)
    return torch.randn(b, classes, h, w, dtype=dtype).to(DEVICE)


def plain_labels(logits, size, align_corners):
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners).argmax(1)


@runs
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("size", "to"),
    [
        pytest.param((1, 3, 1, 1), (3, 5), id="pixel"),
        pytest.param((1, 5, 1, 3), (2, 12), id="row"),
        pytest.param((1, 4, 3, 2), (6, 150), id="odd"),
        pytest.param((1, 4, 9, 9), (5, 1), id="smaller"),
        pytest.param((0, 4, 2, 2), (4, 4), id="none"),
    ],
)
def test_labels_are_those_of_torch(size, to, dtype, align_corners):
    from mmattn.ops.kernels.upsample_argmax import label_map

    logits = coarse(*size, dtype)
    for x in (logits, logits.contiguous(memory_format=torch.channels_last), torch.zeros_like(logits)):
        expected = plain_labels(x, to, align_corners)
        assert torch.equal(label_map(x, to, align_corners=align_corners), expected)
    actual = label_map(logits, to, align_corners=align_corners, dtype=torch.uint8)
    assert torch.equal(actual, plain_labels(logits, to, align_corners).byte())


@runs
def test_labels_where_a_logit_is_no_number():
    from mmattn.ops.kernels.upsample_argmax import label_map

    logits = coarse(1, 4, 2, 3)
    logits[0, 2, 0, 0] = logits[0, 3, 1, 1] = float("nan")
    logits[0, 1, 1, 2] = float("-inf")
    assert torch.equal(label_map(logits, (4, 6)), plain_labels(logits, (4, 6), False))


@runs
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_confusion_counts_each_pixel(dtype):
    from mmattn.ops.kernels.upsample_argmax import confusion

    logits = coarse(2, 5, 3, 2)
    truth = torch.tensor([0, 1, 2, 3, 4, 9, 255]).to(dtype)[torch.randint(7, (2, 4, 130))].to(DEVICE)
    expected = torch.zeros(5, 5, dtype=torch.int64, device=DEVICE)
    for true, label in zip(
        truth.flatten().tolist(), plain_labels(logits, (4, 130), True).flatten().tolist(), strict=True
    ):
        if true < 5 and true != 1:
            expected[true, label] += 1
    actual = confusion(logits, truth, align_corners=True, ignore_index=1)
    assert actual.dtype == torch.int64
    assert torch.equal(actual, expected)


# -- what they need of a GPU ------------------------------------------------------------------------------------------
def needs(place, kernel, types, constants, unit, warps, stages):
    """Bytes of stack, where spilled registers go, and of shared memory, for an H100; whole vectors can be loaded."""
    import triton
    from triton.backends import nvidia
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, fixed, even = {}, dict(constants), {}
    for i, name in enumerate(kernel.arg_names):
        if name in unit:
            fixed[name] = 1
        signature[name] = "constexpr" if name in fixed else types.get(name, "i32")
        if signature[name] == "i32" or signature[name].startswith("*"):
            even[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, fixed, even)
    options = {"num_warps": warps, "num_stages": stages}
    binary = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    cuobjdump = Path(nvidia.__file__).parent / "bin/cuobjdump"
    place.joinpath("kernel.cubin").write_bytes(binary.asm["cubin"])
    report = subprocess.run([cuobjdump, "-res-usage", place / "kernel.cubin"], capture_output=True, check=True)
    return int(re.search(rb"STACK:(\d+)", report.stdout)[1]), binary.metadata.shared


@compiles
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("kernel", ["forward", "queries", "keys", "values"])
@pytest.mark.parametrize(
    ("widths", "dtype", "precision"),
    [
        pytest.param(w, torch.bfloat16, "ieee", id=f"bf16-{w}", marks=() if w == (64, 512) else pytest.mark.slow)
        for w in WIDTHS
    ]
    + [
        pytest.param((64, 512), torch.float32, precision, id=f"{precision}-(64, 512)", marks=pytest.mark.slow)
        for precision in ("ieee", "tf32")
    ],
)
def test_flash_spills_nothing(tmp_path, widths, dtype, precision, kernel, columns):
    from mmattn.ops.kernels import attention

    d, e = widths
    use = attention.blocks(kernel, dtype, precision, d, e)
    constants = {
        "D": d, "E": e, "BLOCK_D": d, "BLOCK_E": use.values, "BLOCK_N": use.queries, "BLOCK_M": use.keys,
        "PRECISION": precision,
    }  # fmt: skip
    element = "*bf16" if dtype == torch.bfloat16 else "*fp32"
    types = dict.fromkeys(["Q", "K", "V", "Out", "dO", "dQ", "dK", "dV"], element)
    types |= {"L": "*fp32", "Delta": "*fp32", "scale": "fp32", "slope": "fp32"}
    unit = "qn km vm on gn dqn dkm dvm" if columns else "qd kd ve oe ge dqd dkd dve"
    run = getattr(attention, f"_{kernel}")
    stack, shared = needs(tmp_path, run, types, constants, unit.split(), use.warps, use.stages)
    assert stack == 0
    assert shared <= kernels.SHARED


@compiles
@pytest.mark.parametrize("count", [False, True])
def test_labels_spill_nothing(tmp_path, count):
    from mmattn.ops.kernels import upsample_argmax

    types = {"X": "*bf16", "Labels": "*u8", "Counts": "*i64", "step_y": "fp32", "step_x": "fp32"}
    constants = {"ALIGN": False, "COUNT": count, "COPIES": upsample_argmax.COPIES, "BLOCK": upsample_argmax.BLOCK}
    assert needs(tmp_path, upsample_argmax._label, types, constants, ["xw"], 4, 3) == (0, 0)
