"""The cache of images and labels: the same pixels, or the originals."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmseg")
pytest.importorskip("zstandard", reason="pip install zstandard")

import mmcv
import zstandard
from mmengine.registry import DefaultScope

from mmattn.cli import UserError
from mmattn.datasets import cache
from mmattn.registry import DATASETS, TRANSFORMS

LOAD = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "num_classes": 19}]


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def scene(seed: int, height: int = 150, width: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Noise over slopes, and labels in blocks."""
    rng = np.random.default_rng(seed)
    slope = np.add.outer(np.arange(height), np.arange(width))[..., None] // 3 + np.array([0, 30, 60])
    labels = rng.integers(0, 19, (1 + height // 10, 1 + width // 10), dtype=np.uint8)
    labels = labels.repeat(10, axis=0).repeat(10, axis=1)[:height, :width]
    return (slope + rng.integers(0, 8, (height, width, 1))).astype(np.uint8), labels


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Three images with labels, and what reads them."""
    monkeypatch.setattr(cache, "_said", set())
    cache._cache_of.cache_clear()
    for i in range(3):
        image, labels = scene(i)
        save(tmp_path / f"img_dir/train/{i}.png", image)
        save(tmp_path / f"ann_dir/train/{i}.png", labels)
    yield tmp_path
    cache._cache_of.cache_clear()


def dataset(root: Path, **changes):
    prefix = {"img_path": "img_dir/train", "seg_map_path": "ann_dir/train"}
    config = {"type": "CamVidDataset", "data_root": str(root), "data_prefix": prefix, "pipeline": LOAD}
    with DefaultScope.overwrite_default_scope("mmattn"):
        return DATASETS.build(config | changes)


def build(root: Path, verify: bool = False):
    report = cache.build([dataset(root)], verify)
    cache._cache_of.cache_clear()
    return report


def stored(root: Path, kind: str = "img_dir", i: int = 0) -> Path:
    return root / cache.FOLDER / kind / "train" / f"{i}.png.zst"


@pytest.fixture
def warnings(monkeypatch):
    """The lines that are printed."""
    lines: list[str] = []
    monkeypatch.setattr(cache, "print_log", lambda line, logger, level: lines.append(line) or level == logging.WARNING)
    return lines


@pytest.fixture
def no_originals(monkeypatch):
    """Decoding an image fails from now on."""

    def refuse(*_, **__):
        raise AssertionError("an original was decoded")

    return lambda: monkeypatch.setattr(mmcv, "imfrombytes", refuse)


def test_the_same_pixels_without_decoding_an_original(data, no_originals):
    before = [dict(sample) for sample in dataset(data)]
    report = build(data)
    assert (report.counts, report.made, report.kept, report.problems) == ({"images": 3, "labels": 3}, 6, 0, [])
    no_originals()
    for sample, expected in zip(dataset(data), before, strict=True):
        assert sample["img_shape"] == sample["ori_shape"] == (150, 200)
        assert sample["gt_seg_map"].flags.writeable
        for key in ("img", "gt_seg_map"):
            np.testing.assert_array_equal(sample[key], expected[key])


@pytest.mark.parametrize("size", [(2, 2), (63, 5), (64, 7), (65, 2), (128, 3), (200, 90)])
def test_any_window_of_any_size(tmp_path, size):
    rng = np.random.default_rng(0)
    for is_labels in (False, True):
        pixels = rng.integers(0, 256, size if is_labels else (*size, 3), dtype=np.uint8)
        file = cache.File(save(tmp_path / f"{is_labels}.png", pixels), is_labels, tmp_path)
        assert cache.make(file)
        found = cache.Stored(cache.target(file), lambda: pytest.fail("damaged"))
        expected = pixels if is_labels else pixels[..., ::-1]
        np.testing.assert_array_equal(found[:, :], expected)
        for _ in range(20):
            (top, left), (height, width) = rng.integers(0, size), rng.integers(0, np.array(size) + 1)
            window = np.s_[top : top + height, left : left + width]
            np.testing.assert_array_equal(found[window], expected[window])


def test_the_frames_are_those_that_the_header_describes(data):
    """A reader of Zstandard frames and nothing else finds the planes of each 64 rows."""
    build(data)
    content = stored(data).read_bytes()
    image = scene(0)[0]
    assert int.from_bytes(content[:4], "little") == 0x184D2A57
    length = int.from_bytes(content[4:8], "little")
    header = json.loads(content[12 : 8 + length])
    assert header["shape"] == [150, 200, 3]
    plain = zstandard.ZstdDecompressor().stream_reader(content[8 + length :], read_across_frames=True).read()
    first = np.frombuffer(plain[: 3 * 64 * 200], np.uint8).reshape(3, 64, 200)
    np.testing.assert_array_equal(first[0, 0], image[0, :, 1])
    np.testing.assert_array_equal(first[0, 5], image[5, :, 1] - image[4, :, 1])
    difference = image[..., 0] - image[..., 1]
    np.testing.assert_array_equal(first[2, 5], difference[5] - difference[4])
    assert len(content) < (data / "img_dir/train/0.png").stat().st_size


def test_a_second_run_makes_only_what_is_missing(data):
    build(data)
    stored(data, i=1).unlink()
    stored(data, "ann_dir", 2).write_bytes(b"half")
    times = {path: path.stat().st_mtime_ns for path in (data / cache.FOLDER).rglob("0.*")}
    assert (build(data).made, build(data).kept) == (2, 6)
    assert times == {path: path.stat().st_mtime_ns for path in (data / cache.FOLDER).rglob("0.*")}


def test_an_interrupted_write_leaves_nothing_behind(data, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(data)
    assert not [path for path in (data / cache.FOLDER).rglob("*") if path.is_file()]
    assert build(data).made == 6


def test_a_changed_original_is_read_itself_and_said_once(data, warnings):
    build(data)
    for i in (0, 1):
        save(data / f"img_dir/train/{i}.png", scene(i + 7)[0])
    read = dataset(data)
    for i in (0, 1):
        np.testing.assert_array_equal(read[i]["img"], scene(i + 7)[0][..., ::-1])
    assert len(warnings) == 1
    assert "0.png has changed since" in warnings[0]
    assert build(data).made == 2
    assert not warnings[1:]


def test_a_newer_file_of_the_same_size_counts_as_changed(data, warnings):
    build(data)
    path = data / "ann_dir/train/0.png"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert dataset(data)[0]["gt_seg_map"].shape == (150, 200)
    assert len(warnings) == 1
    assert build(data).made == 1


def test_an_image_is_not_taken_for_labels(data):
    build(data)
    path = str(data / "img_dir/train/0.png")
    assert cache.find(path, lambda: None) is not None
    assert cache.find(path, lambda: None, is_labels=True) is None


def test_verify_finds_what_size_and_time_do_not_tell(data):
    build(data)
    path = data / "ann_dir/train/0.png"
    status, content = path.stat(), path.read_bytes()
    path.write_bytes(content[:-1] + b"x")  # Pillow does not look at the last byte
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert build(data).made == 0
    assert build(data, verify=True).made == 1
    assert build(data, verify=True).kept == 6


@pytest.mark.parametrize("place", ["header", "frame", "end", "all"])
@pytest.mark.parametrize("kind", ["img_dir", "ann_dir"])
def test_a_damaged_file_gives_way_to_its_original(data, warnings, place, kind):
    expected = [dict(sample) for sample in dataset(data)]
    build(data)
    path = stored(data, kind)
    content = bytearray(path.read_bytes())
    if place in ("end", "all"):
        content = content[: -9 if place == "end" else 3]
    else:
        content[content.index(b"shape") if place == "header" else -20] ^= 1
    path.write_bytes(content)
    for sample, other in zip(dataset(data), expected, strict=True):
        for key in ("img", "gt_seg_map"):
            np.testing.assert_array_equal(sample[key], other[key])
    assert len(warnings) == 1
    assert f"{path} is damaged" in warnings[0]
    assert build(data, verify=True).made == 1


def test_cached_or_not_the_same_comes_out_of_training_pipelines(data):
    pipeline = [
        *LOAD,
        {"type": "Resize", "scale": (333, 222)},
        {"type": "RandomCrop", "crop_size": (70, 90), "cat_max_ratio": 0.3},
        {"type": "PackSegInputs"},
    ]

    def samples():
        read = dataset(data, pipeline=pipeline)
        np.random.seed(0)
        return [read[i % 3] for i in range(12)]

    before = samples()
    build(data)
    for ours, theirs in zip(samples(), before, strict=True):
        assert ours["inputs"].equal(theirs["inputs"])
        assert ours["data_samples"].gt_sem_seg.data.equal(theirs["data_samples"].gt_sem_seg.data)


def test_labels_are_checked_as_without_a_cache(data):
    _, labels = scene(0)
    labels[3, 4] = 200
    save(data / "ann_dir/train/0.png", labels)
    save(data / "ann_dir/train/1.png", labels[:-1])
    build(data)
    with pytest.raises(UserError, match="holds the label 200"):
        dataset(data)[0]
    with pytest.raises(UserError, match="200x149, but its image"):
        dataset(data)[1]


def test_labels_that_are_renumbered_are_read_from_the_originals(data):
    read = {"reduce_zero_label": True}
    expected = dataset(data, **read)[0]["gt_seg_map"]
    build(data)
    np.testing.assert_array_equal(dataset(data, **read)[0]["gt_seg_map"], expected)
    assert (expected == 255).any()


def test_other_ways_of_decoding_read_the_originals(data):
    build(data)
    for options in ({"color_type": "grayscale"}, {"to_float32": True}, {"imdecode_backend": "pillow"}):
        step = TRANSFORMS.build({"type": "LoadImageFromFile", **options})
        cached = step({"img_path": str(data / "img_dir/train/0.png")})["img"]
        os.rename(data / cache.FOLDER, data / "away")
        cache._cache_of.cache_clear()
        plain = step({"img_path": str(data / "img_dir/train/0.png")})["img"]
        os.rename(data / "away", data / cache.FOLDER)
        cache._cache_of.cache_clear()
        assert cached.dtype == plain.dtype
        np.testing.assert_array_equal(cached, plain)


def test_bad_files_are_named_and_the_others_made(data):
    (data / "img_dir/train/0.png").write_text("not an image")
    save(data / "ann_dir/train/1.png", scene(1)[0])
    report = build(data)
    assert report.made == 4
    found = "\n".join(report.problems)
    assert f"{data / 'img_dir/train/0.png'} cannot be read as an image" in found
    assert f"{data / 'ann_dir/train/1.png'} is not a label image" in found


def test_a_missing_original_is_an_error_though_it_is_cached(data):
    build(data)
    read = dataset(data)
    (data / "img_dir/train/0.png").unlink()
    with pytest.raises(UserError, match=r"0\.png does not exist"):
        read[0]


def test_without_zstandard_the_originals_are_read(data, warnings, monkeypatch):
    build(data)
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    cache._can_read.cache_clear()
    np.testing.assert_array_equal(dataset(data)[0]["img"], scene(0)[0][..., ::-1])
    cache._can_read.cache_clear()
    assert len(warnings) == 1
    assert "pip install zstandard" in warnings[0]
    with pytest.raises(UserError, match="pip install zstandard"):
        build(data)
