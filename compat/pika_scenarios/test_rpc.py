"""Calls and answers: a reply queue of one's own, and direct reply-to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pika
import pika.exceptions
import pytest

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel

    from compat.pika_scenarios.conftest import Scene

REPLY_TO = "amq.rabbitmq.reply-to"


def serve(channel: BlockingChannel, queue: str) -> None:
    """Answer every request with its body in capitals."""

    def on_request(_: Any, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        answer = pika.BasicProperties(correlation_id=properties.correlation_id)
        channel.basic_publish("", properties.reply_to, body.upper(), answer)
        channel.basic_ack(method.delivery_tag)

    channel.basic_consume(queue, on_request)


def test_reply_queue(scene: Scene, connection: pika.BlockingConnection) -> None:
    server, client = connection.channel(), connection.channel()
    requests = scene.queue(server)
    serve(server, requests)
    replies = client.queue_declare("", exclusive=True).method.queue
    received = scene.consumer(client, replies, auto_ack=True)
    for number in range(5):
        properties = pika.BasicProperties(reply_to=replies, correlation_id=str(number))
        client.basic_publish("", requests, b"call", properties)
    scene.wait(connection, lambda: len(received) == 5, "five answers")
    assert [m.properties.correlation_id for m in received] == list("01234")
    assert {m.body for m in received} == {b"CALL"}


def test_direct_reply_to(scene: Scene, connection: pika.BlockingConnection) -> None:
    client, server = connection.channel(), scene.channel()
    requests = scene.queue(server)
    received = scene.consumer(client, REPLY_TO, auto_ack=True)
    for number in range(3):
        properties = pika.BasicProperties(reply_to=REPLY_TO, correlation_id=str(number))
        client.basic_publish("", requests, b"call", properties)
    calls = scene.consumer(server, requests)
    scene.wait(server.connection, lambda: len(calls) == 3, "three calls")
    token = calls[0].properties.reply_to
    assert token.startswith(REPLY_TO + ".")
    assert {call.properties.reply_to for call in calls} == {token}
    declared = server.queue_declare(token, passive=True).method
    assert (declared.message_count, declared.consumer_count) == (0, 1)
    for call in calls:
        answer = pika.BasicProperties(correlation_id=call.properties.correlation_id)
        server.basic_publish("", token, b"answer", answer)
    scene.wait(connection, lambda: len(received) == 3, "three answers")
    assert [m.properties.correlation_id for m in received] == list("012")
    assert {(m.method.exchange, m.method.routing_key) for m in received} == {("", token)}


def test_answer_to_a_client_that_left(scene: Scene, connection: pika.BlockingConnection) -> None:
    client, server = connection.channel(), scene.channel()
    requests = scene.queue(server)
    client.basic_consume(REPLY_TO, lambda *_: None, auto_ack=True)
    client.basic_publish("", requests, b"call", pika.BasicProperties(reply_to=REPLY_TO))
    calls = scene.consumer(server, requests)
    scene.wait(server.connection, lambda: calls, "the call")
    client.close()
    server.confirm_delivery()
    token = calls[0].properties.reply_to
    server.basic_publish("", token, b"too late")
    with pytest.raises(pika.exceptions.UnroutableError):
        server.basic_publish("", token, b"too late", mandatory=True)
    closure = scene.refused(lambda: server.queue_declare(token, passive=True))
    assert (closure.scope, closure.code) == ("channel", 404)


def test_direct_reply_to_needs_a_consumer(scene: Scene, channel: BlockingChannel) -> None:
    properties = pika.BasicProperties(reply_to=REPLY_TO)
    channel.confirm_delivery()
    closure = scene.refused(lambda: channel.basic_publish("", scene.name(), b"call", properties))
    assert (closure.scope, closure.code) == ("channel", 406)
    assert closure.text == "PRECONDITION_FAILED - fast reply consumer does not exist"


def test_direct_reply_to_acknowledges_by_itself(scene: Scene, channel: BlockingChannel) -> None:
    closure = scene.refused(lambda: channel.basic_consume(REPLY_TO, lambda *_: None))
    assert (closure.scope, closure.code) == ("channel", 406)
    assert closure.text == "PRECONDITION_FAILED - reply consumer cannot acknowledge"


def test_one_reply_consumer_a_channel(scene: Scene, channel: BlockingChannel) -> None:
    channel.basic_consume(REPLY_TO, lambda *_: None, auto_ack=True)
    closure = scene.refused(lambda: channel.basic_consume(REPLY_TO, lambda *_: None, auto_ack=True))
    assert (closure.scope, closure.code) == ("channel", 406)
    assert closure.text == "PRECONDITION_FAILED - reply consumer already set"
