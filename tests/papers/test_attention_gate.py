"""AttentionGate against its equations."""

from functools import partial

import pytest
import torch
from torch import nn

from mmattn.attention import AttentionGate
from mmattn.capture import capture
from papers import bilinear, conv, count, each, formula, linear, normed, picture, pixels, sigmoid, softmax

count(AttentionGate, {256: 263169}, gate_channels=512)
count(AttentionGate, {512: 1050625}, gate_channels=1024)
count(AttentionGate, {256: 460033}, gate_channels=512, inter_channels=256)
count(AttentionGate, {512: 1837569}, gate_channels=1024, inter_channels=512)


def attention_gate(stride, variant, m, x, g):
    return each(lambda p: normed(m.norm, linear(m.out, p)), gate_of(stride, variant, m, x, g) * x)


def gate_of(s, variant, m, x, g):
    h, w = x.shape[1:]
    padded = x.new_zeros(len(x), h + -h % s, w + -w % s)
    padded[:, :h, :w] = x
    theta = conv(m.theta, padded)
    compared = theta + bilinear(each(lambda p: linear(m.phi, p), g), theta.shape[1:])
    compared = torch.log(1 + torch.exp(compared)) if variant == "softplus" else compared.clamp(min=0)
    logits = each(lambda p: linear(m.psi, p), compared)
    alpha = picture(softmax(pixels(logits)), logits) if variant == "softmax" else sigmoid(logits)
    return bilinear(alpha, (h, w))


for fine, coarse, variant in (  # even sides, odd ones, one pixel
    ((6, 8), (3, 4), "sigmoid"),
    ((7, 5), (2, 3), "softplus"),
    ((6, 5), (3, 1), "softmax"),
    ((1, 1), (1, 1), "sigmoid"),
):
    formula(AttentionGate, inputs=[(4, *fine), (5, *coarse)], channels=4, gate_channels=5, variant=variant)(
        partial(attention_gate, 2, variant)
    )
formula(AttentionGate, inputs=[(4, 4, 6), (5, 2, 3)], channels=4, gate_channels=5)(
    partial(attention_gate, 2, "sigmoid")
)
formula(AttentionGate, inputs=[(4, 4, 7), (5, 4, 4)], channels=4, gate_channels=5, stride=3, inter_channels=3)(
    partial(attention_gate, 3, "sigmoid")
)
formula(AttentionGate, inputs=[(4, 3, 4), (5, 3, 4)], channels=4, gate_channels=5, stride=1, inter_channels=1)(
    partial(attention_gate, 1, "sigmoid")
)


@pytest.mark.parametrize("variant", ["sigmoid", "softplus", "softmax"])
def test_the_map_is_the_gate(variant):
    torch.manual_seed(0)
    module = AttentionGate(4, gate_channels=6, variant=variant).double()
    x, g = torch.randn(2, 4, 6, 8, dtype=torch.float64), torch.randn(2, 6, 3, 4, dtype=torch.float64)
    with capture(module) as maps:
        module(x, g)
    expected = torch.stack([gate_of(2, variant, module, *images) for images in zip(x, g, strict=True)])
    torch.testing.assert_close(maps[0].record.gate(), expected, check_dtype=False)
    if variant == "softmax":  # it sums to 1 where it is computed; scaled up by 2, to 4
        torch.testing.assert_close(expected.sum((1, 2, 3)), torch.full((2,), 4.0, dtype=torch.float64))


def test_the_whole_image_is_open_where_the_gate_says_so():
    module = AttentionGate(4, gate_channels=6).eval()
    nn.init.zeros_(module.psi.weight)
    x, g = torch.randn(1, 4, 5, 7), torch.randn(1, 6, 3, 4)
    for bias, gate in ((100.0, 1.0), (-100.0, 0.0)):
        nn.init.constant_(module.psi.bias, bias)
        torch.testing.assert_close(module(x, g), module.norm(module.out(gate * x)))


@pytest.mark.parametrize("again", [False, True])
def test_starts_as_the_authors_do(again):
    torch.manual_seed(0)
    module = AttentionGate(256, gate_channels=512)
    if again:
        for parameter in module.parameters():
            parameter.data.fill_(7.0)
        module.init_weights()
    for conv_, fan_in in ((module.theta, 4 * 256), (module.phi, 512), (module.psi, 128), (module.out, 256)):
        assert conv_.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.2)
    assert module.norm.weight.mean().item() == pytest.approx(1, abs=0.01)
    assert module.norm.weight.std().item() == pytest.approx(0.02, rel=0.2)
    for bias in (module.phi.bias, module.psi.bias, module.out.bias, module.norm.bias):
        assert not bias.any()


def test_any_norm():
    assert isinstance(AttentionGate(4, gate_channels=2, norm=lambda c: nn.GroupNorm(2, c)).norm, nn.GroupNorm)
    assert AttentionGate(4, gate_channels=2, norm=nn.InstanceNorm2d).norm.weight is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"variant": "tanh"}, "no variant 'tanh': sigmoid, softplus or softmax"),
        ({"inter_channels": 0}, "inter_channels=0, stride=2: each must be at least 1"),
        ({"channels": 1}, "inter_channels=0"),
        ({"stride": 0}, "stride=0"),
    ],
)
def test_bad_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        AttentionGate(**{"channels": 8, "gate_channels": 4, **wrong})
