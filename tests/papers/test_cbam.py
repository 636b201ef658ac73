"""CBAM against its equations."""

from functools import partial

import pytest
import torch
from torch import nn

from mmattn.attention import CBAM
from papers import conv, count, formula, linear, mean, normed, picture, pixels, sigmoid

count(CBAM, {8: 125, 256: 8564, 512: 33412})  # one hidden channel stays
count(CBAM, {8: 244}, reduction=1)
count(CBAM, {256: 8562, 512: 33410}, spatial_norm=False)


def pooled(pool, vectors):
    rows = list(torch.stack(vectors, 1))
    return torch.stack(
        {
            "avg": [sum(row) / len(row) for row in rows],
            "max": [max(row) for row in rows],
            "lp": [sum(v * v for v in row) ** 0.5 for row in rows],
            "lse": [torch.log(sum(torch.exp(v) for v in row)) for row in rows],
        }[pool]
    )


@formula(CBAM, channels=8, reduction=2)
@formula(CBAM, channels=8, reduction=2, kernel_size=3, spatial_norm=False)
def cbam(m, x, pools=("avg", "max")):
    logits = sum(linear(m.mlp[2], linear(m.mlp[0], pooled(p, pixels(x))).clamp(min=0)) for p in pools)
    refined = [p * sigmoid(logits) for p in pixels(x)]
    planes = picture([torch.stack([max(p), mean(list(p))]) for p in refined], x)
    spatial = pixels(conv(m.conv, planes))
    if isinstance(m.norm, nn.BatchNorm2d):
        spatial = [normed(m.norm, s) for s in spatial]
    return picture([p * sigmoid(s) for p, s in zip(refined, spatial, strict=True)], x)


for some in [("lp",), ("max", "lse"), ("avg", "max", "lp", "lse")]:
    formula(CBAM, channels=8, reduction=2, kernel_size=1, pools=some)(partial(cbam, pools=some))


def gates(m, x):
    """The maps that its taps show."""
    seen = []
    for tap in (m.tap_channel, m.tap_spatial):
        tap.listeners.append(seen.append)
    m(x)
    return [record.gate() for record in seen]


def test_the_authors_start_comes_back():
    m, x = CBAM(64, reduction=2), torch.randn(2, 64, 5, 4)
    for _ in range(2):
        _, spatial = gates(m, x)
        assert torch.equal(spatial, torch.full_like(spatial, 0.5))
        assert not m.mlp[0].bias.any()
        assert not m.mlp[2].bias.any()
        assert abs(m.mlp[0].weight.std() - (1 / 3 / 64) ** 0.5) < 0.005  # uniform in 1 / sqrt(c)
        assert abs(m.conv.weight.std() - (2 / 49) ** 0.5) < 0.1  # normal, fan out
        for parameter in m.parameters():
            nn.init.constant_(parameter, 3.0)
        m.init_weights()


def test_a_norm_may_start_at_one_or_have_no_weight():
    x = torch.randn(2, 8, 5, 4)
    _, spatial = gates(CBAM(8, zero_gamma=False), x)
    assert spatial.std() > 0.01
    assert CBAM(8, norm=lambda c: nn.BatchNorm2d(c, affine=False))(x).isfinite().all()


def test_large_features_do_not_overflow_the_pools():
    assert CBAM(8, pools=("lse", "lp"))(1000 * torch.ones(2, 8, 5, 4)).isfinite().all()


def test_a_silent_image_gets_a_finite_gradient():
    """A residual branch whose last norm starts at 0 is silent."""
    m, x = CBAM(8, pools=("avg", "max", "lp", "lse")), torch.zeros(2, 8, 5, 4, requires_grad=True)
    m(x).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pools": ()}, r"no pools \(\): one or more of avg, max, lp, lse"),
        ({"pools": ("avg", "median")}, "no pools .*median"),
        ({"kernel_size": 4}, "kernel_size 4: must be odd"),
        ({"reduction": 0}, "reduction 0: must be at least 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        CBAM(8, **arguments)
