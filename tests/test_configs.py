"""Every file in configs/ builds, learns, has the recipe of mmseg's own file, and pairs with its checkpoint."""

from collections import OrderedDict
from pathlib import Path

import mmseg
import pytest
import tiny
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mmattn.cli import UserError
from mmattn.datasets import sample
from mmattn.engine import train
from mmattn.engine.config import build_model, heads, load_config, without_pretrained
from mmattn.registry import MODELS

CONFIGS = sorted(path for path in (tiny.REPOSITORY / "configs").rglob("*.py") if path.parent.name != "_base_")
ZOO = Path(mmseg.__file__).parent / ".mim" / "configs"
# config -> the config of mmseg whose checkpoint loads into it
PAIRS = {
    "anlnet_r50": "ann/ann_r50-d8_4xb2-40k_cityscapes-512x1024.py",
    "ccnet_r50": "ccnet/ccnet_r50-d8_4xb2-40k_cityscapes-512x1024.py",
    "danet_r50": "danet/danet_r50-d8_4xb2-40k_cityscapes-512x1024.py",
    "fcn_r50": "fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py",
    "gcnet_r50": "gcnet/gcnet_r50-d8_4xb2-40k_cityscapes-512x1024.py",
    "nonlocal_r50": "nonlocal_net/nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024.py",
    "ocrnet_hr18": "ocrnet/ocrnet_hr18_4xb2-40k_cityscapes-512x1024.py",
    "psanet_r50": "psanet/psanet_r50-d8_4xb2-40k_cityscapes-512x1024.py",
}
COMPILED = {"ccnet_r50", "psanet_r50"}  # mmseg's own heads need operators that this environment may lack


def named(config: str) -> Path:
    return tiny.REPOSITORY / "configs" / f"{config}.py"


def shapes(cfg: Config, scope: str) -> dict[str, tuple[int, ...]]:
    without_pretrained(cfg)
    init_default_scope(scope)
    with torch.device("meta"):
        model = MODELS.build({**cfg.model, "_scope_": scope})
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def test_the_nine_models_are_there_and_short() -> None:
    models = "danet_r50 ccnet_r50 anlnet_r50 ocrnet_r50 ocrnet_hr18 psanet_r50 gcnet_r50 nonlocal_r50 polarized_r50"
    assert set(models.split()) <= {path.stem for path in CONFIGS}
    assert max(len(path.read_text().splitlines()) for path in CONFIGS) <= 30


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_learns_a_batch(path: Path, tmp_path: Path) -> None:
    """A narrow copy of the model lowers its loss, and every parameter has a part in it."""
    torch.manual_seed(0)
    cfg = load_config(path, base=tiny.bases(tmp_path, path.stem))
    for head in heads(cfg.model):
        head.channels = 16
        head.update({key: 8 for key in ("ocr_channels", "project_channels", "pam_channels") if key in head})
        if "mask_size" in head:
            head.mask_size = (9, 9)
    model = build_model(cfg).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    inputs = torch.randn(2, 3, 64, 64)
    labels = torch.randint(0, 19, (2, 1, 4, 4)).repeat_interleave(16, 2).repeat_interleave(16, 3)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        loss = sum(value for key, value in model.loss(inputs, samples).items() if "loss" in key)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if path.parent.name == "attention"], ids=lambda path: path.stem
)
def test_fits_the_sample(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small backbone under it, wrapped or with plugins, and a neck between, in a process that is fresh."""
    monkeypatch.setattr(sample, "ensure", lambda root: root)
    monkeypatch.setattr(DefaultScope, "_instance_dict", OrderedDict())
    monkeypatch.chdir(tmp_path)
    cfg = train.prepare(path)
    model = build_model(cfg)
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 64)).shape[:2] == (1, 19)
    assert sum(parameter.numel() for parameter in model.backbone.parameters()) < 9e6


@pytest.mark.parametrize("config", PAIRS)
def test_parameters_are_those_of_the_zoo(config: str) -> None:
    ours = shapes(load_config(named(config)), "mmattn")
    zoo = Config.fromfile(ZOO / PAIRS[config])
    assert ours == shapes(zoo.copy(), "mmattn")
    if config not in COMPILED:
        assert ours == shapes(zoo, "mmseg")


@pytest.mark.parametrize("config", PAIRS)
def test_recipe_is_that_of_the_zoo(config: str) -> None:
    ours, zoo = load_config(named(config)), load_config(ZOO / PAIRS[config], {"default_scope": "mmattn"})
    assert ours.optim_wrapper.optimizer == zoo.optim_wrapper.optimizer
    assert ours.model.pretrained == zoo.model.pretrained
    assert ours.model.data_preprocessor == zoo.model.data_preprocessor
    assert ours.train_cfg == zoo.train_cfg
    assert ours.param_scheduler == zoo.param_scheduler
    assert ours.train_dataloader == zoo.train_dataloader
    assert ours.val_dataloader.dataset == zoo.val_dataloader.dataset
    assert ours.val_evaluator == zoo.val_evaluator


# -- stated once ---------------------------------------------------------------------------------------------------


def test_classes_reach_every_place(tmp_path: Path) -> None:
    """An own dataset: names and colours once, at the top."""
    own = tmp_path / "own.py"
    own.write_text(
        f"""
_base_ = "{named("ocrnet_r50")}"
classes = ("road", "sky", "car")
palette = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
for_own = dict(type="BaseSegDataset", data_root="data/own", data_prefix=dict(img_path="a", seg_map_path="b"))
train_dataloader = dict(dataset=dict(_delete_=True, pipeline=_base_.train_pipeline, **for_own))
val_dataloader = dict(dataset=dict(_delete_=True, pipeline=_base_.test_pipeline, **for_own))
"""
    )
    cfg = load_config(own)
    assert [head.num_classes for head in heads(cfg.model)] == [3, 3]
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        assert loader.dataset.metainfo == {"classes": cfg.classes, "palette": cfg.palette}
        [labels] = [step for step in loader.dataset.pipeline if step.type == "LoadAnnotations"]
        assert labels.num_classes == 3
    model = build_model(cfg)
    assert model.dataset_meta["classes"] == cfg.classes
    assert model.decode_head[-1].conv_seg.out_channels == 3


def test_classes_of_the_dataset_reach_the_heads() -> None:
    cfg = load_config(named("ccnet_r50"), base=["camvid"])
    assert [head.num_classes for head in heads(cfg.model)] == [11, 11]
    assert tuple(cfg.model.data_preprocessor.size) == tuple(cfg.crop_size) == (360, 480)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("classes = ('road', 'road')", "classes"),
        ("classes = ('road', 'car')\npalette = [[1, 2, 3]]", "palette has 1 colours for 2 classes"),
        ("model = dict(decode_head=dict(loss_decode=dict(class_weight=[1.0] * 5)))", "CCHead has 5 values for 19"),
    ],
)
def test_classes_that_contradict_themselves(text: str, complaint: str, tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(f'_base_ = "{named("ccnet_r50")}"\n{text}\n')
    with pytest.raises(UserError, match=complaint):
        load_config(own)


def test_a_base_speaks_of_every_head_of_a_cascade() -> None:
    cfg = load_config(named("ocrnet_r50"), base=["camvid_240x180"])
    assert [(head.type, head.channels) for head in cfg.model.decode_head] == [("FCNHead", 256), ("OCRHead", 256)]
    assert [head.loss_decode.loss_weight for head in cfg.model.decode_head] == [0.4, 1.0]
    assert all(len(head.loss_decode.class_weight) == 11 for head in cfg.model.decode_head)
    assert cfg.model.auxiliary_head is None


def test_mobilenet_under_any_head() -> None:
    for config in ("ccnet_r50", "anlnet_r50", "ocrnet_hr18"):
        cfg = load_config(named(config), base=["mobilenetv2"])
        model = build_model(cfg)
        with torch.no_grad():
            assert model(torch.zeros(1, 3, 64, 64)).shape == (
                1,
                19,
                8 if "r50" in config else 16,
                8 if "r50" in config else 16,
            )


def test_shortcuts_reach_their_uses() -> None:
    """MMEngine resolves variables while it reads: on its own it would change the variable and nothing else."""
    options = ["data_root=/data/c", "crop_size=256,512", "train_cfg.max_iters=100", "train_dataloader.batch_size=7"]
    cfg = load_config(named("ccnet_r50"), options)
    assert cfg.train_dataloader.dataset.data_root == cfg.val_dataloader.dataset.data_root == "/data/c"
    assert cfg.train_dataloader.dataset.pipeline[3].crop_size == (256, 512)
    assert cfg.model.data_preprocessor.size == (256, 512)
    assert cfg.param_scheduler[0].end == 100
    assert cfg.train_dataloader.batch_size == 7
    both = load_config(named("ccnet_r50"), ["train_dataloader.dataset.data_root=/t", "data_root=/data/c"])
    assert (both.train_dataloader.dataset.data_root, both.val_dataloader.dataset.data_root) == ("/t", "/data/c")


def test_a_config_under_another_scope_is_checked_too(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(f'_base_ = "{named("ccnet_r50")}"\ndefault_scope = "mmseg"\n')
    pipeline = load_config(own).train_dataloader.dataset.pipeline
    assert [step.type for step in pipeline[:2]] == ["mmattn.LoadImageFromFile", "mmattn.LoadAnnotations"]
    again = load_config(own, ["default_scope=mmattn"]).train_dataloader.dataset.pipeline
    assert [step.type for step in again[:2]] == ["LoadImageFromFile", "LoadAnnotations"]


def test_an_ignored_label_is_no_wrong_label() -> None:
    cfg = load_config(named("ccnet_r50"), ["model.decode_head.ignore_index=20"])
    assert cfg.train_dataloader.dataset.pipeline[1].ignore_index == 20
