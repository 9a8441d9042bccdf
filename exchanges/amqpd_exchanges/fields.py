"""What routing has to know about the values of a field table: when two are equal, and their names.

A value is a pair of its type octet and a Python value, `("I", 5)`. Two questions of equality are
asked, and RabbitMQ answers them differently:

- Are two *bindings* the same? Types count: a binding with an int32 5 is not the one with an int64
  5 (`canonical`).
- Does a *header* match? Only the kind of value counts: any integer 5 is any other integer 5
  (`comparable`).

Both answers are hashable, so that they can be keys, and neither lets Python's own equality
(True == 1 == 1.0) through.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Final

__all__ = [
    "Arguments",
    "Field",
    "TYPE_NAMES",
    "canonical",
    "canonical_table",
    "comparable",
    "rendered",
]

Field = tuple[str, Any]
Arguments = Mapping[str, Field]

TYPE_NAMES: Final[dict[str, str]] = {
    "S": "longstr",
    "I": "signedint",
    "D": "decimal",
    "T": "timestamp",
    "F": "table",
    "b": "byte",
    "d": "double",
    "f": "float",
    "l": "long",
    "L": "long",  # RabbitMQ reads both as a signed int64, and writes `l`
    "s": "short",
    "t": "bool",
    "x": "binary",
    "V": "void",
    "A": "array",
    "B": "unsignedbyte",
    "u": "unsignedshort",
    "i": "unsignedint",
}
"""How RabbitMQ calls the types in its error texts."""

_INTEGERS: Final = frozenset("bBsuIilL")


def canonical(field: Field) -> Hashable:
    """Equal for two fields of the same type and value, whatever the key order of their tables."""
    octet, value = field
    if octet == "F":
        return ("F", canonical_table(value))
    if octet == "A":
        return ("A", tuple([canonical(item) for item in value]))
    if octet in {"f", "d"}:
        # NaN is not equal to itself: a binding that carries one could never be found again.
        return (octet, value.hex())
    return (TYPE_NAMES.get(octet, octet), value)


def canonical_table(arguments: Arguments) -> tuple[tuple[str, Hashable], ...]:
    """Equal for two tables with the same fields in whatever order."""
    if not arguments:
        return ()
    return tuple([(key, canonical(arguments[key])) for key in sorted(arguments)])


def comparable(field: Field) -> Hashable:
    """Equal for two fields that match each other in a headers exchange."""
    octet, value = field
    if octet in _INTEGERS:
        return ("integer", value)
    if octet == "S":
        return ("string", value)
    if octet == "x":
        # In RabbitMQ both kinds of string are the same Erlang binary by the time they are compared.
        return ("string", value.decode("utf-8", "surrogateescape"))
    if octet in {"f", "d"}:
        return ("float", value)
    return canonical(field)


def rendered(field: Field) -> str:
    """The value as RabbitMQ prints it in error texts: as an Erlang term."""
    octet, value = field
    if octet == "S":
        return _rendered_binary(value.encode("utf-8", "surrogateescape"))
    if octet == "x":
        return _rendered_binary(value)
    if octet == "t":
        return "true" if value else "false"
    if octet == "V":
        return "undefined"
    if octet == "D":
        return f"{{{value[0]},{value[1]}}}"
    if octet == "A":
        items = [f"{{{TYPE_NAMES[item[0]]},{rendered(item)}}}" for item in value]
        return f"[{','.join(items)}]"
    if octet == "F":
        rows = [
            f"{{{_rendered_binary(key.encode('utf-8', 'surrogateescape'))},"
            f"{TYPE_NAMES[item[0]]},{rendered(item)}}}"
            for key, item in value.items()
        ]
        return f"[{','.join(rows)}]"
    return str(value)


def _rendered_binary(octets: bytes) -> str:
    if not octets:
        return "<<>>"
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if not text.isprintable() or not text:
        return f"<<{','.join(map(str, octets))}>>"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'<<"{escaped}">>' if text.isascii() else f'<<"{escaped}"/utf8>>'
