"""HardAttention against its equations."""

from functools import partial

import pytest
import torch

from mmattn.attention import HardAttention
from mmattn.capture import capture
from papers import H, W, count, formula, linear, picture, pixels, sigmoid, softmax

count(HardAttention, {256: 257, 512: 513})
count(HardAttention, {256: 257, 512: 513}, form="top_k")
count(HardAttention, {256: 8753, 512: 33889}, form="glimpse")


def masked(kept, residual, m, x):
    """``kept`` gives the positions that stay, from all logits."""
    stay = kept([float(linear(m.logits, p)) for p in pixels(x)])
    return picture([p * (i in stay) + p * residual for i, p in enumerate(pixels(x))], x)


def above_zero(logits):
    return {i for i, z in enumerate(logits) if z > 0}


def largest(count, logits):
    return set(sorted(range(H * W), key=lambda i: -logits[i])[:count])


formula(HardAttention, channels=6)(partial(masked, above_zero, False))
formula(HardAttention, channels=6, residual=True, tau=0.3, rho=1.0, budget=2.0)(partial(masked, above_zero, True))
formula(HardAttention, channels=6, form="top_k")(partial(masked, partial(largest, H * W // 2), False))
formula(HardAttention, channels=6, form="top_k", rho=0.01, residual=True)(partial(masked, partial(largest, 1), True))
formula(HardAttention, channels=6, form="top_k", rho=0.29)(partial(masked, partial(largest, 6), False))


@formula(HardAttention, channels=8, form="glimpse", ratio=1 / 2)
def glimpse(m, x):
    logits = [float(linear(m.logits, p)) for p in pixels(x)]
    first, norm, _, last = m.transform
    narrow = linear(first, pixels(x)[logits.index(max(logits))])
    centred = narrow - narrow.mean()
    narrow = centred / ((centred**2).mean() + norm.eps).sqrt() * norm.weight.flatten() + norm.bias.flatten()
    return picture([p + linear(last, narrow.clamp(min=0)) for p in pixels(x)], x)


def drawn(channels: int = 6, size: tuple[int, int] = (H, W), **arguments):
    """A module in training with a fixed input."""
    torch.manual_seed(0)
    module = HardAttention(channels, **arguments).double().train()
    return module, torch.randn(2, channels, *size, dtype=torch.float64)


def mask_of(module, x):
    with capture(module) as maps:
        module(x)
    return maps[0].record.value


def gumbel(like):
    return -torch.log(torch.empty_like(like).exponential_())


@pytest.mark.parametrize("form", ["bernoulli", "top_k", "glimpse"])
@pytest.mark.parametrize("temperature", [{}, {"tau": 0.4}])
def test_binary_forward_and_soft_backward(form, temperature):
    """The gradient of the logits is that of s, by hand, at the noise that was drawn."""
    (module, x), tau = drawn(form=form, ratio=1 / 2, **temperature), temperature.get("tau", 1.0)
    if form == "glimpse":
        module.transform = torch.nn.Identity()
    x.requires_grad_()
    torch.manual_seed(1)
    with capture(module) as maps:
        y = module(x)
    target = torch.randn_like(y)
    weight, through = torch.autograd.grad((y * target).sum(), [module.logits.weight, x])
    mask = maps[0].record.value
    assert set(mask.unique().tolist()) == {0.0, 1.0}

    with torch.no_grad():
        torch.manual_seed(1)
        logits = torch.stack([torch.stack([linear(module.logits, p) for p in pixels(image)], 1) for image in x])
        noise = torch.zeros_like(logits)
        if form != "top_k":
            noise = gumbel(logits) - (gumbel(logits) if form == "bernoulli" else 0)
        expected_weight, expected_through = torch.zeros(6, dtype=torch.float64), torch.zeros_like(x)
        for i, image in enumerate(x):
            vectors = pixels(image)
            z = [float(v) for v in (logits + noise)[i, 0]]
            if form == "glimpse":
                m = [float(v == max(z)) for v in z]
                s = softmax([torch.tensor(v / tau, dtype=torch.float64) for v in z])
                by_mask = [target[i].sum((1, 2)) @ v for v in vectors]  # dL / dm
                mean = sum(a * b for a, b in zip(s, by_mask, strict=True))
                by_logit = [a * (b - mean) / tau for a, b in zip(s, by_mask, strict=True)]
                arriving = [target[i].sum((1, 2)) * m[j] + p for j, p in enumerate(pixels(target[i]))]
            else:
                kept = sorted(z)[-(H * W // 2) :]
                m = [float(v > 0 if form == "bernoulli" else v in kept) for v in z]
                t = tau if form == "bernoulli" else 1.0
                s = [sigmoid(torch.tensor(v / t, dtype=torch.float64)) for v in z]
                by_mask = [a @ b for a, b in zip(pixels(target[i]), vectors, strict=True)]
                by_logit = [a * (1 - a) / t * b for a, b in zip(s, by_mask, strict=True)]
                arriving = [m[j] * p for j, p in enumerate(pixels(target[i]))]
            assert m == mask[i].flatten().tolist()
            expected_weight += sum(a * v for a, v in zip(by_logit, vectors, strict=True))
            w = module.logits.weight.flatten()
            expected_through[i] = picture([a + b * w for a, b in zip(arriving, by_logit, strict=True)], image)
    torch.testing.assert_close(weight.flatten(), expected_weight)
    torch.testing.assert_close(through, expected_through)


def test_positions_are_kept_as_often_as_their_logit_says():
    module, x = drawn(1, (200, 200), tau=0.2)
    module.logits.weight.data.fill_(1.0)
    module.logits.bias.data.fill_(0.5)
    for logit in (-1.0, 0.0, 2.0):
        kept = mask_of(module, torch.full_like(x, logit - 0.5)).mean()
        assert kept.item() == pytest.approx(float(sigmoid(torch.tensor(logit))), abs=0.01)


def test_glimpses_fall_as_often_as_the_softmax_says():
    module, _ = drawn(1, form="glimpse", ratio=1.0, tau=3.0)
    module.logits.weight.data.fill_(1.0)
    logits = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    often = mask_of(module, logits.view(1, 1, 1, 3).expand(20000, 1, 1, 3)).mean((0, 1, 2))
    torch.testing.assert_close(often, logits.softmax(0), rtol=0, atol=0.015)


@pytest.mark.parametrize("form", ["bernoulli", "top_k", "glimpse"])
def test_seeds_hold_and_evaluation_has_no_chance(form):
    module, x = drawn(form=form, ratio=1 / 2, size=(16, 16))
    torch.manual_seed(3)
    first, second = mask_of(module, x), mask_of(module, x)
    torch.manual_seed(3)
    assert torch.equal(mask_of(module, x), first)
    assert torch.equal(first, second) == (form == "top_k")
    module.eval()
    certain = mask_of(module, x)
    assert torch.equal(mask_of(module, x), certain)
    module.tau = 0.01
    assert torch.equal(mask_of(module, x), certain)
    assert set(certain.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(("rho", "kept"), [(0.5, 10), (0.29, 6), (1.0, 20), (0.001, 1)])
def test_top_k_keeps_its_share_even_of_equal_logits(rho, kept):
    module, x = drawn(form="top_k", rho=rho)
    for image in (x, torch.zeros_like(x)):
        assert mask_of(module, image).sum((1, 2, 3)).tolist() == [kept, kept]


def test_half_precision_has_a_binary_mask_and_an_exact_budget():
    module, x = drawn(budget=1.0)
    x, losses = x.half(), []
    module.budget.listeners.append(lambda name, loss: losses.append(loss))
    with torch.autocast("cpu", dtype=torch.float16):
        y = module.float()(x)
    assert y.dtype == torch.float16
    assert ((y == 0) | (y == x)).all()
    assert losses[0].dtype == torch.float32


def test_the_budget_trains_the_share_that_is_kept():
    module, x = drawn(4, (40, 40), rho=0.2, budget=3.0)
    losses, shares = [], []
    module.budget.listeners.append(lambda name, loss: losses.append((name, loss)))
    module.kept.listeners.append(lambda name, share: shares.append((name, share)))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    for _ in range(80):
        mask = mask_of(module, x)
        name, loss = losses.pop()
        assert name == "budget"
        torch.testing.assert_close(loss, 3.0 * (mask.mean() - 0.2) ** 2)
        name, share = shares.pop()
        assert name == "kept"
        assert share == mask.mean()
        assert not share.requires_grad
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert mask_of(module, x).mean().item() == pytest.approx(0.2, abs=0.02)
    losses.clear(), shares.clear()
    module.eval()(x)
    assert not losses + shares


def test_a_logit_of_zero_is_not_kept():
    module, x = drawn()
    module.logits.bias.data.zero_()
    assert not mask_of(module.eval(), 0 * x).any()


def test_no_budget_unless_asked_for():
    module, x = drawn()
    for tap in (module.budget, module.kept):
        tap.listeners.append(lambda name, value: pytest.fail("nobody asked"))
    module(x)


def test_a_glimpse_starts_as_the_identity_again_and_again():
    module, x = drawn(form="glimpse", ratio=1 / 2)
    assert torch.equal(module(x), x)
    for parameter in module.parameters():
        parameter.data.fill_(0.5)
    module.init_weights()
    assert torch.equal(module(x), x)


@pytest.mark.parametrize("form", ["glimpse", "top_k"])
def test_every_form_exports_with_dynamic_sizes(form):
    module, x = drawn(form=form, ratio=1 / 2, size=(9, 10))
    module.eval()
    program = torch.export.export(module, (x,), dynamic_shapes=[{2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}])
    for size in ((12, 8), (4, 7)):
        _, other = drawn(size=size)
        torch.testing.assert_close(program.module()(other), module(other))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"form": "soft"}, "no form 'soft': bernoulli, glimpse or top_k"),
        ({"tau": 0.0}, "tau must be above 0"),
        ({"rho": 0.0}, "rho above 0"),
        ({"rho": 1.1}, "at most 1"),
        ({"budget": -1.0}, "at least 0"),
        ({"budget": 1.0, "form": "top_k"}, "only bernoulli"),
        ({"form": "glimpse"}, "8 channels times ratio .* leave none"),
    ],
)
def test_bad_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        HardAttention(8, **wrong)
