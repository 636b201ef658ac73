"""The built-in sample: a dataset like Cityscapes, the same everywhere, drawn once and never half."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmattn.cli import UserError
from mmattn.datasets import sample
from mmattn.datasets.labels import CITYSCAPES
from mmattn.datasets.sample.camera import Camera, outline
from mmattn.datasets.sample.scene import draw

ROOT = Path(__file__).parents[1] / "data" / "sample"
SPLITS = {"train": 160, "val": 32}


@pytest.fixture(scope="module")
def drawn() -> Path:
    return sample.ensure(ROOT)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write one file where the drawing would write hundreds."""
    monkeypatch.setattr(sample, "_draw_all", lambda root, progress: (root.mkdir(), (root / "new").touch()))


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("split", SPLITS)
def test_layout_is_that_of_cityscapes(drawn: Path, split: str):
    datasets = pytest.importorskip("mmseg.datasets")
    pipeline = [{"type": "mmseg.LoadImageFromFile"}, {"type": "mmseg.LoadAnnotations"}]
    prefix = {"img_path": f"leftImg8bit/{split}", "seg_map_path": f"gtFine/{split}"}
    dataset = datasets.CityscapesDataset(data_root=str(drawn), data_prefix=prefix, pipeline=pipeline)
    assert len(dataset) == SPLITS[split]
    for item in (dataset[0], dataset[len(dataset) - 1]):
        assert item["img"].shape == (256, 512, 3)
        assert item["gt_seg_map"].shape == (256, 512)


@pytest.mark.parametrize("split", SPLITS)
def test_every_class_is_in_a_good_part_of_the_images(drawn: Path, split: str):
    files = sorted((drawn / "gtFine" / split).glob("*/*_gtFine_labelTrainIds.png"))
    counts = np.array([np.bincount(read(file).ravel(), minlength=256) for file in files])
    assert set(np.flatnonzero(counts.sum(axis=0))) == {*range(19), 255}
    assert ((counts[:, :19] > 100).mean(axis=0) > 0.3).all()
    assert (counts[:, :19].sum(axis=0) / counts.sum() > 0.004).all()


@pytest.mark.parametrize("split", SPLITS)
def test_label_ids_and_train_ids_agree(drawn: Path, split: str):
    train_id = {row.id: row.train_id for row in CITYSCAPES}
    for file in sorted((drawn / "gtFine" / split).glob("*/*_gtFine_labelIds.png"))[:8]:
        ids, trained = read(file), read(file.with_name(file.name.replace("labelIds", "labelTrainIds")))
        for value in np.unique(ids):
            assert set(trained[ids == value]) == {train_id[value]}


def test_a_picture_depends_on_its_seed_alone(drawn: Path):
    """A worker that drew others before wrote the bytes that this process draws."""
    image, label = draw((sample.SEED, 1, 5))
    name = drawn / "leftImg8bit/val/drawbridge/drawbridge_000005_000019_leftImg8bit.png"
    np.testing.assert_array_equal(read(name)[..., ::-1], image)
    np.testing.assert_array_equal(
        read(drawn / "gtFine/val/drawbridge/drawbridge_000005_000019_gtFine_labelIds.png"), label
    )
    assert not np.array_equal(draw((sample.SEED, 1, 6))[1], label)


def test_second_call_draws_nothing(drawn: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture):
    monkeypatch.setattr(sample, "_draw_all", lambda *_: pytest.fail("drawn again"))
    assert sample.ensure(ROOT) == ROOT
    assert capfd.readouterr() == ("", "")


def test_progress_counts_down(capfd: pytest.CaptureFixture):
    assert list(sample._told(iter("abc"), 3)) == ["a", "b", "c"]
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("drawing the built-in sample: 1/3, ")
    assert lines[-1] == "drawing the built-in sample: 3/3, 0 s left"


@pytest.mark.usefixtures("quick")
def test_changed_code_draws_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = sample.ensure(tmp_path / "sample")
    (root / "new").rename(root / "old")
    sample.ensure(root)
    assert (root / "old").exists()
    monkeypatch.setattr(sample, "SEED", sample.SEED + 1)
    sample.ensure(root)
    assert sorted(path.name for path in root.iterdir()) == ["new", sample.STAMP]
    assert json.loads((root / sample.STAMP).read_text())["seed"] == sample.SEED
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_interrupted_drawing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
):
    def interrupted(root: Path, progress: bool) -> None:
        root.mkdir()
        (root / "half").touch()
        raise error

    monkeypatch.setattr(sample, "_draw_all", interrupted)
    with pytest.raises(error):
        sample.ensure(tmp_path / "sample")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("quick")
def test_folder_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot draw the built-in sample at .*/file/sample: .*name another folder"):
        sample.ensure(tmp_path / "file" / "sample")


@pytest.mark.usefixtures("quick")
def test_own_files_are_never_replaced(tmp_path: Path):
    (tmp_path / "own.txt").write_text("mine")
    with pytest.raises(UserError, match="is not the built-in sample; move it away"):
        sample.ensure(tmp_path)
    assert (tmp_path / "own.txt").read_text() == "mine"


def test_perspective():
    """A point ten metres ahead and two to the right, at eye level and on the ground."""
    camera = Camera(width=200, height=100, focal=100, horizon=40, x=1.0, y=1.5, yaw=0.0)
    for y, row in ((1.5, 40), (0.0, 55)):
        column, line, depth = camera.matrix @ [3.0, y, 10.0, 1.0]
        assert (column / depth, line / depth, depth) == pytest.approx((120, row, 10))
    turned = Camera(width=200, height=100, focal=100, horizon=40, x=1.0, y=1.5, yaw=np.arctan2(2, 10))
    column, _, depth = turned.matrix @ [3.0, 1.5, 10.0, 1.0]
    assert column / depth == pytest.approx(100)


def test_faces_are_cut_off_before_the_camera():
    camera = Camera(width=200, height=100, focal=100, horizon=40, x=0.0, y=1.5, yaw=0.0)
    up, along = np.array([0.0, 3.0, 0.0]), np.array([0.0, 0.0, 20.0])
    assert len(outline(camera.plane(np.array([2.0, 0.0, -30.0]), along, up))) == 0
    passing = outline(camera.plane(np.array([2.0, 0.0, -10.0]), along, up))
    assert len(passing) == 4
    assert passing[:, 0] == pytest.approx([500, 120, 120, 500])  # 2 m aside, from 0.5 m to 10 m ahead
