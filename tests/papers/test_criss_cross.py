"""CrissCross against its equations."""

from mmattn.attention import CrissCross
from papers import H, W, count, formula, linear, mix, softmax

count(CrissCross, {256: 82241, 512: 328321, 4: 31})  # 4 channels leave one for queries and keys


@formula(CrissCross, channels=8)
def criss_cross(m, x):
    y = x.clone()
    for i in range(H):
        for j in range(W):
            cross = {(r, j) for r in range(H)} | {(i, c) for c in range(W)}
            q = linear(m.query_conv, x[:, i, j])
            attn = softmax([q @ linear(m.key_conv, x[:, r, c]) for r, c in cross])
            y[:, i, j] += m.gamma.scale * mix(attn, [linear(m.value_conv, x[:, r, c]) for r, c in cross])
    return y
