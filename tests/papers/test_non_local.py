"""NonLocal against its equations."""

import pytest
import torch
from torch import nn

from mmattn.attention import NonLocal
from papers import H, W, cna, count, formula, linear, mix, picture, pixels, softmax

count(NonLocal, {256: 131968, 512: 526080, 1: 2 * 3 + 1 + 2})  # one channel still has one embedding
count(NonLocal, {256: 131968 + 256}, mode="concatenation")


def check(**arguments):
    """Enters the equations for one choice of arguments."""
    mode, use_scale = arguments.get("mode", "embedded_gaussian"), arguments.get("use_scale", True)
    sub_sample = arguments.get("sub_sample", False)

    def projected(block, x):
        block = block[0] if sub_sample and isinstance(block, nn.Sequential) and not hasattr(block, "conv") else block
        return [linear(block.conv, p) for p in pixels(x)]

    def pool(v):
        corner = [i * W + j for i in range(0, H - 1, 2) for j in range(0, W - 1, 2)]
        return [torch.stack([v[c], v[c + 1], v[c + W], v[c + W + 1]]).amax(0) for c in corner]

    def non_local(m, x):
        theta = projected(m.theta, x) if mode != "gaussian" else pixels(x)
        phi = projected(m.phi, x) if mode != "gaussian" else pixels(x)
        g = projected(m.g, x)
        if sub_sample:
            phi, g = pool(phi), pool(g)
        out = []
        for p, t in zip(pixels(x), theta, strict=True):
            if mode == "dot_product":
                f = [(t @ k) / len(phi) for k in phi]
            elif mode == "concatenation":
                w = m.concat_project.conv.weight.flatten()
                f = [(w @ torch.cat([t, k])).clamp(min=0) / len(phi) for k in phi]
            else:
                scale = len(t) ** -0.5 if mode == "embedded_gaussian" and use_scale else 1
                f = softmax([t @ k * scale for k in phi])
            out.append(p + cna(m.conv_out, mix(f, g)))
        return picture(out, x)

    formula(NonLocal, channels=6, **arguments)(non_local)


check()
check(use_scale=False, reduction=3)
check(mode="gaussian")
check(mode="dot_product")
check(mode="concatenation")
check(sub_sample=True)
check(sub_sample=True, mode="gaussian")


def test_refuses_an_unknown_mode():
    with pytest.raises(ValueError, match="no mode 'dot'"):
        NonLocal(8, mode="dot")


def test_starts_as_mmcv():
    torch.manual_seed(0)
    module = NonLocal(512, mode="concatenation")
    for parameter in (p for block in (module.g, module.theta, module.phi) for p in block.parameters()):
        nn.init.ones_(parameter)  # as a backbone's own initialisation may leave them
    module.init_weights()
    for block in (module.g, module.theta, module.phi):
        assert block.conv.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert not block.conv.bias.any()
        assert [name for name, _ in block.named_children()] == ["conv"]
    assert module.concat_project.conv.weight.shape == (1, 512, 1, 1)
    assert module.concat_project.conv.weight.std().item() == pytest.approx(2**0.5, rel=0.15)
