"""A channel: what it may not yet forget of what it was sent, and what its peer expects of it.

It holds the ledger of unacknowledged deliveries, the consumers, confirm and tx mode. Publishing is
in `publishing`, the methods are in `handlers`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from amqpd.broker.confirms import Confirms
from amqpd.broker.consumer import Consumer
from amqpd.broker.consumer_timeout import AcknowledgementWatch
from amqpd.broker.counts import Counts, Tally, of_channel
from amqpd.broker.events import terms
from amqpd.broker.messages import QueueMessage
from amqpd.broker.returns import LOST, REJECTED, RETURNED
from amqpd.broker.transaction import BufferedSettlement, Transaction
from amqpd.commands import ACK, DISCARD, REQUEUE, Basic, Frame, Outlet, Settle
from amqpd.errors import NOT_FOUND, PRECONDITION_FAILED, AMQPException, amqp_error
from amqpd_storage.entries import Barrier

if TYPE_CHECKING:
    from amqpd.broker.broker import Broker
    from amqpd.broker.queue import Queue
    from amqpd.broker.reply_to import ReplyConsumer
    from amqpd.broker.session import Session
    from amqpd.broker.virtual_host import VirtualHost

BASIC_REJECT: Final = (60, 90)

Delivery = tuple[QueueMessage, "Queue", Consumer | None]
"""An unacknowledged delivery; without a consumer when basic.get fetched it."""


class Channel:
    """One open channel of a session."""

    __slots__ = (
        "_left",
        "_serial",
        "_settled_through",
        "_tallied",
        "_watch",
        "blocked",
        "broker",
        "committing",
        "confirms",
        "consumer_unacked",
        "consumers",
        "counts",
        "default_prefetch",
        "delivery_tag",
        "global_prefetch",
        "last_queue",
        "number",
        "outlet",
        "published",
        "reply_consumer",
        "session",
        "taken_back",
        "tally",
        "transaction",
        "unacked",
        "virtual_host",
    )

    def __init__(self, number: int, session: Session, outlet: Outlet) -> None:
        self.number = number
        self.session = session
        self.broker: Broker = session.broker
        self._serial = self.broker.next_serial()
        self.virtual_host: VirtualHost = session.virtual_host
        self.outlet = outlet
        self.delivery_tag = 0
        """Of the latest delivery; deliver and get-ok share the counter."""
        self.unacked: dict[int, Delivery] = {}
        """The ledger, by delivery tag, in order of delivery tag."""
        self.consumer_unacked = 0
        """How many of these went to consumers, for the global prefetch limit."""
        self._settled_through = 0
        """No delivery of a tag up to this one is in the ledger."""
        self._watch: AcknowledgementWatch | None = None
        self.taken_back: set[int] = set()
        """Deliveries that the broker took out of the ledger: to settle them is no error."""
        self.consumers: dict[str, Consumer] = {}
        self.blocked: OrderedDict[Consumer, None] = OrderedDict()
        """The consumers that can take no messages now."""
        self.default_prefetch = 0
        self.global_prefetch = 0
        self.confirms: Confirms | None = None
        self.transaction: Transaction | None = None
        self.committing: Barrier | None = None
        """The barrier that tx.commit-ok waits for."""
        self._left: dict[Queue, None] = {}
        """Queues that the consumers of this channel have left while it ends."""
        self.last_queue: str | None = None
        """Stands in for an empty queue name."""
        self.reply_consumer: ReplyConsumer | None = None
        self.published = 0
        """Messages published without a publish number."""
        self.counts = Counts()
        """What is counted as it happens; `counts.of_channel` has all of it."""
        self.tally = Tally()
        """Of the exchange that was published to last."""
        self._tallied = 0
        """Where the odometer stood when that began."""

    @property
    def pid(self) -> str:
        """What tells it from all other channels and connections; see `Broker.pid`."""
        return self.broker.pid(self._serial)

    @property
    def uncommitted_settlements(self) -> int:
        """Deliveries that a transaction settles once it is committed."""
        if self.transaction is None:
            return 0
        return sum(len(settlement.deliveries) for settlement in self.transaction.settlements)

    # -- what happened here

    @property
    def odometer(self) -> int:
        """Messages published on this channel."""
        confirms = self.confirms
        return self.published if confirms is None else self.published + confirms.published

    def turn_to(self, tally: Tally) -> None:
        """The next message is for the exchange of this tally: the last one gets what is its due."""
        odometer = self.odometer
        self.tally.published += odometer - self._tallied
        self._tallied = odometer
        self.tally = tally

    # -- replies

    def reply(self, method: Frame) -> None:
        """Answer at once."""
        self.outlet.method(method)

    def reply_when_safe(self, method: Frame) -> Barrier | None:
        """Answer once everything journaled so far is on disk; None if nothing is waited for.

        What another channel is still waiting for is waited for as well: the queue that this one
        found declared may be its.
        """
        effects = self.broker.effects
        if not effects.entries and not effects.barriers:
            self.outlet.method(method)
            return None
        barrier = Barrier()
        effects.entries.append(barrier)
        effects.barriers[barrier] = (self, self.outlet.hold())
        self.outlet.method(method)
        return barrier

    def barrier_safe(self, barrier: Barrier, mark: object) -> None:
        """What the reply waited for is on disk."""
        if barrier is self.committing:
            self.committing = None
        self.outlet.release(mark)

    # -- names

    def named_queue(self, name: str, method: tuple[int, int]) -> str:
        """The queue that is meant: the channel's last declared one if the name is empty."""
        if name:
            return name
        if self.last_queue is None:
            raise amqp_error(NOT_FOUND, "no previously declared queue", method)
        return self.last_queue

    # -- settling deliveries

    def settle(self, command: Settle) -> None:
        """basic.ack, basic.nack, basic.reject."""
        if command.outcome == ACK and not command.multiple and self.transaction is None:
            self._acknowledge(command)
            return
        how = REJECTED if command.method == BASIC_REJECT else RETURNED
        for delivery_tag in range(command.delivery_tag, command.last_tag + 1):
            deliveries = self._take_from_ledger(command, delivery_tag)
            if self.transaction is not None:
                settlement = BufferedSettlement(command.outcome, deliveries, how)
                self.transaction.settlements.append(settlement)
            else:
                self.settle_together(command.outcome, ((deliveries, how),))

    def _acknowledge(self, command: Settle) -> None:
        """Each delivery by itself, except that a consumer which they make room for is handed out
        what it can take in one go: nobody else could have been given it meanwhile."""
        freed: Consumer | None = None
        for delivery_tag in range(command.delivery_tag, command.last_tag + 1):
            delivery = self.unacked.pop(delivery_tag, None)
            if freed is not None and (delivery is None or delivery[2] is not freed):
                freed.queue.unblock(freed)
                freed = None
            if delivery is None:
                self._refuse_unknown(command, delivery_tag)
                continue
            stored, queue, consumer = delivery
            queue.unacked -= 1
            if stored.key or queue.present is not None:
                queue.settle(stored)
            if consumer is not None:
                self.consumer_unacked = unacked = self.consumer_unacked - 1
                consumer.unacked -= 1
                if self.global_prefetch == unacked + 1:
                    self.unblock_consumers()
                elif consumer.blocked:
                    freed = consumer
        if freed is not None:
            freed.queue.unblock(freed)

    def settle_together(
        self, outcome: int, settlements: Iterable[tuple[dict[int, Delivery], int]]
    ) -> None:
        """Settle what is out of the ledger already, and then hand out again what came back of it.

        `settlements` are deliveries, and how they come back if they do. As in RabbitMQ, whose
        channels sort them by queue and consumer tag, each consumer has its windows filled before
        the next one has a turn; but where it was the channel's window that was full.
        """
        returned: dict[Queue, None] = {}
        freed: dict[Consumer, None] = {}
        was_full = self.consumer_unacked >= self.global_prefetch > 0
        for deliveries, how in settlements:
            if outcome == REQUEUE:
                self.counts.requeued += len(deliveries)
            elif outcome == DISCARD:
                self.counts.discarded += len(deliveries)
            for stored, queue, consumer in deliveries.values():
                queue.unacked -= 1
                if outcome == REQUEUE:
                    queue.take_back(stored, how)
                    returned[queue] = None
                elif outcome == DISCARD:
                    queue.reject(stored)
                else:
                    queue.settle(stored)
                if consumer is not None:
                    self.consumer_unacked -= 1
                    consumer.unacked -= 1
                    freed[consumer] = None
        for queue in returned:
            queue.drop_excess()
        if was_full:
            self.unblock_consumers()
        else:
            for consumer in sorted(freed, key=lambda each: (each.queue.name, each.tag)):
                consumer.queue.unblock(consumer)
        for queue in returned:
            queue.dispatch()

    def requeue_all(self) -> None:
        """Every unacknowledged delivery returns to its queue: basic.recover."""
        deliveries = self.unacked
        self.unacked = {}
        self._settled_through = self.delivery_tag
        self.settle_together(REQUEUE, ((deliveries, RETURNED),))

    def restore_to_ledger(self, settlements: list[BufferedSettlement]) -> None:
        """tx.rollback: what was settled within the transaction is unacknowledged again."""
        if not settlements:
            return
        for settlement in settlements:
            self.unacked.update(settlement.deliveries)
        self.unacked = dict(sorted(self.unacked.items()))
        self._settled_through = 0

    def unblock_consumers(self) -> None:
        """Something that held this channel's consumers back has changed.

        It may be enough for some of them, or none: they are asked in turn, and no more of them
        than there is room for. Those of one queue, if they stand one behind the other, share it;
        where some have priorities, all of these are asked, and it is the queue that knows whose
        turn it is.
        """
        blocked = self.blocked
        left = len(blocked)
        while blocked and left > 0:
            room = self.global_prefetch - self.consumer_unacked if self.global_prefetch else left
            if self.outlet.congested or room <= 0:
                return
            queue, together = next(iter(blocked)).queue, list[Consumer]()
            ranked = queue.consumers.ranked
            for consumer in blocked:
                if consumer.queue is not queue or (room <= 0 and not ranked):
                    break
                together.append(consumer)
                if not consumer.no_ack:
                    room -= 1
            left -= len(together)
            for consumer in together:
                blocked.move_to_end(consumer)
            queue.unblock_together(together)

    def _take_from_ledger(self, command: Settle, delivery_tag: int) -> dict[int, Delivery]:
        unacked = self.unacked
        if not command.multiple:
            delivery = unacked.pop(delivery_tag, None)
            if delivery is None:
                self._refuse_unknown(command, delivery_tag)
                return {}
            return {delivery_tag: delivery}
        if delivery_tag == 0:
            self.unacked = {}
            self._settled_through = self.delivery_tag
            return unacked
        if delivery_tag not in unacked:
            self._refuse_unknown(command, delivery_tag)
        first = self._settled_through + 1
        self._settled_through = delivery_tag
        # No walk from the start of the dict: it passes the traces of all that left it.
        if delivery_tag - first <= 2 * len(unacked):
            tags = [tag for tag in range(first, delivery_tag + 1) if tag in unacked]
            return {tag: unacked.pop(tag) for tag in tags}
        taken = {tag: delivery for tag, delivery in unacked.items() if tag <= delivery_tag}
        self.unacked = {tag: delivery for tag, delivery in unacked.items() if tag > delivery_tag}
        return taken

    def _refuse_unknown(self, command: Settle, delivery_tag: int) -> None:
        if delivery_tag not in self.taken_back:
            text = f"unknown delivery tag {delivery_tag}"
            raise amqp_error(PRECONDITION_FAILED, text, command.method)

    def watch_acknowledgements(self) -> None:
        """From now on there may be deliveries that have to be settled in time."""
        if self._watch is None:
            self._watch = AcknowledgementWatch(self)
        self._watch.start()

    # -- consumers

    def add_consumer(self, consumer: Consumer) -> None:
        """A new consumer. Its queue dispatches once its consume-ok is out."""
        self.consumers[consumer.tag] = consumer
        firehose = self.virtual_host.firehose
        if firehose is not None:
            consumer.outlet = firehose.outlet(consumer)
        consumer.queue.add_consumer(consumer)
        if not consumer.no_ack:
            self.watch_acknowledgements()
        if self.broker.events.wanted:
            properties = {
                "consumer_tag": consumer.tag,
                "exclusive": consumer.exclusive,
                "ack_required": not consumer.no_ack,
                "channel": self.pid,
                "vhost": self.virtual_host.name,
                "queue": consumer.queue.name,
                "prefetch_count": consumer.prefetch,
                "arguments": terms(consumer.arguments),
            }
            self.broker.events.emit("consumer.created", properties, self.session.user)

    def tell_consumer_gone(self, consumer: Consumer) -> None:
        """consumer.deleted, for whoever listens."""
        properties = {
            "consumer_tag": consumer.tag,
            "channel": self.pid,
            "vhost": self.virtual_host.name,
            "queue": consumer.queue.name,
        }
        self.broker.events.emit("consumer.deleted", properties, self.session.user)

    def remove_consumer(self, consumer: Consumer) -> None:
        """The peer cancelled it, or its channel ends."""
        self.tell_consumer_gone(consumer)
        self._leave_counts(consumer)
        del self.consumers[consumer.tag]
        queue = consumer.queue
        queue.remove_consumer(consumer)
        if queue.auto_delete and queue.had_consumer and not len(queue.consumers):
            self.virtual_host.delete_queue(queue)

    def consumer_lost(self, consumer: Consumer) -> None:
        """Its queue is gone. What it has not settled can still be settled."""
        self._leave_counts(consumer)
        del self.consumers[consumer.tag]
        if "consumer_cancel_notify" in self.session.capabilities:
            self.outlet.method(Basic.Cancel(consumer.tag, nowait=True))

    def _leave_counts(self, consumer: Consumer) -> None:
        """What a consumer was handed counts for its channel and its queue when it is gone, too."""
        self.counts.add_consumer(consumer)
        consumer.queue.counts.add_consumer(consumer)

    def _bequeath(self) -> None:
        """The virtual host counts on with what this channel has counted."""
        total = of_channel(self)
        total.confirm = self.counts.confirm
        self.virtual_host.counts.add(total)

    # -- the end

    def fail(self, exception: AMQPException) -> None:
        """The broker ends the channel of its own accord."""
        self.session.end_channel(self.number)
        self.outlet.fail(exception)

    def withdraw(self) -> None:
        """Take the consumers out of their queues, and hand nothing out.

        Of a channel that ends, or a connection: no consumer may be served what another one that is
        going as well gives back. With automatic acknowledgement that would lose it.
        """
        for consumer in self.consumers.values():
            self.tell_consumer_gone(consumer)
            self._leave_counts(consumer)
            consumer.queue.consumers.remove(consumer)
            consumer.queue.use()
            self._left[consumer.queue] = None
        self.consumers = {}

    def end(self) -> None:
        """The channel is closing: cancel, requeue, forget the open transaction."""
        self.withdraw()
        if self._watch is not None:
            self._watch.stop()
        self.turn_to(Tally())
        confirms = self.confirms
        if confirms is not None:
            self.counts.confirm = confirms.confirmed
            confirms.end()
        transaction = self.transaction
        if transaction is not None:
            self.restore_to_ledger(transaction.settlements)
            self.transaction = None
        if self.reply_consumer is not None:
            self.broker.reply_consumers.pop(self.reply_consumer.token, None)
            self.reply_consumer = None
        deliveries, self.unacked = self.unacked, {}
        self.counts.requeued += len(deliveries)
        self._bequeath()
        returned, self._left = self._left, {}
        for stored, queue, _ in deliveries.values():
            queue.unacked -= 1
            queue.take_back(stored, LOST)
            returned[queue] = None
        for queue in returned:
            if queue.deleted:
                continue
            if queue.auto_delete and queue.had_consumer and not len(queue.consumers):
                self.virtual_host.delete_queue(queue)
            else:
                queue.drop_excess()
                queue.dispatch()
