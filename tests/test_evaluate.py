"""Testing a checkpoint: the scores are those of a slow loop over the files that were written."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmseg")

from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric as MMSegIoUMetric
from mmseg.structures import SegDataSample

from mmattn.cli import UserError
from mmattn.datasets.labels import TRAINED
from mmattn.engine import evaluate as module
from mmattn.engine.config import build_model, load_config
from mmattn.evaluation.metrics import IoUMetric, SavePredictions
from mmattn.evaluation.palettes import PALETTES

ROOT = Path(__file__).parent.parent
CITYSCAPES = PALETTES["cityscapes"]
CLASSES = len(CITYSCAPES.classes)
CONFIG = f"""
_base_ = "{(ROOT / "configs/ccnet_r50.py").as_posix()}"
crop_size = (24, 32)
model = dict(
    pretrained=None,
    backbone=dict(type="ResNet", depth=18, base_channels=8),
    decode_head=dict(in_channels=64, channels=8),
    auxiliary_head=dict(in_channels=32, channels=8),
)
test_pipeline = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="TestTimeAug", transforms=[
        [dict(type="Resize", scale_factor=1.0), dict(type="Resize", scale_factor=1.5)],
        [dict(type="LoadAnnotations")],
        [dict(type="PackSegInputs")],
    ]),
]
train_dataloader = dict(dataset=dict(pipeline=[dict(type="RandomCrop", crop_size=crop_size)]))
test_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline))
"""


def slow_iou(pairs: list[tuple[np.ndarray, np.ndarray]], count: int) -> tuple[list[float], list[float]]:
    """IoU and accuracy of each class, in percent, pixel by pixel; pairs of prediction and label."""
    both, either, true = [0] * count, [0] * count, [0] * count
    for predicted, label in pairs:
        for y, x in np.ndindex(label.shape):
            p, t = int(predicted[y, x]), int(label[y, x])
            if t == 255:
                continue
            both[t] += p == t
            true[t] += 1
            for c in {p, t}:
                either[c] += 1
    ratio = lambda a, b: [100 * i / j if j else float("nan") for i, j in zip(a, b, strict=True)]  # noqa: E731
    return ratio(both, either), ratio(both, true)


def sample(predicted: np.ndarray, label: np.ndarray | None = None, path: str = "a.png") -> dict:
    found = SegDataSample(metainfo={"img_path": path})
    found.pred_sem_seg = PixelData(data=torch.from_numpy(predicted)[None])
    if label is not None:
        found.gt_sem_seg = PixelData(data=torch.from_numpy(label)[None])
    return found.to_dict()


def score(metric: MMSegIoUMetric, pairs: list[tuple[np.ndarray, np.ndarray]], names: tuple[str, ...]) -> dict:
    metric.dataset_meta = {"classes": names}
    metric.process({}, [sample(predicted, label) for predicted, label in pairs])
    return metric.evaluate(size=len(pairs))


def test_metric_is_a_slow_loop_and_mmsegs():
    rng = np.random.default_rng(0)
    names = tuple("abcdef")  # e is never a label, f is neither a label nor predicted
    pairs = [(rng.integers(0, 5, (7, 9)), rng.choice([0, 1, 2, 3, 255], (7, 9))) for _ in range(3)]
    metric = IoUMetric()
    scores = score(metric, pairs, names)
    iou, accuracy = slow_iou(pairs, len(names))
    assert [metric.per_class[name]["IoU"] for name in names] == pytest.approx(iou, nan_ok=True, abs=1e-12)
    assert [metric.per_class[name]["Acc"] for name in names] == pytest.approx(accuracy, nan_ok=True, abs=1e-12)
    assert metric.absent == ("e", "f")
    assert metric.per_class["e"]["IoU"] == 0
    assert np.isnan(metric.per_class["f"]["IoU"])
    assert scores["mIoU"] == pytest.approx(np.mean(iou[:5]), abs=0.00501)
    assert scores == pytest.approx(score(MMSegIoUMetric(), pairs, names), rel=1e-6)


def test_counts_stay_exact_beyond_float32():
    predicted, label = np.zeros((3, 683), dtype=int), np.zeros((3, 683), dtype=int)
    label[0, 0] = 1  # 2048 of 2049 pixels are right
    images = 9000  # 18 million pixels; float32 counts to 2^24, 16.8 million
    one = IoUMetric.intersect_and_union(torch.from_numpy(predicted), torch.from_numpy(label), 2, 255)
    theirs = MMSegIoUMetric.intersect_and_union(torch.from_numpy(predicted), torch.from_numpy(label), 2, 255)
    assert [float(count) for count in sum([one[3]] * images)] == [2048 * images, images]
    assert float(sum([theirs[1]] * images)[0]) != 2049 * images
    metric = IoUMetric()
    metric.dataset_meta = {"classes": ("a", "b")}
    metric.compute_metrics([one] * images)
    assert metric.per_class["a"]["IoU"] == 100 * (2048 / 2049)  # exactly that of float64 arithmetic


@pytest.mark.parametrize("ignore_index", [255, 2, 0, 4, -100, 1000])
@pytest.mark.parametrize("dtype", [torch.long, torch.float32])
def test_ignored_pixels_do_not_count(ignore_index, dtype):
    predicted, label = torch.randint(0, 4, (9, 8)), torch.randint(0, 4, (9, 8))
    label[torch.rand(9, 8) < 0.2] = ignore_index
    actual = IoUMetric.intersect_and_union(predicted.to(dtype), label.to(dtype), 4, ignore_index)
    scored = label != ignore_index
    for c in range(4):
        p, t = (predicted == c) & scored, (label == c) & scored
        assert [int(count[c]) for count in actual] == [int(x.sum()) for x in (p & t, p | t, p, t)]
    assert all(count.dtype == torch.long for count in actual)


@pytest.mark.parametrize("value", [4, 6, 254, 300])
def test_labels_beyond_the_classes_are_refused(value):
    label = torch.tensor([[0, 3, 255, value]])
    with pytest.raises(UserError, match="4 classes"):
        IoUMetric.intersect_and_union(torch.zeros_like(label), label, 4, 255)


@pytest.mark.parametrize("values", ["palette", "labelids"])
def test_predictions_read_back(tmp_path, values):
    classes = np.arange(24).reshape(4, 6) % CLASSES
    writer = SavePredictions(str(tmp_path / "new" / "out"), values)
    writer.dataset_meta = {"classes": CITYSCAPES.classes, "palette": [list(colour) for colour in CITYSCAPES.colours]}
    writer.process({}, [sample(classes, path="somewhere/ulm_000001_000002_leftImg8bit.png")])
    with Image.open(tmp_path / "new/out/ulm_000001_000002_leftImg8bit.png") as image:
        found = np.asarray(image)
        colours = np.asarray(image.convert("RGB"))
    for y, x in np.ndindex(classes.shape):
        row = TRAINED[classes[y, x]]
        assert found[y, x] == (row.train_id if values == "palette" else row.id)
        assert values == "labelids" or tuple(colours[y, x]) == row.colour


def test_label_ids_are_of_cityscapes_alone(tmp_path):
    writer = SavePredictions(str(tmp_path), "labelids")
    writer.dataset_meta = {"classes": PALETTES["camvid"].classes}
    with pytest.raises(UserError, match="19 classes"):
        writer.process({}, [sample(np.zeros((2, 2), dtype=int))])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Config and random weights of a tiny CCNet."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "tiny.py").write_text(CONFIG)
    torch.manual_seed(0)
    model = build_model(load_config(folder / "tiny.py"))
    torch.nn.init.normal_(model.decode_head.conv_seg.weight, std=3.0)
    torch.save({"meta": {}, "state_dict": model.state_dict()}, folder / "tiny.pth")
    return folder


@pytest.fixture
def city(tmp_path):
    """Three labelled images as Cityscapes has them, bus and train nowhere in the labels."""
    rng = np.random.default_rng(0)
    values = [c for c in range(CLASSES) if CITYSCAPES.classes[c] not in ("bus", "train")] + [255]
    for i in range(3):
        for kind, suffix, pixels in (
            ("leftImg8bit", "leftImg8bit", rng.integers(0, 256, (40, 48, 3))),
            ("gtFine", "gtFine_labelTrainIds", rng.choice(values, (40, 48))),
        ):
            path = tmp_path / "city" / kind / "val" / "ulm" / f"ulm_000000_00000{i}_{suffix}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tmp_path / "city"


def predict_by_hand(model: torch.nn.Module, image: np.ndarray) -> np.ndarray:
    """Classes of an RGB image by the model's parts, without mmseg's pipeline and preprocessor."""
    x = (image - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
    with torch.no_grad():
        logits = model.decode_head(model.backbone(torch.from_numpy(x).float().permute(2, 0, 1)[None]))
        logits = torch.nn.functional.interpolate(logits, size=image.shape[:2], mode="bilinear", align_corners=False)
    return logits[0].argmax(dim=0).numpy()


def evaluated(folder: Path, city: Path, *options: str, **arguments: object) -> dict | None:
    names = [f"data_root={city}", f"experiment_name={city.parent.name}{len(list(city.parent.iterdir()))}", *options]
    cfg = module.prepare(
        folder / "tiny.py", str(folder / "tiny.pth"), options=names, work_dir=str(city.parent / "work")
    )
    found = module.evaluate(cfg, str(folder / "tiny.pth"), **arguments)
    return json.loads(found.read_text()) if found else None


def test_tool_scores_what_it_writes(checkpoint, city, tmp_path):
    command = [sys.executable, ROOT / "tools/test.py", checkpoint / "tiny.py", checkpoint / "tiny.pth"]
    command += ["--work-dir", tmp_path / "work", "--out", tmp_path / "out", "--show-dir", tmp_path / "show"]
    done = subprocess.run(
        [*map(str, command), "--cfg-options", f"data_root={city}"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "in no label, so without accuracy: bus, train" in done.stdout + done.stderr
    assert len(done.stdout.splitlines()) < 60
    (path,) = (tmp_path / "work").rglob("metrics.json")
    assert f"scores: {path}" in done.stdout
    record = json.loads(path.read_text(), parse_constant=pytest.fail)  # no NaN: that is not JSON
    pairs = []
    for written in sorted((tmp_path / "out").iterdir()):
        label = city / f"gtFine/val/ulm/{written.stem.replace('leftImg8bit', 'gtFine_labelTrainIds')}.png"
        pairs.append((np.asarray(Image.open(written)), np.asarray(Image.open(label))))
    assert len(pairs) == record["images"] == 3
    assert len(np.unique([predicted for predicted, _ in pairs])) > 3
    model = build_model(load_config(checkpoint / "tiny.py"), checkpoint / "tiny.pth")
    for (predicted, _), image in zip(pairs, sorted((city / "leftImg8bit").rglob("*.png")), strict=True):
        np.testing.assert_array_equal(predicted, predict_by_hand(model, np.asarray(Image.open(image))))
    iou, accuracy = slow_iou(pairs, CLASSES)
    for name, i, a in zip(CITYSCAPES.classes, iou, accuracy, strict=True):
        assert record["classes"][name]["IoU"] == (None if np.isnan(i) else pytest.approx(i, rel=1e-12))
        assert record["classes"][name]["Acc"] == (None if np.isnan(a) else pytest.approx(a, rel=1e-12))
    assert record["scores"]["mIoU"] == pytest.approx(np.nanmean(iou), abs=0.00501)
    assert record["classes_in_no_label"] == ["bus", "train"]
    assert record["versions"]["torch"] == torch.__version__
    assert len(list((tmp_path / "show").rglob("*.png"))) == 3


def test_window_as_large_as_the_image_is_the_whole_image(checkpoint, city):
    whole = evaluated(checkpoint, city)
    mode, window = "model.test_cfg.mode=slide", "model.test_cfg.crop_size=(64,64)"
    wide = evaluated(checkpoint, city, mode, window)
    assert wide["classes"] == whole["classes"]
    assert wide["inference"] == {"mode": "slide", "crop_size": [64, 64], "stride": [43, 43], "tta": False}
    narrow = evaluated(checkpoint, city, mode)
    assert narrow["inference"]["crop_size"] == [24, 32]
    assert narrow["inference"]["stride"] == [16, 21]
    assert narrow["classes"] != whole["classes"]


def test_augmented_scores_differ(checkpoint, city):
    augmented = evaluated(checkpoint, city, tta=True)
    assert augmented["inference"]["tta"]
    assert augmented["images"] == 3
    assert augmented["classes"] != evaluated(checkpoint, city)["classes"]


@pytest.mark.parametrize("tta", [False, True])
def test_format_only_reads_no_label(checkpoint, city, tmp_path, tta):
    for path in (city / "gtFine").rglob("*.png"):
        path.unlink()
    out = tmp_path / "server"
    assert evaluated(checkpoint, city, out=out, values="labelids", format_only=True, tta=tta) is None
    written = [np.asarray(Image.open(path)) for path in sorted(out.iterdir())]
    assert [image.shape for image in written] == [(40, 48)] * 3
    assert set(np.unique(written)) <= {row.id for row in TRAINED}


def test_the_config_that_the_training_wrote_stays(checkpoint, city, tmp_path):
    (tmp_path / "work").mkdir()
    written = tmp_path / "work" / "tiny.py"
    written.write_text("# of the training\n")
    evaluated(checkpoint, city)
    assert written.read_text() == "# of the training\n"


def replace(folder: Path, pattern: str, pixels: np.ndarray | str) -> Path:
    path = sorted(folder.rglob(pattern))[0]
    Image.fromarray(pixels).save(path) if isinstance(pixels, np.ndarray) else path.write_text(pixels)
    return path


FAULTS = {
    "text named png": ("*leftImg8bit.png", "text", "cannot be read"),
    "label of other size": ("*TrainIds.png", np.zeros((40, 47), dtype=np.uint8), "47x40"),
    "label outside the classes": ("*TrainIds.png", np.full((40, 48), 19, dtype=np.uint8), "19"),
    "label is no image": ("*TrainIds.png", "text", "cannot be read"),
}


@pytest.mark.parametrize(("fault", "workers"), [*((fault, 0) for fault in FAULTS), ("label of other size", 1)])
def test_bad_files_are_named(checkpoint, city, fault, workers):
    pattern, pixels, told = FAULTS[fault]
    path = replace(city, pattern, pixels)
    with pytest.raises(UserError) as error:
        evaluated(checkpoint, city, f"test_dataloader.num_workers={workers}")
    assert str(path) in str(error.value)
    assert told in str(error.value)
    assert "Traceback" not in str(error.value)


def test_empty_folder_is_named(checkpoint, city):
    for path in (city / "leftImg8bit").rglob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match=r"no image in .*leftImg8bit/val"):
        evaluated(checkpoint, city)


def test_images_of_one_name_do_not_overwrite_each_other(checkpoint, city, tmp_path):
    for kind in ("leftImg8bit", "gtFine"):
        source = city / kind / "val" / "ulm"
        (city / kind / "val" / "aachen").mkdir()
        for path in source.iterdir():
            (city / kind / "val" / "aachen" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="2 images are called ulm_000000_00000"):
        evaluated(checkpoint, city, out=tmp_path / "out")


def test_wrong_checkpoints_are_refused(checkpoint, city, tmp_path):
    with pytest.raises(UserError, match=r"there is no checkpoint .*nowhere\.pth"):
        module.prepare(checkpoint / "tiny.py", str(tmp_path / "nowhere.pth"))
    state = torch.load(checkpoint / "tiny.pth", weights_only=True)["state_dict"]
    renamed = {key.replace("decode_head.", "decode_head.other."): value for key, value in state.items()}
    torch.save({"state_dict": renamed}, tmp_path / "other.pth")
    cfg = module.prepare(
        checkpoint / "tiny.py",
        str(tmp_path / "other.pth"),
        options=[f"data_root={city}", "experiment_name=other"],
        work_dir=str(tmp_path / "work"),
    )
    with pytest.raises(UserError, match=r"another architecture[\s\S]*missing[\s\S]*other\."):
        module.evaluate(cfg, str(tmp_path / "other.pth"))


def test_unreachable_url_is_named(checkpoint):
    with pytest.raises(UserError, match=r"cannot fetch http://127\.0\.0\.1:9/absent\.pth"):
        module.prepare(checkpoint / "tiny.py", "http://127.0.0.1:9/absent.pth")


def test_checkpoint_of_the_sample_is_tested_on_the_sample(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drawn = []
    monkeypatch.setattr(module.sample, "ensure", drawn.append)
    Path("tiny.py").write_text(CONFIG)
    beside = tmp_path / "work_dirs" / "tiny_sample"
    beside.mkdir(parents=True)
    spy = f"open({str(tmp_path / 'ran')!r}, 'w')\n"  # what a checkpoint says is read, not run
    torch.save({"meta": {"cfg": spy + "data_root='data/sample'"}, "state_dict": {}}, beside / "iter_5.pth")
    with pytest.raises(UserError, match="built-in sample: test it with the config of its training"):
        module.prepare("tiny.py", str(beside / "iter_5.pth"))
    used = load_config("tiny.py", ["data_root=data/sample"])
    used.dump(beside / "tiny.py")
    cfg = module.prepare("tiny.py", str(beside / "iter_5.pth"))
    assert cfg.test_dataloader.dataset.data_root == "data/sample"
    assert drawn == [Path("data/sample")]
    other = module.prepare("tiny.py", str(beside / "iter_5.pth"), options=["data_root=data/mine"])
    assert other.test_dataloader.dataset.data_root == "data/mine"
    assert not (tmp_path / "ran").exists()
