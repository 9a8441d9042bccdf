"""Queues and exchanges: kinds, life times, bindings, and what is refused."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import aio_pika
import pytest
from aio_pika.exceptions import (
    ChannelClosed,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
)
from aiormq.exceptions import ChannelLockedResource

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel, AbstractConnection

    from compat.aio_pika_scenarios.conftest import Scene

pytestmark = pytest.mark.anyio


async def exists(connection: AbstractConnection, queue: str) -> bool:
    """Asked on a channel of its own, since a 'no' closes the channel."""
    channel = await connection.channel()
    try:
        await channel.get_queue(queue)
    except ChannelNotFoundEntity:
        return False
    await channel.close()
    return True


@pytest.mark.parametrize(
    ("kind", "pattern", "expected"),
    [
        ("direct", "a.b", [b"a.b"]),
        ("fanout", "", [b"a.b", b"a.c", b"z"]),
        ("topic", "a.*", [b"a.b", b"a.c"]),
        ("topic", "#", [b"a.b", b"a.c", b"z"]),
    ],
)
async def test_exchange_of_type(
    scene: Scene, channel: AbstractChannel, kind: str, pattern: str, expected: list[bytes]
) -> None:
    exchange = await scene.exchange(channel, kind)
    queue = await scene.queue(channel)
    await queue.bind(exchange, pattern)
    for key in ("a.b", "a.c", "z"):
        await exchange.publish(aio_pika.Message(key.encode()), key, mandatory=False)
    assert await scene.bodies(queue) == expected


async def test_headers_exchange(scene: Scene, channel: AbstractChannel) -> None:
    exchange = await scene.exchange(channel, "headers")
    everything, anything = await scene.queue(channel), await scene.queue(channel)
    criteria = {"format": "pdf", "pages": 5, "urgent": True}
    await everything.bind(exchange, arguments={**criteria, "x-match": "all"})
    await anything.bind(exchange, arguments={**criteria, "x-match": "any"})
    await exchange.publish(aio_pika.Message(b"all", headers=dict(criteria)), "")
    await exchange.publish(aio_pika.Message(b"any", headers={"pages": 5}), "")
    await exchange.publish(aio_pika.Message(b"none", headers={"pages": 6}), "", mandatory=False)
    assert await scene.bodies(everything) == [b"all"]
    assert await scene.bodies(anything) == [b"all", b"any"]


async def test_exchange_to_exchange(scene: Scene, channel: AbstractChannel) -> None:
    source = await scene.exchange(channel, "topic")
    target = await scene.exchange(channel, "fanout")
    queue = await scene.queue(channel)
    await target.bind(source, "a.#")
    await queue.bind(target)
    await source.publish(aio_pika.Message(b"1"), "a.b")
    await target.unbind(source, "a.#")
    await source.publish(aio_pika.Message(b"2"), "a.b", mandatory=False)
    assert await scene.bodies(queue) == [b"1"]


async def test_alternate_exchange(scene: Scene, channel: AbstractChannel) -> None:
    spare = await scene.exchange(channel, "fanout")
    arguments = {"alternate-exchange": spare.name}
    exchange = await scene.exchange(channel, "direct", arguments=arguments)
    queue = await scene.queue(channel)
    await queue.bind(spare)
    await exchange.publish(aio_pika.Message(b"x"), "unknown")
    message = await queue.get(no_ack=True)
    assert (message.body, message.exchange) == (b"x", exchange.name)


async def test_server_named_exclusive_queue(scene: Scene, connection: AbstractConnection) -> None:
    owner = await scene.connect()
    queue = await (await owner.channel()).declare_queue(exclusive=True)
    assert queue.name.startswith("amq.gen-")
    other = await connection.channel()
    with pytest.raises(ChannelLockedResource):
        await other.get_queue(queue.name)
    await owner.close()
    assert not await exists(connection, queue.name)


async def test_auto_delete_queue(scene: Scene, connection: AbstractConnection) -> None:
    channel = await connection.channel()
    queue = await scene.queue(channel, auto_delete=True)

    async def ignore(_: object) -> None:
        pass

    tag = await queue.consume(ignore)
    assert await exists(connection, queue.name)
    await queue.cancel(tag)
    assert not await exists(connection, queue.name)


async def test_counts(scene: Scene, channel: AbstractChannel) -> None:
    queue = await scene.queue(channel)
    await scene.fill(channel, queue, b"1", b"2", b"3")
    await queue.get()
    counted = await queue.declare()
    assert (counted.message_count, counted.consumer_count) == (2, 0)
    purged = await queue.purge()
    assert purged.message_count == 2
    deleted = await queue.delete(if_empty=True)
    assert deleted.message_count == 0


async def test_deleting_a_queue_cancels_its_consumers(
    scene: Scene, connection: AbstractConnection
) -> None:
    """The consumer-cancel notification, as this client's users see it."""
    channel, other = await connection.channel(), await connection.channel()
    queue = await scene.queue(channel)
    underlay = await channel.get_underlay_channel()

    async def ignore(_: object) -> None:
        pass

    await queue.consume(ignore)
    assert len(underlay.consumers) == 1
    await other.queue_delete(queue.name)
    await scene.until(lambda: not underlay.consumers, "basic.cancel")
    assert not channel.is_closed


async def test_missing_things(scene: Scene, connection: AbstractConnection) -> None:
    name = scene.name()
    for kind, call in {
        "queue": lambda c: c.get_queue(name),
        "exchange": lambda c: c.get_exchange(name),
    }.items():
        channel = await connection.channel()
        with pytest.raises(ChannelNotFoundEntity) as caught:
            await call(channel)
        assert str(caught.value) == f"NOT_FOUND - no {kind} '{name}' in vhost '{scene.vhost}'"


async def test_publishing_to_a_missing_exchange(scene: Scene, channel: AbstractChannel) -> None:
    exchange = await channel.get_exchange(scene.name(), ensure=False)
    with pytest.raises(ChannelNotFoundEntity):
        await exchange.publish(aio_pika.Message(b"x"), "key")


async def test_other_properties(scene: Scene, connection: AbstractConnection) -> None:
    channel = await connection.channel()
    queue = await scene.queue(channel)
    with pytest.raises(ChannelPreconditionFailed) as caught:
        await channel.declare_queue(queue.name, durable=True)
    assert str(caught.value) == (
        f"PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{queue.name}'"
        f" in vhost '{scene.vhost}': received 'true' but current is 'false'"
    )


async def test_reserved_name(scene: Scene, channel: AbstractChannel) -> None:
    with pytest.raises(ChannelClosed) as caught:
        await channel.declare_queue("amq.mine")
    assert "queue name 'amq.mine' contains reserved prefix 'amq.*'" in str(caught.value)


async def test_a_closed_channel_is_reopened(scene: Scene, connection: AbstractConnection) -> None:
    channel = await connection.channel()
    with pytest.raises(ChannelNotFoundEntity):
        await channel.get_queue(scene.name())
    await channel.reopen()
    queue = await scene.queue(channel)
    await scene.fill(channel, queue, b"x")
    assert await scene.bodies(queue) == [b"x"]


async def test_transaction(scene: Scene, connection: AbstractConnection) -> None:
    channel = await connection.channel(publisher_confirms=False)
    queue = await scene.queue(channel)
    async with channel.transaction():
        await scene.fill(channel, queue, b"1", b"2")
        assert (await queue.declare()).message_count == 0
    assert (await queue.declare()).message_count == 2
    with contextlib.suppress(ZeroDivisionError):
        async with channel.transaction():
            await scene.fill(channel, queue, b"3")
            1 / 0  # noqa: B018
    assert (await queue.declare()).message_count == 2
    transaction = channel.transaction()
    await transaction.select()
    await scene.bodies(queue)
    await transaction.commit()
