"""taskiq-aio-pika, used as its documentation shows; a receiver in the test's own process."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import pytest
from aio_pika.exceptions import DeliveryError
from taskiq.api import run_receiver_task
from taskiq.exceptions import SendTaskError
from taskiq.message import TaskiqMessage
from taskiq_aio_pika import AioPikaBroker, Exchange, Queue, QueueType
from taskiq_aio_pika.exceptions import IncorrectRoutingKeyError

from compat.cutting_proxy import CuttingProxy

URL = os.environ.get("AMQP_URL", "")
PATIENCE_SECONDS = 60.0


class Stage:
    """Names of this scenario, its broker client, and what its tasks saw."""

    def __init__(self) -> None:
        self.prefix = f"taskiq-{uuid.uuid4().hex}"
        self.seen: list[Any] = []
        self.dead = Queue(name=f"{self.prefix}.dead", type=QueueType.CLASSIC)
        self.delay = Queue(name=f"{self.prefix}.delay", type=QueueType.CLASSIC)

    def queue(self, name: str = "tasks", **options: Any) -> Queue:
        """A queue of this scenario."""
        return Queue(name=f"{self.prefix}.{name}", type=QueueType.CLASSIC, **options)

    def broker(self, *queues: Queue, url: str = URL, **options: Any) -> AioPikaBroker:
        """A client with its own exchange."""
        return AioPikaBroker(
            url,
            exchange=Exchange(name=f"{self.prefix}.exchange", type=aio_pika.ExchangeType.DIRECT),
            task_queues=list(queues) or [self.queue()],
            dead_letter_queue=self.dead,
            delay_queue=self.delay,
            **options,
        )

    async def until(self, done: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not done():  # noqa: ASYNC110 - the client tells nobody
                await asyncio.sleep(0.02)

    @asynccontextmanager
    async def working(self, broker: AioPikaBroker) -> AsyncIterator[None]:
        """Started, with a receiver."""
        broker.is_worker_process = True
        await broker.startup()
        receiver = asyncio.create_task(run_receiver_task(broker))
        try:
            yield
        finally:
            receiver.cancel()
            await asyncio.gather(receiver, return_exceptions=True)
            await broker.shutdown()

    async def end(self) -> None:
        """Delete what was declared."""
        connection = await aio_pika.connect(URL)
        async with connection:
            channel = await connection.channel()
            for name in ("tasks", "other", "dead", "delay"):
                await channel.queue_delete(f"{self.prefix}.{name}")
            await channel.exchange_delete(f"{self.prefix}.exchange")


def scenario(run: Callable[[Stage], Awaitable[None]]) -> Callable[[], None]:
    """A test with a stage of its own."""

    def test() -> None:
        async def play() -> None:
            stage = Stage()
            try:
                await run(stage)
            finally:
                await stage.end()

        asyncio.run(play())

    test.__name__ = run.__name__
    return test


@scenario
async def test_tasks_are_done_each_once(stage: Stage) -> None:
    broker = stage.broker()

    @broker.task
    async def work(number: int, key: str = "") -> None:
        stage.seen.append((number, key))

    async with stage.working(broker):
        for number in range(100):
            await work.kiq(number, key="k")
        await stage.until(lambda: len(stage.seen) >= 100)
    assert sorted(stage.seen) == [(number, "k") for number in range(100)]


@scenario
async def test_tasks_wait_for_a_worker(stage: Stage) -> None:
    broker = stage.broker()

    @broker.task
    async def work() -> None:
        stage.seen.append("done")

    await broker.startup()
    await work.kiq()
    await broker.shutdown()
    async with stage.working(broker):
        await stage.until(lambda: stage.seen)
    assert stage.seen == ["done"]


@scenario
async def test_a_delay_is_kept(stage: Stage) -> None:
    broker = stage.broker()

    @broker.task
    async def work(name: str) -> None:
        stage.seen.append((name, time.monotonic()))

    async with stage.working(broker):
        begun = time.monotonic()
        await work.kicker().with_labels(delay=0.6).kiq("later")
        await work.kiq("now")
        await stage.until(lambda: len(stage.seen) == 2)
    times = dict(stage.seen)
    assert sorted(times) == ["later", "now"]
    assert times["later"] - begun >= 0.6


@scenario
async def test_a_label_chooses_the_queue(stage: Stage) -> None:
    first, second = stage.queue(), stage.queue("other")
    broker = stage.broker(first, second)

    @broker.task
    async def work(name: str) -> None:
        stage.seen.append(name)

    async with stage.working(broker):
        await work.kicker().with_labels(queue_name=first.name).kiq("first")
        await work.kicker().with_labels(queue_name=second.name).kiq("second")
        await stage.until(lambda: len(stage.seen) == 2)
        with pytest.raises(IncorrectRoutingKeyError):
            await broker.kick(
                broker.formatter.dumps(
                    TaskiqMessage(
                        task_id="1",
                        task_name="x",
                        labels={"queue_name": "unknown"},
                        args=[],
                        kwargs={},
                    )
                )
            )
    assert sorted(stage.seen) == ["first", "second"]


@scenario
async def test_higher_priorities_first(stage: Stage) -> None:
    broker = stage.broker(stage.queue(max_priority=10), qos=1)

    @broker.task
    async def work(number: int) -> None:
        stage.seen.append(number)

    await broker.startup()
    for number in range(5):
        await work.kicker().with_labels(priority=number).kiq(number)
    await broker.shutdown()
    async with stage.working(broker):
        await stage.until(lambda: len(stage.seen) == 5)
    assert sorted(stage.seen) == [0, 1, 2, 3, 4]
    assert stage.seen[0] == 4


@scenario
async def test_a_worker_comes_back_after_cuts(stage: Stage) -> None:
    sender = stage.broker()
    await sender.startup()
    with CuttingProxy(URL) as proxy:
        broker = stage.broker(url=f"{proxy.url}?reconnect_interval=0.1")

        async def work(text: str) -> None:
            stage.seen.append(text)

        broker.task(task_name="work")(work)
        here = sender.task(task_name="work")(work)
        async with stage.working(broker):
            for number in range(3):
                text = str(number) * 500_000
                await here.kiq(text)
                await stage.until(lambda text=text: text in stage.seen)
                proxy.cut()
            await here.kiq("last")
            await stage.until(lambda: "last" in stage.seen)
    await sender.shutdown()


@scenario
async def test_over_tls(stage: Stage) -> None:
    trusting = ssl.create_default_context(cafile=os.environ["CERTIFICATES"] + "/ca.pem")
    broker = stage.broker(url=os.environ["AMQPS_URL"], ssl_context=trusting)

    @broker.task
    async def work(text: str) -> None:
        stage.seen.append(text)

    text = "grüße" * 200_000
    async with stage.working(broker):
        await work.kiq(text)
        await stage.until(lambda: stage.seen)
    assert stage.seen == [text]


@scenario
async def test_a_task_that_the_broker_refuses_is_told(stage: Stage) -> None:
    full = stage.queue(arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    broker = stage.broker(full)

    @broker.task
    async def work() -> None:
        stage.seen.append("done")

    await broker.startup()
    await work.kiq()
    with pytest.raises(SendTaskError) as caught:
        await work.kiq()
    assert isinstance(caught.value.__cause__, DeliveryError)
    await broker.shutdown()


@scenario
async def test_labels_are_headers_of_their_types(stage: Stage) -> None:
    broker = stage.broker()
    labels = {"whole": -7, "large": 1 << 40, "real": 2.5, "yes": True, "text": "grüße"}
    await broker.startup()
    await broker.kick(
        broker.formatter.dumps(
            TaskiqMessage(task_id="1", task_name="x", labels=labels, args=[], kwargs={})
        )
    )
    async with await aio_pika.connect(URL) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(stage.queue().name)
        message = await queue.get(no_ack=True)
        assert {name: message.headers[name] for name in labels} == labels
    await broker.shutdown()


@scenario
async def test_what_is_rejected_goes_to_the_dead_letter_queue(stage: Stage) -> None:
    broker = stage.broker()
    await broker.startup()
    await broker.kick(
        broker.formatter.dumps(
            TaskiqMessage(task_id="1", task_name="x", labels={"n": 7}, args=[], kwargs={})
        )
    )
    connection = await aio_pika.connect(URL)
    async with connection:
        channel = await connection.channel()
        queue = await channel.get_queue(stage.queue().name)
        message = await queue.get()
        assert (message.headers["task_id"], message.headers["n"]) == ("1", 7)
        assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
        await message.reject(requeue=False)
        dead = await channel.get_queue(stage.dead.name)
        letter = None
        async with asyncio.timeout(PATIENCE_SECONDS):
            while letter is None:
                letter = await dead.get(no_ack=True, fail=False)
        assert letter.headers["x-death"][0]["queue"] == stage.queue().name
    await broker.shutdown()
