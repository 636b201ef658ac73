#!/usr/bin/env python
"""Train a model from a config."""

import argparse
import os
import shlex
from collections.abc import Sequence

from mmattn.cli import as_typed, offer_trust, run

EXAMPLES = """examples:
  python tools/train.py configs/ccnet_r50.py
  python tools/train.py configs/ccnet_r50.py --resume --on-nan skip
  python tools/train.py configs/danet_r50.py --base camvid mobilenetv2 --cfg-options train_cfg.max_iters=4000
  python tools/train.py configs/gcnet_r50.py --cfg-options data_root=/data/cityscapes crop_size="(768,768)"

Without data at data/cityscapes, and with none chosen, it trains on the built-in sample."""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=as_typed(EXAMPLES), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file")
    parser.add_argument("--work-dir", help="where logs and checkpoints go (default: work_dirs/<name of the config>)")
    parser.add_argument("--resume", action="store_true", help="go on, to the bit, from the newest whole checkpoint")
    parser.add_argument("--amp", action="store_true", help="train in mixed precision")
    parser.add_argument(
        "--on-nan",
        choices=["stop", "skip"],
        default="stop",
        help="at a loss that is not finite: stop and say where it came from (default), or go on without its batch",
    )
    parser.add_argument("--from-scratch", action="store_true", help="without the pretrained weights of the config")
    parser.add_argument("--partial", action="store_true", help="load_from: load what fits, leave the rest")
    offer_trust(parser)
    parser.add_argument("--check", action="store_true", help="only look whether config, data and weights are in order")
    parser.add_argument(
        "--base",
        nargs="+",
        default=[],
        metavar="BASE",
        help="lay base files over the config: a name in configs/_base_, such as camvid or mobilenetv2, or a path",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help='override settings: key=1 key=a,b key="[(1,2),(3,4)]"; data_root and crop_size reach all their uses',
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none", help="job launcher")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from mmattn import stack

    stack.check()
    from mmattn.engine import processes, train, weights

    weights.trust(args.trust_checkpoint)
    cfg = train.prepare(
        args.config,
        options=args.cfg_options,
        base=args.base,
        work_dir=args.work_dir,
        resume=args.resume,
        amp=args.amp,
        on_nan=args.on_nan,
        from_scratch=args.from_scratch,
        launcher=args.launcher,
    )
    if args.check:
        print("config, data and weights are in order")
        return
    outcome = train.train(cfg, partial=args.partial)
    processes.part()
    if not outcome.main:
        return
    if outcome.metrics:
        print("\n" + ", ".join(f"{key} {value:.2f} %" for key, value in sorted(outcome.metrics.items(), reverse=True)))
    if outcome.checkpoint:
        model = [str(outcome.config), str(outcome.checkpoint)]
        print(f"checkpoint: {outcome.checkpoint}")
        print(as_typed(f"test it:    {shlex.join(['python', 'tools/test.py', *model])}"))
        if outcome.image and str(outcome.image).isprintable():
            print(as_typed(f"look at it: {shlex.join(['python', 'tools/visualize.py', *model, str(outcome.image)])}"))


if __name__ == "__main__":
    run(main)
