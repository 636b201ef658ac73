#!/usr/bin/env python
"""Measure what mmattn costs beside MMSegmentation: same weights, in turn, after both were found to agree."""

import argparse
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmattn.cli import run

if TYPE_CHECKING:
    from mmattn.engine.benchmark.report import Row

EXAMPLES = """examples:
  python tools/benchmark.py peers                              every module, time and memory, eval and train
  python tools/benchmark.py peers pam criss_cross --size 128x256 --mode eval
  python tools/benchmark.py peers --dtype bfloat16 --json peers.json
  python tools/benchmark.py model configs/danet_r50.py --size 1024x2048 --setting plain fast compile
  python tools/benchmark.py scaling
  python tools/benchmark.py test --data data/cityscapes        stage by stage, plain and --fast
  python tools/benchmark.py gpu                                everything on one GPU, in nine minutes"""


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

    model = commands.add_parser("model", parents=[shared], help="whole models: time, images/s and memory")
    model.add_argument("configs", nargs="+", type=Path, metavar="CONFIG", help="config files")
    model.add_argument("--size", type=size, default=(512, 1024), help="of the image (default: 512x1024)")
    model.add_argument("--batch", type=int, default=1, help="images (default: %(default)s)")
    model.add_argument("--device", default="cpu", help="such as cuda (default: %(default)s)")
    model.add_argument(
        "--setting",
        nargs="+",
        default=["plain", "fast"],
        help="of plain, channels_last, folded, bf16, fast, compile (default: plain fast)",
    )
    model.add_argument("--fast", dest="setting", action="store_const", const=["fast"], help="as --setting fast")
    only = model.add_mutually_exclusive_group()
    only.add_argument("--no-memory", dest="memory", action="store_false", help="time alone")
    only.add_argument("--no-time", dest="time", action="store_false", help="memory alone")

    scaling = commands.add_parser("scaling", parents=[shared], help="exponents of criss-cross and dense attention")
    ladder = [(32, 64), (64, 128), (128, 256), (256, 512)]
    scaling.add_argument("--size", type=size, nargs="+", default=ladder, help="maps (default: 32x64 to 256x512)")
    scaling.add_argument("--device", default="cpu", help="such as cuda (default: %(default)s)")

    test = commands.add_parser("test", parents=[shared], help="tools/test.py beside mmseg's, stage by stage")
    test.add_argument(
        "config", type=Path, nargs="?", default=Path("configs/ccnet_r50.py"), help="(default: %(default)s)"
    )
    test.add_argument("--checkpoint", help="file or URL (default: random weights)")
    test.add_argument("--data", type=Path, help="Cityscapes' folder, or a part of it (default: drawn streets)")
    test.add_argument("--size", type=size, default=(1024, 2048), help="of drawn frames (default: 1024x2048)")
    test.add_argument("--frames", type=int, default=10, help="(default: %(default)s)")

    gpu = commands.add_parser("gpu", parents=[shared], help="all of it on one GPU, beside what was aimed at")
    gpu.add_argument("--device", default="cuda", help="(default: %(default)s)")
    gpu.add_argument("--budget", type=float, default=480, help="seconds, then the rest is dropped (default: 480)")
    gpu.add_argument("--scale", type=int, default=1, help="divide the maps' sides, to try it without a GPU")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from mmattn import stack

    stack.check()
    import torch

    from mmattn.engine.benchmark import measure, report
    from mmattn.engine.benchmark.pairs import Setting

    if args.threads:
        torch.set_num_threads(args.threads)
    typed = shlex.join(["python", "tools/benchmark.py", *map(str, sys.argv[1:] if argv is None else argv)])
    device = getattr(args, "device", "cpu")
    if args.command == "gpu":
        from mmattn.engine.benchmark import gpu

        found, dropped = gpu.measure(device, args.budget, lambda text: print(text, file=sys.stderr), args.scale)
        text, rows = gpu.table(found, dropped), gpu.as_json(found)
    elif args.command == "scaling":
        from mmattn.engine.benchmark import models

        parts = list(models.scaling(args.size, Setting(device=device), args.repeat))
        text = "\n".join(f"{report.table(rows)}\n{fitted}\n" for rows, fitted in parts)
        rows = [row for part, _ in parts for row in report.as_json(part)]
    else:
        found = list(measured(args))
        text, rows = report.table(found), report.as_json(found)
    machine = measure.machine(device)
    print(f"{typed}\n{', '.join(f'{key} {value}' for key, value in machine.items())}\n\n{text}")
    if args.json:
        report.save(args.json, machine, typed, rows)


def measured(args: argparse.Namespace) -> Iterable["Row"]:
    import torch

    from mmattn.engine.benchmark import models, peers, routes
    from mmattn.engine.benchmark.pairs import Setting
    from mmattn.engine.benchmark.stages import STRIDE

    if args.command == "test":
        options = {"size": args.size, "count": args.frames, "repeat": args.repeat}
        return routes.compare(args.config, args.checkpoint, args.data, **options)
    if args.command == "model":
        small = tuple(max(1, side // STRIDE) for side in args.size)
        options = {"repeat": args.repeat, "memory": args.memory, "time": args.time}
        return models.compare(args.configs, args.setting, Setting(small, args.batch, device=args.device), **options)
    setting = Setting(batch=args.batch, dtype=getattr(torch, args.dtype), device=args.device)
    options = {"sizes": args.size, "modes": args.mode, "repeat": args.repeat, "memory": args.memory}
    return peers.compare(args.items, setting, **options)


if __name__ == "__main__":
    run(main)
