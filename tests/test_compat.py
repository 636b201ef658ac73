"""The mends to the host stack, on whichever of the two OpenMMLab families is installed."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmattn.cli import UserError
from mmattn.compat import apply

APPLIED = apply()
UPSTREAM = any(distribution.name == "mmsegmentation" for distribution in distributions())
EVERYWHERE = {
    "find_packages_by_import_name",
    "load_weights_only",
    "chain_plugins",
    "plug_into_every_block",
    "recompute_with_gradients",
    "return_self_from_train",
    "weigh_labelled_pixels_alone",
}
ON_CPU = {"mixed_precision_on_cpu", "distributed_on_cpu"}
cpu_only = pytest.mark.skipif(torch.cuda.is_available(), reason="mends the CPU; this machine trains on its GPU")


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a Python of its own, from the repository's root."""
    return subprocess.run(
        [sys.executable, *arguments, *(() if arguments else ("-c", textwrap.dedent(code)))],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_each_family_gets_the_mends_that_it_needs() -> None:
    needed = EVERYWHERE | (set() if torch.cuda.is_available() else ON_CPU)
    assert set(APPLIED) == needed | {"stand_in_for_mmcv_ext" if UPSTREAM else "import_without_noise"}


def test_mends_are_made_once() -> None:
    from mmseg.models.backbones import ResNet

    train = ResNet.train
    assert apply() is APPLIED
    assert ResNet.train is train


# -- packages ------------------------------------------------------------------------------------------------------


def test_imports_are_silent() -> None:
    done = python("from mmattn.compat import apply; apply(); from mmseg.utils import register_all_modules as r; r()")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_stand_in_serves_upstream_alone() -> None:
    from mmengine.utils.dl_utils.misc import mmcv_full_available

    assert not mmcv_full_available()
    if not UPSTREAM:
        assert "mmcv._ext" not in sys.modules
        return
    from mmcv.ops import point_sample, sigmoid_focal_loss

    image = torch.arange(4.0).view(1, 1, 2, 2)
    assert point_sample(image, torch.tensor([[[0.25, 0.25], [0.75, 0.75]]])).tolist() == [[[0.0, 3.0]]]
    with pytest.raises(RuntimeError, match="no compiled operator sigmoid_focal_loss_forward: install the full mmcv"):
        sigmoid_focal_loss(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))


@pytest.mark.skipif(not UPSTREAM, reason="the maintained mmseg asserts no version of mmcv")
def test_upstream_mmseg_takes_mmcv_2_2() -> None:
    done = python("""
        import mmcv, mmcv.version
        mmcv.__version__, mmcv.version_info = "2.2.0", (2, 2, 0)
        from mmattn.compat import apply
        assert "accept_newer_mmcv" in apply()
        import mmseg
        assert mmcv.__version__ == "2.2.0"
    """)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not UPSTREAM, reason="the maintained mmseg asserts no version of mmcv")
def test_upstream_mmseg_still_refuses_mmcv_1() -> None:
    done = python("""
        import mmcv
        mmcv.__version__, mmcv.version_info = "1.7.2", (1, 7, 2)
        from mmattn.compat import apply
        apply()
    """)
    assert "AssertionError: MMCV==1.7.2 is used but incompatible" in done.stderr


@pytest.mark.parametrize(
    "base", ["gcnet/gcnet_r50-d8_4xb2-40k_cityscapes-512x1024.py", "_base_/models/gcnet_r50-d8.py"]
)
def test_configs_inherit_from_the_installed_mmseg(tmp_path: Path, base: str) -> None:
    from mmengine import Config

    path = tmp_path / "config.py"
    path.write_text(f"_base_ = 'mmseg::{base}'")
    assert Config.fromfile(path).model.decode_head.type == "GCHead"


def test_a_package_that_is_not_there() -> None:
    from mmengine.config import config

    assert not config.is_installed("mmdet3d")
    with pytest.raises(ModuleNotFoundError):
        config.get_installed_path("mmdet3d")


# -- checkpoints ---------------------------------------------------------------------------------------------------


class Burglar:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace: Path, function: Any = os.mkdir) -> None:
        self.reduced = (function, (str(trace),))

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[Path]:
    """A folder that exists only where code of a checkpoint has run."""
    yield tmp_path / "trace"
    assert not (tmp_path / "trace").exists(), "code of the checkpoint ran"


def load(path: Path | str) -> Any:
    from mmengine.runner import CheckpointLoader

    return CheckpointLoader.load_checkpoint(str(path), map_location="cpu")


def training_state() -> dict[str, Any]:
    """What mmengine writes beside the weights."""
    from mmengine.config import ConfigDict
    from mmengine.logging import HistoryBuffer

    return {
        "loss": HistoryBuffer([1.5, 0.5], [2, 2]),
        "best": [np.float64(0.75), np.float32(0.5), np.int64(3), np.bool_(True)],
        "meta": ConfigDict(classes=["road"], nested={"a": 1}),
    }


@pytest.mark.parametrize("numpy", [b"numpy._core", b"numpy.core"], ids=["numpy-2", "numpy-1"])
def test_training_state_comes_back(tmp_path: Path, numpy: bytes) -> None:
    path = tmp_path / "latest.pth"
    torch.save(training_state(), path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert b"numpy._core" in content
    path.write_bytes(content.replace(b"numpy._core", numpy))

    state = load(path)
    assert state["loss"].statistics("mean") == (1.5 + 0.5) / (2 + 2)
    assert [a.tolist() for a in state["loss"].data] == [[1.5, 0.5], [2, 2]]
    assert state["best"] == [0.75, 0.5, 3, True]
    assert [type(number) for number in state["best"]] == [np.float64, np.float32, np.int64, np.bool_]
    assert state["meta"].nested.a == 1


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_refused(tmp_path: Path, trace: Path, zipped: bool) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": {"w": torch.ones(1)}, "x": Burglar(trace)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"evil\.pth holds code \(\w+\.mkdir\) and is refused"):
        load(path)


def test_getattr_opens_no_door(tmp_path: Path, trace: Path) -> None:
    class Lookup:
        def __init__(self, owner: Any, name: str) -> None:
            self.reduced = (getattr, (owner, name))

        def __reduce__(self) -> Any:
            return self.reduced

        def __call__(self) -> None:
            """Pickle takes only what can be called as the first part of a reduction."""

    class Call(Burglar):
        def __init__(self) -> None:
            self.reduced = (Lookup(np.ndarray, "tofile"), (str(trace),))

    from mmengine.logging import HistoryBuffer

    for name, harm in {
        "call": Call(),
        "class": Lookup(np.ndarray, "mean"),
        "init": Lookup(HistoryBuffer, "__init__"),
    }.items():
        torch.save(harm, tmp_path / f"{name}.pth")
        with pytest.raises(UserError, match=r"holds code \(builtins\.getattr"):
            load(tmp_path / f"{name}.pth")


def test_code_behind_a_url_is_refused(tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub/checkpoints/evil.pth"  # where a download would land
    cached.parent.mkdir(parents=True)
    torch.save({"x": Burglar(trace)}, cached)
    with pytest.raises(UserError, match="holds code"):
        load("https://example.org/evil.pth")


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "image.pth"
    path.write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"image\.pth is not a checkpoint"):
        load(path)


def small_runner(work_dir: Path, **options: Any) -> Any:
    """A runner of mmengine that trains one linear layer on eight fixed samples."""
    from mmengine.model import BaseModel
    from mmengine.runner import Runner
    from torch.utils.data import TensorDataset

    class Model(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 1)
            nn.init.constant_(self.layer.weight, 0.5)
            nn.init.zeros_(self.layer.bias)

        def forward(self, x: Tensor, mode: str = "loss") -> dict[str, Tensor]:
            y = self.layer(x)
            self.dtype = y.dtype
            return {"loss": y.float().square().mean()}

    data = TensorDataset(torch.linspace(-1, 2, 24).view(8, 3))
    wrapper = {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.1}}
    return Runner(
        model=Model(),
        work_dir=str(work_dir),
        train_dataloader={
            "dataset": data,
            "batch_size": 4,
            "sampler": {"type": "InfiniteSampler", "shuffle": False},
            "collate_fn": {"type": "default_collate"},
        },
        train_cfg={"by_epoch": False, "max_iters": options.pop("max_iters", 4)},
        optim_wrapper={**wrapper, **options.pop("optim_wrapper", {})},
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 2, "by_epoch": False}},
        default_scope="mmattn",
        experiment_name=f"compat_{os.urandom(4).hex()}",
        log_level="ERROR",
        **options,
    )


def test_resume_continues_a_run(tmp_path: Path) -> None:
    whole = small_runner(tmp_path / "whole", max_iters=6).train()
    small_runner(tmp_path / "parts", max_iters=4).train()
    parts = small_runner(tmp_path / "parts", max_iters=6, resume=True)
    assert torch.equal(parts.train().layer.weight, whole.layer.weight)
    assert parts.iter == 6
    assert len(parts.message_hub.get_scalar("train/loss").data[0]) == 6


def test_resume_refuses_code(tmp_path: Path, trace: Path) -> None:
    small_runner(tmp_path / "run", max_iters=2).train()
    path = tmp_path / "run/iter_2.pth"
    state = load(path)
    state["message_hub"]["x"] = Burglar(trace)
    torch.save(state, path)
    with pytest.raises(UserError, match="holds code"):
        small_runner(tmp_path / "run", resume=True).train()


# -- devices -------------------------------------------------------------------------------------------------------


@cpu_only
@pytest.mark.parametrize("loss_scale", ["dynamic", 512.0])
def test_mixed_precision_trains_on_the_cpu(tmp_path: Path, loss_scale: str | float) -> None:
    plain = small_runner(tmp_path / "float32").train()
    mixed = small_runner(
        tmp_path / "mixed",
        optim_wrapper={"type": "AmpOptimWrapper", "loss_scale": loss_scale, "clip_grad": {"max_norm": 9}},
    )
    mixed.train()
    assert mixed.model.dtype == torch.bfloat16
    assert plain.dtype == torch.float32
    torch.testing.assert_close(mixed.model.layer.weight, plain.layer.weight, atol=0.02, rtol=0)
    assert not torch.equal(mixed.model.layer.weight, plain.layer.weight)
    assert (mixed.model.layer.weight - 0.5).abs().max() > 0.1, "the weights moved"

    resumed = small_runner(tmp_path / "mixed", resume=True, max_iters=6, optim_wrapper={"type": "AmpOptimWrapper"})
    resumed.train()
    assert resumed.iter == 6


TWO_PROCESSES = """
import gc
import sys
from pathlib import Path
sys.path.insert(0, "tests")
import torch
from torch import nn
from mmengine.model import is_model_wrapper
from mmattn.engine import processes
from test_compat import small_runner

def train():
    runner = small_runner(Path(sys.argv[1]), launcher="pytorch", env_cfg={"dist_cfg": {"backend": "nccl"}})
    runner.train()
    torch.save(runner.model.module.layer.weight, f"{sys.argv[1]}/weight{runner.rank}.pth")

train()
processes.part()
assert not torch.distributed.is_initialized()
assert not [thing for thing in gc.get_objects() if is_model_wrapper(thing)]
"""


@cpu_only
def test_two_processes_train_on_the_cpu(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(TWO_PROCESSES)
    done = python("", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script), str(tmp_path))
    assert done.returncode == 0, done.stderr

    data = torch.linspace(-1, 2, 24).view(8, 3)  # both halves of the data, one to each process, every iteration
    weight, bias = torch.full((1, 3), 0.5, requires_grad=True), torch.zeros(1, requires_grad=True)
    for _ in range(4):
        gradients = torch.autograd.grad((data @ weight.mT + bias).square().mean(), (weight, bias))
        weight, bias = (
            p.detach().sub(0.1 * g).requires_grad_() for p, g in zip((weight, bias), gradients, strict=True)
        )
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"weight{rank}.pth"), weight, atol=1e-6, rtol=0)


@cpu_only
def test_synchronised_norms_become_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmengine.model import MMDistributedDataParallel

    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "0")
    torch.distributed.init_process_group("gloo", rank=0, world_size=1)
    try:
        wrapped = MMDistributedDataParallel(nn.Sequential(nn.Conv2d(1, 2, 1), nn.SyncBatchNorm(2)), device_ids=[0])
        assert wrapped(torch.randn(2, 1, 4, 4)).shape == (2, 2, 4, 4)
        assert not any(isinstance(module, nn.SyncBatchNorm) for module in wrapped.modules())
    finally:
        torch.distributed.destroy_process_group()


# -- backbones -----------------------------------------------------------------------------------------------------


def test_two_plugins_at_one_position_both_count() -> None:
    from mmseg.models.backbones.resnet import Bottleneck
    from mmseg.registry import MODELS

    class Twice(nn.Module):
        _abbr_ = "twice"

        def __init__(self, in_channels: int) -> None:
            super().__init__()

        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    class Increase(Twice):
        _abbr_ = "increase"

        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    MODELS.register_module(module=Twice)
    MODELS.register_module(module=Increase)
    try:
        block = Bottleneck(
            8,
            2,
            plugins=[{"cfg": {"type": name}, "position": "after_conv3"} for name in ("mmseg.Twice", "mmseg.Increase")],
        ).eval()
    finally:
        MODELS.module_dict.pop("Twice")
        MODELS.module_dict.pop("Increase")
    nn.init.zeros_(block.conv3.weight)
    nn.init.constant_(block.norm3.bias, 0.25)
    x = torch.rand(1, 8, 3, 3)
    torch.testing.assert_close(block(x), x + (2 * 0.25 + 1))


@pytest.mark.parametrize("name", ["ResNet", "MobileNetV2"])
def test_eval_returns_the_backbone(name: str) -> None:
    from mmseg.models import backbones

    options = {"depth": 18, "frozen_stages": 1, "norm_eval": True} if name == "ResNet" else {"frozen_stages": 1}
    backbone = getattr(backbones, name)(**options)
    assert backbone.eval() is backbone
    assert backbone.train() is backbone
    frozen = backbone.layer1 if name == "ResNet" else backbone.conv1
    assert not any(parameter.requires_grad for parameter in frozen.parameters()), "train() still freezes"


# -- losses --------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore``")
@pytest.mark.parametrize("avg_non_ignore", [False, True])
@pytest.mark.parametrize("ignored", [0, 3])
def test_class_weights_go_with_ignored_pixels(avg_non_ignore: bool, ignored: int) -> None:
    from mmseg.models.losses import CrossEntropyLoss

    weights = [0.5, 2.0, 1.25]
    loss = CrossEntropyLoss(class_weight=weights, avg_non_ignore=avg_non_ignore)
    logits, label = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randint(3, (2, 4, 5))
    label.view(-1)[:ignored] = 255

    total = share = 0.0
    for scores, index in zip(logits.movedim(1, -1).reshape(-1, 3), label.view(-1).tolist(), strict=True):
        if index != 255:
            total -= weights[index] * scores.log_softmax(0)[index].item()
            share += weights[index]
    assert loss(logits, label, ignore_index=255).item() == pytest.approx(total / share, rel=1e-6)
