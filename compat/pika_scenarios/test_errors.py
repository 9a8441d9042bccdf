"""What the broker refuses, with which code, in which words, and at whose cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pika
import pytest
from pika import spec

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel

    from compat.pika_scenarios.conftest import Scene

Refused = Callable[["Scene", "BlockingChannel"], object]

LOCKED = (
    "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost '{vhost}'."
    " It could be originally declared on another connection or the exclusive property value does"
    " not match that of the original declaration."
)


def consume(channel: BlockingChannel, queue: str, **options: Any) -> str:
    return str(channel.basic_consume(queue, lambda *_: None, **options))


def published(channel: BlockingChannel, exchange: str, **properties: Any) -> None:
    """Publish and wait for the answer, which is the refusal."""
    channel.confirm_delivery()
    channel.basic_publish(exchange, "key", b"x", pika.BasicProperties(**properties))


MISSING: dict[str, Refused] = {
    "no queue to declare passively": lambda s, c: c.queue_declare("{name}", passive=True),
    "no queue to get from": lambda s, c: c.basic_get("{name}"),
    "no queue to consume from": lambda s, c: consume(c, "{name}"),
    "no queue to purge": lambda s, c: c.queue_purge("{name}"),
    "no queue to bind": lambda s, c: c.queue_bind("{name}", "amq.direct", "k"),
    "no exchange to bind to": lambda s, c: c.queue_bind(s.queue(c), "{name}", "k"),
    "no exchange to declare passively": lambda s, c: c.exchange_declare("{name}", passive=True),
    "no exchange to publish to": lambda s, c: published(c, "{name}"),
    "no exchange to bind from": lambda s, c: c.exchange_bind("amq.fanout", "{name}"),
    "no exchange to bind": lambda s, c: c.exchange_bind("{name}", "amq.fanout"),
}


@pytest.mark.parametrize("case", MISSING)
def test_404(scene: Scene, channel: BlockingChannel, case: str) -> None:
    kind = "queue" if case.startswith("no queue") else "exchange"
    closure = scene.refused(lambda: MISSING[case](scene, channel))
    assert (closure.scope, closure.code) == ("channel", 404)
    assert closure.text == f"NOT_FOUND - no {kind} '{{name}}' in vhost '{scene.vhost}'"
    assert channel.connection.is_open


@pytest.mark.parametrize("method", ["basic_get", "queue_purge"])
def test_404_for_an_empty_name_before_any_queue(
    scene: Scene, channel: BlockingChannel, method: str
) -> None:
    closure = scene.refused(lambda: getattr(channel, method)(""))
    assert (closure.scope, closure.code) == ("channel", 404)
    assert closure.text == "NOT_FOUND - no previously declared queue"


REFUSED: dict[str, tuple[Refused, str]] = {
    "a reserved exchange name": (
        lambda s, c: c.exchange_declare("amq.mine", "direct"),
        "exchange name 'amq.mine' contains reserved prefix 'amq.*'",
    ),
    "a reserved queue name": (
        lambda s, c: c.queue_declare("amq.mine"),
        "queue name 'amq.mine' contains reserved prefix 'amq.*'",
    ),
    "the default exchange, declared": (
        lambda s, c: c.exchange_declare("", "direct"),
        "operation not permitted on the default exchange",
    ),
    "the default exchange, deleted": (
        lambda s, c: c.exchange_delete(""),
        "operation not permitted on the default exchange",
    ),
    "the default exchange, bound to": (
        lambda s, c: c.queue_bind(s.queue(c), "", "key"),
        "operation not permitted on the default exchange",
    ),
    "a predeclared exchange, deleted": (
        lambda s, c: c.exchange_delete("amq.topic"),
        "deletion of system exchange 'amq.topic' in vhost '{vhost}' not allowed",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_403(scene: Scene, channel: BlockingChannel, case: str) -> None:
    call, text = REFUSED[case]
    closure = scene.refused(lambda: call(scene, channel))
    assert (closure.scope, closure.code) == ("channel", 403)
    assert closure.text == "ACCESS_REFUSED - " + text.format(vhost=scene.vhost)


def test_403_for_publishing_to_an_internal_exchange(scene: Scene, channel: BlockingChannel) -> None:
    exchange = scene.exchange(channel, "fanout", internal=True)
    closure = scene.refused(lambda: published(channel, exchange))
    assert (closure.scope, closure.code) == ("channel", 403)
    where = f"exchange '{exchange}' in vhost '{scene.vhost}'"
    assert closure.text == f"ACCESS_REFUSED - cannot publish to internal {where}"


@pytest.mark.parametrize("exclusive", ["the first", "the second"])
def test_403_for_a_second_consumer(scene: Scene, channel: BlockingChannel, exclusive: str) -> None:
    queue = scene.queue(channel)
    consume(channel, queue, exclusive=exclusive == "the first")
    closure = scene.refused(lambda: consume(channel, queue, exclusive=exclusive == "the second"))
    assert (closure.scope, closure.code) == ("channel", 403)
    where = f"queue '{queue}' in vhost '{scene.vhost}'"
    assert closure.text == f"ACCESS_REFUSED - {where} in exclusive use"


LOCKING: dict[str, Callable[[BlockingChannel, str], object]] = {
    "declare": lambda c, q: c.queue_declare(q, exclusive=True),
    "declare passively": lambda c, q: c.queue_declare(q, passive=True),
    "consume": consume,
    "get": lambda c, q: c.basic_get(q),
    "purge": lambda c, q: c.queue_purge(q),
    "bind": lambda c, q: c.queue_bind(q, "amq.direct", "k"),
    "unbind": lambda c, q: c.queue_unbind(q, "amq.direct", "k"),
    "delete": lambda c, q: c.queue_delete(q),
}


@pytest.mark.parametrize("what", LOCKING)
def test_405_for_another_connections_exclusive_queue(
    scene: Scene, channel: BlockingChannel, what: str
) -> None:
    queue = scene.queue(channel, exclusive=True)
    channel.queue_bind(queue, "amq.direct", "k")
    closure = scene.refused(lambda: LOCKING[what](scene.channel(), queue))
    assert (closure.scope, closure.code) == ("channel", 405)
    text = LOCKED.format(name=queue, vhost=scene.vhost)
    assert len(text) > 255
    assert closure.text == text[:252] + "..."


def test_405_for_the_owner_that_forgets_the_flag(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel, exclusive=True)
    closure = scene.refused(lambda: channel.queue_declare(queue, exclusive=False))
    assert (closure.scope, closure.code) == ("channel", 405)
    assert closure.text.startswith("RESOURCE_LOCKED - ")


QUEUES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "durable": ({}, {"durable": True}, "'durable' {q}: received 'true' but current is 'false'"),
    "auto_delete": (
        {"auto_delete": True},
        {},
        "'auto_delete' {q}: received 'false' but current is 'true'",
    ),
    "another number": (
        {"arguments": {"x-expires": 60_000}},
        {"arguments": {"x-expires": 60_001}},
        "'x-expires' {q}: received '60001' but current is '60000'",
    ),
    "no number": (
        {"arguments": {"x-expires": 60_000}},
        {},
        "'x-expires' {q}: received none but current is the value '60000' of type 'signedint'",
    ),
    "a number, now": (
        {},
        {"arguments": {"x-expires": 60_000}},
        "'x-expires' {q}: received the value '60000' of type 'signedint' but current is none",
    ),
}


@pytest.mark.parametrize("case", QUEUES)
def test_406_for_a_queue_of_other_properties(
    scene: Scene, channel: BlockingChannel, case: str
) -> None:
    first, second, text = QUEUES[case]
    queue = scene.queue(channel, **first)
    closure = scene.refused(lambda: channel.queue_declare(queue, **second))
    assert (closure.scope, closure.code) == ("channel", 406)
    where = f"for queue '{queue}' in vhost '{scene.vhost}'"
    assert closure.text == "PRECONDITION_FAILED - inequivalent arg " + text.format(q=where)


EXCHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "type": (
        {"exchange_type": "topic"},
        "'type' {x}: received 'topic' but current is 'direct'",
    ),
    "durable": ({"durable": True}, "'durable' {x}: received 'true' but current is 'false'"),
    "auto_delete": (
        {"auto_delete": True},
        "'auto_delete' {x}: received 'true' but current is 'false'",
    ),
    "internal": ({"internal": True}, "'internal' {x}: received 'true' but current is 'false'"),
    "alternate": (
        {"arguments": {"alternate-exchange": "other"}},
        "'alternate-exchange' {x}: received the value 'other' of type 'longstr'"
        " but current is none",
    ),
}


@pytest.mark.parametrize("case", EXCHANGES)
def test_406_for_an_exchange_of_other_properties(
    scene: Scene, channel: BlockingChannel, case: str
) -> None:
    changes, text = EXCHANGES[case]
    exchange = scene.exchange(channel, "direct")
    closure = scene.refused(lambda: channel.exchange_declare(exchange, **changes))
    assert (closure.scope, closure.code) == ("channel", 406)
    where = f"for exchange '{exchange}' in vhost '{scene.vhost}'"
    assert closure.text == "PRECONDITION_FAILED - inequivalent arg " + text.format(x=where)


ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "zero expiry": ({"x-expires": 0}, "invalid arg 'x-expires' {q}: {{value_zero,0}}"),
    "negative expiry": ({"x-expires": -1}, "invalid arg 'x-expires' {q}: {{value_negative,-1}}"),
    "expiry in words": (
        {"x-expires": "soon"},
        "invalid arg 'x-expires' {q}: \"expected integer, got longstr\"",
    ),
    "negative length": (
        {"x-max-length": -1},
        "invalid arg 'x-max-length' {q}: {{value_negative,-1}}",
    ),
    "priority of 256": (
        {"x-max-priority": 256},
        "invalid arg 'x-max-priority' {q}: {{max_value_exceeded,256}}",
    ),
    "unknown overflow": (
        {"x-overflow": "explode"},
        "invalid arg 'x-overflow' {q}: invalid_overflow",
    ),
    "numeric dead letter exchange": (
        {"x-dead-letter-exchange": 5},
        "invalid type 'signedint' for arg 'x-dead-letter-exchange' in {in}",
    ),
    "key without dead letter exchange": (
        {"x-dead-letter-routing-key": "k"},
        "invalid arg 'x-dead-letter-routing-key' {q}: routing_key_but_no_dlx_defined",
    ),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_406_for_an_invalid_argument(scene: Scene, channel: BlockingChannel, case: str) -> None:
    arguments, text = ARGUMENTS[case]
    queue = scene.name()
    closure = scene.refused(lambda: channel.queue_declare(queue, arguments=arguments))
    assert (closure.scope, closure.code) == ("channel", 406)
    where = f"queue '{queue}' in vhost '{scene.vhost}'"
    expected = text.format(**{"q": "for " + where, "in": where})
    assert closure.text == "PRECONDITION_FAILED - " + expected


def test_406_for_an_invalid_headers_binding(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    closure = scene.refused(lambda: channel.queue_bind(queue, "amq.headers", "", {"x-match": "zz"}))
    assert (closure.scope, closure.code) == ("channel", 406)
    assert closure.text == (
        'PRECONDITION_FAILED - Invalid x-match field value <<"zz">>;'
        " expected all, any, all-with-x, or any-with-x"
    )


def test_406_for_what_is_in_use(scene: Scene, channel: BlockingChannel) -> None:
    queue, exchange = scene.queue(channel), scene.exchange(channel, "direct")
    channel.queue_bind(queue, exchange, "k")
    consume(channel, queue)
    where = f"in vhost '{scene.vhost}'"
    cases: list[tuple[Callable[[BlockingChannel], object], str]] = [
        (lambda c: c.exchange_delete(exchange, if_unused=True), f"exchange '{exchange}' {where}"),
        (lambda c: c.queue_delete(queue, if_unused=True), f"queue '{queue}' {where}"),
    ]
    for call, what in cases:
        closure = scene.refused(lambda call=call: call(scene.connections[0].channel()))
        assert (closure.scope, closure.code) == ("channel", 406)
        assert closure.text == f"PRECONDITION_FAILED - {what} in use"


def test_406_for_a_queue_that_is_not_empty(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    scene.fill(channel, queue, b"x")
    closure = scene.refused(lambda: channel.queue_delete(queue, if_empty=True))
    assert (closure.scope, closure.code) == ("channel", 406)
    where = f"queue '{queue}' in vhost '{scene.vhost}'"
    assert closure.text == f"PRECONDITION_FAILED - {where} not empty"


TAGS: dict[str, Callable[[BlockingChannel], object]] = {
    "ack": lambda c: c.basic_ack(99),
    "nack": lambda c: c.basic_nack(99),
    "reject": lambda c: c.basic_reject(99),
    "ack of many": lambda c: c.basic_ack(99, multiple=True),
}


@pytest.mark.parametrize("case", TAGS)
def test_406_for_an_unknown_delivery(scene: Scene, channel: BlockingChannel, case: str) -> None:
    TAGS[case](channel)
    closure = scene.refused(lambda: channel.basic_qos(prefetch_count=1))
    assert (closure.scope, closure.code) == ("channel", 406)
    assert closure.text == "PRECONDITION_FAILED - unknown delivery tag 99"


def test_406_for_acknowledging_twice(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    scene.fill(channel, queue, b"x")
    scene.get(channel, queue, auto_ack=False)
    channel.basic_ack(1)
    channel.basic_ack(1)
    closure = scene.refused(lambda: channel.basic_qos(prefetch_count=1))
    assert closure.text == "PRECONDITION_FAILED - unknown delivery tag 1"


@pytest.mark.parametrize(
    ("expiration", "reason"),
    [("abc", "no_integer"), ("12x", '{leftover_string,"x"}'), ("-1", "{value_negative,-1}")],
)
def test_406_for_an_invalid_expiration(
    scene: Scene, channel: BlockingChannel, expiration: str, reason: str
) -> None:
    closure = scene.refused(lambda: published(channel, "amq.direct", expiration=expiration))
    assert (closure.scope, closure.code) == ("channel", 406)
    assert closure.text == f"PRECONDITION_FAILED - invalid expiration '{expiration}': {reason}"


def test_406_for_another_users_name(scene: Scene, channel: BlockingChannel) -> None:
    user = channel.connection._impl.params.credentials.username
    closure = scene.refused(lambda: published(channel, "amq.direct", user_id="somebody"))
    assert (closure.scope, closure.code) == ("channel", 406)
    assert closure.text == (
        "PRECONDITION_FAILED - user_id property set to 'somebody'"
        f" but authenticated user was '{user}'"
    )


def test_406_for_carbon_copies_that_are_no_list(scene: Scene, channel: BlockingChannel) -> None:
    closure = scene.refused(lambda: published(channel, "amq.direct", headers={"CC": "one"}))
    assert (closure.scope, closure.code) == ("channel", 406)
    assert closure.text == (
        'PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,"CC",longstr}'
    )


def test_unknown_exchange_type(scene: Scene, channel: BlockingChannel) -> None:
    """It cost the whole connection up to 3.12."""
    closure = scene.refused(lambda: channel.exchange_declare(scene.name(), "blah"))
    if scene.version() >= (3, 13):
        assert (closure.scope, closure.code) == ("channel", 406)
        assert closure.text == "PRECONDITION_FAILED - unknown exchange type 'blah'"
    else:
        assert (closure.scope, closure.code) == ("connection", 503)
        assert closure.text == "COMMAND_INVALID - unknown exchange type 'blah'"


def test_530_for_a_consumer_tag_twice(scene: Scene, channel: BlockingChannel) -> None:
    """Past the client, which would not send it."""
    queue = scene.queue(channel)
    for _ in range(2):
        channel._impl._send_method(spec.Basic.Consume(queue=queue, consumer_tag="t"))
    closure = scene.refused(lambda: channel.basic_qos(prefetch_count=1))
    assert (closure.scope, closure.code) == ("connection", 530)
    assert closure.text == "NOT_ALLOWED - attempt to reuse consumer tag 't'"


UNSUPPORTED: dict[str, tuple[Any, str]] = {
    "prefetch size": (spec.Basic.Qos(prefetch_size=10), "prefetch_size!=0 (10)"),
    "recover to the same consumer": (spec.Basic.Recover(requeue=False), "requeue=false"),
    "flow": (spec.Channel.Flow(active=False), "active=false"),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_540(scene: Scene, channel: BlockingChannel, case: str) -> None:
    method, text = UNSUPPORTED[case]
    channel._impl._send_method(method)
    closure = scene.refused(lambda: channel.basic_qos(prefetch_count=1))
    assert (closure.scope, closure.code) == ("connection", 540)
    assert closure.text == f"NOT_IMPLEMENTED - {text}"


def test_540_for_immediate(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    publish = spec.Basic.Publish(exchange="", routing_key=queue, immediate=True)
    channel._impl._send_method(publish, (pika.BasicProperties(), b"x"))
    closure = scene.refused(lambda: channel.basic_qos(prefetch_count=1))
    assert (closure.scope, closure.code) == ("connection", 540)
    assert closure.text == "NOT_IMPLEMENTED - immediate=true"


def test_a_channel_error_leaves_the_other_channels(
    scene: Scene, connection: pika.BlockingConnection
) -> None:
    channel, other = connection.channel(), connection.channel()
    queue = scene.queue(other)
    number = channel.channel_number
    scene.refused(lambda: channel.queue_declare(scene.name(), passive=True))
    other.basic_publish("", queue, b"x")
    assert scene.bodies(other, queue) == [b"x"]
    assert connection.channel(number).is_open


def test_publishes_after_an_error_are_ignored(
    scene: Scene, connection: pika.BlockingConnection
) -> None:
    """What a client had in flight when the broker closed the channel does no harm."""
    channel, other = connection.channel(), connection.channel()
    queue = scene.queue(other)
    for _ in range(3):
        channel._impl.basic_publish(scene.name(), "key", b"to no exchange")
        channel._impl.basic_publish("", queue, b"x" * 200_000)
    closure = scene.refused(lambda: channel.basic_qos(prefetch_count=1))
    assert closure.code == 404
    assert scene.bodies(other, queue) == []
    assert connection.is_open
