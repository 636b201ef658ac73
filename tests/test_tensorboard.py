"""Training writes its numbers for TensorBoard, and says before it starts when that is missing."""

import importlib.util
from collections import OrderedDict
from pathlib import Path

import pytest
import tiny
from mmseg.visualization import SegLocalVisualizer


def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    tiny.cityscapes(tmp_path / "data/cityscapes")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SegLocalVisualizer, "_instance_dict", OrderedDict())  # one of another training would serve on
    options = ["train_cfg.max_iters=2", "train_cfg.val_interval=2"]
    bases = ["--base", *tiny.bases(tmp_path), "tensorboard"]
    return tiny.call("train", ["gcnet_r50", *bases, "--cfg-options", *options], monkeypatch)


def test_loss_and_miou_are_in_the_event_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert train(tmp_path, monkeypatch) == 0
    (written,) = Path("work_dirs/gcnet_r50").rglob("events.out.tfevents.*")
    events = accumulator.EventAccumulator(str(written)).Reload()
    assert {"loss", "lr", "mIoU"} <= {tag.rpartition("/")[2] for tag in events.Tags()["scalars"]}
    (miou,) = (event for tag in events.Tags()["scalars"] if tag.endswith("mIoU") for event in events.Scalars(tag))
    assert miou.step == 2
    assert 0 <= miou.value <= 100


def test_missing_tensorboard_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("mmattn.engine.config.find_spec", lambda name: None if name == "tensorboard" else found(name))
    assert train(tmp_path, monkeypatch) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: visualizer.vis_backends.1 is TensorboardVisBackend, and TensorBoard is missing: pip install tensorboard"
    )
    assert not Path("work_dirs").exists()
