"""Polarized against its equations."""

import torch
from torch import nn

from mmattn.attention import Polarized
from papers import H, W, count, formula, linear, mix, pixels, softmax

count(Polarized, {256: 131328, 512: 524800}, variant="code")


@formula(Polarized, channels=16)
@formula(Polarized, channels=16, sequential=True)
@formula(Polarized, channels=16, variant="code")
@formula(Polarized, channels=16, sequential=True, variant="code")
def polarized(m, x):
    def layer_norm(norm, v):
        centred = v - v.mean()
        return centred / ((centred**2).mean() + norm.eps).sqrt() * norm.weight.flatten() + norm.bias.flatten()

    q = softmax([linear(m.channel_q, p)[0] for p in pixels(x)])
    z = mix(q, [linear(m.channel_v, p) for p in pixels(x)])
    for step in m.channel_up:
        z = layer_norm(step, z) if isinstance(step, nn.LayerNorm) else z
        z = linear(step, z) if isinstance(step, nn.Conv2d) else z
        z = z.clamp(min=0) if isinstance(step, nn.ReLU) else z
    channel_gate = 1 / (1 + torch.exp(-z))
    refined = x * channel_gate[:, None, None]
    seen = pixels(refined if m.sequential else x)
    q = sum(linear(m.spatial_q, p) for p in seen) / len(seen)
    values = [linear(m.spatial_v, p) for p in seen]
    if m.variant == "paper":
        s = [torch.stack(softmax(list(q))) @ v for v in values]
    elif m.sequential:
        s = [q @ v for v in torch.stack([torch.stack(softmax(list(row))) for row in torch.stack(values, 1)]).T]
    else:
        s = softmax([q @ v for v in values])
    spatial_gate = 1 / (1 + torch.exp(-torch.stack(s))).view(1, H, W)
    return refined * spatial_gate if m.sequential else refined + x * spatial_gate
