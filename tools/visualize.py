#!/usr/bin/env python
"""Look at what a model attends to: for each image one figure with input, prediction and the maps of its attention."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmattn.cli import run

EXAMPLES = """examples:
  python tools/visualize.py configs/ccnet_r50.py work_dirs/ccnet_r50/iter_40000.pth street.png
  python tools/visualize.py CONFIG CHECKPOINT street.png --point 512,300 --point 80,200
  python tools/visualize.py CONFIG CHECKPOINT data/cityscapes/leftImg8bit/val/frankfurt --out-dir pictures
  python tools/visualize.py CONFIG CHECKPOINT "photos/**/*.jpg" --device cuda:0

Where the config's namesake lies beside the checkpoint, as training leaves it there, that one is used."""


def point(text: str) -> tuple[int, int]:
    try:
        x, y = map(int, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no point; give x,y in pixels, such as 512,300") from None
    return x, y


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="config file")
    parser.add_argument("checkpoint", help="checkpoint file or URL")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files, folders or patterns")
    parser.add_argument(
        "--point",
        type=point,
        action="append",
        default=[],
        metavar="X,Y",
        help="pixel whose attention to show, repeatable (default: three, inside regions of different classes)",
    )
    parser.add_argument("--out-dir", type=Path, help="where the figures go (default: visualize/ beside the checkpoint)")
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: a GPU where there is one)")
    parser.add_argument("--base", nargs="+", default=[], help="files of configs/_base_ to lay over the config")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="override the config")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from mmattn import stack

    stack.check()
    from mmattn.engine.config import build_model, load_config
    from mmattn.visualization import album, find_images

    images = find_images(args.images)
    device = album.device_of(args.device)
    config = args.config if args.base else album.config_of(args.config, args.checkpoint)
    model = build_model(load_config(config, args.cfg_options, args.base), args.checkpoint, device)
    folder = album.prepare_folder(args.out_dir or album.folder_of(args.config, args.checkpoint))
    album.fill(model, images, folder, args.point, note=f"{config.stem}, {Path(args.checkpoint).name}")


if __name__ == "__main__":
    run(main)
