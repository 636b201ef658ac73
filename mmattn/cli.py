"""How every tool ends: 0 when it worked, 2 with one clear message when the input was wrong.

A mistake of the user raises :class:`UserError` anywhere below; :func:`run` prints it without a traceback. Every other
exception is a mistake of ours and keeps its traceback.
"""

import logging
import re
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn


class UserError(Exception):
    """Wrong input. The message names the file, the key or the value and says what to do."""


class HarmlessRecord(logging.LogRecord):
    """A line of a log in which names out of the data do nothing to a terminal."""

    def getMessage(self) -> str:
        """Its text; lines and tabs are our own."""
        return "\n".join(map(harmless, super().getMessage().expandtabs().split("\n")))


def harmless(name: str) -> str:
    """A name out of the data as a terminal may show it: control characters and the like are spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


def as_typed(text: str) -> str:
    """Commands as they are typed here: ``python -m mmattn.tools.train`` where mmattn was installed without a clone."""
    if not Path(__file__).with_name("tools").is_dir():
        return text
    text = re.sub(r"(python|nproc_per_node=\d+) tools/(\w+)\.py", r"\1 -m mmattn.tools.\2", text)
    return text.replace('".[mmseg]"', '"mmattn[mmseg]"')


def offer_trust(parser: ArgumentParser) -> None:
    """The option of every tool that loads checkpoints; :func:`mmattn.engine.weights.trust` takes what it names."""
    parser.add_argument(
        "--trust-checkpoint",
        metavar="FILE",
        action="append",
        default=[],
        help="a checkpoint of your own that holds code, which is refused otherwise: let it run; repeatable",
    )


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call ``main`` and leave the process with its exit code.

    What is logged meanwhile, and the message of an error, can hold any name: it is shown by :func:`harmless`, and its
    further lines are indented.

    Args:
        main: The tool. It returns its exit code, or None for 0.

    Raises:
        SystemExit: Always: ``main``'s code; 2 after a :class:`UserError`; 130 when interrupted.
    """
    logging.setLogRecordFactory(HarmlessRecord)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know fewer letters
    try:
        code = main()
    except UserError as error:
        first, *more = map(harmless, as_typed(str(error)).split("\n"))
        print("\n".join([f"error: {first}", *(f"  {line.strip()}" for line in more)]), file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
