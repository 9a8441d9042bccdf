"""Methods <-> the payloads of method frames.

pamqp's classes say which methods there are and what arguments they have; the bytes are read and
written here, by a plan made of that description when a class is first met. pamqp's own codec is
stricter than RabbitMQ about names, forgets the types of table fields, and raises all sorts of
exceptions on malformed input. Rules kept here:

- An instance is made without its constructor, so nothing is refused that RabbitMQ takes.
- Short strings are UTF-8, or the connection is closed; only in methods with content may they be
  any octets (RabbitMQ skips the check there), which are kept as surrogate escapes.
- Long strings that carry secrets (`response`, `challenge`, `new_secret`) are `bytes`, others `str`.
- A table comes twice: as `Arguments` beside the method, and without its types on the method.
- Whatever a peer sends, the only exception is `ConnectionException`.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from pamqp.commands import INDEX_MAPPING

from amqpd.commands import Access, Arguments, Basic, Frame
from amqpd.errors import COMMAND_INVALID, FRAME_ERROR, ConnectionException
from amqpd.short_string import short_string
from amqpd.wire.tables import (
    TableError,
    decode_table,
    encode_table,
    erlang_binary,
    erlang_octets,
    plain,
)

__all__ = [
    "decode_method",
    "encode_method",
    "method_frame",
    "method_ids",
    "method_name",
]

FRAME_METHOD: Final = 1
FRAME_END: Final = b"\xce"

_CLASSES: Final[dict[int, type[Frame]]] = {
    **INDEX_MAPPING,
    Access.Request.index: Access.Request,
    Access.RequestOk.index: Access.RequestOk,
}

_WITH_CONTENT: Final = frozenset(
    {Basic.Publish.index, Basic.Return.index, Basic.Deliver.index, Basic.GetOk.index}
)
_SECRETS: Final = frozenset({"response", "challenge", "new_secret"})
_RESERVED: Final = frozenset({"out_of_band", "channel_id", "known_hosts", "cluster_id"})
"""Always sent empty, as RabbitMQ does; pamqp's constructors would have `"0"` for two of them."""

_BITS: Final = 0
_SHORT_STRING: Final = 1
_LONG_STRING: Final = 2
_SECRET: Final = 3
_TABLE: Final = 4
_NUMBER: Final = 5

_NUMBERS: Final[dict[str, struct.Struct]] = {
    "octet": struct.Struct(">B"),
    "short": struct.Struct(">H"),
    "long": struct.Struct(">I"),
    "longlong": struct.Struct(">Q"),
    "timestamp": struct.Struct(">Q"),
}
_LENGTH: Final = struct.Struct(">I")
_FRAME_HEADER: Final = struct.Struct(">BHI")
_NO_NUMBER: Final = struct.Struct("")

_ERRORS_SHOWN_OCTETS_MAX: Final = 128
"""Octets rendered into a reply text: with their commas they fill its 255 characters."""


class _Argument:
    """One argument of a method, or a run of up to eight bits that share an octet."""

    __slots__ = ("kind", "layout", "names", "reserved")

    def __init__(self, kind: int, name: str, layout: struct.Struct) -> None:
        self.kind = kind
        self.names = [name]
        self.layout = layout
        self.reserved = name in _RESERVED


class _Plan:
    """How the arguments of one method lie in its payload."""

    __slots__ = ("arguments", "frame_class", "head", "ids", "name", "utf8_only")

    def __init__(self, frame_class: type[Frame]) -> None:
        self.frame_class = frame_class
        self.ids = (frame_class.index >> 16, frame_class.index & 0xFFFF)
        self.head = _LENGTH.pack(frame_class.index)
        self.name = _rabbit_name(frame_class.name)
        self.utf8_only = frame_class.index not in _WITH_CONTENT
        self.arguments = _lay_out(frame_class)


def _rabbit_name(pamqp_name: str) -> str:
    """`Basic.RecoverAsync` -> `basic.recover_async`, as in RabbitMQ's texts."""
    class_name, method = pamqp_name.split(".")
    words = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in method)
    return f"{class_name.lower()}.{words[1:]}"


def _lay_out(frame_class: type[Frame]) -> list[_Argument]:
    arguments: list[_Argument] = []
    for name in frame_class.attributes():
        amqp_type = frame_class.amqp_type(name)
        last = arguments[-1] if arguments else None
        # 0-9-1 §4.2.5.2: consecutive bits share octets, the first one lowest.
        if amqp_type == "bit" and last and last.kind == _BITS and len(last.names) < 8:
            last.names.append(name)
        else:
            layout = _NUMBERS.get(amqp_type, _NO_NUMBER)
            arguments.append(_Argument(_kind(name, amqp_type), name, layout))
    return arguments


def _kind(name: str, amqp_type: str) -> int:
    if amqp_type == "bit":
        return _BITS
    if amqp_type == "shortstr":
        return _SHORT_STRING
    if amqp_type == "longstr":
        return _SECRET if name in _SECRETS else _LONG_STRING
    if amqp_type == "table":
        return _TABLE
    assert amqp_type in _NUMBERS, amqp_type
    return _NUMBER


_plans: Final[dict[int, _Plan]] = {}


def _plan_of(method: type[Frame]) -> _Plan:
    plan = _plans.get(method.index)
    if plan is None:
        plan = _plans[method.index] = _Plan(method)
    return plan


def method_ids(method: Frame | type[Frame]) -> tuple[int, int]:
    """Class id and method id."""
    return method.index >> 16, method.index & 0xFFFF


def method_name(method: Frame | type[Frame]) -> str:
    """RabbitMQ's name of the method, as in its texts: `queue.declare`, `basic.recover_async`."""
    return _plan_of(method if isinstance(method, type) else type(method)).name


# -- bytes -> methods


class _Undecodable(Exception):
    """The payload does not have the form that its method prescribes."""


def decode_method(payload: bytes, depth_max: int) -> tuple[Frame, Arguments]:
    """The method in the payload of a method frame, and its table with the types kept.

    Raises `ConnectionException`: 503 for an unknown method, 501 for one that is malformed.
    """
    if len(payload) < 4:
        rendered = erlang_binary(payload)
        raise ConnectionException(
            FRAME_ERROR, f"type {FRAME_METHOD}, all octets = {rendered}: unknown_frame"
        )
    index = int.from_bytes(payload[:4], "big")
    plan = _plans.get(index)
    if plan is None:
        plan = _plan_of(_known_class(index))
    try:
        return _decode_arguments(plan, payload, depth_max)
    except (_Undecodable, TableError):
        raise _cannot_decode(payload, plan.ids) from None


def _known_class(index: int) -> type[Frame]:
    frame_class = _CLASSES.get(index)
    if frame_class is None:
        class_id, method_id = index >> 16, index & 0xFFFF
        # RabbitMQ's reader crashes here, and the client sees a reset; we say why.
        raise ConnectionException(
            COMMAND_INVALID,
            f"unknown method {method_id} of class {class_id}",
            (class_id, method_id),
        )
    return frame_class


def _cannot_decode(payload: bytes, ids: tuple[int, int]) -> ConnectionException:
    # Beyond this the text is cut anyhow, so that the result is the same and long payloads cheap.
    shown = payload[4 : 4 + _ERRORS_SHOWN_OCTETS_MAX]
    return ConnectionException(FRAME_ERROR, f"cannot decode {erlang_octets(shown)}", ids)


def _decode_arguments(plan: _Plan, payload: bytes, depth_max: int) -> tuple[Frame, Arguments]:
    frame_class = plan.frame_class
    method = frame_class.__new__(frame_class)
    table: Arguments = {}
    offset = 4
    for argument in plan.arguments:
        kind = argument.kind
        if kind == _SHORT_STRING:
            start, offset = _extent(payload, offset, 1)
            value: Any = _short_string(payload[start:offset], plan.utf8_only)
        elif kind == _NUMBER:
            start = offset
            offset += argument.layout.size
            value = int.from_bytes(_exactly(payload, start, offset), "big")
        elif kind == _BITS:
            bits = _exactly(payload, offset, offset + 1)[0]
            offset += 1
            for name in argument.names:
                setattr(method, name, bool(bits & 1))
                bits >>= 1
            continue
        elif kind == _TABLE:
            table, offset = decode_table(payload, offset, depth_max)
            value = plain(table)
        else:
            start, offset = _extent(payload, offset, 4)
            value = payload[start:offset]
            if kind == _LONG_STRING:
                value = value.decode("utf-8", "surrogateescape")
        setattr(method, argument.names[0], value)
    if offset != len(payload):
        # RabbitMQ matches the whole of the payload: octets too many are as bad as too few.
        raise _Undecodable
    return method, table


def _exactly(payload: bytes, start: int, stop: int) -> bytes:
    if stop > len(payload):
        raise _Undecodable
    return payload[start:stop]


def _extent(payload: bytes, offset: int, length_octets: int) -> tuple[int, int]:
    """Where the string whose length stands at `offset` starts and ends."""
    start = offset + length_octets
    stop = start + int.from_bytes(_exactly(payload, offset, start), "big")
    if stop > len(payload):
        raise _Undecodable
    return start, stop


def _short_string(octets: bytes, utf8_only: bool) -> str:
    if not utf8_only:
        return octets.decode("utf-8", "surrogateescape")
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        raise ConnectionException(FRAME_ERROR, "Malformed UTF-8 in shortstr") from None


# -- methods -> bytes


def encode_method(method: Frame, arguments: Arguments | None = None) -> bytes:
    """The payload of a method frame: class id, method id, arguments.

    A table is taken from `arguments` or else from the method's attribute, which then holds typed
    `Arguments` (`tables.typed` makes them). Attributes that are None or missing count as zero or
    empty. Raises `ValueError` for what the wire cannot carry, such as a short string above 255
    octets: callers cut reply texts before.
    """
    plan = _plan_of(type(method))
    parts: list[bytes] = [plan.head]
    try:
        for argument in plan.arguments:
            parts.append(_encode_argument(method, argument, arguments))
    except (struct.error, TypeError, AttributeError) as error:
        raise ValueError(f"{plan.name} has an argument of the wrong type: {error}") from error
    return b"".join(parts)


def _encode_argument(method: Frame, argument: _Argument, arguments: Arguments | None) -> bytes:
    kind = argument.kind
    if kind == _BITS:
        bits = 0
        for position, name in enumerate(argument.names):
            if getattr(method, name, None):
                bits |= 1 << position
        return bytes((bits,))
    value = None if argument.reserved else getattr(method, argument.names[0], None)
    if kind == _NUMBER:
        return argument.layout.pack(value or 0)
    if kind == _TABLE:
        return encode_table(value or {} if arguments is None else arguments)
    if kind == _SHORT_STRING:
        try:
            return short_string(value or "")
        except ValueError as error:
            raise ValueError(f"{argument.names[0]}: {error}") from None
    octets = _octets(value)
    return _LENGTH.pack(len(octets)) + octets


def _octets(value: Any) -> bytes:
    if value is None:
        return b""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    return bytes(memoryview(value))


def method_frame(channel: int, method: Frame, arguments: Arguments | None = None) -> bytes:
    """The whole frame that carries `method` on `channel`."""
    payload = encode_method(method, arguments)
    return _FRAME_HEADER.pack(FRAME_METHOD, channel, len(payload)) + payload + FRAME_END
