"""AsymmetricFusion and AsymmetricNonLocal against its equations."""

import torch

from mmattn.attention import AsymmetricFusion, AsymmetricNonLocal
from papers import H, W, cna, count, formula, linear, mix, picture, pixels, pyramid, softmax

count(AsymmetricNonLocal, {256: 329216, 512: 919808}, key_channels=256)
count(AsymmetricFusion, {256: 329728, 512: 854784}, key_channels=256, low_channels=128)


def asymmetric(stage, low, high):
    """What each pixel of ``high`` gathers from the pyramid of ``low``."""
    h, w = low.shape[1:]
    keys = pyramid([cna(stage.key_project, p) for p in pixels(low)], h, w, stage.pool_scales)
    values = pyramid([linear(stage.value_project, p) for p in pixels(low)], h, w, stage.pool_scales)
    for p in pixels(high):
        q = cna(stage.query_project, p)
        attn = softmax([q @ k / len(q) ** 0.5 for k in keys])
        yield linear(stage.out_project, mix(attn, values))


@formula(AsymmetricNonLocal, channels=6, key_channels=4)
@formula(AsymmetricNonLocal, channels=6, key_channels=4, query_scales=(1, 1), key_pool_scales=(1, 2))
def asymmetric_non_local(m, x):
    contexts = [list(asymmetric(stage, x, x)) for stage in m.stages]
    out = [cna(m.bottleneck, torch.cat([sum(c), p])) for *c, p in zip(*contexts, pixels(x), strict=True)]
    return picture(out, x)


@formula(AsymmetricFusion, inputs=[(5, 7, 9), (6, H, W)], channels=6, low_channels=5, key_channels=4)
def asymmetric_fusion(m, low, high):
    context = asymmetric(m.stages[0], low, high)
    return picture([cna(m.bottleneck, torch.cat([c, p])) for c, p in zip(context, pixels(high), strict=True)], high)
