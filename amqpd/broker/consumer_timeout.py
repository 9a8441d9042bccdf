"""The acknowledgement timeout: a delivery that nobody settles for too long is taken back.

RabbitMQ up to 4.2: the channel whose *oldest* delivery is too old is closed, 406. 4.3, for quorum
queues alone: what is too old goes back to its queue, as nothing that failed, and its consumer is
cancelled; a client that would not understand that (no `consumer_cancel_notify`) loses its channel.

No delivery is stamped with a time. Each tick notes the latest delivery tag, and so knows of every
delivery in the ledger, which is in order, between which two ticks it went out:

    ticks:     60 s       120 s       180 s
    tags:   1 ... 17 | 18 ... 54 | 55 ... 61            tag 20 went out by 120 s

A delivery is so found out late by a tick at most, as in RabbitMQ, which looks once a minute.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from amqpd.broker.names import queue_text
from amqpd.broker.queue_arguments import CONSUMER_TIMEOUT, INTEGERS, QUORUM
from amqpd.broker.returns import RETURNED
from amqpd.commands import REQUEUE, Basic
from amqpd.errors import PRECONDITION_FAILED, AMQPException, amqp_error
from amqpd.timers import Entry as TimerEntry

if TYPE_CHECKING:
    from amqpd.broker.channel import Channel, Delivery
    from amqpd.broker.consumer import Consumer
    from amqpd.broker.queue import Queue

TICK_S: Final = 60.0
"""RabbitMQ's channel_tick_interval."""
TICKS_PER_TIMEOUT: Final = 4
"""A timeout of less than four minutes is looked at more often."""
TICK_S_MIN: Final = 0.25


class AcknowledgementWatch:
    """Looks after the ledger of one channel, as `amqpd.timers.Timed`."""

    __slots__ = ("_asked_at", "_channel", "_marks", "timer")

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._marks: deque[tuple[int, float]] = deque()
        """A delivery tag, and when it had been sent at the latest; both ascending."""
        self._asked_at: float | None = None
        self.timer: TimerEntry | None = None

    def start(self) -> None:
        """There may be deliveries from now on."""
        if self._asked_at is None:
            self._asked_at = self._channel.broker.now + tick_s(shortest_ms(self._channel))
            self._channel.broker.timers.watch(self)

    def stop(self) -> None:
        """The channel ends."""
        self._asked_at = None
        self._channel.broker.timers.forget(self)

    def deadline(self) -> float | None:
        """When the ledger is looked at next."""
        return self._asked_at

    def handle_timer(self, now: float) -> None:
        """Look at the ledger: what is too old, and when the next one will be."""
        channel = self._channel
        shortest = shortest_ms(channel)
        self._asked_at = now + tick_s(shortest)
        if not channel.unacked:
            self._marks.clear()
            if not any(not consumer.no_ack for consumer in channel.consumers.values()):
                self._asked_at = None
            return
        if not self._marks or self._marks[-1][0] < channel.delivery_tag:
            self._marks.append((channel.delivery_tag, now))
        if channel.broker.config.compat == "4.3":
            self._take_back(now)
        else:
            self._close(now)

    def _forget_before(self, delivery_tag: int) -> None:
        """No delivery of a lower tag is in the ledger."""
        while self._marks[0][0] < delivery_tag:
            self._marks.popleft()

    def _wake(self, at: float) -> None:
        if self._asked_at is not None:
            self._asked_at = min(self._asked_at, at)

    # -- up to 4.2

    def _close(self, now: float) -> None:
        """The oldest delivery decides, whatever became of the others."""
        channel = self._channel
        delivery_tag, (_, queue, consumer) = next(iter(channel.unacked.items()))
        timeout = timeout_ms(channel, queue, consumer)
        self._forget_before(delivery_tag)
        if timeout is None:
            return
        due = self._marks[0][1] + timeout / 1000
        if now < due:
            self._wake(due)
            return
        warn(channel, queue, consumer, delivery_tag, timeout)
        channel.fail(timed_out(channel, timeout))

    # -- from 4.3 on

    def _take_back(self, now: float) -> None:
        channel = self._channel
        late: dict[int, Delivery] = {}
        self._forget_before(next(iter(channel.unacked)))
        marks = iter(self._marks)
        through, sent = next(marks)
        for delivery_tag, delivery in channel.unacked.items():
            while through < delivery_tag:
                through, sent = next(marks)
            timeout = timeout_ms(channel, delivery[1], delivery[2])
            if timeout is None:
                continue
            due = sent + timeout / 1000
            if now < due:
                self._wake(due)
                if sent == self._marks[-1][1]:
                    break  # all others went out with it, or later
                continue
            late[delivery_tag] = delivery
        for delivery_tag, (_, queue, consumer) in late.items():
            timeout = timeout_ms(channel, queue, consumer)
            if consumer is None or consumer.gone or timeout is None:
                continue
            warn(channel, queue, consumer, delivery_tag, timeout)
            if "consumer_cancel_notify" not in channel.session.capabilities:
                channel.fail(timed_out(channel, timeout))
                return
            channel.remove_consumer(consumer)
            channel.outlet.method(Basic.Cancel(consumer.tag, nowait=True))
        for delivery_tag in late:
            del channel.unacked[delivery_tag]
            channel.taken_back.add(delivery_tag)
        if late:
            channel.settle_together(REQUEUE, ((late, RETURNED),))


def timeout_ms(channel: Channel, queue: Queue, consumer: Consumer | None) -> int | None:
    """How long a delivery of the queue may be unacknowledged; None for as long as it likes."""
    if channel.broker.config.compat == "4.3":
        if queue.type != QUORUM:
            return None
        octet, own = consumer.arguments.get(CONSUMER_TIMEOUT, ("V", None)) if consumer else ("", 0)
        if octet and octet in INTEGERS:
            return int(own)
    if queue.rules.consumer_timeout_ms is not None:
        return queue.rules.consumer_timeout_ms
    return int(channel.broker.limits.consumer_timeout_s * 1000) or None


def shortest_ms(channel: Channel) -> int | None:
    """The shortest timeout of the channel's consumers, or of a basic.get's usual queue."""
    timeouts = [
        timeout
        for consumer in channel.consumers.values()
        if (timeout := timeout_ms(channel, consumer.queue, consumer)) is not None
    ]
    if channel.unacked:
        _, queue, consumer = next(iter(channel.unacked.values()))
        timeout = timeout_ms(channel, queue, consumer)
        if timeout is not None:
            timeouts.append(timeout)
    return min(timeouts, default=None)


def tick_s(shortest: int | None) -> float:
    """How often to look."""
    if shortest is None:
        return TICK_S
    return min(TICK_S, max(TICK_S_MIN, shortest / 1000 / TICKS_PER_TIMEOUT))


def timed_out(channel: Channel, timeout: int) -> AMQPException:
    """What the client is told whose channel is closed."""
    text = f"delivery acknowledgement on channel {channel.number} timed out. Timeout value used:"
    text += f" {timeout} ms. This timeout value can be configured, see consumers doc guide to learn"
    return amqp_error(PRECONDITION_FAILED, text + " more")


def warn(
    channel: Channel, queue: Queue, consumer: Consumer | None, delivery_tag: int, timeout: int
) -> None:
    """What whoever reads the log is told."""
    tag = consumer.tag if consumer is not None else ""
    channel.broker.effects.warnings.append(
        f"consumer '{tag}' on channel {channel.number} of {channel.session.origin.name} and"
        f" {queue_text(channel, queue.name)} has timed out waiting for an acknowledgement of the"
        f" delivery with delivery tag {delivery_tag}; timeout used: {timeout} ms"
    )
