"""Log lines for people and for machines: time, level, what happened, then `key=value` pairs.

    2026-01-31 12:00:00.123 [warning] channel closed by the broker peer="..." channel=1 reason="..."

A value with anything but plain characters is written as a JSON string, so that no peer can forge a
line or a pair.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import Final, TextIO

PLAIN: Final = re.compile(r"[\w.:/@+-]+", re.ASCII)
STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class KeyValueFormatter(logging.Formatter):
    """Whatever was passed as `extra` becomes pairs behind the message."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and a traceback below it if there is one."""
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        line = f"{moment}.{int(record.msecs):03d} [{record.levelname.lower()}] "
        line += record.getMessage().replace("\n", " ")
        for key, value in vars(record).items():
            if key not in STANDARD:
                text = str(value)
                shown = text if PLAIN.fullmatch(text) else json.dumps(text)
                line += f" {key}={shown}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def configure_logging(level: str, stream: TextIO = sys.stderr) -> None:
    """Send the broker's log to `stream`; once a process."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(KeyValueFormatter())
    logger = logging.getLogger("amqpd")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
