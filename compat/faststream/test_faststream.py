"""FastStream's RabbitMQ broker, used as its documentation shows."""

from __future__ import annotations

import asyncio
import datetime
import os
import ssl
import uuid
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest
from aio_pika.exceptions import DeliveryError
from faststream import AckPolicy
from faststream.rabbit import (
    Channel,
    ExchangeType,
    QueueType,
    RabbitBroker,
    RabbitExchange,
    RabbitMessage,
    RabbitQueue,
    RabbitResponse,
)
from faststream.security import BaseSecurity
from pamqp.commands import Basic

from compat.cutting_proxy import CuttingProxy

PATIENCE_SECONDS = 60.0
URL = os.environ.get("AMQP_URL", "")


def scenario(run: Callable[[RabbitBroker], Awaitable[None]]) -> Callable[[], None]:
    """A test with a broker client of its own, started by the scenario and stopped after it."""

    def test() -> None:
        async def play() -> None:
            broker = RabbitBroker(URL)
            try:
                await run(broker)
            finally:
                await broker.stop()

        asyncio.run(play())

    test.__name__ = run.__name__
    test.__doc__ = run.__doc__
    return test


def unique(prefix: str = "faststream") -> str:
    return f"{prefix}-{uuid.uuid4().hex}"


def brief(name: str = "", **options: Any) -> RabbitQueue:
    """A queue that goes with its connection."""
    return RabbitQueue(name or unique(), durable=False, exclusive=True, **options)


def fleeting(kind: ExchangeType, **options: Any) -> RabbitExchange:
    """An exchange that goes with its last binding."""
    return RabbitExchange(unique(), type=kind, durable=False, auto_delete=True, **options)


async def until(done: Callable[[], object], what: str) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not done():  # noqa: ASYNC110 - the client tells nobody
            await asyncio.sleep(0.02)
    assert done(), what


@scenario
async def test_publish_and_subscribe(broker: RabbitBroker) -> None:
    queue, seen = brief(), []

    @broker.subscriber(queue)
    async def take(body: dict[str, Any], message: RabbitMessage) -> None:
        seen.append((body, message.content_type, message.headers["key"], message.correlation_id))

    await broker.start()
    await broker.publish({"a": [1, None]}, queue, headers={"key": 1.5}, correlation_id="c")
    await until(lambda: seen, "the message")
    assert seen == [({"a": [1, None]}, "application/json", 1.5, "c")]


@scenario
async def test_what_a_handler_returns_is_published(broker: RabbitBroker) -> None:
    first, second, seen = brief(), brief(), []

    @broker.subscriber(first)
    @broker.publisher(second)
    async def double(number: int) -> int:
        return number * 2

    @broker.subscriber(second)
    async def take(number: int) -> None:
        seen.append(number)

    await broker.start()
    for number in range(20):
        await broker.publish(number, first)
    await until(lambda: len(seen) == 20, "the answers")
    assert seen == [number * 2 for number in range(20)]


@scenario
async def test_request_over_direct_reply_to(broker: RabbitBroker) -> None:
    queue = brief()

    @broker.subscriber(queue)
    async def answer(text: str) -> RabbitResponse:
        return RabbitResponse(text.upper(), headers={"by": "answer"})

    await broker.start()
    replies = await asyncio.gather(*(broker.request(f"word {n}", queue) for n in range(10)))
    assert [await reply.decode() for reply in replies] == [f"WORD {n}" for n in range(10)]
    assert {reply.headers["by"] for reply in replies} == {"answer"}


@scenario
async def test_a_request_nobody_answers_ends(broker: RabbitBroker) -> None:
    queue = brief()
    await broker.start()
    await broker.declare_queue(queue)
    with pytest.raises(TimeoutError):
        await broker.request("hello", queue, timeout=0.3)


@scenario
async def test_rejected_on_error_becomes_a_dead_letter(broker: RabbitBroker) -> None:
    dead = brief()
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead.name}
    queue, seen = brief(arguments=arguments), []

    @broker.subscriber(queue, ack_policy=AckPolicy.REJECT_ON_ERROR)
    async def fail(_: str) -> None:
        raise RuntimeError("no")

    @broker.subscriber(dead)
    async def take(body: str, message: RabbitMessage) -> None:
        seen.append((body, message.headers["x-death"][0]["reason"]))

    await broker.start()
    await broker.publish("doomed", queue)
    await until(lambda: seen, "the dead letter")
    assert seen == [("doomed", "rejected")]


@scenario
async def test_nacked_on_error_comes_again(broker: RabbitBroker) -> None:
    queue, seen = brief(), []

    @broker.subscriber(queue, ack_policy=AckPolicy.NACK_ON_ERROR)
    async def fail_twice(_: str, message: RabbitMessage) -> None:
        seen.append(message.raw_message.redelivered)
        if len(seen) < 3:
            raise RuntimeError("not yet")

    await broker.start()
    await broker.publish("x", queue)
    await until(lambda: len(seen) == 3, "three attempts")
    assert seen == [False, True, True]


@scenario
async def test_acknowledged_by_hand(broker: RabbitBroker) -> None:
    queue, seen = brief(), []

    @broker.subscriber(queue, ack_policy=AckPolicy.MANUAL)
    async def take(body: str, message: RabbitMessage) -> None:
        seen.append(body)
        if len(seen) == 1:
            await message.nack(requeue=True)
        elif body == "drop":
            await message.reject(requeue=False)
        else:
            await message.ack()

    await broker.start()
    for body in ("first", "drop"):
        await broker.publish(body, queue)
        await until(lambda want=body: want in seen, "the message")
    await until(lambda: len(seen) == 3, "three deliveries")
    assert sorted(seen) == ["drop", "first", "first"]


@scenario
async def test_direct_fanout_topic_and_headers_exchanges(broker: RabbitBroker) -> None:
    seen: list[str] = []
    fan, topic, headers = map(
        fleeting, (ExchangeType.FANOUT, ExchangeType.TOPIC, ExchangeType.HEADERS)
    )

    def note(name: str) -> Callable[[str], Awaitable[None]]:
        async def take(_: str) -> None:
            seen.append(name)

        return take

    broker.subscriber(brief(), fan)(note("fan 1"))
    broker.subscriber(brief(), fan)(note("fan 2"))
    broker.subscriber(brief(routing_key="a.*"), topic)(note("a.*"))
    broker.subscriber(brief(routing_key="#.c"), topic)(note("#.c"))
    match = {"x-match": "all", "kind": "x", "size": 2}
    broker.subscriber(brief(bind_arguments=match), headers)(note("headers"))
    await broker.start()
    await broker.publish("x", exchange=fan)
    await broker.publish("x", exchange=topic, routing_key="a.b")
    await broker.publish("x", exchange=topic, routing_key="b.c")
    await broker.publish("x", exchange=headers, headers={"kind": "x", "size": 2, "more": 1})
    await until(lambda: len(seen) == 5, "all copies")
    assert sorted(seen) == ["#.c", "a.*", "fan 1", "fan 2", "headers"]


@scenario
async def test_an_exchange_bound_to_another(broker: RabbitBroker) -> None:
    seen: list[str] = []
    outer = fleeting(ExchangeType.TOPIC)
    inner = fleeting(ExchangeType.FANOUT, bind_to=outer, routing_key="news.#")

    @broker.subscriber(brief(), inner)
    async def take(body: str) -> None:
        seen.append(body)

    await broker.start()
    await broker.publish("one", exchange=outer, routing_key="news.today")
    await until(lambda: seen, "the message")
    assert seen == ["one"]


@scenario
async def test_an_unroutable_message_is_told(broker: RabbitBroker) -> None:
    await broker.start()
    returned = await broker.publish("x", unique("nowhere"), mandatory=True)
    delivered = getattr(returned, "delivery", returned)
    assert isinstance(delivered, Basic.Return)
    assert (delivered.reply_code, delivered.reply_text) == (312, "NO_ROUTE")


@scenario
async def test_prefetch_bounds_a_subscriber(broker: RabbitBroker) -> None:
    queue, now, most = brief(), 0, 0
    done: list[int] = []

    @broker.subscriber(queue, channel=Channel(prefetch_count=3))
    async def take(number: int) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.02)
        now -= 1
        done.append(number)

    await broker.start()
    for number in range(20):
        await broker.publish(number, queue)
    await until(lambda: len(done) == 20, "all messages")
    assert most <= 3
    assert sorted(done) == list(range(20))


@scenario
async def test_expiration_and_priority(broker: RabbitBroker) -> None:
    queue = RabbitQueue(unique(), durable=False, exclusive=True, arguments={"x-max-priority": 5})
    await broker.start()
    declared = await broker.declare_queue(queue)
    await broker.publish("gone", queue, expiration=0.05)
    await asyncio.sleep(0.3)
    for priority in (1, 5, 3):
        await broker.publish(str(priority), queue, priority=priority)
    bodies = [(await declared.get(no_ack=True)).body for _ in range(3)]
    assert bodies == [b"5", b"3", b"1"]


@scenario
async def test_bodies_of_all_kinds(broker: RabbitBroker) -> None:
    queue, seen = brief(), []

    @broker.subscriber(queue)
    async def take(message: RabbitMessage) -> None:
        seen.append(message.body)

    await broker.start()
    bodies = [b"", os.urandom(1), os.urandom(131_064), os.urandom(2_000_000)]
    for body in bodies:
        await broker.publish(body, queue)
    await until(lambda: len(seen) == len(bodies), "all bodies")
    assert seen == bodies


@scenario
async def test_two_subscribers_share_a_durable_queue(broker: RabbitBroker) -> None:
    """Each message goes to one of them."""
    queue = RabbitQueue(unique(), durable=True, queue_type=QueueType.CLASSIC)
    seen: list[str] = []

    async def take(body: str) -> None:
        seen.append(body)

    broker.subscriber(queue)(take)
    await broker.start()
    other = RabbitBroker(URL)
    other.subscriber(queue)(take)
    await other.start()
    for number in range(50):
        await broker.publish(str(number), queue, persist=True)
    await until(lambda: len(seen) == 50, "all messages")
    assert sorted(seen, key=int) == [str(number) for number in range(50)]
    await other.stop()
    declared = await broker.declare_queue(queue)
    await declared.delete(if_unused=False, if_empty=False)


@scenario
async def test_a_publication_is_confirmed_or_refused(broker: RabbitBroker) -> None:
    full = brief(arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    await broker.start()
    await broker.declare_queue(full)
    assert isinstance(await broker.publish("taken", full), Basic.Ack)
    with pytest.raises(DeliveryError):
        await broker.publish("too much", full)


@scenario
async def test_header_fields_of_every_type(broker: RabbitBroker) -> None:
    queue, seen = brief(), []
    headers = {
        **{"text": "grüße", "octets": bytearray(b"\x00\xff\xce"), "nothing": None},
        **{"yes": True, "no": False, "exact": Decimal("-1.25")},
        **{"whole": -7, "large": 1 << 40, "real": 2.5},
        "time": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
        **{"list": [1, "two", [True, None]], "table": {"deep": {"deeper": "still"}, "none": {}}},
    }

    @broker.subscriber(queue)
    async def take(message: RabbitMessage) -> None:
        seen.append({name: message.headers[name] for name in headers})

    await broker.start()
    await broker.publish("", queue, headers=headers)
    await until(lambda: seen, "the message")
    assert seen == [headers]


@scenario
async def test_a_subscriber_comes_back_after_cuts(broker: RabbitBroker) -> None:
    name, seen = unique(), set()
    queue = RabbitQueue(name, durable=True, queue_type=QueueType.CLASSIC)
    await broker.start()
    with CuttingProxy(URL) as proxy:
        other = RabbitBroker(f"{proxy.url}?reconnect_interval=0.1")

        @other.subscriber(queue)
        async def take(body: str) -> None:
            seen.add(body)

        await other.start()
        for number in range(3):
            await broker.publish(str(number), queue, persist=True)
            await until(lambda body=str(number): body in seen, "the message")
            proxy.cut()
        await broker.publish("last", queue, persist=True)
        await until(lambda: "last" in seen, "the message after the last cut")
        await other.stop()
    assert seen == {"0", "1", "2", "last"}
    declared = await broker.declare_queue(queue)
    await declared.delete(if_unused=False, if_empty=False)


@scenario
async def test_over_tls(broker: RabbitBroker) -> None:
    authority = os.environ["CERTIFICATES"] + "/ca.pem"
    security = BaseSecurity(ssl.create_default_context(cafile=authority))
    queue, seen = brief(), []
    await broker.start()
    other = RabbitBroker(os.environ["AMQPS_URL"], security=security)

    @other.subscriber(queue)
    async def take(body: bytes) -> None:
        seen.append(body)

    await other.start()
    body = os.urandom(1 << 20)
    await other.publish(body, queue)
    await until(lambda: seen, "the message")
    await other.stop()
    assert seen == [body]


@scenario
async def test_ping(broker: RabbitBroker) -> None:
    await broker.start()
    assert await broker.ping(timeout=PATIENCE_SECONDS)
