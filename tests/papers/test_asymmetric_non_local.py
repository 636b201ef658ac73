"""AsymmetricFusion and AsymmetricNonLocal against its equations."""

from functools import partial

import pytest
import torch
from torch import nn

from mmattn.attention import AsymmetricFusion, AsymmetricNonLocal
from mmattn.layers import ConvNormAct
from papers import (
    H,
    W,
    bilinear,
    cna,
    count,
    each,
    formula,
    linear,
    max_pooled,
    mix,
    normed,
    picture,
    pixels,
    pyramid,
    softmax,
)

count(AsymmetricNonLocal, {256: 329216, 512: 919808}, key_channels=256)
count(AsymmetricNonLocal, {256: 230528, 1: 11})  # one channel still has one key
count(AsymmetricFusion, {256: 329728, 512: 854784}, key_channels=256, low_channels=128)
count(AsymmetricFusion, {256: 230784}, low_channels=128)
count(AsymmetricFusion, {1: 14}, low_channels=1)


def asymmetric(stage, low, high, query_scale, scales):
    """What each pixel of ``high`` gathers from the pyramid of ``low``."""
    h, w = low.shape[1:]
    keys = pyramid([cna(stage.key_project, p) for p in pixels(low)], h, w, scales)
    values = pyramid([linear(stage.value_project, p) for p in pixels(low)], h, w, scales)
    queries = each(partial(cna, stage.query_project), high)
    if query_scale > 1:
        queries = max_pooled(queries, query_scale)
    attended = [mix(softmax([q @ k / len(q) ** 0.5 for k in keys]), values) for q in pixels(queries)]
    context = picture([linear(stage.out_project, c) for c in attended], queries)
    return bilinear(context, high.shape[1:], aligned=True) if query_scale > 1 else context


def asymmetric_non_local(query_scales, scales, m, x):
    context = sum(asymmetric(stage, x, x, s, scales) for stage, s in zip(m.stages, query_scales, strict=True))
    return picture([cna(m.bottleneck, torch.cat(pair)) for pair in zip(pixels(context), pixels(x), strict=True)], x)


def asymmetric_fusion(query_scales, scales, m, low, high):
    context = sum(asymmetric(stage, low, high, s, scales) for stage, s in zip(m.stages, query_scales, strict=True))
    joined = [torch.cat(pair) for pair in zip(pixels(context), pixels(high), strict=True)]
    return picture([normed(m.bottleneck.bn, linear(m.bottleneck.conv, p)) for p in joined], high)  # no ReLU


DEFAULT = ((1,), (1, 3, 6, 8))
formula(AsymmetricNonLocal, channels=6, key_channels=4)(partial(asymmetric_non_local, *DEFAULT))
formula(AsymmetricNonLocal, channels=6, query_scales=(1, 2), key_pool_scales=(1, 2))(
    partial(asymmetric_non_local, (1, 2), (1, 2))
)
LEVELS = {"inputs": [(5, 7, 9), (6, H, W)], "channels": 6, "low_channels": 5}
formula(AsymmetricFusion, **LEVELS, key_channels=4)(partial(asymmetric_fusion, *DEFAULT))
formula(AsymmetricFusion, **LEVELS, query_scales=(2,), key_pool_scales=(2, 3))(partial(asymmetric_fusion, (2,), (2, 3)))


@pytest.mark.parametrize("module", [AsymmetricNonLocal(8), AsymmetricFusion(8, low_channels=4)])
def test_context_starts_as_nothing(module):
    stage = module.stages[0]
    assert not stage.out_project.weight.any()
    stage.out_project.weight.data.fill_(1.0)
    stage.out_project.bias.data.fill_(1.0)
    stage.init_weights()
    assert not stage.out_project.weight.any()
    assert not stage.out_project.bias.any()


class Standardised(nn.Conv2d):
    """A convolution that does more than its weights say."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight, self.bias)


def test_a_convolution_of_another_kind_is_called_as_it_is():
    def layer(*args, **kwargs):
        block = ConvNormAct(*args, **kwargs)
        conv = block.conv
        block.conv = Standardised(conv.in_channels, conv.out_channels, kernel_size=1, bias=conv.bias is not None)
        return block

    torch.manual_seed(0)
    low, high = torch.randn(2, 4, 7, 9), torch.randn(2, 8, H, W)
    for module, inputs in (
        (AsymmetricNonLocal(8, layer=layer).eval(), (high,)),
        (AsymmetricFusion(8, low_channels=4, layer=layer).eval(), (low, high)),
    ):
        nn.init.normal_(module.stages[0].out_project.weight)
        context = module.stages[0](inputs[0], high)
        joined = module.bottleneck(torch.cat([context, high], dim=1))
        torch.testing.assert_close(module(*inputs), joined)
        assert context.abs().max() > 0.1


def test_the_shared_projection_counts_every_batch_twice():
    """As in mmseg, which calls it for queries and for keys: its running statistics are published so."""
    module = AsymmetricNonLocal(16, key_channels=8).train()
    [norm] = [layer for layer in module.stages[0].key_project.modules() if isinstance(layer, nn.BatchNorm2d)]
    module(torch.randn(2, 16, 6, 6))
    assert norm.num_batches_tracked == 2
    module.eval()(torch.randn(2, 16, 6, 6))
    assert norm.num_batches_tracked == 2
