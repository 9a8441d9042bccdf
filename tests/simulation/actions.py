"""What scripted clients say, and the few names they say it about.

An action is a value. `encode` makes it bytes for the broker; the model applies it once the broker
has received its last byte. Each name stands for one declaration, so that two clients never
disagree about what a queue or exchange is.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import pack
from typing import Final, NamedTuple

from amqpd.commands import Arguments, Basic, Confirm, Exchange, Frame, Queue, Tx
from amqpd.commands import Channel as ChannelClass
from amqpd.commands import Connection as ConnectionClass
from amqpd.protocol.methods import encode_method
from tests.conversation import (
    BODY,
    HEADER,
    HEARTBEAT_FRAME,
    METHOD,
    frame,
    method,
    properties,
    table,
)

FRAME_BYTES_MAX: Final = 4096


class QueueSpec(NamedTuple):
    """How a queue of this name is declared."""

    durable: bool
    auto_delete: bool = False
    exclusive: bool = False
    arguments: Mapping[str, int | str] = {}

    @property
    def refuses(self) -> bool:
        """Whether it refuses what is published to it while it is full."""
        return self.arguments.get("x-overflow", "drop-head") != "drop-head"

    @property
    def dead_letter_exchange(self) -> str | None:
        """Where its dead letters go."""
        name = self.arguments.get("x-dead-letter-exchange")
        return None if name is None else str(name)

    def number(self, argument: str) -> int | None:
        """A number among the arguments."""
        value = self.arguments.get(argument)
        assert not isinstance(value, str)
        return value


def buried_in(routing_key: str) -> dict[str, int | str]:
    """Arguments of a queue whose dead letters go to this one."""
    return {"x-dead-letter-exchange": "dlx", "x-dead-letter-routing-key": routing_key}


class ExchangeSpec(NamedTuple):
    """How an exchange of this name is declared."""

    type: str
    durable: bool
    auto_delete: bool = False
    arguments: Mapping[str, int | str] = {}

    @property
    def delays(self) -> bool:
        """Whether messages may wait there."""
        return self.type == "x-delayed-message"

    @property
    def cache_size(self) -> int:
        """How many headers it remembers, of which it lets no second message pass."""
        return int(self.arguments.get("x-cache-size", 0))


QUEUES: Final = {
    "d0": QueueSpec(durable=True),
    "d1": QueueSpec(durable=True),
    "d2": QueueSpec(durable=True),
    # One consumer at a time.
    "d3": QueueSpec(durable=True, arguments={"x-single-active-consumer": True}),
    "a0": QueueSpec(durable=True, auto_delete=True),
    "a1": QueueSpec(durable=False, auto_delete=True),
    "t0": QueueSpec(durable=False),
    "e0": QueueSpec(durable=True, exclusive=True),
    "e1": QueueSpec(durable=False, auto_delete=True, exclusive=True),
    # A ring of dead letters: too long here, too old there, too heavy, and round again.
    "l0": QueueSpec(durable=True, arguments={"x-max-length": 4, **buried_in("l1")}),
    "l1": QueueSpec(durable=True, arguments={"x-message-ttl": 700, **buried_in("l2")}),
    "l2": QueueSpec(durable=True, arguments={"x-max-length-bytes": 900, **buried_in("l0")}),
    "p0": QueueSpec(durable=True, arguments={"x-max-priority": 3, **buried_in("l2")}),
    "r0": QueueSpec(durable=True, arguments={"x-max-length": 3, "x-overflow": "reject-publish"}),
    "r1": QueueSpec(
        durable=True,
        arguments={"x-max-length": 2, "x-overflow": "reject-publish-dlx", **buried_in("l2")},
    ),
    "x0": QueueSpec(durable=True, arguments={"x-expires": 900}),
    # What comes back twice is dead; and what is dead waits there for a place.
    "q0": QueueSpec(
        durable=True,
        arguments={"x-queue-type": "quorum", "x-delivery-limit": 1, **buried_in("l2")},
    ),
    "s0": QueueSpec(
        durable=True,
        arguments={
            "x-queue-type": "quorum",
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            "x-message-ttl": 400,
            "x-delivery-limit": 2,
            **buried_in("l0"),
        },
    ),
    # Long enough for several windows, with messages of several priorities.
    "p1": QueueSpec(durable=True, arguments={"x-max-priority": 5}),
    "p2": QueueSpec(
        durable=True, arguments={"x-max-priority": 2, "x-max-length": 12, **buried_in("h1")}
    ),
    "u0": QueueSpec(durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": -1}),
    "u1": QueueSpec(
        durable=True,
        arguments={
            "x-queue-type": "quorum",
            "x-max-length": 14,
            "x-message-ttl": 800,
            **buried_in("h1"),
        },
    ),
    # What comes back waits.
    "y0": QueueSpec(
        durable=True,
        arguments={
            "x-delayed-retry-type": "all",
            "x-delayed-retry-min": 300,
            "x-delayed-retry-max": 700,
        },
    ),
    "y1": QueueSpec(
        durable=True,
        arguments={
            "x-queue-type": "quorum",
            "x-delayed-retry-type": "failed",
            "x-delayed-retry-min": 90,
            "x-delivery-limit": 3,
            **buried_in("l1"),
        },
    ),
    # No two messages with the same header.
    "h0": QueueSpec(durable=True, arguments={"x-message-deduplication": True, **buried_in("l2")}),
    "h1": QueueSpec(durable=True, arguments={"x-message-deduplication": True, "x-max-length": 20}),
    "h2": QueueSpec(durable=True, arguments={"x-message-deduplication": True}),
}
RETRYING: Final = ("y0", "y1")
"""Queues in which what comes back waits before it is handed out again."""
QUORUM: Final = ("q0", "s0", "u0", "u1", "y1")
"""Queues that do not know of a prefetch limit for all of a channel."""
DEDUPLICATING: Final = ("h0", "h1", "h2")
"""Queues with at most one message of each header."""
DEEP: Final = ("d1", "p1", "p2", "u0", "u1", *DEDUPLICATING)
"""Queues that get many messages at once."""
RULED: Final = ("l0", "l1", "l2", "p0", "p1", "p2", "r0", "r1", "x0", "y0", *QUORUM, *DEDUPLICATING)
"""Queues with rules of their own for what they hold."""
UNBOUND: Final = ("l0", "l1", "l2", "r0", "r1", "q0", "s0", "u1", "y1", "h0", "h1")
"""Queues that no client binds to an exchange but `dlx`, and to that by their own name.

So there is no message twice in the ring, or in `h1`: whatever is there came from one place."""
NOT_OF_43: Final = ("a1", "t0")
"""Queues that the profile 4.3 refuses: transient, and not exclusive."""
EXCHANGES: Final = {
    "fan": ExchangeSpec("fanout", durable=True),
    "dir": ExchangeSpec("direct", durable=True),
    "top": ExchangeSpec("topic", durable=True),
    "ade": ExchangeSpec("fanout", durable=True, auto_delete=True),
    "tra": ExchangeSpec("direct", durable=False),
    "dlx": ExchangeSpec("direct", durable=True),
    "del": ExchangeSpec("x-delayed-message", durable=True, arguments={"x-delayed-type": "direct"}),
    "ded": ExchangeSpec(
        "x-message-deduplication",
        durable=True,
        arguments={"x-cache-size": 3, "x-cache-persistence": "disk"},
    ),
}
BINDING_KEYS: Final = {
    "fan": ("",),
    "ade": ("",),
    "dir": ("a", "b"),
    "tra": ("a", "b"),
    "top": ("a.*", "#", "*.b", "a.#.b"),
    "dlx": ("l0", "l1", "l2", "h1"),
    "del": ("a", "b"),
    "ded": ("",),
}
NOT_IN_TRANSACTIONS: Final = ("del", "ded")
"""Exchanges for which it matters when the messages of a transaction are routed."""
ARGUMENTS: Final = {name: table(dict(spec.arguments)) for name, spec in QUEUES.items()}
"""Of queue.declare, encoded."""
EXCHANGE_ARGUMENTS: Final = {name: table(dict(spec.arguments)) for name, spec in EXCHANGES.items()}
GOVERNED: Final = ("d1", "d2")
"""Queues that the policy applies to."""
POLICIES: Final[tuple[dict[str, int], ...]] = (
    {"max-length": 2},
    {"max-length": 5, "message-ttl": 600},
    {"message-ttl": 90},
    {"max-length-bytes": 700},
)
ROUTING_KEYS: Final = ("a", "b", "a.b", "a.c", "c.b", "a.x.b")


class Publish(NamedTuple):
    """basic.publish. The body begins with the number of the message, the first of its kind."""

    uid: int
    exchange: str
    routing_key: str
    body: bytes
    persistent: bool
    mandatory: bool
    priority: int | None = None
    expiration_ms: int | None = None
    delay_ms: int | None = None
    once: str | None = None
    """What no second message may have where that is looked at."""

    @property
    def properties(self) -> bytes:
        """The property list as it is sent."""
        expiration = None if self.expiration_ms is None else str(self.expiration_ms)
        headers: dict[str, int | str] = {}
        if self.delay_ms is not None:
            headers["x-delay"] = self.delay_ms
        if self.once is not None:
            headers["x-deduplication-header"] = self.once
        return properties(
            headers=headers or None,
            delivery_mode=2 if self.persistent else None,
            priority=self.priority,
            expiration=expiration,
        )


class Settle(NamedTuple):
    """basic.ack, or basic.nack, or basic.reject."""

    tag: int
    multiple: bool
    ack: bool
    requeue: bool


class Get(NamedTuple):
    """basic.get."""

    queue: str
    no_ack: bool


class Consume(NamedTuple):
    """basic.consume."""

    queue: str
    tag: str
    no_ack: bool
    priority: int = 0


class Cancel(NamedTuple):
    """basic.cancel."""

    tag: str


class Qos(NamedTuple):
    """basic.qos."""

    prefetch: int
    of_channel: bool


class Recover(NamedTuple):
    """basic.recover."""


class DeclareQueue(NamedTuple):
    """queue.declare."""

    name: str
    passive: bool = False
    nowait: bool = False


class DeleteQueue(NamedTuple):
    """queue.delete."""

    name: str
    nowait: bool = False


class PurgeQueue(NamedTuple):
    """queue.purge."""

    name: str


class Bind(NamedTuple):
    """queue.bind."""

    queue: str
    exchange: str
    routing_key: str


class Unbind(NamedTuple):
    """queue.unbind."""

    queue: str
    exchange: str
    routing_key: str


class DeclareExchange(NamedTuple):
    """exchange.declare."""

    name: str
    nowait: bool = False


class DeleteExchange(NamedTuple):
    """exchange.delete."""

    name: str


class ConfirmSelect(NamedTuple):
    """confirm.select."""


class TxSelect(NamedTuple):
    """tx.select."""


class TxCommit(NamedTuple):
    """tx.commit."""


class TxRollback(NamedTuple):
    """tx.rollback."""


class OpenChannel(NamedTuple):
    """channel.open."""


class CloseChannel(NamedTuple):
    """channel.close."""


class ChannelClosed(NamedTuple):
    """channel.close-ok: the answer to the broker's own close."""


class CloseConnection(NamedTuple):
    """connection.close."""


class Beat(NamedTuple):
    """A heartbeat."""


Action = (
    Publish
    | Settle
    | Get
    | Consume
    | Cancel
    | Qos
    | Recover
    | DeclareQueue
    | DeleteQueue
    | PurgeQueue
    | Bind
    | Unbind
    | DeclareExchange
    | DeleteExchange
    | ConfirmSelect
    | TxSelect
    | TxCommit
    | TxRollback
    | OpenChannel
    | CloseChannel
    | ChannelClosed
    | CloseConnection
    | Beat
)


def encode(channel: int, action: Action) -> bytes:
    """The action as a client sends it."""
    if isinstance(action, Publish):
        return _publish(channel, action)
    if isinstance(action, Beat):
        return HEARTBEAT_FRAME
    arguments: Arguments = {}
    if isinstance(action, DeclareQueue) and not action.passive:
        arguments = ARGUMENTS[action.name]
    elif isinstance(action, Consume) and action.priority:
        arguments = table({"x-priority": action.priority})
    elif isinstance(action, DeclareExchange):
        arguments = EXCHANGE_ARGUMENTS[action.name]
    return frame(METHOD, channel, encode_method(_method(action), arguments))


def _publish(channel: int, action: Publish) -> bytes:
    said = method(
        Basic.Publish,
        exchange=action.exchange,
        routing_key=action.routing_key,
        mandatory=action.mandatory,
    )
    body = action.body
    frames = [
        frame(METHOD, channel, encode_method(said)),
        frame(HEADER, channel, pack(">HHQ", 60, 0, len(body)) + action.properties),
    ]
    room = FRAME_BYTES_MAX - 8
    frames += [frame(BODY, channel, body[i : i + room]) for i in range(0, len(body), room)]
    return b"".join(frames)


def _method(action: Action) -> Frame:
    match action:
        case Settle(tag, multiple, ack, requeue):
            if ack:
                return method(Basic.Ack, delivery_tag=tag, multiple=multiple)
            if multiple:
                return method(Basic.Nack, delivery_tag=tag, multiple=True, requeue=requeue)
            return method(Basic.Reject, delivery_tag=tag, requeue=requeue)
        case Get(queue, no_ack):
            return method(Basic.Get, queue=queue, no_ack=no_ack)
        case Consume(queue, consumer_tag, no_ack):
            return method(Basic.Consume, queue=queue, consumer_tag=consumer_tag, no_ack=no_ack)
        case Cancel(consumer_tag):
            return method(Basic.Cancel, consumer_tag=consumer_tag)
        case Qos(prefetch, of_channel):
            return method(Basic.Qos, prefetch_count=prefetch, global_=of_channel)
        case Recover():
            return method(Basic.Recover, requeue=True)
        case DeclareQueue(name, passive, nowait):
            spec = QUEUES[name]
            return method(
                Queue.Declare,
                queue=name,
                passive=passive,
                durable=spec.durable,
                exclusive=spec.exclusive,
                auto_delete=spec.auto_delete,
                nowait=nowait,
            )
        case DeleteQueue(name, nowait):
            return method(Queue.Delete, queue=name, nowait=nowait)
        case PurgeQueue(name):
            return method(Queue.Purge, queue=name)
        case Bind(queue, exchange, key):
            return method(Queue.Bind, queue=queue, exchange=exchange, routing_key=key)
        case Unbind(queue, exchange, key):
            return method(Queue.Unbind, queue=queue, exchange=exchange, routing_key=key)
        case DeclareExchange(name, nowait):
            exchange_spec = EXCHANGES[name]
            return method(
                Exchange.Declare,
                exchange=name,
                exchange_type=exchange_spec.type,
                durable=exchange_spec.durable,
                auto_delete=exchange_spec.auto_delete,
                nowait=nowait,
            )
        case DeleteExchange(name):
            return method(Exchange.Delete, exchange=name)
        case ConfirmSelect():
            return method(Confirm.Select)
        case TxSelect():
            return method(Tx.Select)
        case TxCommit():
            return method(Tx.Commit)
        case TxRollback():
            return method(Tx.Rollback)
        case OpenChannel():
            return method(ChannelClass.Open)
        case CloseChannel():
            return method(ChannelClass.Close, reply_code=200, reply_text="bye")
        case ChannelClosed():
            return method(ChannelClass.CloseOk)
        case CloseConnection():
            return method(ConnectionClass.Close, reply_code=200, reply_text="bye")
    raise AssertionError(f"no method for {action!r}")
