"""The explorer's numbers: what the page is given stands for the rows of the records."""

import base64
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from test_visualize import captured, make_model, tool, write_config, write_image
from torch import Tensor, nn

from mmattn.attention import SqueezeExcite
from mmattn.capture import capture
from mmattn.cli import UserError
from mmattn.evaluation.palettes import Palette
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
from mmattn.visualization import Scene
from mmattn.visualization.explorer import develop, gather, render
from mmattn.visualization.explorer.codes import Blob, encode
from mmattn.visualization.explorer.factors import AIM, TOLERANCE, offsets, shrink, split
from mmattn.visualization.explorer.features import TOP, featured
from mmattn.visualization.explorer.layers import layers, packed

SIZE = (7, 10)
N = 70


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A config and a checkpoint as training leaves them."""
    folder = tmp_path_factory.mktemp("work_dir")
    model = make_model(folder / "cc.py")
    torch.save({"state_dict": model.state_dict()}, folder / "iter_1.pth")
    return write_config(folder / "cc.py"), folder / "iter_1.pth"


def records() -> dict[str, list[Record]]:
    """Records of every type; of criss-cross attention both hops."""
    rand, (h, w) = torch.randn, SIZE
    soft = rand(1, 3, 6 * 8).softmax(2).view(1, 3, 6, 8)
    return {
        "pairwise": [Pairwise(rand(1, 1, N, 16), rand(1, 1, 12, 16), 0.5, SIZE, (3, 4))],
        "heads": [Pairwise(rand(1, 2, N, 5), rand(1, 2, N, 5), 1.0, SIZE, SIZE)],
        "dot product": [Pairwise(rand(1, 1, N, 4), rand(1, 1, N, 4), 1 / N, SIZE, SIZE, softmax=False)],
        "pyramid": [Pyramid(rand(1, 1, N, 6), rand(1, 1, 10, 6), 1.0, SIZE, (5, 8), scales=(1, 3))],
        "additive": [Additive(rand(1, N), rand(1, N), SIZE, SIZE)],
        "criss-cross": [CrissCross(rand(1, 6, h, w), rand(1, 6, h, w)) for _ in range(2)],
        "regions": [Regions(rand(1, 9, h, w), rand(1, 9, 3), 0.7, soft)],
        "collect": [PointWise(rand(1, 8, h, w), rand(1, 45, 8), (5, 9), "collect")],
        "distribute": [PointWise(rand(1, 8, h, w), rand(1, 13 * 19, 8), (13, 19), "distribute")],
        "whole masks": [PointWise(rand(1, 8, h, w), rand(1, N, 8), None, "distribute", softmax=False)],
    }


def scene(maps: dict[str, list[Record]], reach: tuple[float, float] = (1.0, 1.0)) -> Scene:
    """An image of noise, of two classes, with these maps."""
    rng = np.random.default_rng(0)
    prediction = (np.arange(50)[:, None] > np.arange(70)[None] % 40).astype(np.int64)
    return Scene(
        image=rng.integers(0, 255, (50, 70, 3), dtype=np.uint8),
        prediction=prediction,
        label=np.where(prediction == 1, 255, 0).astype(np.uint8),
        palette=Palette("", ("road", "<script>alert(1)</script>"), ((128, 64, 128), (0, 0, 142))),
        maps=[captured(record, step, name) for name, steps in maps.items() for step, record in enumerate(steps)],
        reach=reach,
    )


def numbers(place: dict, data: bytes) -> np.ndarray:
    """(n, columns), as the page reads them."""
    total = place["n"] * len(place["low"])
    codes = sum(
        np.frombuffer(data, np.uint8, total, place["at"] + plane * total).astype(np.int64) << 8 * plane
        for plane in range(place["planes"])
    )
    return ((codes.reshape(-1, place["n"]) + np.array(place["low"])[:, None]) * np.array(place["step"])[:, None]).T


def test_codes_come_back_within_half_a_step() -> None:
    values = torch.randn(40, 3) * torch.tensor([1.0, 300.0, 0.0]) + torch.tensor([0.0, -7e4, 5.0])
    blob, steps = Blob(), torch.tensor([0.01, 0.5, 0.25])
    first, second = blob.put(encode(values, steps)), blob.put(encode(values[:5], 1.0))
    data = zlib.decompress(base64.b64decode(blob.text()), -15)
    assert len(data) == blob.length
    assert (np.abs(numbers(first, data) - values.numpy()) <= steps.numpy() / 2 + 1e-6).all()
    assert (np.abs(numbers(second, data) - values[:5].numpy()) <= 0.5 + 1e-6).all()
    assert first["planes"] == 2


def test_rotated_factors_have_the_same_product() -> None:
    q, k = torch.randn(30, 8), torch.randn(20, 3) @ torch.randn(3, 8)
    a, b = split(q, k, shift=False)
    torch.testing.assert_close(a @ b.T, (q @ k.T).double(), atol=1e-5, rtol=1e-5)
    assert float(b[:, 3:].abs().max()) < 1e-3  # of rank 3
    a, b = split(q, k + 5, shift=True)
    torch.testing.assert_close((a @ b.T).softmax(1), (q @ k.T).double().softmax(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in records() if name != "additive"])
def test_every_row_is_within_a_hundredth_of_its_maximum(name: str) -> None:
    steps = records()[name]
    shrunk = shrink(steps)
    for record, rounded in zip(steps, shrunk.records, strict=True):
        exact, found = (
            torch.stack([r.row(y, x) for y in range(SIZE[0]) for x in range(SIZE[1])]) for r in (record, rounded)
        )
        worst = (found - exact).abs().amax((-1, -2)) / exact.abs().amax((-1, -2))
        assert float(worst.max()) < TOLERANCE
    assert shrunk.error <= AIM


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_logits_of_every_size(scale: float) -> None:
    q, k = torch.randn(2, 1, 1, 400, 64) * scale**0.5
    record = Pairwise(q, k, 1.0, (20, 20), (20, 20))
    rounded = shrink([record]).records[0]
    for y, x in [(3, 7), (19, 0), (11, 11)]:
        exact = record.row(y, x)
        assert float((rounded.row(y, x) - exact).abs().max() / exact.max()) < TOLERANCE


def test_columns_that_do_not_matter_are_left_out() -> None:
    q = torch.randn(1, 1, 100, 3) @ torch.randn(3, 40)
    shrunk = shrink([Pairwise(q, torch.randn(1, 1, 100, 40), 0.05, (10, 10), (10, 10))])
    assert shrunk.width[0] == 40
    assert shrunk.width[1] == 3


def test_the_numbers_of_half_a_megapixel_stay_small() -> None:
    """Dense attention of noise at 64 x 128 positions, which nothing makes smaller."""
    q, k = torch.randn(2, 1, 1, 64 * 128, 64) * 0.6
    blob = Blob()
    packed(record := Pairwise(q, k, 1.0, (64, 128), (64, 128)), [record], blob)
    assert len(blob.text()) < 4e6


def test_masks_keep_the_offsets_that_can_be_seen() -> None:
    record = PointWise(torch.randn(1, 2, 3, 4), torch.randn(1, 13 * 5, 2), (13, 5), "collect")
    rows, columns = np.unravel_index(offsets(record).numpy(), (13, 5))
    assert sorted(set(rows)) == [4, 5, 6, 7, 8]
    assert sorted(set(columns)) == [0, 1, 2, 3, 4]


def test_every_record_has_a_page() -> None:
    kinds = [cls for cls in (Record, Pairwise) for cls in cls.__subclasses__()]
    fallback = packed.dispatch(Record)
    assert [cls for cls in kinds if packed.dispatch(cls) is fallback] == []


def test_layers_say_what_they_are() -> None:
    gate = torch.rand(1, 50, 3, 4)
    maps = records() | {
        "gate": [Gate("spatial", gate)],
        "c": [Gate("channel", torch.rand(1, 9, 1, 1))] * 2,
        "m": [ChannelPairwise(torch.randn(1, 5, 5) * 9, SIZE)],
    }
    blob = Blob()
    shown = {(e["place"], e["title"]): e for e in layers(scene(maps).maps, {}, (), blob)}
    assert len(shown) == len(records()) + 4
    assert {title for place, title in shown if place == "c"} == {"Mechanism, step 1 of 2", "Mechanism, step 2 of 2"}
    data = zlib.decompress(base64.b64decode(blob.text()), -15)
    wide = shown["gate", "Mechanism"]
    assert len(wide["channels"]) == 32
    assert "32 of 50 channels" in wide["reduced"]
    assert np.abs(numbers(wide["planes"], data).T - gate[0, wide["channels"]].flatten(1).numpy()).max() < 1 / 255
    assert np.abs(numbers(wide["mean"], data)[:, 0] - gate[0].mean(0).flatten().numpy()).max() < 1e-4
    matrix = numbers(shown["m", "Mechanism"]["logits"], data).T
    expected = maps["m"][0].channels()[0]
    torch.testing.assert_close(torch.from_numpy(matrix).softmax(1).float(), expected, atol=2e-3, rtol=0)


def test_channel_gates_come_with_the_maps_they_let_through() -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 1), SqueezeExcite(32, reduction=4)).eval()
    x = torch.randn(1, 3, 5, 6)
    with featured(model) as found, capture(model) as maps, torch.no_grad():
        model(x)
    (kept,) = found.values()
    gate: Tensor = maps[0].record.gate().flatten()
    assert [f.channel for f in kept] == gate.argsort(descending=True)[:TOP].tolist()
    assert (maps[0].name, 0) in found
    features = model[0](x).detach()
    torch.testing.assert_close(kept[3].plane, features[0, kept[3].channel])
    assert sum(len(m._forward_pre_hooks) for m in model.modules()) == 0
    assert not model[1].tap.listeners


def test_the_page_holds_itself_together() -> None:
    shot = develop(scene({"</script><b>": records()["heads"]}), "<i>photo.png")
    text = render([{"a </script> model": shot}], points=[(10, 20)])
    scripts = re.findall(r'<script type="application/json" id="told">(.*?)</script>', text, re.DOTALL)
    told = json.loads(scripts[0])
    assert told["models"] == ["a </script> model"]
    assert told["shots"][0][0]["layers"][0]["place"] == "</script><b>"
    assert told["points"] == [[10.5 / 70, 20.5 / 50]]
    assert "<i>photo" not in text
    assert "alert(1)</script>" not in text
    assert len(re.findall("</script>", text)) == len(re.findall("<script", text)) == 4
    assert not re.findall(r"""(?:src|href)=["']?(?!data:)[^"'>]*//""", text)
    assert "@@" not in text


def test_what_is_not_finite_is_named() -> None:
    broken = Pairwise(torch.full((1, 1, N, 2), float("nan")), torch.randn(1, 1, N, 2), 1.0, SIZE, SIZE)
    with pytest.raises(UserError, match=r"attention at head.tap is not finite"):
        develop(scene({"head.tap": [broken]}), "photo.png")


def test_the_tool_writes_one_page(
    trained: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = [write_image(tmp_path / name, (20, 30, 3)) for name in ("a.png", "b.png")]
    page = tmp_path / "new" / "page.html"
    tool()(
        [*map(str, [*trained, *images]), "--html", str(page), "--device", "cpu", "--point", "3,4", "--layer", "head"]
    )
    told = json.loads(re.search(r'id="told">(.*?)</script>', page.read_text())[1])
    assert [image["name"] for image in told["images"]] == ["a.png", "b.png"]
    assert told["models"] == ["cc"]
    assert [len(e["hops"]) for e in told["shots"][1][0]["layers"]] == [2]
    out = capsys.readouterr().out
    assert "[1/2]" in out
    assert "s left" in out
    assert str(page) in out


def test_wrong_pages_and_points(trained: tuple[Path, Path], tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.png", (20, 30, 3))
    (tmp_path / "file").touch()
    for html, more, message in [
        ("file/page.html", [], "cannot write .*page.html.*--html"),
        (".", [], "cannot write .*--html"),
        ("page.html", ["--point", "30,5"], "30,5 is outside .*a.png"),
    ]:
        with pytest.raises(UserError, match=message):
            tool()([*map(str, [*trained, image]), "--html", str(tmp_path / html), "--device", "cpu", *more])
    assert not (tmp_path / "page.html").exists()


def test_a_model_without_attention_has_no_page(tmp_path: Path) -> None:
    model = make_model(tmp_path / "fcn.py", head='"FCNHead"')
    with pytest.raises(UserError, match="no attention to show; add"):
        gather({"fcn": model}, [write_image(tmp_path / "a.png", (20, 30, 3))], tmp_path / "page.html")


@pytest.mark.parametrize("shape", [(1, 1, 3), (33, 57, 3), (200, 4000, 3), (20, 30), (20, 30, 4)])
def test_any_size_and_colour(tmp_path: Path, shape: tuple[int, ...]) -> None:
    model = make_model(tmp_path / "polarized.py", head='"PolarizedHead"')
    image = write_image(tmp_path / "image.png", shape)
    gather({"polarized": model}, [image], tmp_path / "page.html")
    told = json.loads(re.search(r'id="told">(.*?)</script>', (tmp_path / "page.html").read_text())[1])
    assert told["images"][0]["size"] == list(shape[:2])
    assert max(told["shots"][0][0]["shown"]) <= 2048
    assert [e["kind"] for e in told["shots"][0][0]["layers"]] == ["channel", "gate"]
    assert told["shots"][0][0]["layers"][0]["features"]
