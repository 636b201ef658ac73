"""Two processes train as one does, score what one scores, and outlive a host."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

CONFIG = str(tiny.REPOSITORY / "configs" / "gcnet_r50.py")
ITERS = 20
# every sample is drawn anew: its scale, crop and flip
DATA = tiny.DATA.replace(
    "2, crop)",
    """2,
    dict(type="RandomResize", scale=(128, 128), ratio_range=(0.5, 2.0), keep_ratio=True),
    crop,
    dict(type="RandomFlip", prob=0.5))""",
)
# what depends on the images beside: nothing is normalised over them, and no pixel weighs as much as another
ALONE = """
norm = dict(type="GN", num_groups=2)
weights = [0.5] * 10 + [2.0] * 9
model = dict(
    backbone=dict(norm_cfg=norm),
    decode_head=dict(norm_cfg=norm, dropout_ratio=0, loss_decode=dict(class_weight=weights)),
    auxiliary_head=dict(norm_cfg=norm, dropout_ratio=0, loss_decode=dict(avg_non_ignore=True)),
)
"""
ENVIRONMENT = os.environ | {"PYTHONPATH": str(tiny.REPOSITORY), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
ENVIRONMENT["PATH"] = f"{Path(sys.executable).parent}:{ENVIRONMENT['PATH']}"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="over gloo, as on a machine without GPU"),
]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with data: an odd number of images to validate on."""
    tiny.cityscapes(tmp_path / "data" / "cityscapes", train=8, val=5)
    tiny.bases(tmp_path)
    (tmp_path / "data.py").write_text(DATA)
    (tmp_path / "alone.py").write_text(ALONE)
    monkeypatch.chdir(tmp_path)


def training(run: str, *base: str, batch: int) -> list[str]:
    """Arguments of tools/train.py after the config."""
    settings = [f"train_cfg.max_iters={ITERS}", "randomness.seed=0", f"train_dataloader.batch_size={batch}"]
    return ["--base", "data.py", "tiny_backbone.py", *base, "--work-dir", run, "--cfg-options", *settings]


def in_two(*command: str) -> None:
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def scores(folder: str) -> dict:
    (path,) = Path(folder).glob("*/metrics.json")
    record = json.loads(path.read_text())
    assert record["images"] == 5
    return {key: record[key] for key in ("scores", "classes", "classes_in_no_label")}


def test_two_processes_with_half_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss curve to 1e-4, and of one checkpoint exactly the scores."""
    dist_train = str(tiny.REPOSITORY / "tools" / "dist_train.sh")
    in_two(dist_train, CONFIG, "2", *training("two", "alone.py", batch=2))
    assert tiny.call("train", [CONFIG, *training("one", "alone.py", batch=4)], monkeypatch) == 0
    one, two = (torch.load(f"{run}/iter_{ITERS}.pth", weights_only=False) for run in ("one", "two"))
    for key in ("loss", "decode.loss_ce", "aux.loss_ce"):
        expected, curve = (run["message_hub"]["log_scalars"][f"train/{key}"].data[0] for run in (one, two))
        assert len(curve) == ITERS
        assert np.ptp(expected) > 0.01
        np.testing.assert_allclose(curve, expected, rtol=0, atol=1e-4)

    tested = ["two/gcnet_r50.py", f"two/iter_{ITERS}.pth"]
    assert tiny.call("test", [*tested, "--work-dir", "test_one"], monkeypatch) == 0
    torchrun = ["torchrun", "--standalone", "--nproc_per_node=2", str(tiny.REPOSITORY / "tools" / "test.py")]
    in_two(*torchrun, *tested, "--launcher", "pytorch", "--work-dir", "test_two", "--out", "predictions")
    assert scores("test_two") == scores("test_one")
    assert len(list(Path("predictions").glob("*.png"))) == 5


def test_running_statistics_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms that are not synchronised: all processes validate with what is saved."""
    in_two(str(tiny.REPOSITORY / "tools" / "dist_train.sh"), CONFIG, "2", *training("two", batch=2))
    assert tiny.call("test", ["two/gcnet_r50.py", f"two/iter_{ITERS}.pth", "--work-dir", "one"], monkeypatch) == 0
    (log,) = Path("two").glob("*/vis_data/scalars.json")
    validated = json.loads(log.read_text().splitlines()[-1])
    expected = scores("one")["scores"]
    assert {key: validated[key] for key in ("mIoU", "mAcc", "aAcc")} == {
        key: expected[key] for key in ("mIoU", "mAcc", "aAcc")
    }


def test_a_host_dies_and_comes_back() -> None:
    script = str(tiny.REPOSITORY / "tests" / "faults" / "two_hosts.py")
    done = subprocess.run([sys.executable, script], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode and done.stderr.startswith("needs "):
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
