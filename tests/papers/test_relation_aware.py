"""RelationAware against its equations."""

import pytest
import torch

from mmattn.attention import RelationAware
from papers import H, W, bilinear, cells, count, formula, linear, mean, normed, picture, pixels, sigmoid

count(RelationAware, {256: 82724, 512: 206260})
count(RelationAware, {256: 41362, 512: 115282}, mode="spatial")
count(RelationAware, {256: 41362, 512: 90978}, mode="channel")

SMALL = {"cha_ratio": 2, "spa_ratio": 2, "down_ratio": 2}


@formula(RelationAware, channels=6, grid=(2, 3), mode="spatial", **SMALL)
def spatial(m, x, grid=(2, 3)):
    small = pool(x, grid)
    a = picture(gates(m.spatial, pixels(small)), small)
    return x * bilinear(a, x.shape[1:])


@formula(RelationAware, channels=6, grid=(2, 3), mode="channel", **SMALL)
def channel(m, x, grid=(2, 3)):
    a = gates(m.channel, [row.flatten() for row in pool(x, grid)])
    return torch.stack([a[c] * x[c] for c in range(len(x))])


@formula(RelationAware, channels=9, grid=(3, 4), cha_ratio=3, spa_ratio=4, down_ratio=2)
def both(m, x):
    return channel(m, spatial(m, x, grid=(3, 4)), grid=(3, 4))


@formula(RelationAware, channels=8, grid=(H, W), **SMALL)
def on_the_grid_it_is_the_module_of_the_authors(m, x):
    x = x * picture(gates(m.spatial, pixels(x)), x)
    return x * torch.stack(gates(m.channel, list(x.flatten(1))))[..., None]


def gates(m, nodes):
    theta, phi = [embed(m.theta, p) for p in nodes], [embed(m.phi, p) for p in nodes]
    a = []
    for i, node in enumerate(nodes):
        out = [sum(theta[i] * q) for q in phi]
        back = [sum(q * phi[i]) for q in theta]
        g = sum(embed(m.g, node)) / len(theta[0])
        y = torch.cat([g[None], embed(m.psi, torch.stack(out + back))])
        last = m.weigh[1]
        a.append(sigmoid(normed(last.bn, linear(last.conv, embed(m.weigh[0], y)))))
    return a


def embed(layer, vector):
    return normed(layer.bn, linear(layer.conv, vector)).clamp(min=0)


def pool(x, grid):
    _, h, w = x.shape
    y = x.new_zeros(len(x), *grid)
    for i, rows in enumerate(cells(h, grid[0])):
        for j, columns in enumerate(cells(w, grid[1])):
            y[:, i, j] = mean([x[:, k, n] for k in rows for n in columns])
    return y


def test_relations_are_shown_as_the_gate_has_used_them():
    module, seen, used = RelationAware(6, grid=(2, 3), **SMALL).double().eval(), [], []
    module.tap_relations.listeners.append(seen.append)
    module.spatial.psi.register_forward_pre_hook(lambda _, inputs: used.append(inputs[0]))
    module(torch.randn(2, 6, 8, 9, dtype=torch.float64))
    for y in range(2):
        for x in range(3):
            out = used[0][:, :6, y, x].view(2, 1, 2, 3)
            torch.testing.assert_close(seen[0].row(y, x), out)
            assert out.std() > 1e-3


def test_the_gates_have_the_size_of_the_map():
    module, seen = RelationAware(8, grid=(4, 4), **SMALL), []
    for tap in (module.tap_spatial, module.tap_channel):
        tap.listeners.append(seen.append)
    module(torch.randn(2, 8, 9, 5))
    assert [tuple(record.gate().shape) for record in seen] == [(2, 1, 9, 5), (2, 8, 1, 1)]


def test_order_of_positions_on_the_grid_means_nothing_to_a_channel_gate_of_even_embeddings():
    """What a channel gate knows of positions is in the weights of its embeddings alone."""
    module = RelationAware(8, grid=(4, 4), mode="channel", **SMALL).double().eval()
    for layer in (module.channel.theta, module.channel.phi, module.channel.g):
        layer.conv.weight.data[:] = layer.conv.weight.data[:, :1]
    x, shuffled = torch.randn(2, 8, 16, dtype=torch.float64), torch.randperm(16)
    expected = module(x.unflatten(2, (4, 4))).flatten(2)[:, :, shuffled]
    torch.testing.assert_close(module(x[:, :, shuffled].unflatten(2, (4, 4))).flatten(2), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 256, "mode": "sc"}, "no mode 'sc'"),
        ({"channels": 48}, "cha_ratio 8, spa_ratio 8 and down_ratio 8 leave nothing of 48 channels"),
        ({"channels": 256, "grid": (7, 7)}, "or 49 positions"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RelationAware(**arguments)


def test_widths_are_rounded_down_to_the_smallest_that_the_ratios_allow():
    module = RelationAware(112, grid=(7, 8))
    assert [m.weigh[0].conv.out_channels for m in (module.spatial, module.channel)] == [1, 1]
    x = torch.randn(2, 56, 5, 6)
    assert RelationAware(56, grid=(7, 8))(x).shape == x.shape


def test_relations_of_many_channels_stay_finite_in_half_precision():
    torch.manual_seed(0)
    x = (4 * torch.randn(1, 512, 1, 1)).half().expand(1, 512, 16, 16)
    with torch.autocast("cpu", dtype=torch.float16):
        for mode in ("spatial", "channel"):
            y = RelationAware(512, mode=mode).eval()(x)
            assert y.isfinite().all()
            assert y.dtype == torch.float16
    assert RelationAware(64).bfloat16().eval()(x[:, :64].bfloat16()).isfinite().all()
