"""Operators against explicit loops, values and gradients."""

import pytest
import torch

from mmattn.ops import criss_cross, psa_mask


def loop_mask(logits, mask_size, direction):
    (mh, mw), (b, _, h, w) = mask_size, logits.shape
    full = {}
    for y in range(h):
        for x in range(w):
            for i in range(mh):
                for j in range(mw):
                    oy, ox = y + i - (mh - 1) // 2, x + j - (mw - 1) // 2
                    if 0 <= oy < h and 0 <= ox < w:
                        pair = (oy * w + ox, y * w + x)
                        full[pair if direction == "collect" else pair[::-1]] = logits[:, i * mw + j, y, x]
    nothing = logits.new_zeros(b)
    rows = [torch.stack([full.get((s, r), nothing) for r in range(h * w)], 1) for s in range(h * w)]
    return torch.stack(rows, 1).unflatten(2, (h, w))


@pytest.mark.parametrize("direction", ["collect", "distribute"])
@pytest.mark.parametrize("mask_size", [(1, 1), (3, 3), (2, 4), (4, 5), (7, 9), (8, 10), (11, 13)])
def test_psa_mask(direction, mask_size):
    torch.manual_seed(0)
    logits = torch.randn(2, mask_size[0] * mask_size[1], 4, 5, dtype=torch.float64, requires_grad=True)
    actual, expected = psa_mask(logits, mask_size, direction), loop_mask(logits, mask_size, direction)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    weight = torch.randn_like(actual)
    gradients = [torch.autograd.grad(out, logits, weight)[0] for out in (actual, expected)]
    torch.testing.assert_close(*gradients)


def test_psa_mask_wants_one_channel_for_each_cell():
    with pytest.raises(ValueError, match="15 channels, not 14"):
        psa_mask(torch.zeros(1, 14, 2, 2), (3, 5), "collect")


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1), (4, 6), (5, 5)])
def test_criss_cross(size):
    torch.manual_seed(0)
    h, w = size
    q, k, v = (torch.randn(2, c, h, w, dtype=torch.float64, requires_grad=True) for c in (3, 3, 4))
    expected = torch.zeros_like(v)
    for y in range(h):
        for x in range(w):
            cross = {(i, x) for i in range(h)} | {(y, j) for j in range(w)}
            attn = torch.stack([(q[:, :, y, x] * k[:, :, i, j]).sum(1) for i, j in cross], 1).softmax(1)
            here = sum(attn[:, n, None] * v[:, :, i, j] for n, (i, j) in enumerate(cross))
            expected = expected + torch.zeros_like(v).index_put(
                (torch.arange(2)[:, None], torch.arange(4)[None], torch.tensor(y), torch.tensor(x)), here
            )
    actual = criss_cross(q, k, v)
    torch.testing.assert_close(actual, expected)
    weight = torch.randn_like(v)
    for a, b in zip(*(torch.autograd.grad(out, (q, k, v), weight) for out in (actual, expected)), strict=True):
        torch.testing.assert_close(a, b)
