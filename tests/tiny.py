"""A Cityscapes of a few small pictures, and settings that train on it in seconds."""

import sys
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from PIL import Image

from mmattn import cli

REPOSITORY = Path(__file__).parents[1]
SIZE = (64, 64)
# a base file: the data, and no worker processes
DATA = """
def loader(split, sampler, size, *steps):
    load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
    prefix = dict(img_path=f"leftImg8bit/{split}", seg_map_path=f"gtFine/{split}")
    pipeline = [*load, *steps, dict(type="PackSegInputs")]
    dataset = dict(type="CityscapesDataset", data_root="data/cityscapes", data_prefix=prefix, pipeline=pipeline)
    return dict(batch_size=size, num_workers=0, sampler=sampler, dataset=dataset)

crop = dict(type="RandomCrop", crop_size=(64, 64))
train_dataloader = loader("train", dict(type="InfiniteSampler", shuffle=True), 2, crop)
val_dataloader = loader("val", dict(type="DefaultSampler", shuffle=False), 1)
test_dataloader = val_dataloader
del loader
"""
# another one: a ResNet that is an eighth as wide and has the fewest layers
RESNET = "model = dict(pretrained=None, backbone=dict(depth=18, base_channels=8, stem_channels=8))"
HRNET = """
stage = lambda n: dict(
    num_modules=1, num_branches=n, block="BASIC", num_blocks=(1,) * n, num_channels=tuple(4 * 2**i for i in range(n))
)
extra = dict(stage1=dict(num_blocks=(1,)), stage2=stage(2), stage3=stage(3), stage4=stage(4))
model = dict(pretrained=None, backbone=dict(extra=extra))
del stage
"""
# what a config of another backbone gets, by a part of its name
SMALL = {
    "hr18": HRNET,
    "senet_r50": "model = dict(pretrained=None, backbone=dict(base_channels=8, stem_channels=8))",
    "sknet_r50": "model = dict(pretrained=None, backbone=dict(base_channels=8, stem_channels=8, base_width=1))",
    "mobilenetv2": "model = dict(pretrained=None, backbone=dict(backbone=dict(widen_factor=0.25)))",
}


def cityscapes(root: Path, train: int = 4, val: int = 2, classes: int = 19) -> None:
    """Draw pictures whose colour is their label."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        images, labels = root / "leftImg8bit" / split / "town", root / "gtFine" / split / "town"
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for i in range(count):
            label = rng.integers(0, classes, (4, 4), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
            label[0] = 255
            Image.fromarray(np.stack([label * 13, 255 - label * 9, label], axis=-1)).save(
                images / f"{i}_leftImg8bit.png"
            )
            Image.fromarray(label).save(labels / f"{i}_gtFine_labelTrainIds.png")


def bases(folder: Path, config: str = "") -> list[str]:
    """Base files for ``--base``: the data, and a small backbone for that config."""
    small = next((text for part, text in SMALL.items() if part in config), RESNET)
    (folder / "tiny_data.py").write_text(DATA)
    (folder / "tiny_backbone.py").write_text(small)
    return [str(folder / "tiny_data.py"), str(folder / "tiny_backbone.py")]


def tool(name: str) -> ModuleType:
    """A file of ``tools/`` as a module."""
    spec = spec_from_file_location(f"tools_{name}", REPOSITORY / "tools" / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(name: str, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a tool as its command line would; the exit code."""
    for manager in (MMLogger, MessageHub, DefaultScope):  # mmengine's singletons outlive a run
        manager._instance_dict.clear()
    monkeypatch.setattr(sys, "argv", [f"tools/{name}.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.run(tool(name).main)
    return end.value.code or 0
