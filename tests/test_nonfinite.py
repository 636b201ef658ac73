"""A loss that is not finite stops the training before it reaches the weights, and says where it came from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import tiny
import torch
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import HOOKS
from torch import Tensor, nn

from mmattn.engine import nonfinite
from mmattn.engine.weights import read_checkpoint

CONFIG = tiny.REPOSITORY / "configs" / "gcnet_r50.py"


@HOOKS.register_module()
class PoisonHook(Hook):
    """Spoils what a module returns in some iterations, or its weights before them."""

    module: ClassVar[str] = ""
    iterations: ClassVar[tuple[int, ...]] = ()
    weights: ClassVar[bool] = False

    def before_train(self, runner: Any) -> None:
        def spoil(module: nn.Module, given: Any, output: Tensor) -> Tensor | None:
            return output / 0 if runner.iter in self.iterations and not self.weights else None

        runner.model.get_submodule(self.module).register_forward_hook(spoil)

    def before_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        if self.weights and runner.iter in self.iterations:
            runner.model.get_submodule(self.module).weight.data[0] = torch.nan


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable[..., str]:
    """Train six iterations and save each; what was said."""
    monkeypatch.chdir(tmp_path)
    tiny.cityscapes(tmp_path / "data" / "cityscapes")
    (tmp_path / "poison.py").write_text("custom_hooks = [dict(type='PoisonHook')]")

    def run(*options: str, flags: tuple[str, ...] = (), code: int = 0, **poison: Any) -> str:
        for name, value in {"module": "backbone.layer2.0", "iterations": (3,), "weights": False, **poison}.items():
            monkeypatch.setattr(PoisonHook, name, value)
        settings = ["train_cfg.max_iters=6", "default_hooks.checkpoint.interval=1", *options]
        base = ["--base", *tiny.bases(tmp_path), tmp_path / "poison.py", "--work-dir", "run", *flags]
        ended = tiny.call("train", [CONFIG, *base, "--cfg-options", *settings], monkeypatch)
        said = "".join(capfd.readouterr())
        assert ended == code, said
        assert "Traceback" not in said
        return said

    return run


def weights(iteration: int) -> dict[str, Tensor]:
    return read_checkpoint(f"run/iter_{iteration}.pth")["state_dict"]


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_it_stops_and_explains(train: Callable) -> None:
    said = train(code=2)
    message = said[said.index("error: ") :]
    assert "the loss of iteration 4 is nan, of data/cityscapes/leftImg8bit/train/town/" in message
    assert "first: backbone.layer2.0 (BasicBlock)\n" in message
    assert "--on-nan skip" in message
    assert not Path("run/iter_4.pth").exists()
    kept = read_checkpoint("run/nonfinite_iter_4.pth")
    assert equal(kept["state_dict"], weights(3))  # running statistics too
    assert kept["meta"]["iter"] == 3
    post_mortem = kept["post_mortem"]
    assert all(Path(path).is_file() for path in post_mortem["files"])
    assert len(post_mortem["files"]) == 2
    assert post_mortem["batch"]["inputs"].shape == (2, 3, 64, 64)
    assert any(name.endswith("gt_sem_seg.data") for name in post_mortem["batch"])


def test_a_post_mortem_is_no_place_to_resume_from(train: Callable) -> None:
    """Unless it is asked for; then the training meets the same batch again."""
    train(code=2)
    assert "Load checkpoint from run/iter_3.pth" in train(flags=("--resume",), iterations=())
    said = train("load_from=run/nonfinite_iter_4.pth", flags=("--resume",), code=2)
    assert "the loss of iteration 4 is nan" in said


@pytest.mark.parametrize(
    ("poison", "first"),
    [
        ({"module": "backbone.stem.0", "weights": True}, "backbone.stem.0 (Conv2d), whose weights are not finite"),
        ({"module": "data_preprocessor"}, "the images are not finite"),
        ({"module": "decode_head.conv_seg"}, "decode_head.conv_seg (Conv2d)\n"),
    ],
)
def test_the_first_module(poison: dict, first: str, train: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    if poison["module"] == "data_preprocessor":
        forward = nonfinite.NonFiniteHook._remember
        monkeypatch.setattr(nonfinite.NonFiniteHook, "_remember", lambda self, *seen: forward(self, *spoiled(*seen)))
    said = train(code=2, **poison) if poison["module"] != "data_preprocessor" else train(code=2)
    assert f"first: {first}" in said


def spoiled(module: nn.Module, given: Any, inputs: dict) -> tuple:
    return module, given, {**inputs, "inputs": inputs["inputs"] / 0}


def test_it_goes_on_without_a_batch(train: Callable) -> None:
    said = train("log_processor.window_size=6", flags=("--on-nan", "skip"), iterations=(1, 3))
    assert "the loss of iteration 2 is nan" in said
    assert "left out, number 2" in said
    assert "batches left out because their loss was not finite: 2" in said
    assert equal(weights(4), weights(3))
    assert not equal(weights(5), weights(4))
    last = read_checkpoint("run/iter_6.pth")
    assert len(last["message_hub"]["log_scalars"]["train/loss"].data[0]) == 4
    assert "loss: nan" not in said
    assert last["message_hub"]["runtime_info"][nonfinite.SKIPPED] == 2


def test_too_many_in_a_row(train: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nonfinite, "IN_A_ROW", 2)
    assert "left out, number 3" in train(flags=("--on-nan", "skip"), iterations=(0, 1, 3))
    said = train(flags=("--on-nan", "skip"), iterations=(1, 2, 3), code=2)
    assert "the loss of iteration 4 is nan" in said
    assert "2 batches before it were left out for the same reason" in said


def test_infinite_gradients_are_the_scalers(train: Callable) -> None:
    """They do not fit into float32; the scaler leaves out the step and halves the scale."""
    large = ("optim_wrapper.loss_scale.init_scale=3e38", "model.decode_head.loss_decode.loss_weight=1e4")
    said = train(*large, flags=("--amp",), iterations=())
    assert "left out" not in said
    assert read_checkpoint("run/iter_6.pth")["optimizer"]["loss_scaler"]["scale"] < 3e38
    assert equal(
        *({key: value for key, value in weights(i).items() if key == "decode_head.conv_seg.weight"} for i in (1, 2))
    )


@pytest.mark.parametrize("wrapper", [OptimWrapper, AmpOptimWrapper])
@pytest.mark.parametrize("position", [0, 1])
def test_accumulated_batches_step_without_it(position: int, wrapper: type) -> None:
    """Three batches of which one is left out: the gradient of the others, over three, is what is stepped with."""
    weight = nn.Parameter(torch.zeros(()))
    wrapped = wrapper(optimizer=torch.optim.SGD([weight], lr=1.0), accumulative_counts=3)
    wrapped.initialize_count_status(nn.Identity(), 0, 6)
    for i in range(3):
        if i == 2 * position:
            nonfinite._without_gradient(wrapped)
        else:
            wrapped.update_params(weight * 3)
    assert weight.item() == -2
    for _ in range(3):
        nonfinite._without_gradient(wrapped)
    assert weight.item() == -2


def test_processes_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process's loss that is not finite is every process's."""
    monkeypatch.setattr(nonfinite, "all_reduce", lambda data, op: data.clamp_(max=0) if op == "min" else None)
    assert nonfinite._everywhere(torch.tensor(True)) is False
