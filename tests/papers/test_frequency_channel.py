"""FrequencyChannel against its equations."""

import math

import pytest
import torch

from mmattn.attention import FrequencyChannel
from papers import cells, count, formula, mean, sigmoid

count(FrequencyChannel, {256: 8192, 512: 32768})

TOP = [
    *((0, 0), (0, 1), (6, 0), (0, 5), (0, 2), (1, 0), (1, 2), (4, 0), (5, 0), (1, 6), (3, 0)),
    *((0, 4), (0, 6), (0, 3), (3, 5), (2, 2), (4, 6), (6, 3), (3, 3), (5, 3), (5, 5), (2, 1)),
    *((6, 1), (5, 2), (5, 4), (3, 2), (3, 1), (4, 1), (2, 3), (2, 0), (6, 5), (1, 3)),
]
LOW = [
    *((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (2, 1), (1, 2), (2, 2), (0, 3), (3, 0)),
    *((4, 0), (0, 4), (1, 3), (3, 1), (0, 5), (1, 4), (2, 3), (3, 2), (4, 1), (5, 0), (0, 6)),
    *((1, 5), (2, 4), (3, 3), (4, 2), (5, 1), (6, 0), (1, 6), (2, 5), (3, 4), (4, 3)),
]
BOT = [
    *((6, 6), (1, 4), (3, 4), (3, 6), (2, 6), (4, 3), (1, 1), (2, 4), (4, 4), (4, 5), (5, 6)),
    *((1, 5), (4, 2), (6, 2), (2, 5), (5, 1), (6, 4), (1, 3), (6, 5), (2, 0), (2, 3), (4, 1)),
    *((3, 1), (3, 2), (5, 4), (5, 2), (6, 1), (2, 1), (5, 5), (5, 3), (3, 3), (6, 3)),
]
OWN = [(0, 0), (6, 1), (2, 5)]


def equations(order, rows=7, columns=7):
    def frequency_channel(m, x):
        c, h, w = x.shape
        share, z = c // len(order), []
        for channel in range(c):
            u, v = order[channel // share]
            z.append(0)
            for i, ys in enumerate(cells(h, rows)):
                for j, xs in enumerate(cells(w, columns)):
                    pooled = mean([x[channel, y, k] for y in ys for k in xs])
                    wave = cosine(u * (rows // 7), i, rows) * cosine(v * (columns // 7), j, columns)
                    z[-1] += pooled * torch.tensor(wave, dtype=torch.float32).item()  # filters are kept as float32
        hidden = [sum(a * b for a, b in zip(row, z, strict=True)).clamp(min=0) for row in m.fc[0].weight]
        gate = sigmoid(torch.stack([sum(a * b for a, b in zip(row, hidden, strict=True)) for row in m.fc[2].weight]))
        return torch.stack([gate[channel] * x[channel] for channel in range(c)])

    return frequency_channel


def cosine(k, t, n):
    return math.cos(math.pi * k * (t + 0.5) / n) / math.sqrt(n) * (math.sqrt(2) if k else 1)


formula(FrequencyChannel, channels=16)(equations(TOP[:16]))
formula(FrequencyChannel, channels=32, reduction=8, frequencies="top32", inputs=[(32, 9, 8)])(equations(TOP))
formula(FrequencyChannel, channels=32, reduction=8, frequencies="low32")(equations(LOW))
formula(FrequencyChannel, channels=32, reduction=8, frequencies="bot32")(equations(BOT))
formula(FrequencyChannel, channels=6, frequencies=OWN, size=(7, 15), inputs=[(6, 8, 17)])(equations(OWN, 7, 15))


def test_frequency_zero_is_a_multiple_of_the_mean():
    module = FrequencyChannel(8, frequencies="low1").double()
    x = torch.randn(2, 8, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(module.dct_layer(x), 7 * x.mean(dim=(2, 3)))


@pytest.mark.parametrize("size", [(7, 7), (14, 28)])
def test_cosines_are_orthonormal(size):
    every = [(u, v) for u in range(7) for v in range(7)]
    filters = FrequencyChannel(49, frequencies=every, size=size).double().dct_layer.weight.flatten(1)
    torch.testing.assert_close(filters @ filters.mT, torch.eye(49, dtype=torch.float64), atol=1e-6, rtol=0)


def test_filters_are_saved_under_the_name_of_published_checkpoints_and_not_trained():
    module = FrequencyChannel(32)
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    assert shapes == {"dct_layer.weight": (32, 7, 7), "fc.0.weight": (2, 32), "fc.2.weight": (32, 2)}
    assert all(name.startswith("fc") for name, _ in module.named_parameters())


def test_the_bottleneck_keeps_one_channel():
    assert FrequencyChannel(8, frequencies="low1").fc[0].out_features == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 24}, "24 channels: must be a multiple of the 16"),
        ({"channels": 32, "size": (7, 6)}, "7 x 7 or more"),
        ({"channels": 32, "frequencies": "top33"}, "no frequencies 'top33'"),
        ({"channels": 32, "frequencies": "mid16"}, "no frequencies 'mid16'"),
        ({"channels": 32, "frequencies": [(0, 7)]}, "each number 0 to 6"),
        ({"channels": 32, "frequencies": [(0, 1, 2)]}, "each number 0 to 6"),
        ({"channels": 32, "frequencies": []}, "each number 0 to 6"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FrequencyChannel(**arguments)
