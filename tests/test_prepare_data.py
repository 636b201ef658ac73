"""Preparing datasets: made from what is published, complete or said what is missing, safe to interrupt."""

import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmattn.cli import UserError
from mmattn.datasets import prepare
from mmattn.datasets.labels import CITYSCAPES
from mmattn.evaluation.palettes import PALETTES

TOOL = Path(__file__).parent.parent / "tools" / "prepare_data.py"
TRAINED_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # road ... bicycle
SMALL = {"train": {"aachen": 3, "ulm": 2}, "val": {"lindau": 2}, "test": {"bonn": 1}}


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A Cityscapes of eight images that is complete."""
    monkeypatch.setattr(prepare, "CITIES", SMALL)
    rng = np.random.default_rng(0)
    for split, cities in SMALL.items():
        for city, count in cities.items():
            for i in range(count):
                key = f"{split}/{city}/{city}_000000_{i:06d}"
                save(tmp_path / f"leftImg8bit/{key}_leftImg8bit.png", rng.integers(0, 256, (8, 16, 3), dtype=np.uint8))
                save(tmp_path / f"gtFine/{key}_gtFine_labelIds.png", rng.integers(0, 34, (8, 16), dtype=np.uint8))
    return tmp_path


def test_table_is_the_published_one():
    assert len(CITYSCAPES) == 34
    assert [label.id for label in CITYSCAPES] == list(range(34))
    assert tuple(label.id for label in CITYSCAPES if label.train_id != 255) == TRAINED_IDS
    assert [CITYSCAPES[i].train_id for i in TRAINED_IDS] == list(range(19))


def test_table_is_that_of_cityscapesscripts():
    library = pytest.importorskip("cityscapesscripts.helpers.labels", reason="pip install --no-deps cityscapesscripts")
    expected = [(row.name, row.id, row.trainId, row.color) for row in library.labels if row.id >= 0]
    assert [tuple(label) for label in CITYSCAPES] == expected


def test_palette_is_that_of_mmseg():
    datasets = pytest.importorskip("mmseg.datasets")
    theirs = datasets.CityscapesDataset.METAINFO
    assert PALETTES["cityscapes"].classes == tuple(theirs["classes"])
    assert [list(colour) for colour in PALETTES["cityscapes"].colours] == theirs["palette"]


def test_cities_add_up_to_the_published_splits():
    totals = {split: sum(cities.values()) for split, cities in prepare.CITIES.items()}
    assert totals == {"train": 2975, "val": 500, "test": 1525}
    assert {split: len(cities) for split, cities in prepare.CITIES.items()} == {"train": 18, "val": 3, "test": 6}


def test_train_ids_are_made_pixel_by_pixel(tree):
    report = prepare.cityscapes(tree)
    assert (report.made, report.kept, report.problems, report.notes) == (8, 0, [], [])
    assert report.counts == {"train": 5, "val": 2, "test": 1}
    for source in (tree / "gtFine").rglob("*_labelIds.png"):
        ids = np.asarray(Image.open(source))
        made = np.asarray(Image.open(str(source).replace("labelIds", "labelTrainIds")))
        for y, x in np.ndindex(ids.shape):
            assert made[y, x] == (TRAINED_IDS.index(ids[y, x]) if ids[y, x] in TRAINED_IDS else 255)


def test_second_run_redoes_only_what_is_damaged(tree):
    prepare.cityscapes(tree)
    made = sorted((tree / "gtFine").rglob("*_labelTrainIds.png"))
    whole = made[0].read_bytes()
    made[0].write_bytes(whole[:-30])  # cut off
    made[1].unlink()
    Image.fromarray(255 - np.asarray(Image.open(made[2]))).save(made[2])  # other values
    times = {path: path.stat().st_mtime_ns for path in made[3:]}
    report = prepare.cityscapes(tree)
    assert (report.made, report.kept, report.problems) == (3, 5, [])
    assert made[0].read_bytes() == whole
    assert times == {path: path.stat().st_mtime_ns for path in made[3:]}


def test_interrupted_write_leaves_no_label_behind(tree, monkeypatch):
    def interrupted(self, path, **_):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(Image.Image, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare.cityscapes(tree)
    assert not list(tree.rglob("*_labelTrainIds.png"))
    assert prepare.cityscapes(tree).made == 8
    assert not list(tree.rglob("*.part"))


def test_missing_files_are_named(tree):
    (tree / "leftImg8bit/train/aachen/aachen_000000_000001_leftImg8bit.png").unlink()
    (tree / "gtFine/val/lindau/lindau_000000_000000_gtFine_labelIds.png").unlink()
    for path in (tree / "leftImg8bit/train/ulm").iterdir():
        path.unlink()
    problems = prepare.cityscapes(tree).problems
    assert problems == [
        "train/aachen: 2 of 3 images",
        "train/aachen: 1 labels without an image, the first aachen_000000_000001",
        "train/ulm: 0 of 2 images",
        "train/ulm: 2 labels without an image, the first ulm_000000_000000",
        "val/lindau: 1 images without a label, the first lindau_000000_000000",
    ]


def test_test_split_may_be_missing_but_not_val(tree):
    for split in ("test", "val"):
        (tree / "leftImg8bit" / split).rename(tree / split)
    report = prepare.cityscapes(tree)
    assert [note.split(",")[0] for note in report.notes] == ["test: 0 of 1 images"]
    assert [problem.split(",")[0] for problem in report.problems] == ["val: 0 of 2 images"]


def test_bad_label_files_are_named_and_the_others_made(tree):
    broken, strange, coloured = sorted((tree / "gtFine").rglob("*_labelIds.png"))[:3]
    broken.write_text("not an image")
    save(strange, np.full((8, 16), 77, dtype=np.uint8))
    save(coloured, np.zeros((8, 16, 3), dtype=np.uint8))
    report = prepare.cityscapes(tree)
    assert report.made == 5
    found = "\n".join(report.problems)
    assert f"{broken} cannot be read" in found
    assert f"{strange}: label id 77" in found
    assert f"{coloured} is not a label image" in found


def run(*args: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, TOOL, *map(str, args)], capture_output=True, text=True, check=False)


def test_tool_ends_with_2_and_one_message(tmp_path):
    pytest.importorskip("mmseg")
    wrong = run("cityscapes", tmp_path / "nowhere")
    assert (wrong.returncode, wrong.stderr) == (2, f"error: no such folder: {tmp_path / 'nowhere'}\n")
    (tmp_path / "city").mkdir()
    (tmp_path / "city" / "gtFine_trainvaltest.zip").touch()
    packed = run("cityscapes", tmp_path / "city")
    assert packed.returncode == 2
    assert "unpack gtFine_trainvaltest.zip" in packed.stderr
    assert "Traceback" not in packed.stderr


def test_folder_one_level_off_is_suggested(tree):
    with pytest.raises(UserError, match=f"did you mean {tree}"):
        prepare.cityscapes(tree / "gtFine")


@pytest.fixture
def segnet(tmp_path):
    """The CamVid folder as the SegNet tutorial has it: PNG images, and 11 for "unlabelled"."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for i in range(2):
            save(tmp_path / f"CamVid/{split}/{i}.png", rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
            save(tmp_path / f"CamVid/{split}annot/{i}.png", rng.integers(0, 12, (6, 8), dtype=np.uint8))
    return tmp_path / "CamVid"


def test_camvid_from_segnet(segnet, tmp_path):
    report = prepare.camvid(segnet, tmp_path / "camvid")
    assert (report.counts, report.problems) == ({"train": 2, "val": 2, "test": 2}, [])
    before = np.asarray(Image.open(segnet / "trainannot/0.png"))
    after = np.asarray(Image.open(tmp_path / "camvid/ann_dir/train/0.png"))
    assert (before == 11).any()
    np.testing.assert_array_equal(after, np.where(before == 11, 255, before))
    with pytest.raises(UserError, match="exists already"):
        prepare.camvid(segnet, tmp_path / "camvid")


def test_camvid_from_an_archive(segnet, tmp_path):
    prepare.camvid(segnet, tmp_path / "first")
    with tarfile.open(tmp_path / "camvid.tar", "w") as archive:
        archive.add(tmp_path / "first", "somewhere/camvid")
        archive.add(__file__, "../outside")  # is left where it is
    assert prepare.camvid(tmp_path / "camvid.tar", tmp_path / "second").kept == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["CamVid", "camvid.tar", "first", "second"]
    (tmp_path / "text.tar").write_text("not an archive")
    with pytest.raises(UserError, match="cannot be unpacked"):
        prepare.camvid(tmp_path / "text.tar", tmp_path / "third")


def test_camvid_faults_are_named(segnet, tmp_path):
    root = tmp_path / "camvid"
    prepare.camvid(segnet, root)
    save(root / "ann_dir/train/0.png", np.full((6, 8), 31, dtype=np.uint8))
    save(root / "ann_dir/train/1.png", np.zeros((5, 8), dtype=np.uint8))
    (root / "img_dir/val/0.png").write_text("text")
    (root / "ann_dir/val/1.png").unlink()
    found = "\n".join(prepare.camvid(root, root).problems)
    assert "train/0.png holds 31" in found
    assert "train/1.png is 8x5, but its image 8x6" in found
    assert "val/0.png cannot be read" in found
    assert "val: 1 images without a label, the first 1" in found


def test_cache_of_a_config(segnet, tmp_path):
    pytest.importorskip("mmseg")
    pytest.importorskip("zstandard", reason="pip install zstandard")
    prepare.camvid(segnet, tmp_path / "camvid")
    root = str(tmp_path / "camvid")
    repository = Path(__file__).parent.parent
    asked = ("cache", repository / "configs/fcn_r50.py", "--base", "camvid", "--cfg-options", f"data_root={root}")
    made = run(*asked)
    assert made.returncode == 0, made.stderr
    assert "images: 4 files, labels: 4 files\ncache: 8 made, 0 already right\n" in made.stdout
    assert sorted(path.name for path in (tmp_path / "camvid/mmattn_cache").iterdir()) == ["ann_dir", "img_dir"]
    (tmp_path / "camvid/img_dir/val/0.png").write_text("text")
    damaged = run(*asked, "--verify")
    assert damaged.returncode == 2
    assert "cache: 0 made, 7 already right" in damaged.stdout
    assert "img_dir/val/0.png cannot be read as an image" in damaged.stderr
