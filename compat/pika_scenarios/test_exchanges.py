"""Routing: the four types, exchanges bound to exchanges, alternates, life times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pika
import pika.exceptions
import pytest

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel

    from compat.pika_scenarios.conftest import Scene


def routed(scene: Scene, channel: BlockingChannel, queue: str) -> bool:
    """Whether the message just published is in the queue; empties it."""
    return bool(scene.bodies(channel, queue))


def exists(scene: Scene, exchange: str) -> bool:
    channel = scene.connections[0].channel()
    try:
        channel.exchange_declare(exchange, passive=True)
    except pika.exceptions.ChannelClosedByBroker:
        return False
    channel.close()
    return True


def test_direct(scene: Scene, channel: BlockingChannel) -> None:
    exchange = scene.exchange(channel, "direct")
    queue, other = scene.queue(channel), scene.queue(channel)
    channel.queue_bind(queue, exchange, "a")
    channel.queue_bind(queue, exchange, "b")
    channel.queue_bind(other, exchange, "b")
    for key in ("a", "b", "c", ""):
        channel.basic_publish(exchange, key, key.encode())
    assert scene.bodies(channel, queue) == [b"a", b"b"]
    assert scene.bodies(channel, other) == [b"b"]


def test_a_message_reaches_a_queue_once(scene: Scene, channel: BlockingChannel) -> None:
    exchange = scene.exchange(channel, "topic")
    queue = scene.queue(channel)
    for pattern in ("#", "a.*", "a.b"):
        channel.queue_bind(queue, exchange, pattern)
    channel.basic_publish(exchange, "a.b", b"once")
    assert scene.bodies(channel, queue) == [b"once"]


def test_fanout_ignores_keys(scene: Scene, channel: BlockingChannel) -> None:
    exchange = scene.exchange(channel, "fanout")
    queues = [scene.queue(channel) for _ in range(3)]
    for queue in queues:
        channel.queue_bind(queue, exchange, "ignored")
    channel.basic_publish(exchange, "other", b"all")
    assert [scene.bodies(channel, queue) for queue in queues] == [[b"all"]] * 3


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("a.*", ("a.b", "a."), ("a", "a.b.c", "b.a", "")),
        ("a.#", ("a", "a.b", "a.b.c", "a."), ("b", "ab", "")),
        ("#", ("", "a", "a.b.c", "."), ()),
        ("*", ("a",), ("", "a.b")),
        ("*.*", ("a.b", "a.", ".b", "."), ("a", "a.b.c", "")),
        ("#.z", ("z", "a.z", "a.b.z"), ("z.a", "az")),
        ("a.#.z", ("a.z", "a.b.z", "a.b.c.z"), ("a", "z", "a.z.b")),
        ("a.*.#", ("a.b", "a.b.c", "a."), ("a", "b.a")),
        ("a.*.c.#.z", ("a.b.c.z", "a.b.c.d.z"), ("a.c.z", "a.b.c")),
        ("a*", ("a*",), ("ab", "a")),
        ("", ("",), ("a", ".")),
        ("a..b", ("a..b",), ("a.b", "a.c.b")),
        ("stock.usd.nyse", ("stock.usd.nyse",), ("stock.usd", "stock.usd.nyse.x")),
    ],
)
def test_topic(
    scene: Scene,
    channel: BlockingChannel,
    pattern: str,
    matching: tuple[str, ...],
    others: tuple[str, ...],
) -> None:
    exchange = scene.exchange(channel, "topic")
    queue = scene.queue(channel)
    channel.queue_bind(queue, exchange, pattern)
    for key in matching + others:
        channel.basic_publish(exchange, key, key.encode())
    assert scene.bodies(channel, queue) == [key.encode() for key in matching]


TWO = {"format": "pdf", "pages": 5}


@pytest.mark.parametrize(
    ("arguments", "headers", "expected"),
    [
        ({"x-match": "all", **TWO}, TWO, True),
        ({"x-match": "all", **TWO}, {**TWO, "more": 1}, True),
        ({"x-match": "all", **TWO}, {"format": "pdf"}, False),
        (TWO, TWO, True),
        (TWO, {"format": "pdf"}, False),
        ({"x-match": "any", **TWO}, {"format": "pdf"}, True),
        ({"x-match": "any", **TWO}, {"format": "doc", "pages": 5}, True),
        ({"x-match": "any", **TWO}, {"format": "doc"}, False),
        ({"x-match": "any", **TWO}, None, False),
        ({"x-match": "all", "pages": "5"}, {"pages": 5}, False),
        ({"x-match": "all", "format": None}, {"format": "anything"}, True),
        ({"x-match": "all", "format": None}, {}, False),
        ({"x-match": "all"}, {}, True),
        ({"x-match": "all"}, {"a": 1}, True),
        ({"x-match": "any"}, {"a": 1}, False),
        ({"x-match": "all", "x-own": 1, "a": 1}, {"a": 1}, True),
        ({"x-match": "all-with-x", "x-own": 1, "a": 1}, {"a": 1}, False),
        ({"x-match": "any-with-x", "x-own": 1}, {"x-own": 1}, True),
        ({"x-match": "any", "x-own": 1}, {"x-own": 1}, False),
        ({"x-match": "all", "flag": True}, {"flag": True}, True),
        ({"x-match": "all", "flag": True}, {"flag": False}, False),
    ],
)
def test_headers(
    scene: Scene,
    channel: BlockingChannel,
    arguments: dict[str, Any],
    headers: dict[str, Any] | None,
    expected: bool,
) -> None:
    exchange = scene.exchange(channel, "headers")
    queue = scene.queue(channel)
    channel.queue_bind(queue, exchange, "", arguments)
    channel.basic_publish(exchange, "any key", b"x", pika.BasicProperties(headers=headers))
    assert routed(scene, channel, queue) is expected


def test_default_exchange_routes_to_the_queue_of_the_name(
    scene: Scene, channel: BlockingChannel
) -> None:
    queue, other = scene.queue(channel), scene.queue(channel)
    channel.basic_publish("", queue, b"x")
    assert (routed(scene, channel, queue), routed(scene, channel, other)) == (True, False)


def test_predeclared_exchanges(scene: Scene, channel: BlockingChannel) -> None:
    kinds = {
        "amq.direct": "direct",
        "amq.fanout": "fanout",
        "amq.topic": "topic",
        "amq.headers": "headers",
        "amq.match": "headers",
    }
    for name, kind in kinds.items():
        channel.exchange_declare(name, passive=True)
        channel.exchange_declare(name, kind, durable=True)


def test_unbind(scene: Scene, channel: BlockingChannel) -> None:
    exchange = scene.exchange(channel, "direct")
    queue = scene.queue(channel)
    channel.queue_bind(queue, exchange, "a")
    channel.queue_bind(queue, exchange, "b")
    channel.queue_unbind(queue, exchange, "a")
    channel.queue_unbind(queue, exchange, "a")
    channel.basic_publish(exchange, "a", b"a")
    channel.basic_publish(exchange, "b", b"b")
    assert scene.bodies(channel, queue) == [b"b"]


def test_bindings_are_told_apart_by_arguments(scene: Scene, channel: BlockingChannel) -> None:
    exchange = scene.exchange(channel, "headers")
    queue = scene.queue(channel)
    channel.queue_bind(queue, exchange, "", {"a": 1})
    channel.queue_bind(queue, exchange, "", {"a": 2})
    channel.queue_unbind(queue, exchange, "", {"a": 1})
    for number in (1, 2):
        properties = pika.BasicProperties(headers={"a": number})
        channel.basic_publish(exchange, "", str(number).encode(), properties)
    assert scene.bodies(channel, queue) == [b"2"]


def test_binding_twice_is_one_binding(scene: Scene, channel: BlockingChannel) -> None:
    exchange = scene.exchange(channel, "direct")
    queue = scene.queue(channel)
    for _ in range(2):
        channel.queue_bind(queue, exchange, "a")
    channel.basic_publish(exchange, "a", b"once")
    assert scene.bodies(channel, queue) == [b"once"]
    channel.queue_unbind(queue, exchange, "a")
    channel.basic_publish(exchange, "a", b"never")
    assert scene.bodies(channel, queue) == []


def test_deleting_a_queue_takes_its_bindings(scene: Scene, channel: BlockingChannel) -> None:
    exchange = scene.exchange(channel, "fanout")
    queue = scene.queue(channel)
    channel.queue_bind(queue, exchange)
    channel.queue_delete(queue)
    scene.queue(channel, queue=queue)
    channel.basic_publish(exchange, "", b"x")
    assert not routed(scene, channel, queue)


def test_exchange_to_exchange(scene: Scene, channel: BlockingChannel) -> None:
    source, middle = scene.exchange(channel, "topic"), scene.exchange(channel, "fanout")
    queue = scene.queue(channel)
    channel.exchange_bind(middle, source, "a.#")
    channel.queue_bind(queue, middle)
    channel.basic_publish(source, "a.b", b"through")
    channel.basic_publish(source, "b", b"not through")
    message = scene.get(channel, queue)
    assert message is not None
    assert (message.body, message.method.exchange) == (b"through", source)
    assert scene.get(channel, queue) is None
    channel.exchange_unbind(middle, source, "a.#")
    channel.basic_publish(source, "a.b", b"no more")
    assert scene.get(channel, queue) is None


def test_exchanges_in_a_circle(scene: Scene, channel: BlockingChannel) -> None:
    one, two = scene.exchange(channel, "fanout"), scene.exchange(channel, "fanout")
    channel.exchange_bind(one, two)
    channel.exchange_bind(two, one)
    queue = scene.queue(channel)
    channel.queue_bind(queue, one)
    channel.queue_bind(queue, two)
    channel.basic_publish(one, "", b"once")
    assert scene.bodies(channel, queue) == [b"once"]


def test_alternate_exchange(scene: Scene, channel: BlockingChannel) -> None:
    spare = scene.exchange(channel, "fanout")
    exchange = scene.exchange(channel, "direct", arguments={"alternate-exchange": spare})
    queue, rest = scene.queue(channel), scene.queue(channel)
    channel.queue_bind(queue, exchange, "known")
    channel.queue_bind(rest, spare)
    channel.confirm_delivery()
    channel.basic_publish(exchange, "known", b"1", mandatory=True)
    channel.basic_publish(exchange, "unknown", b"2", mandatory=True)
    assert scene.bodies(channel, queue) == [b"1"]
    message = scene.get(channel, rest)
    assert message is not None
    assert (message.body, message.method.exchange) == (b"2", exchange)
    channel.queue_unbind(rest, spare)
    with pytest.raises(pika.exceptions.UnroutableError):
        channel.basic_publish(exchange, "unknown", b"3", mandatory=True)


def test_alternates_in_a_circle(scene: Scene, channel: BlockingChannel) -> None:
    names = [scene.name(), scene.name()]
    scene.exchanges += names
    for mine, other in (names, names[::-1]):
        channel.exchange_declare(mine, "direct", arguments={"alternate-exchange": other})
    channel.confirm_delivery()
    with pytest.raises(pika.exceptions.UnroutableError):
        channel.basic_publish(names[0], "nowhere", b"x", mandatory=True)


def test_internal_exchange_is_reached_through_another(
    scene: Scene, channel: BlockingChannel
) -> None:
    inner = scene.exchange(channel, "fanout", internal=True)
    outer = scene.exchange(channel, "fanout")
    queue = scene.queue(channel)
    channel.exchange_bind(inner, outer)
    channel.queue_bind(queue, inner)
    channel.basic_publish(outer, "", b"x")
    assert routed(scene, channel, queue)


@pytest.mark.parametrize("how", ["unbind", "delete the queue", "never bound"])
def test_auto_delete_exchange(scene: Scene, channel: BlockingChannel, how: str) -> None:
    exchange = scene.exchange(channel, "direct", auto_delete=True)
    queue = scene.queue(channel)
    if how == "never bound":
        assert exists(scene, exchange)
        return
    channel.queue_bind(queue, exchange, "a")
    channel.queue_bind(queue, exchange, "b")
    if how == "unbind":
        channel.queue_unbind(queue, exchange, "a")
        assert exists(scene, exchange)
        channel.queue_unbind(queue, exchange, "b")
    else:
        channel.queue_delete(queue)
    assert not exists(scene, exchange)


def test_declaring_again_and_deleting_twice(scene: Scene, channel: BlockingChannel) -> None:
    exchange = scene.exchange(channel, "topic", durable=True)
    channel.exchange_declare(exchange, "topic", durable=True)
    channel.exchange_delete(exchange)
    channel.exchange_delete(exchange)
    assert not exists(scene, exchange)


@pytest.mark.parametrize("header", ["CC", "BCC"])
def test_extra_routing_keys(scene: Scene, channel: BlockingChannel, header: str) -> None:
    queue, copy = scene.queue(channel), scene.queue(channel)
    properties = pika.BasicProperties(headers={header: [copy, copy], "own": 1})
    channel.basic_publish("", queue, b"x", properties)
    for name in (queue, copy):
        message = scene.get(channel, name)
        assert message is not None
        assert message.method.routing_key == queue
        kept = {"CC": [copy, copy]} if header == "CC" else {}
        assert message.properties.headers == {**kept, "own": 1}
        assert scene.get(channel, name) is None
