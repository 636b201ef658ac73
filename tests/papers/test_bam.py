"""BAM against its equations."""

from functools import partial

import pytest
import torch
from torch import nn

from mmattn.attention import BAM
from papers import conv, count, each, formula, linear, mean, normed, picture, pixels, sigmoid

count(BAM, {8: 64, 256: 17361, 512: 68513})  # one hidden channel stays
count(BAM, {8: 1457}, reduction=1)
count(BAM, {256: 17361, 512: 68513}, combine="add")
count(BAM, {256: 17361 + 2 * 256 + 2, 512: 68513 + 2 * 512 + 2}, combine="add", closing_norm=True)


@formula(BAM, channels=8, reduction=4)
@formula(BAM, channels=8, reduction=4, dilation=1, closing_norm=True)
def bam(m, x, combine=torch.mul):
    def closed(branch, z):
        z = linear(branch[-2], z)
        return normed(branch[-1], z) if isinstance(branch[-1], nn.BatchNorm2d) else z

    first, norm, _ = m.channel[0]
    channel = closed(m.channel, normed(norm, linear(first, mean(pixels(x)))).clamp(min=0))
    y = x
    for convolution, norm, _ in list(m.spatial)[:3]:
        y = each(lambda p, norm=norm: normed(norm, p).clamp(min=0), conv(convolution, y))
    spatial = each(lambda p: closed(m.spatial, p), y)
    logits = [combine(channel, s) for s in pixels(spatial)]
    return picture([p * (1 + sigmoid(z)) for p, z in zip(pixels(x), logits, strict=True)], x)


paper = {"dilation": 2, "combine": "add", "closing_norm": True}
formula(BAM, channels=8, reduction=4, **paper)(partial(bam, combine=torch.add))


@pytest.mark.parametrize("size", [(16, 32), (32, 16), (17, 33)])
def test_the_channel_branch_sees_the_whole_of_a_map_that_is_not_square(size):
    m = BAM(8, reduction=4).eval()
    for parameter in m.channel.parameters():
        parameter.data.abs_()  # no dead ReLU
    x = torch.randn(1, 8, *size)
    out = m(x)
    assert (out.abs() >= x.abs()).all()
    assert (out.abs() <= 2 * x.abs()).all()
    far = x.clone()
    far[..., -1, -1] += 1000.0
    assert (m(far) - out)[..., 0, 0].abs().max() > 1e-4  # out of reach of the dilated convolutions


@pytest.mark.parametrize(("arguments", "step"), [({}, 4), ({"dilation": 2}, 2)])
def test_the_spatial_branch_sees_a_grid_of_dilated_steps(arguments, step):
    m, x = BAM(8, reduction=4, **arguments).eval(), torch.rand(1, 8, 19, 19, requires_grad=True)
    for parameter in m.spatial.parameters():
        parameter.data.abs_()  # no dead ReLU
    m.spatial(x)[0, 0, 9, 9].backward()
    rows, columns = x.grad[0].abs().sum(0).nonzero().T
    assert rows.unique().tolist() == columns.unique().tolist() == [9 + step * i for i in (-2, -1, 0, 1, 2)]


def test_one_image_in_training_is_refused_in_words():
    one = torch.randn(1, 8, 6, 6)
    for closing_norm in (False, True):
        m = BAM(8, reduction=2, closing_norm=closing_norm)
        with pytest.raises(ValueError, match="BAM normalises over the batch"):
            m(one)
        assert m(torch.cat([one, one])).isfinite().all()
        assert m.eval()(one).isfinite().all()
        grouped = BAM(8, reduction=2, closing_norm=closing_norm, norm=lambda c: nn.GroupNorm(1, c))
        assert grouped(one).isfinite().all()


def test_bad_arguments():
    with pytest.raises(ValueError, match="no combine 'max': mul or add"):
        BAM(8, combine="max")
    with pytest.raises(ValueError, match="reduction 0: must be at least 1"):
        BAM(8, reduction=0)
