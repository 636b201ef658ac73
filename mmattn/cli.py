"""How every tool ends: 0 when it worked, 2 with one clear message when the input was wrong.

A mistake of the user raises :class:`UserError` anywhere below; :func:`run` prints it without a traceback. Every other
exception is a mistake of ours and keeps its traceback.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Callable
from typing import NoReturn


class UserError(Exception):
    """Wrong input. The message names the file, the key or the value and says what to do."""


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

    Args:
        main: The tool. It returns its exit code, or None for 0.

    Raises:
        SystemExit: Always: ``main``'s code; 2 after a :class:`UserError`; 130 when interrupted.
    """
    try:
        code = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
