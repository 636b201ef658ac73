"""Plays all faults, one after the other, and prints their table; soak.py, which takes longer, is called alone."""

import argparse
import sys
import time
from collections import Counter
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from stage import TESTS, Stage

HERE = Path(__file__).parent
SCRIPTS = sorted(path.stem for path in HERE.glob("*.py") if "fault(stage: Stage)" in path.read_text())
DOCS = TESTS.parent / "docs" / "faults.md"
BEGIN, END = "<!-- faults -->\n", "<!-- end -->"
HEAD = "| fault | how it is made | what happened | lost | script |\n|---|---|---|---|---|\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: python tests/faults/run.py kill nan_loss")
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help=f"some of {', '.join(SCRIPTS)} (default: all)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/faults.md, if all were played")
    args = parser.parse_args()
    if unknown := set(args.scripts) - set(SCRIPTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    chosen = args.scripts or SCRIPTS
    rows, outcomes = "", Counter()
    for number, name in enumerate(chosen, start=1):
        begin = time.perf_counter()
        row, outcome = play(name)
        outcomes[outcome] += 1
        rows += row
        print(f"{number}/{len(chosen)}, {time.perf_counter() - begin:.0f} s: {row}", end="", flush=True)
    print(f"\n{HEAD}{rows}\n{', '.join(f'{count} {outcome}' for outcome, count in outcomes.items())}")
    if args.write and outcomes["played"] == len(SCRIPTS):
        before, _, rest = DOCS.read_text().partition(BEGIN)
        DOCS.write_text(before + BEGIN + HEAD + rows + END + rest.partition(END)[2])
    return min(outcomes["failed"], 1)


def play(name: str) -> tuple[str, str]:
    """The row of a fault, and whether it was played, left out, or failed."""
    module, outcome = import_module(name), "played"
    with TemporaryDirectory() as folder:
        try:
            said = module.fault(Stage(Path(folder)))
        except SystemExit as end:
            said = " ".join(str(end.code)[:300].split())
            outcome = "left out" if said.startswith("needs ") else "failed"
    happened, _, lost = said.partition(". Lost: ")
    fault, made = (text.strip().removesuffix(".").replace("``", "`") for text in (module.fault.__doc__, module.__doc__))
    return f"| {fault} | {made} | {happened} | {lost} | `{name}` |\n", outcome


if __name__ == "__main__":
    sys.exit(main())
