"""Field tables: round trips, hostile bytes, agreement with pamqp, and RabbitMQ's renderings."""

from __future__ import annotations

import struct
import sys
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import decode, encode

from amqpd.commands import Arguments, Field
from amqpd.wire.tables import (
    TableError,
    check_table,
    decode_bare_table,
    decode_table,
    described,
    encode_table,
    erlang,
    erlang_binary,
    erlang_octets,
    plain,
    text,
    type_name,
    typed,
)

DEPTH_MAX = 64

# What any octets become when they are read as text, and the octets they came from.
octet_texts = st.binary(max_size=20).map(lambda data: data.decode("utf-8", "surrogateescape"))
texts = st.text(max_size=12) | octet_texts
names = texts.filter(lambda name: len(name.encode("utf-8", "surrogateescape")) <= 255)


def integers(bits: int, signed: bool) -> st.SearchStrategy[int]:
    if signed:
        return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1)
    return st.integers(0, (1 << bits) - 1)


def of(octet: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Field]:
    return values.map(lambda value: (octet, value))


leaves: st.SearchStrategy[Field] = st.one_of(
    of("t", st.booleans()),
    of("b", integers(8, True)),
    of("B", integers(8, False)),
    of("s", integers(16, True)),
    of("u", integers(16, False)),
    of("I", integers(32, True)),
    of("i", integers(32, False)),
    of("l", integers(64, True)),
    of("L", integers(64, True)),
    of("f", st.floats(width=32, allow_nan=False, allow_infinity=False)),
    of("d", st.floats(allow_nan=False, allow_infinity=False)),
    of("D", st.tuples(integers(8, False), integers(32, False))),
    of("S", texts),
    of("T", integers(64, False)),
    of("V", st.none()),
    of("x", st.binary(max_size=20)),
)
fields = st.recursive(
    leaves,
    lambda inner: (
        of("A", st.lists(inner, max_size=4)) | of("F", st.dictionaries(names, inner, max_size=4))
    ),
    max_leaves=12,
)
tables: st.SearchStrategy[Arguments] = st.dictionaries(names, fields, max_size=6)


def with_length(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


def nested(levels: int, octet: bytes) -> bytes:
    """A table with `levels` tables or arrays inside each other."""
    content = b""
    for _ in range(levels - 1):
        content = (b"\0" if octet == b"F" else b"") + octet + with_length(content)
    return with_length(b"\0" + octet + with_length(content)) if levels else with_length(b"")


def decode_or_refuse(data: bytes, depth_max: int = DEPTH_MAX) -> Arguments | None:
    """The decoded table, or None for a TableError; whatever else is raised fails the test."""
    try:
        table, end = decode_table(data, 0, depth_max)
    except TableError:
        with pytest.raises(TableError):
            check_table(data, 0, depth_max)
        return None
    assert check_table(data, 0, depth_max) == end
    return table


@given(tables, st.binary(max_size=5), st.binary(max_size=5))
def test_decoding_what_was_encoded_gives_the_same_table(
    table: Arguments, before: bytes, after: bytes
) -> None:
    encoded = encode_table(table)
    data = before + encoded + after
    assert decode_table(data, len(before), DEPTH_MAX) == (table, len(before) + len(encoded))
    assert check_table(data, len(before), DEPTH_MAX) == len(before) + len(encoded)
    assert decode_bare_table(encoded[4:], DEPTH_MAX) == table
    # Equal values of other types compare equal in Python, so the octets are compared as well.
    assert encode_table(decode_table(encoded, 0, DEPTH_MAX)[0]) == encoded


@given(tables)
def test_every_truncation_is_refused(table: Arguments) -> None:
    encoded = encode_table(table)
    for length in range(len(encoded)):
        assert decode_or_refuse(encoded[:length]) is None


@given(tables, st.data())
def test_a_mutation_decodes_or_is_refused(table: Arguments, data: st.DataObject) -> None:
    mutated = bytearray(encode_table(table))
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    decode_or_refuse(bytes(mutated))


@given(st.binary(max_size=80))
def test_any_bytes_decode_or_are_refused(content: bytes) -> None:
    decode_or_refuse(content)
    decode_or_refuse(with_length(content))


@pytest.mark.parametrize("octet", [b"F", b"A"])
def test_nesting_ends_at_the_limit(octet: bytes) -> None:
    assert decode_or_refuse(nested(3, octet), depth_max=3) is not None
    assert decode_or_refuse(nested(4, octet), depth_max=3) is None
    assert decode_or_refuse(nested(0, octet), depth_max=0) == {}


@pytest.mark.parametrize("octet", [b"F", b"A"])
def test_nesting_that_would_exhaust_the_stack_is_refused(octet: bytes) -> None:
    assert decode_or_refuse(nested(sys.getrecursionlimit() * 2, octet)) is None


@pytest.mark.parametrize(
    "content",
    [b"\xffa", b"\x01", b"\x01a", b"\x01aU\0\0", b"\x01aY\0", b"\x01aS\0\0\0\x05abcd", b"\x01aI\0"],
)
def test_malformed_contents(content: bytes) -> None:
    assert decode_or_refuse(with_length(content)) is None


def test_a_value_does_not_reach_beyond_the_table_around_it() -> None:
    inner = b"\x01bS" + struct.pack(">I", 8) + b"12"
    assert decode_or_refuse(with_length(b"\x01aF" + with_length(inner) + b"\x01cS\0\0\0\0")) is None
    number = b"\x01aF" + with_length(b"\x01bI\0") + b"\x01cI\0\0\0\0"
    assert decode_or_refuse(with_length(number)) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_refused(value: float) -> None:
    assert decode_or_refuse(with_length(b"\x01ad" + struct.pack(">d", value))) is None
    assert decode_or_refuse(with_length(b"\x01af" + struct.pack(">f", value))) is None


def test_any_nonzero_octet_is_true_and_both_longs_are_signed() -> None:
    content = b"\x01at\x02" + b"\x01bl" + b"\xff" * 8 + b"\x01cL" + b"\xff" * 8
    assert decode_or_refuse(with_length(content)) == {
        "a": ("t", True),
        "b": ("l", -1),
        "c": ("L", -1),
    }


def test_the_first_of_two_equal_names_counts() -> None:
    assert decode_or_refuse(with_length(b"\x01ab\x01\x01ab\x02")) == {"a": ("b", 1)}


def test_large_tables_take_linear_time() -> None:
    def seconds(entries: int) -> float:
        content = b"".join(b"\x06%06dA\0\0\0\x05VVVVV" % number for number in range(entries))
        data = with_length(content)
        start = time.perf_counter()
        assert len(decode_table(data, 0, 1)[0]) == entries
        check_table(data, 0, 1)
        return time.perf_counter() - start

    small = min(seconds(2_000) for _ in range(3))
    # Sixteen times the size: quadratic time would take 256 times as long.
    assert min(seconds(32_000) for _ in range(3)) < small * 100


def test_names_are_limited_to_255_octets() -> None:
    assert decode_or_refuse(encode_table({"ä" * 127: ("V", None)})) is not None
    with pytest.raises(ValueError, match="256 octets"):
        encode_table({"ä" * 128: ("V", None)})


@pytest.mark.parametrize(
    "field",
    [
        ("b", 128),
        ("B", -1),
        ("I", "5"),
        ("f", 1e300),
        ("S", 5),
        ("x", "text"),
        ("x", 5),
        ("U", 5),
        ("é", 5),
        ("F", [("I", 5)]),
        ("A", [5]),
        ("D", (1, -1)),
        5,
    ],
)
def test_what_a_type_cannot_carry_is_a_value_error(field: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the words come from struct and differ
        encode_table({"a": field})


# -- agreement with pamqp

pamqp_leaves = st.one_of(
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.text(max_size=12),
    st.none(),
    st.binary(max_size=12).map(bytearray),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.datetimes(datetime(1970, 1, 1), datetime(2105, 1, 1)).map(
        lambda when: when.replace(microsecond=0, tzinfo=UTC)
    ),
    # Beyond 31 bits pamqp reads the number as negative.
    st.tuples(st.integers(0, 9), integers(31, False)).map(
        lambda parts: Decimal(parts[1]).scaleb(-parts[0])
    ),
)
pamqp_values = st.recursive(
    pamqp_leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=10,
)


def as_pamqp(value: Any) -> Any:
    """A field as pamqp would have decoded it."""
    octet, inner = value
    if octet == "F":
        return {name: as_pamqp(item) for name, item in inner.items()}
    if octet == "A":
        return [as_pamqp(item) for item in inner]
    if octet == "T":
        return datetime.fromtimestamp(inner, tz=UTC)
    if octet == "D":
        return Decimal(inner[1]).scaleb(-inner[0])
    return bytearray(inner) if octet == "x" else inner


@given(st.dictionaries(st.text(max_size=8), pamqp_values, max_size=5))
def test_pamqps_tables_decode_to_what_pamqp_decodes(values: dict[str, Any]) -> None:
    encoded = encode.field_table(values)
    table, end = decode_table(encoded, 0, DEPTH_MAX)
    assert as_pamqp(("F", table)) == decode.field_table(encoded)[1]
    assert end == len(encoded)
    assert encode_table(table) == encoded


# -- plain and typed values


def test_plain_values() -> None:
    table: Arguments = {
        "text": ("S", "a"),
        "odd": ("S", "a\udcff"),
        "list": ("A", [("I", 1), ("F", {"b": ("t", True)})]),
        "bytes": ("x", b"\0"),
        "decimal": ("D", (2, 150)),
        "void": ("V", None),
    }
    assert plain(table) == {
        "text": "a",
        "odd": "a\N{REPLACEMENT CHARACTER}",
        "list": [1, {"b": True}],
        "bytes": b"\0",
        "decimal": Decimal("1.5"),
        "void": None,
    }


def test_typed_values_are_those_that_rabbitmq_makes_of_json() -> None:
    values = {"i": 1, "b": True, "f": 1.5, "s": "x", "n": None, "a": [1, "y"], "t": {"k": 2}}
    table = typed(values, 8)
    assert table == {
        "i": ("l", 1),
        "b": ("t", True),
        "f": ("d", 1.5),
        "s": ("S", "x"),
        "n": ("V", None),
        "a": ("A", [("l", 1), ("S", "y")]),
        "t": ("F", {"k": ("l", 2)}),
    }
    assert plain(table) == values
    with pytest.raises(ValueError, match="object"):
        typed({"o": object()}, 8)


# -- RabbitMQ's texts


def test_type_names() -> None:
    assert [type_name(octet) for octet in "SIlLtsubBifdDTFAVx"] == [
        "longstr",
        "signedint",
        "long",
        "long",
        "bool",
        "short",
        "unsignedshort",
        "byte",
        "unsignedbyte",
        "unsignedint",
        "float",
        "double",
        "decimal",
        "timestamp",
        "table",
        "array",
        "void",
        "binary",
    ]


def test_described_values() -> None:
    assert described(None) == "none"
    assert described(("I", 5)) == "the value '5' of type 'signedint'"
    assert described(("l", 1 << 40)) == "the value '1099511627776' of type 'long'"
    assert described(("S", "quorum")) == "the value 'quorum' of type 'longstr'"
    assert text("x", b"raw") == "raw"


@pytest.mark.parametrize(
    ("octet", "value", "term"),
    [
        ("S", "zz", '<<"zz">>'),
        ("S", "", "<<>>"),
        ("S", 'a"b\\c\n', '<<"a\\"b\\\\c\\n">>'),
        ("S", "ä", '<<"ä"/utf8>>'),
        ("S", "a\udcff", "<<97,255>>"),
        ("x", b"\0\x7f", "<<0,127>>"),
        ("I", -1, "-1"),
        ("t", True, "true"),
        ("t", False, "false"),
        ("V", None, "undefined"),
        ("D", (2, 150), "{2,150}"),
        ("d", 0.0, "0.0"),
        ("d", -2.5, "-2.5"),
        ("d", 100.0, "100.0"),
        ("d", 1000.0, "1.0e3"),
        ("d", 0.001, "0.001"),
        ("d", 1e-5, "1.0e-5"),
        ("d", 1e22, "1.0e22"),
        ("d", 123456.789, "123456.789"),
        ("A", [("S", "a"), ("I", 1)], '[{longstr,<<"a">>},{signedint,1}]'),
        ("F", {"k": ("t", True)}, '[{<<"k">>,bool,true}]'),
    ],
)
def test_erlang_terms(octet: str, value: Any, term: str) -> None:
    assert erlang(octet, value) == term


def test_erlang_binaries() -> None:
    assert erlang_binary(b"abc") == '<<"abc">>'
    assert erlang_binary(b"\0\x14\0\n\0") == "<<0,20,0,10,0>>"
    assert erlang_octets(b"abc") == "<<97,98,99>>"
    assert erlang_octets(b"") == "<<>>"


@given(fields)
def test_any_value_can_be_shown(field: Field) -> None:
    for shown in (erlang(*field), text(*field), described(field)):
        shown.encode()
