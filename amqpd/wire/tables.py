"""Field tables, with the type octet that each value came with.

    table   = length:u32  { name:shortstr  value }      length counts octets, not entries
    array   = length:u32  { value }
    value   = octet  content                            how long: by the octet, or a length:u32

The octets are RabbitMQ's and Qpid's, not the standard's: `s` is a short integer, `l` and `L` are
both signed, `U` and `Y` do not exist. Rules kept here:

- A decoded value is a `Field`, `(octet, value)`, so that encoding gives the bytes back: RabbitMQ
  names the types in its texts, and headers of a message leave as they came.
- Whatever a peer sends, the only exception is `TableError`, the time is linear in the length, and
  the recursion ends at `depth_max`, which counts the tables and arrays around a value other than
  the outermost table.
- Two things are not given back: a name that occurs twice (the first one counts, as for RabbitMQ's
  lookups), and a true boolean written other than 1. Messages keep their bytes for this reason.
- Infinity and NaN are refused, as Erlang's parser does: NaN would make a binding unequal to itself.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from decimal import Decimal
from math import isfinite
from typing import Any, Final

from amqpd.commands import Arguments, Field
from amqpd.short_string import SHORT_STRING_OCTETS_MAX, short_string

__all__ = [
    "TableError",
    "UnfitValue",
    "check_table",
    "decode_bare_table",
    "decode_table",
    "described",
    "encode_table",
    "erlang",
    "erlang_binary",
    "erlang_octets",
    "plain",
    "text",
    "type_name",
    "typed",
    "value_end",
]

TYPE_NAMES: Final[dict[str, str]] = {
    "t": "bool",
    "b": "byte",
    "B": "unsignedbyte",
    "s": "short",
    "u": "unsignedshort",
    "I": "signedint",
    "i": "unsignedint",
    "l": "long",
    "L": "long",
    "f": "float",
    "d": "double",
    "D": "decimal",
    "S": "longstr",
    "A": "array",
    "T": "timestamp",
    "F": "table",
    "V": "void",
    "x": "binary",
}
"""What RabbitMQ calls the types, in texts that clients read."""

_LAYOUTS: Final[dict[str, struct.Struct]] = {
    "t": struct.Struct(">?"),
    "b": struct.Struct(">b"),
    "B": struct.Struct(">B"),
    "s": struct.Struct(">h"),
    "u": struct.Struct(">H"),
    "I": struct.Struct(">i"),
    "i": struct.Struct(">I"),
    "l": struct.Struct(">q"),
    "L": struct.Struct(">q"),
    "f": struct.Struct(">f"),
    "d": struct.Struct(">d"),
    "D": struct.Struct(">BI"),
    "T": struct.Struct(">Q"),
    "V": struct.Struct(""),
}
_FIXED: Final[dict[int, tuple[str, struct.Struct]]] = {
    ord(octet): (octet, layout) for octet, layout in _LAYOUTS.items()
}
_SIZES: Final[dict[int, int]] = {octet: layout.size for octet, (_, layout) in _FIXED.items()}

_LENGTH: Final = struct.Struct(">I")
_STRING: Final = ord("S")
_BYTES: Final = ord("x")
_TABLE: Final = ord("F")
_ARRAY: Final = ord("A")
_FLOAT: Final = ord("f")
_DOUBLE: Final = ord("d")
_LENGTH_PREFIXED: Final = frozenset(b"SxFA")


NAME_SHOWN: Final = 32
PLACE_SHOWN: Final = 80
INTEGER_MIN: Final = -(1 << 63)
INTEGER_MAX: Final = (1 << 63) - 1

Steps = tuple[str | int, ...]
"""The way to a value within a table: names, and indexes of arrays."""


class TableError(ValueError):
    """The bytes are no field table, or one that is nested too deeply."""


class UnfitValue(ValueError):
    """A value that a field table cannot carry, or that brokers could not read again."""

    def __init__(self, steps: Steps, problem: str, value: object = None) -> None:
        super().__init__(steps, problem, value)
        self.steps = steps
        self.problem = problem
        self.value = value
        """The number, if that is what is wrong."""

    def __str__(self) -> str:
        place = ".".join(map(str, self.steps))
        if len(place) > PLACE_SHOWN:
            place = f"{place[:PLACE_SHOWN]}..."
        return f"{place}: {self.problem}" if place else self.problem


# -- bytes -> values


def decode_table(data: bytes, offset: int, depth_max: int) -> tuple[Arguments, int]:
    """The table whose length stands at `offset`, and the offset after it."""
    start, end = _extent(data, offset, len(data))
    return _decode_fields(data, start, end, depth_max), end


def decode_bare_table(data: bytes, depth_max: int) -> Arguments:
    """A table without its length in front, as AMQPLAIN sends it."""
    return _decode_fields(data, 0, len(data), depth_max)


def _extent(data: bytes, offset: int, end: int) -> tuple[int, int]:
    """Where the content with a length at `offset` starts and ends, which is not after `end`."""
    start = offset + 4
    if start > end:
        raise TableError(f"no room for a length at octet {offset}")
    stop = start + int.from_bytes(data[offset:start], "big")
    if stop > end:
        raise TableError(f"the length at octet {offset} exceeds what surrounds it")
    return start, stop


def _decode_fields(data: bytes, offset: int, end: int, depth: int) -> Arguments:
    table: Arguments = {}
    while offset < end:
        start = offset + 1
        offset = start + data[offset]
        if offset >= end:
            raise TableError(f"no value follows the name at octet {start}")
        name = data[start:offset].decode("utf-8", "surrogateescape")
        value, offset = _decode_value(data, offset, end, depth)
        if name not in table:
            table[name] = value
    return table


def _decode_array(data: bytes, offset: int, end: int, depth: int) -> list[Field]:
    array: list[Field] = []
    while offset < end:
        value, offset = _decode_value(data, offset, end, depth)
        array.append(value)
    return array


def _decode_value(data: bytes, offset: int, end: int, depth: int) -> tuple[Field, int]:
    """The value whose type octet stands at `offset`, which is before `end`."""
    octet = data[offset]
    offset += 1
    if octet == _STRING:
        start, stop = _extent(data, offset, end)
        return ("S", data[start:stop].decode("utf-8", "surrogateescape")), stop
    fixed = _FIXED.get(octet)
    if fixed is not None:
        return _decode_fixed(data, offset, end, fixed[0], fixed[1])
    if octet not in _LENGTH_PREFIXED:
        raise TableError(f"unknown type octet {octet} at octet {offset - 1}")
    start, stop = _extent(data, offset, end)
    if octet == _BYTES:
        return ("x", data[start:stop]), stop
    if depth <= 0:
        raise TableError("tables or arrays are nested too deeply")
    if octet == _TABLE:
        return ("F", _decode_fields(data, start, stop, depth - 1)), stop
    return ("A", _decode_array(data, start, stop, depth - 1)), stop


def _decode_fixed(
    data: bytes, offset: int, end: int, octet: str, layout: struct.Struct
) -> tuple[Field, int]:
    stop = offset + layout.size
    if stop > end:
        raise TableError(f"a value of type {octet!r} is cut off at octet {end}")
    values = layout.unpack_from(data, offset)
    if octet == "D":
        return ("D", values), stop
    if octet == "V":
        return ("V", None), stop
    value = values[0]
    if octet in "fd" and not isfinite(value):
        raise TableError(f"{value} at octet {offset} is not a number")
    return (octet, value), stop


# -- bytes, looked at only


def check_table(data: bytes, offset: int, depth_max: int) -> int:
    """The offset after the table at `offset`; raises what `decode_table` would raise."""
    start, end = _extent(data, offset, len(data))
    _check_fields(data, start, end, depth_max)
    return end


def value_end(data: bytes, offset: int, end: int) -> int:
    """The offset after the value whose type octet stands at `offset`, without looking into it."""
    if offset >= end:
        raise TableError(f"no value at octet {offset}")
    octet = data[offset]
    size = _SIZES.get(octet)
    if size is None:
        if octet not in _LENGTH_PREFIXED:
            raise TableError(f"unknown type octet {octet} at octet {offset}")
        return _extent(data, offset + 1, end)[1]
    stop = offset + 1 + size
    if stop > end:
        raise TableError(f"the value at octet {offset} is cut off")
    return stop


def _check_fields(data: bytes, offset: int, end: int, depth: int) -> None:
    while offset < end:
        offset += 1 + data[offset]
        # Strings are what headers mostly consist of: two calls less for each.
        if offset < end and data[offset] == _STRING:
            start = offset + 5
            offset = start + int.from_bytes(data[offset + 1 : start], "big")
            if start > end or offset > end:
                raise TableError(f"the string before octet {start} is cut off")
        else:
            offset = _check_value(data, offset, end, depth)


def _check_array(data: bytes, offset: int, end: int, depth: int) -> None:
    while offset < end:
        offset = _check_value(data, offset, end, depth)


def _check_value(data: bytes, offset: int, end: int, depth: int) -> int:
    stop = value_end(data, offset, end)
    octet = data[offset]
    if octet in (_FLOAT, _DOUBLE):
        _decode_value(data, offset, end, depth)
    elif octet in (_TABLE, _ARRAY):
        if depth <= 0:
            raise TableError("tables or arrays are nested too deeply")
        if octet == _TABLE:
            _check_fields(data, offset + 5, stop, depth - 1)
        else:
            _check_array(data, offset + 5, stop, depth - 1)
    return stop


# -- values -> bytes


EMPTY_TABLE: Final = b"\x00\x00\x00\x00"


def encode_table(arguments: Arguments) -> bytes:
    """The table with its length in front, in the order of the dict.

    Raises `ValueError` for what its type octet cannot carry and for names above 255 octets.
    """
    if not arguments:
        return EMPTY_TABLE
    parts: list[bytes] = []
    try:
        _encode_fields(arguments, parts)
    except (struct.error, OverflowError, TypeError, AttributeError) as error:
        raise ValueError(f"not a table of typed fields: {error}") from error
    return _with_length(b"".join(parts))


def _with_length(content: bytes) -> bytes:
    return _LENGTH.pack(len(content)) + content


def _encode_fields(arguments: Arguments, parts: list[bytes]) -> None:
    for name, (octet, value) in arguments.items():
        parts.append(short_string(name))
        _encode_value(octet, value, parts)


def _encode_value(octet: str, value: Any, parts: list[bytes]) -> None:
    parts.append(octet.encode("ascii"))
    if octet == "S":
        parts.append(_with_length(value.encode("utf-8", "surrogateescape")))
    elif octet in ("F", "A"):
        inner: list[bytes] = []
        if octet == "F":
            _encode_fields(value, inner)
        else:
            for item_octet, item in value:
                _encode_value(item_octet, item, inner)
        parts.append(_with_length(b"".join(inner)))
    elif octet == "x":
        parts.append(_with_length(bytes(memoryview(value))))
    elif octet == "D":
        parts.append(_LAYOUTS["D"].pack(value[0], value[1]))
    elif octet == "V":
        pass
    elif octet in _LAYOUTS:
        parts.append(_LAYOUTS[octet].pack(value))
    else:
        raise ValueError(f"unknown type octet {octet!r}")


# -- typed values and Python's own


def plain(arguments: Arguments) -> dict[str, Any]:
    """`arguments` without types, for logs and JSON: text is text that UTF-8 can carry."""
    return {_readable(name): plain_value(field) for name, field in arguments.items()}


def plain_value(field: Field) -> Any:
    """One value without its type; a decimal is a `Decimal`, a timestamp an int."""
    octet, value = field
    if octet == "S":
        return _readable(value)
    if octet == "F":
        return plain(value)
    if octet == "A":
        return [plain_value(item) for item in value]
    if octet == "D":
        scale, unscaled = value
        return Decimal(unscaled).scaleb(-scale)
    return value


def _readable(value: str) -> str:
    if value.isascii():
        return value
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def typed(values: Mapping[str, Any], depth_max: int) -> Arguments:
    """Fields of Python's own values (JSON's above all), with the types that RabbitMQ gives them.

    What it returns can be encoded, and decoded with this `depth_max`. Raises `UnfitValue`.
    """
    return _typed_fields(values, depth_max, ())


def _typed_fields(values: Mapping[str, Any], depth: int, steps: Steps) -> Arguments:
    table: Arguments = {}
    for name, value in values.items():
        octets = _octets(name, steps)
        if len(octets) > SHORT_STRING_OCTETS_MAX:
            problem = f"has {len(octets)} octets, at most {SHORT_STRING_OCTETS_MAX} can be"
            raise UnfitValue(steps, f"{name[:NAME_SHOWN]!r}... {problem}")
        table[name] = _typed_value(value, depth, (*steps, name))
    return table


def _typed_value(value: Any, depth: int, steps: Steps) -> Field:
    """One value with the type that RabbitMQ gives it when it comes from JSON."""
    if value is None:
        return ("V", None)
    if isinstance(value, bool):  # before int: True is one in Python
        return ("t", value)
    if isinstance(value, int):
        if not INTEGER_MIN <= value <= INTEGER_MAX:
            raise UnfitValue(steps, "expected an integer of 64 bits", value)
        return ("l", value)
    if isinstance(value, float):
        if not isfinite(value):
            raise UnfitValue(steps, "expected a number", value)
        return ("d", value)
    if isinstance(value, str):
        _octets(value, steps)
        return ("S", value)
    if isinstance(value, (bytes, bytearray)):
        return ("x", bytes(value))
    if not isinstance(value, (Mapping, list, tuple)):
        raise UnfitValue(steps, f"a field table cannot carry a {type(value).__name__}")
    if depth <= 0:
        raise UnfitValue(steps, "tables or arrays are nested too deeply")
    if isinstance(value, Mapping):
        return ("F", _typed_fields(value, depth - 1, steps))
    array = [_typed_value(item, depth - 1, (*steps, index)) for index, item in enumerate(value)]
    return ("A", array)


def _octets(value: str, steps: Steps) -> bytes:
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise UnfitValue(steps, "holds half of a surrogate pair") from None


# -- values in RabbitMQ's texts


def type_name(octet: str) -> str:
    """RabbitMQ's name of a type: `longstr` for `S`, `signedint` for `I`."""
    return TYPE_NAMES[octet]


def described(field: Field | None) -> str:
    """`the value '5' of type 'signedint'`, or `none`: an argument that only one side has."""
    if field is None:
        return "none"
    octet, value = field
    return f"the value '{text(octet, value)}' of type '{TYPE_NAMES[octet]}'"


def text(octet: str, value: Any) -> str:
    """`value` as RabbitMQ writes it between quotes: strings bare, all else as Erlang terms."""
    if octet == "S":
        return _readable(value)
    if octet == "x":
        return bytes(value).decode("utf-8", "replace")
    return erlang(octet, value)


def erlang(octet: str, value: Any) -> str:
    """`value` as an Erlang term (`~tp`): `<<"text">>`, `-1`, `true`, `{2,150}`.

    Long terms stay on one line, where Erlang would break them at column 80.
    """
    if octet == "S":
        return erlang_binary(value.encode("utf-8", "surrogateescape"))
    if octet == "x":
        return erlang_binary(value)
    if octet == "t":
        return "true" if value else "false"
    if octet in "fd":
        return _erlang_float(value)
    if octet == "D":
        return f"{{{value[0]},{value[1]}}}"
    if octet == "V":
        return "undefined"
    if octet == "F":
        entries = (
            f"{{{erlang('S', name)},{TYPE_NAMES[kind]},{erlang(kind, inner)}}}"
            for name, (kind, inner) in value.items()
        )
        return f"[{','.join(entries)}]"
    if octet == "A":
        items = (f"{{{TYPE_NAMES[kind]},{erlang(kind, inner)}}}" for kind, inner in value)
        return f"[{','.join(items)}]"
    return str(value)


_ERLANG_ESCAPES: Final = str.maketrans(
    {
        '"': '\\"',
        "\\": "\\\\",
        "\n": "\\n",
        "\r": "\\r",
        "\t": "\\t",
        "\v": "\\v",
        "\b": "\\b",
        "\f": "\\f",
        "\x1b": "\\e",
    }
)


def erlang_binary(data: bytes) -> str:
    """`<<"text">>` where the octets can be printed, else as `erlang_octets`."""
    if not data:
        return "<<>>"
    try:
        characters = data.decode()
    except UnicodeDecodeError:
        return erlang_octets(data)
    escaped = characters.translate(_ERLANG_ESCAPES)
    if not escaped.replace("\N{NO-BREAK SPACE}", " ").isprintable():
        return erlang_octets(data)
    return f'<<"{escaped}">>' if data.isascii() else f'<<"{escaped}"/utf8>>'


def erlang_octets(data: bytes) -> str:
    """`<<0,20,255>>`: every octet as a number (`~w`)."""
    return f"<<{','.join(map(str, data))}>>"


def _erlang_float(value: float) -> str:
    """The shortest digits, and an exponent where that is shorter: `100.0`, `1.0e3`, `0.001`."""
    sign, digit_tuple, exponent = Decimal(repr(value)).as_tuple()
    digits = "".join(map(str, digit_tuple)).rstrip("0")
    if not digits:
        return "-0.0" if sign else "0.0"
    # The value is 0.digits * 10 ** place.
    place = len(digit_tuple) + int(exponent)
    with_exponent = f"{digits[0]}.{digits[1:] or '0'}e{place - 1}"
    if place > 0:
        whole = f"{digits[:place]:0<{place}}.{digits[place:] or '0'}"
    else:
        whole = f"0.{'0' * -place}{digits}"
    inside = 0 <= place < len(digits)
    shorter = whole if inside or len(whole) <= len(with_exponent) else with_exponent
    return "-" + shorter if sign else shorter
