"""One durable queue, its consumers and its journal, against a model that is a list.

In some runs it has priorities, and the list is in their order.

The model does not foresee whose turn it is. It holds every delivery to the rules instead: it is
the first message that is ready, its consumer has room for it, `redelivered` is true exactly if it
was handed out before; and nothing stays ready while a consumer has room. Every confirm is held to
the truth when it comes: transient, settled, or on the disk; and none is owed after a turn.

In some runs the queue has a few messages in memory and the others on disk only, which nobody is to
notice. Then the journal has transient messages, too, under an id that a crash ends; a purge is a
range of them.

All channels are of one connection, so that what they hear has one order. Methods that would wait
for the journal are sent `nowait`: a reply that is held would hold deliveries behind it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from amqpd.commands import Arguments, Basic, Queue
from amqpd.config import Limits
from amqpd_storage.entries import PASSING_QUEUE_ID_MIN, DropRange, Enqueue, Settle, storage_key
from tests.conversation import (
    BrokerUnderTest,
    Channel,
    Client,
    Confirmed,
    Delivery,
    Got,
    method,
    properties,
)

PENDING, TAKEN, WRITTEN, ELIDED = range(4)
"""How far a message, or its settlement, is on its way to the disk."""
CHANNELS = 3
PRIORITY_MAX = 2


@dataclass
class Message:
    """A message as the model knows it. Its number is its body."""

    number: int
    priority: int
    persistent: bool
    publish_number: int
    written: int = PENDING
    settled: bool = False
    settled_written: int | None = None
    handed_out: bool = False
    mark_written: int | None = None
    """How far the journal's mark is that it was handed out."""
    confirmed: bool = False

    def advance(self, before: int, after: int) -> None:
        """A commit began, or ended."""
        if self.written == before:
            self.written = after
        if self.settled_written == before:
            self.settled_written = after
        if self.mark_written == before:
            self.mark_written = after

    @property
    def rank(self) -> tuple[int, int]:
        """Its place among those that are ready."""
        return -min(self.priority, PRIORITY_MAX), self.number

    @property
    def safe(self) -> bool:
        """Whether a confirm is true."""
        return not self.persistent or self.written in (WRITTEN, ELIDED)

    @property
    def survives(self) -> bool:
        """Whether a crash leaves it."""
        return self.persistent and self.written == WRITTEN and self.settled_written != WRITTEN


@dataclass
class Consumer:
    """A consumer as the model knows it."""

    tag: str
    channel: int
    no_ack: bool
    prefetch: int


@dataclass
class Ledger:
    """A channel as the model knows it: what it has not settled, by delivery tag."""

    global_prefetch: int = 0
    tag: int = 0
    unacked: dict[int, tuple[Message, str | None]] = field(default_factory=dict)

    def of_consumers(self) -> int:
        """How many of them went to consumers."""
        return sum(tag is not None for _, tag in self.unacked.values())

    def of(self, consumer: str) -> int:
        """How many of them went to this one."""
        return sum(tag == consumer for _, tag in self.unacked.values())


class QueueModel(RuleBasedStateMachine):
    """The machine: what a client may do, what a disk may do, and what has to hold then."""

    def __init__(self) -> None:
        super().__init__()
        self.broker: BrokerUnderTest
        self.messages: list[Message] = []
        self.ready: list[Message] = []
        self.consumers: dict[str, Consumer] = {}
        self.ledgers = [Ledger() for _ in range(CHANNELS)]
        self.single_active = False
        self.has_priorities = False
        self.writing = False
        self.published = 0
        self.tags = 0
        self.heard = 0
        self.client: Client
        self.channels: list[Channel]
        self.publisher: Channel
        self.observer: Channel

    @initialize(
        single_active=st.booleans(),
        has_priorities=st.booleans(),
        windows=st.lists(st.sampled_from([0, 0, 2]), min_size=CHANNELS, max_size=CHANNELS),
        in_memory=st.sampled_from([1, 4, 8, Limits().queue_memory_messages]),
    )
    def begin(
        self, single_active: bool, has_priorities: bool, windows: list[int], in_memory: int
    ) -> None:
        limits = Limits(queue_memory_messages=in_memory, flow_wait_s=0)
        self.broker = BrokerUnderTest(journaling=True, limits=limits)
        self.single_active = single_active
        self.has_priorities = has_priorities
        for ledger, window in zip(self.ledgers, windows, strict=True):
            ledger.global_prefetch = window
        self.connect()
        arguments: Arguments = {"x-single-active-consumer": ("t", True)} if single_active else {}
        if has_priorities:
            arguments["x-max-priority"] = ("I", PRIORITY_MAX)
        self.observer.send(method(Queue.Declare, queue="q", durable=True), arguments)
        self.broker.journal.commit()
        self.observer.take(Queue.DeclareOk)

    def connect(self) -> None:
        """A client with its channels."""
        self.client = self.broker.client()
        self.heard = 0
        self.channels = [self.client.channel() for _ in range(CHANNELS)]
        for number in range(CHANNELS):
            self.set_window(number)
        self.publisher = self.client.channel()
        self.publisher.confirm_select()
        self.observer = self.client.channel()
        self.published = 0
        self.listen()

    def set_window(self, number: int) -> None:
        """The prefetch window of the whole channel, with one for each consumer on odd channels."""
        if self.ledgers[number].global_prefetch:
            self.channels[number].qos(number % 2)
            self.channels[number].qos(self.ledgers[number].global_prefetch, of_channel=True)

    # -- what the broker says

    def listen(self) -> None:
        """Hold everything said since to the rules, in the order in which it was said."""
        log = self.client.log
        for number, heard in log[self.heard :]:
            if isinstance(heard, Delivery):
                self.hear_delivery(number - 1, heard)
            elif isinstance(heard, Confirmed):
                self.hear_confirm(heard)
        self.heard = len(log)
        for channel in (*self.channels, self.publisher):
            channel.take_all()

    def hear_delivery(self, number: int, delivery: Delivery) -> None:
        consumer = self.consumers[delivery.consumer_tag]
        assert consumer.channel == number
        assert self.may_take(consumer)
        ledger = self.ledgers[number]
        ledger.tag += 1
        assert delivery.delivery_tag == ledger.tag
        message = self.take_first(delivery.body, delivery.redelivered, marked=not consumer.no_ack)
        if consumer.no_ack:
            self.settle(message)
        else:
            ledger.unacked[ledger.tag] = (message, consumer.tag)

    def take_first(self, body: bytes, redelivered: bool, *, marked: bool) -> Message:
        """The broker handed out what has to be the first message."""
        message = self.ready.pop(0)
        assert body == b"%d" % message.number
        assert redelivered == message.handed_out
        message.handed_out = True
        if marked and message.mark_written is None:
            message.mark_written = PENDING
        return message

    def hear_confirm(self, confirm: Confirmed) -> None:
        assert confirm.ack
        for message in self.messages:
            if message.publish_number == confirm.number or (
                confirm.multiple and 0 < message.publish_number < confirm.number
            ):
                assert message.safe or message.settled
                assert confirm.multiple or not message.confirmed
                message.confirmed = True

    # -- the rules

    def has_room(self, consumer: Consumer) -> bool:
        ledger = self.ledgers[consumer.channel]
        if (
            not consumer.no_ack
            and consumer.prefetch
            and ledger.of(consumer.tag) >= consumer.prefetch
        ):
            return False
        window = ledger.global_prefetch
        return not window or ledger.of_consumers() < window

    def may_take(self, consumer: Consumer) -> bool:
        if self.single_active and next(iter(self.consumers)) != consumer.tag:
            return False
        return self.has_room(consumer)

    def settle(self, message: Message) -> None:
        message.settled = True
        if message.persistent:
            if message.written == PENDING:
                message.written = ELIDED
            elif message.settled_written is None:
                message.settled_written = PENDING

    def give_back(self, messages: list[Message]) -> None:
        self.ready = sorted(self.ready + messages, key=lambda message: message.rank)

    # -- what clients do

    @rule(
        persistent=st.booleans(),
        priorities=st.lists(st.integers(0, PRIORITY_MAX + 1), min_size=1, max_size=12),
    )
    def publish(self, persistent: bool, priorities: list[int]) -> None:
        if self.has_priorities:
            # Each is heard of before the next: a consumer who waits does not wait for a better one.
            for priority in priorities:
                self.publish_one(persistent, priority)
                self.listen()
        else:
            with self.client.together():
                for _ in priorities:
                    self.publish_one(persistent, 0)
            self.listen()

    def publish_one(self, persistent: bool, priority: int) -> None:
        self.published += 1
        number = len(self.messages)
        message = Message(number, priority, persistent, self.published)
        self.messages.append(message)
        self.give_back([message])
        mode = 2 if persistent else None
        octets = properties(delivery_mode=mode, priority=priority or None)
        self.publisher.publish("", "q", b"%d" % number, octets)

    @rule(
        number=st.integers(0, CHANNELS - 1),
        no_ack=st.sampled_from([False, False, True]),
        prefetch=st.sampled_from([0, 1, 1, 2]),
    )
    def consume(self, number: int, no_ack: bool, prefetch: int) -> None:
        self.tags += 1
        tag = f"t{self.tags}"
        if self.ledgers[number].global_prefetch:
            prefetch = number % 2  # another one would end the channel's window
        else:
            self.channels[number].qos(prefetch)
        self.consumers[tag] = Consumer(tag, number, no_ack, prefetch)
        said = method(Basic.Consume, queue="q", consumer_tag=tag, no_ack=no_ack, nowait=True)
        self.channels[number].send(said)
        self.listen()

    @precondition(lambda self: self.consumers)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        consumer = self.consumers.pop(data.draw(st.sampled_from(sorted(self.consumers))))
        said = method(Basic.Cancel, consumer_tag=consumer.tag, nowait=True)
        self.channels[consumer.channel].send(said)
        self.listen()

    @rule(number=st.integers(0, CHANNELS - 1), no_ack=st.booleans())
    def get(self, number: int, no_ack: bool) -> None:
        got = self.channels[number].get("q", no_ack=no_ack)
        assert (got is None) == (not self.ready)
        if got is not None:
            ledger = self.ledgers[number]
            ledger.tag += 1
            assert got.delivery_tag == ledger.tag
            message = self.take_first(got.body, got.redelivered, marked=True)
            assert got.message_count == len(self.ready)
            if no_ack:
                self.settle(message)
            else:
                ledger.unacked[ledger.tag] = (message, None)
        self.listen()

    @precondition(lambda self: self.ready)
    @rule(
        number=st.integers(0, CHANNELS - 1),
        gets=st.integers(1, 12),
        persistent=st.booleans(),
        priorities=st.lists(st.integers(0, PRIORITY_MAX + 1), min_size=1, max_size=30),
    )
    def get_and_publish(
        self, number: int, gets: int, persistent: bool, priorities: list[int]
    ) -> None:
        """In one turn: what a get makes the broker ask the disk for comes after what is published.

        No consumer has room, or nothing would be ready.
        """
        channel = self.channels[number]
        first, self.ready = self.ready[:gets], self.ready[gets:]
        with self.client.together():
            for _ in first:
                channel.send(method(Basic.Get, queue="q", no_ack=True))
            for priority in priorities:
                self.publish_one(persistent, priority if self.has_priorities else 0)
        self.ready = first + self.ready
        got = [heard for heard in channel.take_all() if isinstance(heard, Got)]
        assert len(got) == len(first)
        for heard in got:
            self.ledgers[number].tag += 1
            assert heard.delivery_tag == self.ledgers[number].tag
            self.settle(self.take_first(heard.body, heard.redelivered, marked=True))
        self.listen()

    def unsettled(self) -> list[tuple[int, int]]:
        """Channel and delivery tag of everything that is out."""
        return [
            (number, tag) for number, ledger in enumerate(self.ledgers) for tag in ledger.unacked
        ]

    @precondition(lambda self: self.unsettled())
    @rule(
        data=st.data(),
        how=st.sampled_from(["ack", "ack", "nack", "reject"]),
        multiple=st.booleans(),
        requeue=st.booleans(),
    )
    def settle_some(self, data: st.DataObject, how: str, multiple: bool, requeue: bool) -> None:
        number, tag = data.draw(st.sampled_from(self.unsettled()))
        ledger, channel = self.ledgers[number], self.channels[number]
        multiple = multiple and how != "reject"
        tags = [other for other in ledger.unacked if other <= tag] if multiple else [tag]
        messages = [ledger.unacked.pop(other)[0] for other in tags]
        if how == "ack" or not requeue:
            for message in messages:
                self.settle(message)
        else:
            self.give_back(messages)
        match how:
            case "ack":
                channel.ack(tag, multiple=multiple)
            case "nack":
                channel.nack(tag, multiple=multiple, requeue=requeue)
            case _:
                channel.reject(tag, requeue=requeue)
        self.listen()

    @rule(
        what=st.sampled_from(["recover", "close", "purge", "crash"]),
        number=st.integers(0, CHANNELS - 1),
    )
    def clear(self, what: str, number: int) -> None:
        """What empties much at once is one rule of many, so that there is something to empty."""
        match what:
            case "recover":
                self.recover(number)
            case "close":
                self.close_channel(number)
            case "purge":
                self.purge()
            case _:
                self.crash()

    def recover(self, number: int) -> None:
        ledger = self.ledgers[number]
        self.give_back([message for message, _ in ledger.unacked.values()])
        ledger.unacked.clear()
        self.channels[number].send(method(Basic.RecoverAsync, requeue=True))
        self.listen()

    def close_channel(self, number: int) -> None:
        ledger = self.ledgers[number]
        self.give_back([message for message, _ in ledger.unacked.values()])
        ledger.unacked.clear()
        ledger.tag = 0
        for consumer in list(self.consumers.values()):
            if consumer.channel == number:
                del self.consumers[consumer.tag]
        self.channels[number].close()
        self.listen()
        self.channels[number].open()
        self.set_window(number)

    def purge(self) -> None:
        for message in self.ready:
            self.settle(message)
        self.ready.clear()
        self.observer.send(method(Queue.Purge, queue="q", nowait=True))
        self.listen()

    # -- what the disk does

    @rule()
    def commit(self) -> None:
        """Everything, to the end."""
        if self.writing:
            self.end_commit()
        self.begin_commit()
        self.end_commit()
        assert all(message.confirmed for message in self.messages)

    @precondition(lambda self: not self.writing)
    @rule()
    def begin_commit(self) -> None:
        batch = self.broker.journal.begin_commit()
        self.writing = batch is not None
        expected = [
            message.number
            for message in self.messages
            if message.persistent and message.written == PENDING
        ]
        settled = [message for message in self.messages if message.settled_written == PENDING]
        entries = [] if batch is None else batch.entries
        passing = storage_key(PASSING_QUEUE_ID_MIN, 0)
        enqueues = [
            entry for entry in entries if isinstance(entry, Enqueue) and entry.key < passing
        ]
        assert [int(entry.content.body) for entry in enqueues] == expected
        gone = sum(
            entry.messages
            for entry in entries
            if (isinstance(entry, Settle) and entry.key < passing)
            or (isinstance(entry, DropRange) and entry.first < passing)
        )
        assert gone == len(settled)
        for message in self.messages:
            message.advance(PENDING, TAKEN)

    @precondition(lambda self: self.writing)
    @rule()
    def end_commit(self) -> None:
        for message in self.messages:
            message.advance(TAKEN, WRITTEN)
        if self.writing:
            self.writing = False
            self.broker.journal.end_commit()
        self.listen()

    def crash(self) -> None:
        """kill -9: what was written is there, in order, and says whether it was handed out."""
        self.broker.crash_and_recover()
        self.writing = False
        self.ready = []
        self.give_back([message for message in self.messages if message.survives])
        self.messages = list(self.messages)
        for message in self.messages:
            if message.survives:
                message.settled = False
                message.settled_written = None
                message.handed_out = message.mark_written == WRITTEN
                message.mark_written = WRITTEN if message.handed_out else None
            else:
                message.settled = True
                message.written = ELIDED
                message.settled_written = None
            message.publish_number = 0
            message.confirmed = True
        self.consumers.clear()
        for ledger in self.ledgers:
            ledger.unacked.clear()
            ledger.tag = 0
        self.connect()

    # -- what always holds

    @invariant()
    def nothing_waits_while_somebody_has_room(self) -> None:
        if self.ready:
            assert not any(self.may_take(consumer) for consumer in self.consumers.values())

    @invariant()
    def windows_are_kept(self) -> None:
        for consumer in self.consumers.values():
            ledger = self.ledgers[consumer.channel]
            assert not consumer.prefetch or ledger.of(consumer.tag) <= consumer.prefetch
        for ledger in self.ledgers:
            assert not ledger.global_prefetch or ledger.of_consumers() <= ledger.global_prefetch

    @invariant()
    def counts_add_up(self) -> None:
        if hasattr(self, "observer"):
            assert self.observer.counts("q") == (len(self.ready), len(self.consumers))
            out = sum(len(ledger.unacked) for ledger in self.ledgers)
            alive = [message for message in self.messages if not message.settled]
            assert len(alive) == len(self.ready) + out

    @invariant()
    def no_confirm_is_owed(self) -> None:
        for message in self.messages:
            assert message.confirmed == message.safe


QueueModel.TestCase.settings = settings(
    max_examples=250, stateful_step_count=50, deadline=None, print_blob=True
)
TestQueueModel = QueueModel.TestCase
