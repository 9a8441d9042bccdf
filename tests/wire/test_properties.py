"""Properties: agreement with pamqp, and every octet that was not to be changed unchanged."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp.commands import Basic

from amqpd.commands import Arguments
from amqpd.errors import ConnectionException
from amqpd.wire import properties as wire_properties
from amqpd.wire.properties import (
    CONTENT_TYPE,
    DELIVERY_MODE,
    EXPIRATION,
    HEADERS,
    MESSAGE_ID,
    PRIORITY,
    REPLY_TO,
    TIMESTAMP,
    USER_ID,
    delivery_mode,
    has_property,
    read_headers,
    read_property,
    replace,
    validate,
    with_header,
    with_headers,
    with_property,
    with_reply_to,
    without_header,
)
from amqpd.wire.tables import encode_table, plain

DEPTH_MAX = 64
FLAGS: dict[str, int] = Basic.Properties.flags
STRINGS = {
    name: flag
    for name, flag in FLAGS.items()
    if getattr(Basic.Properties, f"_{name}") == "shortstr"
}

octet_strings = st.binary(max_size=30)
values: st.SearchStrategy[Any] = (
    st.booleans() | st.integers(-(1 << 40), 1 << 40) | st.text(max_size=8)
)
pamqp_headers = st.dictionaries(
    st.text(max_size=8), values | st.lists(values, max_size=3), max_size=5
)
pamqp_properties = st.fixed_dictionaries(
    {},
    optional={
        "content_type": st.text(min_size=1, max_size=20),
        "content_encoding": st.text(min_size=1, max_size=20),
        "headers": pamqp_headers,
        "delivery_mode": st.sampled_from([1, 2]),
        "priority": st.integers(0, 255),
        "correlation_id": st.text(min_size=1, max_size=20),
        "reply_to": st.text(min_size=1, max_size=20),
        "expiration": st.text(min_size=1, max_size=20),
        "message_id": st.text(min_size=1, max_size=20),
        "timestamp": st.integers(0, (1 << 32) - 1).map(lambda s: datetime.fromtimestamp(s, tz=UTC)),
        "message_type": st.text(min_size=1, max_size=20),
        "user_id": st.text(min_size=1, max_size=20),
        "app_id": st.text(min_size=1, max_size=20),
    },
)


def short(octets: bytes) -> bytes:
    return bytes((len(octets),)) + octets


def encoded_value(draw: st.DrawFn, name: str) -> bytes:
    if name == "headers":
        table: Arguments = draw(
            st.dictionaries(
                st.sampled_from(["CC", "BCC", "x", "y"]),
                st.sampled_from(
                    [("S", "v"), ("I", 5), ("A", [("S", "k")]), ("F", {"BCC": ("V", None)})]
                ),
            )
        )
        return encode_table(table)
    if name in ("delivery_mode", "priority"):
        return draw(st.binary(min_size=1, max_size=1))
    if name == "timestamp":
        return draw(st.binary(min_size=8, max_size=8))
    return short(draw(octet_strings))


@st.composite
def property_parts(draw: st.DrawFn) -> dict[str, bytes]:
    """The encoded value of each property that is present; strings are any octets."""
    names = draw(st.sets(st.sampled_from(sorted(FLAGS))))
    return {name: encoded_value(draw, name) for name in FLAGS if name in names}


def joined(parts: dict[str, bytes]) -> bytes:
    flags = sum(FLAGS[name] for name in parts)
    return flags.to_bytes(2, "big") + b"".join(parts[name] for name in FLAGS if name in parts)


def refusal_of(call: Callable[[], object]) -> ConnectionException | None:
    try:
        call()
    except ConnectionException as error:
        return error
    return None


def is_malformed(properties: bytes) -> bool:
    error = refusal_of(lambda: validate(properties, DEPTH_MAX))
    if error is None:
        return False
    assert (error.code, error.class_id, error.method_id) == (501, 60, 40)
    assert error.reply_text.encode()
    return True


def try_everything(properties: bytes) -> None:
    """Each function, of which none may raise anything but ConnectionException 501."""
    calls: list[Callable[[], object]] = [
        partial(delivery_mode, properties),
        partial(read_headers, properties, DEPTH_MAX),
        partial(without_header, properties, "BCC"),
        partial(with_reply_to, properties, "to"),
        partial(with_headers, properties, {}),
        partial(with_header, properties, "x-delay", ("I", 1)),
        *(partial(read_property, properties, flag) for flag in FLAGS.values() if flag != HEADERS),
        *(partial(replace, properties, flag, None) for flag in FLAGS.values()),
    ]
    for call in calls:
        error = refusal_of(call)
        assert error is None or error.code == 501


# -- reading


@given(pamqp_properties)
def test_reading_agrees_with_pamqp(given_values: dict[str, Any]) -> None:
    properties = Basic.Properties(**given_values).marshal()
    assert validate(properties, DEPTH_MAX) == given_values.get("delivery_mode", 0)
    assert delivery_mode(properties) == given_values.get("delivery_mode", 0)
    for name, flag in FLAGS.items():
        expected = given_values.get(name)
        assert has_property(properties, flag) == (name in given_values)
        if name == "headers":
            assert plain(read_headers(properties, DEPTH_MAX)) == (expected or {})
        elif name == "timestamp":
            seconds = None if expected is None else int(expected.timestamp())
            assert read_property(properties, flag) == seconds
        else:
            assert read_property(properties, flag) == expected


@given(property_parts())
def test_each_property_is_found_among_any_others(parts: dict[str, bytes]) -> None:
    properties = joined(parts)
    mode = parts.get("delivery_mode", b"\0")[0]
    assert validate(properties, DEPTH_MAX) == mode
    assert delivery_mode(properties) == mode
    for name, flag in STRINGS.items():
        value = read_property(properties, flag)
        if name in parts:
            assert value.encode("utf-8", "surrogateescape") == parts[name][1:]
        else:
            assert value is None
    if "timestamp" in parts:
        assert read_property(properties, TIMESTAMP) == int.from_bytes(parts["timestamp"], "big")
    if "headers" in parts:
        assert encode_table(read_headers(properties, DEPTH_MAX)) == parts["headers"]


def test_empty_is_not_absent() -> None:
    properties = joined({"headers": b"\0\0\0\0", "reply_to": b"\0"})
    assert has_property(properties, HEADERS)
    assert not has_property(properties, EXPIRATION)
    assert read_property(properties, REPLY_TO) == ""
    assert read_property(properties, EXPIRATION) is None
    assert read_headers(properties, DEPTH_MAX) == {}


# -- malformed lists


@given(property_parts())
def test_truncations_and_additions_are_malformed(parts: dict[str, bytes]) -> None:
    properties = joined(parts)
    for length in range(len(properties)):
        assert is_malformed(properties[:length])
        try_everything(properties[:length])
    assert is_malformed(properties + b"\0")


@given(property_parts(), st.data())
def test_mutations_raise_nothing_else(parts: dict[str, bytes], data: st.DataObject) -> None:
    mutated = bytearray(joined(parts))
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    is_malformed(bytes(mutated))
    try_everything(bytes(mutated))


@given(st.binary(max_size=40))
def test_any_bytes_raise_nothing_else(properties: bytes) -> None:
    if not is_malformed(properties):
        assert delivery_mode(properties) == validate(properties, DEPTH_MAX)
    try_everything(properties)


def test_a_second_word_of_flags_is_malformed() -> None:
    assert is_malformed(b"\x10\x01\x02")
    assert is_malformed(b"\x00\x01\x00\x00")


def test_bit_1_stands_for_nothing() -> None:
    assert validate(b"\x10\x02\x02", DEPTH_MAX) == 2


def test_a_malformed_or_deep_headers_table_is_malformed() -> None:
    assert is_malformed(joined({"headers": b"\0\0\0\x04\x01aU\0"}))
    deep = joined({"headers": encode_table({"a": ("A", [("F", {"b": ("V", None)})])})})
    assert validate(deep, 2) == 0
    with pytest.raises(ConnectionException) as refusal:
        validate(deep, 1)
    assert refusal.value.reply_text.startswith("FRAME_ERROR - cannot decode properties <<32,0,")


# -- changing


@given(property_parts(), st.sampled_from(sorted(FLAGS)), st.data())
def test_replacing_leaves_all_other_octets_alone(
    parts: dict[str, bytes], name: str, data: st.DataObject
) -> None:
    properties = joined(parts)
    value = short(data.draw(octet_strings))
    assert replace(properties, FLAGS[name], value) == joined({**parts, name: value})
    others = {other: part for other, part in parts.items() if other != name}
    assert replace(properties, FLAGS[name], None) == joined(others)


@given(property_parts(), st.text(max_size=60))
def test_another_reply_to(parts: dict[str, bytes], reply_to: str) -> None:
    changed = with_reply_to(joined(parts), reply_to)
    assert changed == joined({**parts, "reply_to": short(reply_to.encode())})
    assert read_property(changed, REPLY_TO) == reply_to


@given(property_parts())
def test_other_headers(parts: dict[str, bytes]) -> None:
    headers: Arguments = {"x-death": ("A", [("F", {"count": ("l", 1)})])}
    changed = with_headers(joined(parts), headers)
    assert changed == joined({**parts, "headers": encode_table(headers)})
    assert read_headers(changed, DEPTH_MAX) == headers
    others = {name: part for name, part in parts.items() if name != "headers"}
    assert with_headers(changed, None) == joined(others)


@given(property_parts())
def test_other_numbers_and_strings(parts: dict[str, bytes]) -> None:
    properties = joined(parts)
    changes: dict[int, str | int] = {
        PRIORITY: 9,
        DELIVERY_MODE: 2,
        TIMESTAMP: 1 << 40,
        USER_ID: "u",
    }
    for flag, value in changes.items():
        changed = with_property(properties, flag, value)
        assert validate(changed, DEPTH_MAX) >= 0
        assert read_property(changed, flag) == value
        assert read_property(with_property(changed, flag, None), flag) is None


@pytest.mark.parametrize(
    ("flag", "value"),
    [(PRIORITY, 256), (PRIORITY, -1), (TIMESTAMP, 1 << 64), (MESSAGE_ID, "ü" * 128)],
)
def test_what_a_property_cannot_carry_is_a_value_error(flag: int, value: str | int) -> None:
    with pytest.raises(ValueError, match="octets"):
        with_property(b"\0\0", flag, value)


@given(property_parts())
def test_dropping_a_header_leaves_all_other_octets_alone(parts: dict[str, bytes]) -> None:
    properties = joined(parts)
    changed = without_header(properties, "BCC")
    headers = read_headers(properties, DEPTH_MAX)
    if "BCC" not in headers:
        assert changed is properties
    else:
        del headers["BCC"]
        assert changed == joined({**parts, "headers": encode_table(headers)})


def test_dropping_every_occurrence_and_no_other() -> None:
    def fields(*names: bytes) -> bytes:
        table = b"".join(short(name) + b"t\x07" for name in names)
        return len(table).to_bytes(4, "big") + table

    # Equal names, and a boolean written as 7, would not survive decoding and encoding.
    properties = joined({"content_type": b"\x01a", "headers": fields(b"BCC", b"a", b"BCC", b"a")})
    changed = without_header(properties, "BCC")
    assert changed == joined({"content_type": b"\x01a", "headers": fields(b"a", b"a")})
    assert without_header(without_header(changed, "a"), "b") == joined(
        {"content_type": b"\x01a", "headers": b"\0\0\0\0"}
    )


@given(property_parts())
def test_a_header_changes_in_its_place(parts: dict[str, bytes]) -> None:
    """A new one comes last; and all other octets stay alone."""
    properties = joined(parts)
    headers = read_headers(properties, DEPTH_MAX)
    for name in ("BCC", "a new one"):
        changed = {**headers, name: ("I", -5)}
        expected = joined({**parts, "headers": encode_table(changed)})
        assert with_header(properties, name, ("I", -5)) == expected


def test_a_header_that_occurs_twice_is_one_afterwards() -> None:
    headers = b"".join(short(name) + b"t\x07" for name in (b"a", b"b", b"a"))
    properties = joined({"headers": len(headers).to_bytes(4, "big") + headers})
    changed = with_header(properties, "a", ("t", True))
    wanted = short(b"a") + b"t\x01" + short(b"b") + b"t\x07"
    assert changed == joined({"headers": len(wanted).to_bytes(4, "big") + wanted})


def test_the_flags_are_pamqps() -> None:
    for name, flag in FLAGS.items():
        assert getattr(wire_properties, "TYPE" if name == "message_type" else name.upper()) == flag
    assert FLAGS["content_type"] == CONTENT_TYPE
