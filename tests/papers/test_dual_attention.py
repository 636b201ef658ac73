"""ChannelAttention and PositionAttention against its equations."""

import torch

from mmattn.attention import ChannelAttention, PositionAttention
from papers import count, formula, linear, mix, picture, pixels, softmax

count(PositionAttention, {256: 82241, 512: 328321})
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


@formula(ChannelAttention, channels=6)
@formula(ChannelAttention, channels=6, least_similar=False)
def channel(m, x):
    rows = list(x.flatten(1))
    y = []
    for row in rows:
        energy = [row @ other for other in rows]
        top = max(energy)
        attn = softmax([top - e for e in energy] if m.sign < 0 else [e - top for e in energy])
        y.append(m.gamma.scale * mix(attn, rows) + row)
    return torch.stack(y).view_as(x)
