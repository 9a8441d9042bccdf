"""Dead letters: a message that is rejected, expires or has no room goes on to another exchange.

    source queue ──rejected, expired, maxlen──> dead letter exchange ──> target queues

The copy is enqueued before the original is settled, in the same turn, and a turn is one
transaction of the journal: a crash leaves the message in the source or in the target, never in
neither and never in both. A publisher's confirm that waited for the source waits for the targets
instead.

What happened to a message is told in its headers, as RabbitMQ does (reference 7.2): `x-death` has
an entry for each pair of queue and reason, the most recent first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from amqpd.broker.publishing import (
    RoutedContent,
    carbon_copies,
    internal_target,
    reply_consumers,
    share,
)
from amqpd.commands import Arguments, Field, Message, Notes, make_message
from amqpd.errors import ConnectionException
from amqpd.wire.properties import (
    EXPIRATION,
    HEADERS,
    delivery_mode,
    octets_of,
    read_headers,
    read_property,
    replace,
)
from amqpd.wire.tables import encode_table

if TYPE_CHECKING:
    from amqpd.broker.messages import QueueMessage
    from amqpd.broker.publishing import Keeper, Receiver
    from amqpd.broker.queue import Queue
    from amqpd.broker.queue_rules import QueueRules
    from amqpd.broker.virtual_host import VirtualHost

REJECTED: Final = "rejected"
EXPIRED: Final = "expired"
MAXLEN: Final = "maxlen"
DELIVERY_LIMIT: Final = "delivery_limit"

EFFORT_BITS: Final = 6
"""Encoding 64 octets of headers takes as long as making a copy."""
PERSISTENT: Final = 2
"""The delivery mode of what survives a restart."""

Death = dict[str, Field]
"""One entry of x-death."""


def dead_letter(
    virtual_host: VirtualHost,
    queue: Queue,
    stored: QueueMessage,
    reason: str,
    *,
    surely: bool = False,
) -> bool:
    """Publish a copy where the queue's rules say; the caller settles the original afterwards.

    `surely`: only if it has somewhere to go, and every queue there takes it. False if it was not
    published; then the original is not to be settled.
    """
    rules = queue.rules
    if rules.dead_letter_exchange is None:
        return not surely
    exchange = virtual_host.exchanges.get(rules.dead_letter_exchange)
    if exchange is None:
        return not surely  # looked up at the time of death: nowhere to go
    message = stored.content
    now_s = virtual_host.effects.epoch_ms() // 1000
    burial = queue.burial
    dying = virtual_host.broker.dying
    if burial is None or not burial.is_for(message, rules, reason, now_s):
        burial = queue.burial = Burial(virtual_host, queue, message, reason, now_s)
        dying.effort_left -= burial.effort
    # A quorum queue has on disk what is transient elsewhere.
    persistent = delivery_mode(message.properties) == PERSISTENT
    properties = burial.properties_of(message)
    copy = make_message(0, burial.target, properties, message.keep(), persistent, True)
    content = RoutedContent(virtual_host, copy)
    routing_key = burial.target.routing_key
    queues: tuple[Keeper, ...] = virtual_host.router.route(
        exchange.table, routing_key, content, burial.extra
    )
    if reason != REJECTED:
        queues = tuple(queue for queue in queues if not is_cycle(queue.name, burial.deaths))
    if surely and (
        not queues or any(queue.refuses(copy) and not queue.has_duplicate(copy) for queue in queues)
    ):
        return False
    if virtual_host.refusing_queues and queues:
        queues = sift_dead_letter(copy, queues)
    receivers: tuple[Receiver, ...] = queues
    if not exchange.name:
        receivers += reply_consumers(virtual_host.broker, routing_key, *burial.extra)
    dying.effort_left -= 1 + len(receivers)
    share(virtual_host, copy, receivers)
    for receiver in receivers:
        receiver.publish(copy, stored.confirm)
    return True


def sift_dead_letter(letter: Message, queues: tuple[Keeper, ...]) -> tuple[Keeper, ...]:
    """The queues that take it. For one that it is superfluous to, that is all."""
    taking = tuple(queue for queue in queues if not queue.refuses_dead_letter(letter))
    for queue in queues if len(taking) < len(queues) else ():
        if queue not in taking and not queue.has_duplicate(letter):
            queue.bury_refused(letter)
    return taking


class Burial:
    """What becomes of messages that die alike. Neighbours mostly do: of the first of them it is
    found out, the others are compared with it."""

    __slots__ = (
        "_died_at",
        "_expiration",
        "_headers",
        "_new_headers",
        "_new_properties",
        "_properties",
        "_reason",
        "_rules",
        "_time_s",
        "deaths",
        "effort",
        "extra",
        "target",
    )

    def __init__(
        self, virtual_host: VirtualHost, queue: Queue, message: Message, reason: str, time_s: int
    ) -> None:
        rules = queue.rules
        assert rules.dead_letter_exchange is not None
        headers = readable_headers(message, virtual_host.broker.limits.table_depth_max)
        self._rules = rules
        self._reason = reason
        self._time_s = time_s
        self._died_at = died_at = message.target
        self._properties = message.properties
        self._headers = octets_of(message.properties, HEADERS)
        self._expiration = octets_of(message.properties, EXPIRATION)
        died = buried(virtual_host, queue, message, headers, reason, time_s)
        self._new_headers = encode_table(died)
        self.effort = len(self._new_headers) >> EFFORT_BITS
        """What it took to find this out, in copies made."""
        self._new_properties = self._changed(message.properties)
        self.deaths: list[Death] = [entry for _, entry in died["x-death"][1]]
        """The entries of x-death, the most recent first."""
        routing_key = died_at.routing_key
        hidden_keys: tuple[str, ...] = ()
        self.extra: list[str] = []
        """Keys by which the copy is routed as well."""
        if rules.dead_letter_routing_key is not None:
            routing_key = rules.dead_letter_routing_key
        else:
            hidden_keys = died_at.notes.hidden_keys
            self.extra = [*carbon_copies(message, headers), *hidden_keys]
        self.target = internal_target(rules.dead_letter_exchange, routing_key)
        """Where the copy goes."""
        # From now on the message's keys are those by which it was routed here.
        counts_cc = died_at.notes.counts_cc and rules.dead_letter_routing_key is None
        self.target.annotate(Notes(hidden_keys, counts_cc, is_dead_letter=True))

    def is_for(self, message: Message, rules: QueueRules, reason: str, time_s: int) -> bool:
        """Whether another message of the queue dies just so."""
        target, died_at = message.target, self._died_at
        properties = message.properties
        return (
            time_s == self._time_s
            and reason == self._reason
            and rules is self._rules
            and (
                target is died_at
                or (target.envelope == died_at.envelope and target.notes == died_at.notes)
            )
            and (
                properties == self._properties
                or (
                    octets_of(properties, HEADERS) == self._headers
                    and octets_of(properties, EXPIRATION) == self._expiration
                )
            )
        )

    def properties_of(self, message: Message) -> bytes:
        """Those of the message's copy."""
        if message.properties != self._properties:
            self._properties = message.properties
            self._new_properties = self._changed(message.properties)
        return self._new_properties

    def _changed(self, properties: bytes) -> bytes:
        return replace(replace(properties, EXPIRATION, None), HEADERS, self._new_headers)


def buried(
    virtual_host: VirtualHost,
    queue: Queue,
    message: Message,
    headers: Arguments,
    reason: str,
    now_s: int,
) -> Arguments:
    """The headers of the copy: the old ones, and this death on top."""
    expiration = read_property(message.properties, EXPIRATION)
    died = dict(headers)
    history = [] if forgets_history(virtual_host, message) else read_deaths(headers)
    current: Death | None = None
    for death in history:
        if death.get("queue") == ("S", queue.name) and death.get("reason") == ("S", reason):
            current = death
            break
    if current is None:
        keys = [message.target.routing_key, *carbon_copies(message, headers)]
        current = {
            "count": ("l", 1),
            "reason": ("S", reason),
            "queue": ("S", queue.name),
            "time": ("T", now_s),
            "exchange": ("S", message.target.exchange),
            "routing-keys": ("A", [("S", key) for key in keys]),
        }
        if expiration is not None:
            current["original-expiration"] = ("S", expiration)
    else:
        history.remove(current)
        _, count = current.get("count", ("l", 0))
        current = {**current, "count": ("l", next_count(count) if isinstance(count, int) else 1)}
    died["x-death"] = ("A", [("F", death) for death in (current, *history)])
    for name, value in (
        ("queue", queue.name),
        ("reason", reason),
        ("exchange", message.target.exchange),
    ):
        died.setdefault(f"x-first-death-{name}", ("S", value))
        died[f"x-last-death-{name}"] = ("S", value)
    return died


def readable_headers(message: Message, depth_max: int) -> Arguments:
    """The headers, or none of them where the limit has been lowered since the message came."""
    try:
        return read_headers(message.properties, depth_max)
    except ConnectionException:
        return {}


def next_count(count: int) -> int:
    """One more death. As in RabbitMQ, the number after the last one is the first: what a client
    sends may say anything."""
    return (count + 1 + 2**63) % 2**64 - 2**63


def forgets_history(virtual_host: VirtualHost, message: Message) -> bool:
    """From 4.0 on, x-death that a client made up (or republished) is no history."""
    return virtual_host.broker.config.compat != "3.13" and not message.target.notes.is_dead_letter


def read_deaths(headers: Arguments) -> list[Death]:
    """The x-death entries of a message, most recent first; what is none is left out."""
    octet, entries = headers.get("x-death", ("V", None))
    if octet != "A":
        return []
    return [entry for kind, entry in entries if kind == "F"]


def is_cycle(queue_name: str, deaths: list[Death]) -> bool:
    """Whether the message would come back to a queue without anybody having rejected it since."""
    for death in deaths:
        if death.get("reason") == ("S", REJECTED):
            return False
        if death.get("queue") == ("S", queue_name):
            return True
    return False
