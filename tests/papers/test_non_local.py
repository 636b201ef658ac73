"""NonLocal against its equations."""

import torch
from torch import nn

from mmattn.attention import NonLocal
from papers import H, W, cna, count, formula, mix, picture, pixels, softmax

count(NonLocal, {256: 131968, 512: 526080})


@formula(NonLocal, channels=6)
@formula(NonLocal, channels=6, use_scale=False, reduction=3)
@formula(NonLocal, channels=6, mode="gaussian")
@formula(NonLocal, channels=6, mode="dot_product")
@formula(NonLocal, channels=6, mode="concatenation")
@formula(NonLocal, channels=6, sub_sample=True)
@formula(NonLocal, channels=6, sub_sample=True, mode="gaussian")
def non_local(m, x):
    pooled = m.g if isinstance(m.g, nn.Sequential) and isinstance(m.g[-1], nn.MaxPool2d) else None

    def first(block):
        return block[0] if isinstance(block, nn.Sequential) and pooled else block

    theta = [cna(m.theta, p) if m.mode != "gaussian" else p for p in pixels(x)]
    phi = [cna(first(m.phi), p) if m.mode != "gaussian" else p for p in pixels(x)]
    g = [cna(first(m.g), p) for p in pixels(x)]
    if pooled:

        def pool(v):
            corner = [i * W + j for i in range(0, H - 1, 2) for j in range(0, W - 1, 2)]
            return [torch.stack([v[c], v[c + 1], v[c + W], v[c + W + 1]]).amax(0) for c in corner]

        phi, g = pool(phi), pool(g)
    out = []
    for p, t in zip(pixels(x), theta, strict=True):
        if m.mode == "dot_product":
            f = [(t @ k) / len(phi) for k in phi]
        elif m.mode == "concatenation":
            w = m.concat_project.conv.weight.flatten()
            f = [(w @ torch.cat([t, k])).clamp(min=0) / len(phi) for k in phi]
        else:
            scale = len(t) ** -0.5 if m.mode == "embedded_gaussian" and m.scale != 1 else 1
            f = softmax([t @ k * scale for k in phi])
        out.append(p + cna(m.conv_out, mix(f, g)))
    return picture(out, x)
