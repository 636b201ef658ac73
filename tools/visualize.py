#!/usr/bin/env python
"""Look at what a model attends to: for each image one figure with input, prediction and the maps of its attention."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from mmattn.cli import as_typed, offer_trust, run

EXAMPLES = """examples:
  python tools/visualize.py configs/ccnet_r50.py work_dirs/ccnet_r50/iter_40000.pth street.png
  python tools/visualize.py CONFIG CHECKPOINT street.png --point 512,300 --point 80,200
  python tools/visualize.py CONFIG CHECKPOINT data/cityscapes/leftImg8bit/val/frankfurt --out-dir pictures
  python tools/visualize.py CONFIG CHECKPOINT "photos/**/*.jpg" --device cuda:0 --suffix .pdf
  python tools/visualize.py CONFIG CHECKPOINT street.png --compare OTHER_CONFIG OTHER_CHECKPOINT --saliency
  python tools/visualize.py CONFIG CHECKPOINT street.png --html street.html

Where the config's namesake lies beside the checkpoint, as training leaves it there, that one is used."""


def point(text: str) -> tuple[int, int]:
    try:
        x, y = map(int, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no point; give x,y in pixels, such as 512,300") from None
    return x, y


def within(low: float, high: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {low:g} to {high:g}")
        return value

    return number


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=as_typed(EXAMPLES), formatter_class=argparse.RawDescriptionHelpFormatter
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
    parser.add_argument(
        "--compare",
        nargs=2,
        action="append",
        default=[],
        metavar=("CONFIG", "CHECKPOINT"),
        help="another model, beside the first on the same images and points; repeatable",
    )
    parser.add_argument("--layer", default="", help="only attention in this part of the model, such as decode_head")
    parser.add_argument("--mechanism", default="", help="only maps of this mechanism, such as CrissCross")
    parser.add_argument("--head", type=int, help="only this head, from 0 (default: the mean of all)")
    parser.add_argument("--saliency", action="store_true", help="also what stands out by itself (Itti et al. 1998)")
    parser.add_argument("--alpha", type=within(0, 1), default=0.95, help="opacity of the maps, 0 to 1 (default: 0.95)")
    parser.add_argument(
        "--clip", type=within(0, 100), default=99.5, help="percentile at which the colours end (default: 99.5)"
    )
    parser.add_argument("--log", action="store_true", help="colours on a logarithmic scale")
    parser.add_argument(
        "--suffix", choices=(".png", ".pdf", ".svg"), default=".png", help="format of the figures (default: .png)"
    )
    parser.add_argument(
        "--html",
        type=Path,
        metavar="OUT.html",
        help="instead of figures one page that shows the attention of any pixel",
    )
    parser.add_argument("--out-dir", type=Path, help="where the figures go (default: visualize/ beside the checkpoint)")
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: a GPU where there is one)")
    parser.add_argument("--fast", action="store_true", help="the fastest setting with the same predictions")
    offer_trust(parser)
    parser.add_argument("--base", nargs="+", default=[], help="files of configs/_base_ to lay over the config")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="override the config")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from mmattn import stack

    stack.check()
    from mmattn.engine.config import build_model, load_config
    from mmattn.engine.fast import quicken
    from mmattn.engine.weights import trust
    from mmattn.visualization import Options, album, explorer, find_images

    trust(args.trust_checkpoint)
    images = find_images(args.images)
    device = album.device_of(args.device)
    asked = [(args.config, args.checkpoint), *((Path(config), checkpoint) for config, checkpoint in args.compare)]
    used = asked if args.base else [(album.config_of(*model), model[1]) for model in asked]
    models = {
        name: build_model(load_config(config, args.cfg_options, args.base), checkpoint, device)
        for name, (config, checkpoint) in zip(album.names_of(used), used, strict=True)
    }
    for model in models.values() if args.fast else ():
        quicken(model)
    options = Options(args.layer, args.mechanism, args.head, args.saliency, args.alpha, args.clip, args.log)
    if args.html:
        explorer.gather(models, images, args.html, args.point, options)
        return
    album.fill(
        models,
        images,
        album.prepare_folder(args.out_dir or album.folder_of(args.config, args.checkpoint)),
        suffix=args.suffix,
        points=args.point,
        note=", ".join([used[0][0].stem, Path(args.checkpoint).name]) if len(models) == 1 else ", ".join(models),
        options=options,
    )


if __name__ == "__main__":
    run(main)
