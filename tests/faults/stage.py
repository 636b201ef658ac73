"""Where a fault is played: a small training in a process of its own, beside one that nothing disturbed."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import numpy as np  # noqa: E402
import tiny  # noqa: E402
import torch  # noqa: E402

CONFIG = TESTS.parent / "configs" / "gcnet_r50.py"
EVERY = 5  # iterations from one checkpoint to the next
# all that draws: order, scale, crop, flip and colours, in a worker process
DATA = tiny.DATA.replace(
    'crop = dict(type="RandomCrop", crop_size=(64, 64))',
    """augment = [
    dict(type="RandomResize", scale=(128, 128), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(64, 64)),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
]""",
).replace("2, crop)", "2, *augment)")
CODE = "import sys; sys.path.insert(0, {root!r}); import runpy; runpy.run_path({tool!r}, run_name='__main__')"

# what a training does to itself: code before iterations
FAULT = """
import os, subprocess
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
@HOOKS.register_module()
class Fault(Hook):
    def before_train_iter(self, runner, *args, **kwargs):
        exec({plan}.get(runner.iter, ""))
"""


class Stage:
    """A folder with data, in which trainings run.

    Args:
        folder: An empty one.
        iters: Of each training.
    """

    def __init__(self, folder: Path, iters: int = 4 * EVERY) -> None:
        self.folder, self.iters = folder, iters
        tiny.cityscapes(folder / "data" / "cityscapes", train=8)
        (folder / "data.py").write_text(DATA)
        self.base = [str(folder / "data.py"), tiny.bases(folder)[1]]

    def start(
        self, run: str, *flags: str, first: str = "", options: tuple[str, ...] = (), stdout: Any = subprocess.PIPE
    ) -> subprocess.Popen:
        """Begin a training; ``first`` is code that its process runs before."""
        code = first + "\n" + CODE.format(root=str(TESTS.parent), tool=str(TESTS.parent / "tools" / "train.py"))
        settings = [f"train_cfg.max_iters={self.iters}", f"default_hooks.checkpoint.interval={EVERY}"]
        settings += ["default_hooks.checkpoint.max_keep_ckpts=2", "randomness.seed=0", "train_dataloader.num_workers=1"]
        arguments = [str(CONFIG), "--base", *self.base, "--work-dir", run, *flags, "--cfg-options", *settings, *options]
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, *arguments],
            cwd=self.folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # what is killed takes its workers along
        )

    def train(self, run: str, *flags: str, code: int = 0, plan: dict[int, str] | None = None, **how: Any) -> str:
        """A training to its end, with code to run before iterations; what it said."""
        if plan:
            (self.folder / "fault.py").write_text("custom_hooks = [dict(type='Fault')]")
            self.base.append(str(self.folder / "fault.py"))
            how["first"] = FAULT.format(plan=plan)
        process = self.start(run, *flags, **how)
        if plan:
            self.base.pop()
        said = process.communicate()[0]
        expect(process.returncode == code, f"it ended with {process.returncode}, not {code}:\n{said[-3000:]}")
        return said

    def kill(self, process: subprocess.Popen, when: Callable[[], bool]) -> None:
        """``kill -9`` once something holds."""
        while not when() and process.poll() is None:
            time.sleep(0.0005)
        expect(process.poll() is None, "the training ended before it was killed")
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
        process.stdout.close()

    def saved(self, run: str) -> list[int]:
        """The iterations whose checkpoints are there."""
        return sorted(int(path.stem.split("_")[1]) for path in (self.folder / run).glob("iter_*.pth"))

    def state(self, run: str) -> dict[str, Any]:
        """What must not depend on a fault."""
        path = self.folder / run / f"iter_{self.iters}.pth"
        checkpoint = torch.load(path, weights_only=False)
        scalars = checkpoint["message_hub"]["log_scalars"]
        curves = {k: v.data[0] for k, v in scalars.items() if k.startswith("train/") and not k.endswith("time")}
        return {"curves": curves} | {key: checkpoint[key] for key in ("state_dict", "optimizer", "param_schedulers")}


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal to the bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return np.array_equal(a, b, equal_nan=True) if isinstance(a, np.ndarray) else a == b


def expect(holds: bool, otherwise: str) -> None:
    """End the script where something does not hold."""
    if not holds:
        sys.exit(f"FAILED: {otherwise}")


def play(fault: Callable[[Stage], str], **stage: Any) -> None:
    """Play a fault and print its row of the table: fault, how it was made, what happened, what was lost."""
    argparse.ArgumentParser(description=fault.__doc__).parse_args()
    with TemporaryDirectory() as folder:
        begin = time.perf_counter()
        print(f"{fault(Stage(Path(folder), **stage))} ({time.perf_counter() - begin:.0f} s)")
