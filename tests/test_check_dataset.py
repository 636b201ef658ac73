"""The dataset doctor: every fault that is planted is found and named, and what it advises helps."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from mmengine.registry import init_default_scope
from PIL import Image

from mmattn.cli import UserError
from mmattn.engine.config import load_config
from mmattn.registry import DATASETS

CONFIG = """
classes = {classes!r}
def loader(split):
    pipeline = [
        dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"),
        dict(type="RandomResize", scale=(40, 30), ratio_range=(0.5, 2.0), keep_ratio=True),
        dict(type="RandomCrop", crop_size=(16, 16), cat_max_ratio=0.75),
        dict(type="RandomFlip", prob=0.5), dict(type="PhotoMetricDistortion"), dict(type="PackSegInputs"),
    ]
    prefix = dict(img_path=f"img_dir/{{split}}", seg_map_path=f"ann_dir/{{split}}")
    return dict(dataset=dict(
        type="{kind}", data_root="data", data_prefix=prefix, img_suffix=".png", pipeline=pipeline
    ))
train_dataloader = loader("train")
val_dataloader = loader("val")
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
cross_entropy = dict(type="CrossEntropyLoss")
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(type="SegDataPreProcessor", seg_pad_val=255),
    decode_head=dict(type="FCNHead", loss_decode=cross_entropy),
    auxiliary_head=dict(type="FCNHead", loss_decode=cross_entropy),
)
del loader
"""
CLASSES = ("sky", "road", "car")
COUNTS = {"train": 5, "val": 3}
FIRST, SECOND = Path("data/ann_dir/train/0.png"), Path("data/ann_dir/train/1.png")
IMAGE = Path("data/img_dir/train/0.png")


def draw(values: tuple[int, ...] = (0, 1, 2, 255)) -> None:
    """Images of noise; labels in blocks, which hold all values."""
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for kind in ("img_dir", "ann_dir"):
            (Path("data") / kind / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            noise = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(noise).save(f"data/img_dir/{split}/{i}.png")
            blocks = rng.choice(np.array(values, dtype=np.uint8), (6, 8))
            blocks.flat[: len(values)] = values
            Image.fromarray(blocks.repeat(4, 0).repeat(4, 1)).save(f"data/ann_dir/{split}/{i}.png")


def configure(name: str = "mine.py", classes: tuple[str, ...] = CLASSES, kind: str = "BaseSegDataset") -> None:
    Path(name).write_text(CONFIG.format(classes=classes, kind=kind))


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable:
    """A clean dataset here, and the tool: gives exit code, output and JSON."""
    monkeypatch.chdir(tmp_path)
    draw()
    configure()

    def run(*arguments: str, config: str = "mine.py") -> tuple[int, str, dict]:
        Path("out.json").unlink(missing_ok=True)
        code = tiny.call("check_dataset", [config, "--json", "out.json", *arguments], monkeypatch)
        out, err = capfd.readouterr()
        assert code in (0, 1), err
        assert "error" not in err
        return code, out, json.loads(Path("out.json").read_text())

    return run


def repaint(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    Image.fromarray(change(np.array(Image.open(path)))).save(path)


def repaint_all(change: Callable[[np.ndarray], np.ndarray]) -> None:
    for path in Path("data/ann_dir").rglob("*.png"):
        repaint(path, change)


def with_pixel(value: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(labels: np.ndarray) -> np.ndarray:
        labels[-1, -3:] = value
        return labels

    return change


def kinds(report: dict, severity: str | None = None) -> list[str]:
    return [each["kind"] for each in report["findings"] if severity in (None, each["severity"])]


def loads(index: int, split: str = "train") -> str:
    """What loading for training says of an image; empty when it is content."""
    cfg = load_config("mine.py")
    init_default_scope("mmattn")
    try:
        DATASETS.build(cfg[f"{split}_dataloader"]["dataset"])[index]
    except UserError as error:
        return str(error)
    return ""


# -- all is well ---------------------------------------------------------------------------------------------------


def test_clean(check: Callable) -> None:
    code, out, report = check()
    assert code == 0
    assert "all is well" in out
    assert not report["findings"]
    assert "reduce_zero_label" not in out
    train = report["splits"][0]
    assert [split["name"] for split in report["splits"]] == ["train", "val, test"]
    paths = sorted(Path("data/ann_dir/train").iterdir())
    labels = [np.array(Image.open(path)) for path in paths]
    assert train["pixels"] == [sum(int((each == label).sum()) for each in labels) for label in range(3)]
    assert train["pixels_ignored"] == sum(int((each == 255).sum()) for each in labels)
    assert train["images_of_class"] == [5, 5, 5]
    assert train["sizes"] == {"32x24": 5}


def test_class_weights_are_median_frequencies(check: Callable) -> None:
    """And they reach the losses when the printed config is used."""
    repaint(FIRST, lambda labels: np.where(labels == 2, 255, labels).astype(np.uint8))  # a class in some images
    _, out, report = check()
    frequency = []
    for label in range(3):
        held = within = 0
        for path in Path("data/ann_dir/train").iterdir():
            pixels = np.array(Image.open(path)).ravel().tolist()
            if label in pixels:
                held += pixels.count(label)
                within += sum(pixel != 255 for pixel in pixels)
        frequency.append(held / within)
    assert report["class_weight"] == pytest.approx([sorted(frequency)[1] / each for each in frequency], abs=1e-4)
    save_pasted(out)
    cfg = load_config("fixed.py")
    assert cfg.model.decode_head.loss_decode.class_weight == report["class_weight"]
    assert cfg.model.auxiliary_head.loss_decode.class_weight == report["class_weight"]


# -- single files --------------------------------------------------------------------------------------------------

FAULTS = {
    "no label": ("missing label", FIRST, Path.unlink),
    "no text": ("unreadable label", FIRST, lambda path: path.write_text("labels")),
    "empty label": ("unreadable label", FIRST, lambda path: path.write_bytes(b"")),
    "half a label": ("unreadable label", FIRST, lambda path: path.write_bytes(path.read_bytes()[:70])),
    "half an image": ("unreadable image", IMAGE, lambda path: path.write_bytes(path.read_bytes()[:900])),
    "text as image": ("unreadable image", IMAGE, lambda path: path.write_text("image")),
    "folder": ("unreadable label", FIRST, lambda path: (path.unlink(), path.mkdir())),
    "size": ("size", FIRST, lambda path: repaint(path, lambda labels: labels[:20])),
    "turned": ("size", FIRST, lambda path: repaint(path, np.rot90)),
    "colour": ("colour label", FIRST, lambda path: Image.open(path).convert("RGB").save(path)),
    "outside": ("outside", FIRST, lambda path: repaint(path, with_pixel(77))),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_at_which_training_stops(name: str, check: Callable) -> None:
    """It is found, named, and left out by the printed config; loading for training stops there and nowhere else."""
    kind, path, spoil = FAULTS[name]
    spoil(path)
    if name == "no label":
        assert "does not exist" in loads(0)
    assert str(path) in loads(0)
    assert not loads(1)
    code, out, report = check()
    assert code == 1
    assert kinds(report) == [kind]
    named = [each["file"] for each in report["findings"][0]["files"]]
    named += [file for each in report["findings"][0]["values"] for file in each["named"]]
    assert named == [str(path)]
    assert str(path) in out
    save_pasted(out)
    code, out, report = check(config="fixed.py")
    assert code == 0, out
    assert report["splits"][0]["images"] == 4
    assert "# save as fixed2.py\n_base_ = ['fixed.py']" in out


def test_missing_image(check: Callable) -> None:
    """Only a list can name one; without it the label is alone."""
    IMAGE.unlink()
    code, out, report = check()
    assert (code, kinds(report)) == (0, ["label alone"])
    assert str(FIRST) in out
    Path("data/list.txt").write_text("0\n1\n2\n")
    code, out, report = check("--cfg-options", "train_dataloader.dataset.ann_file=list.txt")
    assert (code, kinds(report)) == (1, ["missing image"])
    assert str(IMAGE) in out


def test_values_outside_are_counted(check: Callable) -> None:
    repaint(FIRST, with_pixel(77))
    repaint(SECOND, with_pixel(77))
    repaint(SECOND, lambda labels: np.vstack([np.full((2, 32), 9, np.uint8), labels[2:]]))
    code, out, report = check()
    assert code == 1
    assert re.search(rf"9  64 pixels in 1 file, {SECOND}", out)
    assert re.search(rf"77  6 pixels in 2 files, such as {FIRST}", out)
    values = report["findings"][0]["values"]
    assert [(each["value"], each["pixels"], each["files"]) for each in values] == [(9, 64, 1), (77, 6, 2)]
    assert values[1]["named"] == [str(FIRST), str(SECOND)]


@pytest.mark.parametrize(("offset", "code"), [(256, 1), (0, 0)])
def test_sixteen_bits(offset: int, code: int, check: Callable) -> None:
    """Values that do not fit into 8 bits are read as others, and training goes on; those that fit are fine."""
    repaint(FIRST, lambda labels: labels.astype(np.uint16) + offset)
    assert Image.open(FIRST).mode == "I;16"
    assert not loads(0)
    found, out, report = check()
    assert found == code
    assert kinds(report) == ["bit depth"] * code
    assert (f"uint16 instead of 8 bits: {256} would be read as 0" in out) == bool(code)


def test_truncated_jpeg_behind_a_thumbnail() -> None:
    """A thumbnail has an end of its own, which is not the image's."""
    import io

    from mmattn.engine.doctor.reading import cut_off

    def jpeg(size: int, **kwargs: object) -> bytes:
        stream = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(stream, "JPEG", **kwargs)
        return stream.getvalue()

    for whole in (jpeg(64), jpeg(64, progressive=True), jpeg(64, exif=b"Exif\0\0" + jpeg(16))):
        assert not cut_off(whole)
        assert not cut_off(whole + b"something after it")
        for length in (len(whole) - 2, len(whole) // 2, 700):
            assert cut_off(whole[:length])


# -- the set as a whole --------------------------------------------------------------------------------------------


def test_image_in_two_splits(check: Callable) -> None:
    """Found by what it shows, whatever its name and compression."""
    Image.open(IMAGE).save("data/img_dir/val/1.png", compress_level=1)
    assert IMAGE.read_bytes() != Path("data/img_dir/val/1.png").read_bytes()
    code, out, report = check()
    assert (code, kinds(report)) == (1, ["two splits"])
    found = report["findings"][0]
    assert found["files"] == [{"file": "data/img_dir/val/1.png", "detail": f"the same picture as {IMAGE}"}]
    save_pasted(out)
    code, _, report = check(config="fixed.py")
    assert code == 0
    assert [split["images"] for split in report["splits"]] == [4, 3]


def test_doubts(check: Callable) -> None:
    """What training gets through is a warning."""
    repaint(FIRST, lambda labels: np.full_like(labels, 255))
    shutil.copy("data/img_dir/train/2.png", "data/img_dir/train/3.png")
    for path in Path("data/ann_dir/train").iterdir():
        repaint(path, lambda labels: np.where(labels == 2, 255, labels).astype(np.uint8))
    Image.new("L", (4, 4)).save("data/ann_dir/val/lonely.png")
    code, out, report = check()
    assert code == 0
    assert sorted(kinds(report, "warning")) == ["absent", "label alone", "only ignored", "twice"]
    for text in (str(FIRST), "lonely.png", "train: classes that never occur: car", "data/img_dir/train/3.png"):
        assert text in out
    assert report["class_weight"][2] == 1.0


def test_nothing_but_ignored(check: Callable) -> None:
    repaint_all(lambda labels: np.full_like(labels, 255))
    code, _, report = check()
    assert code == 1
    assert "no class" in kinds(report, "error")


# -- labels that mean something else ------------------------------------------------------------------------------


def save_pasted(out: str, which: int = 0) -> None:
    """Do what is printed: run the code, save the config."""
    for code in re.findall(r"^# run once\n(.*?)^# save", out, re.MULTILINE | re.DOTALL)[which:][:1]:
        subprocess.run([sys.executable, "-c", code], check=True)
    text = re.findall(r"^# save as fixed.py\n(.*?)^python tools/train.py fixed.py", out, re.MULTILINE | re.DOTALL)
    Path("fixed.py").write_text(text[which])


def test_labels_from_one_on(check: Callable) -> None:
    repaint_all(lambda labels: np.where(labels == 255, 255, labels + 1).astype(np.uint8))
    code, out, report = check()
    assert code == 1
    assert "labels are 1 to 3" in out
    assert "with reduce_zero_label=True, 0 (0.0% of the pixels) is ignored" in out
    assert "no value is outside, every class occurs" in out
    assert [set(each["settings"]) for each in report["remedies"]] == [
        {f"{loader}_dataloader.dataset.reduce_zero_label" for loader in ("train", "val", "test")}
    ]
    save_pasted(out)
    code, out, again = check(config="fixed.py")
    assert code == 0, out
    assert again["splits"][0]["pixels"] == [report["splits"][0]["values_in_files"][value] for value in "123"]


def test_one_label_too_many(check: Callable) -> None:
    """0 to 3 with three classes: either 0 is to be ignored, or 3; both ways lead on."""
    draw((0, 1, 2, 3))
    code, out, report = check()
    assert code == 1
    assert len(report["remedies"]) == 2
    for which, kept in enumerate(("123", "012")):
        save_pasted(out, which)
        code, text, again = check(config="fixed.py")
        assert code == 0, text
        assert again["splits"][0]["pixels"] == [report["splits"][0]["values_in_files"][value] for value in kept]
    cfg = load_config("fixed.py")
    assert cfg.model.data_preprocessor.seg_pad_val == cfg.model.auxiliary_head.ignore_index == 3
    assert cfg.val_evaluator == {"type": "IoUMetric", "iou_metrics": ["mIoU"], "ignore_index": 3}


def test_reduced_though_labels_start_at_zero(check: Callable) -> None:
    """Nothing stops: every class would be learned as the one before."""
    configure("mine.py")
    Path("reduced.py").write_text(
        "_base_ = ['mine.py']\n"
        + "".join(f"{part}_dataloader = dict(dataset=dict(reduce_zero_label=True))\n" for part in COUNTS | {"test": 0})
    )
    code, out, report = check(config="reduced.py")
    assert code == 1
    assert kinds(report, "error") == ["reduced"]
    assert "with reduce_zero_label=False" in out
    save_pasted(out)
    assert check(config="fixed.py")[0] == 0


def test_masks(check: Callable) -> None:
    """255 as the object is ignored: training would know one class."""
    configure(classes=("ground", "thing"))
    draw((0, 255))
    code, out, report = check()
    assert code == 1
    assert kinds(report, "error") == ["mask"]
    assert "class 1, 'thing', never occurs" in out
    save_pasted(out)
    code, out, again = check(config="fixed.py")
    assert code == 0, out
    assert again["splits"][0]["pixels"] == [report["splits"][0]["values_in_files"][value] for value in ("0", "255")]


def test_grey_levels(check: Callable) -> None:
    draw((0, 127, 254))
    code, out, report = check()
    assert code == 1
    assert "grey levels" in kinds(report)
    save_pasted(out)
    assert check(config="fixed.py")[0] == 0


def test_cityscapes_ids(check: Callable) -> None:
    Path("mine.py").write_text(CONFIG.format(classes=(), kind="CityscapesDataset").replace("classes = ()", ""))
    draw((0, 7, 11, 26, 33))
    for folder in ("img_dir", "ann_dir"):
        for path in list(Path("data", folder).rglob("*.png")):
            if folder == "ann_dir":
                path.rename(path.with_name(path.stem + "_gtFine_labelTrainIds.png"))
    code, out, _ = check()
    assert code == 1
    assert "Cityscapes' labelIds" in out
    assert "python tools/prepare_data.py cityscapes data" in out


# -- the guard while training --------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduce", [False, True])
@pytest.mark.parametrize("subset", [False, True])
def test_loading_guards_each_label(reduce: bool, subset: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bad pixel stops it, in whatever crop; good labels leave the augmentation inside the classes."""
    monkeypatch.chdir(tmp_path)
    draw((1, 2, 11, 255))
    configure(classes=("road", "building", "tree") if subset else (), kind="CamVidDataset")
    if not subset:
        Path("mine.py").write_text(Path("mine.py").read_text().replace("classes = ()", ""))
    option = {"train_dataloader.dataset.reduce_zero_label": reduce}
    if not reduce:
        repaint_all(lambda labels: np.where(labels == 11, 10, labels).astype(np.uint8))
    dataset = DATASETS.build(load_config("mine.py", option).train_dataloader.dataset)
    for _ in range(5):
        values = dataset[1]["data_samples"].gt_sem_seg.data.unique().tolist()
        assert set(values) <= {*range(3 if subset else 11), 255}
    repaint(FIRST, with_pixel(77))
    for _ in range(5):
        with pytest.raises(UserError, match=f"{FIRST} holds the label {76 if reduce else 77}"):
            dataset[0]


# -- the tool ------------------------------------------------------------------------------------------------------


def test_names_cannot_break_the_terminal(check: Callable) -> None:
    evil = "\x1b[2J\n\u202egnp"
    configure(classes=("sky", "ro\x1b[31mad", "car"))
    FIRST.rename(FIRST.with_stem(evil))
    code, out, report = check()
    assert code == 1
    assert all(character.isprintable() or character == "\n" for character in out)
    assert r"\x1b[2J\n\u202egnp.png" in out
    assert report["classes"][1] == "ro\x1b[31mad"
    assert {"file": f"data/ann_dir/train/{evil}.png", "detail": ""} in report["findings"][1]["files"]
    assert Path("out.json").read_text().isascii()


def test_terminal_that_knows_ascii_alone(check: Callable) -> None:
    configure(classes=("ciel", "rue", "piéton"))
    FIRST.rename(FIRST.with_stem("über"))
    environment = {**os.environ, "PYTHONPATH": str(tiny.REPOSITORY), "PYTHONIOENCODING": "ascii"}
    tool = tiny.REPOSITORY / "tools" / "check_dataset.py"
    done = subprocess.run([sys.executable, tool, "mine.py"], capture_output=True, text=True, env=environment)
    assert done.returncode == 1, done.stderr
    assert r"pi\xe9ton" in done.stdout
    assert "####" in done.stdout
    assert not done.stderr
    assert r"\xfcber.png" in done.stdout


def test_default_report(check: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tiny.call("check_dataset", ["mine.py"], monkeypatch) == 0
    assert json.loads(Path("work_dirs/mine/dataset.json").read_text())["config"] == "mine.py"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["yours.py"], "there is no config file yours.py"),
        (["mine.py", "--cfg-options", "data_root=nowhere"], "there is no folder nowhere"),
        (["mine.py", "--json", "/proc/none/out.json"], "cannot write /proc/none/out.json"),
        (["empty.py"], "names no dataset"),
    ],
)
def test_wrong_input(
    arguments: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    draw()
    configure()
    Path("empty.py").write_text("")
    assert tiny.call("check_dataset", arguments, monkeypatch) == 2
    assert complaint in capsys.readouterr().err


def test_interrupted(check: Callable) -> None:
    """One line, exit code 130, and no report of half the data."""
    Path("data/list.txt").write_text("0\n" * 20_000)
    code = (
        "import pathlib, sys, time; from mmattn import cli; from mmattn.engine.doctor import splits;"
        "look = splits.look;"
        "splits.look = lambda pair: (pathlib.Path('begun').touch(), time.sleep(0.1), look(pair))[2];"
        f"sys.path.insert(0, {str(tiny.REPOSITORY / 'tools')!r}); import check_dataset; cli.run(check_dataset.main)"
    )
    arguments = ["mine.py", "--cfg-options", "train_dataloader.dataset.ann_file=list.txt"]
    environment = {**os.environ, "PYTHONPATH": str(tiny.REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stderr=subprocess.PIPE,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    while not Path("begun").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1].decode().splitlines()[-1:] == ["interrupted"]
    assert process.returncode == 130
    assert not Path("work_dirs").exists()
