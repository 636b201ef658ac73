"""The disk fills up before a checkpoint, then has room again: a small file system as root, else a limit on files."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stage import EVERY, Stage, expect, play, same

FILL = "subprocess.run(['dd', 'if=/dev/zero', 'of=full/ballast', 'bs=64k'], stderr=subprocess.DEVNULL)"
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({}, resource.RLIM_INFINITY))"


def fault(stage: Stage) -> str:
    """A full disk."""
    if os.geteuid() == 0:
        with _small_disk(stage.folder / "full"):
            said = stage.train("full", plan={EVERY: FILL, 2 * EVERY: "os.remove('full/ballast')"})
    else:
        plan = {EVERY: LIMIT.format(200_000), 2 * EVERY: LIMIT.format("resource.RLIM_INFINITY")}
        said = stage.train("full", plan=plan)
    expect(f"iter_{2 * EVERY}.pth could not be saved" in said, f"it was not said:\n{said[-3000:]}")
    expect("Traceback" not in said, said)
    expect(stage.saved("full") == [3 * EVERY, 4 * EVERY], f"saved: {stage.saved('full')}")
    stage.train("once")
    expect(same(stage.state("once"), stage.state("full")), "the training ended differently")
    return "said; the checkpoint before is whole, training went on and saved the next one. Lost: one checkpoint"


@contextmanager
def _small_disk(path: Path) -> Iterator[None]:
    """A file system whose content stays when it goes."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500m", "tmpfs", path], check=True)
    try:
        yield
        shutil.copytree(path, copy := path.with_name("copy"))
    finally:
        subprocess.run(["umount", "-l", path], check=True)
    path.rmdir()
    copy.rename(path)


if __name__ == "__main__":
    play(fault)
