"""What the broker itself publishes: events and the firehose's copies, at the end of the turn.

Whoever has something to say may be in the midst of a queue: a message that went out at once could
come back to that very queue. So it waits until the turn is over (`Broker.finish_turn`). What that
leads to in its turn (a copy of a delivery, a dead letter that is delivered and copied) waits for a
turn `PAUSE_S` later: a circle of queues costs time, and never a turn without end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from amqpd.broker.publishing import internal_target, publish_internally
from amqpd.commands import Message, make_message
from amqpd.timers import Entry

if TYPE_CHECKING:
    from amqpd.broker.broker import Broker
    from amqpd.broker.virtual_host import VirtualHost

PAUSE_S: Final = 0.001


class Pending(NamedTuple):
    """One message."""

    virtual_host: "VirtualHost"  # noqa: UP037 - compiled, it is looked up here, and is not there yet
    message: Message


class InternalPublishing:
    """Messages that wait for the end of the turn."""

    __slots__ = ("_broker", "_due", "_later", "_publishing", "pending", "timer")

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.pending: list[Pending] = []
        self.timer: Entry | None = None
        self._due: float | None = None
        self._later: list[Pending] = []
        """What came while the others were published."""
        self._publishing = False

    def add(
        self,
        virtual_host: VirtualHost,
        exchange: str,
        routing_key: str,
        properties: bytes,
        body: bytes,
        *,
        persistent: bool,
    ) -> None:
        """Publish this at the end of the turn. A routing key that is too long is cut."""
        target = internal_target(exchange, routing_key)
        message = make_message(0, target, properties, body, persistent, True)
        waiting = self._later if self._publishing else self.pending
        waiting.append(Pending(virtual_host, message))

    def publish(self) -> None:
        """The turn ends."""
        pending, self.pending = self.pending, []
        self._publishing = True
        for virtual_host, message in pending:
            exchange = virtual_host.exchanges.get(message.target.exchange)
            if exchange is not None:
                publish_internally(virtual_host, exchange, message)
        self._publishing = False
        if self._later and self._due is None:
            self._due = self._broker.now + PAUSE_S
            self._broker.timers.watch(self)

    # -- as `amqpd.timers.Timed`

    def deadline(self) -> float | None:
        """When the turn has to come for what is left."""
        return self._due

    def handle_timer(self, now: float) -> None:
        """This is that turn."""
        self._due = None
        self.pending += self._later
        self._later = []
