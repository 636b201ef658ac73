"""SqueezeExcite against its equations."""

import pytest
import torch

from mmattn.attention import SqueezeExcite
from papers import count, formula, linear, mean, pixels, sigmoid

count(SqueezeExcite, {8: 25, 256: 8464, 512: 33312})  # one hidden channel stays
count(SqueezeExcite, {8: 144}, reduction=1)
count(SqueezeExcite, {256: 8192, 512: 32768}, bias=False)


@formula(SqueezeExcite, channels=8, reduction=2)
@formula(SqueezeExcite, channels=8, reduction=4, bias=False)
@formula(SqueezeExcite, channels=8)
def squeeze_excite(m, x):
    gate = sigmoid(linear(m.w2, linear(m.w1, mean(pixels(x))).clamp(min=0)))
    return x * gate[:, None, None]


def test_without_excitation_it_halves():
    m, x = SqueezeExcite(8, reduction=2), torch.randn(2, 8, 5, 4)
    torch.nn.init.zeros_(m.w2.weight)
    torch.nn.init.zeros_(m.w2.bias)
    torch.testing.assert_close(m(x), x / 2, rtol=0, atol=0)


def test_the_gate_does_not_see_where_things_are():
    m, x = SqueezeExcite(8, reduction=2).double(), torch.randn(2, 8, 30, dtype=torch.float64)
    order = torch.randperm(30)
    there = m(x[:, :, order].unflatten(2, (5, 6))).flatten(2)
    torch.testing.assert_close(there, m(x.unflatten(2, (5, 6))).flatten(2)[:, :, order])


@pytest.mark.parametrize("reduction", [0, -2, 1 / 16])
def test_a_ratio_is_no_reduction(reduction):
    with pytest.raises(ValueError, match=rf"reduction {reduction}: must be at least 1"):
        SqueezeExcite(8, reduction=reduction)
