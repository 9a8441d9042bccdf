"""Exchanges: declaring, deleting, binding (reference 5.3), and what each type routes (6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.conversation import BrokerUnderTest, Channel, Returned, properties

X = "exchange 'x' in vhost '/'"
DEFAULT = "ACCESS_REFUSED - operation not permitted on the default exchange"


# Declaring


@pytest.mark.parametrize("type", ["direct", "fanout", "topic", "headers"])
def test_declare(channel: Channel, type: str) -> None:
    for _ in range(2):
        channel.exchange_declare("x", type)
    channel.exchange_declare("x", passive=True)


def test_declare_an_unknown_type(channel: Channel) -> None:
    """406 from 3.13 on; before, it was 503 of the connection. The type is looked at first."""
    for name in ("x", "", "amq.nope"):
        with channel.refuses(406, "PRECONDITION_FAILED - unknown exchange type 'blah'", (40, 10)):
            channel.exchange_declare(name, "blah")
        channel.open()
    with channel.refuses(406, "PRECONDITION_FAILED - invalid exchange type ''", (40, 10)):
        channel.exchange_declare("x", "")


def test_declare_passively(channel: Channel) -> None:
    """Whatever type and flags come along."""
    channel.exchange_declare("x", "topic", durable=True)
    channel.exchange_declare("x", "blah", passive=True, auto_delete=True, internal=True)
    with channel.refuses(404, "NOT_FOUND - no exchange 'nope' in vhost '/'", (40, 10)):
        channel.exchange_declare("nope", passive=True)


@pytest.mark.parametrize(
    ("again", "text"),
    [
        ({"type": "fanout"}, "'type' for {x}: received 'fanout' but current is 'topic'"),
        ({"durable": True}, "'durable' for {x}: received 'true' but current is 'false'"),
        ({"auto_delete": True}, "'auto_delete' for {x}: received 'true' but current is 'false'"),
        ({"internal": True}, "'internal' for {x}: received 'true' but current is 'false'"),
        (
            {"arguments": {"alternate-exchange": "other"}},
            "'alternate-exchange' for {x}: received the value 'other' of type 'longstr' but"
            " current is none",
        ),
        # The first that differs is named.
        (
            {"type": "direct", "durable": True, "auto_delete": True, "internal": True},
            "'type' for {x}: received 'direct' but current is 'topic'",
        ),
        (
            {"durable": True, "auto_delete": True, "internal": True},
            "'durable' for {x}: received 'true' but current is 'false'",
        ),
        (
            {"auto_delete": True, "internal": True, "arguments": {"alternate-exchange": "other"}},
            "'auto_delete' for {x}: received 'true' but current is 'false'",
        ),
    ],
)
def test_declare_again_as_something_else(
    channel: Channel, again: dict[str, Any], text: str
) -> None:
    channel.exchange_declare("x", "topic")
    with channel.refuses(
        406, f"PRECONDITION_FAILED - inequivalent arg {text.format(x=X)}", (40, 10)
    ):
        channel.exchange_declare("x", **{"type": "topic", **again})


def test_declare_again_with_another_alternate(channel: Channel) -> None:
    channel.exchange_declare("x", arguments={"alternate-exchange": "one"})
    channel.exchange_declare("x", arguments={"alternate-exchange": "one", "unknown": 5})
    text = f"inequivalent arg 'alternate-exchange' for {X}: received 'two' but current is 'one'"
    with channel.refuses(406, f"PRECONDITION_FAILED - {text}", (40, 10)):
        channel.exchange_declare("x", arguments={"alternate-exchange": "two"})
    channel.open()
    text = f"inequivalent arg 'alternate-exchange' for {X}: received none but current is the"
    text += " value 'one' of type 'longstr'"
    with channel.refuses(406, f"PRECONDITION_FAILED - {text}", (40, 10)):
        channel.exchange_declare("x")


def test_declare_with_an_alternate_that_is_no_name(channel: Channel) -> None:
    text = f"PRECONDITION_FAILED - invalid type 'signedint' for arg 'alternate-exchange' in {X}"
    with channel.refuses(406, text, (40, 10)):
        channel.exchange_declare("x", arguments={"alternate-exchange": 5})


def test_other_arguments_are_not_compared(channel: Channel) -> None:
    channel.exchange_declare("x", arguments={"x-foo": 1})
    channel.exchange_declare("x", arguments={"x-foo": "2", "x-bar": True})


def test_predeclared_exchanges(channel: Channel) -> None:
    for name, type in (
        ("amq.direct", "direct"),
        ("amq.fanout", "fanout"),
        ("amq.topic", "topic"),
        ("amq.headers", "headers"),
        ("amq.match", "headers"),
    ):
        channel.exchange_declare(name, type, durable=True)
    channel.exchange_declare("amq.rabbitmq.trace", "topic", durable=True, internal=True)
    channel.exchange_declare("amq.direct", passive=True)


def test_the_default_exchange_cannot_be_touched(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.exchange_declare("x")
    with channel.refuses(403, DEFAULT, (40, 10)):
        channel.exchange_declare("")
    channel.open()
    with channel.refuses(403, DEFAULT, (40, 20)):
        channel.exchange_delete("")
    channel.open()
    with channel.refuses(403, DEFAULT, (40, 30)):
        channel.exchange_bind("", "x")
    channel.open()
    with channel.refuses(403, DEFAULT, (40, 30)):
        channel.exchange_bind("x", "")
    channel.open()
    with channel.refuses(403, DEFAULT, (40, 40)):
        channel.exchange_unbind("x", "")
    channel.open()
    with channel.refuses(403, DEFAULT, (50, 20)):
        channel.queue_bind("q", "")
    channel.open()
    with channel.refuses(403, DEFAULT, (50, 50)):
        channel.queue_unbind("q", "")


def test_the_default_exchange_cannot_be_declared_passively(channel: Channel) -> None:
    with channel.refuses(403, DEFAULT, (40, 10)):
        channel.exchange_declare("", passive=True)


# Deleting


def test_delete(channel: Channel) -> None:
    """Deleting what is not there is as good."""
    channel.exchange_declare("x")
    for _ in range(2):
        channel.exchange_delete("x")
        channel.exchange_delete("x", if_unused=True)
    with channel.refuses(404, f"NOT_FOUND - no {X}", (40, 10)):
        channel.exchange_declare("x", passive=True)


@pytest.mark.parametrize("name", ["amq.direct", "amq.rabbitmq.trace", "amq.nope"])
def test_delete_a_system_exchange(channel: Channel, name: str) -> None:
    text = f"ACCESS_REFUSED - deletion of system exchange '{name}' in vhost '/' not allowed"
    with channel.refuses(403, text, (40, 20)):
        channel.exchange_delete(name)


def test_delete_if_unused(channel: Channel) -> None:
    """Bindings from it are use, bindings to it are not."""
    channel.exchange_declare("x")
    channel.queue_declare("q")
    channel.queue_bind("q", "x", "k")
    with channel.refuses(406, f"PRECONDITION_FAILED - {X} in use", (40, 20)):
        channel.exchange_delete("x", if_unused=True)
    channel.open()
    channel.queue_unbind("q", "x", "k")
    channel.exchange_bind("x", "amq.direct", "k")
    channel.exchange_delete("x", if_unused=True)


def test_bindings_go_with_their_exchange(channel: Channel) -> None:
    channel.exchange_declare("x")
    channel.exchange_declare("y")
    channel.queue_declare("q")
    channel.queue_bind("q", "x", "k")
    channel.exchange_bind("x", "y", "k")
    channel.exchange_delete("x")
    channel.exchange_declare("x")
    channel.publish("x", "k")
    channel.publish("y", "k")
    assert channel.counts("q") == (0, 0)


# Auto-delete


def test_auto_delete_waits_for_its_first_binding(channel: Channel) -> None:
    channel.exchange_declare("x", auto_delete=True)
    channel.queue_declare("q")
    channel.exchange_bind("x", "amq.direct", "k")
    channel.exchange_unbind("x", "amq.direct", "k")
    channel.queue_unbind("q", "x", "k")
    channel.exchange_declare("x", passive=True)
    channel.queue_bind("q", "x", "1")
    channel.queue_bind("q", "x", "2")
    channel.queue_unbind("q", "x", "1")
    channel.exchange_declare("x", passive=True)
    channel.queue_unbind("q", "x", "2")
    with channel.refuses(404, f"NOT_FOUND - no {X}", (40, 10)):
        channel.exchange_declare("x", passive=True)


def test_auto_delete_when_the_queue_goes(channel: Channel) -> None:
    channel.exchange_declare("x", auto_delete=True)
    channel.queue_declare("q")
    channel.queue_bind("q", "x", "k")
    channel.queue_delete("q")
    with channel.refuses(404, f"NOT_FOUND - no {X}", (40, 10)):
        channel.exchange_declare("x", passive=True)


def test_auto_delete_goes_on_up_the_chain(channel: Channel) -> None:
    """Deleting a queue takes `x`, and that takes `y`, which fed nothing else."""
    channel.exchange_declare("x", auto_delete=True)
    channel.exchange_declare("y", auto_delete=True)
    channel.queue_declare("q")
    channel.queue_bind("q", "x", "k")
    channel.exchange_bind("x", "y", "k")
    channel.queue_delete("q")
    for name in ("x", "y"):
        with channel.refuses(404, f"NOT_FOUND - no exchange '{name}' in vhost '/'", (40, 10)):
            channel.exchange_declare(name, passive=True)
        channel.open()


def test_auto_delete_when_the_destination_exchange_goes(channel: Channel) -> None:
    channel.exchange_declare("x")
    channel.exchange_declare("y", auto_delete=True)
    channel.exchange_bind("x", "y", "k")
    channel.exchange_delete("x")
    with channel.refuses(404, "NOT_FOUND - no exchange 'y' in vhost '/'", (40, 10)):
        channel.exchange_declare("y", passive=True)


def test_auto_delete_when_an_exclusive_queue_goes_with_its_connection(
    broker: BrokerUnderTest,
) -> None:
    channel = broker.client().channel()
    owner = broker.client().channel()
    channel.exchange_declare("x", auto_delete=True)
    owner.queue_declare("q", exclusive=True)
    owner.queue_bind("q", "x", "k")
    owner.client.close()
    with channel.refuses(404, f"NOT_FOUND - no {X}", (40, 10)):
        channel.exchange_declare("x", passive=True)


# Internal


def test_publish_to_an_internal_exchange(channel: Channel) -> None:
    channel.exchange_declare("x", internal=True)
    channel.publish("x", "k")
    text = f"ACCESS_REFUSED - cannot publish to internal {X}"
    channel.expect_closed(403, text, (60, 40))


def test_an_internal_exchange_is_fed_by_others(channel: Channel) -> None:
    channel.exchange_declare("x", "fanout", internal=True)
    channel.queue_declare("q")
    channel.queue_bind("q", "x")
    channel.exchange_bind("x", "amq.direct", "k")
    channel.publish("amq.direct", "k", b"1")
    got = channel.get("q")
    assert got is not None
    assert (got.exchange, got.routing_key, got.body) == ("amq.direct", "k", b"1")


# Exchange-to-exchange bindings


def test_bind_needs_both_exchanges(channel: Channel) -> None:
    channel.exchange_declare("x")
    for destination, source in (("x", "nope"), ("nope", "x"), ("nope", "nope2")):
        missing = source if destination == "x" else destination
        if destination == "nope" and source == "nope2":
            missing = source
        text = f"NOT_FOUND - no exchange '{missing}' in vhost '/'"
        with channel.refuses(404, text, (40, 30)):
            channel.exchange_bind(destination, source, "k")
        channel.open()


def test_unbind_what_is_not_there(channel: Channel) -> None:
    channel.exchange_declare("x")
    channel.exchange_unbind("x", "amq.direct", "k")
    channel.exchange_unbind("x", "nope", "k")
    channel.exchange_unbind("nope", "x", "k")


def test_one_copy_through_a_diamond(channel: Channel) -> None:
    channel.queue_declare("q")
    for name in ("top", "left", "right", "bottom"):
        channel.exchange_declare(name, "fanout")
    for destination, source in (
        ("left", "top"),
        ("right", "top"),
        ("bottom", "left"),
        ("bottom", "right"),
    ):
        channel.exchange_bind(destination, source)
    channel.queue_bind("q", "bottom")
    channel.queue_bind("q", "left")
    channel.publish("top", "", b"1")
    assert channel.drain("q") == [b"1"]


def test_a_cycle_ends(channel: Channel) -> None:
    for name in ("x", "y"):
        channel.exchange_declare(name, "fanout")
        channel.queue_declare("q" + name)
        channel.queue_bind("q" + name, name)
    channel.exchange_bind("x", "y")
    channel.exchange_bind("y", "x")
    channel.exchange_bind("x", "x")
    channel.publish("y", "", b"1")
    assert (channel.drain("qx"), channel.drain("qy")) == ([b"1"], [b"1"])


def test_each_exchange_on_the_way_matches_by_its_own_type(channel: Channel) -> None:
    channel.exchange_declare("t", "topic")
    channel.exchange_declare("d", "direct")
    channel.queue_declare("q")
    channel.exchange_bind("d", "t", "a.#")
    channel.queue_bind("q", "d", "a.b")
    channel.publish("t", "a.b", b"1")
    channel.publish("t", "a.c", b"2")
    channel.publish("t", "b.b", b"3")
    assert channel.drain("q") == [b"1"]
    channel.exchange_unbind("d", "t", "a.#")
    channel.publish("t", "a.b", b"4")
    assert channel.drain("q") == []


# Alternate exchange


def test_alternate_exchange(channel: Channel) -> None:
    """It gets what nothing matched, under the original exchange's name, and mandatory is met."""
    channel.exchange_declare("x", arguments={"alternate-exchange": "spare"})
    channel.exchange_declare("spare", "fanout")
    channel.queue_declare("q")
    channel.queue_declare("lost")
    channel.queue_bind("q", "x", "k")
    channel.queue_bind("lost", "spare")
    channel.publish("x", "k", b"1", mandatory=True)
    channel.publish("x", "other", b"2", mandatory=True)
    assert channel.drain("q") == [b"1"]
    got = channel.get("lost")
    assert got is not None
    assert (got.exchange, got.routing_key, got.body) == ("x", "other", b"2")
    channel.expect_nothing()


def test_an_alternate_that_does_not_exist_or_match(channel: Channel) -> None:
    channel.exchange_declare("x", arguments={"alternate-exchange": "spare"})
    channel.publish("x", "k", b"1", mandatory=True)
    assert channel.take(Returned).body == b"1"
    channel.exchange_declare("spare", "direct", arguments={"alternate-exchange": "x"})
    channel.publish("x", "k", b"2", mandatory=True)
    assert channel.take(Returned).body == b"2"


def test_the_default_exchange_is_no_alternate(channel: Channel) -> None:
    """RabbitMQ 3.10.8 routes by queue name only what was published to the default exchange."""
    channel.exchange_declare("x", arguments={"alternate-exchange": ""})
    channel.queue_declare("q")
    channel.publish("x", "q", b"1", mandatory=True)
    assert channel.take(Returned).body == b"1"
    assert channel.drain("q") == []


# Types


def routed(channel: Channel, exchange: str, routing_key: str, headers: Any = None) -> bool:
    """Whether a message reaches queue `q`."""
    channel.publish(exchange, routing_key, b"?", properties(headers=headers))
    return channel.queue_purge("q") == 1


def test_default(channel: Channel) -> None:
    channel.queue_declare("q")
    assert routed(channel, "", "q")
    assert not routed(channel, "", "Q")


def test_direct(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.queue_bind("q", "amq.direct", "k")
    assert routed(channel, "amq.direct", "k")
    for other in ("K", "k.", "", "kk", "*", "#"):
        assert not routed(channel, "amq.direct", other)


def test_fanout(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.queue_bind("q", "amq.fanout", "k")
    assert routed(channel, "amq.fanout", "whatever")


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("a.b", ["a.b"], ["a", "a.b.c", "a.b.", "A.B"]),
        ("a.*", ["a.b", "a."], ["a", "a.b.c", "b.a"]),
        ("*.*", ["a.", ".", ".b"], ["", "a", "a.b.c"]),
        ("*", ["a"], ["", "a.b", "."]),
        ("#", ["", "a", "a.b", "."], []),
        ("", [""], ["a", "."]),
        ("a.#", ["a", "a.b", "a.b.c", "a."], ["", "b", "b.a"]),
        ("#.b", ["b", "a.b", "a.a.b"], ["b.a", ""]),
        ("a.#.b", ["a.b", "a.x.b", "a.x.y.b"], ["a", "b", "a.b.c"]),
        ("#.#", ["", "a", "a.b"], []),
        ("*.#", ["a", "a.b"], [""]),
        ("#.*", ["a", "a.b"], [""]),
        ("a*", ["a*"], ["ab", "a"]),
        ("a.b#", ["a.b#"], ["a.b", "a.bc"]),
        ("a..b", ["a..b"], ["a.b", "a.x.b"]),
        ("a.*.b", ["a..b", "a.x.b"], ["a.b"]),
    ],
)
def test_topic(channel: Channel, pattern: str, matching: list[str], others: list[str]) -> None:
    channel.queue_declare("q")
    channel.queue_bind("q", "amq.topic", pattern)
    assert [key for key in matching if not routed(channel, "amq.topic", key)] == []
    assert [key for key in others if routed(channel, "amq.topic", key)] == []


def test_topic_wildcards_in_keys_are_letters(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.queue_bind("q", "amq.topic", "a.b")
    assert not routed(channel, "amq.topic", "a.*")
    assert not routed(channel, "amq.topic", "#")


@pytest.mark.parametrize(
    ("criteria", "matching", "others"),
    [
        ({"a": 1, "b": "x"}, [{"a": 1, "b": "x", "c": 2}], [{"a": 1}, {}, {"a": 1, "b": "y"}]),
        ({"x-match": "all", "a": 1}, [{"a": 1}], [{"a": 2}, {"b": 1}]),
        ({"x-match": "any", "a": 1, "b": 2}, [{"a": 1}, {"b": 2, "a": 5}], [{"a": 2}, {}]),
        ({"x-match": "all", "x-a": 1, "b": 2}, [{"b": 2}], [{"x-a": 1}]),
        ({"x-match": "any", "x-a": 1, "b": 2}, [{"b": 2}], [{"x-a": 1}]),
        ({"x-match": "all-with-x", "x-a": 1, "b": 2}, [{"b": 2, "x-a": 1}], [{"b": 2}]),
        ({"x-match": "any-with-x", "x-a": 1, "b": 2}, [{"b": 2}, {"x-a": 1}], [{"b": 1}]),
        ({"x-match": "all"}, [{}, {"a": 1}, None], []),
        ({}, [{}, {"a": 1}, None], []),
        ({"x-match": "any"}, [], [{}, {"a": 1}, None]),
        ({"a": None}, [{"a": 1}, {"a": "x"}, {"a": None}], [{}, {"b": 1}]),
        ({"a": "5"}, [{"a": "5"}], [{"a": 5}]),
        ({"a": 5}, [{"a": 5}], [{"a": "5"}, {"a": 5.0}]),
        ({"a": True}, [{"a": True}], [{"a": False}, {"a": 1}]),
    ],
)
def test_headers(
    channel: Channel,
    criteria: Mapping[str, Any],
    matching: list[Mapping[str, Any] | None],
    others: list[Mapping[str, Any] | None],
) -> None:
    """5 is not 5.0 from 3.13 on; 3.10.8 compares values alone, and 5 == 5.0 in Erlang."""
    channel.queue_declare("q")
    channel.queue_bind("q", "amq.headers", "ignored", criteria)
    assert [one for one in matching if not routed(channel, "amq.headers", "k", one)] == []
    assert [one for one in others if routed(channel, "amq.headers", "k", one)] == []


def test_headers_compare_integers_by_value(channel: Channel) -> None:
    """Asked of 3.10.8 as well."""
    channel.queue_declare("q")
    channel.queue_bind("q", "amq.headers", "", {"a": ("I", 5)})
    for octet in "bBsuIil":
        assert routed(channel, "amq.headers", "", {"a": (octet, 5)})


def test_headers_with_a_bad_x_match(channel: Channel) -> None:
    channel.queue_declare("q")
    text = 'PRECONDITION_FAILED - Invalid x-match field value <<"zz">>; expected all, any,'
    text += " all-with-x, or any-with-x"
    with channel.refuses(406, text, (50, 20)):
        channel.queue_bind("q", "amq.headers", "", {"x-match": "zz"})
    channel.open()
    text = "PRECONDITION_FAILED - Invalid x-match field type signedint (value 5); expected longstr"
    with channel.refuses(406, text, (50, 20)):
        channel.queue_bind("q", "amq.headers", "", {"x-match": 5})
    channel.open()
    channel.exchange_declare("x")
    with channel.refuses(406, text, (40, 30)):
        channel.exchange_bind("x", "amq.match", "", {"x-match": 5})


def test_headers_on_the_way_are_not_remembered_for_others(channel: Channel) -> None:
    """A route that headers decided holds for its message alone, also behind another exchange."""
    channel.exchange_declare("front", "fanout")
    channel.exchange_bind("amq.headers", "front")
    channel.queue_declare("q")
    channel.queue_bind("q", "amq.headers", "", {"a": 1})
    for _ in range(2):
        assert routed(channel, "front", "k", {"a": 1})
        assert not routed(channel, "front", "k", {"a": 2})
        assert not routed(channel, "front", "k")


def test_one_copy_however_many_bindings_match(channel: Channel) -> None:
    channel.queue_declare("q")
    for key in ("a.*", "a.#", "#", "a.b"):
        channel.queue_bind("q", "amq.topic", key)
    channel.publish("amq.topic", "a.b", b"1")
    assert channel.drain("q") == [b"1"]


def test_a_binding_counts_at_once(broker: BrokerUnderTest) -> None:
    """Bound on one connection, published on another."""
    one, other = broker.client().channel(), broker.client().channel()
    one.queue_declare("q")
    other.publish("amq.direct", "k", b"0")
    one.queue_bind("q", "amq.direct", "k")
    other.publish("amq.direct", "k", b"1")
    one.queue_unbind("q", "amq.direct", "k")
    other.publish("amq.direct", "k", b"2")
    assert one.drain("q") == [b"1"]
