"""Methods: agreement with pamqp where pamqp can, RabbitMQ's rules where it cannot."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import frame as pamqp_frame
from pamqp.commands import INDEX_MAPPING

from amqpd.commands import (
    Access,
    Arguments,
    Basic,
    Channel,
    Connection,
    Exchange,
    Frame,
    Queue,
    Tx,
)
from amqpd.errors import ConnectionException
from amqpd.protocol.methods import (
    decode_method,
    encode_method,
    method_frame,
    method_ids,
    method_name,
)
from amqpd.wire.tables import decode_table, encode_table

DEPTH_MAX = 64
ALL_METHODS: list[type[Frame]] = [*INDEX_MAPPING.values(), Access.Request, Access.RequestOk]
RESERVED = {"out_of_band", "channel_id", "known_hosts", "cluster_id"}
SECRETS = {"response", "challenge", "new_secret"}

short_texts = st.text(max_size=40)
pamqp_tables = st.dictionaries(
    st.text(max_size=8),
    st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.text(max_size=8) | st.none(),
    max_size=4,
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bit": st.booleans(),
    "octet": st.integers(0, 0xFF),
    "short": st.integers(0, 0xFFFF),
    "long": st.integers(0, 0xFFFFFFFF),
    # pamqp takes delivery tags for signed.
    "longlong": st.integers(0, (1 << 63) - 1),
    "shortstr": short_texts,
    "longstr": st.text(max_size=40),
    "table": pamqp_tables,
}


class Unchecked:
    """Lets pamqp encode names that its constructors and `validate` refuse."""

    @staticmethod
    def payload(method: Frame) -> bytes:
        checked = type(method)
        bare = type(checked.__name__, (checked,), {"validate": lambda self: None})
        method.__class__ = bare
        try:
            frame = pamqp_frame.marshal(method, 1)
        finally:
            method.__class__ = checked
        return frame[7:-1]


def make(method_class: type[Frame], values: dict[str, Any]) -> Frame:
    method = method_class.__new__(method_class)
    for name, value in values.items():
        setattr(method, name, value)
    return method


@st.composite
def methods(draw: st.DrawFn) -> Frame:
    method_class = draw(st.sampled_from(ALL_METHODS))
    values = {
        name: "" if name in RESERVED else draw(VALUES[method_class.amqp_type(name)])
        for name in method_class.attributes()
    }
    return make(method_class, values)


def payload_of(method: Frame) -> bytes:
    return Unchecked.payload(method)


def decode_or_refuse(payload: bytes) -> tuple[Frame, Arguments] | None:
    try:
        return decode_method(payload, DEPTH_MAX)
    except ConnectionException as error:
        refusal = error
    assert refusal.reply_text.encode()
    return None


@settings(max_examples=400)
@given(methods())
def test_both_directions_agree_with_pamqp(method: Frame) -> None:
    payload = payload_of(method)
    decoded, arguments = decode_method(payload, DEPTH_MAX)
    assert type(decoded) is type(method)
    for name in method.attributes():
        expected = method[name]
        if name in SECRETS:
            expected = str(expected).encode()
        assert decoded[name] == expected, name
    assert encode_method(decoded, arguments) == payload
    assert method_frame(7, decoded, arguments) == (
        struct.pack(">BHI", 1, 7, len(payload)) + payload + b"\xce"
    )


@given(methods(), st.data())
def test_truncations_and_additions_are_refused(method: Frame, data: st.DataObject) -> None:
    payload = payload_of(method)
    cut = data.draw(st.integers(0, len(payload) - 1))
    assert decode_or_refuse(payload[:cut]) is None
    assert decode_or_refuse(payload + data.draw(st.binary(min_size=1, max_size=3))) is None


@given(methods(), st.data())
def test_mutations_decode_or_are_refused(method: Frame, data: st.DataObject) -> None:
    mutated = bytearray(payload_of(method))
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    decode_or_refuse(bytes(mutated))


@given(st.sampled_from(ALL_METHODS), st.binary(max_size=60))
def test_any_bytes_decode_or_are_refused(method_class: type[Frame], content: bytes) -> None:
    decode_or_refuse(struct.pack(">I", method_class.index) + content)
    decode_or_refuse(content)


def test_every_method_has_its_ids_and_rabbitmqs_name() -> None:
    assert method_ids(Queue.Declare) == (50, 10)
    assert method_ids(Exchange.UnbindOk()) == (40, 51)
    assert method_ids(Access.Request) == (30, 10)
    assert method_ids(Access.RequestOk) == (30, 11)
    assert method_ids(Connection.UpdateSecretOk) == (10, 71)
    assert method_name(Tx.Commit()) == "tx.commit"
    assert method_name(Queue.Declare) == "queue.declare"
    assert method_name(Basic.RecoverAsync) == "basic.recover_async"
    for method_class in ALL_METHODS:
        assert method_name(method_class).startswith(method_class.name.split(".")[0].lower())


# -- what pamqp would lose or refuse


def test_the_table_keeps_its_types_beside_the_method() -> None:
    typed: Arguments = {"x-max-length": ("i", 5), "x-queue-type": ("S", "quorum")}
    payload = encode_method(Queue.Declare(queue="orders", durable=True), typed)
    decoded, arguments = decode_method(payload, DEPTH_MAX)
    assert isinstance(decoded, Queue.Declare)
    assert (decoded.queue, decoded.durable, decoded.passive) == ("orders", True, False)
    assert decoded.arguments == {"x-max-length": 5, "x-queue-type": "quorum"}
    assert arguments == typed
    assert encode_method(decoded, arguments) == payload


@pytest.mark.parametrize("name", ["a b/ü\r\n", "x" * 255, "{}'\""])
def test_names_that_pamqp_refuses(name: str) -> None:
    payload = encode_method(make(Queue.Declare, {"queue": name}))
    assert decode_method(payload, DEPTH_MAX)[0]["queue"] == name


def test_octets_of_a_published_routing_key_need_not_be_utf8() -> None:
    payload = b"\x00\x3c\x00\x28\0\0" + b"\x02ex" + b"\x02\xff\xfe" + b"\x01"
    publish, _ = decode_method(payload, DEPTH_MAX)
    assert isinstance(publish, Basic.Publish)
    assert publish.routing_key.encode("utf-8", "surrogateescape") == b"\xff\xfe"
    assert (publish.mandatory, publish.immediate) == (True, False)
    assert encode_method(publish) == payload


def test_other_short_strings_have_to_be_utf8() -> None:
    with pytest.raises(ConnectionException) as refusal:
        decode_method(b"\x00\x32\x00\x1e\0\0" + b"\x01\xff" + b"\0", DEPTH_MAX)
    error = refusal.value
    assert error.reply_text == "FRAME_ERROR - Malformed UTF-8 in shortstr"
    assert (error.code, error.class_id, error.method_id) == (501, 0, 0)


def test_bits_beyond_those_defined_are_ignored() -> None:
    flow, _ = decode_method(b"\x00\x14\x00\x14\xfe", DEPTH_MAX)
    assert isinstance(flow, Channel.Flow)
    assert flow.active is False


def test_delivery_tags_are_unsigned() -> None:
    payload = b"\x00\x3c\x00\x50" + b"\xff" * 8 + b"\x01"
    ack, _ = decode_method(payload, DEPTH_MAX)
    assert isinstance(ack, Basic.Ack)
    assert ack.delivery_tag == (1 << 64) - 1
    assert encode_method(ack) == payload


def test_secrets_stay_bytes() -> None:
    response = b"\0guest\0\xff"
    payload = encode_method(
        make(Connection.StartOk, {"mechanism": "PLAIN", "response": response}), {"p": ("S", "x")}
    )
    start_ok, properties = decode_method(payload, DEPTH_MAX)
    assert start_ok["response"] == response
    assert properties == {"p": ("S", "x")}
    update = encode_method(make(Connection.UpdateSecret, {"new_secret": b"t", "reason": "r"}))
    assert decode_method(update, DEPTH_MAX)[0]["new_secret"] == b"t"


# -- refusals


def test_arguments_that_do_not_fit_the_method() -> None:
    with pytest.raises(ConnectionException) as refusal:
        decode_method(b"\x00\x32\x00\x0a\0\0", DEPTH_MAX)
    error = refusal.value
    assert error.reply_text == "FRAME_ERROR - cannot decode <<0,0>>"
    assert (error.code, error.class_id, error.method_id) == (501, 50, 10)


def test_a_malformed_table() -> None:
    table = b"\0\0\0\x04\x01aU\0"
    with pytest.raises(ConnectionException, match="cannot decode <<0,0,1,113,0,") as refusal:
        decode_method(b"\x00\x32\x00\x0a\0\0" + b"\x01q\0" + table, DEPTH_MAX)
    assert (refusal.value.class_id, refusal.value.method_id) == (50, 10)


def test_a_table_nested_too_deeply() -> None:
    payload = encode_method(
        Queue.Declare(), {"a": ("F", {"b": ("A", [("F", {"c": ("V", None)})])})}
    )
    assert decode_method(payload, 3)
    with pytest.raises(ConnectionException, match="cannot decode"):
        decode_method(payload, 2)


def test_long_arguments_are_cut_as_rabbitmq_cuts_them() -> None:
    octets = bytes([7]) * 100_000
    with pytest.raises(ConnectionException) as refusal:
        decode_method(b"\x00\x32\x00\x0a" + octets, DEPTH_MAX)
    whole = f"FRAME_ERROR - cannot decode <<{','.join('7' for _ in octets)}>>"
    assert refusal.value.reply_text == whole[:252] + "..."
    assert len(refusal.value.explanation) < 1000


@pytest.mark.parametrize("ids", [(50, 12), (99, 10), (0, 0)])
def test_unknown_methods(ids: tuple[int, int]) -> None:
    with pytest.raises(ConnectionException) as refusal:
        decode_method(struct.pack(">HH", *ids) + b"abc", DEPTH_MAX)
    error = refusal.value
    assert error.reply_text == f"COMMAND_INVALID - unknown method {ids[1]} of class {ids[0]}"
    assert (error.class_id, error.method_id) == ids


def test_a_payload_without_ids() -> None:
    with pytest.raises(ConnectionException) as refusal:
        decode_method(b"\0\x14\0", DEPTH_MAX)
    assert refusal.value.reply_text == (
        "FRAME_ERROR - type 1, all octets = <<0,20,0>>: unknown_frame"
    )


# -- what the server sends


def test_reserved_arguments_are_sent_empty() -> None:
    assert encode_method(Channel.OpenOk()) == b"\0\x14\0\x0b" + b"\0\0\0\0"
    assert encode_method(Channel.Open()) == b"\0\x14\0\x0a" + b"\0"
    assert encode_method(Connection.OpenOk()) == b"\0\x0a\0\x29" + b"\0"
    assert encode_method(Basic.GetEmpty()) == b"\0\x3c\0\x48" + b"\0"


def test_what_a_client_puts_into_reserved_arguments_is_read() -> None:
    assert decode_method(b"\0\x14\0\x0a" + b"\x010", DEPTH_MAX)[0]["out_of_band"] == "0"


def test_none_and_missing_attributes_are_zero_or_empty() -> None:
    assert encode_method(make(Queue.Declare, {"queue": None})) == (
        b"\0\x32\0\x0a" + b"\0\0" + b"\0" + b"\0" + b"\0\0\0\0"
    )
    assert encode_method(make(Basic.Ack, {})) == b"\0\x3c\0\x50" + b"\0" * 9


def test_connection_start_carries_typed_server_properties() -> None:
    properties: Arguments = {
        "capabilities": ("F", {"basic.nack": ("t", True)}),
        "product": ("S", "RabbitMQ"),
    }
    given_apart = encode_method(Connection.Start(mechanisms="PLAIN AMQPLAIN"), properties)
    on_the_method = make(
        Connection.Start,
        {
            "version_minor": 9,
            "server_properties": properties,
            "mechanisms": "PLAIN AMQPLAIN",
            "locales": "en_US",
        },
    )
    assert encode_method(on_the_method) == given_apart
    assert decode_table(given_apart, 6, DEPTH_MAX)[0] == properties
    assert given_apart[6:].startswith(encode_table(properties))


def test_access_request_is_granted() -> None:
    request, _ = decode_method(b"\0\x1e\0\x0a" + b"\x05/data" + b"\x1f", DEPTH_MAX)
    assert isinstance(request, Access.Request)
    assert request["realm"] == "/data"
    assert all(request[name] for name in ("exclusive", "passive", "active", "write", "read"))
    assert encode_method(make(Access.RequestOk, {"ticket": 1})) == b"\0\x1e\0\x0b\0\x01"


@pytest.mark.parametrize(
    "method",
    [
        make(Channel.Close, {"reply_text": "x" * 256}),
        make(Channel.Close, {"reply_code": 65536}),
        make(Channel.Close, {"reply_code": "200"}),
        make(Channel.Close, {"reply_text": 5}),
        make(Basic.Ack, {"delivery_tag": -1}),
        make(Queue.Declare, {"arguments": {"untyped": 5}}),
        make(Queue.Declare, {"arguments": {"untyped": "text"}}),
        make(Queue.Declare, {"arguments": [1]}),
    ],
)
def test_what_the_wire_cannot_carry_is_a_value_error(method: Frame) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the words come from struct and differ
        encode_method(method)
