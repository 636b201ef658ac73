#!/usr/bin/env python
"""Put the attention of a model into numbers, over the test split of its config."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from mmattn.cli import UserError, offer_trust, run

EXPLAINED = """for each layer, as means over queries, heads and images:
  entropy      0: one position, 1: all positions alike
  distance     from the query to what it attends to, in diagonals of the image
  own class    share of the attention on pixels of the query's own ground-truth class (and what chance gives)
  dependence   0: the same map for every query, 1: maps that have nothing in common
  saliency     correlation of the attention that positions receive with bottom-up saliency (Itti et al. 1998)
  gate         mean and spread within an image; saturated: at 0 or 1; dead: channels that no image opens
and the mIoU without each mechanism: it gives out what came in, or zeros where the shapes differ.

examples:
  python tools/analyze_attention.py configs/ccnet_r50.py work_dirs/ccnet_r50/iter_40000.pth
  python tools/analyze_attention.py CONFIG CHECKPOINT --limit 50 --no-ablation --out report

Where the config's namesake lies beside the checkpoint, as training leaves it there, that one is used."""


def at_least_one(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXPLAINED, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="config file")
    parser.add_argument("checkpoint", help="checkpoint file or URL")
    parser.add_argument("--limit", type=at_least_one, help="so many images, evenly spread (default: all)")
    parser.add_argument("--queries", type=at_least_one, default=128, help="positions asked in each map (default: 128)")
    parser.add_argument("--no-ablation", action="store_true", help="do not test without each mechanism")
    parser.add_argument("--seed", type=int, default=0, help="of the positions (default: 0)")
    parser.add_argument("--out", type=Path, help="folder of the results (default: attention/ beside the checkpoint)")
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
    from mmattn.engine import analyze
    from mmattn.engine.config import build_model, load_config
    from mmattn.engine.fast import quicken
    from mmattn.engine.weights import trust
    from mmattn.visualization import album
    from mmattn.visualization.numbers import distributions

    trust(args.trust_checkpoint)
    device = album.device_of(args.device)
    config = args.config if args.base else album.config_of(args.config, args.checkpoint)
    folder = album.prepare_folder(args.out or album.folder_of(args.config, args.checkpoint).with_name("attention"))
    model = build_model(load_config(config, args.cfg_options, args.base), args.checkpoint, device)
    if args.fast:
        quicken(model)
    report = analyze.analyze(model, limit=args.limit, queries=args.queries, ablate=not args.no_ablation, seed=args.seed)
    print("\n" + analyze.table(report) + "\n")
    about = {"config": str(config), "checkpoint": args.checkpoint, "seed": args.seed}
    numbers, picture = folder / "attention.json", folder / "attention.png"
    try:
        numbers.write_text(json.dumps(about | analyze.record(report), indent=2) + "\n")
        distributions(report.layers, f"{config.stem}, {report.images} images").savefig(picture, dpi=150)
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}; choose another --out") from error
    print(f"numbers: {numbers}\nfigure:  {picture}")


if __name__ == "__main__":
    run(main)
