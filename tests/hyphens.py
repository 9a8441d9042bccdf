"""Python's names for what has hyphens in AMQP and in RabbitMQ's settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

V = TypeVar("V")


def hyphenated(fields: Mapping[str, V]) -> dict[str, V]:
    """`x_max_length` is `x-max-length`."""
    return {name.replace("_", "-"): value for name, value in fields.items()}
