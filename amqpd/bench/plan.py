"""What a run is to do. Names and defaults are PerfTest's, where it has them."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from amqpd.commands import Arguments
from amqpd.links.uri import LinkURI
from amqpd.short_string import SHORT_STRING_OCTETS_MAX, SHOWN, fits_short_string

BODY_BYTES_MIN: Final = 12
"""A body begins with its number and the time of sending, as PerfTest's do."""
BODY_BYTES_MAX: Final = 512 * 1024 * 1024
DIRECT: Final = "direct"
WILDCARD_RANGE_MAX: Final = 100_000


class InvalidPlan(ValueError):
    """Options that do not go together; `str()` says which, and what to do."""


class Plan(Struct, frozen=True, kw_only=True):
    """One run."""

    uri: LinkURI
    id: str
    producers: int = 1
    producer_channels: int = 1
    consumers: int = 1
    consumer_channels: int = 1
    body_bytes: int = BODY_BYTES_MIN
    unconfirmed_max: int | None = None
    """None: without confirms."""
    producer_messages: int = 0
    """By each producer's channel; 0 is no limit. So for consumers."""
    consumer_messages: int = 0
    prefetch: int = 0
    auto_ack: bool = False
    ack_every: int = 1
    persistent: bool = False
    mandatory: bool = False
    queue: str = ""
    """Empty: each consumer has a queue of its own, named by the broker."""
    queue_pattern: str = ""
    """With %d in it; producers and consumers go round the queues."""
    queue_from: int = 1
    queue_to: int = 1
    queue_arguments: Arguments = {}
    auto_delete: bool = True
    exchange: str = DIRECT
    exchange_type: str = DIRECT
    predeclared: bool = False
    """Nothing is declared or bound."""
    routing_key: str
    producer_rate: float = 0.0
    """Messages a second of each producer's channel; 0 is no limit. So for consumers."""
    consumer_rate: float = 0.0
    seconds: float = 0.0
    """0: until the counts are reached, or a signal comes."""
    interval_s: float = 1.0

    def __post_init__(self) -> None:
        """Raises InvalidPlan."""
        if self.body_bytes < BODY_BYTES_MIN:
            raise InvalidPlan(f"--size {self.body_bytes}: a body has {BODY_BYTES_MIN} at least")
        if not self.producers and not self.consumers:
            raise InvalidPlan("neither producers nor consumers: give -x or -y")
        if self.auto_ack and self.ack_every > 1:
            raise InvalidPlan("--autoack and --multi-ack-every exclude each other")
        if self.prefetch and self.ack_every > self.prefetch:
            raise InvalidPlan(
                f"--multi-ack-every {self.ack_every} is more than --qos {self.prefetch}: the"
                " broker would wait for an ack that never comes"
            )
        if self.queue and self.queue_pattern:
            raise InvalidPlan("--queue and --queue-pattern exclude each other")
        if self.queue_pattern and "%d" not in self.queue_pattern:
            raise InvalidPlan(f"--queue-pattern {self.queue_pattern} needs a %d for the number")
        if not 0 <= self.queue_to - self.queue_from < WILDCARD_RANGE_MAX:
            raise InvalidPlan("--queue-pattern-from and --queue-pattern-to are no range of queues")
        if self.predeclared and self.consumers and not self.queues:
            raise InvalidPlan("--predeclared needs a queue to consume from: give -u")
        for option, text in (
            ("--uri with virtual host", self.uri.vhost or ""),
            ("--queue", self.queue),
            # Of many, the last has the longest name.
            ("--queue-pattern", self.queue_pattern.replace("%d", str(self.queue_to))),
            *(("--queue-args", name) for name in self.queue_arguments),
            ("--exchange", self.exchange),
            ("--type", self.exchange_type),
            ("--routing-key", self.routing_key),
        ):
            if not fits_short_string(text):
                raise InvalidPlan(
                    f"{option} {text[:SHOWN]}... is too long: AMQP carries"
                    f" {SHORT_STRING_OCTETS_MAX} octets"
                )

    @property
    def queues(self) -> tuple[str, ...]:
        """Those that have names; none if the broker names them."""
        if self.queue_pattern:
            numbers = range(self.queue_from, self.queue_to + 1)
            return tuple(self.queue_pattern.replace("%d", str(number)) for number in numbers)
        return (self.queue,) if self.queue else ()

    def queue_of(self, number: int) -> str:
        """That of a consumer; empty if the broker names it."""
        queues = self.queues
        return queues[number % len(queues)] if queues else ""

    def routing_key_of(self, number: int) -> str:
        """That of a producer: with a pattern of queues each queue has its own."""
        return self.queue_of(number) if self.queue_pattern else self.routing_key

    @property
    def needs_exchange(self) -> bool:
        """It has to be declared: the default exchange and those of the broker are there."""
        return not self.predeclared and bool(self.exchange) and not self.exchange.startswith("amq.")
