"""GlobalContext against its equations."""

import pytest
import torch

from mmattn.attention import GlobalContext
from mmattn.capture import capture
from papers import H, W, count, formula, linear, mix, picture, pixels, softmax

count(GlobalContext, {256: 8753, 512: 33889})


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling_type": "max"}, "pooling_type 'max'"),
        ({"fusion_types": ()}, r"fusion_types \(\)"),
        ({"fusion_types": ("channel_add", "add")}, "fusion_types"),
        ({"ratio": 1 / 17}, "16 channels"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        GlobalContext(16, **arguments)
    GlobalContext(16, ratio=1 / 16)  # one channel is enough


def test_attention_starts_as_the_authors():
    torch.manual_seed(0)
    start = GlobalContext(1024).conv_mask
    assert start.weight.std().item() == pytest.approx((2 / 1024) ** 0.5, rel=0.1)
    assert start.bias == 0


def test_shows_the_gate_that_scales():
    module, x = GlobalContext(16, fusion_types=("channel_mul",)), torch.rand(2, 16, 5, 4)
    with capture(module) as maps:
        y = module(x)
    assert [m.kind for m in maps] == ["spatial", "channel"]
    torch.testing.assert_close(y, x * maps[1].record.gate())
