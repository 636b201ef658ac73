#!/usr/bin/env python
"""Read every image and label of a config's dataset as training does, and say what is wrong with them."""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mmattn.cli import UserError, as_typed, harmless, run

EXPLAINED = """found, with file names:
  errors     images or labels that are missing, cut off or damaged; of different size; labels in colour or of more than
             8 bits, or outside the classes; labels that look shifted (masks of 0 and 255, classes from 1 on);
             images of train that are in val or test as well
  warnings   classes that never occur, labels in which every pixel is ignored, labels without an image, repeated images

exit code: 0 when all is well or there are warnings alone; 1 when training would stop or learn something wrong;
2 when the config or a folder is wrong.

examples:
  python tools/check_dataset.py configs/ccnet_r50.py
  python tools/check_dataset.py configs/ccnet_r50.py --base mine.py --json report.json"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=as_typed(EXPLAINED), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="config file")
    parser.add_argument("--base", nargs="+", default=[], help="files of configs/_base_ to lay over the config")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="override the config")
    parser.add_argument(
        "--json", type=Path, metavar="OUT", help="where to write everything (default: dataset.json in the work dir)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    from mmattn import stack

    stack.check()
    from mmattn.datasets import sample
    from mmattn.engine import config
    from mmattn.engine.doctor import findings, remedies, report, splits

    cfg = config.load_config(args.config, args.cfg_options, args.base)
    if "sample" in args.base:
        sample.ensure(Path(cfg.data_root))
    out = args.json or Path(cfg.get("work_dir") or f"work_dirs/{args.config.stem}") / "dataset.json"
    ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
    start = time.perf_counter()
    parts = splits.splits(cfg)
    splits.examine(parts)
    seconds = time.perf_counter() - start
    found = findings.diagnose(parts)
    print(report.summary(parts) + "\n")
    print(report.chart(parts, shutil.get_terminal_size().columns, ascii_only) + "\n")
    if found:
        print(report.findings(found) + "\n")
    print(report.verdict(parts, found, seconds))
    wrong = any(finding.is_error for finding in found)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        advised = remedies.remedies(cfg, parts, found, out.parent) if wrong else remedies.weights(cfg, parts)
        about = {"config": str(args.config), "base": args.base, "cfg_options": args.cfg_options}
        out.write_text(json.dumps(about | report.record(parts, found, advised, seconds), indent=1) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; choose another place with --json") from error
    print(f"report: {harmless(str(out))}")
    for remedy in advised:
        print(f"\n{remedies.to_paste(remedy, args.config, args.base, args.cfg_options)}")
    return int(wrong)


if __name__ == "__main__":
    run(main)
