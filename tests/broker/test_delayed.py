"""The exchange type x-delayed-message, as rabbitmq-delayed-message-exchange has it."""

from __future__ import annotations

from typing import Any

import pytest

from amqpd.broker import waiting_room
from amqpd.commands import Arguments
from amqpd.wire.properties import read_headers
from tests.constants import replace_constant
from tests.conversation import (
    BrokerUnderTest,
    Channel,
    Confirmed,
    Got,
    Returned,
    properties,
)

DECLARE = (40, 10)


def delayed_exchange(
    channel: Channel, name: str = "later", kind: str = "direct", *, durable: bool = True, **how: Any
) -> None:
    arguments = {"x-delayed-type": kind, **how.pop("arguments", {})}
    channel.exchange_declare(name, "x-delayed-message", durable=durable, arguments=arguments, **how)


def set_up(channel: Channel, *, durable: bool = True) -> None:
    """An exchange `later` with a queue `q` bound by the key `k`."""
    delayed_exchange(channel, durable=durable)
    channel.queue_declare("q", durable=True)
    channel.queue_bind("q", "later", "k")


def wait(ms: Any, *, persistent: bool = True, **headers: Any) -> bytes:
    return properties(headers={"x-delay": ms, **headers}, delivery_mode=2 if persistent else None)


def headers_of(got: Got) -> Arguments:
    return read_headers(got.properties, 8)


def held(broker: BrokerUnderTest, name: str = "later") -> int | None:
    return broker.core.virtual_hosts["/"].exchanges[name].messages_delayed


# -- declaring


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "Invalid argument, 'x-delayed-type' must be an existing exchange type"),
        (
            {"x-delayed-type": 5},
            "Invalid argument, 'x-delayed-type' must be an existing exchange type",
        ),
        (
            {"x-delayed-type": "x-delayed-message"},
            "Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'",
        ),
        ({"x-delayed-type": "x-not-valid"}, "unknown exchange type 'x-not-valid'"),
        ({"x-delayed-type": ""}, "invalid exchange type ''"),
    ],
)
def test_a_delayed_exchange_names_the_type_that_routes(
    channel: Channel, arguments: dict[str, Any], text: str
) -> None:
    with channel.refuses(406, f"PRECONDITION_FAILED - {text}", DECLARE):
        channel.exchange_declare("later", "x-delayed-message", arguments=arguments)


@pytest.mark.parametrize(
    ("kind", "binding_keys", "taken"),
    [
        ("direct", ["my"], ["my", "my"]),
        ("fanout", ["my", ""], ["my", "no", "my"]),
        ("topic", ["a.b.c", "a.*.c", "a.#"], ["a.b.c", "a.z.c", "a.j.k"]),
    ],
)
def test_the_other_type_routes_at_once_and_later(
    broker: BrokerUnderTest, kind: str, binding_keys: list[str], taken: list[str]
) -> None:
    channel = broker.client().channel()
    delayed_exchange(channel, kind=kind)
    channel.queue_declare("q")
    for key in binding_keys:
        channel.queue_bind("q", "later", key)
    published = [*taken, "b.b.c"] if kind == "topic" else ["my", "no", "my"]
    for delay in (0, 1000):
        for key in published:
            channel.publish("later", key, key.encode(), wait(delay))
        broker.advance(delay / 1000)
        assert [body.decode() for body in channel.drain("q")] == taken


def test_bindings_are_checked_by_the_other_type(channel: Channel) -> None:
    delayed_exchange(channel, kind="headers")
    channel.queue_declare("q")
    with channel.refuses(
        406,
        'PRECONDITION_FAILED - Invalid x-match field value <<"some">>; '
        "expected all, any, all-with-x, or any-with-x",
        (50, 20),
    ):
        channel.queue_bind("q", "later", "", {"x-match": "some"})


def test_two_hashes_are_the_most_of_a_delayed_topic_too() -> None:
    channel = BrokerUnderTest(compat="4.3").client().channel()
    delayed_exchange(channel, kind="topic")
    channel.queue_declare("q", durable=True)
    with channel.refuses(
        406,
        "PRECONDITION_FAILED - Topic binding key '#.#.#' uses 3 '#' wildcards, "
        "at most 2 are allowed",
        (50, 20),
    ):
        channel.queue_bind("q", "later", "#.#.#")


def test_unbinding_and_deleting(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    set_up(channel)
    channel.queue_unbind("q", "later", "k")
    channel.publish("later", "k", b"x", wait(10))
    broker.advance(1)
    assert channel.drain("q") == []
    channel.queue_bind("q", "later", "k")
    channel.publish("later", "k", b"y", wait(10))
    channel.exchange_delete("later")
    broker.advance(1)
    assert channel.drain("q") == []
    assert broker.core.timers.next_deadline() is None


# -- how long


@pytest.mark.parametrize(
    "value",
    [
        *(("b", 100), ("B", 200), *((octet, 300) for octet in "suIilL")),
        *(("S", "300"), ("S", "+300"), ("S", "00300"), ("d", 300.9), ("f", 300.5)),
    ],
)
def test_a_delay_may_be_of_any_type_that_is_a_number(
    broker: BrokerUnderTest, value: tuple[str, Any]
) -> None:
    channel = broker.client().channel()
    set_up(channel)
    channel.publish("later", "k", b"x", wait(value))
    delay_s = int(value[1]) / 1000
    broker.advance(delay_s - 0.01)
    assert channel.counts("q")[0] == 0
    broker.advance(0.011)
    got = channel.get("q")
    assert got is not None
    assert headers_of(got)["x-delay"] == ("I", -int(value[1]))


@pytest.mark.parametrize(
    "value",
    [
        *(0, -1, 1 << 32, 1 << 62, 1e300, None, True),
        *(("S", text) for text in ("0", "-5", "", "abc", "1.5", " 5", "4294967296", "9" * 5000)),
        *(("T", 5000), ("A", []), ("x", b"500"), ("D", (0, 500))),
    ],
)
def test_what_is_no_delay_is_routed_at_once_as_it_came(channel: Channel, value: Any) -> None:
    set_up(channel)
    sent = wait(value)
    channel.publish("later", "k", b"x", sent)
    got = channel.get("q")
    assert got is not None
    assert got.properties == sent


def test_a_message_without_headers_is_routed_at_once(channel: Channel) -> None:
    set_up(channel)
    channel.publish("later", "k", b"x")
    assert channel.drain("q") == [b"x"]


def test_the_longest_delay_is_49_days(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    set_up(channel)
    channel.publish("later", "k", b"x", wait((1 << 32) - 1))
    broker.advance(((1 << 32) - 2) / 1000)
    assert channel.counts("q")[0] == 0
    broker.advance(0.002)
    got = channel.get("q")
    assert got is not None
    # What the plugin writes into 32 bits here would be positive, and wait again.
    assert headers_of(got)["x-delay"] == ("l", -4294967295)


def test_other_headers_and_properties_stay_as_they_came(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    set_up(channel)
    sent = properties(
        headers={"a": ("s", 5), "x-delay": 10, "z": ("d", 0.5)}, content_type="t", message_id="m"
    )
    channel.publish("later", "k", b"x", sent)
    broker.advance(0.01)
    got = channel.get("q")
    assert got is not None
    assert got.properties == properties(
        headers={"a": ("s", 5), "x-delay": ("I", -10), "z": ("d", 0.5)},
        content_type="t",
        message_id="m",
    )
    assert (got.exchange, got.routing_key) == ("later", "k")


def test_order_is_by_due_time_then_arrival(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    set_up(channel)
    channel.consume("q", no_ack=True)
    for body, delay in ((b"e", 500), (b"a", 100), (b"d", 300), (b"c", 200), (b"b", 100)):
        channel.publish("later", "k", body, wait(delay))
    assert held(broker) == 5
    broker.advance(0.2)
    assert channel.bodies() == [b"a", b"b", b"c"]
    broker.advance(1)
    assert channel.bodies() == [b"d", b"e"]
    assert held(broker) == 0


def test_each_is_released_at_its_own_time(broker: BrokerUnderTest) -> None:
    """A later message with a shorter delay moves the timer forward."""
    channel = broker.client().channel()
    set_up(channel)
    channel.publish("later", "k", b"long", wait(60_000))
    channel.publish("later", "k", b"short", wait(7))
    deadline = broker.core.timers.next_deadline()
    assert deadline == pytest.approx(broker.now + 0.007, abs=0.0015)
    broker.advance(0.0071)
    assert channel.drain("q") == [b"short"]


def test_many_that_are_due_at_once_let_others_have_their_turn(
    broker: BrokerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_constant(monkeypatch, waiting_room, "RELEASED_AT_ONCE", 3)
    channel = broker.client().channel()
    set_up(channel)
    for number in range(8):
        channel.publish("later", "k", b"%d" % number, wait(5))
    timers = broker.core.timers
    deadline = timers.next_deadline()
    assert deadline is not None
    counts = []
    while (due := timers.next_deadline()) is not None and due < deadline + 0.001:
        broker.core.now = broker.now = due
        timers.advance(due)
        broker.turn()
        counts.append(held(broker))
    assert counts == [5, 2, 0]
    assert channel.drain("q") == [b"%d" % number for number in range(8)]


# -- where to


def test_bindings_are_looked_up_when_the_message_comes_due(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    set_up(channel)
    channel.queue_declare("new")
    channel.publish("later", "k", b"x", wait(100))
    channel.queue_unbind("q", "later", "k")
    channel.queue_bind("new", "later", "k")
    broker.advance(0.1)
    assert channel.drain("q") == []
    assert channel.drain("new") == [b"x"]


def test_what_has_waited_does_not_wait_again(broker: BrokerUnderTest) -> None:
    """Exchange to exchange: the second one sees a negative delay."""
    channel = broker.client().channel()
    set_up(channel)
    delayed_exchange(channel, "first")
    channel.exchange_bind("later", "first", "k")
    channel.publish("first", "k", b"x", wait(100))
    assert (held(broker, "first"), held(broker)) == (1, 0)
    broker.advance(0.1)
    assert channel.drain("q") == [b"x"]


def test_a_message_waits_in_whatever_delayed_exchange_it_comes_to(broker: BrokerUnderTest) -> None:
    """A fanout to a queue and to a delayed exchange: the queue has it at once."""
    channel = broker.client().channel()
    set_up(channel)
    channel.queue_declare("now", durable=True)
    channel.exchange_declare("all", "fanout")
    channel.exchange_bind("later", "all")
    channel.queue_bind("now", "all", "")
    channel.publish("all", "k", b"x", wait(100))
    assert channel.drain("now") == [b"x"]
    assert held(broker) == 1
    broker.advance(0.1)
    assert channel.drain("q") == [b"x"]


def test_dead_letters_wait_too(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    set_up(channel)
    channel.queue_declare(
        "work",
        arguments={"x-dead-letter-exchange": "later", "x-dead-letter-routing-key": "k"},
    )
    channel.publish("", "work", b"x", wait(100))
    got = channel.get("work")
    assert got is not None
    channel.reject(got.delivery_tag, requeue=False)
    assert held(broker) == 1
    broker.advance(0.1)
    again = channel.get("q")
    assert again is not None
    assert headers_of(again)["x-delay"] == ("I", -100)
    assert headers_of(again)["x-first-death-queue"] == ("S", "work")


def test_cc_and_bcc_count_when_it_comes_due(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    set_up(channel)
    for name in ("cc", "bcc"):
        channel.queue_declare(name)
        channel.queue_bind(name, "later", name)
    channel.publish("later", "k", b"x", wait(100, CC=["cc"], BCC=["bcc"]))
    broker.advance(0.1)
    for name in ("q", "cc", "bcc"):
        got = channel.get(name)
        assert got is not None
        assert "BCC" not in headers_of(got)
    assert held(broker) == 0


def test_an_alternate_exchange_gets_what_matches_nothing_when_it_is_due(
    broker: BrokerUnderTest,
) -> None:
    channel = broker.client().channel()
    channel.exchange_declare("lost", "fanout")
    channel.queue_declare("found")
    channel.queue_bind("found", "lost", "")
    delayed_exchange(channel, arguments={"alternate-exchange": "lost"})
    channel.publish("later", "k", b"x", wait(100))
    assert channel.drain("found") == []
    broker.advance(0.1)
    assert channel.drain("found") == [b"x"]


def test_mandatory_says_no_route_at_once_and_delivers_later(broker: BrokerUnderTest) -> None:
    """The plugin's: the channel sees that nothing was routed now."""
    channel = broker.client().channel()
    set_up(channel)
    channel.confirm_select()
    channel.publish("later", "k", b"x", wait(100, persistent=False), mandatory=True)
    returned, confirmed = channel.take(Returned), channel.take(Confirmed)
    assert (returned.code, returned.text, confirmed.number) == (312, "NO_ROUTE", 1)
    broker.advance(0.1)
    channel.expect_nothing()
    assert channel.drain("q") == [b"x"]


def test_nobody_hears_that_a_due_message_has_nowhere_to_go(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    set_up(channel)
    channel.queue_unbind("q", "later", "k")
    channel.publish("later", "k", b"x", wait(100))
    broker.advance(0.1)
    channel.expect_nothing()
    assert held(broker) == 0


def test_a_queue_that_is_full_refuses_what_comes_due(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    delayed_exchange(channel)
    channel.queue_declare("q", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    channel.queue_bind("q", "later", "k")
    for body in (b"first", b"second"):
        channel.publish("later", "k", body, wait(100))
    broker.advance(0.1)
    assert channel.drain("q") == [b"first"]


def test_a_queues_own_rules_begin_when_it_has_the_message(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    set_up(channel)
    sent = properties(headers={"x-delay": 100}, expiration="50")
    channel.publish("later", "k", b"x", sent)
    broker.advance(0.14)
    assert channel.counts("q")[0] == 1
    broker.advance(0.02)
    assert channel.counts("q")[0] == 0


def test_publishing_takes_write_permission_and_no_more(broker: BrokerUnderTest) -> None:
    set_up(broker.client().channel())
    broker.add_user("writer")
    broker.permit("writer", write="later")
    writer = broker.client("writer").channel()
    writer.publish("later", "k", b"x", wait(100))
    broker.permit("writer")
    with writer.refuses(
        403,
        "ACCESS_REFUSED - write access to exchange 'later' in vhost '/' refused for user 'writer'",
        (60, 40),
    ):
        writer.publish("later", "k", b"y", wait(100))
    broker.advance(0.1)
    assert broker.client().channel().drain("q") == [b"x"]


def test_a_transaction_delays_from_its_commit(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    set_up(channel)
    channel.tx_select()
    channel.publish("later", "k", b"no", wait(100))
    channel.tx_rollback()
    channel.publish("later", "k", b"x", wait(100))
    broker.advance(1)
    assert held(broker) == 0
    channel.tx_commit()
    assert held(broker) == 1
    broker.advance(0.1)
    assert broker.client().channel().drain("q") == [b"x"]


def test_other_types_have_no_count(broker: BrokerUnderTest) -> None:
    assert held(broker, "amq.direct") is None


# -- with the types of other plug-ins behind it


def test_one_copy_by_chance_however_many_keys(broker: BrokerUnderTest) -> None:
    """x-random passes a message once, whatever CC says; so it does behind a delayed exchange."""
    channel = broker.client().channel()
    delayed_exchange(channel, kind="x-random")
    for name in ("a", "b", "c", "d"):
        channel.queue_declare(name)
        channel.queue_bind(name, "later", "")
    for number in range(20):
        channel.publish("later", "k", b"%d" % number, wait(10, CC=["x", "y", "z"]))
    broker.advance(0.1)
    assert sum(channel.counts(name)[0] for name in "abcd") == 20


def test_a_history_begins_when_messages_come_due(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    delayed_exchange(channel, kind="x-recent-history", arguments={"x-recent-history-length": 2})
    for number in range(4):
        channel.publish("later", "", b"%d" % number, wait(10 * number + 10))
    channel.queue_declare("early")
    channel.queue_bind("early", "later", "")
    broker.advance(0.1)
    assert channel.drain("early") == [b"0", b"1", b"2", b"3"]
    channel.queue_declare("late")
    channel.queue_bind("late", "later", "")
    assert channel.drain("late") == [b"2", b"3"]


def test_arguments_of_the_other_type_are_checked(channel: Channel) -> None:
    text = "Invalid argument 0, 'x-recent-history-length' must be a positive integer"
    with channel.refuses(406, f"PRECONDITION_FAILED - {text}", DECLARE):
        delayed_exchange(channel, kind="x-recent-history", arguments={"x-recent-history-length": 0})


def test_the_other_type_is_one_of_the_profile(channel: Channel) -> None:
    with channel.refuses(
        406, "PRECONDITION_FAILED - unknown exchange type 'x-local-random'", DECLARE
    ):
        delayed_exchange(channel, kind="x-local-random")
