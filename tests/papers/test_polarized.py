"""Polarized against its equations."""

from functools import partial

import pytest
import torch

from mmattn.attention import Polarized
from papers import H, W, count, formula, linear, mean, mix, pixels, sigmoid, softmax

count(Polarized, {256: 131840, 512: 525824})
count(Polarized, {256: 131328, 512: 524800}, variant="code")
count(Polarized, {256: 111200, 512: 443584}, variant="code", sequential=True)


def polarized(sequential, variant, m, x):
    def layer_norm(norm, v):
        centred = v - v.mean()
        return centred / ((centred**2).mean() + norm.eps).sqrt() * norm.weight.flatten() + norm.bias.flatten()

    q = softmax([linear(m.channel_q, p)[0] for p in pixels(x)])
    z = linear(m.channel_up[0], mix(q, [linear(m.channel_v, p) for p in pixels(x)]))
    if variant == "paper":
        z = layer_norm(m.channel_up[1], z)
    elif sequential:
        z = linear(m.channel_up[3], layer_norm(m.channel_up[1], z).clamp(min=0))
    refined = x * sigmoid(z)[:, None, None]
    seen = pixels(refined if sequential else x)
    q = mean([linear(m.spatial_q, p) for p in seen])
    values = [linear(m.spatial_v, p) for p in seen]
    if variant == "paper":
        s = [torch.stack(softmax(list(q))) @ v for v in values]
    elif sequential:
        s = [q @ v for v in torch.stack([torch.stack(softmax(list(row))) for row in torch.stack(values, 1)]).T]
    else:
        s = softmax([q @ v for v in values])
    spatial_gate = sigmoid(torch.stack(s)).view(1, H, W)
    return refined * spatial_gate if sequential else refined + x * spatial_gate


formula(Polarized, channels=16)(partial(polarized, False, "paper"))
formula(Polarized, channels=16, sequential=True)(partial(polarized, True, "paper"))
formula(Polarized, channels=16, variant="code")(partial(polarized, False, "code"))
formula(Polarized, channels=16, sequential=True, variant="code")(partial(polarized, True, "code"))


def test_refuses():
    with pytest.raises(ValueError, match="no variant 'official'"):
        Polarized(16, variant="official")
    with pytest.raises(ValueError, match="15 channels"):
        Polarized(15)
    with pytest.raises(ValueError, match="12 channels"):
        Polarized(12, sequential=True, variant="code")
    Polarized(10, sequential=True)
    Polarized(10, variant="code")


def test_starts_as_the_authors():
    torch.manual_seed(0)
    module = Polarized(512)
    for conv in (module.channel_q, module.channel_v, module.spatial_q, module.spatial_v):
        assert conv.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.1)
