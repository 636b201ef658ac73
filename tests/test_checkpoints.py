"""Checkpoints are whole or not there, and no fault of a disk ends a training."""

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import tiny
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmattn.cli import UserError
from mmattn.engine import checkpoints
from mmattn.engine.checkpoints import WholeFiles, find_newest, read_whole, write_whole

CONFIG = tiny.REPOSITORY / "configs" / "gcnet_r50.py"


# -- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
def test_a_failure_leaves_what_was_there(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() in ((b"new",) if step == "open" else (b"old",))  # os.open comes last, for the folder
    assert os.listdir(tmp_path) == ["file"]


def test_a_kill_leaves_one_content_or_the_other(tmp_path: Path) -> None:
    path, contents = tmp_path / "file", [bytes([letter]) * 3_000_000 for letter in b"ab"]
    write_whole(path, contents[0])
    for trial in range(10):
        child = os.fork()
        if child == 0:
            while True:
                for content in contents:
                    write_whole(path, content)
        time.sleep(0.01 * (trial + 1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert path.read_bytes() in contents


def test_a_folder_that_is_gone_stays_gone(tmp_path: Path) -> None:
    """The place of a mount is no place for a checkpoint."""
    with pytest.raises(FileNotFoundError):
        WholeFiles().put(b"content", str(tmp_path / "gone" / "file"))
    assert not (tmp_path / "gone").exists()


# -- finding -------------------------------------------------------------------------------------------------------


def saved(folder: Path, step: int, age: int = 0) -> Path:
    path = folder / f"iter_{step}.pth"
    torch.save({"meta": {"iter": step}, "state_dict": {"weight": torch.rand(1000)}}, path)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def config(folder: Path, **hook: Any) -> Config:
    return Config({"work_dir": str(folder), "default_hooks": {"checkpoint": hook}})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def weights_alone(path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.rand(1)}}, path)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (cut, "truncated"),
        (flip, "not what was written"),
        (empty, "truncated"),
        (weights_alone, "no training to resume"),
    ],
)
def test_the_newest_whole_one_is_found(spoil: Callable, why: str, tmp_path: Path) -> None:
    older, newer = saved(tmp_path, 20, age=1), saved(tmp_path, 30)
    saved(tmp_path, 900, age=9)  # of an earlier training in this folder
    assert find_newest(config(tmp_path)) == (newer, [])
    time_written = newer.stat().st_mtime_ns
    spoil(newer)
    os.utime(newer, ns=(time_written, time_written))
    found, (reason,) = find_newest(config(tmp_path))
    assert found == older
    assert str(newer) in reason
    assert why in reason


def test_nothing_whole_is_no_reason_to_start_over(tmp_path: Path) -> None:
    assert find_newest(config(tmp_path)) == (None, [])
    cut(saved(tmp_path, 10))
    with pytest.raises(UserError, match=r"(?s)no checkpoint to resume from is whole.*iter_10\.pth"):
        find_newest(config(tmp_path))


def test_checkpoints_are_found_where_they_are_saved(tmp_path: Path) -> None:
    (tmp_path / "else" / "run").mkdir(parents=True)
    path = saved(tmp_path / "else" / "run", 5)
    (tmp_path / "run").mkdir()
    saved(tmp_path / "run", 4)
    assert find_newest(config(tmp_path / "run", out_dir=str(tmp_path / "else")))[0] == path
    renamed = path.rename(path.with_name("step-5.ckpt"))
    assert (
        find_newest(config(tmp_path / "run", out_dir=str(tmp_path / "else"), filename_tmpl="step-{}.ckpt"))[0]
        == renamed
    )


def test_the_one_that_mmengine_noted_counts_too(tmp_path: Path) -> None:
    inside = saved(tmp_path, 5, age=1)
    elsewhere = saved(tmp_path, 6).rename(tmp_path / "copied.pth")
    (tmp_path / "last_checkpoint").write_text(str(elsewhere))
    assert find_newest(config(tmp_path))[0] == elsewhere
    elsewhere.unlink()
    assert find_newest(config(tmp_path)) == (inside, [])


# -- training ------------------------------------------------------------------------------------------------------


@HOOKS.register_module()
class FaultHook(Hook):
    """Does something before an iteration."""

    plan: ClassVar[dict[int, Callable[[], Any]]] = {}

    def before_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        self.plan.get(runner.iter, lambda: None)()


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable[..., str]:
    """Train six iterations, saving every second, with faults before some; what was said."""
    monkeypatch.chdir(tmp_path)
    tiny.cityscapes(tmp_path / "data" / "cityscapes")
    (tmp_path / "faults.py").write_text("custom_hooks = [dict(type='FaultHook')]")

    def run(*options: str, plan: dict[int, Callable] | None = None, flags: tuple[str, ...] = (), code: int = 0) -> str:
        monkeypatch.setattr(FaultHook, "plan", plan or {})
        settings = ["train_cfg.max_iters=6", "default_hooks.checkpoint.interval=2", *options]
        base = ["--base", *tiny.bases(tmp_path), tmp_path / "faults.py", "--work-dir", "run", *flags]
        ended = tiny.call("train", [CONFIG, *base, "--cfg-options", *settings], monkeypatch)
        said = "".join(capfd.readouterr())
        assert ended == code, said
        assert "Traceback" not in said
        return said

    return run


def names() -> list[str]:
    return sorted(path.name for path in Path("run").glob("*.pth"))


def limit(size: int) -> Callable[[], None]:
    """No file may grow beyond so many bytes: a disk that is full."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


@pytest.fixture
def unlimited() -> Any:
    yield
    limit(resource.RLIM_INFINITY)()


@pytest.mark.usefixtures("unlimited")
def test_a_full_disk_ends_nothing(train: Callable) -> None:
    said = train(
        "default_hooks.checkpoint.max_keep_ckpts=1", plan={3: limit(500_000), 5: limit(resource.RLIM_INFINITY)}
    )
    assert "iter_4.pth could not be saved: File too large; the last whole checkpoint is" in said
    assert names() == ["iter_6.pth"]
    assert torch.load("run/iter_6.pth", weights_only=False)["message_hub"]["runtime_info"]["keep_ckpt_ids"] == [2, 6]


@pytest.mark.usefixtures("unlimited")
def test_a_disk_that_stays_full_ends_with_a_message(train: Callable) -> None:
    said = train("default_hooks.checkpoint.max_keep_ckpts=1", plan={3: limit(500_000)}, code=2)
    assert "error: the training is done, but " in said
    assert "iter_6.pth could not be saved: File too large; nor elsewhere. --resume goes on from " in said
    assert names() == ["iter_2.pth"]
    limit(resource.RLIM_INFINITY)()
    assert "Load checkpoint from run/iter_2.pth" in train(flags=("--resume",))
    assert "iter_6.pth" in names()


def test_a_folder_that_comes_back(train: Callable) -> None:
    plan = {3: lambda: Path("run").rename("gone"), 5: lambda: Path("gone").rename("run")}
    said = train(plan=plan)
    assert "iter_4.pth could not be saved: No such file or directory" in said
    assert names() == ["iter_2.pth", "iter_6.pth"]


def test_a_folder_that_stays_away(train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last state goes where temporary files go."""
    monkeypatch.setattr(checkpoints, "mkdtemp", lambda prefix: str(tmp_path))
    said = train(plan={3: lambda: Path("run").rename("gone")}, code=2)
    assert f"its last state is in {tmp_path}/iter_6.pth" in said
    assert read_whole(tmp_path / "iter_6.pth")["meta"]["iter"] == 6
    assert not Path("run").exists()
    assert read_whole("gone/iter_2.pth")["meta"]["iter"] == 2


def test_the_best_one_stays_until_a_better_is_whole(train: Callable) -> None:
    options = ("train_cfg.val_interval=2", "default_hooks.checkpoint.save_best=mIoU")
    plan = {3: lambda: Path("run").rename("gone"), 5: lambda: Path("gone").rename("run")}
    train(*options, plan=plan)
    (best,) = Path("run").glob("best_mIoU_iter_*.pth")
    info = read_whole("run/iter_6.pth")["message_hub"]["runtime_info"]
    assert Path(info["best_ckpt"]).name == best.name != "best_mIoU_iter_4.pth"


def test_none_is_deleted_before_its_successor_is_whole(train: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    removed = []
    remove = WholeFiles.remove

    def look(self: WholeFiles, path: str) -> None:
        removed.append((Path(path).name, read_whole(Path("run/last_checkpoint").read_text())["meta"]["iter"]))
        remove(self, path)

    monkeypatch.setattr(WholeFiles, "remove", look)
    train("default_hooks.checkpoint.max_keep_ckpts=1")
    assert removed == [("iter_2.pth", 4), ("iter_4.pth", 6)]


def test_what_a_kill_left_is_cleared_away(train: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a file, and a checkpoint whose successor was whole already."""
    keep = "default_hooks.checkpoint.max_keep_ckpts=1"
    with monkeypatch.context() as patch:
        patch.setattr(WholeFiles, "remove", lambda self, path: None)
        train(keep, "train_cfg.max_iters=4")
    assert names() == ["iter_2.pth", "iter_4.pth"]
    Path("run/.iter_6.pth.part").write_bytes(b"half")
    cut(Path("run/iter_4.pth"))
    said = train(keep, flags=("--resume",))
    assert "--resume: skipped, run/iter_4.pth cannot be read: it is truncated" in said
    assert names() == ["iter_6.pth"]
    assert not Path("run/.iter_6.pth.part").exists()


def test_a_folder_that_cannot_be_written_is_said_at_once(
    train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("run").write_text("a file")
    assert "work_dir run cannot be written" in train(code=2)
