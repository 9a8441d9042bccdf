"""tx: what waits for the commit, and what a rollback takes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pika
import pytest

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel

    from compat.pika_scenarios.conftest import Scene


def ready(scene: Scene, queue: str) -> int:
    """Counted from a channel that is in no transaction."""
    channel = scene.connections[0].channel()
    count = channel.queue_declare(queue, passive=True).method.message_count
    channel.close()
    return int(count)


def test_publishes_wait_for_the_commit(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    channel.tx_select()
    channel.basic_publish("", queue, b"1")
    channel.basic_publish("", queue, b"2")
    assert ready(scene, queue) == 0
    channel.tx_commit()
    assert ready(scene, queue) == 2
    channel.basic_publish("", queue, b"3")
    channel.tx_rollback()
    channel.tx_commit()
    assert scene.bodies(channel, queue) == [b"1", b"2"]
    channel.tx_commit()


def test_select_may_be_repeated(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    channel.tx_select()
    channel.basic_publish("", queue, b"1")
    channel.tx_select()
    channel.tx_commit()
    assert ready(scene, queue) == 1


def test_acks_wait_for_the_commit(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    scene.fill(channel, queue, b"1", b"2")
    channel.tx_select()
    for tag in (1, 2):
        scene.get(channel, queue, auto_ack=False)
        channel.basic_ack(tag)
        if tag == 1:
            channel.tx_commit()
    channel.close()
    assert ready(scene, queue) == 1


def test_rollback_makes_acks_undone_but_requeues_nothing(
    scene: Scene, channel: BlockingChannel
) -> None:
    queue = scene.queue(channel)
    scene.fill(channel, queue, b"1")
    channel.tx_select()
    scene.get(channel, queue, auto_ack=False)
    channel.basic_ack(1)
    channel.tx_rollback()
    assert ready(scene, queue) == 0
    channel.basic_ack(1)
    channel.tx_commit()
    channel.close()
    assert ready(scene, queue) == 0


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_nacks_belong_to_the_transaction(scene: Scene, channel: BlockingChannel, end: str) -> None:
    queue = scene.queue(channel)
    scene.fill(channel, queue, b"1")
    channel.tx_select()
    scene.get(channel, queue, auto_ack=False)
    channel.basic_nack(1, requeue=True)
    assert ready(scene, queue) == 0
    if end == "commit":
        channel.tx_commit()
        assert ready(scene, queue) == 1
    else:
        channel.tx_rollback()
        assert ready(scene, queue) == 0


def test_returns_come_with_the_commit(scene: Scene, channel: BlockingChannel) -> None:
    returned: list[bytes] = []
    channel.add_on_return_callback(lambda _c, _m, _p, body: returned.append(body))
    channel.tx_select()
    channel.basic_publish("", scene.name(), b"back", mandatory=True)
    scene.settle(channel.connection, 0.05)
    assert returned == []
    channel.tx_commit()
    scene.wait(channel.connection, lambda: returned, "what was returned")
    assert returned == [b"back"]


def test_an_error_ends_the_transaction(scene: Scene, channel: BlockingChannel) -> None:
    queue = scene.queue(channel)
    channel.tx_select()
    channel.basic_publish("", queue, b"1")
    channel.basic_publish(scene.name(), "key", b"to an exchange that is not")
    assert scene.refused(channel.tx_commit).code == 404
    assert ready(scene, queue) == 0


@pytest.mark.parametrize("method", ["tx_commit", "tx_rollback"])
def test_without_select(scene: Scene, channel: BlockingChannel, method: str) -> None:
    closure = scene.refused(getattr(channel, method))
    assert (closure.scope, closure.code) == ("channel", 406)
    assert closure.text == "PRECONDITION_FAILED - channel is not transactional"


def test_from_tx_to_confirm(scene: Scene, channel: BlockingChannel) -> None:
    channel.tx_select()
    closure = scene.refused(channel.confirm_delivery)
    assert (closure.scope, closure.code) == ("channel", 406)
    assert closure.text == "PRECONDITION_FAILED - cannot switch from tx to confirm mode"


def test_from_confirm_to_tx(scene: Scene, connection: pika.BlockingConnection) -> None:
    channel = connection.channel()
    channel.confirm_delivery()
    closure = scene.refused(channel.tx_select)
    assert (closure.scope, closure.code) == ("channel", 406)
    assert closure.text == "PRECONDITION_FAILED - cannot switch from confirm to tx mode"
