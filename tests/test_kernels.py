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
from mmattn.ops import attend, criss_cross, kernels
from mmattn.ops.attention import attend_reference
from mmattn.ops.criss_cross import criss_cross_reference
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
def stand_in(*shape, dtype=torch.bfloat16, device="cuda", requires_grad=False):
    """What the rules look at of a tensor on a device that need not be there."""
    return SimpleNamespace(shape=shape, dtype=dtype, device=SimpleNamespace(type=device), requires_grad=requires_grad)


@pytest.fixture
def asked(monkeypatch):
    monkeypatch.setattr(kernels, "missing", lambda: None)
    with kernels.use_triton():
        yield


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(
    ("options", "n", "d", "m", "e", "expected"),
    [
        ({}, 8192, 64, 8192, 512, True),
        ({"dtype": torch.float16}, 512, 256, 512, 256, True),
        ({"dtype": torch.float32}, 8192, 64, 8192, 512, False),
        ({"dtype": torch.float64}, 8192, 64, 8192, 512, False),
        ({"device": "cpu"}, 8192, 64, 8192, 512, False),
        ({}, 511, 64, 8192, 512, False),
        ({}, 8192, 64, 511, 512, False),
        ({}, 8192, 272, 8192, 512, False),
        ({}, 8192, 64, 8192, 528, False),
        ({}, 8192, 65, 8192, 512, False),
        ({}, 8192, 64, 8192, 500, False),
    ],
)
def test_which_dense_attention_takes_the_kernel(options, n, d, m, e, expected):
    q, k, v = stand_in(1, n, d, **options), stand_in(1, m, d, **options), stand_in(1, m, e, **options)
    assert kernels.dense(q, k, v) is expected


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(
    ("options", "d", "c", "expected"),
    [
        ({}, 64, 512, True),
        ({"requires_grad": True}, 64, 512, False),
        ({"dtype": torch.float32}, 64, 512, False),
        ({"device": "cpu"}, 64, 512, False),
        ({}, 60, 512, False),
        ({}, 64, 500, False),
    ],
)
def test_which_criss_cross_attention_takes_the_kernel(options, d, c, expected):
    q, v = stand_in(1, d, 9, 9, **options), stand_in(1, c, 9, 9, **options)
    assert kernels.lines(q, q, v) is expected
    with torch.no_grad():
        assert kernels.lines(q, q, v) is (expected or "requires_grad" in options)


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(
    ("options", "expected"), [({}, True), ({"device": "cpu"}, False), ({"dtype": torch.float64}, False)]
)
def test_which_labels_come_from_the_kernel(options, expected):
    assert kernels.labels(stand_in(1, 19, 9, 9, **options)) is expected


@pytest.mark.usefixtures("asked")
def test_autocast_decides_too(monkeypatch):
    x = stand_in(1, 512, 16, dtype=torch.float32)
    assert not kernels.dense(x, x, x)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind == "cuda")
    assert kernels.dense(x, x, x)


def test_the_switch_lasts_as_long_as_its_block(monkeypatch):
    monkeypatch.setattr(kernels, "missing", lambda: None)
    x, y = stand_in(1, 512, 16), stand_in(1, 16, 9, 9)

    def taken():
        return {kernels.dense(x, x, x), kernels.lines(y, y, y), kernels.labels(y)}

    assert taken() == {False}
    with kernels.use_triton():
        assert taken() == {True}
        with kernels.use_triton(False):
            assert taken() == {False}
        assert taken() == {True}
    assert taken() == {False}


def test_attention_goes_to_the_kernel(monkeypatch):
    module = SimpleNamespace(flash=lambda q, k, v, scale: ("kernel", scale))
    monkeypatch.setitem(sys.modules, "mmattn.ops.kernels.attention", module)
    monkeypatch.setattr(kernels, "dense", lambda q, k, v: True)
    x = torch.zeros(1, 2, 3)
    assert attend(x, x, x, 0.5) == ("kernel", 0.5)


def test_criss_cross_attention_goes_to_the_kernel(monkeypatch):
    module = SimpleNamespace(predict_criss_cross=lambda q, k, v: "kernel")
    monkeypatch.setitem(sys.modules, "mmattn.ops.kernels.criss_cross", module)
    monkeypatch.setattr(kernels, "lines", lambda q, k, v: True)
    x = torch.zeros(1, 2, 3, 3)
    assert criss_cross(x, x, x) == "kernel"


def test_labels_come_from_the_kernel(monkeypatch):
    label_map = SimpleNamespace(label_map=lambda x, size, align_corners: ("kernel", size, align_corners))
    monkeypatch.setitem(sys.modules, "mmattn.ops.kernels.upsample_argmax", label_map)
    x = torch.zeros(1, 2, 3, 3)
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


# -- criss-cross attention --------------------------------------------------------------------------------------------
@runs
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("reach", [1, 30])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "size",
    [
        pytest.param((1, 3, 5, 1, 1), id="pixel"),
        pytest.param((2, 6, 9, 1, 5), id="row"),
        pytest.param((1, 6, 9, 5, 1), id="column"),
        pytest.param((1, 16, 272, 2, 3), id="channels in parts"),
        pytest.param((1, 8, 16, 2, 70), id="lines in parts"),
        pytest.param((0, 8, 8, 2, 3), id="none"),
    ],
)
def test_criss_cross_is_as_exact_as_plain_torch(size, dtype, reach, memory_format):
    from mmattn.ops.kernels.criss_cross import predict_criss_cross

    torch.manual_seed(0)
    b, d, c, h, w = size
    inputs = [reach * torch.randn(b, n, h, w, device=DEVICE) for n in (d, d, c)]
    inputs = [x.to(dtype, memory_format=memory_format) for x in inputs]
    truth = criss_cross_reference(*(x.double() for x in inputs))
    ours, plain = ((f(*inputs) - truth).norm() for f in (predict_criss_cross, criss_cross_reference))
    assert ours <= 2 * plain + torch.finfo(dtype).eps * truth.norm()


@runs
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_criss_cross_is_an_operator_of_torch(memory_format):
    x = torch.randn(1, 16, 2, 3, device=DEVICE).contiguous(memory_format=memory_format)
    torch.library.opcheck(torch.ops.mmattn.predict_criss_cross.default, (x, x, x))


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
@pytest.mark.parametrize("dtype", DTYPES)
def test_labels_where_rounding_decides(dtype):
    from mmattn.ops.kernels.upsample_argmax import label_map

    close = (8 + 8 * torch.finfo(dtype).eps * (coarse(1, 4, 3, 2) > 0)).to(dtype)
    y, x = (((torch.arange(8 * n, device=DEVICE) + 0.5) / 8 - 0.5).clamp(min=0) for n in (3, 2))
    top, left = y.long(), x.long()
    dy, dx = (y - top)[:, None], x - left
    z00, z01, z10, z11 = (
        close.float()[:, :, (top + i).clamp(max=2)][..., (left + j).clamp(max=1)] for i in (0, 1) for j in (0, 1)
    )
    z = (1 - dy) * ((1 - dx) * z00 + dx * z01) + dy * ((1 - dx) * z10 + dx * z11)
    assert torch.equal(label_map(close, (24, 16)), z.to(dtype).float().argmax(1))


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
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_criss_cross_spills_nothing(tmp_path, dtype, columns):
    from mmattn.ops.kernels import criss_cross

    constants = criss_cross.settings(dtype, 64, 512) | {"COLUMNS": columns}
    types = dict.fromkeys(["Q", "K", "V", "Out"], "*bf16" if dtype == torch.bfloat16 else "*fp32")
    types |= {"Highest": "*fp32", "Total": "*fp32"}
    warps, stages = constants.pop("num_warps"), constants.pop("num_stages")
    unit = ["qd", "kd", "ve", "oe", "sl" if columns else "sn"]
    stack, shared = needs(tmp_path, criss_cross._lines, types, constants, unit, warps, stages)
    assert stack == 0
    assert shared <= kernels.SHARED


@compiles
@pytest.mark.parametrize("count", [False, True])
def test_labels_spill_nothing(tmp_path, count):
    from mmattn.ops.kernels import upsample_argmax

    types = {"X": "*bf16", "Labels": "*u8", "Counts": "*i64", "step_y": "fp32", "step_x": "fp32"}
    constants = {"ALIGN": False, "COUNT": count, "COPIES": upsample_argmax.COPIES, "BLOCK": upsample_argmax.BLOCK}
    assert needs(tmp_path, upsample_argmax._label, types, constants, ["xw"], 4, 3) == (0, 0)
