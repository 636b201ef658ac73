"""What comes after the logits: classes of pixels, and the training loss, against plain torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

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
