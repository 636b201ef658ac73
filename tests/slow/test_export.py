"""Every config exports, and the ten lines of the README segment an image where there is no torch."""

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
import torch
from torch import nn

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from mmattn.engine.config import build_model, load_config
from mmattn.engine.export import export
from mmattn.engine.export.agreement import PHOTO, expected

CONFIGS = sorted(tiny.REPOSITORY.glob("configs/*.py")) + sorted(tiny.REPOSITORY.glob("configs/attention/*.py"))
SIZES = ((96, 160), (72, 104))  # maps of 12 x 20 and 9 x 13
TEN_LINES = re.search(
    r"<!-- ten lines -->\n```python\n(.*?)```", (tiny.REPOSITORY / "README.md").read_text(), re.DOTALL
)[1]

pytestmark = pytest.mark.slow


def build(config: Path, folder: Path) -> nn.Module:
    """A small model of a config that does not start as the identity."""
    torch.manual_seed(0)
    model = build_model(load_config(config, {}, tiny.bases(folder, config.stem)))
    for name, parameter in model.named_parameters():
        if parameter.dim() <= 1 and not name.endswith(("weight", "bias")):
            nn.init.constant_(parameter, 0.7)
        elif "conv_seg" in name:
            nn.init.normal_(parameter, std=0.3)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.weight, layer.running_var):
                nn.init.uniform_(values, 0.5, 1.5)
            nn.init.normal_(layer.running_mean, std=0.1)
    return model


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_every_config_exports(config, name, tmp_path):
    export(build(config, tmp_path), tmp_path / name, sizes=SIZES)
    assert (tmp_path / name).stat().st_size > 10_000


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory) -> Path:
    """The Python of an environment with numpy, OpenCV and onnxruntime alone."""
    folder = tmp_path_factory.mktemp("env")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    pins = ["-c", str(tiny.REPOSITORY / "constraints.txt")]
    packages = ["numpy", "opencv-python-headless", "onnxruntime"]
    done = subprocess.run([python, "-m", "pip", "install", "-q", *pins, *packages], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install {', '.join(packages)}: {done.stderr.strip().splitlines()[-1]}")
    return python


def test_ten_lines_segment_an_image(without_torch, tmp_path):
    model = build(tiny.REPOSITORY / "configs" / "ccnet_r50.py", tmp_path)
    export(model, tmp_path / "street.onnx", argmax=True, sizes=SIZES)
    image = cv2.resize(cv2.imread(str(PHOTO)), (136, 88))
    cv2.imwrite(str(tmp_path / "street.png"), image)
    command = f"{TEN_LINES}\nimport sys\nassert not {{'torch', 'mmattn', 'mmcv', 'mmengine'}} & set(sys.modules)\n"
    done = subprocess.run([without_torch, "-I", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    labels = expected(model, image[None]).labels[0]
    names, colours = model.dataset_meta["classes"], np.uint8(model.dataset_meta["palette"])
    wanted = image // 2 + colours[labels][..., ::-1] // 2
    differs = (cv2.imread(str(tmp_path / "labels.png")) != wanted).any(axis=2)
    assert differs.mean() < 1e-3  # pixels where two logits are equal up to rounding
    assert done.stdout.strip() == f"found {', '.join(names[i] for i in np.unique(labels))}"
    assert len(np.unique(labels)) > 1  # else one colour everywhere would have passed


def test_ten_lines_are_ten():
    assert len(TEN_LINES.strip().splitlines()) == 10


def test_compact_masks_need_a_fixed_size(tmp_path):
    options = {"model.decode_head.mask_size": (6, 10), "model.decode_head.compact": True}
    config = tiny.REPOSITORY / "configs" / "psanet_r50.py"
    model = build_model(load_config(config, options, tiny.bases(tmp_path)))
    export(model, tmp_path / "model.onnx", sizes=SIZES[:1], fixed=True)
    assert (tmp_path / "model.onnx").is_file()
