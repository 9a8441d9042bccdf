"""What the kills interrupt besides plain queues: priorities, dead letters, purges, definitions.

Each has one publisher, so that there is one order. Names are `life.who.number`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Final

from pamqp import commands

from tests.runtime.client import Client
from tests.runtime.kills import (
    WINDOW,
    Load,
    body_of,
    is_persistent,
    name_of,
    read_all,
)
from tests.runtime.process import BrokerProcess, wait_until

URGENT: Final = "urgent"
CHAIN: Final = ("chain.0", "chain.1", "chain.2", "chain.3")
PURGED: Final = "purged"
PRIORITIES: Final = 4


def when(name: str) -> tuple[int, int]:
    """When a message was published: life and number."""
    life, _, number = name.split(".")
    return int(life), int(number)


def priority_of(name: str) -> int:
    """The priority that goes with this name."""
    return when(name)[1] % PRIORITIES


class Flood(Load):
    """Publishes to one queue, confirmed, some tens of messages in flight."""

    def __init__(self, broker: BrokerProcess, life: int, queue: str) -> None:
        super().__init__(broker, life)
        self.queue = queue
        self.sent: list[str] = []

    def work(self) -> None:
        self.client.confirm_select()
        number = 0
        while True:
            number += 1
            name = f"{self.life}.m.{number}"
            self.sent.append(name)
            self.client.publish("", self.queue, body_of(name), priority=priority_of(name))
            self.client.wait_confirmed(number - WINDOW)

    @property
    def confirmed(self) -> list[str]:
        """What the broker answered for."""
        return self.sent[: self.client.confirmed]


class Taker(Load):
    """Takes what is in a queue: acknowledges a part, and rejects the rest or keeps it."""

    def __init__(self, broker: BrokerProcess, life: int, queue: str, *, rejects: bool) -> None:
        super().__init__(broker, life)
        self.queue = queue
        self.rejects = rejects
        self.acknowledged: set[str] = set()

    def work(self) -> None:
        self.client.consume(self.queue, prefetch=20)
        while True:
            delivery = self.client.next_delivery()
            name = name_of(delivery.body)
            drawn = zlib.crc32(name.encode()) % 16
            if drawn < 5:
                self.acknowledged.add(name)
                self.client.ack(delivery.delivery_tag)
            elif self.rejects:
                self.client.send(commands.Basic.Reject(delivery.delivery_tag, requeue=False))
            elif drawn < 15:
                self.client.send(commands.Basic.Reject(delivery.delivery_tag, requeue=True))


class Kept:
    """What has to be somewhere in the queues of an exercise."""

    def __init__(self) -> None:
        self.expected: set[str] = set()
        self.flood: Flood | None = None
        self.taker: Taker | None = None

    def check(self, found: list[str]) -> None:
        """Nothing confirmed is lost, nothing is twice or of nowhere."""
        assert self.flood is not None
        assert self.taker is not None
        here = set(found)
        assert len(here) == len(found), "something is there twice"
        assert all(map(is_persistent, found))
        due = (self.expected | set(self.flood.confirmed)) - self.taker.acknowledged
        lost = sorted(due - here, key=when)
        assert not lost, f"{len(lost)} confirmed messages are lost, the first is {lost[0]}"
        assert here <= self.expected | set(self.flood.sent), "messages that nobody published"
        self.expected = here


class Priorities:
    """A priority queue."""

    def __init__(self) -> None:
        self._kept = Kept()

    def begin(self, client: Client) -> None:
        """Declare it."""
        client.declare(URGENT, arguments={"x-max-priority": PRIORITIES - 1})

    def loads(self, broker: BrokerProcess, life: int) -> Sequence[Load]:
        """Fill it and take from it."""
        self._kept.flood = flood = Flood(broker, life, URGENT)
        self._kept.taker = taker = Taker(broker, life, URGENT, rejects=False)
        return flood, taker

    def check(self, client: Client) -> None:
        """All is there, and in order."""
        names = [name for name, _ in read_all(client, URGENT)]
        self._kept.check(names)
        assert names == sorted(names, key=lambda name: (-priority_of(name), when(name)))

    def empty(self, client: Client) -> None:
        """Purge."""
        client.call(commands.Queue.Purge(0, URGENT))
        self._kept.expected = set()


class DeadLetters:
    """Too long here, too old there, rejected in the third queue: each message is in one of them."""

    def __init__(self) -> None:
        self._kept = Kept()

    def begin(self, client: Client) -> None:
        """Declare the chain."""
        rules: tuple[dict[str, int], ...] = ({"x-max-length": 30}, {"x-message-ttl": 40}, {}, {})
        for queue, after, rule in zip(CHAIN, (*CHAIN[1:], None), rules, strict=True):
            buried: dict[str, object] = {}
            if after is not None:
                buried = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": after}
            client.declare(queue, arguments={**rule, **buried})

    def loads(self, broker: BrokerProcess, life: int) -> Sequence[Load]:
        """In at the beginning, and rejected at the third."""
        self._kept.flood = flood = Flood(broker, life, CHAIN[0])
        self._kept.taker = taker = Taker(broker, life, CHAIN[2], rejects=True)
        return flood, taker

    def check(self, client: Client) -> None:
        """Each message is at one place; and what came out of a queue kept its order."""
        wait_until(lambda: client.message_count(CHAIN[1]) == 0)
        found = []
        for queue in CHAIN:
            names = [name for name, _ in read_all(client, queue)]
            assert names == sorted(names, key=when), f"{queue} is out of order"
            found += names
        self._kept.check(found)

    def empty(self, client: Client) -> None:
        """Purge."""
        for queue in CHAIN:
            client.call(commands.Queue.Purge(0, queue))
        self._kept.expected = set()


class Purger(Load):
    """Publishes a few, has them confirmed, purges at times: all in one order."""

    def __init__(self, broker: BrokerProcess, life: int) -> None:
        super().__init__(broker, life)
        self.there: list[str] = []
        """Confirmed since the last purge that was answered."""
        self.purging = False
        """A purge was asked for, and not answered."""
        self.unconfirmed: list[str] = []

    def work(self) -> None:
        self.client.confirm_select()
        number = 0
        while True:
            for _ in range(number % 4 + 1):
                number += 1
                name = f"{self.life}.w.{number}"
                self.unconfirmed.append(name)
                self.client.publish("", PURGED, body_of(name))
            self.client.wait_confirmed()
            self.there += self.unconfirmed
            self.unconfirmed = []
            if number % 3 == 0:
                self.purging = True
                self.client.call(commands.Queue.Purge(0, PURGED))
                self.there = []
                self.purging = False


class Purges:
    """A purge is whole, and what it took does not come back."""

    def __init__(self) -> None:
        self._expected: list[str] = []
        self._purger: Purger | None = None

    def begin(self, client: Client) -> None:
        """Declare it."""
        client.declare(PURGED)

    def loads(self, broker: BrokerProcess, life: int) -> Sequence[Load]:
        """One client that does it all."""
        self._purger = Purger(broker, life)
        self._purger.there = self._expected
        return (self._purger,)

    def check(self, client: Client) -> None:
        """What is there is what was confirmed since the last purge, and perhaps a little more."""
        purger = self._purger
        assert purger is not None
        names = [name for name, _ in read_all(client, PURGED)]
        if not (purger.purging and not names):
            there = purger.there
            assert names[: len(there)] == there
            more = names[len(there) :]
            assert more == purger.unconfirmed[: len(more)]
        self._expected = names

    def empty(self, client: Client) -> None:
        """Leave it as it is."""


class Declarer(Load):
    """Declares, binds, unbinds and deletes, one after the other, again and again."""

    def __init__(
        self, broker: BrokerProcess, life: int, state: dict[tuple[str, ...], bool | None]
    ) -> None:
        super().__init__(broker, life)
        self.state = state

    def work(self) -> None:
        step = 0
        while True:
            step += 1
            # Each name has another rhythm.
            queue, exchange = f"queue.{step % 5}", f"exchange.{step % 3}"
            self._toggle(
                ("queue", queue),
                commands.Queue.Declare(0, queue, durable=True),
                commands.Queue.Delete(0, queue),
            )
            self._toggle(
                ("exchange", exchange),
                commands.Exchange.Declare(0, exchange, "topic", durable=True),
                commands.Exchange.Delete(0, exchange),
            )
            if self.state.get(("queue", queue)):
                key = f"key.{step % 2}"
                self._toggle(
                    ("binding", queue, key),
                    commands.Queue.Bind(0, queue, "amq.topic", key),
                    commands.Queue.Unbind(0, queue, "amq.topic", key),
                )

    def _toggle(self, name: tuple[str, ...], make: object, drop: object) -> None:
        there = self.state.get(name)
        self.state[name] = None  # until the answer comes
        self.client.call(drop if there else make)  # type: ignore[arg-type]
        self.state[name] = not there
        if there and name[0] == "queue":
            for other in [n for n in self.state if n[:2] == ("binding", name[1])]:
                self.state[other] = False


class Definitions:
    """What was answered is there, or gone."""

    def __init__(self) -> None:
        self._state: dict[tuple[str, ...], bool | None] = {}

    def begin(self, client: Client) -> None:
        """Nothing."""

    def loads(self, broker: BrokerProcess, life: int) -> Sequence[Load]:
        """One client."""
        return (Declarer(broker, life, self._state),)

    def check(self, client: Client) -> None:
        """Ask for each of them."""
        for name, there in sorted(self._state.items(), reverse=True):
            found = self._found(client, *name)
            gone_with_queue = name[0] == "binding" and self._state[("queue", name[1])] is not True
            if there is not None and not gone_with_queue:
                assert found == there, f"{name} is {'there' if found else 'gone'}"
            self._state[name] = found

    def _found(self, client: Client, kind: str, name: str, key: str = "") -> bool:
        if kind == "queue":
            return client.exists(commands.Queue.Declare(0, name, passive=True))
        if kind == "exchange":
            return client.exists(commands.Exchange.Declare(0, name, passive=True))
        if not client.exists(commands.Queue.Declare(0, name, passive=True)):
            return False
        before = client.message_count(name)
        client.publish("amq.topic", key, b"is it bound?")
        bound = client.message_count(name) > before
        client.call(commands.Queue.Purge(0, name))
        return bound

    def empty(self, client: Client) -> None:
        """Leave them as they are."""
