"""MultiHead against its equations."""

import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmattn.attention import MultiHead
from mmattn.capture import capture
from papers import H, W, conv, count, formula, linear, mix, normed, picture, pixels, softmax

count(MultiHead, {256: 263168, 512: 1050624})
count(MultiHead, {256: 4 * 256**2 + 4 * 256 + 4 * 256**2 + 3 * 256}, key_reduction=2)
count(MultiHead, {256: 263168 + (127 + 127) * 32}, position="relative")
count(MultiHead, {256: 263168 + (2 * 7 - 1 + 2 * 9 - 1) * 64}, num_heads=4, position="relative", size=(7, 9))
count(MultiHead, {512: 1050624 + 2 * 512 + 1}, position="sine", residual=True)


def sine(c, y, x):
    """The code of one position: row in the first half of the channels, column in the second."""
    code = torch.zeros(c, dtype=torch.float64)
    for i in range(c // 4):
        for first, u in ((0, y), (c // 2, x)):
            angle = u / 10000 ** (2 * i / (c // 2))
            code[first + 2 * i], code[first + 2 * i + 1] = math.sin(angle), math.cos(angle)
    return code


def layer_norm(norm, v):
    centred = v - v.mean()
    return centred / ((centred**2).mean() + norm.eps).sqrt() * norm.weight + norm.bias


def multi_head(num_heads, position, r, residual, m, x):
    c = len(x)
    places = [(i, j) for i in range(H) for j in range(W)]
    inner = [normed(m.norm, p) for p in pixels(x)] if residual else pixels(x)
    if position == "sine":
        inner = [p + sine(c, *place) for p, place in zip(inner, places, strict=True)]
    cells, key_places = inner, places
    if r > 1:
        h, w = math.ceil(H / r), math.ceil(W / r)
        padded = x.new_zeros(c, h * r, w * r)
        padded[:, :H, :W] = picture(inner, x)
        cells = [layer_norm(m.reduce_norm, p) for p in pixels(conv(m.reduce, padded))]
        key_places = [(i * r + (r - 1) // 2, j * r + (r - 1) // 2) for i in range(h) for j in range(w)]
    q, k, v = [linear(m.q, p) for p in inner], [linear(m.k, p) for p in cells], [linear(m.v, p) for p in cells]
    d = c // num_heads
    out = []
    for i, place in enumerate(places):
        heads = []
        for head in (slice(n * d, n * d + d) for n in range(num_heads)):
            logits = []
            for key, key_place in zip(k, key_places, strict=True):
                key = key[head]
                if position == "relative":
                    for table, a, b in zip((m.offsets.rows, m.offsets.columns), place, key_place, strict=True):
                        far = (len(table) - 1) // 2
                        key = key + table[min(max(b - a, -far), far) + far]
                logits.append(q[i][head] @ key / math.sqrt(d))
            heads.append(mix(softmax(logits), [value[head] for value in v]))
        y = linear(m.out, torch.cat(heads))
        out.append(pixels(x)[i] + m.gamma.scale * y if residual else y)
    return picture(out, x)


formula(MultiHead, channels=8)(partial(multi_head, 8, "none", 1, False))
formula(MultiHead, channels=8, num_heads=4, position="sine")(partial(multi_head, 4, "sine", 1, False))
formula(MultiHead, channels=6, num_heads=2, key_reduction=2)(partial(multi_head, 2, "none", 2, False))
formula(MultiHead, channels=8, num_heads=1, residual=True)(partial(multi_head, 1, "none", 1, True))
formula(MultiHead, channels=8, num_heads=2, key_reduction=2, position="sine", residual=True)(
    partial(multi_head, 2, "sine", 2, True)
)
for size in ((H, W), (2, 3)):  # as large as the map, and smaller
    formula(MultiHead, channels=6, num_heads=3, position="relative", size=size)(
        partial(multi_head, 3, "relative", 1, False)
    )
for r in (2, 3):
    formula(MultiHead, channels=6, num_heads=2, position="relative", size=(3, 2), key_reduction=r)(
        partial(multi_head, 2, "relative", r, False)
    )


def test_torch_has_the_same_attention():
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).double()
    ours = MultiHead(12, num_heads=3).double()
    theirs.in_proj_bias.data.normal_()
    for conv_, weight, bias in zip(
        (ours.q, ours.k, ours.v), theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3), strict=True
    ):
        conv_.load_state_dict({"weight": weight[:, :, None, None], "bias": bias})
    ours.out.load_state_dict({"weight": theirs.out_proj.weight[:, :, None, None], "bias": theirs.out_proj.bias})
    x = torch.randn(2, 12, H, W, dtype=torch.float64)
    tokens = x.flatten(2).mT
    with capture(ours) as maps:
        actual = ours(x)
    expected, weights = theirs(tokens, tokens, tokens, average_attn_weights=False)
    torch.testing.assert_close(actual.flatten(2).mT, expected)
    torch.testing.assert_close(maps[0].record.row(2, 1).flatten(2), weights[:, :, 2 * W + 1])


def test_the_record_knows_the_relative_positions():
    """Its rows carry the values to where they arrive, over the grid of reduced keys."""
    torch.manual_seed(0)
    module = MultiHead(8, num_heads=2, position="relative", size=(2, 2), key_reduction=2).double()
    x = torch.randn(1, 8, H, W, dtype=torch.float64)
    with torch.no_grad(), capture(module) as maps:
        y = module(x)
        record = maps[0].record
        assert record.q.shape[3] == record.k.shape[3] == 16  # 4 + 3 + 2, and zeros up to a multiple of 8
        torch.testing.assert_close(record.q[0, :, 0, :4].flatten(), linear(module.q, x[0, :, 0, 0]))
        padded = F.pad(x[0], (0, 0, 0, 1))
        cells = [layer_norm(module.reduce_norm, p) for p in pixels(conv(module.reduce, padded))]
        values = [linear(module.v, p) for p in cells]
        for i in range(H):
            for j in range(W):
                row = record.row(i, j)[0].flatten(1)  # (heads, m)
                torch.testing.assert_close(row.sum(1), torch.ones(2, dtype=torch.float64))
                heads = [mix(list(row[n]), [v[4 * n : 4 * n + 4] for v in values]) for n in range(2)]
                torch.testing.assert_close(linear(module.out, torch.cat(heads)), y[0, :, i, j])


def test_without_positions_moving_the_pixels_moves_the_output():
    torch.manual_seed(0)
    x, order = torch.randn(1, 8, H, W, dtype=torch.float64), torch.randperm(H * W)
    moved = x.flatten(2)[..., order].view_as(x)
    for position in ("none", "sine", "relative"):
        module = MultiHead(8, num_heads=2, position=position).double()
        same = torch.allclose(module(moved).flatten(2), module(x).flatten(2)[..., order])
        assert same == (position == "none")


def test_residual_is_the_identity_and_comes_back():
    module, x = MultiHead(8, num_heads=2, residual=True, norm=lambda c: nn.GroupNorm(2, c)), torch.randn(2, 8, H, W)
    assert isinstance(module.norm, nn.GroupNorm)
    assert torch.equal(module(x), x)
    module.gamma.scale.data.fill_(0.5)
    assert not torch.equal(module(x), x)
    module.init_weights()
    assert torch.equal(module(x), x)


def test_relative_tables_start_at_the_scale_of_the_queries():
    torch.manual_seed(0)
    offsets = MultiHead(256, num_heads=4, position="relative").offsets
    assert offsets.rows.std().item() == pytest.approx(64**-0.5, rel=0.1)
    assert offsets.columns.std().item() == pytest.approx(64**-0.5, rel=0.1)


@pytest.mark.parametrize("position", ["none", "relative"])
def test_nothing_of_the_size_of_all_pairs_is_made(position):
    sizes = []
    module, x = MultiHead(8, num_heads=2, position=position, size=(4, 4)), torch.randn(1, 8, 24, 24)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        module(x)
    assert max(sizes) < (24 * 24) ** 2


@pytest.mark.parametrize("position", ["sine", "relative"])
def test_positions_work_at_any_size_in_any_type_and_layout(position):
    torch.manual_seed(0)
    module = MultiHead(8, num_heads=2, position=position, size=(3, 2), key_reduction=3)
    for size in ((1, 1), (2, 7), (9, 4)):
        x = torch.randn(2, 8, *size)
        expected = module(x)
        assert expected.shape == x.shape
        torch.testing.assert_close(module(x.to(memory_format=torch.channels_last)), expected)
        with torch.autocast("cpu", dtype=torch.float16):
            torch.testing.assert_close(module(x).float(), expected, rtol=0.05, atol=0.02)
    half = copy.deepcopy(module).bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.1, atol=0.1)
    module = module.double()
    assert torch.autograd.gradcheck(module, torch.randn(1, 8, 4, 2, dtype=torch.float64, requires_grad=True))


@pytest.mark.slow
@pytest.mark.parametrize("position", ["sine", "relative"])
def test_positions_compile_and_export(position):
    module = MultiHead(8, num_heads=2, position=position, size=(3, 2), key_reduction=2).eval()
    x, other = torch.randn(2, 8, 9, 10), torch.randn(2, 8, 12, 7)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="eager")(x), module(x))
    sizes = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.export.export(module, (x,), dynamic_shapes=[sizes])
    torch.testing.assert_close(program.module()(other), module(other))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_heads": 3}, "8 channels do not divide into 3 heads"),
        ({"num_heads": 0}, "into 0 heads"),
        ({"position": "learned"}, "no position 'learned': none, sine or relative"),
        ({"channels": 6, "num_heads": 2, "position": "sine"}, "6 channels: sine needs a multiple of 4"),
        ({"size": (0, 4)}, "at least 1"),
        ({"size": (4, 0)}, "at least 1"),
        ({"key_reduction": 0}, "at least 1"),
    ],
)
def test_bad_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        MultiHead(**{"channels": 8, **wrong})
