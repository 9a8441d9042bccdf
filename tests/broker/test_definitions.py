"""Durable definitions: what goes into the journal comes out of it, and no two share a key."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpd.broker.definitions import (
    BindingRecord,
    DamagedDefinition,
    ExchangeRecord,
    GlobalParameterRecord,
    HistoryRecord,
    ParameterRecord,
    PermissionRecord,
    QueueRecord,
    Record,
    SeenRecord,
    TopicPermissionRecord,
    UserRecord,
    VhostRecord,
    decode,
    drop,
    encode,
    key_of,
)

# Few characters, and those that a careless key would trip over, so that collisions are found.
names = st.text(alphabet='ab,"[]\\/\0é😀', max_size=4) | st.text(max_size=8)
tables = st.binary(max_size=4)
flags = st.booleans()
values = st.recursive(
    st.none()
    | flags
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | names,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2),
    max_leaves=4,
)
tags = st.lists(names, max_size=2).map(tuple)

records: st.SearchStrategy[Record] = st.one_of(
    st.builds(VhostRecord, names, names, tags, st.none() | names),
    st.builds(UserRecord, names, names, names, tags, st.dictionaries(names, st.integers(-1, 9))),
    st.builds(PermissionRecord, names, names, names, names, names),
    st.builds(TopicPermissionRecord, names, names, names, names, names),
    st.builds(ParameterRecord, names, names, names, values),
    st.builds(GlobalParameterRecord, names, values),
    st.builds(ExchangeRecord, names, names, names, flags, flags, flags, tables),
    st.builds(HistoryRecord, names, names, st.integers(1, 1 << 60), tables, tables, tables),
    st.builds(SeenRecord, names, names, names, st.integers(1, 1 << 60), st.integers(0, 1 << 60)),
    st.builds(QueueRecord, names, names, flags, tables, st.integers(0, 1 << 23)),
    st.builds(
        BindingRecord, names, names, names, st.sampled_from(["queue", "exchange"]), names, tables
    ),
)


def identity(record: Record) -> tuple[object, ...]:
    return record.KIND, *(getattr(record, name) for name in record.IDENTITY)


@given(records)
def test_round_trip(record: Record) -> None:
    assert decode(*encode(record)) == record


@given(records, records)
def test_keys_are_equal_for_the_same_identity_only(first: Record, second: Record) -> None:
    same_key = (first.KIND, key_of(first)) == (second.KIND, key_of(second))
    assert same_key == (identity(first) == identity(second))


@given(records)
def test_drop_names_what_encode_put(record: Record) -> None:
    put = encode(record)
    assert drop(record) == (put.kind, put.key)


def test_a_changed_queue_keeps_its_key() -> None:
    before = QueueRecord("/", "q", False, b"\0\0\0\0", 1)
    assert key_of(msgspec.structs.replace(before, queue_id=2)) == key_of(before)


def test_the_stored_form_stays() -> None:
    """A journal written today must open tomorrow: change this test with a migration only."""
    put = encode(BindingRecord("/", "x", "q", "queue", "k", b"\0\0\0\0"))
    assert put.kind == "binding"
    assert put.key == '["/","x","queue","q","k","AAAAAA=="]'
    assert put.value == (
        b'{"vhost":"/","source":"x","destination":"q","destination_type":"queue",'
        b'"routing_key":"k","arguments":"AAAAAA=="}'
    )


def test_fields_of_a_newer_version_are_skipped() -> None:
    value = b'{"name":"v","colour":"blue"}'
    assert decode("vhost", '["v"]', value) == VhostRecord("v")


@pytest.mark.parametrize(
    ("kind", "key", "value", "message"),
    [
        ("policy", '["p"]', b"{}", "kind 'policy', unknown to this version"),
        ("vhost", '["v"]', b"{", "cannot be read"),
        ("vhost", '["v"]', b"{}", "missing required field `name`"),
        ("vhost", '["v"]', b'{"name":"\xff"}', "cannot be read"),
        ("vhost", '["v"]', b'{"name":"w"}', r"vhost \[\"v\"\] holds that of \[\"w\"\]"),
        (
            "queue",
            '["/","q"]',
            b'{"vhost":"/","name":"q","auto_delete":false,"arguments":"?","queue_id":1}',
            "base64",
        ),
    ],
)
def test_damage_is_refused(kind: str, key: str, value: bytes, message: str) -> None:
    with pytest.raises(DamagedDefinition, match=message):
        decode(kind, key, value)
