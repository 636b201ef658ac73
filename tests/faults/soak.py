"""A long training that is killed at random, again and again, and ends as one that was not."""

import argparse
import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from stage import EVERY, Stage, expect, same

WARM = 200  # iterations after which memory has to stay as it is
GROWTH = 0.01  # of it that counts as none: the curves of the log are kept in it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: python tests/faults/soak.py")
    parser.add_argument("--iters", type=int, default=2000, help="iterations of the training (default: 2000)")
    parser.add_argument(
        "--kill", type=float, nargs=2, default=(10, 60), help="it lives so many seconds (default: 10 60)"
    )
    parser.add_argument("--minutes", type=float, help="no more kills after so long")
    parser.add_argument("--seed", type=int, default=0, help="of the kills (default: 0)")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    with TemporaryDirectory() as folder:
        stage = Stage(Path(folder), iters=args.iters)
        begin, kills = time.monotonic(), 0
        memory = watch(stage, "once")
        print(f"undisturbed: {time.monotonic() - begin:.0f} s; {flat(memory, args.iters)}", flush=True)
        begin = time.monotonic()
        while True:
            process, until = stage.start("soaked", "--resume"), draw.uniform(*args.kill)
            if args.minutes and time.monotonic() - begin > 60 * args.minutes:
                until = float("inf")
            while process.poll() is None and lived(process) < until:
                time.sleep(0.01)
            if process.poll() is not None:
                break
            stage.kill(process, lambda: True)
            kills += 1
            print(f"kill {kills}: newest checkpoint {max(stage.saved('soaked'), default=0)}", flush=True)
        said = process.communicate()[0]
        expect(process.returncode == 0, said[-3000:])
        expect(same(stage.state("once"), stage.state("soaked")), "the soaked training ended differently")
        seconds = time.monotonic() - begin
        print(f"{args.iters} iterations, {kills} kills in {seconds:.0f} s: equal to the bit. Lost: nothing")


def watch(stage: Stage, run: str) -> dict[int, float]:
    """A training to its end; its memory in MiB, workers included, by iteration."""
    with open(stage.folder / f"{run}.log", "w+") as log:
        process = stage.start(run, stdout=log)
        memory: dict[int, float] = {}
        while process.poll() is None:
            if saved := stage.saved(run):
                memory.setdefault(saved[-1], sum(resident(process)))
            time.sleep(0.1)
        expect(process.returncode == 0, Path(log.name).read_text()[-3000:])
    return memory


def lived(process: subprocess.Popen) -> float:
    """Seconds of a processor that a process has had: where others work too, a second on the wall is less."""
    with suppress(FileNotFoundError):
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def resident(process: subprocess.Popen) -> Iterator[float]:
    """MiB of a process and its children."""
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in (process.pid, *children):
            yield int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20
    except FileNotFoundError:  # it ended meanwhile
        return


def flat(memory: dict[int, float], iters: int) -> str:
    """What the memory did, as a sentence; ends the script where it grew."""
    if iters < 4 * WARM:
        return f"too few iterations to see whether memory grows, {max(memory.values()):.0f} MiB"
    early = fmean(mib for step, mib in memory.items() if WARM <= step < 2 * WARM)
    late = fmean(mib for step, mib in memory.items() if iters - WARM <= step <= iters - EVERY)
    said = f"memory {early:.1f} MiB in iterations {WARM} to {2 * WARM}, {late:.1f} in the last {WARM}"
    expect(late < (1 + GROWTH) * early, f"{said}: it grows")
    return said


if __name__ == "__main__":
    main()
