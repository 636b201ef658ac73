#!/usr/bin/env python
"""Write the generated tables of the README, or compare them with what they should say."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from mmattn.cli import UserError, as_typed, run

ROOT = Path(__file__).parents[1]
EXAMPLES = """examples:
  python tools/table.py            write the tables into README.md
  python tools/table.py --check    exit 2 when README.md says something else"""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=as_typed(EXAMPLES), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args(argv)
    readme = ROOT / "README.md"
    if not readme.is_file():
        raise UserError(f"there is no {readme}: tables are written in a clone of the repository")
    from mmattn import stack

    stack.check()
    from mmattn.engine.costs import heads_table

    old = readme.read_text()
    table = heads_table(ROOT / "configs")
    new = re.sub(r"(?<=<!-- heads -->\n).*?(?=<!-- end -->)", lambda _: table, old, flags=re.DOTALL)
    if args.check and new != old:
        raise UserError(f"{readme} is out of date; write its tables with: python tools/table.py")
    if not args.check:
        readme.write_text(new)


if __name__ == "__main__":
    run(main)
