"""Attention in numbers: every number on an attention whose answer is known, then whole models."""

import json
import math
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("mmseg")

import tiny

from mmattn.cli import UserError
from mmattn.engine import analyze
from mmattn.engine.config import build_model, load_config
from mmattn.evaluation import attention
from mmattn.evaluation.attention import Layer

H, W = 6, 8
HERE = [(y, x) for y in range(H) for x in range(W)]
AT = (torch.tensor(HERE) + 0.5) / torch.tensor((H, W))


def itself() -> Tensor:
    """Every position looks at itself alone, (queries, 1, h, w)."""
    return torch.eye(H * W).view(H * W, 1, H, W)


def uniform() -> Tensor:
    return torch.full((H * W, 1, H, W), 1 / (H * W))


def test_entropy() -> None:
    assert attention.entropy(itself()).abs().max() == 0
    torch.testing.assert_close(attention.entropy(uniform()), torch.ones(H * W, 1))
    half = torch.zeros(1, 1, 4, 4)
    half[0, 0, 1] = 0.25  # 4 of 16 positions: ln 4 / ln 16
    assert attention.entropy(half).item() == pytest.approx(0.5)
    assert attention.entropy(torch.ones(1, 1, 1, 1)).item() == 0


def test_shares_of_what_is_no_softmax() -> None:
    torch.testing.assert_close(attention.shares(torch.tensor([[[-1.0, 3.0]]])), torch.tensor([[[0.25, 0.75]]]))
    assert not attention.shares(torch.zeros(1, 2, 2)).any()


def test_distance() -> None:
    assert attention.distance(itself(), AT, (1.0, 1.0), 2.0).abs().max() == 0
    corner = torch.zeros(1, 1, 5, 5)
    corner[0, 0, 4, 4] = 1
    top_left = torch.tensor([[0.1, 0.1]])  # the centre of cell (0, 0); 0.8 of both sides away
    assert attention.distance(corner, top_left, (1.0, 1.0), 3.0).item() == pytest.approx(0.8)
    below = torch.zeros(1, 1, 5, 5)
    below[0, 0, 4, 0] = 1  # 0.8 of a height, which is 3 where the diagonal is 5
    assert attention.distance(below, top_left, (1.0, 1.0), 4 / 3).item() == pytest.approx(0.8 * 3 / 5)
    assert attention.distance(below, top_left, (2.0, 1.0), 4 / 3).item() == pytest.approx(1.6 * 3 / 5)


def test_own_class() -> None:
    """Left quarter class 0, right half class 1, between them no label; one query in each class."""
    classes = torch.zeros(2, H, W)
    classes[0, :, :2], classes[1, :, 4:] = 1, 1
    rows = torch.cat([itself()[:1], uniform()[:1]])
    share, chance = attention.own_class(rows, classes, torch.tensor([0, 1]))
    torch.testing.assert_close(share[:, 0], torch.tensor([1.0, 2 / 3]))
    torch.testing.assert_close(chance, torch.tensor([1 / 3, 2 / 3]))


def test_query_dependence() -> None:
    assert attention.query_dependence(uniform()).item() == pytest.approx(0, abs=1e-6)
    assert attention.query_dependence(itself()).item() == pytest.approx(1)
    halves = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0]])[:, None, None]  # (2, 1, 1, 3), half in common
    assert attention.query_dependence(halves).item() == pytest.approx(0.5)
    assert attention.query_dependence(halves[:1]).item() == 0


def test_correlation() -> None:
    torch.manual_seed(0)
    x, y = torch.rand(2, H, W)
    assert attention.correlation(x, 3 * x + 1) == pytest.approx(1)
    assert attention.correlation(x, -x) == pytest.approx(-1)
    assert attention.correlation(x, y) == pytest.approx(np.corrcoef(x.ravel(), y.ravel())[0, 1], abs=1e-5)
    assert attention.correlation(x, torch.ones(3, 3)) is None


def test_class_shares_of_cells() -> None:
    label = torch.tensor([[0, 0, 1, 255], [0, 1, 1, 1]], dtype=torch.uint8)
    found = attention.class_shares(label, 2, (1, 2), (1.0, 1.0))
    torch.testing.assert_close(found[:, 0], torch.tensor([[0.75, 0.0], [0.25, 0.75]]))
    padded = attention.class_shares(label, 2, (1, 2), (1.0, 2.0))  # the right half covers no image
    torch.testing.assert_close(padded[:, 0], torch.tensor([[3 / 8, 0.0], [4 / 8, 0.0]]))


def test_gates() -> None:
    layer = Layer("a.tap", "SqueezeExcite", "channel")
    for open_ in (0.5, 1.0):
        layer.note_gate(torch.tensor([0.0, open_, 0.005, 0.4])[:, None, None])
    means = layer.means()
    assert means["gate"] == pytest.approx((0.905 + 1.405) / 8)
    assert means["saturated"] == pytest.approx((2 / 4 + 3 / 4) / 2)
    assert means["dead"] == pytest.approx(2 / 4)
    assert means["spread"] == pytest.approx(np.mean([np.std([0, o, 0.005, 0.4]) for o in (0.5, 1.0)]), abs=1e-6)


def test_cells_are_different_and_all_when_there_are_few() -> None:
    generator = torch.Generator().manual_seed(0)
    assert sorted(map(tuple, attention.pick((H, W), 1000, generator).tolist())) == HERE
    assert len(attention.pick((H, W), 20, generator).unique(dim=0)) == 20


# whole models


@pytest.fixture
def city(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny.cityscapes(tmp_path / "data/cityscapes")
    return tmp_path


def small(folder: Path, config: str) -> torch.nn.Module:
    """A model of configs/ with a small backbone, random, its attention switched on."""
    torch.manual_seed(0)
    path = tiny.REPOSITORY / f"configs/{config}.py"
    model = build_model(load_config(path, {}, tiny.bases(folder, config)))
    for name, parameter in model.named_parameters():
        if "gamma" in name or "conv_seg.weight" in name or parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter)
    return model


HEADS = (
    "anlnet_r50",
    "ccnet_r50",
    "danet_r50",
    "gcnet_r50",
    "nonlocal_r50",
    "ocrnet_r50",
    "polarized_r50",
    "psanet_r50",
)


@pytest.mark.parametrize("config", HEADS)
def test_every_head_is_measured_and_switched_off(city: Path, config: str) -> None:
    model = small(city, config)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = model(x)
        report = analyze.analyze(model, queries=8)
        after = model(x)
    for was, now in zip(before, after, strict=True) if isinstance(before, tuple) else [(before, after)]:
        torch.testing.assert_close(was, now, rtol=0, atol=0)  # everything is as it was
    assert report.images == 2
    assert report.without
    assert all(0 <= miou <= 100 for miou in (report.miou, *report.without.values()))
    assert json.loads(json.dumps(analyze.record(report)))["layers"].keys() == report.layers.keys()
    for name, layer in report.layers.items():
        assert name in analyze.table(report)
        assert layer.images == 2
        for measure in ("entropy", "distance", "own_class", "dependence"):
            if measure in layer.values:
                assert 0 <= layer.means()[measure] <= 1 + 1e-5, (name, measure)


def test_a_criss_cross_is_measured_by_hand(city: Path) -> None:
    """Queries and keys of zero: every position looks at its column and row alike."""
    model = small(city, "ccnet_r50")
    torch.nn.init.zeros_(model.decode_head.cca.query_conv.weight)
    torch.nn.init.zeros_(model.decode_head.cca.query_conv.bias)
    report = analyze.analyze(model, queries=64, ablate=False)
    first = report.layers["decode_head.cca.tap, step 1"].means()  # a map of 8 x 8
    assert first["entropy"] == pytest.approx(math.log(15) / math.log(64), abs=1e-5)
    cross = [abs(a - b) / 8 for a in range(8) for b in range(8)]
    assert first["distance"] == pytest.approx(2 * 8 * sum(cross) / 64 / 15 / math.sqrt(2), abs=1e-5)
    both = report.layers["decode_head.cca.tap, together"].means()
    assert both["entropy"] > first["entropy"]
    assert both["dependence"] < first["dependence"]
    assert report.without == {}


@pytest.mark.parametrize("config", ["ccnet_r50", "psanet_r50", "ocrnet_r50"])
def test_what_is_switched_off_does_not_act(city: Path, config: str) -> None:
    model = small(city, config)
    place = {"ccnet_r50": "decode_head.cca", "psanet_r50": "decode_head"}.get(
        config, "decode_head.1.object_context_block"
    )
    module = model.get_submodule(place)
    features = model.backbone(torch.rand(1, 3, 64, 64))
    before = model.decode_head[0](features) if config == "ocrnet_r50" else None
    head = lambda: model.decode_head[1](features, before) if config == "ocrnet_r50" else model.decode_head(features)  # noqa: E731
    with torch.no_grad():
        plain = head()
        for parameter in module.parameters() if config != "psanet_r50" else module.attention.parameters():
            parameter += 1
        changed = head()
        with suppress(RuntimeError), analyze.switched_off(module):
            off = head()
            if config == "psanet_r50":
                assert not module.point_wise(torch.rand(1, 64, 8, 8)).any()
            for parameter in module.parameters() if config != "psanet_r50" else module.attention.parameters():
                parameter += 1
            torch.testing.assert_close(head(), off, rtol=0, atol=0)
            raise RuntimeError
        assert not torch.allclose(plain, changed)
        assert not torch.allclose(head(), off)


def test_the_tool_writes_numbers_and_a_figure(
    city: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small(city, "gcnet_r50")
    torch.save({"state_dict": model.state_dict()}, city / "iter_1.pth")
    config = tiny.REPOSITORY / "configs/gcnet_r50.py"
    arguments = [config, city / "iter_1.pth", "--base", *tiny.bases(city), "--limit", 1, "--out", city / "out"]
    assert tiny.call("analyze_attention", arguments, monkeypatch) == 0
    said = capsys.readouterr().out
    assert "decode_head.gc_block.tap" in said
    assert "mIoU" in said
    assert "1/1" in said
    found = json.loads((city / "out/attention.json").read_text())
    assert found["images"] == 1
    assert min(cv2.imread(str(city / "out/attention.png")).shape[:2]) > 100


def test_a_model_without_attention_has_nothing_to_analyze(city: Path) -> None:
    with pytest.raises(UserError, match="no attention to show; add"):
        analyze.analyze(small(city, "fcn_r50"))


@pytest.mark.parametrize("wrong", [["--limit", "0"], ["--queries", "x"]])
def test_wrong_numbers_are_refused(wrong: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert tiny.call("analyze_attention", ["config.py", "a.pth", *wrong], monkeypatch) == 2
