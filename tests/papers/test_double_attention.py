"""DoubleAttention against its equations."""

import pytest
import torch

from mmattn.attention import DoubleAttention
from mmattn.capture import capture
from papers import H, W, count, formula, linear, mix, picture, pixels, softmax

count(DoubleAttention, {256: 65984, 512: 263040})


def gathered(m, x):
    """For each region its weights over the positions, softmax row by row."""
    logits = torch.stack([linear(m.gather, p) for p in pixels(x)], 1)  # (n, positions)
    return [torch.stack(softmax(list(row))) for row in logits]


@formula(DoubleAttention, channels=8)
@formula(DoubleAttention, channels=6, m=5, n=3, zero_init=True)
@formula(DoubleAttention, channels=6, m=1, n=1)
def double_attention(m, x):
    features = [linear(m.feature, p) for p in pixels(x)]
    regions = [mix(list(row), features) for row in gathered(m, x)]
    return picture([p + linear(m.out, mix(softmax(list(linear(m.distribute, p))), regions)) for p in pixels(x)], x)


def random_block(**arguments) -> DoubleAttention:
    torch.manual_seed(0)
    module = DoubleAttention(8, **arguments).double()
    for parameter in module.parameters():
        parameter.data.normal_(std=0.5)
    return module


def test_the_record_is_what_each_position_gets():
    """Both softmaxes sum to 1, and the rows of the record carry the features to where they arrive."""
    module, x = random_block(m=3, n=5), torch.randn(2, 8, H, W, dtype=torch.float64)
    with torch.no_grad(), capture(module) as maps:
        y = module(x)
        record = maps[0].record
        torch.testing.assert_close(record.regions()[1].flatten(1), torch.stack(gathered(module, x[1])))
        torch.testing.assert_close(record.regions().sum((2, 3)), torch.ones(2, 5, dtype=torch.float64))
        torch.testing.assert_close(record.weights().sum(1), torch.ones(2, H, W, dtype=torch.float64))
        arrived = [record.row(i, j)[:, 0].flatten(1) for i in range(H) for j in range(W)]  # (b, positions) each
        for image in range(2):
            features = [linear(module.feature, p) for p in pixels(x[image])]
            z = [linear(module.out, mix(list(row[image]), features)) for row in arrived]
            torch.testing.assert_close(picture(z, x[image]), y[image] - x[image])


def test_moving_the_pixels_moves_the_output():
    module, x = random_block(), torch.randn(1, 8, H, W, dtype=torch.float64)
    order = torch.randperm(H * W)
    moved = x.flatten(2)[..., order].view_as(x)
    torch.testing.assert_close(module(moved).flatten(2), module(x).flatten(2)[..., order])


def test_zero_init_is_the_identity_and_comes_back():
    module, x = DoubleAttention(8, zero_init=True), torch.randn(2, 8, H, W)
    assert torch.equal(module(x), x)
    module.out.weight.data.fill_(0.5)
    module.out.bias.data.fill_(0.5)
    module.init_weights()
    assert torch.equal(module(x), x)


@pytest.mark.parametrize("wrong", [{"m": 0}, {"n": 0}])
def test_nothing_to_gather_is_refused(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        DoubleAttention(8, **wrong)
