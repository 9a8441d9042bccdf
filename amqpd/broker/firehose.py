"""The firehose: copies of all messages of a virtual host, for whoever debugs (`rabbit_trace.erl`).

    published to X      ->  amq.rabbitmq.trace, routing key  publish.X
    delivered from Q    ->  amq.rabbitmq.trace, routing key  deliver.Q

A copy has the message's body, and its properties, exchange and routing keys as headers. Messages
of the trace exchange itself are not copied. As in RabbitMQ it is off after a start.

Off, it costs nothing: `publish` takes the slow way while it is on, where it is looked for, and
consumers speak through an outlet that copies only then.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from amqpd.broker.reply_to import ReplyConsumer
from amqpd.broker.waiting_room import BlindWaitingRoom, WaitingRoom
from amqpd.commands import Arguments, DeliveryOutlet, Field, Message
from amqpd.errors import ConnectionException
from amqpd.wire import properties as wire
from amqpd.wire.tables import encode_table

if TYPE_CHECKING:
    from amqpd.broker.channel import Channel
    from amqpd.broker.consumer import Consumer
    from amqpd.broker.publishing import Receiver
    from amqpd.broker.virtual_host import VirtualHost

TRACE_EXCHANGE: Final = "amq.rabbitmq.trace"
NESTING: Final = 2
"""Tables around a message's headers in its copy."""

PROPERTIES: Final = (
    (wire.CLUSTER_ID, "cluster_id"),
    (wire.APP_ID, "app_id"),
    (wire.USER_ID, "user_id"),
    (wire.TYPE, "type"),
    (wire.TIMESTAMP, "timestamp"),
    (wire.MESSAGE_ID, "message_id"),
    (wire.EXPIRATION, "expiration"),
    (wire.REPLY_TO, "reply_to"),
    (wire.CORRELATION_ID, "correlation_id"),
    (wire.PRIORITY, "priority"),
    (wire.DELIVERY_MODE, "delivery_mode"),
    (wire.HEADERS, "headers"),
    (wire.CONTENT_ENCODING, "content_encoding"),
    (wire.CONTENT_TYPE, "content_type"),
)
"""In the order in which RabbitMQ's copies have them."""

_HEADERS_ALONE: Final = wire.HEADERS.to_bytes(2, "big")

NO_QUEUES: Final = (ReplyConsumer, WaitingRoom, BlindWaitingRoom)
"""What a message may be routed to, and RabbitMQ knows nothing of."""


class Firehose:
    """Copies what goes through one virtual host, as long as its tracing is on."""

    __slots__ = ("_home",)

    def __init__(self, home: VirtualHost) -> None:
        self._home = home

    def published(
        self,
        channel: Channel,
        message: Message,
        extra_keys: Iterable[str],
        queues: Iterable[Receiver] | None,
    ) -> None:
        """A client published; `queues` took it, None: those that its keys name."""
        keys = [message.target.routing_key, *extra_keys]
        if queues is None or not message.target.exchange:
            # The default exchange names queues, in RabbitMQ even those that are not there.
            replies = channel.broker.reply_consumers
            names = sorted({key for key in keys if key not in replies})
        else:
            names = [queue.name for queue in queues if not isinstance(queue, NO_QUEUES)]
        routed: Arguments = {"routed_queues": _strings(names)}
        self._copy(f"publish.{message.target.exchange}", message, keys, {}, channel, routed)

    def delivered(self, channel: Channel, queue: str, redelivered: bool, message: Message) -> None:
        """A client was sent a message, or fetched it."""
        target = message.target
        keys = [target.routing_key, *self._carbon_copies(message), *target.notes.hidden_keys]
        first: Arguments = {"redelivered": ("I", int(redelivered))}
        self._copy(f"deliver.{queue}", message, keys, first, channel, {})

    def outlet(self, consumer: Consumer) -> DeliveryOutlet:
        """What the consumer speaks through while tracing is on."""
        return TracedOutlet(self, consumer)

    def _copy(
        self,
        routing_key: str,
        message: Message,
        keys: list[str],
        first: Arguments,
        channel: Channel,
        last: Arguments,
    ) -> None:
        if message.target.exchange == TRACE_EXCHANGE:
            return
        home, session = self._home, channel.session
        headers: Arguments = {
            "exchange_name": ("S", message.target.exchange),
            "routing_keys": _strings(keys),
            "properties": ("F", self._properties(message)),
            "node": ("S", home.broker.node),
            **first,
            "vhost": ("S", home.name),
            "connection": ("S", session.origin.name),
            "channel": ("I", channel.number),
            "user": ("S", session.user),
            **last,
        }
        properties = _HEADERS_ALONE + encode_table(headers)
        home.broker.internal_publishing.add(
            home, TRACE_EXCHANGE, routing_key, properties, message.keep(), persistent=False
        )

    def _properties(self, message: Message) -> Arguments:
        found: Arguments = {}
        for flag, name in PROPERTIES:
            if not wire.has_property(message.properties, flag):
                continue
            if flag == wire.HEADERS:
                found[name] = ("F", self._headers(message))
                continue
            value = wire.read_property(message.properties, flag)
            # RabbitMQ sends every number as an int32, a timestamp too.
            found[name] = ("S", value) if isinstance(value, str) else ("I", _int32(value))
        return found

    def _headers(self, message: Message) -> Arguments:
        """The message's headers; none if nested so deeply that a copy could not be read."""
        try:
            depth_max = self._home.broker.limits.table_depth_max - NESTING
            return wire.read_headers(message.properties, depth_max)
        except ConnectionException:
            return {}

    def _carbon_copies(self, message: Message) -> list[str]:
        if not message.target.notes.counts_cc or b"CC" not in message.properties:
            return []
        octet, value = self._headers(message).get("CC", ("V", None))
        return [item for kind, item in value if kind == "S"] if octet == "A" else []


class TracedOutlet(DeliveryOutlet):
    """A consumer's outlet that copies what it sends."""

    __slots__ = ("_consumer", "_firehose")

    def __init__(self, firehose: Firehose, consumer: Consumer) -> None:
        self._firehose = firehose
        self._consumer = consumer

    @property
    def congested(self) -> bool:
        """Whether the channel's outlet is."""
        return self._consumer.channel.outlet.congested

    def deliver(
        self, consumer_prefix: bytes, delivery_tag: int, redelivered: bool, message: Message
    ) -> None:
        """Send basic.deliver, and a copy to the firehose."""
        channel = self._consumer.channel
        channel.outlet.deliver(consumer_prefix, delivery_tag, redelivered, message)
        self._firehose.delivered(channel, self._consumer.queue.name, redelivered, message)


def _strings(values: Iterable[str]) -> Field:
    return ("A", [("S", value) for value in values])


def _int32(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31
