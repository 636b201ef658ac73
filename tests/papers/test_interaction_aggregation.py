"""InteractionAggregation against its equations, on images and on clips."""

from functools import partial

import pytest
import torch
from torch import nn

from mmattn.attention import InteractionAggregation
from mmattn.capture import capture
from papers import count, each, formula, linear, mean, mix, normed, pixels, sigmoid, softmax

count(InteractionAggregation, {256: 199951, 512: 793103})


def conv_norm(block, p):
    return normed(block[1], linear(block[0], p))


@formula(InteractionAggregation, channels=6)
@formula(InteractionAggregation, inputs=[(7, 3, 2)], channels=7, parts=3)
@formula(InteractionAggregation, inputs=[(4, 3, 2, 3)], channels=4, parts=2)
@formula(InteractionAggregation, inputs=[(4, 2, 3, 2)], channels=4, parts=1)
@formula(InteractionAggregation, inputs=[(4, 1, 1)], channels=4, parts=1)
def interaction_aggregation(m, x):
    clip = x if x.dim() == 4 else x[:, None]
    c, t = clip.shape[:2]
    names = [(i, frame) for i in range(c) for frame in range(t)]
    rows = [clip[i, frame] for i, frame in names]
    mixed = torch.zeros_like(clip)
    for (i, frame), row in zip(names, rows, strict=True):
        logits = torch.stack([(row * other).sum() for other in rows])
        mixed[i, frame] = mix(softmax(list(logits - logits.max())), rows)
    z = [clip[:, f] + each(lambda p: conv_norm(m.mix, p), mixed[:, f]) for f in range(t)]

    u = linear(m.node, mean([p for frame in z for p in pixels(frame)]))
    nodes = {}
    for f, frame in enumerate(z):
        where = [sigmoid(conv_norm(m.part, p)) for p in pixels(frame)]
        for k in range(len(where[0])):
            nodes[f, k] = linear(m.node, sum(a[k] * p for a, p in zip(where, pixels(frame), strict=True)))
    said = []
    for (f, k), p in nodes.items():
        heard = [n for n in nodes if (n[0] == f) != (n[1] == k)] or [(f, k)]
        edges = [conv_norm(m.edge, torch.cat([(p - nodes[n]).abs(), u]))[0] for n in heard]
        neighbours = mix(softmax(edges), [nodes[n] for n in heard])
        said.append((f, conv_norm(m.update, torch.cat([p, neighbours])).clamp(min=0)))
    y = []
    for f, frame in enumerate(z):
        s = mean([v for frame_of, v in said if frame_of == f])
        y.append(frame + conv_norm(m.out, torch.cat([s, u]))[:, None, None])
    return torch.stack(y, 1).view_as(x)


def random_block(channels: int = 6, **arguments) -> InteractionAggregation:
    torch.manual_seed(0)
    module = InteractionAggregation(channels, **arguments).double()
    for parameter in module.parameters():
        parameter.data.normal_(std=0.5)
    return module


def test_an_image_is_a_clip_of_one_frame():
    module, x = random_block(), torch.randn(2, 6, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(module(x[:, :, None])[:, :, 0], module(x))


def test_moving_the_pixels_moves_the_output():
    module, x = random_block().eval(), torch.randn(2, 6, 5, 4, dtype=torch.float64)
    order = torch.randperm(20)
    moved = x.flatten(2)[..., order].view_as(x)
    torch.testing.assert_close(module(moved).flatten(2), module(x).flatten(2)[..., order])


def test_frames_in_another_order_come_out_in_that_order():
    module, x = random_block().eval(), torch.randn(2, 6, 3, 4, 3, dtype=torch.float64)
    order = [2, 0, 1]
    torch.testing.assert_close(module(x[:, :, order]), module(x)[:, :, order])


def test_the_maps_of_a_clip_stand_one_below_the_other():
    module, x = random_block(parts=3).eval(), torch.randn(2, 6, 2, 4, 5, dtype=torch.float64)
    with capture(module) as maps:
        module(x)
    channels, parts = (m.record for m in maps)
    assert channels.size == (4, 5)
    rows = x.flatten(3).flatten(1, 2)
    torch.testing.assert_close(channels.channels(), (rows @ rows.mT).softmax(2))
    assert parts.gate().shape == (2, 3, 8, 5)
    assert 0 < parts.gate().min() < parts.gate().max() < 1


def test_sums_over_a_large_map_survive_half_precision():
    torch.manual_seed(0)
    module, x = InteractionAggregation(8), 4 * torch.randn(2, 8, 160, 160).relu() + 4
    for gamma in (module.mix[1].weight, module.out[1].weight):
        nn.init.ones_(gamma)
    assert not (x.half() * 0.5).sum((2, 3), dtype=torch.float16).isfinite().all()
    expected = module(x)
    with torch.autocast("cpu", dtype=torch.float16):
        torch.testing.assert_close(module(x), expected, rtol=0.05, atol=0.05)
        assert module(x.half()).dtype == torch.float16


def test_runs_in_half_precision_alone():
    module, x = random_block().eval(), torch.randn(2, 6, 5, 4)
    expected = module.float()(x)
    actual = module.bfloat16()(x.bfloat16())
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.float(), expected, rtol=0.1, atol=0.2)


def test_starts_as_the_authors_do():
    torch.manual_seed(0)
    module = InteractionAggregation(128)
    for parameter in module.parameters():
        parameter.data.fill_(0.5)
    module.init_weights()
    for conv in (module.mix[0], module.node, module.update[0], module.out[0]):
        assert conv.weight.std().item() == pytest.approx((2 / conv.out_channels) ** 0.5, rel=0.05)
        assert not conv.bias.any()
    x = torch.randn(2, 128, 3, 2, 2)
    assert torch.equal(module(x), x)


def test_one_image_trains_only_without_batch_norm():
    x = torch.randn(1, 8, 5, 6)
    with pytest.raises(ValueError, match=r"InteractionAggregation normalises over the batch.*two or more images"):
        InteractionAggregation(8)(x)
    InteractionAggregation(8).eval()(x)
    InteractionAggregation(8)(torch.randn(1, 8, 2, 5, 6))  # two frames are two values
    InteractionAggregation(8)(torch.randn(2, 8, 1, 1))
    module = InteractionAggregation(8, norm=partial(nn.GroupNorm, 1))
    assert torch.equal(module(x), x)
    InteractionAggregation(2, norm=nn.InstanceNorm2d)  # has no gamma to start at 0


@pytest.mark.parametrize("wrong", [{"channels": 1}, {"parts": 0}])
def test_nothing_to_relate_is_refused(wrong):
    with pytest.raises(ValueError, match="at least 2 channels and 1 part"):
        InteractionAggregation(**{"channels": 8, **wrong})
