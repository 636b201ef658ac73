"""Operators against explicit loops and against plain torch, values and gradients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mmattn.layers import plane, tokens
from mmattn.ops import additive, criss_cross, point_wise, product, psa_mask, pyramid
from mmattn.ops.additive import additive_reference
from mmattn.ops.attention import attend, attend_reference, chunked, fused
from mmattn.ops.attention_pool import attention_pool, attention_pool_reference
from mmattn.ops.criss_cross import criss_cross_reference
from mmattn.ops.gram import gram, gram_reference
from mmattn.ops.point_wise import point_wise_reference
from mmattn.ops.pyramid import pyramid_reference


@dataclass(frozen=True)
class Lean:
    """An operator with a lean path, on maps (b, channels, h, w); the first two make the logits."""

    op: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    channels: Sequence[int]

    def inputs(
        self,
        size: tuple[int, int],
        batch: int = 2,
        dtype: torch.dtype = torch.float64,
        reach: float = 0.0,
        seed: int = 0,
    ) -> list[Tensor]:
        """Random inputs; with ``reach`` no product is larger than that, nor all much smaller."""
        torch.manual_seed(seed)
        maps = [torch.randn(batch, c, *size, dtype=torch.float64) for c in self.channels]
        if reach:
            along = 1 if len(maps) > 1 else 2  # products of positions, or of channels
            longest = [x.flatten(2).norm(dim=along).max() for x in (maps[0], maps[:2][-1])]
            maps[:2] = [x * (reach / longest[0] / longest[1]) ** 0.5 for x in maps[:2]]
        return [x.to(dtype).requires_grad_() for x in maps]


def flat(op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An operator on tokens as one on maps, scaled."""

    def on_maps(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return plane(op(tokens(q), tokens(k), tokens(v), 0.7), q.shape[2:])

    return on_maps


def mapped(op: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Products of channels, from maps."""
    return lambda x: op(x.flatten(2))


def pooled(op: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Tensor]:
    """The context alone, of weights that are the mean of a map."""

    def on_maps(x: Tensor, y: Tensor) -> Tensor:
        weight = y.mean((0, 2, 3), keepdim=True)  # (1, c, 1, 1)
        return op(x, weight, weight[:, 0, 0, 0])[0]

    return on_maps


def summed(op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """One number for each query and each key."""
    return lambda a, b, v: plane(op(a.flatten(1), b.flatten(1), tokens(v)), v.shape[2:])


def masked(op: Callable[..., Tensor], mask_size: tuple[int, int], direction: str) -> Callable[..., Tensor]:
    """Masks predicted by weights that are pixels of a map."""

    def on_maps(masks: Tensor, y: Tensor, x: Tensor) -> Tensor:
        first = torch.cat([y, torch.zeros_like(y.sum(0, keepdim=True))])[:1]  # also of no images
        weight = F.interpolate(first, mask_size)[0]  # (c, mh, mw)
        return op(masks, weight.flatten(1).mT[..., None, None], x, mask_size, direction)

    return on_maps


def multiplied(op: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Products of the channels of two maps."""
    return lambda x, y: op(x.flatten(2), tokens(y))


def both(mask_size: tuple[int, int], direction: str) -> Lean:
    return Lean(*(masked(op, mask_size, direction) for op in (point_wise, point_wise_reference)), (6, 6, 9))


OPS = pytest.mark.parametrize(
    "lean",
    [
        pytest.param(Lean(criss_cross, criss_cross_reference, (6, 6, 9)), id="criss_cross"),
        pytest.param(Lean(flat(attend), flat(attend_reference), (6, 6, 9)), id="attend"),
        pytest.param(Lean(pooled(attention_pool), pooled(attention_pool_reference), (6, 6)), id="attention_pool"),
        pytest.param(Lean(mapped(gram), mapped(gram_reference), (6,)), id="gram"),
        pytest.param(Lean(multiplied(product), multiplied(torch.matmul), (6, 9)), id="product"),
        pytest.param(
            Lean(partial(pyramid, scales=(1, 3, 6)), partial(pyramid_reference, scales=(1, 3, 6)), (6,)), id="pyramid"
        ),
        pytest.param(Lean(flat(chunked), flat(attend_reference), (6, 6, 9)), id="chunked"),
        pytest.param(Lean(summed(additive), summed(additive_reference), (1, 1, 9)), id="additive"),
        pytest.param(both((5, 4), "collect"), id="collect"),
        pytest.param(both((30, 57), "distribute"), id="distribute"),
    ],
)
SIZES = pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 1), (5, 6), (23, 29)])


def results(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Value and gradients, in float64."""
    out = function(*inputs)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(out.shape, dtype=torch.float64, generator=generator).to(out.dtype)
    return [x.detach().double() for x in (out, *torch.autograd.grad(out, inputs, weight))]


@OPS
@SIZES
@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_lean_is_the_reference(lean, size, batch, memory_format):
    inputs = lean.inputs(size, batch)
    ordered = [x.detach().contiguous(memory_format=memory_format).requires_grad_() for x in inputs]
    for a, b in zip(results(lean.op, ordered), results(lean.reference, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@OPS
@SIZES
@pytest.mark.parametrize("reach", [10, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lean_is_as_exact_as_plain_torch(lean, size, reach, dtype):
    ratios = []
    for seed in range(12):  # the rounding of one large logit is a matter of luck
        inputs = lean.inputs(size, dtype=dtype, reach=reach, seed=seed)
        truth = results(lean.reference, [x.detach().double().requires_grad_() for x in inputs])
        floors = [torch.finfo(dtype).eps * t.norm() + 1e-12 for t in truth]
        ours, plain = (
            torch.stack([(a - t).norm() + floor for a, t, floor in zip(results(f, inputs), truth, floors, strict=True)])
            for f in (lean.op, lean.reference)
        )
        ratios.append((ours / plain).log2())
    assert (torch.stack(ratios).mean(0) <= 1).all(), ratios


@OPS
def test_gradients_are_the_derivatives(lean):
    assert torch.autograd.gradcheck(lean.op, lean.inputs((3, 4)))


@OPS
@pytest.mark.parametrize("needed", [0, 1, -1])
def test_one_gradient_alone(lean, needed):
    inputs = lean.inputs((5, 6))
    needed %= len(inputs)
    for i, x in enumerate(inputs):
        x.requires_grad_(i == needed)
    actual, expected = (torch.autograd.grad(f(*inputs).sum(), inputs[needed])[0] for f in (lean.op, lean.reference))
    torch.testing.assert_close(actual, expected)


@OPS
def test_lean_under_autocast(lean):
    inputs = lean.inputs((5, 6), dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = lean.op(*inputs)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, lean.op(*(x.bfloat16() for x in inputs)), rtol=0.02, atol=0.01)


@OPS
def test_gradients_are_the_same_inside_and_outside_autocast(lean):
    inputs = lean.inputs((5, 6), dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = torch.autograd.grad(lean.op(*inputs).sum(), inputs)
        out = lean.op(*inputs)
    outside = torch.autograd.grad(out.sum(), inputs)
    half = [x.detach().bfloat16().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(lean.op(*half).sum(), half)
    for a, b, c in zip(inside, outside, expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        torch.testing.assert_close(a, c.float(), rtol=0.02, atol=0.05)


@pytest.mark.parametrize(
    ("device", "dtype", "widths", "expected"),
    [
        ("cuda", torch.float16, (64, 512), True),
        ("cuda", torch.bfloat16, (8, 8), True),
        ("cuda", torch.float32, (64, 64), True),
        ("cuda", torch.float64, (64, 64), False),
        ("cuda", torch.float16, (64, 19), False),
        ("cuda", torch.float16, (12, 64), False),
        ("cpu", torch.float32, (64, 64), False),
        ("mps", torch.float16, (64, 64), False),
    ],
)
def test_where_torch_has_a_kernel(device, dtype, widths, expected):
    assert fused(device, dtype, *widths) is expected


@OPS
def test_lean_compiles_with_its_gradients(lean):
    torch._dynamo.reset()
    compiled = torch.compile(lean.op, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in ((5, 6), (23, 29)):
        inputs = lean.inputs(size)
        for a, b in zip(results(compiled, inputs), results(lean.reference, inputs), strict=True):
            torch.testing.assert_close(a, b)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation gives out, those inside our own operators included."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "mmattn":
            with self:
                out = func.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CPU), *args, **kwargs or {})
        else:
            out = func(*args, **kwargs or {})
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, Tensor):
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return out


@OPS
def test_nothing_of_the_size_of_all_pairs_is_made(lean):
    size = (40, 41)
    inputs = lean.inputs(size, batch=1, dtype=torch.float32)
    with Largest() as seen:
        results(lean.op, inputs)
    assert 0 < seen.elements < (size[0] * size[1]) ** 2 // 2


def test_plain_attention_makes_all_pairs():
    """So the watch above sees what it should."""
    with Largest() as seen:
        results(flat(attend_reference), Lean(attend, attend_reference, (2, 2, 2)).inputs((40, 41)))
    assert seen.elements >= (40 * 41) ** 2


def test_keys_that_only_just_count():
    """Sums that nearly cancel, and a key that adds up to nothing: it has no gradient."""
    a, b = torch.tensor([[-1000.0, -1000.5]]).requires_grad_(), torch.tensor([[1000.0, 1000.001, 0.0]]).requires_grad_()
    v = torch.tensor([[[3.0], [5.0], [7.0]]])
    y = additive(a, b, v)
    gap = (b - 1000).detach()[0, 1]
    torch.testing.assert_close(y[0, :, 0], torch.tensor([5 * gap / 3, 0]), rtol=1e-6, atol=0)
    y.sum().backward()
    torch.testing.assert_close(a.grad, torch.tensor([[5 / 3, 0]]))
    torch.testing.assert_close(b.grad, torch.tensor([[0, 5 / 3, 0]]))


def loop_mask(logits, mask_size, direction):
    (mh, mw), (b, _, h, w) = mask_size, logits.shape
    full = {}
    for y in range(h):
        for x in range(w):
            for i in range(mh):
                for j in range(mw):
                    oy, ox = y + i - (mh - 1) // 2, x + j - (mw - 1) // 2
                    if 0 <= oy < h and 0 <= ox < w:
                        pair = (oy * w + ox, y * w + x)
                        full[pair if direction == "collect" else pair[::-1]] = logits[:, i * mw + j, y, x]
    nothing = logits.new_zeros(b)
    rows = [torch.stack([full.get((s, r), nothing) for r in range(h * w)], 1) for s in range(h * w)]
    return torch.stack(rows, 1).unflatten(2, (h, w))


@pytest.mark.parametrize("direction", ["collect", "distribute"])
@pytest.mark.parametrize("mask_size", [(1, 1), (3, 3), (2, 4), (4, 5), (7, 9), (8, 10), (11, 13)])
def test_psa_mask(direction, mask_size):
    torch.manual_seed(0)
    logits = torch.randn(2, mask_size[0] * mask_size[1], 4, 5, dtype=torch.float64, requires_grad=True)
    actual, expected = psa_mask(logits, mask_size, direction), loop_mask(logits, mask_size, direction)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    weight = torch.randn_like(actual)
    gradients = [torch.autograd.grad(out, logits, weight)[0] for out in (actual, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("direction", ["collect", "distribute"])
@pytest.mark.parametrize("mask_size", [(1, 1), (3, 5), (4, 6), (9, 11), (2, 13), (75, 150)])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 1), (5, 6), (9, 70), (35, 5)])
def test_point_wise(size, mask_size, direction, softmax):
    torch.manual_seed(0)
    shapes = (2, 4, *size), (mask_size[0] * mask_size[1], 4, 1, 1), (2, 3, *size)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    actual, expected = (
        results(lambda *given: f(*given, mask_size, direction, softmax=softmax), inputs)  # noqa: B023
        for f in (point_wise, point_wise_reference)
    )
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_cells_that_reach_nothing_cost_nothing():
    torch.manual_seed(0)
    masks, weight, x = torch.randn(1, 4, 9, 70), torch.randn(97 * 97, 4, 1, 1), torch.randn(1, 3, 9, 70)
    counts = []
    for f in (point_wise, point_wise_reference):
        with FlopCounterMode(display=False) as counter:
            f(masks, weight, x, (97, 97), "collect")
        counts.append(counter.get_total_flops() - 2 * 630**2 * 3)
    assert counts[0] < counts[1] / 8


def test_masks_want_one_channel_for_each_cell():
    x = torch.zeros(1, 14, 2, 2)
    with pytest.raises(ValueError, match="15 channels, not 14"):
        psa_mask(x, (3, 5), "collect")
    with pytest.raises(ValueError, match="15 channels, not 14"):
        point_wise(x, torch.zeros(14, 14, 1, 1), x, (3, 5), "collect")


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1), (4, 6), (5, 5)])
def test_criss_cross(size):
    torch.manual_seed(0)
    h, w = size
    q, k, v = (torch.randn(2, c, h, w, dtype=torch.float64, requires_grad=True) for c in (3, 3, 4))
    expected = torch.zeros_like(v)
    for y in range(h):
        for x in range(w):
            cross = {(i, x) for i in range(h)} | {(y, j) for j in range(w)}
            attn = torch.stack([(q[:, :, y, x] * k[:, :, i, j]).sum(1) for i, j in cross], 1).softmax(1)
            here = sum(attn[:, n, None] * v[:, :, i, j] for n, (i, j) in enumerate(cross))
            expected = expected + torch.zeros_like(v).index_put(
                (torch.arange(2)[:, None], torch.arange(4)[None], torch.tensor(y), torch.tensor(x)), here
            )
    actual = criss_cross(q, k, v)
    torch.testing.assert_close(actual, expected)
    weight = torch.randn_like(v)
    for a, b in zip(*(torch.autograd.grad(out, (q, k, v), weight) for out in (actual, expected)), strict=True):
        torch.testing.assert_close(a, b)
