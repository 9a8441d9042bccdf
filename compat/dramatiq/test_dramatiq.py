"""Dramatiq at work: what its guide promises of messages, with RabbitMQ underneath."""

from __future__ import annotations

import os
import ssl
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import pika
import pytest
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import CurrentMessage

from compat.cutting_proxy import CuttingProxy

PATIENCE_SECONDS = 60.0


class Stage:
    """A broker client, its worker, and queues that nobody else has."""

    def __init__(self, url: str, queue: str = "", **address: Any) -> None:
        """`address`: another way to the broker, in pika's words."""
        self.url = url
        where = address or {"url": url}
        self.broker = RabbitmqBroker(**where, confirm_delivery=True, max_priority=10)
        self.broker.add_middleware(CurrentMessage())
        self.workers: list[dramatiq.Worker] = []
        self.queue = queue or f"dramatiq-{uuid.uuid4().hex}"

    def actor(self, run: Callable[..., Any], **options: Any) -> Any:
        """Declare an actor on this stage's queue."""
        given = {"queue_name": self.queue, "max_retries": 0, **options}
        return dramatiq.actor(broker=self.broker, **given)(run)

    def work(self, threads: int = 2) -> dramatiq.Worker:
        """Start a worker."""
        worker = dramatiq.Worker(self.broker, worker_timeout=100, worker_threads=threads)
        worker.start()
        self.workers.append(worker)
        return worker

    def counts(self) -> tuple[int, int, int]:
        """Messages that are ready, delayed and dead."""
        found = self.broker.get_queue_message_counts(self.queue)
        return found[0], found[1], found[2]

    def end(self) -> None:
        """Stop, and delete the three queues."""
        for worker in self.workers:
            worker.stop()
        self.broker.close()
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        channel = connection.channel()
        for suffix in ("", ".DQ", ".XQ"):
            channel.queue_delete(self.queue + suffix)
        connection.close()


def until(done: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not done():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


@pytest.fixture
def stage() -> Iterator[Stage]:
    """One for each scenario."""
    stage = Stage(os.environ["AMQP_URL"])
    yield stage
    stage.end()


def test_an_actor_gets_what_was_sent(stage: Stage) -> None:
    seen: list[Any] = []
    actor = stage.actor(lambda *args, **kwargs: seen.append((args, kwargs)), actor_name="take")
    actor.send(1, "two", None, [3.5], key={"four": True})
    stage.work()
    until(lambda: seen, "the message")
    assert seen == [((1, "two", None, [3.5]), {"key": {"four": True}})]
    until(lambda: stage.counts() == (0, 0, 0), "the acknowledgement")


def test_five_hundred_messages_each_once(stage: Stage) -> None:
    seen: list[int] = []
    actor = stage.actor(seen.append, actor_name="count")
    for number in range(500):
        actor.send(number)
    assert stage.counts()[0] == 500
    stage.work(threads=4)
    stage.broker.join(stage.queue, timeout=int(PATIENCE_SECONDS * 1000))
    until(lambda: len(seen) == 500, "all messages")
    assert sorted(seen) == list(range(500))


def test_a_failure_is_tried_again(stage: Stage) -> None:
    attempts: list[int] = []

    def run() -> None:
        attempts.append(CurrentMessage.get_current_message().options.get("retries", 0))
        if len(attempts) < 3:
            raise RuntimeError("not yet")

    actor = stage.actor(run, actor_name="fail", max_retries=5, min_backoff=50, max_backoff=100)
    actor.send()
    stage.work()
    until(lambda: len(attempts) == 3, "three attempts")
    assert attempts == [0, 1, 2]


def test_what_fails_for_good_is_a_dead_letter(stage: Stage) -> None:
    def run() -> None:
        raise RuntimeError("never")

    stage.actor(run, actor_name="die").send()
    stage.work()
    until(lambda: stage.counts() == (0, 0, 1), "the dead letter")
    connection = pika.BlockingConnection(pika.URLParameters(stage.url))
    _, properties, _ = connection.channel().basic_get(f"{stage.queue}.XQ", auto_ack=True)
    connection.close()
    death = properties.headers["x-death"][0]
    assert (death["reason"], death["queue"], death["count"]) == ("rejected", stage.queue, 1)
    assert properties.headers["x-first-death-queue"] == stage.queue


def test_a_delayed_message_comes_later(stage: Stage) -> None:
    seen: list[float] = []
    actor = stage.actor(lambda: seen.append(time.monotonic()), actor_name="later")
    begun = time.monotonic()
    actor.send_with_options(delay=600)
    assert stage.counts()[1] == 1
    stage.work()
    until(lambda: seen, "the message")
    assert seen[0] - begun >= 0.6


def test_a_higher_priority_comes_first(stage: Stage) -> None:
    seen: list[int] = []
    actor = stage.actor(seen.append, actor_name="rank")
    for number in range(6):
        actor.send_with_options(args=(number,), broker_priority=number)
    until(lambda: stage.counts()[0] == 6, "the messages")
    stage.work(threads=1)
    until(lambda: len(seen) == 6, "all messages")
    assert seen == [5, 4, 3, 2, 1, 0]


def test_flush_empties_the_queues(stage: Stage) -> None:
    actor = stage.actor(lambda: None, actor_name="flush")
    actor.send()
    actor.send_with_options(delay=60_000)
    assert stage.counts()[:2] == (1, 1)
    stage.broker.flush(stage.queue)
    assert stage.counts() == (0, 0, 0)


def test_a_connection_that_was_closed_is_opened_again(stage: Stage) -> None:
    actor = stage.actor(lambda: None, actor_name="again")
    actor.send()
    stage.broker.connection.close()
    actor.send()
    assert stage.counts()[0] == 2


def test_a_worker_comes_back_after_a_cut(stage: Stage) -> None:
    with CuttingProxy(stage.url) as proxy:
        far = Stage(proxy.url, stage.queue)
        seen: list[str] = []
        far.actor(seen.append, actor_name="take")
        near = stage.actor(seen.append, actor_name="take")
        far.work()
        for number in range(2):
            text = str(number) * 1_000_000
            near.send(text)
            until(lambda text=text: text in seen, "the message")
            proxy.cut()
        near.send("last")
        until(lambda: "last" in seen, "the message after the cut")
        for worker in far.workers:
            worker.stop()
        far.broker.close()


def test_over_tls(stage: Stage) -> None:
    parts = urllib.parse.urlsplit(os.environ["AMQPS_URL"])
    trusting = ssl.create_default_context(cafile=os.environ["CERTIFICATES"] + "/ca.pem")
    far = Stage(
        stage.url,
        stage.queue,
        host=parts.hostname,
        port=parts.port,
        credentials=pika.PlainCredentials(parts.username, parts.password),
        ssl_options=pika.SSLOptions(trusting, parts.hostname),
    )
    seen: list[str] = []
    actor = far.actor(seen.append, actor_name="take")
    text = "grüße" * 200_000
    actor.send(text)
    far.work()
    until(lambda: seen, "the message")
    assert seen == [text]
    for worker in far.workers:
        worker.stop()
    far.broker.close()


def test_a_queue_that_is_declared_otherwise_is_told(stage: Stage) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(stage.url))
    connection.channel().queue_declare(stage.queue, durable=False, exclusive=True)
    actor = stage.actor(lambda: None, actor_name="otherwise")
    with pytest.raises(dramatiq.ConnectionClosed, match=r"RESOURCE_LOCKED|PRECONDITION_FAILED"):
        actor.send()
    connection.close()


def test_messages_under_way_at_the_end_come_again(stage: Stage) -> None:
    begun, go = threading.Event(), threading.Event()
    seen: list[int] = []

    def run(number: int) -> None:
        begun.set()
        go.wait(PATIENCE_SECONDS)
        seen.append(number)

    actor = stage.actor(run, actor_name="hold")
    for number in range(4):
        actor.send(number)
    worker = stage.work(threads=1)
    assert begun.wait(PATIENCE_SECONDS)

    def go_on() -> None:
        until(lambda: not any(thread.running for thread in worker.workers), "the stop")
        go.set()

    threading.Thread(target=go_on).start()
    worker.stop()
    stage.workers.clear()
    left = 4 - len(seen)
    assert left > 0
    until(lambda: stage.counts()[0] == left, "what the worker had taken and not done")
    stage.work()
    until(lambda: len(seen) == 4, "the rest")
    assert sorted(seen) == [0, 1, 2, 3]
