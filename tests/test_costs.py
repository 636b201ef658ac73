"""What is counted: MACs of every mechanism and head against formulas worked out by hand, fused kernels too."""

from math import ceil, prod

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from mmattn.attention import entries
from mmattn.engine import config, costs, guide
from mmattn.engine.benchmark import parts, peers
from mmattn.engine.benchmark.pairs import Setting

C = 64
S = 110  # cells of ANN's pyramid, 1 + 9 + 36 + 64


def masks(d, c, h, w, mh, mw):
    """Of PSANet: predicting the cells of the masks that can lie on the map, in strips, and one sum over all pairs."""
    rows, columns = max(1, min(128 // w, h // 8)), 32  # receivers and predicted columns at a time
    reach = [range(max(0, mh // 2 + top - h + 1), min(mh, mh // 2 + top + rows)) for top in range(0, h, rows)]
    strips = [range(left, min(left + columns, w)) for left in range(0, w, columns)]
    cells = sum(len(strip) * (min(mw, mw // 2 + w - strip[0]) - max(0, mw // 2 - strip[-1])) for strip in strips)
    return rows * sum(map(len, reach)) * cells * d + (h * w) ** 2 * c


def regions(c, n, k):
    """Of OCR: gathering, queries and keys in two layers each, values seen through out, attention, joining."""
    projected = (n + k) * (c * (c // 2) + (c // 2) ** 2) + k * 2 * c * (c // 2)
    return k * n * c + projected + k * n * (c // 2 + c) + 2 * c * c * n


def pyramid(c, n):
    """Of ANN: keys, both pooled by rows, values seen through out and half of W, attention, the other half of W."""
    keys, rows = n * c * (c // 2), n * (1 + 3 + 6 + 8) * (c + c // 2)
    return keys + rows + S * (c * (c // 2) * 2 + c * c) + n * S * (c // 2 + c) + n * c * c


# one image of c channels, h x w with n = h w positions, default arguments; a 1 x 1 convolution of a to b is a b n
FORMULAS = {
    "asymmetric_fusion": lambda c, n, h, w: n * c * (c // 2) + pyramid(c, n),
    "asymmetric_non_local": lambda c, n, h, w: pyramid(c, n),
    "attention_gate": lambda c, n, h, w: (
        ceil(h / 2) * ceil(w / 2) * (4 * c * (c // 2) + c // 2) + n * c * (c // 2) + n * c * c
    ),
    "attention_refinement": lambda c, n, h, w: 9 * c * c * n + c * c,
    "bam": lambda c, n, h, w: 2 * c * (c // 16) + n * (c * (c // 16) + 2 * 9 * (c // 16) ** 2 + c // 16),
    "cbam": lambda c, n, h, w: 2 * 2 * c * (c // 16) + 49 * 2 * n,
    "channel_attention": lambda c, n, h, w: 2 * c * c * n,
    "channel_se": lambda c, n, h, w: 2 * c * (c // 2),
    "criss_cross": lambda c, n, h, w: n * c * (2 * (c // 8) + c) + n * (h + w) * (c // 8 + c),
    "double_attention": lambda c, n, h, w: n * (3 * c * (c // 4) + 2 * (c // 4) ** 2 + c // 4 * c),
    "efficient_channel": lambda c, n, h, w: 3 * c,  # kernel 3 at 64 channels
    "feature_fusion": lambda c, n, h, w: 2 * c * c * n + 2 * c * c,
    "frequency_channel": lambda c, n, h, w: 2 * c * (c // 16),
    "gather_excite": lambda c, n, h, w: 49 * c + 2 * c * (c // 16),
    "global_context": lambda c, n, h, w: 2 * c * n + 2 * c * (c // 16),
    "hard_attention": lambda c, n, h, w: c * n,
    "interaction_aggregation": lambda c, n, h, w: (
        3 * c * c * n  # all pairs of channels, their sums, the convolution of these
        + 2 * 4 * c * n  # four parts: their maps, their sums
        + c * (c // 2) * 5  # features of the parts and of the whole
        + 2 * (c // 2) * 16  # an edge for each pair of parts
        + 16 * (c // 2)
        + 4 * c * (c // 2)
        + c * c
    ),
    "multi_head": lambda c, n, h, w: 4 * c * c * n + 2 * n * n * c,
    "non_local": lambda c, n, h, w: 4 * c * (c // 2) * n + n * n * c,
    "object_context": lambda c, n, h, w: regions(c, n, 5),
    "polarized": lambda c, n, h, w: (
        n * (c + c * (c // 2) + c // 2) + (c // 2) * c + 2 * n * c * (c // 2) + (c // 2) * n
    ),
    "position_attention": lambda c, n, h, w: n * c * (2 * (c // 8) + c) + n * n * (c // 8 + c),
    # on 16 x 16 cells: pairs of cells of c / 8 features, and pairs of channels of 256 / 8; psi and two layers of gate
    "relation_aware": lambda c, n, h, w: sum(
        nodes * (3 * features * hidden + 2 * nodes * cells + (1 + cells) * ((1 + cells) // 8) + (1 + cells) // 8)
        + nodes * nodes * hidden
        for features, hidden, nodes, cells in ((c, c // 8, 256, 32), (256, 32, c, c // 8))
    ),
    "residual_attention": lambda c, n, h, w: (
        2 * ceil(h / 2) * ceil(w / 2) * (2 * c * (c // 4) + 9 * (c // 4) ** 2) + 2 * c * c * n
    ),
    "scse": lambda c, n, h, w: 2 * c * (c // 2) + c * n,
    "second_order": lambda c, n, h, w: c * 128 * n + 128 * 128 * n + 4 * 128 * 128 + 4 * 128 * c,
    "selective_kernel": lambda c, n, h, w: 2 * 9 * c * (c // 32) * n + c * 32 + 32 * 2 * c,
    "spatial_pyramid": lambda c, n, h, w: 21 * c * (c // 16) + c // 16 * c,
    "spatial_se": lambda c, n, h, w: c * n,
    "squeeze_excite": lambda c, n, h, w: 2 * c * (c // 16),
    # both directions: reduce, hidden, and masks of 5 x 7 on the halved map; then proj on a map with a border of one
    "point_wise": lambda c, n, h, w: (
        2 * n * c * (c // 4)
        + 2 * (h // 2 * (w // 2)) * (c // 4) ** 2
        + 2 * masks(c // 4, c // 4, h // 2, w // 2, 5, 7)
        + (h // 2) * (w // 2) * 2 * (c // 4) * c
    ),
}


def counted(call, *inputs):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(*inputs)
    total = counter.get_total_flops()
    assert total % 2 == 0
    return total // 2


def built(entry, size, device):
    arguments, widths = guide.instance(entry, C)
    with torch.device(device):
        return entry.cls(**arguments).eval(), [torch.zeros(1, width, *size) for width in widths]


@pytest.mark.parametrize("size", [(6, 10), (24, 40)], ids=["few positions", "positions in chunks"])
@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_macs_of_every_mechanism(entry, size):
    expected = FORMULAS[entry.name](C, prod(size), *size)
    module, inputs = built(entry, size, "meta")
    assert counted(module, *inputs) == expected
    if prod(size) < 100:  # what runs is what is counted on tensors without numbers
        module, inputs = built(entry, size, "cpu")
        assert counted(module, *inputs) == expected


@pytest.mark.parametrize("size", [(6, 10), (24, 40)], ids=["few positions", "positions in chunks"])
@pytest.mark.parametrize("path", sorted(config.CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_macs_of_every_head(path, size):
    n = prod(size)
    expected = HEADS[path.stem](n, *size)
    pair = parts.head(path, Setting(size, device="meta"))
    for part in pair.ours.modules:
        part.eval()
    assert counted(pair.ours.call, *pair.inputs) == expected
    _, head = costs.model_costs(path, (8 * size[0], 8 * size[1]))
    assert head.flops == 2 * expected
    assert head.parameters == sum(p.numel() for part in pair.ours.modules for p in part.parameters())


def three(a, b):
    """Of a 3 x 3 convolution, for each position."""
    return 9 * a * b


FCN = three(2048, 512) + three(512, 512) + three(2048 + 512, 512) + 512 * 19
# 2048 channels in, 512 between, 19 classes; n = h w positions of stride 8
HEADS = {
    "fcn_r50": lambda n, h, w: n * FCN,
    "ccnet_r50": lambda n, h, w: n * FCN + 2 * FORMULAS["criss_cross"](512, n, h, w),
    "nonlocal_r50": lambda n, h, w: n * FCN + FORMULAS["non_local"](512, n, h, w),
    "gcnet_r50": lambda n, h, w: n * FCN + 2 * 512 * n + 2 * 512 * 128,
    "polarized_r50": lambda n, h, w: n * FCN + FORMULAS["polarized"](512, n, h, w),
    "danet_r50": lambda n, h, w: (
        n * (2 * three(2048, 512) + 2 * three(512, 512) + 3 * 512 * 19)
        + FORMULAS["position_attention"](512, n, h, w)
        + FORMULAS["channel_attention"](512, n, h, w)
    ),
    "anlnet_r50": lambda n, h, w: (
        n * (1024 * 256 + 2048 * 256 + 18 * (1024 + 256) + S * (256 + 2048) + 2048 * 2048)
        + S * (1024 * 256 + 256 * 2048 + 2048 * 2048)
        + n * (three(2048, 512) + 512 * 19)
        + pyramid(512, n)
    ),
    "psanet_r50": lambda n, h, w: (
        2 * (n * 2048 * 512 + n // 4 * 512 * 512 + masks(512, 512, h // 2, w // 2, 97, 97))
        + (h // 2 + 2) * (w // 2 + 2) * 1024 * 2048  # mmseg's border of one
        + n * (three(4096, 512) + 512 * 19)
    ),
    "ocrnet_r50": lambda n, h, w: n * (three(1024, 256) + 256 * 19 + three(2048, 512) + 512 * 19) + regions(512, n, 19),
    "ocrnet_hr18": lambda n, h, w: (
        4 * n * (270 * 270 + 270 * 19 + three(270, 512) + 512 * 19) + regions(512, 4 * n, 19)
    ),
}


def test_fused_attention_is_counted():
    """torch's own kernel for the CPU as well, and with values as narrow as keys or not."""
    q, k = torch.randn(1, 4, 30, 8), torch.randn(1, 4, 50, 8)
    assert counted(F.scaled_dot_product_attention, q, k, k) == 4 * 30 * 50 * (8 + 8)


@pytest.mark.parametrize("name", ["position_attention", "criss_cross", "point_wise", "channel_attention"])
def test_training_counts_the_gradient_and_what_it_computes_again(name):
    """A product's gradient is two products; weights that backward makes again are a third."""
    setting = Setting((24, 40), device="cpu")
    forward = peers.counts(name, "eval", setting, ["ours"])["macs"]
    trained = peers.counts(name, "train", setting, ["ours"])
    assert trained["parameters"] == peers.counts(name, "eval", setting, ["ours"])["parameters"]
    assert 2.4 < trained["macs"] / forward < 4.1
