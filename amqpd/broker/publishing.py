"""From a published message to the queues that take it: checks, routing, returns, confirms.

The checks come in RabbitMQ's order. What they find for a `Target` stays on it (`route`) until a
binding, exchange, queue or permission of the virtual host changes; a message without special
properties then skips them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, cast

from amqpd.broker.counts import Tally
from amqpd.broker.events import INTERNAL_USER
from amqpd.broker.messages import PendingConfirm
from amqpd.broker.reply_to import REPLY_TO, TOKEN_PREFIX
from amqpd.broker.waiting_room import WaitingRoom
from amqpd.commands import Arguments, Message, Notes, Oversized, Target
from amqpd.errors import (
    ACCESS_REFUSED,
    NO_ROUTE,
    NOT_FOUND,
    NOT_IMPLEMENTED,
    PRECONDITION_FAILED,
    amqp_error,
)
from amqpd.short_string import cut_to_short_string, short_string
from amqpd.wire.properties import (
    CORRELATION_ID,
    EXPIRATION,
    MESSAGE_ID,
    TIMESTAMP,
    USER_ID,
    has_property,
    read_headers,
    read_property,
    with_reply_to,
    without_header,
)
from amqpd.wire.properties import REPLY_TO as REPLY_TO_PROPERTY
from amqpd.wire.tables import type_name
from amqpd_exchanges.exchange import Exchange as RoutingTable

if TYPE_CHECKING:
    from amqpd.broker.broker import Broker
    from amqpd.broker.channel import Channel
    from amqpd.broker.exchange import BrokerExchange
    from amqpd.broker.exchange_memory import ExchangeMemory
    from amqpd.broker.queue import Queue
    from amqpd.broker.reply_to import ReplyConsumer
    from amqpd.broker.transaction import Routed
    from amqpd.broker.virtual_host import VirtualHost
    from amqpd.broker.waiting_room import BlindWaitingRoom

    Keeper: TypeAlias = Queue | WaitingRoom | BlindWaitingRoom
    """What the router leads to: to it, waiting rooms are queues."""
    Receiver: TypeAlias = Keeper | ReplyConsumer
    """Whatever takes a message."""

PUBLISH: Final = (60, 40)
EXPIRATION_MAX: Final = 315_360_000_000
"""Ten years in milliseconds, RabbitMQ's limit for every time to live."""
ROUTED_PROPERTIES: Final = {
    "correlation_id": CORRELATION_ID,
    "message_id": MESSAGE_ID,
    "timestamp": TIMESTAMP,
}
"""What an exchange may route by, beside the routing key and headers."""
ROUTE_KEPT_QUEUES_MAX: Final = 64
"""Queues in a result that each target keeps for itself: a peer has many targets."""


def publish(channel: Channel, message: Message) -> None:
    """basic.publish, body and all."""
    target = message.target
    if target.immediate:
        raise amqp_error(NOT_IMPLEMENTED, "immediate=true", PUBLISH)
    virtual_host = channel.virtual_host
    transaction = channel.transaction
    if (
        message.special
        or transaction is not None
        or target.route_version != virtual_host.route_version
    ):
        exchange = check(channel, message)
        target.tally = exchange.tally
        if transaction is not None:
            message.keep()
            transaction.messages.append((message, route_ahead(channel, exchange, message)))
            return
        firehose = virtual_host.firehose
        keys = [] if firehose is None else extra_keys(channel, message)
        content = RoutedContent(virtual_host, message)
        queues = route(channel, exchange, message, content)
        if firehose is not None:
            firehose.published(channel, message, keys, queues)
        if content.remembered:
            channel.turn_to(exchange.tally)
            publish_remembered(channel, message, queues, content)
            return
    else:
        queues = target.route
    if target.tally is not channel.tally:
        channel.turn_to(target.tally)
    confirms = channel.confirms
    refused = False
    if virtual_host.refusing_queues and queues:
        queues, refused = sift(virtual_host, message, queues)
    if confirms is None:
        channel.published += 1
        if len(queues) == 1:
            queues[0].publish(message, None)
            return
        spread(channel, message, len(queues), refused)
        share(channel.virtual_host, message, queues)
        for queue in queues:
            queue.publish(message, None)
        return
    confirms.published = publish_number = confirms.published + 1
    if len(queues) != 1:
        spread(channel, message, len(queues), refused)
    if refused:
        for queue in queues:
            queue.publish(message, None)
        confirms.refuse(publish_number)
        return
    if (
        (message.persistent or virtual_host.quorum_queues)
        and queues
        and channel.broker.effects.journaling
    ):
        pending = PendingConfirm(confirms, publish_number)
        # Held above zero until every queue had its say: an early ack must not confirm it.
        pending.remaining = 1
        confirms.await_number(publish_number)
        share(channel.virtual_host, message, queues)
        for queue in queues:
            queue.publish(message, pending)
        pending.safe()
        return
    for queue in queues:
        queue.publish(message, None)
    confirms.complete(publish_number)


def publish_remembered(
    channel: Channel,
    message: Message,
    queues: tuple[Receiver, ...],
    content: RoutedContent,
) -> None:
    """The rest of basic.publish for a message that some exchange remembers.

    What an exchange remembers is as much a part of "safe" as what the queues hold. That goes for a
    duplicate, too: its confirm says that the first one is safe.
    """
    virtual_host = channel.virtual_host
    refused = False
    if virtual_host.refusing_queues and queues:
        queues, refused = sift(virtual_host, message, queues)
    if refused:
        content.take_back()
    if len(queues) != 1:
        spread(channel, message, len(queues), refused)
    share(virtual_host, message, queues)
    confirms = channel.confirms
    if confirms is None:
        channel.published += 1
        for queue in queues:
            queue.publish(message, None)
        return
    confirms.published = publish_number = confirms.published + 1
    if refused:
        for queue in queues:
            queue.publish(message, None)
        confirms.refuse(publish_number)
        return
    pending = PendingConfirm(confirms, publish_number)
    pending.remaining = 1
    confirms.await_number(publish_number)
    for queue in queues:
        queue.publish(message, pending)
    virtual_host.effects.confirm_when_safe(pending)


def spread(channel: Channel, message: Message, count: int, refused: bool) -> None:
    """The message goes to several queues, or to none: then it is returned or dropped."""
    channel.tally.extra += count - 1
    if count or refused:
        return
    if message.target.mandatory:
        channel.counts.return_unroutable += 1
        channel.outlet.returned(NO_ROUTE, "NO_ROUTE", message)
    else:
        channel.counts.drop_unroutable += 1


def sift(
    virtual_host: VirtualHost, message: Message, queues: tuple[Receiver, ...]
) -> tuple[tuple[Receiver, ...], bool]:
    """The queues that take the message, and whether any of them refused it."""
    taking = tuple(queue for queue in queues if not queue.refuses(message))
    if len(taking) == len(queues):
        return queues, False
    for queue in queues:
        if queue not in taking:
            queue.bury_refused(message)
    return taking, True


def route_ahead(channel: Channel, exchange: BrokerExchange, message: Message) -> Routed:
    """Route what a transaction publishes when it comes, as RabbitMQ does.

    The default exchange leads to queues by their names, which are looked up at the commit: that is
    None here. A direct reply is no part of the transaction in RabbitMQ 3.x, and goes out at once.
    What an exchange would remember is routed at the commit as well, so that a rollback leaves
    nothing behind.
    """
    extra = extra_keys(channel, message)
    properties, target = message.properties, message.target
    content = PreviewedContent(channel.virtual_host, message)
    queues: Routed = None
    if exchange.name:
        # Direct replies are routed by the default exchange alone.
        queues = cast("tuple[Keeper, ...]", route(channel, exchange, message, content))
    elif channel.broker.config.compat == "3.13":
        for consumer in reply_consumers(channel.broker, message.target.routing_key, *extra):
            consumer.publish(message, None)
    firehose = channel.virtual_host.firehose
    if firehose is not None:
        firehose.published(channel, message, extra, queues)
    if content.remembered:
        message.properties = properties
        message.aim(target)
        return None
    return queues


def find_queues(channel: Channel, message: Message, routed: Routed) -> tuple[Receiver, ...]:
    """tx.commit: the queues that the names from `route_ahead` stand for by now."""
    known = channel.virtual_host.queues
    if routed is not None:
        if not any(queue.deleted for queue in routed):
            return routed
        found = (known.get(queue.name) if queue.deleted else queue for queue in routed)
        return tuple(queue for queue in found if queue is not None)
    keys = (message.target.routing_key, *extra_keys(channel, message))
    if message.special:
        hide_bcc(message, channel.broker.limits.table_depth_max)
    replies: tuple[ReplyConsumer, ...] = ()
    if channel.broker.config.compat != "3.13":
        replies = reply_consumers(channel.broker, *keys)
    return (*replies, *(known[key] for key in dict.fromkeys(keys) if key in known))


def route_committed(channel: Channel, message: Message, routed: Routed) -> RoutedMessage:
    """tx.commit: where a message goes that was checked and routed before.

    It is returned, if that is nowhere: RabbitMQ's channel does so before its queues hear of
    anything that is committed.
    """
    content = RoutedContent(channel.virtual_host, message)
    exchange = channel.virtual_host.exchanges.get(message.target.exchange)
    queues: tuple[Receiver, ...] = ()
    if routed is not None or not message.target.exchange:
        queues = find_queues(channel, message, routed)
    elif exchange is not None:
        queues = route(channel, exchange, message, content)
    channel.turn_to(Tally() if exchange is None else exchange.tally)
    channel.published += 1
    if len(queues) != 1:
        spread(channel, message, len(queues), False)
    return RoutedMessage(message, queues, content, channel.tally)


def publish_committed(channel: Channel, routed: RoutedMessage) -> bool:
    """tx.commit: the message goes to its queues. Whether all of them took it."""
    message, queues, content, tally = routed
    virtual_host = channel.virtual_host
    refused = False
    if virtual_host.refusing_queues and queues:
        queues, refused = sift(virtual_host, message, queues)
        if refused:
            content.take_back()
            tally.extra -= len(routed.queues) - len(queues)
    share(virtual_host, message, queues)
    for queue in queues:
        queue.publish(message, None)
    return not refused


def share(virtual_host: VirtualHost, message: Message, queues: tuple[Receiver, ...]) -> None:
    """Give a message an id of its own if more than one row of the store will refer to it.

    Not one that expires: its time, which differs from queue to queue, lies with its bytes.
    """
    if (
        len(queues) > 1
        and message.persistent
        and virtual_host.effects.journaling
        and sum(queue.durable for queue in queues) > 1
        and not any(queue.message_ttl_ms is not None for queue in queues)
        and not (message.special and has_property(message.properties, EXPIRATION))
    ):
        message.message_id = virtual_host.broker.next_message_id()


def publish_internally(
    virtual_host: VirtualHost, exchange: BrokerExchange, message: Message
) -> None:
    """Publish what the broker itself has to say: unchecked, unconfirmed, dropped if unroutable."""
    hand_on(virtual_host, message, exchange.table)


def hand_on(
    virtual_host: VirtualHost, message: Message, destination: Queue | RoutingTable[Queue]
) -> None:
    """A message that the broker made or kept goes to a queue, or through an exchange to queues."""
    queues: tuple[Receiver, ...]
    if isinstance(destination, RoutingTable):
        content = RoutedContent(virtual_host, message)
        keys = cc_keys(content.headers()) if message.special else []
        queues = virtual_host.router.route(destination, message.target.routing_key, content, keys)
    else:
        queues = (destination,)
    if virtual_host.refusing_queues and queues:
        queues, _ = sift(virtual_host, message, queues)
    share(virtual_host, message, queues)
    for queue in queues:
        queue.publish(message, None)


def internal_target(exchange: str, routing_key: str) -> Target:
    """Where the broker itself publishes; its strings need not be UTF-8. A routing key that does not
    fit a short string is cut."""
    routing_key = cut_to_short_string(routing_key)
    envelope = short_string(exchange) + short_string(routing_key)
    return Target(exchange, routing_key, envelope, mandatory=False, immediate=False)


def refuse_oversized(channel: Channel, oversized: Oversized) -> None:
    """406 for a body that was too large to be taken."""
    if oversized.target.immediate:
        raise amqp_error(NOT_IMPLEMENTED, "immediate=true", PUBLISH)
    limits = channel.broker.limits
    if oversized.body_size > limits.content_bytes_max:
        text = f"message size {oversized.body_size} is larger than max size"
        text += f" {limits.content_bytes_max}"
    else:
        text = f"message size {oversized.body_size} is larger than configured max size"
        text += f" {limits.message_bytes_max}"
    raise amqp_error(PRECONDITION_FAILED, text, PUBLISH)


def check(channel: Channel, message: Message) -> BrokerExchange:
    """Everything that can be wrong with a publish; the exchange it goes to."""
    target = message.target
    virtual_host = channel.virtual_host
    session = channel.session
    access = virtual_host.access
    access.require(session.user, virtual_host.name, "write", "exchange", target.exchange, PUBLISH)
    exchange = virtual_host.exchanges.get(target.exchange)
    if exchange is None:
        text = f"no exchange '{target.exchange}' in vhost '{virtual_host.name}'"
        raise amqp_error(NOT_FOUND, text, PUBLISH)
    if exchange.internal:
        text = f"cannot publish to internal exchange '{exchange.name}'"
        text += f" in vhost '{virtual_host.name}'"
        raise amqp_error(ACCESS_REFUSED, text, PUBLISH)
    if message.special:
        check_properties(channel, message)
    if exchange.type == "topic":
        for routing_key in (target.routing_key, *extra_keys(channel, message)):
            access.require_topic(
                session.user, virtual_host.name, exchange.name, "write", routing_key, PUBLISH
            )
    if message.special:
        check_user_id(channel, message)
    return exchange


def check_properties(channel: Channel, message: Message) -> None:
    """reply-to, expiration, CC and BCC: what RabbitMQ looks at in every message."""
    properties = message.properties
    if read_property(properties, REPLY_TO_PROPERTY) == REPLY_TO:
        if channel.reply_consumer is None:
            raise amqp_error(PRECONDITION_FAILED, "fast reply consumer does not exist", PUBLISH)
        message.properties = with_reply_to(properties, channel.reply_consumer.token)
    expiration = read_property(properties, EXPIRATION)
    if expiration is not None:
        problem = expiration_problem(expiration)
        if problem:
            text = f"invalid expiration '{expiration}': {problem}"
            raise amqp_error(PRECONDITION_FAILED, text, PUBLISH)
    extra_keys(channel, message)


def check_user_id(channel: Channel, message: Message) -> None:
    """user-id, where set, must be the user that is logged in (unless it may impersonate)."""
    user_id = read_property(message.properties, USER_ID)
    login = channel.session.user
    if user_id is None or login in (user_id, INTERNAL_USER):
        return
    user = channel.virtual_host.access.user(login)
    if user is None or "impersonator" not in user.tags:
        text = f"user_id property set to '{user_id}' but authenticated user was '{login}'"
        raise amqp_error(PRECONDITION_FAILED, text, PUBLISH)


def expiration_problem(expiration: str) -> str:
    """Why a per-message expiration is refused, in RabbitMQ's words; empty if it is good."""
    digits = 1 if expiration[:1] in ("+", "-") else 0
    while digits < len(expiration) and expiration[digits] in "0123456789":
        digits += 1
    if digits == 0 or not expiration[digits - 1].isdigit():
        return "no_integer"
    if digits < len(expiration):
        return f'{{leftover_string,"{expiration[digits:]}"}}'
    value = int(expiration)
    if value < 0:
        return f"{{value_negative,{value}}}"
    if value > EXPIRATION_MAX:
        return f"{{value_too_large,{value}}}"
    return ""


def extra_keys(channel: Channel, message: Message) -> list[str]:
    """Further routing keys from the CC and BCC headers (sender-selected distribution)."""
    # A list without these octets has no such header: most need no decoding.
    if not message.special or b"CC" not in message.properties:
        return []
    headers = read_headers(message.properties, channel.broker.limits.table_depth_max)
    keys: list[str] = []
    for name in ("CC", "BCC"):
        field = headers.get(name)
        if field is None:
            continue
        octet, value = field
        if octet != "A":
            reason = f'{{unacceptable_type_in_header,"{name}",{type_name(octet)}}}'
            raise amqp_error(PRECONDITION_FAILED, f"invalid message: {reason}", PUBLISH)
        # What is no string among them is no routing key, and is passed over.
        keys += [item for item_octet, item in value if item_octet == "S"]
    return keys


def cc_keys(headers: Arguments, name: str = "CC") -> list[str]:
    """The routing keys in the CC (or BCC) header of a message that was taken."""
    octet, value = headers.get(name, ("V", None))
    return [item for kind, item in value if kind == "S"] if octet == "A" else []


def carbon_copies(message: Message, headers: Arguments) -> list[str]:
    """The routing keys of its CC header, as long as they count."""
    return cc_keys(headers) if message.target.notes.counts_cc else []


def hide_bcc(message: Message, depth_max: int) -> None:
    """Neither who gets the message nor who gets it back sees whom else it went to.

    The message's own keys they are all the same: its target knows them.
    """
    published = message.properties
    message.properties = without_header(published, "BCC")
    if message.properties is not published:
        hidden_keys = tuple(cc_keys(read_headers(published, depth_max), "BCC"))
        shared = message.target
        target = Target(
            shared.exchange,
            shared.routing_key,
            shared.envelope,
            shared.mandatory,
            shared.immediate,
        )
        target.annotate(Notes(hidden_keys))
        target.tally = shared.tally
        message.aim(target)


def route(
    channel: Channel, exchange: BrokerExchange, message: Message, content: RoutedContent
) -> tuple[Receiver, ...]:
    """The queues that get the message; kept on its target where they depend on that alone."""
    target = message.target
    virtual_host = channel.virtual_host
    extra = extra_keys(channel, message)
    published = message.properties
    if message.special:
        hide_bcc(message, channel.broker.limits.table_depth_max)
    replies: tuple[ReplyConsumer, ...] = ()
    if not target.exchange and (extra or target.routing_key.startswith(TOKEN_PREFIX)):
        replies = reply_consumers(channel.broker, target.routing_key, *extra)
    routed = virtual_host.router.route(exchange.table, target.routing_key, content, extra)
    queues: tuple[Receiver, ...] = routed
    if not content.lasting:
        queues = delayed(channel, message, queues, published)
    # While messages are traced, each comes this way.
    lasting = content.lasting and not replies and virtual_host.firehose is None
    if lasting and len(queues) <= ROUTE_KEPT_QUEUES_MAX:
        target.route = queues
        target.route_version = virtual_host.route_version
    if not replies:
        return queues
    if not queues and target.mandatory and channel.broker.config.compat == "3.13":
        # RabbitMQ 3.x passes the reply on, and returns it all the same: no queue took it.
        channel.outlet.returned(NO_ROUTE, "NO_ROUTE", message)
    return (*replies, *queues)


def delayed(
    channel: Channel, message: Message, queues: tuple[Receiver, ...], published: bytes
) -> tuple[Receiver, ...]:
    """The queues of a message that may have to wait; `published` are its properties with BCC."""
    rooms = [room for room in queues if isinstance(room, WaitingRoom)]
    if not rooms:
        return queues
    if message.target.mandatory and len(rooms) == len(queues):
        # The plugin tells the channel that there is no queue, and never speaks of it again.
        channel.outlet.returned(NO_ROUTE, "NO_ROUTE", message)
    if published is message.properties:
        return queues
    return tuple(
        queue.with_bcc(published) if isinstance(queue, WaitingRoom) else queue for queue in queues
    )


def reply_consumers(broker: Broker, *routing_keys: str) -> tuple[ReplyConsumer, ...]:
    """Those of direct reply-to whose tokens are among the keys."""
    known = broker.reply_consumers
    return tuple(known[key] for key in dict.fromkeys(routing_keys) if key in known)


class RoutedContent:
    """What exchanges may look at in a message: `amqpd_exchanges.exchange.Content`."""

    __slots__ = ("_headers", "_message", "_passed", "_virtual_host", "lasting", "remembered")

    def __init__(self, virtual_host: VirtualHost, message: Message) -> None:
        self.lasting = True
        self.remembered = False
        """It came to an exchange that remembers messages."""
        self._passed: list[ExchangeMemory] = []
        self._virtual_host = virtual_host
        self._message = message
        self._headers: Arguments | None = None

    def headers(self) -> Arguments:
        """The headers, decoded once."""
        if self._headers is None:
            depth_max = self._virtual_host.broker.limits.table_depth_max
            self._headers = read_headers(self._message.properties, depth_max)
        return self._headers

    def property(self, name: str) -> str | int | None:
        """One of `ROUTED_PROPERTIES`, by its name."""
        value: str | int | None = read_property(self._message.properties, ROUTED_PROPERTIES[name])
        return value

    def passes(self, exchange: RoutingTable[Queue]) -> bool:
        """Whether the exchange's memory lets the message go on, which it remembers from now on."""
        memory = self._virtual_host.exchanges[exchange.name].memory
        assert memory is not None
        self.remembered = True
        if not memory.passes(self._message, self.headers()):
            return False
        self._passed.append(memory)
        return True

    def take_back(self) -> None:
        """No exchange is to remember the message: a queue refused it."""
        for memory in self._passed:
            memory.take_back(self.headers())


class RoutedMessage(NamedTuple):
    """A message of a transaction at its commit, before it is in any queue."""

    message: Message
    queues: "tuple[Receiver, ...]"  # noqa: UP037 - compiled, it is looked up here, and is not there
    content: RoutedContent
    tally: Tally
    """Of the exchange that it was published to."""


class PreviewedContent(RoutedContent):
    """To find out where a message would go, and whether exchanges would remember it: none does."""

    __slots__ = ()

    def passes(self, exchange: RoutingTable[Queue]) -> bool:
        self.remembered = True
        return True
