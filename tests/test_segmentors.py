"""Segmentors and heads after the logits: mmseg's numbers, without tensors of all classes at the size of the image."""

import copy
import pickle
import re
import warnings
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("mmseg")

from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.models import SegTTAModel
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.structures import SegDataSample

from mmattn.heads import pixel_losses
from mmattn.registry import MODELS
from mmattn.segmentors.late_logits import LateLogits

CLASSES = 19
CE = {"type": "CrossEntropyLoss"}
WEIGHTS = {"class_weight": [0.2 * (c % 7 + 1) for c in range(CLASSES)]}
OHEM = {"type": "OHEMPixelSampler"}
TERMS = {
    "plain": CE,
    "labelled pixels alone": {**CE, "avg_non_ignore": True},
    "class weights": {**CE, **WEIGHTS},
    "class weights, labelled pixels alone": {**CE, **WEIGHTS, "avg_non_ignore": True},
    "loss weight": {**CE, "loss_weight": 0.4},
    "sum": {**CE, **WEIGHTS, "reduction": "sum"},
    "two of one name": [CE, {**CE, **WEIGHTS, "loss_weight": 0.7, "avg_non_ignore": True}],
    "two names": [{**CE, "loss_weight": 2.0}, {**CE, **WEIGHTS, "loss_name": "loss_weighted"}],
}
SAMPLERS = {
    "all": None,
    "few of low confidence": {**OHEM, "thresh": 0.2, "min_kept": 20},
    "confident ones as well": {**OHEM, "thresh": 0.01, "min_kept": 700},
    "more than there are": {**OHEM, "thresh": 0.5, "min_kept": 100000},
    "largest losses": {**OHEM, "min_kept": 300},
}


class Largest(TorchDispatchMode):
    """Elements of the largest floating-point tensor that any operation gives out."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, Tensor) and x.is_floating_point():
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return out


def build(config: dict) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mmseg's advice on avg_non_ignore, and on one channel for two classes
        return MODELS.build(ConfigDict(config))


def head_config(**options: Any) -> dict:
    common = {"in_channels": 6, "in_index": 0, "channels": 6, "num_convs": 0, "concat_input": False}
    return {"type": "FCNHead", **common, "num_classes": CLASSES, "dropout_ratio": 0, **options}


def labelled(batch: int, size: tuple[int, int], ignored: float = 0.2) -> list[SegDataSample]:
    label = torch.randint(0, CLASSES, (batch, 1, *size))
    label[torch.rand(label.shape) < ignored] = 255
    return [SegDataSample(gt_sem_seg=PixelData(data=x)) for x in label]


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_are_mmsegs(terms, sampler, align_corners, dtype, monkeypatch):
    monkeypatch.setattr(import_module("mmattn.ops.pixel_loss"), "ELEMENTS", 3000)
    torch.manual_seed(0)
    head = build(head_config(loss_decode=TERMS[terms], sampler=SAMPLERS[sampler], align_corners=align_corners))
    logits = 2 * torch.randn(2, CLASSES, 5, 6, dtype=dtype)
    truth = labelled(2, (33, 41))
    results = []
    for function in (pixel_losses.loss_by_feat, BaseDecodeHead.loss_by_feat):
        leaf = logits.clone().requires_grad_()
        losses = function(head, leaf, truth)
        total = sum(value.sum() for key, value in losses.items() if "loss" in key)
        results.append((losses, torch.autograd.grad(total, leaf)[0]))
    (ours, gradient), (theirs, expected) = results
    assert list(ours) == list(theirs)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-9
    for key, value in ours.items():
        assert value.shape == theirs[key].shape
        torch.testing.assert_close(value, theirs[key], rtol=tolerance, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_without_a_label_there_is_no_loss(sampler):
    head = build(head_config(loss_decode={**CE, **WEIGHTS}, sampler=SAMPLERS[sampler]))
    logits = torch.randn(2, CLASSES, 5, 6)
    ours, theirs = (
        function(head, logits, labelled(2, (20, 20), ignored=2))
        for function in (pixel_losses.loss_by_feat, BaseDecodeHead.loss_by_feat)
    )
    assert ours == theirs


MINE = type("MyLoss", (nn.Module,), {"loss_name": "loss_mine", "forward": lambda self, x, y, **_: x.mean()})


@pytest.mark.parametrize(
    "terms",
    [
        {"type": "DiceLoss"},
        {"type": "LovaszLoss", "reduction": "none"},
        {"type": "TverskyLoss"},
        {**CE, "use_sigmoid": True},
        [CE, {"type": "DiceLoss"}],
        MINE(),
    ],
    ids=lambda terms: str(terms)[:40],
)
def test_other_losses_go_mmsegs_way(terms, monkeypatch):
    monkeypatch.setattr(pixel_losses, "pixel_loss", None)
    head = build(head_config(loss_decode=CE if isinstance(terms, nn.Module) else terms))
    if isinstance(terms, nn.Module):
        head.loss_decode = terms
    logits, truth = torch.randn(2, CLASSES, 5, 6), labelled(2, (20, 20))
    ours, theirs = (f(head, logits, truth) for f in (pixel_losses.loss_by_feat, BaseDecodeHead.loss_by_feat))
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key])


@MMSEG_MODELS.register_module()
class Pooled(nn.Module):
    """A backbone: one feature map, an eighth as large as the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=8, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.conv(x)]


OCR = {
    "type": "mmattn.OCRHead",
    "ocr_channels": 4,
    "in_channels": 6,
    "in_index": 0,
    "channels": 6,
    "num_classes": CLASSES,
}
DA = {
    "type": "mmattn.DAHead",
    "pam_channels": 4,
    "in_channels": 6,
    "in_index": 0,
    "channels": 6,
    "num_classes": CLASSES,
}
KINDS = {
    "fcn": {"type": "mmattn.EncoderDecoder", "decode_head": head_config()},
    "aligned": {"type": "mmattn.EncoderDecoder", "decode_head": head_config(align_corners=True)},
    "da": {"type": "mmattn.EncoderDecoder", "decode_head": DA},
    "cascade": {"type": "mmattn.CascadeEncoderDecoder", "num_stages": 2, "decode_head": [head_config(), OCR]},
}


def pair(kind: str, own: str = "EncoderDecoder|CascadeEncoderDecoder", **options: Any) -> tuple[nn.Module, nn.Module]:
    """A segmentor of ours, and one with the same weights in which what is our own is mmseg's."""
    config = {**KINDS[kind], "backbone": {"type": "Pooled"}, "test_cfg": {"mode": "whole"}, **options}
    torch.manual_seed(0)
    ours, theirs = build(config), build(eval(re.sub(rf"mmattn\.({own})", r"mmseg.\1", repr(config))))
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.5)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("kind", KINDS)
def test_training_makes_nothing_of_the_size_of_the_image(kind, monkeypatch):
    monkeypatch.setattr(import_module("mmattn.ops.pixel_loss"), "ELEMENTS", 10000)
    ours, theirs = pair(kind, own=r"\w+", auxiliary_head=head_config())
    inputs, truth = torch.randn(2, 3, 160, 176).double(), labelled(2, (160, 176))
    seen, results = [], []
    for model in (ours, theirs):
        torch.manual_seed(1)  # the same dropout
        with Largest() as largest:
            losses = model.double().train().loss(inputs, truth)
            sum(value.sum() for key, value in losses.items() if "loss" in key).backward()
        seen.append(largest.elements)
        results.append(losses)
    assert seen[1] >= 2 * CLASSES * 160 * 176 > 2 * seen[0]
    assert list(results[0]) == list(results[1])
    for key, value in results[0].items():
        torch.testing.assert_close(value, results[1][key], rtol=1e-9, atol=0)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-7, atol=1e-7, msg=name)
    assert "loss_by_feat" not in vars(ours.auxiliary_head)


SIZE = (160, 176)
PLAIN = {"img_path": "a.png", "img_shape": SIZE, "ori_shape": SIZE, "pad_shape": SIZE}
METAS = {
    "plain": [PLAIN],
    "batch": [PLAIN, PLAIN],
    "without pad_shape": [{"img_shape": SIZE, "ori_shape": SIZE}],
    "flipped": [{**PLAIN, "flip": True, "flip_direction": "horizontal"}],
    "flipped and not": [{**PLAIN, "flip": True, "flip_direction": "vertical"}, {**PLAIN, "flip": False}],
    "padded": [{**PLAIN, "img_shape": (151, 170), "ori_shape": (151, 170), "padding_size": [2, 4, 0, 9]}],
    "padded by the preprocessor": [{**PLAIN, "ori_shape": (155, 176), "img_padding_size": [0, 0, 0, 5]}],
    "padded and flipped": [
        {**PLAIN, "ori_shape": (155, 170), "padding_size": [0, 6, 0, 5], "flip": True, "flip_direction": "horizontal"}
    ],
}
RESIZED = {
    "resized twice": [{**PLAIN, "ori_shape": (320, 352)}],
    "one resized twice": [PLAIN, {**PLAIN, "ori_shape": (320, 352)}],
}


def predictions(models: tuple[nn.Module, nn.Module], metas: list[dict] | None, batch: int = 1) -> list[list]:
    """What each model makes of the same images, and the largest tensor that it makes on the way."""
    found = []
    inputs = torch.randn(batch if metas is None else len(metas), 3, *SIZE, generator=torch.Generator().manual_seed(5))
    for model in models:
        samples = None if metas is None else [SegDataSample(metainfo=copy.deepcopy(meta)) for meta in metas]
        with torch.no_grad(), Largest() as largest:
            found.append((model.eval().predict(inputs, samples), largest.elements))
    return found


@pytest.mark.parametrize("metas", METAS)
@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_mmsegs_with_less_memory(kind, metas, monkeypatch):
    monkeypatch.setattr(import_module("mmattn.ops.upsample_argmax"), "ELEMENTS", 10000)
    (ours, lean), (theirs, plain) = predictions(pair(kind), METAS[metas])
    assert plain >= CLASSES * SIZE[0] * SIZE[1]
    assert lean < plain / 2 or kind == "aligned"  # an odd scale: as a whole
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.pred_sem_seg.data, b.pred_sem_seg.data)
        assert torch.equal(a.seg_logits.data, b.seg_logits.data)


@pytest.mark.parametrize("metas", RESIZED)
def test_predictions_that_are_resized_twice_are_mmsegs(metas):
    (ours, _), (theirs, _) = predictions(pair("fcn"), RESIZED[metas])
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.pred_sem_seg.data, b.pred_sem_seg.data)
        assert torch.equal(a.seg_logits.data, b.seg_logits.data)
        assert not isinstance(a.seg_logits, LateLogits)


OTHERS = {
    "slide": {"test_cfg": {"mode": "slide", "crop_size": (96, 96), "stride": (64, 64)}},
    "one channel": {"decode_head": head_config(num_classes=2, out_channels=1, threshold=0.4)},
}


@pytest.mark.parametrize("options", OTHERS)
def test_other_predictions_go_mmsegs_way(options):
    (ours, _), (theirs, _) = predictions(pair("fcn", **OTHERS[options]), [dict(PLAIN)])
    assert torch.equal(ours[0].pred_sem_seg.data, theirs[0].pred_sem_seg.data)
    assert torch.equal(ours[0].seg_logits.data, theirs[0].seg_logits.data)


def test_predictions_without_samples():
    (ours, _), (theirs, _) = predictions(pair("fcn"), None, batch=2)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.pred_sem_seg.data, b.pred_sem_seg.data)
        assert torch.equal(a.seg_logits.data, b.seg_logits.data)


@pytest.mark.parametrize("step", ["whole_inference", "encode_decode"])
def test_steps_of_a_users_own_count(step):
    ours, _ = pair("fcn")
    plain = predictions((ours, ours), METAS["plain"])[0][0][0]
    own = type("Own", (type(ours),), {})
    setattr(own, step, lambda self, *args: -getattr(super(own, self), step)(*args))
    ours.__class__ = own
    negated = predictions((ours, ours), METAS["plain"])[0][0][0]
    assert torch.equal(negated.seg_logits.data, -plain.seg_logits.data)
    assert torch.equal(negated.pred_sem_seg.data[0], plain.seg_logits.data.argmin(0))


def test_heads_of_a_users_own_count():
    ours, _ = pair("fcn")
    plain = predictions((ours, ours), METAS["plain"])[0][0][0]
    head = ours.decode_head
    own = type("Own", (type(head),), {"predict": lambda self, *args: super(own, self).predict(*args).roll(1, 3)})
    head.__class__ = own
    rolled = predictions((ours, ours), METAS["plain"])[0][0][0]
    assert torch.equal(rolled.pred_sem_seg.data[0], plain.seg_logits.data.roll(1, 2).argmax(0))


def test_late_logits_are_made_when_they_are_read():
    made = []

    def make() -> Tensor:
        made.append(1)
        return torch.arange(24.0).view(2, 3, 4)

    expected = torch.arange(24.0).view(2, 3, 4)
    for read in (
        lambda x: x.seg_logits.data,
        lambda x: x.to_dict()["seg_logits"]["data"],
        lambda x: x.cpu().seg_logits.data,
        lambda x: x.clone().seg_logits.data,
        lambda x: torch.from_numpy(x.numpy().seg_logits.data),
        lambda x: copy.deepcopy(x).seg_logits.data,
    ):
        made.clear()
        sample = SegDataSample(seg_logits=LateLogits(make))
        assert sample.to_dict()["seg_logits"] == {}
        assert "seg_logits" in sample
        assert not made
        assert torch.equal(read(sample), expected)
        assert made == [1]
    with pytest.raises(AttributeError, match="nothing"):
        _ = sample.seg_logits.nothing
    with pytest.raises(KeyError):
        _ = sample.to_dict()["seg_logits"]["nothing"]


def test_predictions_can_be_sent_to_another_process():
    ((prediction,), _), _ = predictions(pair("fcn"), METAS["flipped"])
    sent = pickle.loads(pickle.dumps(prediction))
    assert torch.equal(sent.seg_logits.data, prediction.seg_logits.data)


def test_augmented_predictions_are_mmsegs():
    flipped = {**PLAIN, "flip": True, "flip_direction": "horizontal"}
    found = []
    for model in pair("fcn"):
        merged = SegTTAModel(module=model.eval())
        with torch.no_grad():
            samples = [model.predict(torch.ones(1, 3, *SIZE), [SegDataSample(metainfo=m)]) for m in (PLAIN, flipped)]
        (result,) = merged.merge_preds([[view[0] for view in samples]])
        found.append(result.pred_sem_seg.data)
    assert torch.equal(*found)
