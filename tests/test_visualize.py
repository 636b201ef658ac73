"""Pictures: the numbers in them are the records', and every wrong input has its message."""

import importlib.util
import itertools
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.visualization import Visualizer
from mmseg.apis import inference_model
from PIL import ExifTags, Image, ImageOps

from mmattn.capture import Captured
from mmattn.cli import UserError
from mmattn.engine.config import build_model, load_config
from mmattn.evaluation.palettes import CITYSCAPES, Palette
from mmattn.layers.records import (
    Additive,
    ChannelPairwise,
    CrissCross,
    Gate,
    Pairwise,
    PointWise,
    Pyramid,
    Record,
    Regions,
)
from mmattn.registry import HOOKS
from mmattn.visualization import (
    Bars,
    Matrix,
    Options,
    Overlay,
    Query,
    Scene,
    album,
    draw,
    figure,
    find_images,
    find_label,
    look,
    spread_points,
)
from mmattn.visualization.images import read_image, told_apart
from mmattn.visualization.options import PLAIN
from mmattn.visualization.views import SHARE, View, describe, side_by_side, views

ROOT = Path(__file__).parents[1]
MODEL = """
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(type="SegDataPreProcessor", mean=[120.0] * 3, std=[60.0] * 3, bgr_to_rgb=True,
                           size=(64, 64), test_cfg=dict(size_divisor=32)),
    backbone=dict(type="ResNetV1c", depth=18, base_channels=8, stem_channels=8, strides=(1, 2, 1, 1),
                  dilations=(1, 1, 2, 4), norm_cfg=dict(type="BN")),
    decode_head=dict(type={head}, in_channels=64, in_index=3, channels=16, num_classes=19, dropout_ratio=0.0,
                     norm_cfg=dict(type="BN"), loss_decode=dict(type="CrossEntropyLoss", avg_non_ignore=True)),
    train_cfg=dict(),
    test_cfg=dict(mode={mode}, crop_size=(32, 32), stride=(20, 20)),
)
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(128, 64), keep_ratio=True),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
test_dataloader = dict(dataset=dict(type="CityscapesDataset", pipeline=test_pipeline))
"""


def write_config(path: Path, head: str = '"CCHead", recurrence=2', mode: str = '"whole"') -> Path:
    path.write_text(MODEL.replace("{head}", head).replace("{mode}", mode))
    return path


def make_model(path: Path, **parts: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = build_model(load_config(write_config(path, **parts)))
    for name, parameter in model.named_parameters():
        if "gamma" in name or "conv_seg.weight" in name:
            torch.nn.init.normal_(parameter)
    return model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    return make_model(tmp_path_factory.mktemp("config") / "cc.py")


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    return make_model(tmp_path_factory.mktemp("config") / "polarized.py", head='"PolarizedHead"')


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, model: torch.nn.Module) -> tuple[Path, Path]:
    """A config and a checkpoint as training leaves them."""
    folder = tmp_path_factory.mktemp("work_dir")
    torch.save({"state_dict": model.state_dict()}, folder / "iter_1.pth")
    return write_config(folder / "cc.py"), folder / "iter_1.pth"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return write_image(tmp_path / "images" / "photo.png", (50, 70, 3))


def write_image(path: Path, shape: tuple[int, ...], dtype: type = np.uint8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    assert cv2.imwrite(str(path), image)
    return path


def captured(record: Record, step: int = 0, name: str = "head.tap") -> Captured:
    return Captured(name, "Mechanism", record.kind, record, step)


def query(y: int, x: int, size: tuple[int, int]) -> Query:
    """A query in the middle of a cell."""
    return Query((y + 0.5) / size[0], (x + 0.5) / size[1], "road")


# the numbers


def test_a_pairwise_panel_is_the_row_in_uniform_shares() -> None:
    size, key_size = (4, 6), (2, 3)
    record = Pairwise(torch.randn(2, 3, 24, 5), torch.randn(2, 3, 6, 5), 0.4, size, key_size)
    queries = [query(1, 4, size), query(3, 0, size)]
    (view,) = views([captured(record)], queries)
    assert (view.title, view.place, view.unit) == ("Mechanism", "head.tap", SHARE)
    assert "mean of 3 heads" in view.note
    for panel, (y, x) in zip(view.panels, [(1, 4), (3, 0)], strict=True):
        torch.testing.assert_close(torch.from_numpy(panel.values), record.row(y, x)[0].mean(0) * 6)
        assert panel.values.mean() == pytest.approx(1)
    assert [panel.point for panel in view.panels] == [0, 1]


@pytest.mark.parametrize(
    "record",
    [
        Pyramid(torch.randn(1, 1, 24, 5), torch.randn(1, 1, 10, 5), 1.0, (4, 6), (4, 6), scales=(1, 3)),
        PointWise(torch.randn(1, 4, 4, 6), torch.randn(1, 15, 4), (3, 5), "collect"),
        PointWise(torch.randn(1, 4, 4, 6), torch.randn(1, 15, 4), (3, 5), "distribute"),
        Regions(torch.randn(1, 5, 4, 6), torch.randn(1, 5, 2), 1.0, torch.rand(1, 2, 48).softmax(2).view(1, 2, 6, 8)),
    ],
    ids=["pyramid", "collect", "distribute", "regions"],
)
def test_softmax_panels_have_mean_one(record: Record) -> None:
    view = views([captured(record)], [query(2, 5, (4, 6))])[0]
    expected = record.row(2, 5)[0, 0]
    torch.testing.assert_close(torch.from_numpy(view.panels[0].values), expected * expected.numel())
    assert view.panels[0].values.mean() == pytest.approx(1)


@pytest.mark.parametrize(
    "record",
    [
        Pairwise(torch.randn(1, 1, 24, 5), torch.randn(1, 1, 24, 5), 0.4, (4, 6), (4, 6), softmax=False),
        Additive(torch.randn(1, 24), torch.randn(1, 24), (4, 6), (4, 6)),
        PointWise(torch.randn(1, 4, 4, 6), torch.randn(1, 15, 4), (3, 5), "collect", softmax=False),
    ],
    ids=["dot product", "additive", "point-wise"],
)
def test_without_a_softmax_the_weights_are_shown_as_they_are(record: Record) -> None:
    (view,) = views([captured(record)], [query(2, 5, (4, 6))])
    assert view.unit == "weight"
    torch.testing.assert_close(torch.from_numpy(view.panels[0].values), record.row(2, 5)[0, 0])


def test_criss_cross_shows_each_hop_and_both_together() -> None:
    h, w = 3, 4
    records = [CrissCross(*torch.randn(2, 1, 2, h, w)) for _ in range(2)]
    shown = views([captured(r, step) for step, r in enumerate(records)], [query(1, 2, (h, w))])
    assert [view.title for view in shown] == [
        "Mechanism, hop 1 of 2",
        "Mechanism, hop 2 of 2",
        "Mechanism, both hops together",
    ]
    first, second, both = (torch.from_numpy(view.panels[0].values) for view in shown)
    torch.testing.assert_close(first, records[0].row(1, 2)[0, 0] * (h + w - 1))
    torch.testing.assert_close(second, records[1].row(1, 2)[0, 0] * (h + w - 1))
    product = sum(
        records[1].row(1, 2)[0, 0, y, x] * records[0].row(y, x)[0, 0] for y, x in itertools.product(range(h), range(w))
    )
    torch.testing.assert_close(both, product * h * w)


def test_taps_in_different_places_stay_apart() -> None:
    record = CrissCross(*torch.randn(2, 1, 2, 3, 4))
    maps = [captured(record, name="a"), captured(record, name="b")]
    assert [(v.place, v.title) for v in views(maps, [])] == [("a", "Mechanism"), ("b", "Mechanism")]


def test_regions_are_named_after_the_classes() -> None:
    q, k = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 3)
    q[0, :, 0, 0], q[0, :, 0, 1] = torch.tensor([9.0, 0.0]), torch.tensor([0.0, 9.0])
    k[0, :, 1], k[0, :, 2] = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    soft = torch.rand(1, 3, 8).softmax(2).view(1, 3, 2, 4)
    rows, gathered, attended = views(
        [captured(Regions(q, k, 1.0, soft))], [Query(0.5, 0.25, "sky"), Query(0.5, 0.75, "road")], ("a", "b", "c")
    )
    assert [p.caption.split(",")[0] for p in rows.panels] == ["sky → b 100%", "road → c 100%"]
    names = [panel.caption for panel in gathered.panels]
    assert sorted(names) == ["a", "b", "c"]
    for name, of, by in zip(names, gathered.panels, attended.panels, strict=True):
        torch.testing.assert_close(torch.from_numpy(of.values), soft[0, "abc".index(name)] * 8)
        assert by.caption.startswith(name)
    torch.testing.assert_close(
        attended.panels[names.index("b")].values, np.array([[1.0, 0.0]], np.float32), atol=1e-3, rtol=0
    )


def test_gates() -> None:
    channel, spatial = torch.rand(2, 6, 1, 1), torch.rand(2, 1, 3, 4)
    maps = [Gate("channel", channel), Gate("spatial", spatial), Gate("spatial", spatial / spatial.sum((2, 3), True))]
    bars, gate, share = views([captured(r, name=str(i)) for i, r in enumerate(maps)], [])
    assert isinstance(bars.panels[0], Bars)
    assert np.array_equal(bars.panels[0].values, channel[0].flatten())
    assert gate.unit == "gate"
    assert isinstance(gate.panels[0], Overlay)
    assert np.array_equal(gate.panels[0].values, spatial[0, 0])
    assert share.unit == SHARE
    assert share.panels[0].values.mean() == pytest.approx(1)


def test_gates_of_several_planes_show_all_of_them() -> None:
    parts, wide, mask = torch.rand(2, 3, 4, 5), torch.rand(2, 12, 4, 5), torch.ones(2, 1, 4, 5)
    maps = [Gate("spatial", parts), Gate("spatial", wide), Gate("mask", mask)]
    few, many, hard = views([captured(r, name=str(i)) for i, r in enumerate(maps)], [])
    assert [panel.caption for panel in few.panels[:-1]] == ["part 1", "part 2", "part 3"]
    assert all(np.array_equal(panel.values, parts[0, i]) for i, panel in enumerate(few.panels[:-1]))
    np.testing.assert_allclose(many.panels[0].values, wide[0].mean(0), rtol=1e-6)
    assert many.panels[0].caption == "mean of 12 channels"
    assert many.panels[-1].counted == "values"
    assert hard.note == "which positions pass"


def test_channel_attention_is_sorted_by_what_is_taken_from() -> None:
    logits = torch.randn(1, 5, 5)
    (view,) = views([captured(ChannelPairwise(logits, (2, 2)))], [])
    matrix, bars = view.panels
    assert isinstance(matrix, Matrix)
    attn = logits[0].softmax(1).numpy() * 5
    order = np.argsort(-attn.mean(0))
    np.testing.assert_allclose(matrix.values, attn[np.ix_(order, order)], rtol=1e-5)
    np.testing.assert_allclose(bars.values, attn.mean(0), rtol=1e-5)


def test_every_record_has_a_view() -> None:
    kinds = [cls for cls in (Record, Pairwise) for cls in cls.__subclasses__()]
    assert len(kinds) >= 8
    fallback = describe.dispatch(Record)
    assert [cls for cls in kinds if describe.dispatch(cls) is fallback] == []


def test_a_query_is_in_the_cell_that_covers_its_pixel() -> None:
    """Image 50 x 70, twice enlarged, padded to 128 x 160, a stride of 8: pixel by pixel."""
    scene = Scene(
        np.zeros((50, 70, 3), np.uint8),
        np.zeros((50, 70), np.int64),
        None,
        Palette("", ("road",), ((0, 0, 0),)),
        [],
        (128 / 100, 160 / 140),
    )
    points = list(itertools.product(range(70), range(50)))
    for (x, y), found in zip(points, scene.queries(points), strict=True):
        assert found.cell((16, 20)) == ((2 * y + 1) // 8, (2 * x + 1) // 8)
        assert found.caption == "road"


def test_colours_end_where_the_bar_says() -> None:
    values = np.linspace(0, 100, 1001)[None]
    peaked = figure._scale([values], SHARE, PLAIN)
    assert peaked.get_clim() == (0, pytest.approx(99.5, abs=0.1))
    assert peaked.norm.inverse(0.5) == pytest.approx(peaked.get_clim()[1] / 4)
    assert figure._scale([values / 11], SHARE, PLAIN).norm(figure.PEAKED / 4) == pytest.approx(2.5 / 9.05, abs=0.01)
    assert figure._scale([values / 100], SHARE, PLAIN).get_clim() == (0, figure.LEAST)
    assert figure._scale([values / 100 + 0.2], "gate", PLAIN).get_clim() == (
        pytest.approx(0.2),
        pytest.approx(1.195, abs=0.01),
    )
    low, high = figure._scale([values - 80], "weight", PLAIN).get_clim()
    assert -low == high > 0
    half = figure._scale([values], "weight", Options(clip=50))
    assert half.get_clim() == (0, pytest.approx(50, abs=0.1))
    decades = figure._scale([values], "weight", Options(log=True))
    assert decades.norm.inverse(0.5) == pytest.approx(99.5 / 10 ** (figure.DECADES / 2), rel=0.01)
    assert decades.norm(0.0) == 0, "what is 0 has the colour of the least"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0, 0.5, 1), ["0", "0.5", "1"]),
        ((0.49998, 0.5, 0.50002), ["0.49998", "0.5", "0.50002"]),
        ((0, 12345.6, 24691.2), ["0", "12,346", "24,691"]),
        ((3, 3, 3), ["3", "3", "3"]),
        ((0, 0, 0), ["0", "0", "0"]),
    ],
)
def test_numbers_can_be_told_apart(values: tuple[float, ...], expected: list[str]) -> None:
    assert figure._numbers(*values) == expected


# the points


def test_points_lie_in_the_largest_classes() -> None:
    prediction = np.full((60, 100), 7)
    prediction[:20] = 3
    prediction[40:, 60:] = 5
    prediction[50, 10] = 1
    points = spread_points(prediction)
    assert [prediction[y, x] for x, y in points] == [7, 3, 5]
    assert points == spread_points(prediction.copy())
    assert points[1] == (49, 9)  # the middle of the upper band
    assert len(spread_points(prediction, 4)) == 4


@pytest.mark.parametrize("size", [(60, 100), (2000, 1500), (4, 900), (900, 4), (1, 3)])
def test_one_class_gets_points_apart_from_each_other(size: tuple[int, int]) -> None:
    points = spread_points(np.zeros(size, int))
    assert len(set(points)) == 3
    assert all(0 <= x < size[1] and 0 <= y < size[0] for x, y in points)
    closest = min(np.hypot(a[0] - b[0], a[1] - b[1]) for a, b in itertools.combinations(points, 2))
    assert closest >= max(1, max(size) / 4)


def test_one_pixel_has_one_point() -> None:
    assert spread_points(np.zeros((1, 1), int)) == [(0, 0)]


# the model


def test_the_prediction_is_mmsegs(model: torch.nn.Module, photo: Path) -> None:
    image = cv2.imread(str(photo))
    scene = look(model, image[..., ::-1])
    expected = inference_model(model, str(photo)).pred_sem_seg.data[0].numpy()
    assert np.array_equal(scene.prediction, expected)
    assert len(np.unique(expected)) > 1
    # 50 x 70 becomes 64 x 90, padded to 64 x 96
    assert scene.reach == (1.0, 96 / 90)
    assert [(m.name, m.mechanism, m.step) for m in scene.maps] == [
        ("decode_head.cca.tap", "CrissCross", 0),
        ("decode_head.cca.tap", "CrissCross", 1),
    ]


def test_a_sliding_model_is_looked_at_as_a_whole(tmp_path: Path, photo: Path) -> None:
    model = make_model(tmp_path / "slide.py", mode='"slide"')
    scene = look(model, cv2.imread(str(photo))[..., ::-1])
    assert len(scene.maps) == 2
    assert model.test_cfg.mode == "slide"


@pytest.mark.parametrize("shape", [(1, 1, 3), (33, 57, 3), (200, 4000, 3), (300, 7, 3), (20, 30), (20, 30, 4)])
def test_any_size_and_colour(
    model: torch.nn.Module, gated: torch.nn.Module, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    path = write_image(tmp_path / "image.png", shape)
    for one in (model, gated):
        page = draw(one, path)
        assert all(side > 0 for ax in page.axes for side in (ax.get_position().width, ax.get_position().height))
        page.savefig(tmp_path / "out.png", dpi=30)
        assert min(cv2.imread(str(tmp_path / "out.png")).shape[:2]) > 100


def test_sixteen_bits(model: torch.nn.Module, tmp_path: Path) -> None:
    draw(model, write_image(tmp_path / "deep.png", (20, 30, 3), np.uint16)).savefig(tmp_path / "out.png", dpi=30)


def texts(page) -> list[str]:
    return [text.get_text() for text in page.texts]


def test_a_figure_says_what_is_where(model: torch.nn.Module, photo: Path) -> None:
    page = draw(model, photo, points=[(10, 20), (69, 49)], note="a note")
    said = texts(page)
    assert {"photo.png", "a note", "input, 70 x 50", "prediction", "CrissCross, hop 1 of 2"} <= set(said)
    assert "CrissCross, both hops together" in said
    assert any("decode_head.cca.tap" in text for text in said)
    assert [text for text in said if text in "123"] == ["1", "2"] * 3
    assert "ground truth" not in said


def test_the_truth_is_shown_where_it_lies_beside(model: torch.nn.Module, tmp_path: Path) -> None:
    image = write_image(tmp_path / "leftImg8bit/val/city/a_leftImg8bit.png", (20, 30, 3))
    assert find_label(image) is None
    label = tmp_path / "gtFine/val/city/a_gtFine_labelTrainIds.png"
    label.parent.mkdir(parents=True)
    cv2.imwrite(str(label), np.full((20, 30), 17, np.uint8))
    assert find_label(image) == label
    said = texts(draw(model, image))
    assert {"ground truth", CITYSCAPES.classes[17]} <= set(said)

    cv2.imwrite(str(label), np.full((20, 30), 19, np.uint8))
    with pytest.raises(UserError, match=r"a_gtFine_labelTrainIds.png has the value 19"):
        draw(model, image)
    cv2.imwrite(str(label), np.zeros((20, 31), np.uint8))
    with pytest.raises(UserError, match="is 31 x 20 pixels, its image 30 x 20"):
        draw(model, image)
    model.dataset_meta, kept = {"classes": tuple("abcdefghijklmnopqrs")}, model.dataset_meta
    assert "ground truth" not in texts(draw(model, image))  # it is of other classes
    model.dataset_meta = kept


def test_the_truth_of_the_configs_own_data_is_shown(model: torch.nn.Module, tmp_path: Path) -> None:
    image = write_image(tmp_path / "img_dir/test/a.jpg", (20, 30, 3))
    label = tmp_path / "ann_dir/test/a.png"
    label.parent.mkdir(parents=True)
    cv2.imwrite(str(label), np.zeros((20, 30), np.uint8))
    assert find_label(image) == label
    assert "ground truth" not in texts(draw(model, image))  # data of somebody else
    model.cfg.test_dataloader.dataset.data_root = str(tmp_path)
    assert "ground truth" in texts(draw(model, image))
    model.cfg.test_dataloader.dataset.type = "ADE20KDataset"  # label 0 is no class there
    assert "ground truth" not in texts(draw(model, image))
    model.cfg.test_dataloader.dataset.type = "CityscapesDataset"
    del model.cfg.test_dataloader.dataset["data_root"]


def test_a_model_without_attention_has_nothing_to_show(tmp_path: Path, photo: Path) -> None:
    with pytest.raises(UserError, match="no attention to show; add"):
        draw(make_model(tmp_path / "fcn.py", head='"FCNHead"'), photo)


def test_points_are_marked_only_where_a_map_asks_for_them(gated: torch.nn.Module, photo: Path) -> None:
    page = draw(gated, photo)
    assert "Polarized" in texts(page)
    assert not any(text.get_text() == "1" for ax in page.axes for text in ax.texts)


def test_only_what_is_asked_for_is_shown(model: torch.nn.Module, photo: Path) -> None:
    scene = look(model, cv2.imread(str(photo))[..., ::-1])
    assert Options(layer="cca").choose(scene.maps) == Options(mechanism="crisscross").choose(scene.maps) == scene.maps
    for options, message in (
        (Options(layer="neck"), "no attention at neck; there is decode_head.cca.tap"),
        (Options(mechanism="CBAM"), "no attention by CBAM; there is CrissCross"),
        (Options(head=1), "no head 1; heads are counted from 0: 1 in decode_head.cca.tap"),
    ):
        with pytest.raises(UserError, match=message):
            draw(model, photo, options=options)


def test_one_head_is_its_own_row() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 3, 6, 4)  # three heads
    both = [Captured("a.tap", "MultiHead", "pairwise", Pairwise(q, k, 0.5, (2, 3), (2, 3)), 0)]
    both.append(replace(both[0], name="b.tap", record=Pairwise(q[:, :1], k[:, :1], 0.5, (2, 3), (2, 3))))
    (chosen,) = Options(head=2).choose(both)
    assert (chosen.name, chosen.mechanism) == ("a.tap", "MultiHead, head 2")
    (view,) = views([chosen], [Query(0.3, 0.5)])
    np.testing.assert_allclose(view.panels[0].values, both[0].record.row(0, 1)[0, 2] * 6, rtol=1e-5)
    with pytest.raises(UserError, match=r"no head 3; .* 3 in a.tap, 1 in b.tap"):
        Options(head=3).choose(both)


def test_models_side_by_side() -> None:
    def view(title: str, place: str, unit: str = SHARE) -> View:
        panels = [Overlay(np.full((2, 2), float(i)), "", i) for i in range(2)]
        return View(title, "", place, unit, panels)

    gate = View("Gate", "", "c.tap", "gate", [Overlay(np.zeros((2, 2)), "")])
    of_models = {"one": [view("hop 1", "a.tap"), view("both", "a.tap"), gate], "two": [view("mask", "b.tap")]}
    first, second, rest = side_by_side(of_models, [Query(0, 0, "road"), Query(0, 0, "sky")])
    assert [panel.caption for panel in first.panels] == ["one: both", "two: mask"]
    assert [panel.point for panel in second.panels] == [1, 1]
    assert "sky" in second.note
    assert rest == replace(gate, title="one: Gate")


def test_a_figure_compares_models(model: torch.nn.Module, gated: torch.nn.Module, photo: Path, tmp_path: Path) -> None:
    page = draw({"ccnet": model, "polarized": gated}, photo, points=[(10, 20)], options=Options(saliency=True))
    said = texts(page)
    assert {"prediction, ccnet", "prediction, polarized", "Point 1", "Bottom-up saliency"} <= set(said)
    assert "ccnet: CrissCross, both hops together" in said
    page.savefig(tmp_path / "out.svg")


def test_models_have_the_shortest_names_that_tell_them_apart() -> None:
    a, b = Path("configs/a.py"), Path("configs/b.py")
    assert album.names_of([(a, "x/1.pth"), (b, "x/1.pth")]) == ["a", "b"]
    assert album.names_of([(a, "x/1.pth"), (a, "x/2.pth")]) == ["1", "2"]
    assert album.names_of([(a, "x/1.pth"), (a, "y/1.pth")]) == ["x/1", "y/1"]
    assert album.names_of([(a, "x/1.pth"), (a, "x/1.pth")]) == ["1: x/1", "2: x/1"]


def test_names_are_not_read_as_formulas(model: torch.nn.Module, tmp_path: Path) -> None:
    path = write_image(tmp_path / r"a$\frac$b.png", (20, 30, 3))
    draw(model, path).savefig(tmp_path / "out.png", dpi=30)


def test_broken_weights_are_named(tmp_path: Path, photo: Path) -> None:
    model = make_model(tmp_path / "cc.py")
    torch.nn.init.constant_(model.decode_head.cca.query_conv.weight, float("nan"))
    with pytest.raises(UserError, match=r"attention at decode_head.cca.tap is not finite"):
        draw(model, photo)


# the hook


@pytest.fixture
def training(tmp_path: Path, model: torch.nn.Module) -> SimpleNamespace:
    """As much of a runner as the hook looks at."""
    paths = [write_image(tmp_path / f"{name}.png", (20, 30, 3)) for name in "ab"]
    dataset = SimpleNamespace(metainfo={"classes": CITYSCAPES.classes, "palette": CITYSCAPES.colours})
    listed = type("Listed", (list,), vars(dataset) | {"get_data_info": lambda self, i: {"img_path": str(self[i])}})
    visualizer = Visualizer(vis_backends=[{"type": "LocalVisBackend"}], save_dir=str(tmp_path / "run"))
    return SimpleNamespace(
        model=model.train(),
        cfg=model.cfg,
        val_dataloader=SimpleNamespace(dataset=listed(paths)),
        visualizer=visualizer,
        iter=0,
        logger=logging.getLogger("hook"),
    )


def test_the_hook_draws_at_the_start_and_after_validations(training: SimpleNamespace, tmp_path: Path) -> None:
    hook = HOOKS.build({"type": "mmattn.DrawAttention", "images": [1], "interval": 2, "points": [[3, 4]], "dpi": 40})
    for step in range(5):
        training.iter = step
        hook.after_val_epoch(training) if step else hook.before_train(training)
    assert training.model.training, "as it was"
    written = sorted((tmp_path / "run").rglob("*.png"))
    assert [path.name for path in written] == [f"attention_b_{step}.png" for step in (0, 2, 4)]
    assert cv2.imread(str(written[0])).shape[1] == 12 * 40


def test_the_hook_says_at_the_start_what_is_wrong_and_later_goes_on(
    training: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match="no image 2, val_dataloader has 2 from 0 on"):
        HOOKS.build({"type": "mmattn.DrawAttention", "images": [2]}).before_train(training)
    hook = HOOKS.build({"type": "mmattn.DrawAttention", "layer": "neck"})
    with pytest.raises(UserError, match="no attention at neck"):
        hook.before_train(training)
    hook.after_val_epoch(training)
    assert "no figure of the attention: no attention at neck" in caplog.text
    assert training.model.training


# the tool


def tool():
    spec = importlib.util.spec_from_file_location("visualize", ROOT / "tools" / "visualize.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_the_tool_draws_folders_and_files_once(
    trained: tuple[Path, Path], photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_image(photo.parent / "more" / "photo.jpg", (20, 20, 3))
    (photo.parent / "notes.txt").write_text("not an image")
    tool()([*map(str, trained), str(photo), str(photo.parent), "--device", "cpu", "--point", "3,4"])
    folder = trained[1].parent / "visualize"
    written = [folder / "photo_png_attention.png", folder / "more" / "photo_jpg_attention.png"]
    assert sorted(folder.rglob("*.*")) == sorted(written)
    out = capsys.readouterr().out
    assert [f"[{i + 1}/2] {path}" in out for i, path in enumerate(written)] == [True, True]
    assert "left)" in out
    assert album.targets([photo, other], folder) == written


def test_the_config_beside_the_checkpoint_is_used(trained: tuple[Path, Path], tmp_path: Path) -> None:
    config, checkpoint = trained
    given = write_config(tmp_path / "cc.py")
    assert album.config_of(given, str(checkpoint)) == config
    assert album.config_of(config, str(checkpoint)) == config
    assert album.config_of(given, "https://example.org/cc.pth") == given
    assert album.config_of(write_config(tmp_path / "other.py"), str(checkpoint)) == tmp_path / "other.py"
    assert album.folder_of(given, "https://example.org/cc.pth") == Path("work_dirs/cc/visualize")


def test_images_are_found_once_and_in_order(tmp_path: Path) -> None:
    b, a, c = (write_image(tmp_path / name, (2, 2)) for name in ("b.png", "a.JPG", "deep/c.png"))
    (tmp_path / "a.txt").touch()
    assert find_images([str(tmp_path)]) == [a, b, c]
    assert find_images([str(c), str(tmp_path / "*.png"), str(tmp_path)]) == [c, b, a]
    assert find_images([str(tmp_path / "**/*.png")]) == [b, c]


@pytest.mark.parametrize("kind", ["grey", "two", "rgba", "deep", "palette", "cmyk", "turned"])
def test_pictures_of_every_kind_are_read_as_pillow_reads_them(tmp_path: Path, kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 9, 3), dtype=np.uint8)
    picture, path, options = Image.fromarray(pixels), tmp_path / "picture.png", {}
    if kind == "deep":
        picture = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
        expected = np.repeat(pixels[..., :1], 3, axis=2)
    else:
        picture = {
            "grey": lambda: picture.convert("L"),
            "two": lambda: picture.convert("1"),
            "rgba": lambda: picture.convert("RGBA"),
            "palette": lambda: picture.quantize(8),
            "cmyk": lambda: picture.convert("CMYK"),
            "turned": lambda: picture,
        }[kind]()
        if kind in ("cmyk", "turned"):
            path = path.with_suffix(".jpg")
        if kind == "turned":
            options["exif"] = Image.Exif()
            options["exif"][ExifTags.Base.Orientation] = 6
    picture.save(path, **options)
    if kind != "deep":
        expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    found = read_image(path)
    assert found.shape == ((9, 6, 3) if kind == "turned" else (6, 9, 3))
    assert np.abs(found.astype(int) - expected).max() <= (1 if kind == "cmyk" else 0)


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    names = told_apart([tmp_path / "a" / "x.png", tmp_path / "b c" / "x.png", tmp_path / "b c" / "y.png"])
    assert names == ["a/x.png", "b c/x.png", "y.png"]


WRONG = {  # arguments after config and checkpoint, and what the message has to say
    "text": (["{}/text.png"], "text.png is not an image"),
    "cut": (["{}/cut.png"], "cut.png is not an image"),
    "nothing": (["{}/nothing.png"], "nothing.png is empty"),
    "missing": (["{}/missing.png"], "no image at .*missing.png"),
    "pattern": (["{}/*.jpg"], r"no image at .*\*.jpg"),
    "empty": (["{}/empty"], "empty has no image"),
    "right": (["{}/photo.png", "--point", "30,5"], "30,5 is outside .*photo.png: x goes from 0 to 29, y from 0 to 19"),
    "negative": (["{}/photo.png", "--point=-1,5"], "point -1,5 is outside"),
    "file": (["{}/photo.png", "--out-dir", "{}/file"], "cannot make the folder .*file.*--out-dir"),
    "below a file": (["{}/photo.png", "--out-dir", "{}/file/x"], "cannot make the folder .*--out-dir"),
    "device": (["{}/photo.png", "--device", "cuda:77"], "--device cuda:77"),
    "no device": (["{}/photo.png", "--device", "toaster"], "--device toaster"),
}


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    image = write_image(tmp_path / "photo.png", (20, 30, 3))
    (tmp_path / "text.png").write_text("this is text")
    (tmp_path / "cut.png").write_bytes(image.read_bytes()[:300])
    (tmp_path / "nothing.png").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    return tmp_path


@pytest.mark.parametrize("case", WRONG)
def test_wrong_inputs(trained: tuple[Path, Path], bad: Path, case: str) -> None:
    arguments, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        tool()([*map(str, trained), "--device", "cpu", *(argument.format(bad) for argument in arguments)])


def test_another_architecture_is_refused(trained: tuple[Path, Path], tmp_path: Path, photo: Path) -> None:
    config = write_config(tmp_path / "da.py", head='"DAHead", pam_channels=4')
    with pytest.raises(UserError, match="does not fit"):
        tool()([str(config), str(trained[1]), str(photo)])


def test_the_exit_code_is_two_and_what_was_written_stays(trained: tuple[Path, Path], tmp_path: Path) -> None:
    good = write_image(tmp_path / "a.png", (20, 30, 3))
    bad = tmp_path / "b.png"
    bad.write_text("this is text")
    command = [sys.executable, str(ROOT / "tools/visualize.py"), *map(str, [*trained, good, bad])]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--out-dir", str(tmp_path / "out")], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1
    assert str(bad) in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a_attention.png"]


@pytest.mark.parametrize("text", ["12", "a,b", "1,2,3", "1.5,2"])
def test_a_point_is_two_whole_numbers(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        tool()(["config.py", "checkpoint.pth", "image.png", "--point", text])
    assert stop.value.code == 2
    assert f"'{text}' is no point" in capsys.readouterr().err
