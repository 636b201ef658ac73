"""A wheel trains, tests and draws in an empty folder, and leaves the folder of packages alone."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_packaging import files, run, site, wheel  # noqa: F401

pytestmark = pytest.mark.slow


def test_from_nothing_to_a_figure(site: Path, tmp_path: Path) -> None:  # noqa: F811
    before = files(site)
    options = ["train_cfg.max_iters=4", "train_cfg.val_interval=4", "crop_size=64,64"]
    done = run(site, tmp_path, "mmattn.tools.train", "ccnet_r50", "--cfg-options", *options)
    assert done.returncode == 0, done.stderr
    work = Path("work_dirs/ccnet_r50_sample")
    assert f"python -m mmattn.tools.test {work}/ccnet_r50.py {work}/iter_4.pth" in done.stdout
    done = run(site, tmp_path, "mmattn.tools.test", "ccnet_r50", f"{work}/iter_4.pth")
    assert done.returncode == 0, done.stderr
    image = min((tmp_path / "data/sample/leftImg8bit/val").rglob("*.png"))
    done = run(site, tmp_path, "mmattn.tools.visualize", "ccnet_r50", f"{work}/iter_4.pth", str(image))
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / work).rglob("*_attention.png"))
    assert set(os.listdir(tmp_path)) == {"data", "work_dirs"}
    assert files(site) == before
