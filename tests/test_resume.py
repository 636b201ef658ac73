"""A training that was killed and resumed ends as one that was not: to the bit, and without loading what it had done."""

import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor

from mmattn.engine import resume
from mmattn.engine.resume import Drawn, Place, Places, by_place, seed_all

CONFIG = tiny.REPOSITORY / "configs" / "gcnet_r50.py"
ITERS, SAVED, KILLED = 6, 3, 5
# everything that draws: order, scale, crop, flip, colours, dropout
DATA = tiny.DATA.replace(
    'crop = dict(type="RandomCrop", crop_size=(64, 64))',
    """augment = [
    dict(type="RandomResize", scale=(128, 128), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(32, 32)),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
]""",
).replace("2, crop)", "2, *augment)")
KILL = "dict(type='KillHook')"
# flags, options as of --cfg-options, and lines of a base file, which have spaces around their =
SETTINGS = {
    "plain": [],
    "workers": ["train_dataloader.num_workers=2", "train_dataloader.persistent_workers=True"],
    "amp": ["--amp"],
    "accumulation": ["optim_wrapper.accumulative_counts=2"],  # a gradient is in the making when it is saved
    "amp with accumulation": ["--amp", "optim_wrapper.accumulative_counts=2"],
    "ema": [f"custom_hooks = [{KILL}, dict(type='EMAHook', momentum=0.1)]"],
    "adam": ["optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))"],
    "finite sampler": ["train_dataloader.sampler.type=DefaultSampler", "train_dataloader.batch_size=3"],
    "no seed": ["randomness.seed=None"],
    "by epoch": [
        "train_dataloader.sampler.type=DefaultSampler",
        "train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=3, val_interval=9)",
        "default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))",
        "log_processor = dict(by_epoch=True)",
    ],
}


# the others contain the most of these
SLOW = {"plain", "amp", "accumulation", "adam", "finite sampler", "no seed", "by epoch"}


class Killed(Exception):
    """In the place of a signal that cannot be caught."""


@HOOKS.register_module()
class KillHook(Hook):
    """Ends everything after an iteration was done and before it was saved, or, below 0, where a validation begins."""

    priority = "VERY_LOW"
    at: int | None = None

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        if runner.iter + 1 == self.at:
            raise Killed

    def before_val(self, runner: Any) -> None:
        if self.at == -runner.iter:
            raise Killed


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict]:
    """Train in a folder, killed at an iteration or not; the last checkpoint."""
    monkeypatch.chdir(tmp_path)
    tiny.cityscapes(tmp_path / "data" / "cityscapes")
    (tmp_path / "data.py").write_text(DATA)
    _, backbone = tiny.bases(tmp_path)

    def run(folder: str, *options: str, kill: int | None = None) -> dict:
        monkeypatch.setattr(KillHook, "at", kill)
        flags = [option for option in options if option.startswith("--")]
        lines = [option for option in options if " = " in option]
        settings = ["randomness.seed=7"]
        if not any("max_epochs" in line for line in lines):
            settings += [f"train_cfg.max_iters={ITERS}", f"default_hooks.checkpoint.interval={SAVED}"]
        settings += [option for option in options if option not in flags + lines]
        (tmp_path / "setting.py").write_text("\n".join([f"custom_hooks = [{KILL}]", *lines]))
        base = ["--base", tmp_path / "data.py", backbone, tmp_path / "setting.py"]
        arguments = [CONFIG, *base, "--work-dir", folder, *flags, "--cfg-options"]
        if kill is None:
            assert tiny.call("train", [*arguments, *settings], monkeypatch) == 0
        else:
            with pytest.raises(Killed):
                tiny.call("train", [*arguments, *settings], monkeypatch)
        return torch.load(Path(Path(folder, "last_checkpoint").read_text()), weights_only=False)

    return run


def state(checkpoint: dict) -> dict[str, Any]:
    """What must be the same: all but the times and the memory."""
    scalars = checkpoint["message_hub"]["log_scalars"]
    curves = {key: value.data[0] for key, value in scalars.items() if not key.endswith(("time", "memory"))}
    parts = ("state_dict", "ema_state_dict", "optimizer", "param_schedulers", "gradients")
    return {"curves": curves} | {part: checkpoint.get(part) for part in parts}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    return np.array_equal(a, b, equal_nan=True) if isinstance(a, np.ndarray) else a == b


@pytest.mark.parametrize(
    "setting", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in SETTINGS]
)
def test_resumed_is_not_interrupted(setting: str, train: Callable, capsys: pytest.CaptureFixture) -> None:
    options = SETTINGS[setting]
    resumed = options
    if setting == "no seed":
        seeded = train("killed", *options, kill=KILLED)["meta"]["seed"]
        options = [f"randomness.seed={seeded}"]
    else:
        train("killed", *options, kill=KILLED)
    once = state(train("once", *options))
    capsys.readouterr()
    twice = state(train("killed", *resumed, "--resume"))
    assert "not exact" not in "".join(capsys.readouterr())
    assert len(once["curves"]["train/loss"]) == ITERS
    for part in once:
        assert same(once[part], twice[part]), part


def test_workers_change_nothing(train: Callable) -> None:
    """Nor whether there are any."""
    none, one, two = (state(train(str(n), f"train_dataloader.num_workers={n}")) for n in range(3))
    assert same(none, one)
    assert same(none, two)


def test_seeds_differ(train: Callable) -> None:
    first, second = (state(train(str(seed), f"randomness.seed={seed}"))["curves"] for seed in (1, 2))
    assert not same(first["train/loss"], second["train/loss"])


def test_validation_is_caught_up(train: Callable) -> None:
    """The kill comes between a checkpoint and its validation, which chooses the best one."""
    options = (
        f"train_cfg.val_interval={SAVED}",
        "default_hooks.checkpoint.save_best=mIoU",
        "default_hooks.checkpoint.rule=less",
    )
    once = train("once", *options)
    train("killed", *options, kill=-SAVED)
    twice = train("killed", *options, "--resume")
    assert same(state(once), state(twice))
    best = [sorted(path.name for path in Path(run).glob("best_*")) for run in ("once", "killed")]
    assert best[0] == best[1] != []


def test_older_checkpoints_resume(train: Callable, capsys: pytest.CaptureFixture) -> None:
    train("run", kill=KILLED)
    path = Path("run", f"iter_{SAVED}.pth")
    checkpoint = torch.load(path, weights_only=False)
    del checkpoint["meta"][resume.IMAGES]
    torch.save(checkpoint, path)
    train("run", "--resume")
    assert "the resume is not exact" in "".join(capsys.readouterr())


def test_another_batch_size_says_so(train: Callable, capsys: pytest.CaptureFixture) -> None:
    train("run", kill=KILLED)
    train("run", "--resume", "train_dataloader.batch_size=3")
    assert "3 images an iteration, the checkpoint had 2: the resume is not exact" in "".join(capsys.readouterr())


def test_nothing_is_replayed(train: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the images of the iterations to come are loaded."""
    train("run", kill=KILLED)
    loaded = []
    monkeypatch.setattr(Drawn, "__getitem__", _counting(Drawn.__getitem__, loaded))
    train("run", "--resume")
    assert len(loaded) == 2 * (ITERS - SAVED)
    assert {place.position for place in loaded} == set(range(2 * SAVED, 2 * ITERS))


def _counting(load: Callable, seen: list) -> Callable:
    def getitem(self: Drawn, index: int) -> Any:
        seen.append(index)
        return load(self, index)

    return getitem


@pytest.mark.slow
def test_kill_9(tmp_path: Path) -> None:
    """A process that is really killed, by itself, in the middle of an iteration."""
    tiny.cityscapes(tmp_path / "data" / "cityscapes")
    (tmp_path / "data.py").write_text(DATA)
    _, backbone = tiny.bases(tmp_path)
    code = f"""
        import os, signal, sys
        sys.path[:0] = [{str(tiny.REPOSITORY)!r}, {str(tiny.REPOSITORY / "tests")!r}]
        import tiny
        from mmattn.cli import run
        from mmattn.engine.resume import PlaceHook
        folder, kill, *rest = sys.argv[1:]
        begin = PlaceHook.before_train_iter
        def before_train_iter(self, runner, *args, **kwargs):
            begin(self, runner, *args, **kwargs)
            if runner.iter == int(kill):
                os.kill(os.getpid(), signal.SIGKILL)
        PlaceHook.before_train_iter = before_train_iter
        main = tiny.tool("train").main
        run(lambda: main([{str(CONFIG)!r}, "--base", "data.py", {backbone!r}, "--work-dir", folder, *rest,
            "--cfg-options", "train_cfg.max_iters={ITERS}", "default_hooks.checkpoint.interval=2",
            "randomness.seed=7", "train_dataloader.num_workers=1"]))
    """
    (tmp_path / "program.py").write_text(textwrap.dedent(code))

    def launch(*arguments: str) -> int:
        command = [sys.executable, "program.py", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode

    assert launch("killed", "5") == -signal.SIGKILL
    assert launch("killed", "-1", "--resume") == 0
    assert launch("once", "-1") == 0
    once, twice = (torch.load(tmp_path / f"{run}/iter_{ITERS}.pth", weights_only=False) for run in ("once", "killed"))
    assert same(state(once), state(twice))
    assert json.dumps(once["meta"]["seed"]) == "7"


# -- the pieces ----------------------------------------------------------------------------------------------------


class Draws:
    """A dataset of what is drawn."""

    metainfo = "of the dataset"

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple:
        assert type(index) is int
        return index, np.random.rand(), torch.rand(()).item(), __import__("random").random()


def test_samples_are_drawn_by_their_place() -> None:
    data = Drawn(Draws(), seed=3)
    first = [data[Place.of(2, epoch, position)] for epoch, position in ((0, 0), (0, 1), (1, 0))]
    assert len({draw for sample in first for draw in sample[1:]}) == 9
    np.random.rand()
    assert data[Place.of(2, 0, 1)] == first[1]
    assert Drawn(Draws(), seed=4)[Place.of(2, 0, 1)] != first[1]
    assert data[2] != data[2]
    assert (data.metainfo, len(data)) == ("of the dataset", 5)


def test_seeds_of_neighbours_share_nothing() -> None:
    drawn = set()
    for place in ((0, 0, 1), (1, 0, 0), (0, 1, 0)):
        seed_all(*place)
        drawn |= {round(value, 12) for value in (*np.random.rand(50), *torch.rand(50, dtype=torch.float64).tolist())}
    assert len(drawn) == 300


@pytest.mark.parametrize("sampler", [InfiniteSampler, DefaultSampler])
def test_batches_begin_anywhere(sampler: type) -> None:
    """Also in a later epoch, whose last batch is short."""

    def run(begin: int) -> list:
        batches = Places(sampler(Draws(), seed=3), batch_size=2, endless=True)
        batches.begin = begin
        return [[(int(p), p.epoch, p.position) for p in batch] for batch in islice(batches, 8 - begin)]

    for begin in (1, 3, 4):
        assert run(begin) == run(0)[begin:]


def test_an_endless_loader_waits() -> None:
    """Upstream mmengine opens it before it knows where to begin."""
    assert list(Places(InfiniteSampler(Draws(), seed=3), batch_size=2, endless=True)) == []


def test_processes_share_the_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes with half the batch draw what one draws."""
    together = []
    for rank in range(2):
        monkeypatch.setattr(resume, "get_dist_info", lambda rank=rank: (rank, 2))
        monkeypatch.setattr("mmengine.dataset.sampler.get_dist_info", lambda rank=rank: (rank, 2))
        batches = Places(InfiniteSampler(Draws(), seed=3), batch_size=1, endless=True)
        batches.begin = 0
        together.append([(int(p), p.position) for (p,) in islice(batches, 6)])
    monkeypatch.undo()
    alone = Places(InfiniteSampler(Draws(), seed=3), batch_size=2, endless=True)
    alone.begin = 0
    assert [[(int(p), p.position) for p in batch] for batch in islice(alone, 6)] == [
        [*pair] for pair in zip(*together, strict=True)
    ]


def test_the_config_of_the_loader_is_kept() -> None:
    loader = {"dataset": {"type": "X"}, "batch_size": 4, "drop_last": True, "num_workers": 3}
    drawn = by_place(loader, 5, endless=False)
    assert loader == {"dataset": {"type": "X"}, "batch_size": 4, "drop_last": True, "num_workers": 3}
    assert (drawn["batch_size"], drawn["num_workers"], drawn["batch_sampler"]["drop_last"]) == (4, 3, True)
