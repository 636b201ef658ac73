"""ChannelSE, SpatialSE and SCSE against their equations."""

import pytest
import torch

from mmattn.attention import SCSE, ChannelSE, SpatialSE
from papers import count, formula, linear, mean, picture, pixels, sigmoid

count(ChannelSE, {256: 65920, 512: 262912})
count(SpatialSE, {256: 257, 512: 513})
count(SCSE, {256: 66177, 512: 263425})
count(SCSE, {256: 66177, 512: 263425}, agg="add")
count(SCSE, {256: 8721, 512: 33825}, reduction=16)


@formula(ChannelSE, channels=8)
@formula(ChannelSE, channels=8, reduction=4)
def channel_se(m, x):
    gate = sigmoid(linear(m.w2, linear(m.w1, mean(pixels(x))).clamp(min=0)))
    return picture([p * gate for p in pixels(x)], x)


@formula(SpatialSE, channels=8)
def spatial_se(m, x):
    return picture([p * sigmoid(linear(m.conv, p)) for p in pixels(x)], x)


@formula(SCSE, channels=8)
@formula(SCSE, channels=8, agg="add")
@formula(SCSE, channels=8, reduction=4, agg="max")
def scse(m, x):
    pairs = zip(channel_se(m.channel, x).flatten(), spatial_se(m.spatial, x).flatten(), strict=True)
    return torch.stack([a + b if m.agg == "add" else max(a, b) for a, b in pairs]).view_as(x)


def test_the_larger_one_wins_unless_asked_to_add():
    m, x = SCSE(8), torch.randn(2, 8, 5, 4)
    torch.testing.assert_close(m(x), torch.maximum(m.channel(x), m.spatial(x)), rtol=0, atol=0)


def test_bad_arguments():
    with pytest.raises(ValueError, match="no agg 'mean': max or add"):
        SCSE(8, agg="mean")
    with pytest.raises(ValueError, match="reduction 0: must be at least 1"):
        SCSE(8, reduction=0)
