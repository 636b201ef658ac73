"""PointWise against its equations."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from mmattn.attention import PointWise
from mmattn.attention.point_wise import PointWiseLayers
from mmattn.capture import capture
from mmattn.layers import ConvNormAct
from papers import H, W, bilinear, cna, count, each, formula, linear, mix, picture, pixels, softmax

count(PointWise, {256: 39872, 512: 73152}, mask_size=(5, 7), hidden=64, psa_type="collect")
count(PointWise, {256: 79232, 1: 86}, mask_size=(5, 7), psa_type="bi-direction")

EVERY = {  # the choices of the authors, in the names of mmseg's head
    "psa_type": "bi-direction",
    "compact": False,
    "shrink_factor": 2,
    "normalization_factor": 1.0,
    "psa_softmax": True,
    "as_authors": True,
    "align_corners": True,
}


def masks(m: nn.Module, x: Tensor, suffix: str, choice: dict) -> tuple[list[Tensor], list[list[Tensor]], Tensor]:
    """Shrunk features of one direction, and for each of its positions its mask over all of them before the softmax."""
    mh, mw = choice["mask_size"]
    reduce, attention = getattr(m, f"reduce{suffix}"), getattr(m, f"attention{suffix}")
    small = each(partial(cna, reduce), x)
    size, aligned = shrunk(x.shape[1:], choice)
    small = bilinear(small, size, aligned=aligned) if choice["shrink_factor"] > 1 else small
    predicted = [linear(attention[1], cna(attention[0], f)) for f in pixels(small)]
    if choice["compact"]:
        return pixels(small), [list(p) for p in predicted], small

    def logit(owner: int, other: int) -> Tensor:
        i = other // size[1] - owner // size[1] + (mh - 1) // 2
        j = other % size[1] - owner % size[1] + (mw - 1) // 2
        return predicted[owner][i * mw + j] if 0 <= i < mh and 0 <= j < mw else x.new_zeros(())

    everywhere = range(size[0] * size[1])
    return pixels(small), [[logit(owner, other) for other in everywhere] for owner in everywhere], small


def shrunk(size: tuple[int, int], choice: dict) -> tuple[tuple[int, int], bool]:
    (h, w), s = size, choice["shrink_factor"]
    if s == 1:
        return (h, w), choice["as_authors"] or choice["align_corners"]
    if choice["as_authors"] or (h % s and w % s):
        return (-(-h // s), -(-w // s)), True
    return (max(h // s, 1), max(w // s, 1)), False


def point_wise(choice: dict, m: nn.Module, x: Tensor, rows: list[Tensor] | None = None) -> Tensor:
    """The equations. What each receiver takes from each source is appended to ``rows``, direction by direction."""
    choice = EVERY | choice
    both = choice["psa_type"] == "bi-direction"
    contexts = []
    for direction in ("collect", "distribute") if both else (choice["psa_type"],):
        features, mask, small = masks(m, x, "_p" if both and direction == "distribute" else "", choice)
        at_receiver = direction == "collect"
        if choice["compact"] and not both and not choice["as_authors"]:
            at_receiver = not at_receiver  # mmseg's way round
        everywhere, context = range(len(features)), []
        for receiver in everywhere:
            logits = [mask[receiver][source] if at_receiver else mask[source][receiver] for source in everywhere]
            weights = softmax(logits) if choice["psa_softmax"] else logits
            if rows is not None:
                rows.append(torch.stack(weights))
            mh, mw = choice["mask_size"]
            factor = mh * mw if choice["normalization_factor"] is None else choice["normalization_factor"]
            context.append(mix(weights, features) / factor)
        contexts.append(context)
    z = picture([torch.cat(pair) for pair in zip(*contexts, strict=True)], small)
    z = z if choice["as_authors"] else torch.nn.functional.pad(z, (1, 1, 1, 1))
    z = each(partial(cna, m.proj), z)
    return bilinear(z, x.shape[1:], aligned=shrunk(x.shape[1:], choice)[1])


def check(**arguments) -> None:
    formula(PointWise, channels=6, **arguments)(partial(point_wise, arguments))


check(hidden=4, mask_size=(3, 5), shrink_factor=1)
check(hidden=4, mask_size=(9, 7), shrink_factor=1)
check(hidden=4, mask_size=(3, 5))
check(mask_size=(4, 2), shrink_factor=1, psa_type="collect")
check(mask_size=(3, 3), shrink_factor=1, psa_type="distribute")


class Bare(PointWiseLayers, nn.Module):
    """The layers as the head has them, with every choice of mmseg's."""

    def __init__(self, **choice) -> None:
        super().__init__()
        self.build_point_wise(6, 4, layer=ConvNormAct, **(EVERY | choice))

    def forward(self, x: Tensor) -> Tensor:
        return self.point_wise(x)


@pytest.mark.parametrize("size", [(H, W), (5, 3), (1, 4), (2, 1)])
@pytest.mark.parametrize(
    "choice",
    [
        {"as_authors": False},
        {"as_authors": False, "psa_type": "collect"},
        {"as_authors": False, "shrink_factor": 1, "align_corners": False},
        {"as_authors": False, "shrink_factor": 1},
        {"psa_softmax": False, "normalization_factor": None},
        {"psa_softmax": False, "normalization_factor": 3.0},
        {"compact": True},
        {"compact": True, "as_authors": False},
        {"compact": True, "psa_softmax": False},
        {"compact": True, "psa_type": "collect"},
        {"compact": True, "psa_type": "distribute"},
        {"compact": True, "psa_type": "collect", "as_authors": False},
        {"compact": True, "psa_type": "distribute", "as_authors": False},
    ],
    ids=lambda choice: "-".join(f"{key}={value}" for key, value in choice.items()),
)
def test_choices_of_the_head(choice, size):
    torch.manual_seed(0)
    small, _ = shrunk(size, EVERY | choice)
    choice = choice | {"mask_size": small if choice.get("compact") else (3, 5)}
    module = Bare(**choice).double().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    x, rows = torch.randn(1, 6, *size, dtype=torch.float64), []
    with torch.no_grad(), capture(module) as maps:
        torch.testing.assert_close(module(x)[0], point_wise(choice, module, x[0], rows))
    shown = [m.record.row(y, x)[0].flatten() for m in maps for y in range(small[0]) for x in range(small[1])]
    torch.testing.assert_close(torch.stack(shown), torch.stack(rows))


@pytest.mark.parametrize("factor", [2, 3])
def test_an_exported_program_shrinks_alike(factor, monkeypatch):
    module = Bare(as_authors=False, shrink_factor=factor, mask_size=(3, 5))
    maps = [torch.zeros(1, 6, h, w) for h in range(factor, 9) for w in range(factor, 9)]
    before = [module._shrunk(x) for x in maps]
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert [module._shrunk(x) for x in maps] == before


def test_refuses_an_unknown_direction():
    with pytest.raises(ValueError, match="no psa_type 'both'"):
        PointWise(8, mask_size=(3, 3), psa_type="both")


def test_refuses_compact_masks_for_another_map():
    with pytest.raises(ValueError, match=r"compact masks .*: 4 x 5 are not 3 x 4"):
        Bare(compact=True, mask_size=(4, 5))(torch.zeros(1, 6, 6, 8))
