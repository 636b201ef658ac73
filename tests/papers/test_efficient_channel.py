"""EfficientChannel against its equations."""

import pytest
import torch

from mmattn.attention import EfficientChannel
from papers import count, formula, mean, pixels, sigmoid

count(EfficientChannel, {16: 3, 32: 3, 64: 3, 128: 5, 256: 5, 512: 5, 1024: 5, 2048: 7})  # k itself
count(EfficientChannel, {256: 3, 512: 3}, kernel_size=3)


@formula(EfficientChannel, channels=8)
@formula(EfficientChannel, channels=8, kernel_size=1)
@formula(EfficientChannel, channels=4, kernel_size=7)
def efficient_channel(m, x):
    z, kernel = mean(pixels(x)), m.conv.weight[0, 0]
    gate = torch.zeros_like(z)
    for c in range(len(z)):
        for j in range(len(kernel)):
            neighbour = c + j - len(kernel) // 2
            if 0 <= neighbour < len(z):
                gate[c] += kernel[j] * z[neighbour]
    return x * sigmoid(gate)[:, None, None]


def test_turning_the_channels_turns_the_gate_but_for_the_ends():
    m, x = EfficientChannel(16, kernel_size=5).double(), torch.rand(2, 16, 3, 4, dtype=torch.float64) + 1
    gate = (m(x) / x)[:, :, 0, 0]
    turned = (m(x.roll(1, 1)) / x.roll(1, 1))[:, :, 0, 0]
    torch.testing.assert_close(turned[:, 3:-2], gate.roll(1, 1)[:, 3:-2])
    assert not torch.allclose(turned[:, :3], gate.roll(1, 1)[:, :3])


@pytest.mark.parametrize("kernel_size", [4, 0, -3])
def test_an_even_kernel_is_refused(kernel_size):
    with pytest.raises(ValueError, match=f"kernel_size {kernel_size}: must be odd"):
        EfficientChannel(8, kernel_size=kernel_size)
