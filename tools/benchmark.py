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
  python tools/benchmark.py --quick                            all mechanisms and heads, in two minutes
  python tools/benchmark.py --mechanisms all --size 32x64 64x128 --figures figures
  python tools/benchmark.py --mechanisms CBAM criss_cross --heads configs/ccnet_r50.py --dtype float32 bfloat16
  python tools/benchmark.py peers                              what has a bar to reach, time and memory, eval and train
  python tools/benchmark.py peers pam criss_cross --size 128x256 --mode eval
  python tools/benchmark.py model configs/danet_r50.py --size 1024x2048 --setting plain fast compile
  python tools/benchmark.py model configs/*.py --ours --no-time --results work_dirs/compare --figures figures
  python tools/benchmark.py claims ccnet ann                   what papers claim, and what is so here
  python tools/benchmark.py scaling
  python tools/benchmark.py test --data data/cityscapes        stage by stage, plain and --fast
  python tools/benchmark.py gpu                                everything on one GPU, in nine minutes

options without a command are those of peers"""
QUICK = {"size": [(16, 32)], "mode": ["eval"], "repeat": 3}  # where nothing else is asked for


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
    ours = argparse.ArgumentParser(add_help=False)
    ours.add_argument("--ours", action="store_true", help="ours alone: mmseg's side can want ten times the memory")
    both = argparse.ArgumentParser(add_help=False, parents=[ours])
    only = both.add_mutually_exclusive_group()
    only.add_argument("--no-memory", dest="memory", action="store_false", help="time alone, which is quicker")
    only.add_argument("--no-time", dest="time", action="store_false", help="memory and counts alone")
    drawn = argparse.ArgumentParser(add_help=False)
    drawn.add_argument("--figures", type=Path, metavar="FOLDER", help="draw time and memory over the size there")

    about = "module by module, mmseg's beside ours where it has it: parameters, MACs, time, memory"
    peers = commands.add_parser("peers", parents=[shared, both, drawn], help=about)
    peers.add_argument("items", nargs="*", metavar="ITEM", help="such as pam or loss (default: all that have a bar)")
    peers.add_argument("--mechanisms", nargs="+", metavar="NAME", default=[], help="of the catalogue, or all")
    peers.add_argument("--heads", nargs="+", metavar="CONFIG", default=[], help="whose decode heads to measure, or all")
    peers.add_argument(
        "--size",
        type=size,
        nargs="+",
        default=[],
        help="rows x columns of the map, an eighth of the image's (default: where the item has a bar)",
    )
    peers.add_argument("--batch", type=int, default=1, help="images (default: %(default)s)")
    dtypes = ("float32", "bfloat16", "float16")
    peers.add_argument("--dtype", choices=dtypes, nargs="+", default=["float32"], help="of autocast")
    peers.add_argument("--device", default="cpu", help="such as cuda (default: %(default)s)")
    peers.add_argument("--mode", choices=("eval", "train", "load"), nargs="+", default=[], help="(default: all)")
    quick = "one small map, inference, three samples; of all mechanisms and heads when none is named"
    peers.add_argument("--quick", action="store_true", help=quick)

    model = commands.add_parser("model", parents=[shared, both, drawn], help="whole models: time, images/s and memory")
    model.add_argument("configs", nargs="+", type=Path, metavar="CONFIG", help="config files")
    model.add_argument("--size", type=size, nargs="+", default=[(512, 1024)], help="of the image (default: 512x1024)")
    model.add_argument("--batch", type=int, default=1, help="images (default: %(default)s)")
    model.add_argument("--device", default="cpu", help="such as cuda (default: %(default)s)")
    model.add_argument("--mode", choices=("eval", "train"), nargs="+", default=["eval"], help="(default: eval)")
    model.add_argument(
        "--setting",
        nargs="+",
        default=["plain", "fast"],
        help="of plain, channels_last, folded, bf16, fast, compile (default: plain fast)",
    )
    model.add_argument("--fast", dest="setting", action="store_const", const=["fast"], help="as --setting fast")
    model.add_argument("--results", type=Path, metavar="FOLDER", help="of tools/compare.py: draw mIoU over memory too")

    claims = commands.add_parser("claims", parents=[shared, both], help="what papers claim of costs, and what is so")
    claims.add_argument("papers", nargs="*", metavar="PAPER", help="of ccnet, ann and ocr (default: all)")
    claims.add_argument("--items", nargs="+", default=[], metavar="ITEM", help="measure these alone (default: all)")
    claims.add_argument("--device", default="cpu", help="such as cuda (default: %(default)s)")

    scaling = commands.add_parser(
        "scaling", parents=[shared, ours], help="exponents of criss-cross and dense attention"
    )
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
    argv = sys.argv[1:] if argv is None else argv
    alone = argv and argv[0].startswith("-") and argv[0] not in ("-h", "--help")
    args = parser.parse_args(["peers", *argv] if alone else argv)
    if getattr(args, "quick", False):
        for name, value in QUICK.items():
            if getattr(args, name) == peers.get_default(name):
                setattr(args, name, value)
    return args


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

        parts = list(models.scaling(args.size, Setting(device=device), args.repeat, args.ours))
        text = "\n".join(f"{report.table(rows)}\n{fitted}\n" for rows, fitted in parts)
        rows = [row for part, _ in parts for row in report.as_json(part)]
    elif args.command == "claims":
        from mmattn.engine.benchmark import peers

        options = {"repeat": args.repeat, "memory": args.memory, "time": args.time, "alone": args.ours}
        found = list(peers.claimed(args.papers, args.items, Setting(device=device), **options))
        text = "\n".join(f"{claimed}\n{report.table(part)}" for claimed, part in found)
        rows = [row for _, part in found for row in report.as_json(part)]
    else:
        found = list(measured(args))
        text, rows = report.table(found), report.as_json(found)
        if getattr(args, "figures", None):
            from mmattn.engine.benchmark import figures

            text += "\n" + "".join(
                f"{path}\n" for path in figures.draw(found, args.figures, args.__dict__.get("results"))
            )
    machine = measure.machine(device)
    print(f"{typed}\n{', '.join(f'{key} {value}' for key, value in machine.items())}\n\n{text}")
    if args.json:
        report.save(args.json, machine, typed, rows)


def measured(args: argparse.Namespace) -> Iterable["Row"]:
    import torch

    from mmattn.engine.benchmark import models, parts, peers, routes
    from mmattn.engine.benchmark.pairs import Setting
    from mmattn.engine.benchmark.stages import STRIDE

    if args.command == "test":
        options = {"size": args.size, "count": args.frames, "repeat": args.repeat}
        return routes.compare(args.config, args.checkpoint, args.data, **options)
    options = {"repeat": args.repeat, "memory": args.memory, "time": args.time, "alone": args.ours}
    if args.command == "model":
        sizes = [tuple(max(1, side // STRIDE) for side in size) for size in args.size]
        setting = Setting(batch=args.batch, device=args.device)
        return models.compare(args.configs, args.setting, setting, sizes=sizes, modes=args.mode, **options)
    items = [*args.items, *parts.chosen(args.mechanisms, args.heads, everything=args.quick and not args.items)]
    settings = [Setting(batch=args.batch, dtype=getattr(torch, name), device=args.device) for name in args.dtype]
    found = (peers.compare(items, one, sizes=args.size, modes=args.mode, **options) for one in settings)
    return (row for rows in found for row in rows)


if __name__ == "__main__":
    run(main)
