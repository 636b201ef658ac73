"""What comes after the logits: classes of pixels, and the training loss, against plain torch."""

from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmattn.ops.pixel_loss import by_strips, pixel_loss, pixel_loss_reference
from mmattn.ops.upsample_argmax import upsample_argmax, upsample_argmax_reference

LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
ALIGN = pytest.mark.parametrize("align_corners", [False, True])


def smooth(size: tuple[int, int], classes: int, batch: int = 1) -> Tensor:
    """Regions of a few positions each."""
    return 5 * F.interpolate(torch.randn(batch, classes, 4, 5), size=size, mode="bicubic")


LOGITS = {
    "noise": lambda size, classes: torch.randn(2, classes, *size),
    "regions": lambda size, classes: smooth(size, classes, 2),
    "ties": lambda size, classes: torch.randn(2, classes, *size).round(),
    "nearly equal": lambda size, classes: 1000 + 0.01 * torch.randn(2, classes, *size),
    "rounding decides": lambda size, classes: 1 + torch.finfo(torch.float32).eps * smooth(size, classes, 2).round(),
    "one value": lambda size, classes: torch.full((2, classes, *size), 0.3),
    "not numbers": lambda size, classes: torch.randn(2, classes, *size).masked_fill_(
        torch.rand(2, classes, *size) < 1e-4, float("nan")
    ),
    "infinities": lambda size, classes: (
        smooth(size, classes, 2).clamp_(-4, 9).masked_fill_(torch.rand(2, classes, *size) < 1e-3, float("-inf"))
    ),
}


@pytest.mark.parametrize("kind", LOGITS)
@pytest.mark.parametrize(("step", "classes"), [((8, 8), 19), ((2, 4), 3), ((16, 8), 2), ((32, 2), 5), ((4, 4), 33)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@LAYOUTS
@ALIGN
def test_classes_are_those_of_the_whole_map(kind, dtype, layout, align_corners, step, classes):
    torch.manual_seed(0)
    h, w = 150 // step[0] + 1, 140 // step[1] + 2
    size = ((h - 1) * step[0] + 1, (w - 1) * step[1] + 1) if align_corners else (h * step[0], w * step[1])
    logits = LOGITS[kind]((h, w), classes).to(dtype).contiguous(memory_format=layout)
    actual = upsample_argmax(logits, size, align_corners=align_corners)
    expected = upsample_argmax_reference(logits, size, align_corners=align_corners)
    assert actual.dtype == torch.long
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (9, 8), (130, 131), (161, 241), (72, 400), (20, 30), (160, 240)])
@pytest.mark.parametrize("coarse", [(20, 30), (1, 1), (1, 30), (20, 1)])
@ALIGN
def test_classes_at_any_size(size, coarse, align_corners):
    logits = torch.randn(2, 7, *coarse)
    for image in (logits, logits[:, :5], logits.transpose(2, 3).contiguous().transpose(2, 3), logits[:0]):
        actual = upsample_argmax(image, size, align_corners=align_corners)
        assert torch.equal(actual, upsample_argmax_reference(image, size, align_corners=align_corners))


@pytest.mark.parametrize(("coarse", "size"), [((60, 50), (180, 150)), ((12, 15), (96, 120)), ((97, 97), (769, 769))])
@LAYOUTS
def test_classes_where_one_rounding_decides(coarse, size, layout):
    """At steps that are no power of two, and in small maps, which torch rounds otherwise."""
    torch.manual_seed(0)
    logits = (1000 + 1e-3 * torch.randn(1, 9, *coarse)).contiguous(memory_format=layout)
    assert torch.equal(upsample_argmax(logits, size), upsample_argmax_reference(logits, size))


class Elements(TorchDispatchMode):
    """Elements of the largest floating-point tensor that any operation gives out, and of all that upsampling does."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.upsampled = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, Tensor) and x.is_floating_point():
                self.largest = max(self.largest, x.untyped_storage().nbytes() // x.element_size())
                self.upsampled += x.numel() * ("upsample" in str(func))
        return out


@LAYOUTS
@ALIGN
def test_only_cells_that_differ_are_interpolated(layout, align_corners):
    torch.manual_seed(0)
    logits = smooth((64, 129), 9).contiguous(memory_format=layout)
    size = (505, 1025) if align_corners else (512, 1032)
    with Elements() as lean:
        upsample_argmax(logits, size, align_corners=align_corners)
    with Elements() as plain:
        upsample_argmax_reference(logits, size, align_corners=align_corners)
    assert plain.largest == plain.upsampled == 9 * size[0] * size[1]
    assert lean.largest < plain.largest / 10
    assert 0 < lean.upsampled < plain.upsampled / 3


def test_classes_under_autocast():
    logits = torch.randn(1, 19, 20, 30, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(upsample_argmax(logits, (160, 240)), upsample_argmax_reference(logits, (160, 240)))


LOSS_SIZES = [
    ((6, 7), (48, 56)),
    ((6, 7), (50, 61)),
    ((9, 8), (5, 6)),
    ((1, 1), (5, 6)),
    ((1, 5), (8, 1)),
    ((5, 1), (1, 9)),
]


def loss_inputs(coarse: tuple[int, int], size: tuple[int, int], batch: int = 2, seed: int = 0):
    torch.manual_seed(seed)
    logits = 3 * torch.randn(batch, 5, *coarse, dtype=torch.float64)
    label = torch.randint(0, 6, (batch, *size))
    label[label == 5] = 255
    weights = torch.rand(3, 5, dtype=torch.float64)
    return logits.requires_grad_(), label, weights, torch.rand(batch, *size, dtype=torch.float64)


def loss_results(op, logits, label, weights, pixel_weight, **options):
    """Sums and the gradient of a mixture of them, in float64, and the number of correct pixels."""
    found = op(logits, label, weights, pixel_weight, **options)
    mixture = torch.tensor([1.0, 0.3, -0.5]).to(found.sums)
    (gradient,) = torch.autograd.grad((found.sums * mixture[: len(found.sums)]).sum(), logits)
    return found.sums.detach().double(), gradient.double(), found.correct


@pytest.fixture
def few_rows_at_once(monkeypatch):
    monkeypatch.setattr(import_module("mmattn.ops.pixel_loss"), "ELEMENTS", 500)


@pytest.mark.parametrize(("coarse", "size"), LOSS_SIZES)
@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("weighted", [False, True])
@LAYOUTS
@ALIGN
def test_loss_is_that_of_the_whole_map(coarse, size, batch, weighted, layout, align_corners, few_rows_at_once):
    logits, label, weights, pixel_weight = loss_inputs(coarse, size, batch=batch)
    logits = logits.detach().contiguous(memory_format=layout).requires_grad_()
    inputs = (logits, label, weights, pixel_weight if weighted else None)
    actual = loss_results(pixel_loss, *inputs, align_corners=align_corners)
    if batch == 0:
        assert [float(x.abs().sum()) for x in actual] == [0, 0, 0]
        return
    for a, b in zip(actual, loss_results(pixel_loss_reference, *inputs, align_corners=align_corners), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("reach", [1, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("coarse", "size"), LOSS_SIZES)
def test_loss_is_as_exact_as_plain_torch(coarse, size, dtype, reach):
    ratios = []
    for seed in range(8):  # one rounding is a matter of luck
        logits, *rest = loss_inputs(coarse, size, seed=seed)
        logits = (reach / 3 * logits).detach().to(dtype).requires_grad_()
        truth = loss_results(pixel_loss_reference, logits.detach().double().requires_grad_(), *rest)
        floors = [torch.finfo(kind).eps * t.norm() for kind, t in zip((torch.float32, dtype), truth, strict=False)]
        ours, plain = (
            torch.stack([(x - t).norm() + floor for x, t, floor in zip(found, truth, floors, strict=False)])
            for found in (loss_results(op, logits, *rest) for op in (pixel_loss, pixel_loss_reference))
        )
        ratios.append((ours / plain).log2())
    assert (torch.stack(ratios).mean(0) <= 1).all(), ratios


@ALIGN
def test_gradients_are_the_derivatives(align_corners, few_rows_at_once):
    logits, label, weights, pixel_weight = loss_inputs((3, 4), (10, 13))

    def sums(logits: Tensor) -> Tensor:
        return pixel_loss(logits, label, weights, pixel_weight, align_corners=align_corners).sums

    assert torch.autograd.gradcheck(sums, logits)


def test_pixels_without_a_label_have_no_loss():
    logits, label, weights, _ = loss_inputs((3, 4), (24, 32))
    sums, gradient, correct = loss_results(pixel_loss, logits, torch.full_like(label, 3), weights, None, ignore_index=3)
    assert sums.abs().sum() == gradient.abs().sum() == correct == 0


def test_nothing_of_the_size_of_the_image_is_made():
    logits, label = torch.randn(2, 19, 32, 64, requires_grad=True), torch.randint(0, 19, (2, 256, 512))
    with Elements() as lean:
        loss_results(pixel_loss, logits, label, torch.ones(1, 19), None)
    with Elements() as plain:
        loss_results(pixel_loss_reference, logits, label, torch.ones(1, 19), None)
    assert plain.largest == 19 * 2 * 256 * 512
    assert 0 < lean.largest < plain.largest / 10


@pytest.mark.parametrize(
    ("coarse", "steps"), [((20, 30), (8, 8)), ((50, 23), (4, 16)), ((50, 46), (3, 3)), ((5, 6), (8, 8))]
)
@LAYOUTS
@ALIGN
def test_by_strips_sees_every_pixel_once_and_exactly(coarse, steps, layout, align_corners, few_rows_at_once):
    size = tuple((n - align_corners) * s + align_corners for n, s in zip(coarse, steps, strict=True))
    logits, label, *_ = loss_inputs(coarse, size)
    logits = logits.detach().float().contiguous(memory_format=layout)
    actual = by_strips(lambda pixels, target: pixels[:, 2] * target, logits, label, align_corners=align_corners)
    pixels = F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)
    assert torch.equal(actual, pixels[:, 2] * label)


def test_by_strips_sees_a_few_rows(monkeypatch):
    monkeypatch.setattr(import_module("mmattn.ops.pixel_loss"), "ELEMENTS", 1)
    seen = []
    by_strips(
        lambda pixels, _: seen.append(pixels.shape[2]) or pixels[:, 0],
        torch.rand(1, 3, 64, 64),
        torch.zeros(1, 512, 512).long(),
    )
    assert len(seen) == 4
    assert sum(seen) == 512
