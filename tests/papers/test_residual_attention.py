"""ResidualAttention against its equations."""

from functools import partial

import pytest
import torch
from torch import nn

from mmattn.attention import ResidualAttention
from papers import conv, count, each, formula, normed, sigmoid

for d, mask_only, module in [
    (1, {256: 272896, 512: 1086464}, {256: 554496, 512: 2206720}),
    (2, {256: 484096, 512: 1926656}, {256: 765696, 512: 3046912}),
    (3, {256: 695296, 512: 2766848}, {256: 976896, 512: 3887104}),
]:
    count(ResidualAttention, mask_only, downsamplings=d)
    count(ResidualAttention, module, downsamplings=d, trunk=True)


def mask_branch(depth, m, x):
    levels, maps = [m.mask[0]], [x]
    for _ in range(depth - 1):
        levels.append(levels[-1].below)
    for level in levels:
        maps.append(unit(level.down, max_pool(maps[-1])))
    u = unit(levels[-1].up, maps[-1])
    for level, there in zip(levels[-2::-1], maps[-2:0:-1], strict=True):
        u = unit(level.up, aligned(u, there.shape[1:]) + unit(level.skip, there))
    u = aligned(u, x.shape[1:])
    for norm, kernel in ((m.mask[1], m.mask[3]), (m.mask[4], m.mask[6])):
        u = conv(kernel, each(partial(normed, norm), u).clamp(min=0))
    return sigmoid(u)


def alone(depth, m, x):
    return (1 + mask_branch(depth, m, x)) * x


def whole(depth, m, x):
    x = unit(m.first, x)
    return unit(m.last, (1 + mask_branch(depth, m, x)) * unit(m.trunk[1], unit(m.trunk[0], x)))


formula(ResidualAttention, channels=8)(partial(alone, 1))
formula(ResidualAttention, channels=4, downsamplings=3, inputs=[(4, 9, 6)])(partial(alone, 3))
formula(ResidualAttention, channels=4, downsamplings=2, trunk=True, inputs=[(4, 7, 6)])(partial(whole, 2))


def unit(r, x):
    y = x
    for norm, kernel in zip(r.residual[::3], r.residual[2::3], strict=True):
        y = conv(kernel, each(partial(normed, norm), y).clamp(min=0))
    return x + y


def max_pool(x):
    """The largest of 3 x 3, at every other position."""
    _, h, w = x.shape
    rows = [x[:, max(i - 1, 0) : i + 2] for i in range(0, h, 2)]
    return torch.stack(
        [torch.stack([r[:, :, max(j - 1, 0) : j + 2].amax((1, 2)) for j in range(0, w, 2)], 1) for r in rows], 1
    )


def aligned(x, size):
    """Bilinear resizing where the corners coincide."""
    _, h, w = x.shape
    y = x.new_zeros(len(x), *size)
    for i in range(size[0]):
        for j in range(size[1]):
            r = i * (h - 1) / max(size[0] - 1, 1)
            s = j * (w - 1) / max(size[1] - 1, 1)
            for a in range(h):
                for b in range(w):
                    y[:, i, j] += max(0, 1 - abs(r - a)) * max(0, 1 - abs(s - b)) * x[:, a, b]
    return y


def test_the_mask_lies_between_0_and_1_and_the_result_between_the_trunk_and_its_double():
    module, seen = ResidualAttention(8, downsamplings=2).double().eval(), []
    module.tap.listeners.append(seen.append)
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    y = module(x)
    gate = seen[0].gate()
    assert gate.shape == x.shape
    assert 0 < gate.min() < gate.max() < 1
    torch.testing.assert_close(y, x + gate * x)


def test_one_image_whose_mask_is_one_pixel_is_told_clearly():
    module = ResidualAttention(16, downsamplings=3)
    with pytest.raises(ValueError, match="ResidualAttention normalises over the batch"):
        module(torch.randn(1, 16, 8, 5))
    assert module(torch.randn(1, 16, 9, 5)).isfinite().all()
    assert module(torch.randn(2, 16, 8, 5)).isfinite().all()
    assert module.eval()(torch.randn(1, 16, 8, 5)).isfinite().all()
    grouped = ResidualAttention(16, downsamplings=3, norm=lambda c: nn.GroupNorm(1, c))
    assert grouped(torch.randn(1, 16, 8, 5)).isfinite().all()


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (8, 8)])
def test_the_whole_module_takes_any_size(size):
    x = torch.randn(2, 8, *size)
    assert ResidualAttention(8, downsamplings=3, trunk=True)(x).shape == x.shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 6}, "6 channels: must be a multiple of 4"),
        ({"channels": 8, "downsamplings": 0}, "downsamplings 0"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResidualAttention(**arguments)
