"""ObjectContext against its equations."""

import torch

from mmattn.attention import ObjectContext
from papers import H, W, cna, count, formula, mix, picture, pixels, softmax

count(ObjectContext, {256: 297216, 512: 1184256})


@formula(ObjectContext, inputs=[(6, H, W), (3, H, W)], channels=6, key_channels=4)
@formula(ObjectContext, inputs=[(6, H, W), (3, H, W)], channels=6, key_channels=4, gather_scale=2.5)
def object_context(m, x, regions):
    objects = [mix(softmax([m.gather_scale * z for z in r.flatten()]), pixels(x)) for r in regions]
    keys = [cna(m.key_project[1], cna(m.key_project[0], o)) for o in objects]
    values = [cna(m.value_project, o) for o in objects]
    out = []
    for p in pixels(x):
        q = cna(m.query_project[1], cna(m.query_project[0], p))
        context = cna(m.out_project, mix(softmax([q @ k / len(q) ** 0.5 for k in keys]), values))
        out.append(cna(m.bottleneck, torch.cat([context, p])))
    return picture(out, x)
