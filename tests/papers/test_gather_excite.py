"""GatherExcite against its equations."""

from functools import partial

import pytest
import torch
from torch import nn

from mmattn.attention import GatherExcite
from papers import cells, conv, count, formula, linear, mean, normed, pixels, sigmoid

count(GatherExcite, {256: 0, 512: 0}, variant="theta_minus")
count(GatherExcite, {256: 0, 512: 0}, variant="theta_minus", extent=8)
count(GatherExcite, {256: 2816, 512: 5632}, variant="theta", extent=2)
count(GatherExcite, {256: 5632, 512: 11264}, variant="theta", extent=4)
count(GatherExcite, {256: 8448, 512: 16896}, variant="theta", extent=8)
count(GatherExcite, {256: 803328}, variant="theta", size=56)
count(GatherExcite, {512: 402432}, variant="theta", size=28)
count(GatherExcite, {256: 811792}, size=56)
count(GatherExcite, {512: 435744}, size=28)
count(GatherExcite, {256: 16912, 512: 50208}, extent=8)
count(GatherExcite, {8: 433})  # one hidden channel stays
count(GatherExcite, {8: 552}, reduction=1)


def excite(m, x, gathered, relu=True):
    """The gate of (c, h', w'), back at the size of ``x``, times ``x``."""
    _, h, w = x.shape
    y = torch.zeros_like(x)
    for i in range(h):
        for j in range(w):
            z = gathered[:, i * gathered.shape[1] // h, j * gathered.shape[2] // w]
            if len(list(m.excite.parameters())):
                z = z.clamp(min=0) if relu else z
                z = linear(m.excite[3], linear(m.excite[1], z).clamp(min=0))
            y[:, i, j] = sigmoid(z) * x[:, i, j]
    return y


@formula(GatherExcite, channels=4, variant="theta_minus")
def the_mean(m, x):
    return excite(m, x, mean(pixels(x))[:, None, None])


@formula(GatherExcite, inputs=[(3, 5, 7)], channels=3, variant="theta_minus", extent=2)
@formula(GatherExcite, inputs=[(3, 6, 9)], channels=3, variant="theta_minus", extent=4)
@formula(GatherExcite, inputs=[(3, 17, 9)], channels=3, variant="theta_minus", extent=8)
def means_of_windows(m, x):
    e, (_, h, w) = m.extent, x.shape
    gathered = x.new_zeros(len(x), -(h // -e), -(w // -e))
    for i in range(gathered.shape[1]):
        for j in range(gathered.shape[2]):
            rows = range(max(i * e - e + 1, 0), min(i * e + e, h))
            columns = range(max(j * e - e + 1, 0), min(j * e + e, w))
            gathered[:, i, j] = mean([x[:, r, s] for r in rows for s in columns])
    return excite(m, x, gathered)


@formula(GatherExcite, inputs=[(3, 5, 7)], channels=3, variant="theta", extent=2)
@formula(GatherExcite, inputs=[(3, 6, 9)], channels=3, variant="theta", extent=4)
@formula(GatherExcite, inputs=[(4, 9, 4)], channels=4, extent=8, reduction=2)
def strides(m, x, relu=True):
    gathered = x
    for step in range(0, len(m.gather), 3):
        gathered = gathered.clamp(min=0) if step else gathered
        gathered = conv(m.gather[step], gathered)
        vectors = [normed(m.gather[step + 1], p) for p in pixels(gathered)]
        gathered = torch.stack(vectors, 1).view_as(gathered)
    return excite(m, x, gathered, relu)


formula(GatherExcite, inputs=[(4, 5, 4)], channels=4, extent=4, reduction=2, relu=False)(partial(strides, relu=False))


@formula(GatherExcite, channels=4, variant="theta", size=(5, 4))
@formula(GatherExcite, channels=4, size=(5, 4), reduction=2)
@formula(GatherExcite, inputs=[(4, 7, 6)], channels=4, variant="theta", size=(2, 3))
def one_convolution(m, x, relu=True):
    kernel = m.gather[1].weight[:, 0]  # (c, h', w'), as large as the map or the grid
    (_, h, w), (_, rows, columns) = x.shape, kernel.shape
    gathered = x.new_zeros(len(x))
    for i, ys in enumerate(cells(h, rows)):
        for j, xs in enumerate(cells(w, columns)):
            gathered += kernel[:, i, j] * mean([x[:, r, s] for r in ys for s in xs])
    return excite(m, x, normed(m.gather[2], gathered)[:, None, None], relu)


formula(GatherExcite, channels=4, size=(5, 4), reduction=2, relu=False)(partial(one_convolution, relu=False))


@pytest.mark.parametrize("variant", ["theta_minus", "theta"])
@pytest.mark.parametrize(("extent", "size"), [(2, (9, 10)), (4, (5, 5)), (8, (3, 3))])
def test_gathered_sizes_are_rounded_up(variant, extent, size):
    gathered = GatherExcite(4, variant=variant, extent=extent).gather(torch.randn(2, 4, 17, 20))
    assert gathered.shape[2:] == size


def test_cells_beyond_the_border_do_not_count():
    gathered = GatherExcite(4, variant="theta_minus", extent=4).gather(torch.ones(1, 4, 6, 7))
    torch.testing.assert_close(gathered, torch.ones_like(gathered))


@pytest.mark.parametrize("variant", ["theta_minus", "theta", "theta_plus"])
@pytest.mark.parametrize("size", [(1, 1), (3, 10), (8, 1), (17, 20)])
def test_an_extent_goes_with_any_map(variant, size):
    m, x = GatherExcite(8, variant=variant, extent=8).eval(), torch.randn(1, 8, *size)
    seen = []
    m.tap.listeners.append(seen.append)
    out = m(x)
    torch.testing.assert_close(out, x * seen[0].gate())
    assert seen[0].kind == "spatial"
    assert seen[0].gate().shape == x.shape


@pytest.mark.parametrize("variant", ["theta_minus", "theta"])
def test_an_extent_compiles_and_exports_at_any_larger_size(variant):
    m, x, other = GatherExcite(8, variant=variant, extent=4).eval(), torch.randn(1, 8, 9, 10), torch.randn(1, 8, 5, 31)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(m, fullgraph=True, backend="eager")(x), m(x))
    sizes = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.export.export(m, (x,), dynamic_shapes=[sizes])
    torch.testing.assert_close(program.module()(other), m(other))
    with torch.autocast("cpu", dtype=torch.float16):
        assert m(4 * torch.randn(1, 8, 64, 64).relu()).isfinite().all()


def test_the_authors_start_comes_back():
    m = GatherExcite(64, reduction=2)
    for _ in range(2):
        assert abs(m.gather[1].weight.std() - (2 / 49) ** 0.5) < 0.02  # Kaiming for the 7 x 7 numbers of one channel
        assert abs(m.excite[1].weight.std() - 0.01) < 0.001
        assert abs(m.excite[3].weight.std() - 0.01) < 0.001
        assert not m.excite[3].bias.any()
        for parameter in m.parameters():
            nn.init.constant_(parameter, 5.0)
        m.init_weights()


def test_one_image_in_training_is_refused_in_words():
    one = torch.randn(1, 8, 8, 8)
    for extent in (None, 8):
        m = GatherExcite(8, extent=extent, size=3)
        with pytest.raises(ValueError, match="GatherExcite normalises over the batch"):
            m(one)
        assert m(torch.cat([one, one])).isfinite().all()
        assert m.eval()(one).isfinite().all()
        assert GatherExcite(8, extent=extent, size=3, norm=lambda c: nn.GroupNorm(2, c))(one).isfinite().all()
    assert GatherExcite(8, extent=4)(one).isfinite().all()  # four values are gathered
    assert GatherExcite(8, variant="theta_minus")(one).isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "theta+"}, r"no variant 'theta\+': theta_minus, theta or theta_plus"),
        ({"extent": 3}, "no extent 3: 2, 4, 8 or None"),
        ({"reduction": 0}, "reduction 0: must be at least 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        GatherExcite(8, **arguments)
