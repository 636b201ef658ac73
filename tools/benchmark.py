#!/usr/bin/env python
"""Measure what mmattn costs beside MMSegmentation: same weights, in turn, after both were found to agree."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from mmattn.cli import run

EXAMPLES = """examples:
  python tools/benchmark.py peers                              every module, time and memory, eval and train
  python tools/benchmark.py peers pam criss_cross --size 128x256 --mode eval
  python tools/benchmark.py peers --dtype bfloat16 --json peers.json"""


def size(text: str) -> tuple[int, int]:
    try:
        h, w = map(int, text.split("x"))
    except ValueError:
        h = w = 0
    if h < 1 or w < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; give rows x columns, such as 64x128")
    return h, w


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--threads", type=int, help="threads of torch (default: as torch chooses)")
    shared.add_argument("--repeat", type=int, default=7, help="samples of each side (default: %(default)s)")
    shared.add_argument("--json", type=Path, metavar="OUT", help="write the numbers there as well")

    peers = commands.add_parser("peers", parents=[shared], help="module by module, mmseg's and ours")
    peers.add_argument("items", nargs="*", metavar="ITEM", help="such as pam or loss (default: all)")
    peers.add_argument(
        "--size",
        type=size,
        nargs="+",
        default=[],
        help="rows x columns of the map, an eighth of the image's (default: where the item has a bar)",
    )
    peers.add_argument("--batch", type=int, default=1, help="images (default: %(default)s)")
    peers.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of autocast")
    peers.add_argument("--device", default="cpu", help="such as cuda (default: %(default)s)")
    peers.add_argument("--mode", choices=("eval", "train", "load"), nargs="+", default=[], help="(default: all)")
    peers.add_argument("--no-memory", dest="memory", action="store_false", help="time alone, which is quicker")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from mmattn import stack

    stack.check()
    import torch

    from mmattn.engine.benchmark import measure, peers, report
    from mmattn.engine.benchmark.pairs import Setting

    if args.threads:
        torch.set_num_threads(args.threads)
    typed = shlex.join(["python", "tools/benchmark.py", *(sys.argv[1:] if argv is None else argv)])
    machine = measure.machine(args.device)
    setting = Setting(batch=args.batch, dtype=getattr(torch, args.dtype), device=args.device)
    found = peers.compare(args.items, setting, sizes=args.size, modes=args.mode, repeat=args.repeat, memory=args.memory)
    rows = list(found)
    print(f"{typed}\n{', '.join(f'{key} {value}' for key, value in machine.items())}\n\n{report.table(rows)}")
    if args.json:
        report.save(args.json, machine, typed, rows)


if __name__ == "__main__":
    run(main)
