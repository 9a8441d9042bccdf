"""What is sent is JSON, whatever the names in it."""

from __future__ import annotations

from typing import Any

import msgspec


def encode(value: Any) -> bytes:
    """As JSON; names with octets that are no UTF-8 are shown as far as they can be."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_readable(value))


def _readable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if isinstance(value, dict):
        return {_readable(key): _readable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_readable(item) for item in value]
    return value
