"""AttentionRefinement and FeatureFusion against their equations."""

from functools import partial

import pytest
import torch
from torch import nn

from mmattn.attention import AttentionRefinement, FeatureFusion
from mmattn.capture import capture
from mmattn.layers import ConvNormAct
from papers import bilinear, cna, conv, count, each, formula, linear, mean, normed, pixels, sigmoid

count(AttentionRefinement, {256: 656384, 512: 2623488})
count(AttentionRefinement, {256: 311808, 512: 606720}, out_channels=128)
count(FeatureFusion, {128: 197120}, context_channels=128, out_channels=256)  # 256 in, 256 out
count(FeatureFusion, {256: 787456}, context_channels=256, out_channels=512)
count(FeatureFusion, {128: 256**2 + 2 * 256 + 2 * 256 * 64}, context_channels=128, out_channels=256, reduction=4)


@formula(AttentionRefinement, channels=5)
@formula(AttentionRefinement, channels=4, out_channels=6)
def attention_refinement(m, x):
    f = each(lambda p: normed(m.conv.bn, p).clamp(min=0), conv(m.conv.conv, x))
    gate = sigmoid(normed(m.gate.bn, linear(m.gate.conv, mean(pixels(f)))))
    return each(lambda p: gate * p, f)


@formula(FeatureFusion, inputs=[(4, 3, 4), (3, 3, 4)], channels=4, context_channels=3)
@formula(FeatureFusion, inputs=[(4, 5, 6), (3, 5, 6)], channels=4, context_channels=3, out_channels=6, reduction=2)
@formula(FeatureFusion, inputs=[(4, 5, 6), (3, 2, 3)], channels=4, context_channels=3)
def feature_fusion(m, x, context):
    f = each(lambda p: cna(m.conv, p), torch.cat([x, bilinear(context, x.shape[1:])]))
    gate = sigmoid(linear(m.w2, linear(m.w1, mean(pixels(f))).clamp(min=0)))
    return each(lambda p: p + gate * p, f)


def test_one_image_trains_only_without_batch_norm():
    x = torch.randn(1, 8, 5, 6)
    with pytest.raises(ValueError, match=r"AttentionRefinement normalises over the batch.*two or more images"):
        AttentionRefinement(8)(x)
    AttentionRefinement(8).eval()(x)
    AttentionRefinement(8)(torch.randn(2, 8, 5, 6))
    AttentionRefinement(8, layer=partial(ConvNormAct, norm=partial(nn.GroupNorm, 2)))(x)
    FeatureFusion(8, context_channels=8)(x, x)


def test_the_maps_are_the_gates():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 5, 6)
    refine, fuse = (
        AttentionRefinement(8, out_channels=4).eval(),
        FeatureFusion(8, context_channels=8, out_channels=4).eval(),
    )
    with capture(refine) as maps:
        torch.testing.assert_close(refine(x), maps[0].record.gate() * refine.conv(x))
    with capture(fuse) as maps:
        torch.testing.assert_close(fuse(x, x), (1 + maps[0].record.gate()) * fuse.conv(torch.cat([x, x], 1)))


def test_the_gate_of_the_fusion_starts_as_its_convolution():
    torch.manual_seed(0)
    module = FeatureFusion(256, context_channels=128, reduction=2)
    for conv_ in (module.w1, module.w2, module.conv.conv):
        assert conv_.weight.std().item() == pytest.approx((2 / conv_.out_channels) ** 0.5, rel=0.05)


@pytest.mark.parametrize("reduction", [0, 9])
def test_a_gate_without_channels_is_refused(reduction):
    with pytest.raises(ValueError, match="between 1 and the 8 channels"):
        FeatureFusion(8, context_channels=4, reduction=reduction)
