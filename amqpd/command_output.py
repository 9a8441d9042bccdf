"""What a command says on standard output: whatever names are in it, and whoever reads it.

A name may have letters that the terminal has not, or try to speak to it. Who reads may have seen
enough before the end (`| head`), and where it goes to may be full.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable

from amqpd.exit_codes import EX_IOERR, EX_PIPE


def written(run: Callable[[], int]) -> int:
    """Run a command to its exit code, and write all that it says.

    An OSError becomes a line on standard error and EX_IOERR; EX_PIPE if nobody reads any more, and
    no word of it.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name may have what this terminal has not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        exit_code = run()
        sys.stdout.flush()
    except BrokenPipeError:
        _give_up_output()
        return EX_PIPE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"amqpd: {where}{error.strerror or error}: check the disk", file=sys.stderr)
        _flush_or_give_up()
        return EX_IOERR
    return exit_code


def printable(line: str) -> str:
    """The line without anything that a terminal would obey."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)


def _flush_or_give_up() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        _give_up_output()


def _give_up_output() -> None:
    """Python writes what is left once more at its end, and would complain of it then."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
