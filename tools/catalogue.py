#!/usr/bin/env python
"""The mechanisms that there are: a table of all, or everything about one."""

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path

from mmattn.cli import UserError, as_typed, run

ROOT = Path(__file__).parents[1]
EXAMPLES = """examples:
  python tools/catalogue.py                   table of all mechanisms
  python tools/catalogue.py --kind channel    those that show a map of this kind
  python tools/catalogue.py CrissCross        equations, arguments, costs, and configs to paste
  python tools/catalogue.py --write           write docs/mechanisms.md and the list in README.md"""


def main(argv: Sequence[str] | None = None) -> None:
    from mmattn.layers.tap import KINDS

    parser = argparse.ArgumentParser(
        description=__doc__, epilog=as_typed(EXAMPLES), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", help="one mechanism, CrissCross or criss_cross")
    parser.add_argument("--kind", choices=KINDS, help="only what shows a map of this kind")
    parser.add_argument("--write", action="store_true", help="write docs/mechanisms.md and the list in README.md")
    args = parser.parse_args(argv)
    from mmattn.attention import entries
    from mmattn.engine import guide

    if args.write:
        if not (ROOT / "README.md").is_file():
            raise UserError(f"there is no {ROOT / 'README.md'}: --write works in a clone of the repository")
        guide.write(ROOT)
    elif args.name:
        known = {name: entry for entry in entries() for name in (entry.name, entry.cls.__name__)}
        if args.name not in known:
            near = difflib.get_close_matches(args.name, known) or sorted(e.name for e in entries())
            raise UserError(f"no mechanism {args.name!r}; did you mean {', '.join(near)}?")
        print(guide.page(known[args.name]))
    else:
        print(guide.plain_table(entries(args.kind)))


if __name__ == "__main__":
    run(main)
