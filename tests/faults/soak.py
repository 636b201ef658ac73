"""A long training that is killed at random, again and again, and ends as one that was not."""

import argparse
import random
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from stage import Stage, expect, same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: python tests/faults/soak.py --iters 2000")
    parser.add_argument("--iters", type=int, default=2000, help="iterations of the training (default: 2000)")
    parser.add_argument("--kill", type=float, nargs=2, default=(10, 60), help="seconds between kills (default: 10 60)")
    parser.add_argument("--minutes", type=float, help="no more kills after so long")
    parser.add_argument("--seed", type=int, default=0, help="of the kills (default: 0)")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    with TemporaryDirectory() as folder:
        stage = Stage(Path(folder), iters=args.iters)
        begin, kills, at = time.monotonic(), 0, []
        stage.train("once")
        print(f"undisturbed: {time.monotonic() - begin:.0f} s", flush=True)
        begin = time.monotonic()
        while True:
            process, until = stage.start("soaked", "--resume"), time.monotonic() + draw.uniform(*args.kill)
            if args.minutes and time.monotonic() - begin > 60 * args.minutes:
                until = float("inf")
            while process.poll() is None and time.monotonic() < until:
                time.sleep(0.01)
            if process.poll() is not None:
                break
            stage.kill(process, lambda: True)
            kills += 1
            at.append(max(stage.saved("soaked"), default=0))
            print(f"kill {kills}: newest checkpoint {at[-1]}", flush=True)
        said = process.communicate()[0]
        expect(process.returncode == 0, said[-3000:])
        expect(same(stage.state("once"), stage.state("soaked")), "the soaked training ended differently")
        seconds = time.monotonic() - begin
        print(f"{args.iters} iterations, {kills} kills in {seconds:.0f} s: equal to the bit. Lost: nothing")


if __name__ == "__main__":
    main()
