#!/usr/bin/env python
"""Export a checkpoint to one file that runs without mmattn: ONNX, or a program of torch.export.

The graph is run beside the model, on noise and on photographs, at two sizes and two numbers of images; where they
disagree, no file is written."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmattn.cli import UserError, as_typed, harmless, offer_trust, run

EXAMPLES = """examples:
  python tools/export.py configs/ccnet_r50.py work_dirs/ccnet_r50/iter_40000.pth ccnet.onnx
  python tools/export.py CONFIG CHECKPOINT ccnet.onnx --argmax         from what cv2 reads to labels, see docs/export.md
  python tools/export.py CONFIG CHECKPOINT ccnet.pt2                   for torch.export.load
  python tools/export.py CONFIG CHECKPOINT ccnet.onnx --image street.png --size 512x1024 384x520

Number, height and width of the images stay open, for all heads. With compact masks of PSANet a model fits one size of
map alone, by its maths: such models need --fixed. Images are taken as they are; what the test pipeline of the config
does before, such as resizing them, is not in the graph."""


def size(text: str) -> tuple[int, int]:
    try:
        h, w = map(int, text.split("x"))
    except ValueError:
        h = w = 0
    if h < 32 or w < 32:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; give rows x columns from 32 on, such as 512x1024")
    return h, w


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=as_typed(EXAMPLES), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="config file")
    parser.add_argument("checkpoint", help="checkpoint file or URL")
    parser.add_argument("out", type=Path, metavar="OUT", help="file to write; .onnx (opset 18) or .pt2")
    parser.add_argument(
        "--argmax",
        action="store_true",
        help="from uint8 images (n, h, w, 3), blue green red, to uint8 labels (n, h, w), preprocessing included; "
        "without it from normalised float32 images (n, 3, h, w) to logits (n, classes, h, w)",
    )
    parser.add_argument("--fixed", action="store_true", help="only images of the first --size, any number of them")
    parser.add_argument(
        "--size",
        type=size,
        nargs="+",
        metavar="HxW",
        help="two sizes to compare graph and model at (default: 256x512 232x328)",
    )
    parser.add_argument(
        "--image",
        type=Path,
        action="append",
        default=[],
        help="photograph to compare them on, repeatable (default: test images of the config, or one of matplotlib's)",
    )
    parser.add_argument("--base", nargs="+", default=[], help="files of configs/_base_ to lay over the config")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="override the config")
    offer_trust(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.size and not args.fixed and len(set(args.size)) < 2:
        raise UserError("--size takes two different sizes, or one with --fixed")
    from mmattn import stack

    stack.check()
    from mmattn.engine.config import build_model, load_config
    from mmattn.engine.export import SIZES, check_output, export
    from mmattn.engine.weights import trust

    check_output(args.out)
    trust(args.trust_checkpoint)
    model = build_model(load_config(args.config, args.cfg_options, args.base), args.checkpoint)
    sizes = args.size or SIZES
    export(model, args.out, argmax=args.argmax, fixed=args.fixed, sizes=sizes, images=args.image, say=say)
    say(f"written: {args.out}")


def say(line: str) -> None:
    print(harmless(line), flush=True)


if __name__ == "__main__":
    run(main)
