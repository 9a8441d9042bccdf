"""Log lines for people and for machines: time, level, what happened, then `key=value` pairs.

    2026-01-31 12:00:00.123 [warning] channel closed by the broker peer="..." channel=1 reason="..."

A value with anything but plain characters is written as a JSON string, control characters in the
message are escaped, and the lines of a traceback are indented: no peer can forge a line or a pair,
or speak to the terminal.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from functools import lru_cache
from typing import Final, TextIO

PLAIN: Final = re.compile(r"[\w.:/@+-]+", re.ASCII)
UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\xa0\ud800-\udfff\u2028-\u202e\u2066-\u2069]")
"""Control characters, half characters, and what changes the direction of writing."""
STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class KeyValueFormatter(logging.Formatter):
    """Whatever was passed as `extra` becomes pairs behind the message."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and a traceback below it if there is one."""
        line = f"{_moment(int(record.created))}.{int(record.msecs):03d} "
        line += f"[{record.levelname.lower()}] "
        line += printable(record.getMessage())
        for key, value in vars(record).items():
            if key not in STANDARD:
                text = str(value)
                line += f" {key}={text if PLAIN.fullmatch(text) else _quoted(text)}"
        if record.exc_info:
            for traceback_line in self.formatException(record.exc_info).splitlines():
                line += "\n    " + printable(traceback_line)
        return line


def printable(text: str) -> str:
    """The text with everything escaped that is not to be seen."""
    if text.isascii() and text.isprintable():
        return text
    return UNPRINTABLE.sub(_escaped, text)


@lru_cache(maxsize=2)
def _moment(second: int) -> str:
    """Local time; many lines are of the same second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))


def _quoted(text: str) -> str:
    """As a JSON string."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return printable(json.dumps(text))


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def configure_logging(level: str, stream: TextIO = sys.stderr) -> None:
    """Send the broker's log to `stream`; once a process.

    No line says which process, thread or line of code it comes from, and to find that out took a
    third of what a line costs.
    """
    logging.logProcesses = logging.logThreads = logging.logMultiprocessing = False
    logging._srcfile = None  # as the HOWTO of logging advises
    handler = logging.StreamHandler(stream)
    handler.setFormatter(KeyValueFormatter())
    logger = logging.getLogger("amqpd")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
