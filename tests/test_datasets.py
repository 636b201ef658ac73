"""CamVid as a dataset: every image finds its label, and the classes reach the metainfo."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmseg")

from mmengine.registry import DefaultScope

from mmattn.evaluation.palettes import PALETTES
from mmattn.registry import DATASETS

SEGNET_COLOURS = {"sky": "808080", "road": "804080", "pavement": "3c28de", "bicyclist": "0080c0"}


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_camvid_finds_images_of_either_kind(tmp_path, suffix):
    for folder, name, mode in (("img_dir", "b" + suffix, "RGB"), ("ann_dir", "b.png", "L")):
        (tmp_path / folder / "val").mkdir(parents=True)
        Image.new(mode, (8, 6), 3 if mode == "L" else (255, 0, 0)).save(tmp_path / folder / "val" / name)
    prefix = {"img_path": "img_dir/val", "seg_map_path": "ann_dir/val"}
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}]
    config = {"type": "CamVidDataset", "data_root": str(tmp_path), "data_prefix": prefix, "pipeline": pipeline}
    with DefaultScope.overwrite_default_scope("mmattn"):
        dataset = DATASETS.build(config)
    assert len(dataset) == 1
    sample = dataset[0]
    assert sample["img"].shape == (6, 8, 3)
    np.testing.assert_array_equal(sample["gt_seg_map"], np.full((6, 8), 3))
    assert dataset.metainfo["classes"] == PALETTES["camvid"].classes


def test_camvid_colours_are_those_of_segnet():
    palette = PALETTES["camvid"]
    colours = {name: bytes(colour).hex() for name, colour in zip(palette.classes, palette.colours, strict=True)}
    assert len(colours) == 11
    assert len(set(colours.values())) == 11
    assert colours | SEGNET_COLOURS == colours


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_every_class_has_its_own_colour(palette):
    assert len(palette.classes) == len(set(palette.classes)) == len(set(palette.colours)) == len(palette.colours)
