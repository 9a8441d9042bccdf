"""Receives, measures how long each message was on its way, and acknowledges."""

from __future__ import annotations

from amqpd.bench.plan import Plan
from amqpd.bench.producer import STAMP
from amqpd.bench.speaker import Script, Speaker
from amqpd.bench.tally import Tally
from amqpd.bench.topology import bound, declared
from amqpd.commands import Basic, Queue
from amqpd.links.client import LinkClient
from amqpd.links.methods import consume, unchecked
from amqpd.links.reading import Delivery


class Consumer(Speaker):
    """One channel that consumes."""

    def __init__(
        self, client: LinkClient, channel: int, plan: Plan, number: int, tally: Tally
    ) -> None:
        super().__init__(client, channel)
        self._plan = plan
        self._tally = tally
        self._number = number
        self._unacked = 0
        self._began_ns = 0
        self._waiting: list[Delivery] = []
        """Came before its rate allowed them: they are taken later."""
        self.received = 0

    def script(self) -> Script:
        """A queue, if it has none yet; the prefetch; then the consumer."""
        plan = self._plan
        queue = plan.queue_of(self._number)
        if not queue:
            reply = yield declared(plan, "")
            assert isinstance(reply, Queue.DeclareOk)
            queue = reply.queue or ""
            if plan.exchange:
                yield bound(plan, queue, plan.routing_key)
        if plan.prefetch:
            yield unchecked(Basic.Qos, prefetch_count=plan.prefetch), None
        yield consume(queue, self.tag.decode(), no_ack=plan.auto_ack), None

    def start(self, now_ns: int) -> None:
        """The clock of its rate starts."""
        self._began_ns = now_ns

    @property
    def paced(self) -> bool:
        """It has a rate to keep."""
        return self._plan.consumer_rate > 0

    @property
    def done(self) -> bool:
        """It has received all it was to receive."""
        wanted = self._plan.consumer_messages
        return bool(wanted) and self.received >= wanted

    def deliver(self, delivery: Delivery, now_ns: int) -> None:
        """A message came; with a rate it may have to wait."""
        if self._plan.consumer_rate:
            self._waiting.append(delivery)
            self.take(now_ns)
        else:
            self._take(delivery, now_ns)

    def take(self, now_ns: int) -> None:
        """What its rate allows of what waits."""
        waiting = self._waiting
        if not waiting:
            return
        due = int((now_ns - self._began_ns) * self._plan.consumer_rate / 1e9) + 1
        count = max(0, min(len(waiting), due - self.received))
        for delivery in waiting[:count]:
            self._take(delivery, now_ns)
        del waiting[:count]

    def _take(self, delivery: Delivery, now_ns: int) -> None:
        if self.done:
            return  # more than was wanted: not ours to count, nor to acknowledge
        tally = self._tally
        self.received += 1
        tally.received += 1
        if len(delivery.body) >= STAMP.size:
            tally.add_latency(now_ns - STAMP.unpack_from(delivery.body)[1])
        if not self._plan.auto_ack:
            self._unacked += 1
            every = self._plan.ack_every
            if self._unacked >= every or self.done:
                self.client.ack(self.channel, delivery.delivery_tag, multiple=every > 1)
                self._unacked = 0
