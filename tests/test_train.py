"""tools/train.py trains, validates, writes checkpoints and goes on from them; without data, on the built-in sample."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mmseg
import pytest
import tiny
import torch
from mmengine.config import Config

from mmattn.datasets import sample
from mmattn.engine.config import heads, load_config

CONFIGS = tiny.REPOSITORY / "configs"
NINE = ["danet_r50", "ccnet_r50", "anlnet_r50", "ocrnet_r50", "ocrnet_hr18", "psanet_r50", "gcnet_r50", "nonlocal_r50"]
NINE += ["polarized_r50"]
ZOO = Path(mmseg.__file__).parent / ".mim" / "configs"
FAMILIES = [
    "danet/danet_r50-d8_4xb2-40k_cityscapes-512x1024.py",
    "ccnet/ccnet_r50-d8_4xb2-80k_cityscapes-769x769.py",
    "ann/ann_r101-d8_4xb2-40k_cityscapes-512x1024.py",
    "ocrnet/ocrnet_hr18s_4xb2-40k_cityscapes-512x1024.py",
    "psanet/psanet_r50-d8_4xb2-40k_cityscapes-769x769.py",
    "gcnet/gcnet_r50-d8_4xb2-40k_cityscapes-512x1024.py",
    "nonlocal_net/nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024.py",
]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Train for so many iterations, expect success, and return what was printed."""
    monkeypatch.chdir(tmp_path)

    def run(config: Path, iters: int, *arguments: str, options: tuple[str, ...] = ()) -> str:
        options = (f"train_cfg.max_iters={iters}", *options)
        code = tiny.call("train", [config, *arguments, "--cfg-options", *options], monkeypatch)
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return printed.out

    return run


@pytest.fixture
def cityscapes(tmp_path: Path) -> None:
    tiny.cityscapes(tmp_path / "data" / "cityscapes")


@pytest.fixture
def tiny_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of the drawn sample, which takes a while to draw and to train on."""
    monkeypatch.setattr(sample, "ensure", lambda root: root.exists() or tiny.cityscapes(root))


def steps_taken(checkpoint: str) -> int:
    """How many batches the first norm layer has seen."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=False)["state_dict"]
    return next(int(value) for key, value in state.items() if key.endswith("num_batches_tracked"))


def last_iterations(printed: str) -> list[str]:
    return re.findall(r"Iter\(train\) \[\s*(\d+/\d+)\]", printed)


# -- with data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ["ccnet_r50", "ocrnet_hr18"])
@pytest.mark.usefixtures("cityscapes")
def test_trains_validates_saves_and_resumes(config: str, train: Callable, tmp_path: Path) -> None:
    path, base = CONFIGS / f"{config}.py", ("--base", *tiny.bases(tmp_path, config))
    printed = train(path, 3, *base)
    assert "built-in sample" not in printed
    assert last_iterations(printed) == ["1/3", "2/3", "3/3"]
    assert "eta: " in printed
    assert re.search(r"^mIoU \d+\.\d\d %", printed, re.MULTILINE)
    assert f"checkpoint: work_dirs/{config}/iter_3.pth" in printed
    assert steps_taken(f"work_dirs/{config}/iter_3.pth") == 3

    printed = train(path, 5, *base, "--resume")
    assert last_iterations(printed) == ["4/5", "5/5"]
    assert steps_taken(f"work_dirs/{config}/iter_5.pth") == 5

    printed = train(path, 5, *base, "--resume")
    assert last_iterations(printed) == []
    assert "trained to the end" in printed
    assert re.search(r"^mIoU \d+\.\d\d %", printed, re.MULTILINE)


@pytest.mark.usefixtures("cityscapes")
def test_written_config_and_commands_work(train: Callable, tmp_path: Path) -> None:
    """The config in the work directory stands alone: it names its data and its backbone."""
    train(CONFIGS / "gcnet_r50.py", 1, "--base", *tiny.bases(tmp_path), "--work-dir", "here")
    written = load_config("here/gcnet_r50.py")
    assert written.model.backbone.base_channels == 8
    printed = train(Path("here/gcnet_r50.py"), 2, "--resume", "--work-dir", "here")
    assert last_iterations(printed) == ["2/2"]


@pytest.mark.usefixtures("cityscapes")
def test_mixed_precision(train: Callable, tmp_path: Path) -> None:
    train(CONFIGS / "gcnet_r50.py", 2, "--amp", "--base", *tiny.bases(tmp_path))
    assert load_config("work_dirs/gcnet_r50/gcnet_r50.py").optim_wrapper.type == "AmpOptimWrapper"
    assert steps_taken("work_dirs/gcnet_r50/iter_2.pth") == 2


@pytest.mark.usefixtures("cityscapes")
def test_resume_without_a_checkpoint_says_so(train: Callable, tmp_path: Path) -> None:
    printed = train(CONFIGS / "gcnet_r50.py", 1, "--resume", "--base", *tiny.bases(tmp_path))
    assert "no checkpoint in work_dirs/gcnet_r50 yet" in printed
    assert last_iterations(printed) == ["1/1"]


@pytest.mark.usefixtures("cityscapes")
def test_finetuning_starts_from_what_fits(train: Callable, tmp_path: Path) -> None:
    """Another number of classes is what fine-tuning is for; another mechanism needs --partial."""
    base = ("--base", *tiny.bases(tmp_path))
    still = ("optim_wrapper.optimizer.lr=0", "load_from=work_dirs/gcnet_r50/iter_1.pth")
    train(CONFIGS / "gcnet_r50.py", 1, *base)
    before = torch.load("work_dirs/gcnet_r50/iter_1.pth", weights_only=False)["state_dict"]

    own = tmp_path / "own.py"
    own.write_text(f'_base_ = "{CONFIGS / "gcnet_r50.py"}"\n')
    few = tmp_path / "few.py"
    few.write_text(
        (tmp_path / "tiny_data.py")
        .read_text()
        .replace('"CityscapesDataset"', '"BaseSegDataset"')
        .replace(
            "pipeline=pipeline)",
            'pipeline=pipeline, img_suffix="_leftImg8bit.png", seg_map_suffix="_gtFine_labelTrainIds.png")',
        )
        + "\nclasses = tuple('abcdefghijklmnopqrstuvw')\n"
    )
    printed = train(own, 1, "--base", str(few), str(tmp_path / "tiny_backbone.py"), options=still)
    assert "decode_head.conv_seg.weight" in printed
    after = torch.load("work_dirs/own/iter_1.pth", weights_only=False)["state_dict"]
    assert after["decode_head.conv_seg.weight"].shape[0] == 23
    key = "decode_head.gc_block.conv_mask.weight"
    assert torch.equal(after[key], before[key])

    printed = train(CONFIGS / "ccnet_r50.py", 1, *base, "--partial", options=still)
    assert "missing: decode_head.cca." in printed
    after = torch.load("work_dirs/ccnet_r50/iter_1.pth", weights_only=False)["state_dict"]
    assert torch.equal(after["decode_head.conv_seg.weight"], before["decode_head.conv_seg.weight"])


# -- without data --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tiny_sample")
def test_missing_data_give_way_to_the_sample(train: Callable) -> None:
    printed = train(CONFIGS / "ccnet_r50.py", 2)
    assert "There is nothing at data/cityscapes" in printed
    assert "checkpoint: work_dirs/ccnet_r50_sample/iter_2.pth" in printed
    assert not Path("work_dirs/ccnet_r50").exists()
    used, config = load_config("work_dirs/ccnet_r50_sample/ccnet_r50.py"), load_config(CONFIGS / "ccnet_r50.py")
    assert used.model.backbone.depth < config.model.backbone.depth
    for ours, theirs in zip(heads(used.model), heads(config.model), strict=True):
        assert ours.channels == theirs.channels
        assert ours.in_channels != theirs.in_channels
    assert not used.model.pretrained
    assert last_iterations(train(CONFIGS / "ccnet_r50.py", 3, "--resume")) == ["3/3"]


@pytest.mark.usefixtures("cityscapes", "tiny_sample")
def test_the_sample_on_request(train: Callable) -> None:
    printed = train(CONFIGS / "gcnet_r50.py", 1, "--base", "sample")
    assert "As --base sample asks for" in printed
    assert "checkpoint: work_dirs/gcnet_r50_sample/iter_1.pth" in printed
    assert load_config("work_dirs/gcnet_r50_sample/gcnet_r50.py").train_dataloader.dataset.data_root == "data/sample/"


@pytest.mark.usefixtures("tiny_sample")
def test_options_win_over_the_sample(train: Callable) -> None:
    options = ("optim_wrapper.optimizer.lr=0.005", "train_dataloader.batch_size=1", "model.backbone.base_channels=8")
    train(CONFIGS / "gcnet_r50.py", 1, "--work-dir", "here", options=(*options, "model.backbone.depth=18"))
    used = load_config("here/gcnet_r50.py")
    assert used.optim_wrapper.optimizer.lr == 0.005
    assert used.train_dataloader.batch_size == 1
    assert used.model.backbone.base_channels == 8


# -- everything ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def few_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of the built-in sample, drawn as the tools draw it."""
    with pytest.MonkeyPatch.context() as patch:
        few = {"train": (sample.CITIES["train"][0], 6), "val": (sample.CITIES["val"][0], 2)}
        patch.setattr(sample, "CITIES", few)
        return sample.ensure(tmp_path_factory.mktemp("data") / "sample", progress=False)


@pytest.fixture
def drawn(few_pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sample").symlink_to(few_pictures)
    monkeypatch.setattr(sample, "ensure", lambda root: root)


def five_iterations_and_a_resume(config: Path, train: Callable, *options: str) -> None:
    folder = f"work_dirs/{config.stem}_sample"
    printed = train(config, 5, options=options)
    assert last_iterations(printed)[-1] == "5/5"
    assert re.search(r"^mIoU \d+\.\d\d %", printed, re.MULTILINE)
    assert steps_taken(f"{folder}/iter_5.pth") == 5
    assert last_iterations(train(config, 6, "--resume", options=options)) == ["6/6"]
    assert steps_taken(f"{folder}/iter_6.pth") == 6


@pytest.mark.slow
@pytest.mark.parametrize("config", NINE)
@pytest.mark.usefixtures("drawn")
def test_nine_configs_train_and_resume(config: str, train: Callable) -> None:
    five_iterations_and_a_resume(CONFIGS / f"{config}.py", train)


@pytest.mark.slow
@pytest.mark.parametrize("config", FAMILIES, ids=lambda path: path.partition("/")[0])
@pytest.mark.usefixtures("drawn")
def test_unmodified_mmseg_configs_train_and_resume(config: str, train: Callable) -> None:
    """Their heads are ours."""
    five_iterations_and_a_resume(ZOO / config, train, "default_scope=mmattn")
    written = Config.fromfile(Path("work_dirs", f"{Path(config).stem}_sample", Path(config).name))
    assert written.default_scope == "mmattn"


@pytest.mark.slow
@pytest.mark.usefixtures("cityscapes")
def test_two_processes_on_the_cpu(tmp_path: Path) -> None:
    """One process prints; wrong input ends with one message however many there are."""

    def launch(*options: str) -> subprocess.CompletedProcess[str]:
        command = [
            tiny.REPOSITORY / "tools/dist_train.sh",
            CONFIGS / "gcnet_r50.py",
            2,
            "--base",
            *tiny.bases(tmp_path),
        ]
        return subprocess.run(
            [*map(str, command), "--cfg-options", "train_cfg.max_iters=2", *options],
            cwd=tmp_path,
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    done = launch()
    assert done.returncode == 0, done.stderr
    assert steps_taken(str(tmp_path / "work_dirs/gcnet_r50/iter_2.pth")) == 2
    assert done.stdout.count("checkpoint: ") == 1
    wrong = launch("data_root=nowhere")
    assert wrong.returncode == 2
    assert wrong.stderr.count("there is no folder nowhere") == 1
    assert "Traceback" not in wrong.stderr
