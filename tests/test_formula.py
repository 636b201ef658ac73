"""Each mechanism against its paper's equations, written as slow loops in float64, with random weights."""

import math

import pytest
import torch
from torch import Tensor, nn

from mmattn.attention import (
    AsymmetricFusion,
    AsymmetricNonLocal,
    ChannelAttention,
    CrissCross,
    GlobalContext,
    NonLocal,
    ObjectContext,
    PointWise,
    Polarized,
    PositionAttention,
    entries,
)

H, W = 5, 4
FORMULAS: dict[type, list] = {}


def formula(cls: type, **arguments):
    """Enters a test's reference for one mechanism and one choice of arguments."""

    def enter(reference):
        FORMULAS.setdefault(cls, []).append((arguments, reference))
        return reference

    return enter


def linear(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1 x 1 convolution of one vector (c,)."""
    y = torch.stack([sum(row[i] * x[i] for i in range(len(x))) for row in conv.weight[:, :, 0, 0]])
    return y if conv.bias is None else y + conv.bias


def cna(block: nn.Module, x: Tensor) -> Tensor:
    """Convolution, batch norm of the running statistics, ReLU where there is one, of one vector (c,)."""
    y = linear(block.conv, x)
    if hasattr(block, "bn"):
        bn = block.bn
        y = (y - bn.running_mean) / (bn.running_var + bn.eps).sqrt() * bn.weight + bn.bias
    return y.clamp(min=0) if hasattr(block, "activate") else y


def softmax(logits: list[Tensor]) -> list[Tensor]:
    total = sum(torch.exp(z) for z in logits)
    return [torch.exp(z) / total for z in logits]


def mix(weights: list[Tensor], values: list[Tensor]) -> Tensor:
    return sum(a * v for a, v in zip(weights, values, strict=True))


def pixels(x: Tensor) -> list[Tensor]:
    """(c, h, w) as its vectors in reading order."""
    return [x[:, i, j] for i in range(x.shape[1]) for j in range(x.shape[2])]


def picture(vectors: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(vectors, 1).unflatten(1, like.shape[1:])


def pyramid(vectors: list[Tensor], h: int, w: int, scales: tuple[int, ...]) -> list[Tensor]:
    cells = []
    for s in scales:
        for i in range(s):
            for j in range(s):
                rows = range(i * h // s, math.ceil((i + 1) * h / s))
                columns = range(j * w // s, math.ceil((j + 1) * w / s))
                inside = [vectors[y * w + x] for y in rows for x in columns]
                cells.append(sum(inside) / len(inside))
    return cells


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


@formula(GlobalContext, channels=8, ratio=1 / 2)
@formula(GlobalContext, channels=8, ratio=1 / 4, pooling_type="avg", fusion_types=("channel_mul",))
@formula(GlobalContext, channels=8, ratio=1 / 4, fusion_types=("channel_mul", "channel_add"))
def global_context(m, x):
    if m.conv_mask is None:
        context = sum(pixels(x)) / (H * W)
    else:
        context = mix(softmax([linear(m.conv_mask, p)[0] for p in pixels(x)]), pixels(x))

    def transform(t):
        narrow = linear(t[0], context)
        centred = narrow - narrow.mean()
        normed = centred / ((centred**2).mean() + t[1].eps).sqrt() * t[1].weight.flatten() + t[1].bias.flatten()
        return linear(t[3], normed.clamp(min=0))

    y = pixels(x)
    if m.channel_mul_conv is not None:
        gate = 1 / (1 + torch.exp(-transform(m.channel_mul_conv)))
        y = [gate * p for p in y]
    if m.channel_add_conv is not None:
        y = [p + transform(m.channel_add_conv) for p in y]
    return picture(y, x)


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


@formula(AsymmetricFusion, channels=6, low_channels=5, key_channels=4)
def asymmetric_fusion(m, low, high):
    context = asymmetric(m.stages[0], low, high)
    return picture([cna(m.bottleneck, torch.cat([c, p])) for c, p in zip(context, pixels(high), strict=True)], high)


@formula(ObjectContext, channels=6, key_channels=4)
@formula(ObjectContext, channels=6, key_channels=4, gather_scale=2.5)
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


CASES = [
    pytest.param(cls, arguments, reference, id=f"{cls.__name__}-{'-'.join(map(str, arguments.values()))}")
    for cls, cases in FORMULAS.items()
    for arguments, reference in cases
]


def test_every_entry_has_a_formula():
    assert {entry.cls for entry in entries()} == set(FORMULAS)


@pytest.mark.parametrize(("cls", "arguments", "reference"), CASES)
def test_equals_its_equations(cls, arguments, reference):
    torch.manual_seed(0)
    module = cls(**arguments).double().eval()
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            tensor.data.normal_(std=0.5)
    for name, buffer in module.named_buffers():
        if name.endswith("running_var"):
            buffer.data.abs_().add_(0.3)
    channels = {AsymmetricFusion: (5, 6), ObjectContext: (6, 3)}.get(cls, (arguments["channels"],))
    sizes = [(7, 9), (H, W)] if cls is AsymmetricFusion else [(H, W)] * len(channels)
    inputs = [torch.randn(2, c, *size, dtype=torch.float64) for c, size in zip(channels, sizes, strict=True)]
    with torch.no_grad():
        actual = module(*inputs)
        expected = torch.stack([reference(module, *images) for images in zip(*inputs, strict=True)])
    assert not torch.allclose(expected, inputs[-1 if cls is not ObjectContext else 0], atol=1e-3)  # not the identity
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
