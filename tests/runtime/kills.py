"""kill -9 under load: what does what to the broker, and what has to be there afterwards.

Run by test_crash a few times, and by kill_campaign as often as one likes. What happens depends on
chance and on the machine.
"""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Protocol

from pamqp import commands

from tests.runtime.client import Client, Gone
from tests.runtime.process import BrokerProcess

WINDOW = 40
PREFETCH = 7

DIRECT = "direct"
FANNED = ("fan.1", "fan.2", "fan.3")
CONSUMED = "fan.2"
TRANSACTED = ("tx.1", "tx.2")
TASKS = "tasks"
QUEUES = (DIRECT, *FANNED, *TRANSACTED, TASKS)


def body_of(name: str) -> bytes:
    """The one body that goes with this name: of any size, and with an end that can be missed."""
    seed = zlib.crc32(name.encode())
    size = 200_000 if seed % 97 == 0 else seed % 1500
    return name.encode() + b"|" + b"x" * size + b"|%d" % seed


def name_of(body: bytes) -> str:
    """Who it is. Fails if the body is not whole."""
    name = body.partition(b"|")[0].decode()
    assert body == body_of(name), f"torn: {body[:100]!r}"
    return name


class Load:
    """What one thread did to the broker until it was killed."""

    def __init__(self, broker: BrokerProcess, life: int) -> None:
        self.life = life
        self.client = Client(broker.address)
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            with self.client:
                self.work()
        except (Gone, OSError):
            pass  # killed, as it should be
        except BaseException as error:
            self.failure = error

    def work(self) -> None:
        raise NotImplementedError


class Publisher(Load):
    """Persistent and transient messages, confirmed, some tens of them in flight."""

    def __init__(
        self,
        broker: BrokerProcess,
        life: int,
        name: str,
        exchange: str,
        routing_key: str,
        consumer: Consumer | None = None,
    ) -> None:
        super().__init__(broker, life)
        self.name = name
        self.exchange = exchange
        self.routing_key = routing_key
        self.consumer = consumer
        self.sent: list[tuple[str, int]] = []
        """Name of each message, and how many deliveries the consumer had got when it was sent."""

    def work(self) -> None:
        self.client.confirm_select()
        number = 0
        while True:
            number += 1
            persistent = number % 5 != 0
            name = f"{self.life}.{self.name}.{number}" if persistent else f"transient.{number}"
            self.sent.append((name, len(self.consumer.seen) if self.consumer else 0))
            body = body_of(name)
            self.client.publish(self.exchange, self.routing_key, body, persistent=persistent)
            self.client.wait_confirmed(number - WINDOW)

    @property
    def confirmed(self) -> list[str]:
        """Persistent messages that the broker answered for."""
        return [name for name, _ in self.sent[: self.client.confirmed] if is_persistent(name)]

    @property
    def unconfirmed(self) -> list[str]:
        """Persistent messages that it may or may not have."""
        return [name for name, _ in self.sent[self.client.confirmed :] if is_persistent(name)]

    @property
    def deliveries_safe(self) -> int:
        """So many deliveries came before a publish whose confirm waited for a commit."""
        confirmed = self.sent[: self.client.confirmed]
        return max((seen for name, seen in confirmed if is_persistent(name)), default=0)


class Consumer(Load):
    """Acknowledges three quarters of what it gets, and keeps the rest."""

    def __init__(self, broker: BrokerProcess, life: int) -> None:
        super().__init__(broker, life)
        self.seen: list[str] = []
        self.acknowledged: set[str] = set()

    def work(self) -> None:
        self.client.consume(CONSUMED, prefetch=PREFETCH)
        kept = 0
        while True:
            delivery = self.client.next_delivery()
            name = name_of(delivery.body)
            self.seen.append(name)
            if kept < PREFETCH - 2 and zlib.crc32(name.encode()) % 4 == 0:
                kept += 1
            else:
                self.acknowledged.add(name)
                self.client.ack(delivery.delivery_tag)


class Transactor(Load):
    """Takes a task and puts its results into two queues, all of it at once or not at all."""

    def __init__(self, broker: BrokerProcess, life: int) -> None:
        super().__init__(broker, life)
        self.tried: list[str] = []
        self.committed = 0

    def work(self) -> None:
        client = self.client
        with suppress(IndexError):
            client.call(commands.Tx.Select())
            while True:
                task = client.get(TASKS)
                assert task is not None
                name = name_of(task.body)
                client.publish("", TRANSACTED[0], body_of(f"{name}.a"))
                client.publish("", TRANSACTED[1], body_of(f"{name}.b"))
                client.publish("", TRANSACTED[0], body_of(f"{name}.c"))
                client.ack(task.delivery_tag)
                self.tried.append(name)
                client.call(commands.Tx.Commit())
                self.committed += 1


def is_persistent(name: str) -> bool:
    return not name.startswith("transient")


class Exercise(Protocol):
    """Something else that is done to the broker meanwhile, on queues of its own."""

    def begin(self, client: Client) -> None:
        """The first life: declare everything."""

    def loads(self, broker: BrokerProcess, life: int) -> Sequence[Load]:
        """What to do until the broker is killed."""

    def check(self, client: Client) -> None:
        """Compare what is there with what was done."""

    def empty(self, client: Client) -> None:
        """Take everything out."""


class World:
    """The broker, and what has to be in its queues."""

    def __init__(self, broker: BrokerProcess, exercises: Sequence[Exercise] = ()) -> None:
        self.broker = broker
        self.exercises = exercises
        self.life = 0
        self.expected: dict[str, list[str]] = {queue: [] for queue in QUEUES}
        """What is certainly there, handed out at least once; in order."""
        self.loads: list[Load] = []

    def begin(self) -> None:
        """The first life: declare everything."""
        self.broker.start(*self._with_definitions())
        with Client(self.broker.address) as client:
            client.call(commands.Exchange.Declare(0, "fan", "fanout", durable=True))
            for queue in QUEUES:
                client.declare(queue)
            for queue in FANNED:
                client.call(commands.Queue.Bind(0, queue, "fan", ""))
            for exercise in self.exercises:
                exercise.begin(client)

    def _with_definitions(self) -> list[str]:
        """What exercises have that no AMQP client can declare."""
        wanted = [getattr(exercise, "definitions", {}) for exercise in self.exercises]
        if not any(wanted):
            return []
        merged: dict[str, list[object]] = {}
        for definitions in wanted:
            for kind, objects in definitions.items():
                merged.setdefault(kind, []).extend(objects)
        file = self.broker.directory / "definitions.json"
        file.write_text(json.dumps({"rabbit_version": "3.13.7", **merged}))
        return ["--definitions", str(file)]

    def live(self, seconds: float) -> None:
        """Put load on the broker, and kill it."""
        self.life += 1
        self.add_tasks()
        broker, life = self.broker, self.life
        consumer = Consumer(broker, life)
        self.loads = [
            consumer,
            Publisher(broker, life, "p", "", DIRECT),
            Publisher(broker, life, "q", "", DIRECT),
            Publisher(broker, life, "f", "fan", "", consumer),
            Publisher(broker, life, "g", "fan", "", consumer),
            Transactor(broker, life),
        ]
        for exercise in self.exercises:
            self.loads += exercise.loads(broker, life)
        for load in self.loads:
            load.thread.start()
        time.sleep(seconds)
        broker.kill()
        for load in self.loads:
            load.thread.join()
            if load.failure is not None:
                raise load.failure

    def add_tasks(self) -> None:
        with Client(self.broker.address) as client:
            client.confirm_select()
            names = [f"{self.life}.task.{number}" for number in range(300)]
            for name in names:
                client.publish("", TASKS, body_of(name))
            client.wait_confirmed()
            client.close()
        self.fresh_tasks = names

    def check(self) -> None:
        """Start the broker again and compare."""
        self.broker.start()
        with Client(self.broker.address) as client:
            found = {queue: list(read_all(client, queue)) for queue in QUEUES}
            client.close()  # everything returns to its place
        for queue in (DIRECT, *FANNED):
            self.check_published(queue, found[queue])
        self.check_transactions(found)
        self.expected = {queue: [name for name, _ in messages] for queue, messages in found.items()}
        for exercise in self.exercises:
            with Client(self.broker.address) as client:
                exercise.check(client)
                client.close()

    def empty(self) -> None:
        """Take everything out, so that the queues begin anew and old places are used again."""
        with Client(self.broker.address) as client:
            for queue in QUEUES:
                client.call(commands.Queue.Purge(0, queue))
                self.expected[queue] = []
            for exercise in self.exercises:
                exercise.empty(client)
            client.close()

    def check_published(self, queue: str, messages: list[tuple[str, bool]]) -> None:
        names = [name for name, _ in messages]
        exchange = "" if queue == DIRECT else "fan"
        publishers = [
            load for load in self.loads if isinstance(load, Publisher) and load.exchange == exchange
        ]
        consumer = next(load for load in self.loads if isinstance(load, Consumer))
        may_be_gone = consumer.acknowledged if queue == CONSUMED else set()
        old = self.expected[queue]

        assert len(set(names)) == len(names), "something is there twice"
        assert all(map(is_persistent, names)), "transient messages came back"
        here = set(names)
        assert not [n for n in old if n not in here and n not in may_be_gone]
        for publisher in publishers:
            lost = [n for n in publisher.confirmed if n not in here and n not in may_be_gone]
            assert not lost, f"{len(lost)} confirmed messages are lost, the first is {lost[0]}"
        # Nothing else is there, and each publisher's messages are in the order they were sent in.
        survivors = [name for name in old if name in here]
        assert names[: len(survivors)] == survivors
        by_publisher: dict[str, list[str]] = {publisher.name: [] for publisher in publishers}
        for name in names[len(survivors) :]:
            life, publisher_name, _ = name.split(".")
            assert life == str(self.life)
            by_publisher[publisher_name].append(name)
        for publisher in publishers:
            sent = [name for name, _ in publisher.sent if is_persistent(name)]
            arrived = set(by_publisher[publisher.name])
            assert by_publisher[publisher.name] == [name for name in sent if name in arrived]
            # What is unconfirmed and there is the beginning of what was unconfirmed.
            tail = [name in arrived for name in publisher.unconfirmed if name not in may_be_gone]
            assert tail == sorted(tail, reverse=True)
        self.check_flags(queue, messages, set(survivors), consumer, publishers)

    def check_flags(
        self,
        queue: str,
        messages: list[tuple[str, bool]],
        survivors: set[str],
        consumer: Consumer,
        publishers: list[Publisher],
    ) -> None:
        """`redelivered`: what the last life's check saw, and what the consumer certainly got."""
        redelivered = {name for name, flag in messages if flag}
        assert survivors <= redelivered
        fresh = [name for name, _ in messages if name not in survivors]
        if queue != CONSUMED:
            assert not redelivered & set(fresh)
            return
        safe = max(publisher.deliveries_safe for publisher in publishers)
        assert {name for name in consumer.seen[:safe] if is_persistent(name)} & set(
            fresh
        ) <= redelivered
        # The broker may have handed out a window more than the consumer got to see.
        seen = set(consumer.seen)
        unseen = [name for name in fresh if name not in seen]
        assert not redelivered & set(unseen[PREFETCH:])

    def check_transactions(self, found: dict[str, list[tuple[str, bool]]]) -> None:
        transactor = next(load for load in self.loads if isinstance(load, Transactor))
        here = {queue: [name for name, _ in found[queue]] for queue in (*TRANSACTED, TASKS)}
        tasks = self.expected[TASKS] + self.fresh_tasks
        done = [task for task in tasks if task not in set(here[TASKS])]
        assert here[TASKS] == tasks[len(done) :], "tasks are taken in their order"
        assert done in (
            transactor.tried[: transactor.committed],
            transactor.tried[: transactor.committed + 1],
        )
        results = [f"{task}.{part}" for task in done for part in "ac"]
        assert here[TRANSACTED[0]] == self.expected[TRANSACTED[0]] + results
        assert here[TRANSACTED[1]] == self.expected[TRANSACTED[1]] + [f"{t}.b" for t in done]


def read_all(client: Client, queue: str) -> Iterator[tuple[str, bool]]:
    """What is ready in a queue, unacknowledged: name and redelivered flag."""
    count = client.message_count(queue)
    if count:
        client.consume(queue)
    for _ in range(count):
        delivery = client.next_delivery()
        assert delivery.persistent
        yield name_of(delivery.body), delivery.redelivered
