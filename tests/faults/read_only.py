"""The file system of the checkpoints turns read-only and stays so until the end. Needs root, to mount one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from stage import EVERY, Stage, expect, play, same


def fault(stage: Stage) -> str:
    """A read-only file system."""
    if os.geteuid() != 0:
        sys.exit("needs root, to mount a file system")
    disk = stage.folder / "fixed"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", disk], check=True)
    try:
        # with a log file open for writing the mount itself stays writable; one over it does not
        seal = "subprocess.run('mount -o bind fixed fixed && mount -o remount,ro,bind fixed', shell=True, check=True)"
        said = stage.train("fixed", code=2, plan={EVERY: seal})
        expect("Read-only file system" in said and "Traceback" not in said, said[-3000:])
        refuge = Path(said.split("its last state is in ")[1].split(". --resume")[0])
        expect(EVERY in stage.saved("fixed"), "the checkpoint before is gone")
    finally:
        subprocess.run(["umount", "-l", disk], check=False)
        subprocess.run(["umount", "-l", disk], check=False)
    (disk / refuge.name).write_bytes(refuge.read_bytes())
    shutil.rmtree(refuge.parent)
    stage.train("once")
    expect(same(stage.state("once"), stage.state("fixed")), "the training ended differently")
    return "said at each interval; the last state went to the temporary files, exit code 2 says where. Lost: nothing"


if __name__ == "__main__":
    play(fault)
