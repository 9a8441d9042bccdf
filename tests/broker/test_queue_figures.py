"""Sums over queues are those of the messages in them, wherever these lie."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amqpd.broker.queue_figures import (
    DELIVERIES_A_STEP,
    NONE_UNACKED,
    NOTHING,
    Figures,
    Sum,
    figures,
    unacked_of,
)
from amqpd.commands import Queue, Tx
from amqpd.config import Limits
from tests.conversation import PERSISTENT, TRANSIENT, BrokerUnderTest, Channel, method, properties

T = TypeVar("T")

LIMITS = Limits(queue_memory_messages=8, queue_memory_bytes=1000)
QUORUM = {"x-queue-type": "quorum"}


def look(channel: Channel, name: str = "q") -> Figures:
    """What is in the queue."""
    core = channel.client.broker.core
    queue = core.virtual_hosts["/"].queues[name]
    return figures(queue, finished(unacked_of(core)).get(queue, NONE_UNACKED))


def finished(steps: Generator[None, None, T], between: Callable[[], None] = lambda: None) -> T:
    """What comes of these steps; `between` is what happens after each but the last."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found
        between()


def declare(channel: Channel, arguments: Mapping[str, str] | None = None) -> None:
    """A durable queue, which is safe."""
    sent = {name: ("S", value) for name, value in (arguments or {}).items()}
    channel.send(method(Queue.Declare, queue="q", durable=True), sent)
    channel.client.broker.journal.commit()
    channel.take(Queue.DeclareOk)


@dataclass
class Model:
    """Bodies of the messages in a queue, and which of them are persistent."""

    persistent: dict[bytes, bool] = field(default_factory=dict)
    unacked: dict[int, bytes] = field(default_factory=dict)

    def of(self, bodies: list[bytes]) -> Sum:
        """Their sum."""
        return Sum(len(bodies), sum(map(len, bodies)))

    def check(self, found: Figures) -> None:
        """All sums agree."""
        held = set(self.unacked.values())
        ready = [body for body in self.persistent if body not in held]
        assert found.ready == self.of(ready)
        assert found.unacked == self.of(list(held))
        assert found.all == self.of(list(self.persistent))
        assert found.persistent == self.of([b for b, kept in self.persistent.items() if kept])
        on_disk = found.ready.messages - found.ready_in_memory.messages
        assert 0 <= on_disk <= len(ready)
        assert found.in_memory == found.ready_in_memory + found.unacked
        assert found.ready_in_memory.body_bytes <= found.ready.body_bytes


step = st.sampled_from(["publish"] * 5 + ["transient"] * 3 + ["get"] * 3)
after = st.sampled_from(["ack", "ack", "nack", "reject", "purge", "commit", "tx-ack"])


@settings(deadline=None)
@given(st.lists(step | after, max_size=60), st.sampled_from(["classic", "quorum"]))
def test_sums_agree_with_what_was_done(steps: list[str], kind: str) -> None:
    broker = BrokerUnderTest(journaling=True, limits=LIMITS)
    channel, transacted = broker.client().channel(), broker.client().channel()
    declare(channel, {"x-queue-type": kind})
    transacted.tx_select()
    model = Model()
    in_transaction: dict[int, bytes] = {}
    for number, what in enumerate(steps):
        if what in ("publish", "transient"):
            body = b"%d" % number * (number % 7)
            body += b"%d." % number
            channel.publish("", "q", body, PERSISTENT if what == "publish" else TRANSIENT)
            model.persistent[body] = what == "publish" or kind == "quorum"
        elif what == "get":
            got = channel.get("q")
            if got is not None:
                model.unacked[got.delivery_tag] = got.body
        elif what == "tx-ack":
            got = transacted.get("q")
            if got is not None:
                transacted.ack(got.delivery_tag)
                in_transaction[got.delivery_tag] = got.body
                model.unacked[-got.delivery_tag] = got.body
        elif what == "purge":
            channel.send(method(Queue.Purge, queue="q"))
            broker.journal.commit()
            channel.take(Queue.PurgeOk)
            held = set(model.unacked.values())
            model.persistent = {b: kept for b, kept in model.persistent.items() if b in held}
        elif what == "commit":
            broker.journal.commit()
        elif tags := [tag for tag in model.unacked if tag > 0]:
            body = model.unacked.pop(tags[0])
            if what == "ack":
                channel.ack(tags[0])
            elif what == "nack":
                channel.nack(tags[0])
            else:
                channel.reject(tags[0], requeue=False)
            if what != "nack":
                del model.persistent[body]
        model.check(look(channel))
    transacted.send(Tx.Commit())
    broker.journal.commit()
    transacted.take(Tx.CommitOk)
    for tag, body in in_transaction.items():
        del model.unacked[-tag], model.persistent[body]
    model.check(look(channel))


def test_a_queue_that_does_not_last_has_nothing_persistent() -> None:
    channel = BrokerUnderTest(journaling=True).client().channel()
    channel.queue_declare("q")
    channel.publish("", "q", b"abc", PERSISTENT)
    assert look(channel).all == Sum(1, 3)
    assert look(channel).persistent == NOTHING


@pytest.mark.parametrize("flags", [PERSISTENT, TRANSIENT])
def test_what_is_on_disk_only_is_told_apart(flags: bytes) -> None:
    broker = BrokerUnderTest(journaling=True, limits=LIMITS)
    channel = broker.client().channel()
    declare(channel)
    for _ in range(50):
        channel.publish("", "q", b"x", flags)
        broker.journal.commit()
    found = look(channel)
    assert found.ready == Sum(50, 50)
    assert found.ready_in_memory.messages <= 12
    assert found.persistent == (Sum(50, 50) if flags == PERSISTENT else NOTHING)
    broker.crash_and_recover()
    again = broker.client().channel()
    assert look(again).persistent == look(again).all == found.persistent


def test_the_timestamp_of_the_first_message() -> None:
    channel = BrokerUnderTest().client().channel()
    channel.queue_declare("q")
    assert look(channel).head_timestamp is None
    for stamp in (1_700_000_000, 1_800_000_000):
        channel.publish("", "q", b"", properties(timestamp=stamp))
    channel.publish("", "q", b"")
    found = []
    for _ in range(3):
        found.append(look(channel).head_timestamp)
        channel.get("q", no_ack=True)
    assert found == [1_700_000_000, 1_800_000_000, None]


def test_dead_letters_that_stay_are_counted_apart() -> None:
    channel = BrokerUnderTest(journaling=True).client().channel()
    surely = {
        "x-dead-letter-exchange": "nowhere",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    declare(channel, QUORUM | surely)
    channel.publish("", "q", b"dead")
    channel.publish("", "q", b"living")
    got = channel.get("q")
    assert got is not None
    channel.reject(got.delivery_tag, requeue=False)
    found = look(channel)
    assert found.dead == Sum(1, 4)
    assert found.ready == found.all == found.ready_in_memory == Sum(1, 6)


def test_many_deliveries_are_looked_at_in_steps() -> None:
    broker = BrokerUnderTest()
    channels = [broker.client().channel() for _ in range(3)]
    channels[0].queue_declare("q")
    count = DELIVERIES_A_STEP + 7
    for channel in channels:
        channel.consume("q")
    for _ in range(3 * count):
        channels[0].publish("", "q", b"abc")
    assert [len(channel.deliveries()) for channel in channels] == [count] * 3
    queue = broker.core.virtual_hosts["/"].queues["q"]
    looks = []

    def between() -> None:
        looks.append(queue.unacked)
        channels[0].ack(0, multiple=True)  # what is settled meanwhile is in nobody's way

    found = finished(unacked_of(broker.core), between)
    assert looks == [3 * count, 2 * count, 2 * count]
    assert found[queue].all == Sum(3 * count, 9 * count)
