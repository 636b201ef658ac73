#!/usr/bin/env python
"""Train and test models under one budget, and say which differences are real."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from mmattn.cli import UserError, as_typed, run

EXAMPLES = """examples:
  python tools/compare.py configs/fcn_r50.py configs/ccnet_r50.py configs/danet_r50.py --seeds 3 --budget 40000
  python tools/compare.py configs/*_r50.py --base camvid_240x180 --amp --seeds 1 --floor fcn_r50
  python tools/compare.py CONFIG ... --seeds 5            later: two more seeds, three are there
  python tools/compare.py --report-only --floor fcn_r50 --out work_dirs/compare

Interrupt it, or have it killed, at any point: the same command goes on where it was. What is measured is kept, one file
for each config and seed, and the page is written from these: comparison.md, .html and .svg beside them."""


def from_1(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=as_typed(EXAMPLES), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help="config files")
    parser.add_argument("--seeds", type=from_1, default=3, help="trainings of each, seeds 0, 1, ... (default: 3)")
    parser.add_argument("--budget", type=from_1, metavar="ITERS", help="iterations of each (default: the configs')")
    parser.add_argument("--base", nargs="+", default=[], help="files of configs/_base_ to lay over each config")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="override each config")
    parser.add_argument("--amp", action="store_true", help="train in mixed precision")
    parser.add_argument("--floor", metavar="NAME", help="the config to compare with (default: the first CONFIG)")
    help_block = "test images that follow each other and count as one, for frames of a video (default: 1)"
    parser.add_argument("--block", type=from_1, default=1, metavar="IMAGES", help=help_block)
    parser.add_argument("--work-dir", default="work_dirs/compare", help="of the trainings (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder of results and page (default: that of the trainings)")
    parser.add_argument("--report-only", action="store_true", help="train nothing; write the page of what is measured")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if not (args.configs or (args.report_only and args.floor)):
        raise UserError("name the configs to compare; --report-only does without, and then needs --floor NAME")
    from mmattn import stack

    stack.check()
    from mmattn.engine.compare.comparison import compare

    typed = as_typed(shlex.join(["python", "tools/compare.py", *(sys.argv[1:] if argv is None else argv)]))
    options = [*args.cfg_options, *([f"train_cfg.max_iters={args.budget}"] if args.budget else [])]
    compare(
        args.configs,
        seeds=args.seeds,
        base=args.base,
        options=options,
        amp=args.amp,
        work_dir=args.work_dir,
        out=args.out or Path(args.work_dir),
        floor=args.floor or Path(args.configs[0]).stem,
        block=args.block,
        train=not args.report_only,
        command=typed,
    )


if __name__ == "__main__":
    run(main)
