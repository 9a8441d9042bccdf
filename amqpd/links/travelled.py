"""What federation writes into messages and bindings that travel: one table for each link they came
over, the newest first (`x-received-from`, `x-bound-from`).
"""

from __future__ import annotations

from typing import Any, Final

from amqpd.commands import Arguments, Field
from amqpd.wire.properties import with_header, without_header

INVALID_HEADERS: Final = "x-invalid-headers"


def entries(arguments: Arguments, name: str) -> list[Field]:
    """The tables of a header or argument; none if it is no array."""
    octet, found = arguments.get(name, ("V", None))
    return found if octet == "A" else []


def prepended(arguments: Arguments, name: str, entry: Field) -> Arguments:
    """With one more table in front (rabbit_basic:prepend_table_header).

    What somebody else has put there that is no array is kept under `x-invalid-headers`.
    """
    written = dict(arguments)
    before = arguments.get(name, ("A", []))
    if before[0] != "A":
        written[INVALID_HEADERS] = _with_invalid(arguments.get(INVALID_HEADERS), name, before)
        before = ("A", [])
    written[name] = ("A", [entry, *before[1]])
    return written


def with_changed(properties: bytes, headers: Arguments, written: Arguments) -> bytes:
    """`properties`, whose headers are these, with those that were written instead.

    The octets of all that are the same object in both stay as they came.
    """
    for name in headers:
        if name not in written:
            properties = without_header(properties, name)
    for name, field in written.items():
        if headers.get(name) is not field:
            properties = with_header(properties, name, field)
    return properties


def _with_invalid(known: Field | None, name: str, value: Field) -> Field:
    """`x-invalid-headers` with one more value of the header `name`."""
    if known is None:
        return ("F", {name: ("A", [value])})
    octet, table = known
    if octet != "F":
        return ("F", {INVALID_HEADERS: ("A", [known]), name: ("A", [value])})
    earlier: Any = entries(table, name)
    return ("F", {**table, name: ("A", [value, *earlier])})
