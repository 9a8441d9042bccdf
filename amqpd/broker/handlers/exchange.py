"""Class exchange: declare, delete, bind, unbind (the last two are RabbitMQ's)."""

from __future__ import annotations

from typing import Any, Final

from amqpd.broker.access import Resource
from amqpd.broker.channel import Channel
from amqpd.broker.exchange import BrokerExchange
from amqpd.broker.names import exchange_text, stripped
from amqpd.broker.queue import Queue
from amqpd.broker.queue_arguments import check_equivalent
from amqpd.commands import Arguments, Exchange
from amqpd.config import Compat, Config
from amqpd.errors import ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED, AMQPException, amqp_error
from amqpd.wire.tables import type_name
from amqpd_exchanges.deduplication import CACHE_SIZE, DeduplicationExchange
from amqpd_exchanges.delayed import DELAYED_TYPE, DelayedExchange, unknown_kind
from amqpd_exchanges.exchange import Destination, InvalidArguments, InvalidBinding
from amqpd_exchanges.federation_upstream import MAX_HOPS, FederationUpstreamExchange
from amqpd_exchanges.local_random import LocalRandomExchange
from amqpd_exchanges.recent_history import LENGTH, RecentHistoryExchange
from amqpd_exchanges.recording import decimal
from amqpd_exchanges.router import KINDS

DECLARE: Final = (40, 10)
DELETE: Final = (40, 20)
BIND: Final = (40, 30)
UNBIND: Final = (40, 40)
TOPIC_HASHES_MAX: Final = 2
ALTERNATE: Final = "alternate-exchange"


def declare(channel: Channel, method: Exchange.Declare, arguments: Arguments) -> None:
    """exchange.declare."""
    name = stripped(method.exchange)
    if method.passive:
        refuse_default(name, DECLARE)
        find(channel, name, DECLARE)
        require_passive(channel, "exchange", name, DECLARE)
    else:
        declare_actively(channel, name, method, arguments)
    if not method.nowait:
        channel.reply_when_safe(Exchange.DeclareOk())


def declare_actively(
    channel: Channel, name: str, method: Exchange.Declare, arguments: Arguments
) -> None:
    """Create the exchange, or find it to be the same."""
    type = method.exchange_type or ""
    if not is_known_type(type, channel.broker.config.compat):
        raise amqp_error(PRECONDITION_FAILED, unknown_kind(type), DECLARE)
    refuse_default(name, DECLARE)
    virtual_host = channel.virtual_host
    access, user = virtual_host.access, channel.session.user
    access.require(user, virtual_host.name, "configure", "exchange", name, DECLARE)
    existing = virtual_host.exchanges.get(name)
    if existing is not None:
        check_same(channel, existing, method, arguments)
        return
    if name.startswith("amq."):
        text = f"exchange name '{name}' contains reserved prefix 'amq.*'"
        raise amqp_error(ACCESS_REFUSED, text, DECLARE)
    alternate = arguments.get(ALTERNATE)
    if alternate is not None:
        octet, alternate_name = alternate
        if octet != "S":
            text = f"invalid type '{type_name(octet)}' for arg '{ALTERNATE}'"
            text += f" in {exchange_text(channel, name)}"
            raise amqp_error(PRECONDITION_FAILED, text, DECLARE)
        access.require(user, virtual_host.name, "read", "exchange", name, DECLARE)
        access.require(user, virtual_host.name, "write", "exchange", alternate_name, DECLARE)
    try:
        check_type_arguments(type, arguments, channel.broker.config)
    except InvalidArguments as reason:
        raise amqp_error(PRECONDITION_FAILED, str(reason), DECLARE) from reason
    virtual_host.declare_exchange(
        name,
        type,
        durable=method.durable,
        auto_delete=method.auto_delete,
        internal=method.internal,
        arguments=arguments,
        user=user,
    )


def is_known_type(type: str, compat: Compat) -> bool:
    """Whether that version of RabbitMQ has it, with all the plug-ins that are offered here."""
    return type in KINDS and not (type == LocalRandomExchange.kind and compat == "3.13")


def check_type_arguments(type: str, arguments: Arguments, config: Config) -> None:
    """Raises InvalidArguments for what no exchange of this type is declared with."""
    KINDS[type].check_arguments(arguments)
    if type == DelayedExchange.kind:
        type = arguments[DELAYED_TYPE][1]
        if not is_known_type(type, config.compat):
            raise InvalidArguments(unknown_kind(type))
    for kind, name, most in (
        (RecentHistoryExchange.kind, LENGTH, config.limits.recent_history_max),
        (DeduplicationExchange.kind, CACHE_SIZE, config.limits.deduplication_cache_max),
    ):
        if type == kind and name in arguments:
            number = decimal(arguments[name])
            if number is not None and number > most:
                raise InvalidArguments(
                    f"Invalid argument {number}, '{name}' must not be greater than {most}"
                )


def check_same(
    channel: Channel, existing: BrokerExchange, method: Exchange.Declare, arguments: Arguments
) -> None:
    """406 unless the declaration is that of the existing exchange; RabbitMQ's order of checks."""
    resource = exchange_text(channel, existing.name)
    for name, received, current in (
        ("type", method.exchange_type, existing.type),
        ("durable", method.durable, existing.durable),
        ("auto_delete", method.auto_delete, existing.auto_delete),
        ("internal", method.internal, existing.internal),
    ):
        if received != current:
            raise inequivalent_property(name, received, current, resource, DECLARE)
    compared = MAX_HOPS if existing.type == FederationUpstreamExchange.kind else ALTERNATE
    check_equivalent(arguments, existing.arguments, (compared,), resource, DECLARE)


def delete(channel: Channel, method: Exchange.Delete, arguments: Arguments) -> None:
    """exchange.delete: one that is not there is as good as deleted."""
    name = stripped(method.exchange)
    refuse_default(name, DELETE)
    virtual_host = channel.virtual_host
    if name.startswith("amq."):
        text = f"deletion of system {exchange_text(channel, name)} not allowed"
        raise amqp_error(ACCESS_REFUSED, text, DELETE)
    virtual_host.access.require(
        channel.session.user, virtual_host.name, "configure", "exchange", name, DELETE
    )
    exchange = virtual_host.exchanges.get(name)
    if exchange is not None:
        if method.if_unused and exchange.table.bindings:
            text = f"{exchange_text(channel, name)} in use"
            raise amqp_error(PRECONDITION_FAILED, text, DELETE)
        virtual_host.delete_exchange(exchange, channel.session.user)
    if not method.nowait:
        channel.reply_when_safe(Exchange.DeleteOk())


def bind(channel: Channel, method: Exchange.Bind, arguments: Arguments) -> None:
    """exchange.bind: what `source` routes reaches `destination`."""
    destination_name, source_name = stripped(method.destination), stripped(method.source)
    routing_key = method.routing_key or ""
    require_binding(channel, source_name, destination_name, routing_key, BIND)
    source = find(channel, source_name, BIND)
    destination = find(channel, destination_name, BIND)
    check_binding(channel, source, destination.table, routing_key, arguments, BIND)
    user = channel.session.user
    channel.virtual_host.bind(source, destination, routing_key, arguments, user=user)
    if not method.nowait:
        channel.reply_when_safe(Exchange.BindOk())


def unbind(channel: Channel, method: Exchange.Unbind, arguments: Arguments) -> None:
    """exchange.unbind: a binding that is not there is as good as removed."""
    destination_name, source_name = stripped(method.destination), stripped(method.source)
    routing_key = method.routing_key or ""
    require_binding(channel, source_name, destination_name, routing_key, UNBIND)
    virtual_host = channel.virtual_host
    destination = virtual_host.exchanges.get(destination_name)
    if destination is not None:
        user = channel.session.user
        virtual_host.unbind(source_name, destination, routing_key, arguments, user)
    if not method.nowait:
        channel.reply_when_safe(Exchange.UnbindOk())


def require_binding(
    channel: Channel, source: str, destination: str, routing_key: str, method: tuple[int, int]
) -> None:
    """The user may join the two, and neither is the default exchange; in RabbitMQ's order."""
    virtual_host = channel.virtual_host
    access, user = virtual_host.access, channel.session.user
    access.require(user, virtual_host.name, "write", "exchange", destination, method)
    refuse_default(destination, method)
    refuse_default(source, method)
    access.require(user, virtual_host.name, "read", "exchange", source, method)
    require_topic_read(channel, source, routing_key, method)


def require_topic_read(
    channel: Channel, source: str, routing_key: str, method: tuple[int, int]
) -> None:
    """Topic permissions: a binding key that the user may read."""
    virtual_host = channel.virtual_host
    exchange = virtual_host.exchanges.get(source)
    if exchange is not None and exchange.type == "topic":
        virtual_host.access.require_topic(
            channel.session.user, virtual_host.name, source, "read", routing_key, method
        )


def check_binding(
    channel: Channel,
    source: BrokerExchange,
    destination: Destination[Queue],
    routing_key: str,
    arguments: Arguments,
    method: tuple[int, int],
) -> None:
    """406 for what the exchange's type cannot make a binding of."""
    try:
        source.table.validate(destination, routing_key, arguments)
    except InvalidBinding as reason:
        raise amqp_error(PRECONDITION_FAILED, str(reason), method) from reason
    if source.type == LocalRandomExchange.kind:
        # The exchange does not know it: to it a queue is an opaque object.
        assert isinstance(destination, Queue)
        if destination.type != "classic":
            text = f"Queue type rabbit_{destination.type}_queue not valid for this exchange type"
            raise amqp_error(PRECONDITION_FAILED, text, method)
    # 4.3 takes two `#` in a topic binding key and no more.
    if source.routing_type != "topic" or channel.broker.config.compat != "4.3":
        return
    count = routing_key.split(".").count("#")
    if count > TOPIC_HASHES_MAX:
        text = f"Topic binding key '{routing_key}' uses {count} '#' wildcards,"
        text += f" at most {TOPIC_HASHES_MAX} are allowed"
        raise amqp_error(PRECONDITION_FAILED, text, method)


def require_passive(
    channel: Channel, resource: Resource, name: str, method: tuple[int, int]
) -> None:
    """From 4.2 on, a passive declare takes one of the three permissions."""
    if channel.broker.config.compat != "3.13":
        virtual_host = channel.virtual_host
        virtual_host.access.require_any(
            channel.session.user, virtual_host.name, resource, name, method
        )


def find(channel: Channel, name: str, method: tuple[int, int]) -> BrokerExchange:
    """The exchange, or 404."""
    exchange = channel.virtual_host.exchanges.get(name)
    if exchange is None:
        raise amqp_error(NOT_FOUND, f"no {exchange_text(channel, name)}", method)
    return exchange


def refuse_default(name: str, method: tuple[int, int]) -> None:
    """403 for what may not be done to the default exchange."""
    if not name:
        raise amqp_error(ACCESS_REFUSED, "operation not permitted on the default exchange", method)


def inequivalent_property(
    name: str, received: object, current: object, resource: str, method: tuple[int, int]
) -> AMQPException:
    """406 for a property (not an argument) in which two declarations differ."""
    shown = f"received '{_erlang(received)}' but current is '{_erlang(current)}'"
    return amqp_error(
        PRECONDITION_FAILED, f"inequivalent arg '{name}' for {resource}: {shown}", method
    )


def _erlang(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


HANDLERS: Final[dict[Any, Any]] = {
    Exchange.Declare: declare,
    Exchange.Delete: delete,
    Exchange.Bind: bind,
    Exchange.Unbind: unbind,
}
