"""Faster transforms, the same pictures: draw for draw and bit for bit those of mmseg."""

import copy
import pickle

import numpy as np
import pytest

pytest.importorskip("mmseg")

import cv2
from mmengine.registry import DefaultScope
from mmseg.registry import TRANSFORMS as MMSEG

from mmattn.datasets import transforms
from mmattn.datasets.promises import Promise, Results
from mmattn.registry import TRANSFORMS

SEEDS = range(12)
KEYS = ("img", "gt_seg_map", "img_shape", "scale", "scale_factor", "keep_ratio", "flip", "flip_direction")
RESIZE = {"type": "RandomResize", "scale": (96, 64), "ratio_range": (0.5, 2.0), "keep_ratio": True}
CROP = {"type": "RandomCrop", "crop_size": (32, 48), "cat_max_ratio": 0.75}
REST = [{"type": "RandomFlip", "prob": 0.5}, {"type": "PhotoMetricDistortion"}]
PIPELINES = {
    "as in the configs": [RESIZE, CROP, *REST],
    "a crop that is larger": [RESIZE, {**CROP, "crop_size": (80, 150)}, *REST],
    "a crop that is wider": [RESIZE, {**CROP, "crop_size": (20, 250)}, *REST],
    "ratio not kept": [{**RESIZE, "keep_ratio": False, "scale": [(30, 90), (120, 20)], "ratio_range": None}, CROP],
    "one of some scales": [{"type": "RandomChoiceResize", "scales": [(48, 32), (96, 64), (192, 128)]}, CROP],
    "one class may fill the crop": [RESIZE, {**CROP, "cat_max_ratio": 1.0}, *REST],
    "any class fills the crop": [RESIZE, {**CROP, "cat_max_ratio": 0.01}, *REST],
    "a label ignored": [RESIZE, {**CROP, "ignore_index": 2}, *REST],
    "bicubic": [{**RESIZE, "interpolation": "bicubic"}, CROP, *REST],
    "by Pillow": [{**RESIZE, "backend": "pillow"}, CROP, *REST],
    "resized twice": [RESIZE, {"type": "Resize", "scale": (70, 50), "keep_ratio": False}, CROP, *REST],
    "flipped before": [RESIZE, *REST, CROP],
    "rotated between": [RESIZE, {"type": "RandomRotate", "prob": 1.0, "degree": 20}, CROP, *REST],
    "without a crop": [RESIZE, {"type": "RandomFlip", "prob": 0.7, "direction": ["vertical", "diagonal"]}],
    "by a factor": [{"type": "Resize", "scale_factor": 0.5, "keep_ratio": True}, *REST],
    "sides of a body": [{"type": "RandomFlip", "prob": 1.0, "swap_seg_labels": [(0, 1)]}],
}


def picture(seed: int, height: int = 60, width: int = 100) -> dict:
    """An image and labels in blocks, so that some crops show one class and most show several."""
    rng = np.random.default_rng(seed)
    blocks = rng.choice([0, 1, 2, 18, 255], size=(1 + height // 20, 1 + width // 20)).astype(np.uint8)
    labels = blocks.repeat(20, axis=0).repeat(20, axis=1)[:height, :width].copy()
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    shape = (height, width)
    return {"img": image, "gt_seg_map": labels, "seg_fields": ["gt_seg_map"], "img_shape": shape, "ori_shape": shape}


def run(registry, scope: str, pipeline: list[dict], results, seed: int) -> tuple[dict, float]:
    """What comes out, and the draw that would come next."""
    with DefaultScope.overwrite_default_scope(scope):
        steps = [registry.build(dict(step)) for step in pipeline]
    np.random.seed(seed)
    for step in steps:
        results = step(results)
    return results, np.random.random_sample()


def assert_same(theirs: dict, ours) -> None:
    for key in KEYS:
        assert (key in theirs) == (key in ours), key
        if key not in theirs:
            continue
        if isinstance(theirs[key], np.ndarray):
            assert ours[key].dtype == theirs[key].dtype
            np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
        else:
            assert ours[key] == theirs[key], key


@pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=PIPELINES)
@pytest.mark.parametrize("promised", [True, False])
def test_pixels_and_draws_are_those_of_mmseg(pipeline, promised):
    for seed in SEEDS:
        theirs, their_next = run(MMSEG, "mmseg", pipeline, picture(seed), seed)
        given = Results(picture(seed)) if promised else picture(seed)
        ours, our_next = run(TRANSFORMS, "mmattn", pipeline, given, seed)
        assert our_next == their_next
        assert_same(theirs, ours)


def test_pictures_of_odd_sizes_come_out_the_same():
    for seed in range(60):
        height, width = np.random.default_rng(seed).integers(1, 130, 2)
        theirs, _ = run(MMSEG, "mmseg", [RESIZE, CROP, *REST], picture(seed, height, width), seed)
        ours, _ = run(TRANSFORMS, "mmattn", [RESIZE, CROP, *REST], Results(picture(seed, height, width)), seed)
        assert_same(theirs, ours)


def test_floats_and_wide_labels_come_out_the_same():
    for seed in SEEDS:
        for change in ({"img": np.float32}, {"gt_seg_map": np.int32}):
            given = picture(seed)
            given |= {key: given[key].astype(dtype) for key, dtype in change.items()}
            steps = [RESIZE, CROP, *REST[: 1 if "img" in change else 2]]
            theirs, _ = run(MMSEG, "mmseg", steps, dict(given), seed)
            ours, _ = run(TRANSFORMS, "mmattn", steps, Results(given), seed)
            assert_same(theirs, ours)


def test_packed_for_the_model_they_are_the_same():
    pipeline = [RESIZE, CROP, *REST, {"type": "PackSegInputs"}]
    for seed in SEEDS:
        theirs, _ = run(MMSEG, "mmseg", pipeline, picture(seed), seed)
        ours, _ = run(TRANSFORMS, "mmattn", pipeline, Results(picture(seed)), seed)
        assert ours["inputs"].dtype == theirs["inputs"].dtype
        assert ours["inputs"].is_contiguous()
        assert ours["inputs"].equal(theirs["inputs"])
        assert ours["data_samples"].gt_sem_seg.data.equal(theirs["data_samples"].gt_sem_seg.data)
        assert ours["data_samples"].metainfo == theirs["data_samples"].metainfo


class Seen(Promise):
    """An image that remembers which parts of it were looked at."""

    def __init__(self, image: np.ndarray) -> None:
        self.image, self.shape = image, image.shape
        self.windows: list[tuple[int, int, int, int]] = []

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        self.windows.append(self.bounds(window))
        return self.image[window]


@pytest.mark.parametrize("nearest", [True, False], ids=["nearest", "bilinear"])
def test_any_part_of_a_resized_image_is_that_of_opencv(nearest):
    rng = np.random.default_rng(0)
    flag = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    for i in range(300):
        h, w = rng.integers(1, 300, 2)
        ratio = (0.25, 0.5, 1, 2, 3)[i % 5]  # OpenCV has ways of its own for some
        height, width = (rng.integers(1, 400, 2) if i % 2 else np.maximum(1, (ratio * h, ratio * w))).astype(int)
        source = rng.integers(0, 256, (h, w) if nearest else (h, w, 3), dtype=np.uint8)
        top, left = rng.integers(0, height), rng.integers(0, width)
        bottom, right = rng.integers(top, height) + 1, rng.integers(left, width) + 1
        whole = cv2.resize(source, (int(width), int(height)), interpolation=flag)
        for given in (source, Seen(source)):
            resized = transforms.Resized(given, (int(width), int(height)), nearest=nearest)
            np.testing.assert_array_equal(resized[top:bottom, left:right], whole[top:bottom, left:right])
            np.testing.assert_array_equal(resized[:, :], whole)


def test_only_what_the_crop_needs_is_looked_at():
    image = np.random.default_rng(0).integers(0, 256, (400, 600, 3), dtype=np.uint8)
    source = Seen(image)
    transforms.Resized(source, (1200, 800))[500:600, 700:900]
    ((top, bottom, left, right),) = source.windows
    assert top <= 249
    assert bottom >= 301
    assert left <= 349
    assert right >= 451
    assert (bottom - top) * (right - left) < 60 * 115


def test_a_transform_that_knows_no_promises_sees_arrays():
    results = Results(img=Seen(np.zeros((4, 6, 3), dtype=np.uint8)), name="x")
    assert type(results["img"]) is np.ndarray
    looks = [dict, copy.deepcopy, lambda r: {**r}, lambda r: dict(r.items()), lambda r: r.copy()]
    for look in (*looks, lambda r: {"img": r.pop("img")}, lambda r: pickle.loads(pickle.dumps(r))):
        results = Results(img=Seen(np.zeros((4, 6, 3), dtype=np.uint8)), name="x")
        assert type(look(results)["img"]) is np.ndarray
    results = Results(img=Seen(np.zeros((4, 6, 3), dtype=np.uint8)))
    assert type(results.get("img")) is np.ndarray
    assert results.get("gt_seg_map") is None


def test_labels_are_counted_as_by_sorting():
    rng = np.random.default_rng(0)
    for dtype in (np.uint8, np.int32):
        labels = rng.choice([0, 3, 254, 255], size=(30, 50), p=[0.1, 0.2, 0.3, 0.4]).astype(dtype)
        for ignored in (255, 3, 77):
            found, counts = np.unique(labels, return_counts=True)
            np.testing.assert_array_equal(transforms.count_labels(labels, ignored), counts[found != ignored])
