"""What the kills interrupt, continued: policies, delivery limits, delays, deduplication, and dead
letters that must not be lost.

Each exercise has one publisher; its messages are somewhere in the exercise's queues, once.
"""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from pamqp import commands

from tests.conversation import properties
from tests.patience import PATIENCE_S
from tests.runtime.client import Client
from tests.runtime.exercises import Flood, Kept, Taker, when
from tests.runtime.kills import WINDOW, Load, body_of, name_of
from tests.runtime.process import BrokerProcess, wait_until

CAPPED: Final = ("capped", "capped.over")
CAPPED_MAX: Final = 25
CAPPED_POLICY: Final = {
    "vhost": "/",
    "name": "cap",
    "pattern": "^capped$",
    "apply-to": "queues",
    "priority": 1,
    "definition": {
        "max-length": CAPPED_MAX,
        "dead-letter-exchange": "",
        "dead-letter-routing-key": CAPPED[1],
    },
}
"""Imported at the first start, and in force after each kill."""

LIMITED: Final = ("limited", "limited.dead")
DELIVERY_LIMIT: Final = 2
LATER: Final = "later"
DELAYS_MS: Final = (1, 10, 60, 200)
ONCE: Final = "once"
SURE: Final = ("sure", "sure.dead")


def drained(client: Client, queues: Sequence[str]) -> list[list[str]]:
    """Everything in these queues, which are empty afterwards."""
    found = []
    for queue in queues:
        names = []
        while (delivery := client.get(queue, no_ack=True)) is not None:
            names.append(name_of(delivery.body))
        found.append(names)
    return found


class Policies:
    """A queue whose rules are those of a policy: what is too much goes to another queue."""

    definitions: Final = {"policies": [CAPPED_POLICY]}

    def __init__(self) -> None:
        self._kept = Kept()

    def begin(self, client: Client) -> None:
        """Declare both."""
        for queue in CAPPED:
            client.declare(queue)

    def loads(self, broker: BrokerProcess, life: int) -> Sequence[Load]:
        """Into the one, out of the other."""
        self._kept.flood = flood = Flood(broker, life, CAPPED[0])
        self._kept.taker = taker = Taker(broker, life, CAPPED[1], rejects=False)
        return flood, taker

    def check(self, client: Client) -> None:
        """The policy is in force: there is no more in the queue than it says."""
        assert client.message_count(CAPPED[0]) <= CAPPED_MAX
        first, over = drained(client, CAPPED)
        assert first == sorted(first, key=when)
        self._kept.check(first + over)
        self._kept.expected = set()

    def empty(self, client: Client) -> None:
        """The check does."""


class Returner(Load):
    """Wants few of the messages it gets: most go back to their queue, again and again."""

    def __init__(self, broker: BrokerProcess, life: int, queue: str) -> None:
        super().__init__(broker, life)
        self.queue = queue
        self.acknowledged: set[str] = set()
        self.returned: Counter[str] = Counter()

    def work(self) -> None:
        self.client.consume(self.queue, prefetch=10)
        while True:
            delivery = self.client.next_delivery()
            name = name_of(delivery.body)
            if zlib.crc32(name.encode()) % 4 == 0:
                self.acknowledged.add(name)
                self.client.ack(delivery.delivery_tag)
            else:
                self.returned[name] += 1
                self.client.send(commands.Basic.Reject(delivery.delivery_tag, requeue=True))


class DeliveryLimits:
    """A quorum queue: what came back too often goes to the dead, and nothing else does."""

    def __init__(self) -> None:
        self._expected: set[str] = set()
        self._flood: Flood | None = None
        self._returner: Returner | None = None

    def begin(self, client: Client) -> None:
        """Declare it, and where its dead go."""
        client.declare(LIMITED[1])
        client.declare(
            LIMITED[0],
            arguments={
                "x-queue-type": "quorum",
                "x-delivery-limit": DELIVERY_LIMIT,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": LIMITED[1],
            },
        )

    def loads(self, broker: BrokerProcess, life: int) -> Sequence[Load]:
        """Fill it and give back."""
        self._flood = Flood(broker, life, LIMITED[0])
        self._returner = Returner(broker, life, LIMITED[0])
        return self._flood, self._returner

    def check(self, client: Client) -> None:
        """Nothing confirmed is lost, and the dead came back more often than they may."""
        flood, returner = self._flood, self._returner
        assert flood is not None
        assert returner is not None
        alive, dead = drained(client, LIMITED)
        here = set(alive + dead)
        assert len(here) == len(alive) + len(dead), "something is there twice"
        lost = set(flood.confirmed) - returner.acknowledged - here
        assert not lost, f"{len(lost)} confirmed messages are lost, one is {min(lost)}"
        assert here <= set(flood.sent), "messages that nobody published"
        early = [name for name in dead if returner.returned[name] <= DELIVERY_LIMIT]
        assert not early, f"dead before their limit: {early[:3]}"

    def empty(self, client: Client) -> None:
        """The check does."""


class Delayer(Load):
    """Publishes messages that are to come later, confirmed."""

    def __init__(self, broker: BrokerProcess, life: int) -> None:
        super().__init__(broker, life)
        self.sent: list[str] = []

    def work(self) -> None:
        self.client.confirm_select()
        number = 0
        while True:
            number += 1
            name = f"{self.life}.l.{number}"
            self.sent.append(name)
            delay_ms = DELAYS_MS[zlib.crc32(name.encode()) % len(DELAYS_MS)]
            said = properties(delivery_mode=2, headers={"x-delay": delay_ms})
            self.client.publish(LATER, LATER, body_of(name), properties=said)
            self.client.wait_confirmed(number - WINDOW)

    @property
    def confirmed(self) -> list[str]:
        """What the broker answered for."""
        return self.sent[: self.client.confirmed]


class Delays:
    """A delayed exchange: whatever waits when the broker is killed comes when it starts again."""

    def __init__(self) -> None:
        self._delayer: Delayer | None = None

    def begin(self, client: Client) -> None:
        """Declare it."""
        arguments: dict[str, Any] = {"x-delayed-type": "direct"}
        client.call(
            commands.Exchange.Declare(
                0, LATER, "x-delayed-message", durable=True, arguments=arguments
            )
        )
        client.declare(LATER)
        client.call(commands.Queue.Bind(0, LATER, LATER, LATER))

    def loads(self, broker: BrokerProcess, life: int) -> Sequence[Load]:
        """One publisher."""
        self._delayer = Delayer(broker, life)
        return (self._delayer,)

    def check(self, client: Client) -> None:
        """Each comes, once."""
        delayer = self._delayer
        assert delayer is not None
        due = time.monotonic() + max(DELAYS_MS) / 1000
        wait_until(lambda: time.monotonic() > due)
        found: set[str] = set()
        missing = set(delayer.confirmed)
        until = time.monotonic() + PATIENCE_S
        while True:
            ((more),) = drained(client, (LATER,))
            assert len(set(more)) == len(more), "something came twice"
            assert not found & set(more), "something came again"
            found |= set(more)
            missing -= found
            if not missing and not more:
                break
            assert time.monotonic() < until, f"{len(missing)} never came, one is {min(missing)}"
        assert found <= set(delayer.sent), "messages that nobody published"

    def empty(self, client: Client) -> None:
        """The check does."""


class Repeater(Load):
    """Publishes everything twice; and what it does not know of its last life once more."""

    def __init__(self, broker: BrokerProcess, life: int, again: Sequence[str]) -> None:
        super().__init__(broker, life)
        self.sent: list[str] = []
        """One name for each publish."""
        self._again = again

    def work(self) -> None:
        self.client.confirm_select()
        for name in self._again:
            self._publish(name)
        number = 0
        while True:
            number += 1
            self._publish(f"{self.life}.o.{number}")
            if number > 3:
                self._publish(f"{self.life}.o.{number - 3}")

    def _publish(self, name: str) -> None:
        said = properties(delivery_mode=2, headers={"x-deduplication-header": name})
        self.sent.append(name)
        self.client.publish(ONCE, "", body_of(name), properties=said)
        self.client.wait_confirmed(len(self.sent) - WINDOW)

    @property
    def confirmed(self) -> list[str]:
        """What the broker answered for."""
        return self.sent[: self.client.confirmed]


class Deduplication:
    """An exchange that remembers on disk what passed: nothing passes twice, over any kill."""

    def __init__(self) -> None:
        self._repeater: Repeater | None = None
        self._passed: set[str] = set()
        self._again: list[str] = []

    def begin(self, client: Client) -> None:
        """Declare it."""
        arguments: dict[str, Any] = {"x-cache-size": 1_000_000, "x-cache-persistence": "disk"}
        client.call(
            commands.Exchange.Declare(
                0, ONCE, "x-message-deduplication", durable=True, arguments=arguments
            )
        )
        client.declare(ONCE)
        client.call(commands.Queue.Bind(0, ONCE, ONCE, ""))

    def loads(self, broker: BrokerProcess, life: int) -> Sequence[Load]:
        """One publisher."""
        self._repeater = Repeater(broker, life, self._again)
        return (self._repeater,)

    def check(self, client: Client) -> None:
        """What was confirmed came once: now or in an earlier life."""
        repeater = self._repeater
        assert repeater is not None
        ((names),) = drained(client, (ONCE,))
        assert len(set(names)) == len(names), "something passed twice"
        assert not self._passed & set(names), "something passed again after a kill"
        assert set(names) <= set(repeater.sent), "messages that nobody published"
        self._passed |= set(names)
        lost = set(repeater.confirmed) - self._passed
        assert not lost, f"{len(lost)} confirmed messages are lost, one is {min(lost)}"
        self._again = repeater.sent[-2 * WINDOW :]

    def empty(self, client: Client) -> None:
        """The check does."""


class SureDeadLetters:
    """A quorum queue whose dead letters go at least once."""

    def __init__(self) -> None:
        self._kept = Kept()

    def begin(self, client: Client) -> None:
        """Declare it, and where its dead go."""
        client.declare(SURE[1])
        client.declare(
            SURE[0],
            arguments={
                "x-queue-type": "quorum",
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
                "x-message-ttl": 25,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": SURE[1],
            },
        )

    def loads(self, broker: BrokerProcess, life: int) -> Sequence[Load]:
        """In at the one, out of the other: too old here, or rejected."""
        self._kept.flood = flood = Flood(broker, life, SURE[0])
        self._kept.taker = taker = Taker(broker, life, SURE[0], rejects=True)
        return flood, taker

    def check(self, client: Client) -> None:
        """Each is in one of them, in the end in the second."""
        wait_until(lambda: client.message_count(SURE[0]) == 0)
        ((dead),) = drained(client, SURE[1:])
        self._kept.check(dead)
        self._kept.expected = set()

    def empty(self, client: Client) -> None:
        """The check does."""
