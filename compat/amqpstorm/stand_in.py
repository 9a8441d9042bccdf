"""A pytest plug-in for AMQPStorm's tests: other ports than the two that they know.

STAND_IN_PORTS says what to dial in their place: `5672=40001,5671=40002`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from typing import Any

amqpstorm: Any = importlib.import_module("amqpstorm")

PORTS = {
    int(port): int(other)
    for port, _, other in (
        pair.partition("=") for pair in os.environ["STAND_IN_PORTS"].split(",") if pair
    )
}
connect = amqpstorm.Connection.__init__


@functools.wraps(connect)
def connect_elsewhere(self: Any, *args: Any, **kwargs: Any) -> None:
    """A connection to the port that stands in."""
    given = inspect.signature(connect).bind(self, *args, **kwargs)
    given.apply_defaults()
    given.arguments["port"] = PORTS.get(given.arguments["port"], given.arguments["port"])
    connect(*given.args, **given.kwargs)


amqpstorm.Connection.__init__ = connect_elsewhere
