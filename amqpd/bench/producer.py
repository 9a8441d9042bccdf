"""Publishes as fast as it may: at its rate, within its window, up to its count."""

from __future__ import annotations

import struct
from typing import Final

from amqpd.bench.plan import BODY_BYTES_MIN, Plan
from amqpd.bench.speaker import Script, Speaker
from amqpd.bench.tally import Tally
from amqpd.commands import Confirm
from amqpd.links.client import LinkClient
from amqpd.links.methods import unchecked
from amqpd.links.reading import Confirmed
from amqpd.short_string import short_string

STAMP: Final = struct.Struct(">iq")
"""Number and time of sending, in ns: what each body begins with (PerfTest's layout)."""
NUMBER_MASK: Final = 0x7FFFFFFF
TRANSIENT: Final = b"\x10\x00\x01"
PERSISTENT: Final = b"\x10\x00\x02"
"""Property flags with delivery-mode alone, and its value."""


class Producer(Speaker):
    """One channel that publishes."""

    def __init__(
        self, client: LinkClient, channel: int, plan: Plan, number: int, tally: Tally
    ) -> None:
        super().__init__(client, channel)
        self._plan = plan
        self._tally = tally
        # Into the default exchange a key is the name of a queue.
        key = plan.routing_key_of(number)
        if not plan.exchange and plan.queues:
            key = plan.queue_of(number)
        self._envelope = short_string(plan.exchange) + short_string(key)
        self._properties = PERSISTENT if plan.persistent else TRANSIENT
        self._padding = bytes(plan.body_bytes - BODY_BYTES_MIN)
        self._sent_at: dict[int, int] = {}
        """Publish numbers that are not confirmed yet, and when they were sent, in ns."""
        self._confirmed_below = 1
        self._began_ns = 0
        self.sent = 0

    def script(self) -> Script:
        """Confirms, if there are to be any."""
        if self._plan.unconfirmed_max is not None:
            yield unchecked(Confirm.Select), None

    def start(self, now_ns: int) -> None:
        """The clock of its rate starts."""
        self._began_ns = now_ns

    @property
    def body_bytes(self) -> int:
        """Of each message."""
        return self._plan.body_bytes

    @property
    def paced(self) -> bool:
        """It has a rate to keep."""
        return self._plan.producer_rate > 0

    @property
    def done(self) -> bool:
        """It has published all it was to publish, and heard what became of it."""
        wanted = self._plan.producer_messages
        return bool(wanted) and self.sent >= wanted and not self._sent_at

    def room(self, now_ns: int) -> int | None:
        """How many it may publish now; None is as many as one likes."""
        plan, least = self._plan, list[int]()
        if plan.producer_messages:
            least.append(plan.producer_messages - self.sent)
        if plan.unconfirmed_max is not None:
            least.append(plan.unconfirmed_max - len(self._sent_at))
        if plan.producer_rate:
            due = int((now_ns - self._began_ns) * plan.producer_rate / 1e9) + 1
            least.append(due - self.sent)
        return max(0, min(least)) if least else None

    def produce(self, count: int, now_ns: int) -> None:
        """Publish so many; all of one call have one time of sending."""
        client, channel, envelope = self.client, self.channel, self._envelope
        properties, padding, confirms = self._properties, self._padding, self._sent_at
        confirming = self._plan.unconfirmed_max is not None
        mandatory = self._plan.mandatory
        for number in range(self.sent, self.sent + count):
            body = STAMP.pack(number & NUMBER_MASK, now_ns) + padding
            published = client.publish(channel, envelope, properties, body, mandatory=mandatory)
            if confirming:
                confirms[published] = now_ns
        self.sent += count
        self._tally.sent += count

    def confirmed(self, said: Confirmed, now_ns: int) -> None:
        """The broker has taken, or refused, one or all up to one."""
        tally, sent_at = self._tally, self._sent_at
        first = self._confirmed_below if said.multiple else said.publish_number
        for number in range(first, said.publish_number + 1):
            began = sent_at.pop(number, None)
            if began is None:
                continue  # confirmed by itself, before this one
            if said.safe:
                tally.confirmed += 1
                tally.confirm_latency.add(now_ns - began)
            else:
                tally.nacked += 1
        if said.multiple:
            self._confirmed_below = max(self._confirmed_below, said.publish_number + 1)
