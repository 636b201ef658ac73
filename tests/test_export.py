"""Exported graphs compute what the model does, at any size, and a graph that does not is never written."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmseg.structures import SegDataSample
from torch import Tensor, nn

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import onnxruntime

from mmattn.attention.point_wise import PointWiseLayers
from mmattn.cli import UserError
from mmattn.engine import export as module
from mmattn.engine.export import OPSET, agreement, export, graphs, operators
from mmattn.ops.resize import resize
from mmattn.registry import MODELS

SIZES = ((32, 48), (27, 38))
OTHER = (41, 30)  # odd at stride 2, and even
CLASSES = ("road", "car", "sky", "tree")
PALETTE = [[128, 64, 128], [0, 0, 142], [70, 130, 180], [107, 142, 35]]
OPEN = torch.export.Dim.AUTO


class TwoConvolutions(nn.Module):
    """A backbone that traces in a second."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        return x, self.last(x)


def build(**changes: object) -> nn.Module:
    norm = {"type": "BN"}
    head = {"type": "CCHead", "in_channels": 12, "in_index": 1, "channels": 8, "num_classes": 4, "norm_cfg": norm}
    given = {"type": "SegDataPreProcessor", "mean": [120.0, 115, 100], "std": [60.0, 55, 50], "bgr_to_rgb": True}
    cfg = {
        "type": "EncoderDecoder",
        "backbone": {"type": TwoConvolutions},
        "decode_head": head,
        "data_preprocessor": given,
        "test_cfg": ConfigDict(mode="whole"),
    }
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmattn"):
        model = MODELS.build(cfg | changes)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    model.decode_head.conv_seg.weight.data.normal_()
    if hasattr(model.decode_head, "cca"):
        nn.init.ones_(model.decode_head.cca.gamma.scale)
    model.cfg = Config({"model": {}})
    model.dataset_meta = {"classes": CLASSES, "palette": PALETTE}
    return model.eval()


def pictures(count: int, size: tuple[int, int] = OTHER) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def predicted(model: nn.Module, images: np.ndarray) -> list[SegDataSample]:
    """One image after the other, as a test predicts it."""
    found = []
    for image in images:
        sample = SegDataSample(metainfo={"img_shape": image.shape[:2], "ori_shape": image.shape[:2]})
        data = {"inputs": [torch.from_numpy(image.transpose(2, 0, 1).copy())], "data_samples": [sample]}
        with torch.no_grad():
            found += model.test_step(data)
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[nn.Module, Path, list[str]]:
    """A model, its labels as a file, and what was said."""
    model, out, said = build(), tmp_path_factory.mktemp("export") / "street.onnx", []
    export(model, out, argmax=True, sizes=SIZES, say=said.append)
    return model, out, said


def test_labels_of_a_file_are_those_of_a_test(written):
    model, out, _ = written
    images = pictures(3)
    (labels,) = onnxruntime.InferenceSession(out).run(None, {"images": images})
    wanted = np.stack([result.pred_sem_seg.data[0].numpy() for result in predicted(model, images)])
    assert labels.dtype == np.uint8
    assert len(np.unique(wanted)) > 1
    np.testing.assert_array_equal(labels, wanted)


def test_a_file_says_what_it_is(written):
    _, out, said = written
    session = onnxruntime.InferenceSession(out)
    about = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    assert about["classes"] == list(CLASSES)
    assert about["palette"] == PALETTE
    assert about["opset"] == OPSET
    assert session.get_inputs()[0].shape == ["batch", "height", "width", 3]
    assert session.get_outputs()[0].shape == ["batch", "height", "width"]
    assert any(
        f"opset {OPSET}, uint8 (batch, height, width, 3) to uint8 labels (batch, height, width)" in s for s in said
    )
    for place in (
        "noise, 1 x 32 x 48",
        "grace_hopper.jpg, 1 x 32 x 48",
        "noise, 2 x 27 x 38",
        "2 x 27 x 38: 0 of 2052",
    ):
        assert any(place in line for line in said), place


def test_logits_of_a_program(tmp_path):
    model, out = build(), tmp_path / "street.pt2"
    export(model, out, sizes=SIZES)
    images = pictures(3)
    rgb = torch.from_numpy(images[..., ::-1].copy()).permute(0, 3, 1, 2).float()
    mean, std = torch.tensor([120.0, 115, 100])[:, None, None], torch.tensor([60.0, 55, 50])[:, None, None]
    logits = torch.export.load(out).module()((rgb - mean) / std)
    wanted = torch.stack([result.seg_logits.data for result in predicted(model, images)])
    torch.testing.assert_close(logits, wanted)


def test_a_binary_model_is_thresholded():
    head = {
        "type": "FCNHead",
        "in_channels": 12,
        "in_index": 1,
        "channels": 8,
        "num_classes": 2,
        "out_channels": 1,
    }
    head["loss_decode"] = {"type": "CrossEntropyLoss", "use_sigmoid": True}
    model, images = build(decode_head=head), pictures(2)
    with torch.no_grad():
        logits = graphs.Logits(model)(torch.randn(2, 3, *OTHER))
    model.decode_head.threshold = logits.sigmoid().median().item()
    found = module.trace(model, SIZES[0], argmax=True).module()(torch.from_numpy(images)).numpy()
    wanted = agreement.expected(model, images)
    assert set(np.unique(found)) == {0, 1}
    assert agreement.compare(lambda _: found, wanted, argmax=True) == (f"0 of {found.size} labels differ", True)


@pytest.mark.parametrize("argmax", [True, False])
def test_a_graph_that_disagrees_is_not_written(tmp_path, monkeypatch, argmax):
    def mistaken(model: nn.Module) -> nn.Module:
        model = graphs.ready(model)
        model.decode_head.conv_seg.bias.data[0] += 0.5
        return model

    monkeypatch.setattr(module, "ready", mistaken)
    out = tmp_path / "street.pt2"
    out.write_bytes(b"before")
    with pytest.raises(UserError, match="not written, the graph disagrees with the model: noise, 1 x 32 x 48"):
        export(build(), out, argmax=argmax, sizes=SIZES)
    assert out.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [out]


def test_differences_that_are_no_rounding():
    model, images = build(), pictures(1)
    wanted = agreement.expected(model, images)
    inputs = wanted.logits.copy()
    inputs[0, 1, 3, 5] += 3e-3 * np.abs(inputs).max()
    assert not agreement.compare(lambda _: inputs, wanted, argmax=False)[1]
    labels = wanted.labels.copy()
    clearest = np.unravel_index(wanted.margin.argmax(), labels.shape)
    closest = np.unravel_index(wanted.margin.argmin(), labels.shape)
    wanted.margin[closest] = 1e-7
    labels[closest] ^= 1
    assert agreement.compare(lambda _: labels, wanted, argmax=True)[1]
    labels[clearest] ^= 1
    assert not agreement.compare(lambda _: labels, wanted, argmax=True)[1]
    assert not agreement.compare(lambda _: labels[:, 1:], wanted, argmax=True)[1]


def in_onnx(layer: nn.Module, *inputs: Tensor, open_axes: tuple[int, ...]) -> onnxruntime.InferenceSession:
    shapes = [dict.fromkeys(open_axes, OPEN)] * len(inputs)
    program = torch.export.export(layer, inputs, dynamic_shapes=shapes)
    made = torch.onnx.export(program, opset_version=OPSET, custom_translation_table=operators.TABLE, verbose=False)
    return onnxruntime.InferenceSession(made.model_proto.SerializeToString())


class Attention(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, scale=0.7)


def test_attention_in_onnx_holds_no_pairs_of_all_positions(monkeypatch):
    monkeypatch.setattr(operators, "CHUNK", 16)
    q, k, v = (torch.randn(2, 2, 20, d) for d in (4, 4, 6))
    session = in_onnx(Attention(), q, k, v, open_axes=(0, 2))
    names = [value.name for value in session.get_inputs()]
    for n, m in ((16, 9), (41, 33), (3, 50)):  # one chunk exactly, a part of a third one, less than one
        q, k, v = torch.randn(3, 2, n, 4), torch.randn(3, 2, m, 4), torch.randn(3, 2, m, 6)
        (found,) = session.run(None, dict(zip(names, (x.numpy() for x in (q, k, v)), strict=True)))
        attn = (0.7 * q @ k.mT).softmax(dim=3)
        torch.testing.assert_close(torch.from_numpy(found), attn @ v)


def test_pooling_in_onnx_takes_any_size():
    pool = nn.AdaptiveAvgPool2d((3, 8))
    session = in_onnx(pool, torch.randn(2, 4, 12, 16), open_axes=(0, 2, 3))
    for size in ((12, 16), (7, 9), (2, 5), (31, 8)):  # multiples, others, fewer rows than cells
        x = torch.randn(1, 4, *size)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), pool(x))


class Shrink(PointWiseLayers, nn.Module):
    shrink_factor, as_authors, align_corners = 2, False, False

    def forward(self, x: Tensor) -> Tensor:
        size, aligned = self._shrunk(x)
        return resize(resize(x, size, aligned), x.shape[2:], aligned)


def test_psanet_shrinks_odd_and_even_maps_in_one_graph():
    """Whether that aligns corners depends on the size of the map."""
    shrink = Shrink()
    program = torch.export.export(shrink, (torch.randn(2, 6, 9, 12),), dynamic_shapes=[dict.fromkeys((0, 2, 3), OPEN)])
    for size in ((9, 12), (8, 10), (7, 13), (11, 6)):
        x = torch.randn(3, 6, *size)
        torch.testing.assert_close(program.module()(x), shrink(x))


def test_what_cannot_be_exported_is_said_first(tmp_path, monkeypatch):
    model = build()
    (tmp_path / "folder.onnx").mkdir()
    for name, message in (
        ("a.pth", "must end in .onnx or .pt2"),
        ("none/a.onnx", "there is no folder"),
        ("folder.onnx", "it is a folder"),
    ):
        with pytest.raises(UserError, match=message):
            export(model, tmp_path / name)
    with pytest.raises(UserError, match=r"no image at .*photo.png"):
        export(model, tmp_path / "a.onnx", images=[tmp_path / "photo.png"])
    model.test_cfg["mode"] = "slide"
    with pytest.raises(UserError, match=r"model\.test_cfg\.mode=whole"):
        export(model, tmp_path / "a.onnx")
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(UserError, match=r'need onnxscript: pip install "\.\[export\]"'):
        export(model, tmp_path / "a.onnx")


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "trace", lambda *_, **__: None)
    monkeypatch.setattr(module, "_pt2", lambda *_: (b"content", lambda _: None))
    monkeypatch.setattr(module, "_form", lambda *_: "")
    monkeypatch.setattr(module, "compare", lambda *_: ("", True))
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*: No space left on device"):
        export(build(), tmp_path / "a.pt2", sizes=SIZES)
    assert not list(tmp_path.iterdir())


def test_the_tool_refuses_with_one_message(tmp_path, monkeypatch, capsys):
    code = io.BytesIO()
    torch.save({"state_dict": {}, "hook": print}, code)
    (tmp_path / "code.pth").write_bytes(code.getvalue())
    config = str(tiny.REPOSITORY / "configs" / "gcnet_r50.py")
    base = ["--base", *tiny.bases(tmp_path)]
    for arguments, message in (
        ([config, "none.pth", "a.txt"], "must end in .onnx or .pt2"),
        ([config, "none.pth", str(tmp_path / "a.onnx"), *base], "there is no checkpoint none.pth"),
        ([config, str(tmp_path / "code.pth"), str(tmp_path / "a.onnx"), *base], "code"),
        ([config, "none.pth", "a.onnx", "--size", "64x64"], "--size takes two different sizes"),
    ):
        assert tiny.call("export", arguments, monkeypatch) == 2
        error = capsys.readouterr().err
        assert message in error, error
        assert "Traceback" not in error
    assert not (tmp_path / "a.onnx").exists()
