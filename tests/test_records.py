"""Every record against the dense map its mechanism stands for, written here as slow loops."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmattn.layers import records
from mmattn.layers.records import (
    Additive,
    ChannelPairwise,
    CrissCross,
    Gate,
    Pairwise,
    PointWise,
    Pyramid,
    Record,
    Regions,
)

BATCH = 2


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _seed(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(records, "CHUNK", 4)  # more than one, and a rest


def positions(h: int, w: int) -> list[tuple[int, int]]:
    return list(itertools.product(range(h), range(w)))


def rows(record: Record) -> Tensor:
    """All rows of a record, (b, heads, n, h', w'), the same one by one, in any order and in their mean."""
    found = torch.stack([record.row(y, x) for y, x in positions(*record.size)], dim=2)
    order = torch.randperm(found.shape[2])
    torch.testing.assert_close(record.rows(order // record.size[1], order % record.size[1]), found[:, :, order])
    torch.testing.assert_close(record.received(), found.mean(2))
    return found


def assert_sums_to_one(dense: Tensor) -> None:
    torch.testing.assert_close(dense.sum((-2, -1)), torch.ones_like(dense.sum((-2, -1))))


def softmax(values: list[float]) -> list[float]:
    exp = [math.exp(v - max(values)) for v in values]
    return [e / sum(exp) for e in exp]


@pytest.mark.parametrize("normalised", [True, False])
def test_pairwise_is_the_dense_product(normalised: bool) -> None:
    heads, d, (h, w), (kh, kw) = 3, 4, (3, 5), (2, 4)
    q, k = rand(BATCH, heads, h * w, d), rand(BATCH, heads, kh * kw, d)
    record = Pairwise(q, k, 0.7, (h, w), (kh, kw), softmax=normalised)
    expected = torch.zeros(BATCH, heads, h * w, kh * kw, dtype=torch.float64)
    for b, head, i in itertools.product(range(BATCH), range(heads), range(h * w)):
        values = [0.7 * sum(float(q[b, head, i, c] * k[b, head, j, c]) for c in range(d)) for j in range(kh * kw)]
        expected[b, head, i] = torch.tensor(softmax(values) if normalised else values)
    torch.testing.assert_close(rows(record), expected.unflatten(-1, (kh, kw)))
    if normalised:
        assert_sums_to_one(rows(record))


def test_additive_is_the_concatenation_form() -> None:
    (h, w), (kh, kw) = (2, 3), (3, 2)
    a, b = rand(BATCH, h * w), rand(BATCH, kh * kw)
    expected = torch.zeros(BATCH, 1, h * w, kh, kw, dtype=torch.float64)
    for n, i, (y, x) in itertools.product(range(BATCH), range(h * w), positions(kh, kw)):
        expected[n, 0, i, y, x] = max(0.0, float(a[n, i] + b[n, y * kw + x])) / (kh * kw)
    torch.testing.assert_close(rows(Additive(a, b, (h, w), (kh, kw))), expected)


@pytest.mark.parametrize("key_size", [(7, 9), (6, 6), (2, 13), (1, 1)])
def test_pyramid_row_is_what_each_pixel_contributes(key_size: tuple[int, int]) -> None:
    """The gradient of the attended sum by each pixel's value, through torch's own pooling."""
    scales, heads, d, size = (1, 3, 6), 2, 4, (2, 3)
    cells = sum(s * s for s in scales)
    q, k = rand(BATCH, heads, 6, d), rand(BATCH, heads, cells, d)
    record = Pyramid(q, k, 0.5, size, key_size, scales=scales)
    attn = ((q @ k.mT) * 0.5).softmax(-1)  # (b, heads, n, cells)
    for i, (y, x) in enumerate(positions(*size)):
        value = rand(BATCH, heads, *key_size).requires_grad_()
        pooled = torch.cat([F.adaptive_avg_pool2d(value, s).flatten(2) for s in scales], dim=-1)
        (expected,) = torch.autograd.grad((attn[:, :, i] * pooled).sum(), value)
        torch.testing.assert_close(record.row(y, x), expected)
    assert_sums_to_one(rows(record))


@pytest.mark.parametrize("size", [(4, 5), (1, 6), (6, 1), (1, 1)])
def test_criss_cross_sees_its_column_and_row_once(size: tuple[int, int]) -> None:
    (h, w), d = size, 3
    q, k = rand(BATCH, d, h, w), rand(BATCH, d, h, w)
    expected = torch.zeros(BATCH, 1, h * w, h, w, dtype=torch.float64)
    for b, (i, (y, x)) in itertools.product(range(BATCH), enumerate(positions(h, w))):
        cross = [(u, v) for u, v in positions(h, w) if u == y or v == x]
        assert len(cross) == h + w - 1
        weights = softmax([float(q[b, :, y, x] @ k[b, :, u, v]) for u, v in cross])
        for (u, v), weight in zip(cross, weights, strict=True):
            expected[b, 0, i, u, v] = weight
    torch.testing.assert_close(rows(CrissCross(q, k)), expected)


def test_regions_go_through_the_class_regions() -> None:
    d, regions, (h, w), (kh, kw) = 3, 4, (2, 3), (4, 5)
    q, k = rand(BATCH, d, h, w), rand(BATCH, d, regions)
    soft = rand(BATCH, regions, kh * kw).softmax(-1).unflatten(-1, (kh, kw))
    record = Regions(q, k, 0.6, soft)
    expected = torch.zeros(BATCH, 1, h * w, kh, kw, dtype=torch.float64)
    weights = torch.zeros(BATCH, regions, h, w, dtype=torch.float64)
    for b, (i, (y, x)) in itertools.product(range(BATCH), enumerate(positions(h, w))):
        attn = softmax([0.6 * float(q[b, :, y, x] @ k[b, :, r]) for r in range(regions)])
        for r in range(regions):
            expected[b, 0, i] += attn[r] * soft[b, r]
            weights[b, r, y, x] = attn[r]
    torch.testing.assert_close(rows(record), expected)
    torch.testing.assert_close(record.weights(), weights)
    torch.testing.assert_close(record.regions(), soft)
    assert_sums_to_one(rows(record))


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("direction", ["collect", "distribute"])
@pytest.mark.parametrize("mask_size", [(3, 3), (4, 5), (5, 7), (7, 4), (9, 13), (12, 10), (1, 1), (2, 15)])
def test_point_wise_masks_of_every_size(mask_size: tuple[int, int], direction: str, normalised: bool) -> None:
    """Masks smaller than, equal to and larger than the 5 x 7 map, even and odd."""
    (h, w), (mh, mw) = (5, 7), mask_size
    q, k = rand(BATCH, 6, h, w), rand(BATCH, mh * mw, 6)
    logits = torch.einsum("bdyx,bmd->bmyx", q, k)
    record = PointWise(q, k, mask_size, direction, softmax=normalised)  # type: ignore[arg-type]
    for b, (y, x) in itertools.product(range(BATCH), positions(h, w)):
        expected = torch.zeros(h, w, dtype=torch.float64)  # outside the mask the logit is 0
        for u, v in positions(h, w):
            # collect: the receiver predicts, at the source's offset from it; distribute: the other way round
            (py, px), (ty, tx) = ((y, x), (u, v)) if direction == "collect" else ((u, v), (y, x))
            dy, dx = ty - py + (mh - 1) // 2, tx - px + (mw - 1) // 2
            if 0 <= dy < mh and 0 <= dx < mw:
                expected[u, v] = logits[b, dy * mw + dx, py, px]
        if normalised:
            expected = torch.tensor(softmax(expected.flatten().tolist()), dtype=torch.float64).view(h, w)
        torch.testing.assert_close(record.row(y, x)[b, 0], expected)
    rows(record)


@pytest.mark.parametrize("direction", ["collect", "distribute"])
def test_compact_point_wise_has_one_logit_for_each_pair(direction: str) -> None:
    h, w = 3, 4
    q, k = rand(BATCH, 6, h, w), rand(BATCH, h * w, 6)
    logits = torch.einsum("bdyx,bmd->bmyx", q, k)
    record = PointWise(q, k, None, direction)  # type: ignore[arg-type]
    for b, (y, x) in itertools.product(range(BATCH), positions(h, w)):
        values = [
            float(logits[b, u * w + v, y, x] if direction == "collect" else logits[b, y * w + x, u, v])
            for u, v in positions(h, w)
        ]
        expected = torch.tensor(softmax(values), dtype=torch.float64).view(h, w)
        torch.testing.assert_close(record.row(y, x)[b, 0], expected)
    rows(record)


def test_channel_pairwise_is_a_softmax_over_channels() -> None:
    logits = rand(BATCH, 4, 4)
    expected = torch.zeros_like(logits)
    for b, i in itertools.product(range(BATCH), range(4)):
        expected[b, i] = torch.tensor(softmax(logits[b, i].tolist()))
    record = ChannelPairwise(logits, (2, 3))
    torch.testing.assert_close(record.channels(), expected)
    with pytest.raises(TypeError, match="no rows"):
        record.row(0, 0)


def test_gates_are_shown_as_they_are() -> None:
    value = torch.rand(BATCH, 1, 3, 4)
    record = Gate("spatial", value)
    assert record.size == (3, 4)
    assert torch.equal(record.gate(), value)
    for ask, message in (
        (lambda: record.row(0, 0), "no rows"),
        (record.received, "no rows"),
        (record.regions, "no reg"),
    ):
        with pytest.raises(TypeError, match=message):
            ask()
    with pytest.raises(TypeError, match="is no gate"):
        CrissCross(value, value).gate()


def test_half_precision_factors_give_float32_maps() -> None:
    q, k = torch.randn(1, 1, 4, 300).half() * 40, torch.randn(1, 1, 4, 300).half() * 40  # products overflow in fp16
    record = Pairwise(q, k, 1.0, (2, 2), (2, 2))
    expected = (q.double()[:, :, :1] @ k.double().mT).softmax(-1).float()
    assert record.row(0, 0).dtype == torch.float32
    torch.testing.assert_close(record.row(0, 0), expected.view(1, 1, 2, 2))


@pytest.mark.parametrize(
    "record",
    [
        Pairwise(torch.ones(1, 1, 6, 2), torch.ones(1, 1, 4, 2), 1.0, (2, 3), (2, 2)),
        Additive(torch.ones(1, 6), torch.ones(1, 4), (2, 3), (2, 2)),
        CrissCross(torch.ones(1, 2, 2, 3), torch.ones(1, 2, 2, 3)),
        Regions(torch.ones(1, 2, 2, 3), torch.ones(1, 2, 4), 1.0, torch.ones(1, 4, 2, 3)),
        PointWise(torch.ones(1, 4, 2, 3), torch.ones(1, 9, 4), (3, 3), "collect"),
        PointWise(torch.ones(1, 4, 2, 3), torch.ones(1, 6, 4), None, "distribute"),
    ],
    ids=lambda record: type(record).__name__,
)
@pytest.mark.parametrize("at", [(2, 0), (0, 3), (-1, 0), (0, -1)])
def test_a_position_outside_the_grid_is_refused(record: Record, at: tuple[int, int]) -> None:
    with pytest.raises(IndexError, match="outside the 2 x 3 grid"):
        record.row(*at)
