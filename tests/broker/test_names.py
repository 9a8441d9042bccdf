"""Names: reserved, generated, stripped, and left out (reference 5.2)."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.conversation import Channel

GENERATED = re.compile(r"[A-Za-z0-9_-]{22}")


@pytest.mark.parametrize("name", ["amq.foo", "amq.", "amq.gen-something"])
def test_names_with_the_reserved_prefix_are_not_to_be_had(channel: Channel, name: str) -> None:
    text = f"ACCESS_REFUSED - queue name '{name}' contains reserved prefix 'amq.*'"
    with channel.refuses(403, text, (50, 10)):
        channel.queue_declare(name)
    channel.open()
    text = f"ACCESS_REFUSED - exchange name '{name}' contains reserved prefix 'amq.*'"
    with channel.refuses(403, text, (40, 10)):
        channel.exchange_declare(name)


def test_the_prefix_needs_its_dot_and_its_case(channel: Channel) -> None:
    for name in ("amq", "amqp", "AMQ.foo"):
        channel.queue_declare(name)
        channel.exchange_declare(name)


def test_an_existing_reserved_exchange_may_be_declared_as_it_is(channel: Channel) -> None:
    channel.exchange_declare("amq.direct", "direct", durable=True)
    channel.exchange_declare("amq.topic", "topic", passive=True)


def test_a_missing_reserved_exchange_is_missing(channel: Channel) -> None:
    with channel.refuses(404, "NOT_FOUND - no exchange 'amq.nope' in vhost '/'", (40, 10)):
        channel.exchange_declare("amq.nope", passive=True)


def test_a_server_named_queue_cannot_be_declared_by_name(channel: Channel) -> None:
    """The prefix is checked before the queue is looked for; passively it can."""
    name = channel.queue_declare("", exclusive=True).queue or ""
    assert channel.queue_declare(name, passive=True, exclusive=True).queue == name
    text = f"ACCESS_REFUSED - queue name '{name}' contains reserved prefix 'amq.*'"
    with channel.refuses(403, text, (50, 10)):
        channel.queue_declare(name, exclusive=True)


def test_generated_names(channel: Channel) -> None:
    names = [channel.queue_declare("", exclusive=True).queue or "" for _ in range(3)]
    assert len(set(names)) == 3
    for name in names:
        assert name.startswith("amq.gen-")
        assert GENERATED.fullmatch(name.removeprefix("amq.gen-"))
    tags = [channel.consume(name) for name in names]
    assert len(set(tags)) == 3
    for tag in tags:
        assert tag.startswith("amq.ctag-")
        assert GENERATED.fullmatch(tag.removeprefix("amq.ctag-"))


def test_line_ends_are_stripped_from_names(channel: Channel) -> None:
    assert channel.queue_declare("\r\nq\n1\r").queue == "q1"
    channel.exchange_declare("x\r\n1", "direct")
    channel.exchange_declare("x1", "direct")
    channel.queue_bind("q\n1", "x\n1", "k")
    channel.publish("x1", "k", b"1")
    channel.queue_unbind("q\r1", "x\r1", "k")
    channel.publish("x1", "k", b"2")
    channel.exchange_bind("x\n1", "amq.direct", "k")
    channel.exchange_unbind("x\n1", "amq.\ndirect", "k")
    assert channel.counts("q1") == (1, 0)
    assert channel.queue_delete("q\n1") == 1
    channel.exchange_delete("x\n1")
    with channel.refuses(404, "NOT_FOUND - no exchange 'x1' in vhost '/'", (40, 10)):
        channel.exchange_declare("x1", passive=True)


def test_names_may_be_long_and_of_any_letters(channel: Channel) -> None:
    for name in ("q" * 255, "ü" * 127, "sp ace", "'quoted'", "日本"):
        assert channel.queue_declare(name).queue == name
        channel.publish("", name, b"1")
        assert channel.queue_delete(name) == 1


NO_QUEUE = "NOT_FOUND - no previously declared queue"


@pytest.mark.parametrize(
    ("action", "ids"),
    [
        (lambda channel: channel.get(""), (60, 70)),
        (lambda channel: channel.consume(""), (60, 20)),
        (lambda channel: channel.queue_purge(""), (50, 30)),
        (lambda channel: channel.queue_delete(""), (50, 40)),
        (lambda channel: channel.queue_bind("", "amq.direct", "k"), (50, 20)),
        (lambda channel: channel.queue_unbind("", "amq.direct", "k"), (50, 50)),
        (lambda channel: channel.queue_bind("", "amq.direct", ""), (50, 20)),
    ],
    ids=["get", "consume", "purge", "delete", "bind", "unbind", "bind without key"],
)
def test_an_empty_name_without_a_declared_queue(
    channel: Channel, action: Callable[[Channel], object], ids: tuple[int, int]
) -> None:
    """Also after another channel of the connection declared one."""
    channel.client.channel().queue_declare("q")
    with channel.refuses(404, NO_QUEUE, ids):
        action(channel)


def test_an_empty_name_is_the_last_declared_queue(channel: Channel) -> None:
    channel.queue_declare("other")
    name = channel.queue_declare("").queue
    channel.queue_bind("", "amq.direct", "k")
    channel.publish("amq.direct", "k", b"1")
    got = channel.get("")
    assert got is not None
    channel.reject(got.delivery_tag)
    assert channel.queue_purge("") == 1
    channel.queue_unbind("", "amq.direct", "k")
    channel.publish("amq.direct", "k", b"2")
    channel.consume("", "t")
    assert channel.counts(name or "") == (0, 1)
    channel.cancel("t")
    channel.queue_declare("other", passive=True)
    channel.publish("", "other", b"3")
    assert channel.queue_delete("") == 1
    with channel.refuses(404, "NOT_FOUND - no queue 'other' in vhost '/'", (50, 10)):
        channel.queue_declare("other", passive=True)


def test_a_passive_declare_has_no_last_queue(channel: Channel) -> None:
    """RabbitMQ 3.10.8 looks for a queue whose name is empty."""
    channel.queue_declare("q")
    with channel.refuses(404, "NOT_FOUND - no queue '' in vhost '/'", (50, 10)):
        channel.queue_declare("", passive=True)


def test_the_last_queue_stays_meant_when_it_is_deleted(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.queue_delete("")
    with channel.refuses(404, "NOT_FOUND - no queue 'q' in vhost '/'", (60, 70)):
        channel.get("")


def test_empty_queue_and_key_in_a_binding(channel: Channel) -> None:
    """Both empty: the key too is the queue's name. A key alone, or a name alone, stays."""
    channel.queue_declare("q")
    channel.queue_bind("", "amq.direct", "")
    channel.publish("amq.direct", "q", b"1")
    channel.publish("amq.direct", "", b"2")
    assert channel.drain("q") == [b"1"]
    channel.queue_unbind("", "amq.direct", "")
    channel.queue_bind("q", "amq.direct", "")
    channel.publish("amq.direct", "q", b"3")
    channel.publish("amq.direct", "", b"4")
    assert channel.drain("q") == [b"4"]
