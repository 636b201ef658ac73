#!/usr/bin/env python
"""Test a checkpoint: mIoU, per-class IoU and accuracy, as a table and as JSON; predictions as files."""

import argparse
import os
from pathlib import Path

from mmattn.cli import UserError, as_typed, offer_trust, run

EXAMPLES = """examples:
  python tools/test.py configs/ccnet_r50.py work_dirs/ccnet_r50/iter_40000.pth
  python tools/test.py CONFIG CHECKPOINT --out predictions                        palette PNGs
  python tools/test.py CONFIG CHECKPOINT --fast                                   the same predictions, sooner
  python tools/test.py CONFIG CHECKPOINT --cfg-options model.test_cfg.mode=slide  sliding window
  python tools/test.py CONFIG CHECKPOINT --out server --out-format labelids --format-only --cfg-options \\
      test_dataloader.dataset.data_prefix.img_path=leftImg8bit/test               for the Cityscapes server"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=as_typed(EXAMPLES), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file or URL")
    parser.add_argument("--work-dir", help="where logs and metrics.json go (default: work_dirs/NAME OF THE CONFIG)")
    parser.add_argument("--base", nargs="+", default=[], help="files of configs/_base_ to lay over the config")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="override the config")
    parser.add_argument("--out", type=Path, help="folder for the predictions, one PNG for each image")
    parser.add_argument(
        "--out-format",
        choices=("palette", "labelids"),
        default="palette",
        help="what they hold: class indices with the palette, or label ids for the Cityscapes server",
    )
    parser.add_argument("--format-only", action="store_true", help="write predictions; read no labels, score nothing")
    parser.add_argument("--fast", action="store_true", help="folded batch norms, channels_last, bfloat16 where it pays")
    parser.add_argument("--tta", action="store_true", help="average over scales and flips (test-time augmentation)")
    parser.add_argument("--show", action="store_true", help="show each prediction in a window")
    parser.add_argument("--show-dir", help="folder for pictures of label and prediction over the image")
    parser.add_argument("--wait-time", type=float, default=2, help="seconds that --show waits (default: %(default)s)")
    offer_trust(parser)
    parser.add_argument("--launcher", choices=("none", "pytorch", "slurm", "mpi"), default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    return args


def main() -> None:
    args = parse_args()
    if args.format_only and not args.out:
        raise UserError("--format-only writes predictions: say where with --out")
    from mmattn import stack

    stack.check()
    from mmengine.dist import is_main_process

    from mmattn.engine import processes
    from mmattn.engine.evaluate import evaluate, prepare
    from mmattn.engine.weights import trust

    trust(args.trust_checkpoint)
    cfg = prepare(
        args.config,
        args.checkpoint,
        options=args.cfg_options,
        base=args.base,
        work_dir=args.work_dir,
        launcher=args.launcher,
    )
    pictures = {"save_dir": args.show_dir, "show": args.show, "wait_time": args.wait_time}
    found = evaluate(
        cfg,
        args.checkpoint,
        tta=args.tta,
        fast=args.fast,
        out=args.out,
        values=args.out_format,
        format_only=args.format_only,
        pictures=pictures if args.show or args.show_dir else None,
    )
    if is_main_process():
        for what, where in (("scores", found), ("predictions", args.out), ("pictures", args.show_dir)):
            if where:
                print(f"{what}: {where}")
    processes.part()


if __name__ == "__main__":
    run(main)
