"""What a message is in a queue: as it was published, or with the deaths that it died since.

The rules of dead letters, told a second time for the model: an entry for each pair of queue and
reason, the latest first; a loop that nobody rejected anything in is cut.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from amqpd.wire.properties import EXPIRATION, PRIORITY, read_headers, read_property
from tests.conversation import Delivery, Got
from tests.simulation.actions import Publish

REJECTED: Final = "rejected"
EXPIRED: Final = "expired"
MAXLEN: Final = "maxlen"
DELIVERY_LIMIT: Final = "delivery_limit"
TABLE_DEPTH_MAX: Final = 8


class Death(NamedTuple):
    """One entry of x-death."""

    queue: str
    reason: str
    times: int


class ReturnCount(NamedTuple):
    """How often a message came back to a queue that counts it."""

    acquired: int = 0
    failed: int = 0
    """How many of these deliveries failed."""

    def again(self, *, failed: bool) -> ReturnCount:
        """It came back once more."""
        return ReturnCount(self.acquired + 1, self.failed + failed)


class Letter(NamedTuple):
    """A message with its history."""

    published: Publish
    exchange: str
    routing_key: str
    deaths: tuple[Death, ...] = ()

    @property
    def expiration_ms(self) -> int | None:
        """Its own time to live, which ends with its first death."""
        return None if self.deaths else self.published.expiration_ms

    def buried(self, queue: str, reason: str, exchange: str, routing_key: str) -> Letter:
        """What goes to the dead letter exchange."""
        again = [death for death in self.deaths if death[:2] == (queue, reason)]
        others = tuple(death for death in self.deaths if death not in again)
        latest = Death(queue, reason, 1 + sum(death.times for death in again))
        return Letter(self.published, exchange, routing_key, (latest, *others))

    def may_enter(self, queue: str) -> bool:
        """False for a loop without any rejection since the message was there last."""
        for death in self.deaths:
            if death.reason == REJECTED:
                return True
            if death.queue == queue:
                return False
        return True

    def is_said_by(self, said: Delivery | Got, counted: tuple[int, int] | None) -> bool:
        """Whether a delivery shows just this, and says so of its returns (None: whatever)."""
        published = self.published
        if (said.exchange, said.routing_key) != (self.exchange, self.routing_key):
            return False
        if said.body != published.body:
            return False
        counts = counts_in(said.properties)
        if counted is not None and counts != counted:
            return False
        if not self.deaths and counts == (0, 0):
            return said.properties == published.properties
        expiration_ms = self.expiration_ms
        return (
            deaths_in(said.properties) == self.deaths
            and read_property(said.properties, EXPIRATION)
            == (None if expiration_ms is None else str(expiration_ms))
            and read_property(said.properties, PRIORITY) == published.priority
        )


def counts_in(properties: bytes) -> tuple[int, int]:
    """What `x-delivery-count` and `x-acquired-count` say; 0 if it is not there."""
    headers = read_headers(properties, TABLE_DEPTH_MAX)
    _, delivered = headers.get("x-delivery-count", ("l", 0))
    _, acquired = headers.get("x-acquired-count", ("l", 0))
    return delivered, acquired


def deaths_in(properties: bytes) -> tuple[Death, ...]:
    """What x-death says."""
    _, entries = read_headers(properties, TABLE_DEPTH_MAX).get("x-death", ("A", []))
    return tuple(
        Death(death["queue"][1], death["reason"][1], death["count"][1]) for _, death in entries
    )


def published_letter(published: Publish) -> Letter:
    """Before its first death."""
    return Letter(published, published.exchange, published.routing_key)
