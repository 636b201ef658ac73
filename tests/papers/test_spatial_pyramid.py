"""SpatialPyramid against its equations."""

import pytest
import torch

from mmattn.attention import SpatialPyramid
from papers import count, formula, linear, normed, pixels, pyramid, sigmoid

count(SpatialPyramid, {8: 176, 256: 90112, 512: 360448})  # one hidden channel stays
count(SpatialPyramid, {8: 1408}, reduction=1)
count(SpatialPyramid, {256: 90112}, source_channels=256)
count(SpatialPyramid, {256: 123392}, source_channels=128)
count(SpatialPyramid, {512: 492544}, source_channels=256)
count(SpatialPyramid, {256: 1892352, 512: 7569408}, wide=True)


def connected(block, p):
    return normed(block.bn, linear(block.conv, p)).clamp(min=0)


@formula(SpatialPyramid, channels=4, reduction=2)
@formula(SpatialPyramid, channels=4, reduction=16, wide=True)
@formula(SpatialPyramid, inputs=[(4, 5, 4), (4, 9, 7)], channels=4, reduction=2)
@formula(SpatialPyramid, inputs=[(4, 5, 4), (3, 9, 7)], channels=4, reduction=2, source_channels=3)
def spatial_pyramid(m, x, source=None):
    seen = x if source is None else source
    vectors = pixels(seen) if m.connect is None else [connected(m.connect, p) for p in pixels(seen)]
    levels = [pyramid(vectors, *seen.shape[1:], (scale,)) for scale in (1, 2, 4)]
    p = torch.stack([cell[c] for level in levels for c in range(len(x)) for cell in level])
    hidden = torch.stack([row @ p for row in m.w1.weight]).clamp(min=0)
    gate = sigmoid(torch.stack([row @ hidden for row in m.w2.weight]))
    return x * gate[:, None, None]


def test_the_gate_sees_coarse_places_only():
    m, x = SpatialPyramid(8, reduction=2).double(), torch.rand(1, 8, 8, 8, dtype=torch.float64) + 1
    m.w1.weight.data.abs_()  # no dead ReLU
    gate = (m(x) / x)[:, :, 0, 0]
    cells = x.unfold(2, 2, 2).unfold(3, 2, 2)  # (1, c, 4, 4, 2, 2)
    within = cells.flip(4).permute(0, 1, 2, 4, 3, 5).reshape(x.shape)
    assert not torch.equal(within, x)
    torch.testing.assert_close((m(within) / within)[:, :, 0, 0], gate)
    across = x.roll(2, 3)
    assert not torch.allclose((m(across) / across)[:, :, 0, 0], gate, rtol=1e-6)


def test_the_source_may_not_be_forgotten():
    with pytest.raises(ValueError, match="source_channels needs the input of the block"):
        SpatialPyramid(8, source_channels=4)(torch.randn(2, 8, 5, 4))
    with pytest.raises(ValueError, match="reduction 0: must be at least 1"):
        SpatialPyramid(8, reduction=0)
