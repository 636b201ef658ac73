"""Wrong input ends with exit code 2 and one message that names what is wrong: no traceback, nothing half done."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

CCNET = tiny.REPOSITORY / "configs" / "ccnet_r50.py"
GCNET = tiny.REPOSITORY / "configs" / "gcnet_r50.py"
IMAGES, LABELS = Path("data/cityscapes/leftImg8bit"), Path("data/cityscapes/gtFine")


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Train with these arguments, expect exit code 2, and return the message."""
    monkeypatch.chdir(tmp_path)
    tiny.cityscapes(tmp_path / "data" / "cityscapes")
    bases = tiny.bases(tmp_path)

    def run(*arguments: str, config: Path = CCNET, base: list[str] = bases, iters: int = 2) -> str:
        # options come last: a later --cfg-options replaces an earlier one
        at = arguments.index("--cfg-options") + 1 if "--cfg-options" in arguments else None
        options = [f"train_cfg.max_iters={iters}", *(arguments[at:] if at else ())]
        rest = arguments[: at - 1] if at else arguments
        code = tiny.call("train", [config, "--base", *base, *rest, "--cfg-options", *options], monkeypatch)
        error = capsys.readouterr().err
        message = error[error.rfind("error: ") :]
        assert code == 2, error
        assert message.startswith("error: ")
        assert "Traceback" not in error
        return message

    return run


# -- configs -------------------------------------------------------------------------------------------------------


def test_missing_config(train: Callable) -> None:
    message = train(config=CCNET.with_name("ccnet_r5.py"))
    assert "ccnet_r5.py" in message
    assert "ccnet_r50.py?" in message


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("model = dict(", "was never closed"), ("a = b", "NameError"), ("_base_ = 'nowhere.py'", "nowhere.py")],
)
def test_config_that_does_not_load(text: str, complaint: str, train: Callable, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(text)
    message = train(config=broken)
    assert "broken.py does not load" in message
    assert complaint in message


@pytest.mark.parametrize(
    ("option", "key", "hint"),
    [
        ("model.type=EncoderDecodr", "model.type", "EncoderDecoder"),
        ("model.decode_head.type=CHead", "model.decode_head.type", "CCHead"),
        ("model.decode_head.type=mmattn.CCHeed", "model.decode_head.type", "mmattn.CCHead"),
        ("model.backbone.type=ResNetV1", "model.backbone.type", "ResNetV1c"),
        ("train_dataloader.dataset.type=CityscapeDataset", "train_dataloader.dataset.type", "CityscapesDataset"),
        ("train_dataloader.dataset.pipeline.2.type=RandmCrop", "pipeline.2.type", "RandomCrop"),
        ("train_dataloader.sampler.type=InfinitSampler", "train_dataloader.sampler.type", "InfiniteSampler"),
        ("optim_wrapper.optimizer.type=AdmW", "optim_wrapper.optimizer.type", "AdamW"),
        ("optim_wrapper.type=OptimWraper", "optim_wrapper.type", "OptimWrapper"),
        ("default_hooks.timer.type=IterTimeHook", "default_hooks.timer.type", "IterTimerHook"),
        ("param_scheduler.0.type=PolyLr", "param_scheduler.0.type", "PolyLR"),
        ("val_evaluator.type=IoUMetrik", "val_evaluator.type", "IoUMetric"),
        ("train_cfg.type=IterBasedTrainLop", "train_cfg.type", "IterBasedTrainLoop"),
        ("model.decode_head.loss_decode.type=CrossEntropyLos", "loss_decode.type", "CrossEntropyLoss"),
        ("model.decode_head.norm_cfg.type=SyncB", "norm_cfg.type", "SyncBN"),
    ],
)
def test_typo_in_a_type(option: str, key: str, hint: str, train: Callable) -> None:
    message = train("--cfg-options", option)
    assert key in message
    assert f"did you mean {hint}" in message or f" or {hint}" in message


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("train_cfg", "expected key=value"),
        ("crop_size=(1,2", "Imbalanced brackets"),
        ("train_cfgs.max_iters=5", "did you mean 'train_cfg'?"),
        ("train_cfg.max_itres=5", "train_cfg: IterBasedTrainLoop refuses its arguments"),
        ("model.decode_head.recurence=1", "model.decode_head: CCHead refuses its arguments"),
        ("train_cfg.max_iters=many", "expected a number"),
        ("model.backbone.norm_eval=maybe", "expected True or False"),
        ("model.backbone=resnet", "expected a dict"),
        ("param_scheduler.7.end=5", "param_scheduler.7.end"),
        ("param_scheduler.end=5", "param_scheduler.end"),
        ("model.type.name=x", "model.type.name"),
        ("crop_size=0", "crop_size"),
    ],
)
def test_option_that_does_not_fit(option: str, complaint: str, train: Callable) -> None:
    message = train("--cfg-options", option)
    assert option.partition("=")[0].rpartition(".")[2].rstrip("s") in message
    assert complaint in message


def test_unknown_base(train: Callable) -> None:
    message = train(base=["camvidd"])
    assert "camvidd" in message
    assert "mobilenetv2" in message


# -- checkpoints ---------------------------------------------------------------------------------------------------


class Code:
    """Leaves a file where it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("ran",)


def save(path: str, state: object) -> str:
    torch.save(state, path)
    return path


@pytest.mark.parametrize("flag", ["load_from", "pretrained", "resume"])
def test_checkpoint_that_holds_code(flag: str, train: Callable) -> None:
    save("evil.pth", {"state_dict": {"a": torch.zeros(1)}, "meta": Code()})
    if flag == "load_from":
        message = train("--cfg-options", "load_from=evil.pth")
    elif flag == "pretrained":
        message = train("--cfg-options", "model.pretrained=evil.pth")
    else:
        Path("work_dirs/ccnet_r50").mkdir(parents=True)
        Path("work_dirs/ccnet_r50/last_checkpoint").write_text("evil.pth")
        message = train("--resume")
    assert "evil.pth holds code" in message
    assert "refused" in message
    assert not Path("ran").exists()


def test_checkpoint_of_another_architecture(train: Callable) -> None:
    """The first parameters of each kind are named."""
    from mmattn.engine.config import build_model, load_config

    gcnet = build_model(load_config(GCNET, base=["tiny_backbone.py"]))
    save("gcnet.pth", {"state_dict": gcnet.state_dict(), "meta": {"iter": 1}})
    message = train("--cfg-options", "load_from=gcnet.pth")
    assert "gcnet.pth" in message
    assert "missing: decode_head.cca." in message
    assert "unexpected: decode_head.gc_block." in message
    assert "backbone" not in message
    message = train("--cfg-options", "load_from=gcnet.pth", "model.backbone.base_channels=16")
    assert "of another shape: backbone.layer1.0.conv1.weight (8, 8, 3, 3), here (16, 8, 3, 3)" in message
    Path("work_dirs/ccnet_r50/last_checkpoint").write_text("gcnet.pth")
    assert "missing: decode_head.cca." in train("--resume")


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: None, "there is no checkpoint"),
        (lambda path: path.mkdir(), "it is a folder"),
        (lambda path: path.write_text("hello"), "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: torch.save([1, 2], path), "holds a list"),
        (lambda path: torch.save({"epoch": 3}, path), "holds no weights"),
        (lambda path: torch.save({"state_dict": {"a": torch.zeros(3)}}, path), "does not fit"),
    ],
    ids=["missing", "folder", "text", "empty", "list", "no weights", "foreign"],
)
def test_no_checkpoint(make: Callable, complaint: str, train: Callable) -> None:
    make(Path("weights.pth"))
    message = train("--cfg-options", "load_from=weights.pth")
    assert "weights.pth" in message
    assert complaint in message


def test_truncated_checkpoint(train: Callable) -> None:
    save("whole.pth", {"state_dict": {"a": torch.zeros(1000)}})
    Path("cut.pth").write_bytes(Path("whole.pth").read_bytes()[:2000])
    message = train("--cfg-options", "load_from=cut.pth")
    assert "cut.pth cannot be read" in message


def test_weights_that_cannot_be_fetched(train: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message has the URL and where the file would be looked for."""
    from torch import hub

    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(hub, "download_url_to_file", unreachable)
    monkeypatch.setattr(hub, "get_dir", lambda: str(tmp_path / "hub"))
    message = train(base=["tiny_data.py"])
    assert "model.pretrained" in message
    assert "https://" in message
    assert str(tmp_path / "hub" / "checkpoints" / "resnet50_v1c-2cccc1ad.pth") in message
    assert "--from-scratch" in message
    assert "did you mean" in train(
        "--cfg-options", "model.pretrained=open-mmlab://resnet50_v1d2", base=["tiny_data.py"]
    )


def test_pretrained_weights_of_another_backbone(train: Callable) -> None:
    """MMEngine would load nothing and go on."""
    save("other.pth", {"state_dict": {"conv1.weight": torch.zeros(64, 3, 7, 7)}})
    message = train("--cfg-options", "model.pretrained=other.pth")
    assert "other.pth does not fit ResNetV1c" in message
    assert "stem.0.weight" in message


# -- data ----------------------------------------------------------------------------------------------------------


def first(folder: Path) -> Path:
    return sorted(folder.glob("*/*/*.png"))[0]


def all_of(folder: Path, change: Callable[[Path], object]) -> None:
    """Every file of the training split: sampling is random."""
    for path in (folder / "train").glob("*/*.png"):
        change(path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_text("not a picture"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:60]),
    ],
    ids=["text", "empty", "truncated"],
)
@pytest.mark.parametrize("folder", [IMAGES, LABELS])
def test_damaged_picture(folder: Path, spoil: Callable, train: Callable) -> None:
    all_of(folder, spoil)
    message = train()
    assert str(folder / "train" / "town") in message
    assert "cannot be read as an image" in message


def test_label_of_another_size(train: Callable) -> None:
    all_of(LABELS, lambda path: Image.open(path).crop((0, 0, 40, 30)).save(path))
    message = train()
    assert "_gtFine_labelTrainIds.png is 40x30, but its image data/cityscapes/leftImg8bit/train/town/" in message
    assert "is 64x64" in message


@pytest.mark.parametrize("workers", [0, 1])
def test_label_outside_the_classes(workers: int, train: Callable) -> None:
    """Also out of a data loader's worker, where torch wraps it in a traceback."""
    all_of(LABELS, lambda path: Image.fromarray(np.full((64, 64), 33, dtype=np.uint8)).save(path))
    message = train("--cfg-options", f"train_dataloader.num_workers={workers}")
    assert message.startswith("error: data/cityscapes/gtFine/train/town/")
    assert message.strip().endswith(
        "holds the label 33: with 19 classes labels are 0 to 18, or 255 for pixels to ignore"
    )


def test_labels_that_are_colour_pictures(train: Callable) -> None:
    all_of(LABELS, lambda path: Image.open(path).convert("RGB").save(path))
    assert "is a colour picture" in train()


def test_validation_data_are_checked_too(train: Callable) -> None:
    for path in (LABELS / "val").glob("*/*.png"):
        Image.fromarray(np.full((64, 64), 19, dtype=np.uint8)).save(path)
    message = train()
    assert "gtFine/val" in message
    assert "holds the label 19" in message


def test_folder_without_images(train: Callable) -> None:
    all_of(IMAGES, Path.unlink)
    message = train()
    assert "no image in data/cityscapes/leftImg8bit/train" in message
    assert "_leftImg8bit.png" in message


def test_missing_folder(train: Callable) -> None:
    (LABELS / "train").rename("elsewhere")
    message = train()
    assert (
        "train_dataloader.dataset.data_prefix.seg_map_path: there is no folder data/cityscapes/gtFine/train" in message
    )
    assert "data/README.md" in message


def test_missing_label(train: Callable) -> None:
    path = first(LABELS)
    path.unlink()
    assert f"1 of 4 label images are missing, the first {path}" in train()


def test_labels_not_prepared(train: Callable) -> None:
    all_of(LABELS, lambda path: path.rename(str(path).replace("labelTrainIds", "labelIds")))
    assert "python tools/prepare_data.py cityscapes data/cityscapes" in train()


def test_dataset_without_class_names(train: Callable) -> None:
    options = [f"{loader}_dataloader.dataset.type=BaseSegDataset" for loader in ("train", "val", "test")]
    assert "classes = ('road', 'car', ...)" in train("--cfg-options", *options)


def test_wrong_data_root(train: Callable) -> None:
    assert "there is no folder nowhere" in train("--cfg-options", "data_root=nowhere")


# -- no sample where data were asked for ---------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["link", "empty", "data_root", "base", "launcher", "own root"])
def test_never_falls_back_to_the_sample(case: str, train: Callable, tmp_path: Path, monkeypatch) -> None:
    """The data are gone, but something says that they were meant to be there."""
    Path("data/cityscapes").rename("gone")
    config, arguments, base, complaint = CCNET, [], ["tiny_backbone.py"], "there is no folder data/cityscapes"
    if case == "link":
        Path("data/cityscapes").symlink_to("nowhere")
        complaint = "data/cityscapes is a link to nowhere"
    elif case == "empty":
        Path("data/cityscapes").mkdir()
        complaint = "data/cityscapes holds nothing"
    elif case == "data_root":
        arguments = ["--cfg-options", "data_root=data/cityscapes"]
    elif case == "base":
        base += ["cityscapes"]
    elif case == "launcher":
        arguments = ["--launcher", "pytorch"]
    else:
        config = tmp_path / "own.py"
        config.write_text(f'_base_ = "{CCNET}"\ntrain_dataloader = dict(dataset=dict(data_root="data/mine"))\n')
        complaint = "there is no folder data/mine"
    message = train(*arguments, config=config, base=base)
    assert complaint in message
    assert not Path("data/sample").exists()


# -- as the shell sees it ------------------------------------------------------------------------------------------


def test_exit_code_and_streams_of_the_process(tmp_path: Path) -> None:
    command = [sys.executable, str(tiny.REPOSITORY / "tools" / "train.py"), "nowhere.py"]
    env = os.environ | {"PYTHONPATH": str(tiny.REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == "error: there is no config file nowhere.py"
    assert "Traceback" not in done.stderr


def test_help_has_an_example_and_needs_no_stack(tmp_path: Path) -> None:
    command = [sys.executable, str(tiny.REPOSITORY / "tools" / "train.py"), "--help"]
    env = os.environ | {"PYTHONPATH": str(tiny.REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "python tools/train.py configs/ccnet_r50.py" in done.stdout


def test_a_batch_norm_over_one_value(train: Callable) -> None:
    message = train("--cfg-options", "crop_size=(8,8)", "train_dataloader.batch_size=1")
    assert "train_dataloader.batch_size=2, or a larger crop_size" in message
