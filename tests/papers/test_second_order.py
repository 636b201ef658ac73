"""SecondOrder against its equations."""

from functools import partial

import pytest
import torch

from mmattn.attention import SecondOrder
from papers import cells, conv, count, each, formula, linear, mean, normed, picture, pixels, sigmoid

count(SecondOrder, {256: 230784, 512: 394880})
count(SecondOrder, {256: 66368, 512: 99136}, mode="spatial")
count(SecondOrder, {256: 230784 + 66368, 512: 394880 + 99136}, mode="max")
# two convolutions of 11 (9) x 1 in groups of 64 channels, with bias, and a norm
count(SecondOrder, {256: 297152 + 2 * 256 * (11 * 64 + 2), 512: 494016 + 2 * 512 * (9 * 64 + 2)}, mode="concat")


def fused(fuse, grid, m, x):
    return fuse(m, channel(m, x), spatial(grid, m, x))


def total(m, y1, y2):
    return y1 + y2


def larger(m, y1, y2):
    return torch.where(y1 > y2, y1, y2)


def concatenated(m, y1, y2):
    both = conv(m.concat.conv1, y1) + conv(m.concat.conv2, y2)
    return each(partial(normed, m.concat.norm), both)


def channel(m, x, slope=1.0, stride=1):
    seen = [p.clamp(min=0) for p in pixels(x[:, ::stride, ::stride])]
    a = [normed(m.channel.reduce[1], linear(m.channel.reduce[0], p)).clamp(min=0) for p in seen]
    centre = mean(a)
    covariance = mean([torch.outer(p - centre, p - centre) for p in a])
    return x * gate(m.channel.rows, covariance, slope)[:, None, None]


def spatial(grid, m, x, code=False):
    reduce, norm = m.spatial.reduce
    a = picture([normed(norm, linear(reduce, p.clamp(min=0))) for p in pixels(x)], x)
    (h, w), (_, height, width) = grid, x.shape
    columns = [
        mean([a[:, i, j] for i in rows for j in columns]) for rows in cells(height, h) for columns in cells(width, w)
    ]
    d, size = len(columns[0]), len(columns)
    if code:
        middle = torch.eye(d).double() / size - torch.ones(d, d).double() / size**2
        covariance = torch.stack([torch.stack([p @ middle @ q for q in columns]) for p in columns])
    else:
        centred = [p - p.mean() for p in columns]
        covariance = torch.stack([torch.stack([(p * q).sum() / d for q in centred]) for p in centred])
    s = gate(m.spatial.rows, covariance, 0).view(h, w)
    y = torch.zeros_like(x)
    for i, rows in enumerate(cells(h, height)):
        for j, seen in enumerate(cells(w, width)):
            y[:, i, j] = (x[:, i, j] * mean([s[k, n] for k in rows for n in seen])).clamp(min=0)
    return y


def gate(rows, covariance, slope):
    norm, kernel, _, expand, _ = rows
    n, numbers = len(covariance), []
    for i in range(n):
        row = (covariance[i] - norm.running_mean[i]) / (norm.running_var[i] + norm.eps).sqrt()
        row = row * norm.weight[i] + norm.bias[i]
        for k in range(4):
            z = sum(kernel.weight[4 * i + k, 0, j, 0] * row[j] for j in range(n)) + kernel.bias[4 * i + k]
            numbers.append(z if z > 0 else slope * z)
    return sigmoid(linear(expand, torch.stack(numbers)))


formula(SecondOrder, channels=6, hidden=4)(channel)
formula(SecondOrder, channels=6, hidden=4, leaky=True, sub_sample=2)(partial(channel, slope=0.1, stride=2))
formula(SecondOrder, channels=6, hidden=3, mode="spatial", grid=(2, 3))(partial(spatial, (2, 3)))
formula(SecondOrder, channels=6, hidden=3, mode="spatial", grid=(2, 3), code_covariance=True)(
    partial(spatial, (2, 3), code=True)
)
formula(SecondOrder, channels=4, hidden=3, mode="sum", grid=(4, 2), inputs=[(4, 3, 7)])(partial(fused, total, (4, 2)))
formula(SecondOrder, channels=4, hidden=3, mode="max", grid=(2, 2))(partial(fused, larger, (2, 2)))
formula(SecondOrder, channels=4, hidden=3, mode="concat", grid=(2, 2))(partial(fused, concatenated, (2, 2)))


def test_a_covariance_needs_no_map_of_all_positions_and_equals_the_one_with_it():
    torch.manual_seed(0)
    module, seen = SecondOrder(4, hidden=3).double().eval(), []
    module.channel.rows[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(1, 4, 6, 5, dtype=torch.float64)
    module(x)
    a = module.channel.reduce(x.relu()).flatten(2)[0]  # (3, 30)
    middle = torch.eye(30, dtype=torch.float64) / 30 - 1 / 30**2
    torch.testing.assert_close(seen[0][0, :, :, 0], a @ middle @ a.T)
    torch.testing.assert_close(seen[0][0, :, :, 0], torch.cov(a, correction=0))


def test_the_position_covariance_is_centred_unless_the_code_is_asked_for():
    """A number added to all channels of a cell changes the authors' form alone."""
    for code in (False, True):
        torch.manual_seed(0)
        module = SecondOrder(4, mode="spatial", hidden=3, grid=(2, 2), code_covariance=code).double().eval()
        x = torch.rand(1, 4, 6, 5, dtype=torch.float64)
        before = module(x)
        module.spatial.reduce[1].bias.data += 2.0
        assert torch.allclose(before, module(x)) != code


def test_order_of_positions_means_nothing_to_the_channel_gate():
    module, x = SecondOrder(8, hidden=4).double().eval(), torch.randn(2, 8, 5, 6, dtype=torch.float64)
    shuffled = torch.randperm(30)
    expected = module(x).flatten(2)[:, :, shuffled]
    torch.testing.assert_close(module(x.flatten(2)[:, :, shuffled].unflatten(2, (5, 6))).flatten(2), expected)


def test_maps_of_each_mode():
    x = torch.randn(2, 8, 9, 5)
    for mode, shapes in {
        "channel": [(2, 8, 1, 1)],
        "spatial": [(2, 1, 9, 5)],
        "concat": [(2, 8, 1, 1), (2, 1, 9, 5)],
    }.items():
        seen = []
        module = SecondOrder(8, mode=mode, hidden=4)
        for name, child in module.named_modules():
            if name.endswith("tap"):
                child.listeners.append(lambda record, seen=seen: seen.append(tuple(record.gate().shape)))
        assert module(x).shape == x.shape
        assert seen == shapes


@pytest.mark.parametrize(("channels", "groups", "kernel"), [(64, 1, 15), (192, 3, 11), (256, 4, 11), (2048, 32, 5)])
def test_kernels_of_the_concatenation(channels, groups, kernel):
    with torch.device("meta"):
        conv1 = SecondOrder(channels, mode="concat").concat.conv1
    assert (conv1.groups, conv1.kernel_size, conv1.padding) == (groups, (kernel, 1), (kernel // 2, 0))


def test_starts_as_the_authors_do():
    torch.manual_seed(0)
    module = SecondOrder(256)
    for _ in range(2):
        kernel = module.channel.reduce[0]
        assert kernel.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.05)
        assert kernel.bias.abs().max() == 0
        for parameter in module.parameters():
            parameter.data.fill_(1.0)
        module.init_weights()


def test_half_precision_weights_take_half_precision_maps():
    module = SecondOrder(8, hidden=4).bfloat16().eval()
    assert module(4 * torch.randn(2, 8, 64, 64).bfloat16()).isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"channels": 8, "mode": "both"}, "no mode 'both'"), ({"channels": 131, "mode": "concat"}, "its 2 groups")],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SecondOrder(**arguments)
