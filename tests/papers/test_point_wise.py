"""PointWise against its equations."""

import torch

from mmattn.attention import PointWise
from papers import H, W, cna, count, formula, linear, mix, picture, pixels, softmax

count(PointWise, {256: 39872, 512: 73152}, mask_size=(5, 7), hidden=64, psa_type="collect")


@formula(PointWise, channels=6, hidden=4, mask_size=(3, 5), shrink_factor=1)
@formula(PointWise, channels=6, hidden=4, mask_size=(9, 7), shrink_factor=1)
@formula(PointWise, channels=6, hidden=4, mask_size=(4, 2), shrink_factor=1, psa_type="collect")
@formula(PointWise, channels=6, hidden=4, mask_size=(3, 3), shrink_factor=1, psa_type="distribute")
def point_wise(m, x):
    mh, mw = m.mask_size

    def aggregate(reduce, attention, direction):
        features = [cna(reduce, p) for p in pixels(x)]
        masks = [linear(attention[1], cna(attention[0], f)) for f in features]

        def logit(owner, other):
            i = other // W - owner // W + (mh - 1) // 2
            j = other % W - owner % W + (mw - 1) // 2
            return masks[owner][i * mw + j] if 0 <= i < mh and 0 <= j < mw else x.new_zeros(())

        everywhere = range(H * W)
        for receiver in everywhere:
            logits = [
                logit(receiver, source) if direction == "collect" else logit(source, receiver) for source in everywhere
            ]
            yield mix(softmax(logits), features)

    if m.psa_type == "bi-direction":
        both = (
            aggregate(m.reduce, m.attention, "collect"),
            aggregate(m.reduce_p, m.attention_p, "distribute"),
        )
        return picture([cna(m.proj, torch.cat(pair)) for pair in zip(*both, strict=True)], x)
    return picture([cna(m.proj, z) for z in aggregate(m.reduce, m.attention, m.psa_type)], x)
