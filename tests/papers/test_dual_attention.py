"""ChannelAttention and PositionAttention against its equations."""

from functools import partial

import torch

from mmattn.attention import ChannelAttention, PositionAttention
from mmattn.capture import capture
from papers import count, formula, linear, mix, picture, pixels, softmax

count(PositionAttention, {256: 82241, 512: 328321, 4: 31})  # 4 channels leave one for queries and keys
count(PositionAttention, {256: 74017}, key_channels=16)
count(ChannelAttention, {256: 1, 512: 1})


@formula(PositionAttention, channels=8, key_channels=3)
def position(m, x):
    keys = [linear(m.key_project, p) for p in pixels(x)]
    values = [linear(m.value_project, p) for p in pixels(x)]
    out = []
    for p in pixels(x):
        q = linear(m.query_project, p)
        out.append(m.gamma.scale * mix(softmax([q @ k for k in keys]), values) + p)
    return picture(out, x)


def channel(sign, m, x):
    rows = list(x.flatten(1))
    y = []
    for row in rows:
        energy = [sign * (row @ other) for other in rows]
        attn = softmax([e - max(energy) for e in energy])
        y.append(m.gamma.scale * mix(attn, rows) + row)
    return torch.stack(y).view_as(x)


formula(ChannelAttention, channels=6)(partial(channel, -1))
formula(ChannelAttention, channels=6, least_similar=False)(partial(channel, 1))


def test_products_of_channels_keep_to_the_range_of_halves():
    module, x = ChannelAttention(4).half(), (8 * torch.rand(1, 4, 64, 96)).half()
    module.gamma.scale.data.fill_(1.0)
    with capture(module) as maps:
        y = module(x)
    assert y.dtype == torch.half
    torch.testing.assert_close(y.float(), module.float()(x.float()), rtol=1e-2, atol=1e-2)
    assert maps[0].record.size == (64, 96)
