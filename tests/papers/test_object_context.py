"""ObjectContext against its equations."""

from functools import partial

import torch

from mmattn.attention import ObjectContext
from papers import H, W, bilinear, cna, count, each, formula, max_pooled, mix, picture, pixels, softmax

count(ObjectContext, {256: 297216, 512: 1184256, 1: 22})  # one channel still has one key
count(ObjectContext, {256: 206464}, key_channels=64)


def object_context(gather_scale, query_scale, m, x, regions):
    objects = [mix(softmax([gather_scale * z for z in r.flatten()]), pixels(x)) for r in regions]
    keys = [cna(m.key_project[1], cna(m.key_project[0], o)) for o in objects]
    values = [cna(m.value_project, o) for o in objects]
    queries = each(lambda p: cna(m.query_project[1], cna(m.query_project[0], p)), x)
    if query_scale > 1:
        queries = max_pooled(queries, query_scale)
    attended = [mix(softmax([q @ k / len(q) ** 0.5 for k in keys]), values) for q in pixels(queries)]
    context = picture([cna(m.out_project, c) for c in attended], queries)
    if query_scale > 1:
        context = bilinear(context, (H, W), aligned=True)
    out = [cna(m.bottleneck, torch.cat(pair)) for pair in zip(pixels(context), pixels(x), strict=True)]
    return picture(out, x)


INPUTS = [(6, H, W), (3, H, W)]
formula(ObjectContext, inputs=INPUTS, channels=6, key_channels=4)(partial(object_context, 1, 1))
formula(ObjectContext, inputs=INPUTS, channels=6, key_channels=5, gather_scale=2.5)(partial(object_context, 2.5, 1))
formula(ObjectContext, inputs=INPUTS, channels=6, key_channels=5, query_scale=2)(partial(object_context, 1, 2))
