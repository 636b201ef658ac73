"""SelectiveKernel against its equations."""

from functools import partial

import pytest
import torch
from torch import nn

from mmattn.attention import SelectiveKernel
from papers import conv, count, each, formula, linear, mean, normed, pixels, softmax

count(SelectiveKernel, {128: 22080, 256: 62528, 512: 198720, 1024: 790656})
count(SelectiveKernel, {256: 63040, 512: 199744}, fc_bias=True)


def selective_kernel(dilations, stride, m, x):
    u = []
    for (kernel, norm, _), dilation in zip(m.branches, dilations, strict=True):
        assert kernel.dilation == kernel.padding == (dilation, dilation)
        assert kernel.stride == (stride, stride)
        u.append(each(partial(normed, norm), conv(kernel, x)).clamp(min=0))
    s = mean(pixels(sum(u)))
    z = normed(m.fuse[1], linear(m.fuse[0], s)).clamp(min=0)
    c, logits = len(x), linear(m.select, z)
    y = torch.zeros_like(u[0])
    for channel in range(c):
        a = softmax([logits[i * c + channel] for i in range(len(u))])
        for i in range(len(u)):
            y[channel] += a[i] * u[i][channel]
    return y


formula(SelectiveKernel, channels=8, groups=2, min_hidden=3)(partial(selective_kernel, (1, 2), 1))
formula(SelectiveKernel, channels=8, groups=8, reduction=2, min_hidden=3, stride=2, fc_bias=True)(
    partial(selective_kernel, (1, 2), 2)
)
formula(SelectiveKernel, channels=4, groups=1, reduction=1, branches=3, dilation=2, inputs=[(4, 7, 6)])(
    partial(selective_kernel, (2, 4, 6), 1)
)


def test_arguments_reach_the_convolutions():
    module = SelectiveKernel(64, stride=2, dilation=4, branches=3, groups=16, reduction=8, min_hidden=4)
    kernels = [branch[0] for branch in module.branches]
    assert [k.dilation for k in kernels] == [(4, 4), (8, 8), (12, 12)]
    assert {(k.kernel_size, k.stride, k.groups) for k in kernels} == {((3, 3), (2, 2), 16)}
    assert module.select.in_channels == 8
    assert module(torch.randn(2, 64, 9, 8)).shape == (2, 64, 5, 4)


def test_equal_logits_take_the_mean_of_the_branches():
    module = SelectiveKernel(8, groups=2).eval()
    nn.init.zeros_(module.select.weight)
    x = torch.randn(2, 8, 6, 5)
    torch.testing.assert_close(module(x), sum(branch(x) for branch in module.branches) / 2)


def test_the_choice_sums_to_one_in_each_channel():
    module, gates = SelectiveKernel(8, groups=2, branches=3).eval(), []
    nn.init.normal_(module.select.weight)
    for tap in module.taps:
        tap.listeners.append(lambda record: gates.append(record.gate()))
    module(torch.randn(2, 8, 6, 5))
    assert [tuple(gate.shape) for gate in gates] == [(2, 8, 1, 1)] * 3
    torch.testing.assert_close(sum(gates), torch.ones(2, 8, 1, 1))
    assert gates[0].std() > 0.01


def test_starts_as_the_authors_do_whatever_a_backbone_has_done_before():
    torch.manual_seed(0)
    module = SelectiveKernel(256, groups=4, fc_bias=True)
    for _ in range(2):
        assert module.select.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert module.fuse[0].weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert module.select.bias.abs().max() == 0
        for branch in module.branches:
            assert branch[0].weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
        for parameter in module.parameters():
            parameter.data.fill_(1.0)
        module.init_weights()


def test_half_precision_stays_half():
    with torch.autocast("cpu", dtype=torch.float16):
        assert SelectiveKernel(8, groups=2).eval()(torch.randn(2, 8, 6, 5)).dtype == torch.float16


def test_one_image_under_a_batch_norm_is_told_clearly():
    x = torch.randn(1, 8, 6, 5)
    with pytest.raises(ValueError, match="SelectiveKernel normalises over the batch"):
        SelectiveKernel(8, groups=2)(x)
    assert SelectiveKernel(8, groups=2).eval()(x).shape == x.shape
    assert SelectiveKernel(8, groups=2, norm=lambda c: nn.GroupNorm(2, c))(x).isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"channels": 48}, "48 channels: must be a multiple"), ({"channels": 32, "branches": 1}, "branches 1")],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SelectiveKernel(**arguments)
