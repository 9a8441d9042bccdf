"""The properties of a content header (class 60), read out of their raw bytes and changed in them.

    flags:u16   content-type? content-encoding? headers? delivery-mode? ... cluster-id?
    |           each present only if its flag is set, in the order of the flags from bit 15 down
    +- bit 15 content-type ... bit 2 cluster-id; bit 0 would announce another word of flags

A message keeps these bytes as they came. Nothing here decodes a property that nobody asked for,
and what is changed for one property leaves the octets of all others alone. Rules kept:

- `validate` passes once over every list of properties that a peer sends, headers included; the
  other functions are for lists that have passed, and raise the same for any that would not.
- Absent is not empty: an unset property reads as None, and stays unset.
- Strings may be any octets, as in RabbitMQ; what is not UTF-8 becomes surrogate escapes.
"""

from __future__ import annotations

from typing import Any, Final

from amqpd.commands import Arguments, Field
from amqpd.errors import FRAME_ERROR, ConnectionException
from amqpd.short_string import short_string
from amqpd.wire.tables import (
    TableError,
    check_table,
    decode_table,
    encode_table,
    erlang_octets,
    value_end,
)

__all__ = [
    "APP_ID",
    "CLUSTER_ID",
    "CONTENT_ENCODING",
    "CONTENT_TYPE",
    "CORRELATION_ID",
    "DELIVERY_MODE",
    "EXPIRATION",
    "HEADERS",
    "MESSAGE_ID",
    "PRIORITY",
    "REPLY_TO",
    "TIMESTAMP",
    "TYPE",
    "USER_ID",
    "delivery_mode",
    "has_property",
    "octets_of",
    "read_headers",
    "read_property",
    "replace",
    "validate",
    "with_header",
    "with_header_octets",
    "with_headers",
    "with_property",
    "with_reply_to",
    "without_header",
]

CONTENT_TYPE: Final = 0x8000
CONTENT_ENCODING: Final = 0x4000
HEADERS: Final = 0x2000
DELIVERY_MODE: Final = 0x1000
PRIORITY: Final = 0x0800
CORRELATION_ID: Final = 0x0400
REPLY_TO: Final = 0x0200
EXPIRATION: Final = 0x0100
MESSAGE_ID: Final = 0x0080
TIMESTAMP: Final = 0x0040
TYPE: Final = 0x0020
USER_ID: Final = 0x0010
APP_ID: Final = 0x0008
CLUSTER_ID: Final = 0x0004
_CONTINUED: Final = 0x0001

_OCTETS: Final = DELIVERY_MODE | PRIORITY
_NUMBERS: Final = _OCTETS | TIMESTAMP

BASIC_PUBLISH: Final = (60, 40)
_ERRORS_SHOWN_OCTETS_MAX: Final = 128


def _malformed(properties: bytes) -> ConnectionException:
    # RabbitMQ crashes here, and says 541 without a word; 501 says what was wrong.
    shown = erlang_octets(properties[:_ERRORS_SHOWN_OCTETS_MAX])
    return ConnectionException(FRAME_ERROR, f"cannot decode properties {shown}", BASIC_PUBLISH)


# -- on the way of every message


def validate(properties: bytes, depth_max: int) -> int:
    """Check the whole list, headers included; its delivery mode, 0 if it has none.

    Raises `ConnectionException` 501 for a list that is cut off, has octets left over, announces a
    second word of flags, or has a headers table that is malformed or nested above `depth_max`.
    """
    try:
        high = properties[0]
        low = properties[1]
        offset = 2
        mode = 0
        if high & 0x80:
            offset += 1 + properties[offset]
        if high & 0x40:
            offset += 1 + properties[offset]
        if high & 0x20:
            offset = check_table(properties, offset, depth_max)
        if high & 0x10:
            mode = properties[offset]
            offset += 1
        if high & 0x0F:
            if high & 0x08:
                offset += 1
            if high & 0x04:
                offset += 1 + properties[offset]
            if high & 0x02:
                offset += 1 + properties[offset]
            if high & 0x01:
                offset += 1 + properties[offset]
        if low:
            offset = _skip_low(properties, offset, low)
    except (IndexError, TableError):
        raise _malformed(properties) from None
    # The offset only ever grew, so this also finds a last property that is cut off.
    if offset != len(properties):
        raise _malformed(properties)
    return mode


def _skip_low(properties: bytes, offset: int, low: int) -> int:
    """The offset after the properties of the lower eight flags."""
    if low & _CONTINUED:
        raise _malformed(properties)
    if low & 0x80:
        offset += 1 + properties[offset]
    if low & 0x40:
        offset += 8
    if low & 0x20:
        offset += 1 + properties[offset]
    if low & 0x10:
        offset += 1 + properties[offset]
    if low & 0x08:
        offset += 1 + properties[offset]
    if low & 0x04:
        offset += 1 + properties[offset]
    # Bit 1 stands for nothing, and RabbitMQ does not look at it.
    return offset


def delivery_mode(properties: bytes) -> int:
    """The delivery mode, 0 if it is absent; 2 is persistent."""
    try:
        high = properties[0]
        if not high & 0x10:
            return 0
        offset = 2
        if high & 0x80:
            offset += 1 + properties[offset]
        if high & 0x40:
            offset += 1 + properties[offset]
        if high & 0x20:
            offset += 4 + int.from_bytes(properties[offset : offset + 4], "big")
        return properties[offset]
    except IndexError:
        raise _malformed(properties) from None


# -- where a rule needs a property


def has_property(properties: bytes, flag: int) -> bool:
    """Whether the property of this flag is present, be it empty."""
    return _flags(properties) & flag != 0


def read_property(properties: bytes, flag: int) -> Any:
    """The property of this flag: str, or int for numbers; None if it is absent.

    `read_property(message.properties, EXPIRATION)`; for HEADERS there is `read_headers`.
    """
    assert flag != HEADERS
    start, end = _span(properties, flag)
    if start == end:
        return None
    if flag & _NUMBERS:
        return int.from_bytes(properties[start:end], "big")
    return properties[start + 1 : end].decode("utf-8", "surrogateescape")


def octets_of(properties: bytes, flag: int) -> bytes:
    """The property of this flag as it is encoded; empty if it is absent."""
    start, end = _span(properties, flag)
    return properties[start:end]


def read_headers(properties: bytes, depth_max: int) -> Arguments:
    """The headers table with its types; empty also if it is absent."""
    start, end = _span(properties, HEADERS)
    if start == end:
        return {}
    try:
        return decode_table(properties, start, depth_max)[0]
    except TableError:
        raise _malformed(properties) from None


def _flags(properties: bytes) -> int:
    if len(properties) < 2:
        raise _malformed(properties)
    return int.from_bytes(properties[:2], "big")


def _span(properties: bytes, flag: int) -> tuple[int, int]:
    """Where the property of `flag` starts and ends, its length octets included.

    For an absent one, twice the offset at which it would have to stand.
    """
    flags = _flags(properties)
    current = CONTENT_TYPE
    offset = 2
    while current > flag:
        if flags & current:
            offset = _property_end(properties, offset, current)
        current >>= 1
    if flags & flag:
        return offset, _property_end(properties, offset, flag)
    return offset, offset


def _property_end(properties: bytes, offset: int, flag: int) -> int:
    """The offset after the property of `flag` that starts at `offset`."""
    if flag & _OCTETS:
        end = offset + 1
    elif flag == TIMESTAMP:
        end = offset + 8
    elif flag == HEADERS:
        end = offset + 4 + int.from_bytes(properties[offset : offset + 4], "big")
    elif offset < len(properties):
        end = offset + 1 + properties[offset]
    else:
        end = offset + 1
    if end > len(properties):
        raise _malformed(properties)
    return end


# -- where the broker itself has to change one


def replace(properties: bytes, flag: int, encoded: bytes | None) -> bytes:
    """`properties` with the property of `flag` set to `encoded`, or without it if that is None.

    All other octets are as they were.
    """
    start, end = _span(properties, flag)
    flags = _flags(properties)
    flags = flags & ~flag if encoded is None else flags | flag
    return b"".join(
        (flags.to_bytes(2, "big"), properties[2:start], encoded or b"", properties[end:])
    )


def with_property(properties: bytes, flag: int, value: str | int | None) -> bytes:
    """`properties` with a string or number in place of what it had there; None removes it.

    Raises `ValueError` for what the property cannot carry.
    """
    assert flag != HEADERS
    if value is None:
        return replace(properties, flag, None)
    if flag & _NUMBERS:
        octets = 8 if flag == TIMESTAMP else 1
        try:
            return replace(properties, flag, int(value).to_bytes(octets, "big"))
        except OverflowError as error:
            raise ValueError(f"{value} does not fit into {octets} octets") from error
    return replace(properties, flag, short_string(str(value)))


def with_reply_to(properties: bytes, reply_to: str) -> bytes:
    """`properties` with another reply-to."""
    return with_property(properties, REPLY_TO, reply_to)


def with_headers(properties: bytes, headers: Arguments | None) -> bytes:
    """`properties` with another headers table; None removes it, an empty one stays present."""
    return replace(properties, HEADERS, None if headers is None else encode_table(headers))


def without_header(properties: bytes, name: str) -> bytes:
    """`properties` without the header `name`, however often it occurs; the table stays present.

    All other octets are as they were, and without such a header so is the very object.
    """
    start, end = _span(properties, HEADERS)
    if start == end:
        return properties
    wanted = name.encode("utf-8", "surrogateescape")
    try:
        kept = _fields_without(properties, start + 4, end, wanted)
    except (TableError, IndexError):
        raise _malformed(properties) from None
    if len(kept) == end - start - 4:
        return properties
    return replace(properties, HEADERS, len(kept).to_bytes(4, "big") + kept)


def with_header(properties: bytes, name: str, field: Field) -> bytes:
    """`properties` with another value of the header `name`, in its place or, if new, at the end.

    All other octets are as they were. Raises `ValueError` for what the header cannot carry.
    """
    start, end = _span(properties, HEADERS)
    fresh = encode_table({name: field})[4:]
    wanted = name.encode("utf-8", "surrogateescape")
    try:
        kept = _fields_without(properties, start + 4, end, wanted, fresh)
    except (TableError, IndexError):
        raise _malformed(properties) from None
    return replace(properties, HEADERS, len(kept).to_bytes(4, "big") + kept)


def with_header_octets(properties: bytes, field: bytes) -> bytes:
    """`properties` with one more header at the end, which they do not have yet: its name as a short
    string, and its value. All other octets are as they were."""
    start, end = _span(properties, HEADERS)
    table = (properties[start + 4 : end] if start < end else b"") + field
    return replace(properties, HEADERS, len(table).to_bytes(4, "big") + table)


def _fields_without(
    properties: bytes, offset: int, end: int, name: bytes, instead: bytes = b""
) -> bytes:
    """The fields but those of this name, with `instead` where the first of them was, or last."""
    kept: list[bytes] = []
    while offset < end:
        value = offset + 1 + properties[offset]
        after = value_end(properties, value, end)
        if properties[offset + 1 : value] != name:
            kept.append(properties[offset:after])
        else:
            kept.append(instead)
            instead = b""
        offset = after
    kept.append(instead)
    return b"".join(kept)
