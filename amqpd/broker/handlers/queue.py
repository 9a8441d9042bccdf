"""Class queue: declare, bind, unbind, purge, delete."""

from __future__ import annotations

from typing import Any, Final

from amqpd.broker.channel import Channel
from amqpd.broker.handlers.exchange import (
    check_binding,
    inequivalent_property,
    refuse_default,
    require_passive,
    require_topic_read,
)
from amqpd.broker.handlers.exchange import (
    find as find_exchange,
)
from amqpd.broker.limits import require_queue_room
from amqpd.broker.names import queue_text, stripped
from amqpd.broker.queue import Queue
from amqpd.broker.queue_arguments import (
    QUORUM,
    check_arguments,
    check_equivalent,
    check_properties,
    compared,
    dead_letter_target,
    queue_type,
    with_default_type,
)
from amqpd.broker.reply_to import REPLY_TO, TOKEN_PREFIX
from amqpd.commands import Arguments
from amqpd.commands import Queue as Methods
from amqpd.errors import (
    ACCESS_REFUSED,
    INTERNAL_ERROR,
    NOT_FOUND,
    NOT_IMPLEMENTED,
    PRECONDITION_FAILED,
    RESOURCE_LOCKED,
    amqp_error,
)

DECLARE: Final = (50, 10)
BIND: Final = (50, 20)
PURGE: Final = (50, 30)
DELETE: Final = (50, 40)
UNBIND: Final = (50, 50)


def declare(channel: Channel, method: Methods.Declare, arguments: Arguments) -> None:
    """queue.declare."""
    name = stripped(method.queue)
    if name == REPLY_TO or name.startswith(TOKEN_PREFIX):
        declare_reply_queue(channel, name, method)
        return
    if method.passive:
        require_passive(channel, "queue", name, DECLARE)
        queue = find(channel, name, DECLARE)
        require_access(channel, queue, DECLARE)
    else:
        queue = declare_actively(channel, name, method, arguments)
    queue.use()
    channel.last_queue = queue.name
    if not method.nowait:
        channel.reply_when_safe(declared(queue.name, queue.ready, queue.consumer_count))


def declare_reply_queue(channel: Channel, name: str, method: Methods.Declare) -> None:
    """The pseudo-queue of direct reply-to is always there; a token as long as its consumer is."""
    if name != REPLY_TO and name not in channel.broker.reply_consumers:
        raise amqp_error(NOT_FOUND, f"no {queue_text(channel, name)}", DECLARE)
    channel.last_queue = name
    if not method.nowait:
        channel.reply(declared(name, 0, 1))


def declare_actively(
    channel: Channel, name: str, method: Methods.Declare, arguments: Arguments
) -> Queue:
    """Create the queue, or find it to be the same."""
    virtual_host = channel.virtual_host
    channel.broker.churn.queue_declared += 1
    arguments = with_default_type(
        arguments,
        virtual_host.record.default_queue_type,
        durable=bool(method.durable),
        exclusive=bool(method.exclusive),
        auto_delete=bool(method.auto_delete),
    )
    generated = not name
    if generated:
        refuse_nameless(arguments)
        name = channel.broker.generate_name("amq.gen-")
    elif name.startswith("amq."):
        text = f"queue name '{name}' contains reserved prefix 'amq.*'"
        raise amqp_error(ACCESS_REFUSED, text, DECLARE)
    access, user = virtual_host.access, channel.session.user
    access.require(user, virtual_host.name, "configure", "queue", name, DECLARE)
    existing = virtual_host.queues.get(name)
    if existing is not None:
        check_same(channel, existing, method, arguments)
        return existing
    require_queue_room(virtual_host, name, DECLARE)
    resource = queue_text(channel, name)
    dead_letter_exchange = dead_letter_target(arguments, resource, DECLARE)
    if dead_letter_exchange is not None:
        access.require(user, virtual_host.name, "read", "queue", name, DECLARE)
        access.require(user, virtual_host.name, "write", "exchange", dead_letter_exchange, DECLARE)
    check_arguments(arguments, resource, DECLARE, channel.broker.config.compat)
    check_properties(
        arguments,
        resource,
        DECLARE,
        durable=bool(method.durable),
        exclusive=bool(method.exclusive),
        auto_delete=bool(method.auto_delete),
    )
    if not method.durable and not method.exclusive and channel.broker.config.compat == "4.3":
        # 4.3 denies what it deprecated long ago; the other profiles permit it, as clients need it.
        text = "Feature `transient_nonexcl_queues` is deprecated.\nIts use is not permitted"
        raise amqp_error(INTERNAL_ERROR, text, DECLARE)
    if not method.durable and not method.exclusive:
        channel.broker.warn_once(
            "transient_nonexcl_queues",
            f"a transient queue that is not exclusive was declared ({name!r}): RabbitMQ 4.3 refuses"
            " such queues",
        )
    return virtual_host.declare_queue(
        name,
        # An exclusive queue ends with its connection: RabbitMQ keeps it as not durable.
        durable=bool(method.durable) and not method.exclusive,
        auto_delete=bool(method.auto_delete),
        arguments=arguments,
        owner=channel.session if method.exclusive else None,
        user=user,
    )


def check_same(
    channel: Channel, queue: Queue, method: Methods.Declare, arguments: Arguments
) -> None:
    """405 or 406 unless the declaration is that of the existing queue."""
    resource = queue_text(channel, queue.name)
    if bool(method.exclusive) != (queue.owner is not None):
        raise locked(channel, queue.name, DECLARE)
    require_access(channel, queue, DECLARE)
    if queue.owner is None and bool(method.durable) != queue.durable:
        raise inequivalent_property(
            "durable", bool(method.durable), queue.durable, resource, DECLARE
        )
    if bool(method.auto_delete) != queue.auto_delete:
        raise inequivalent_property(
            "auto_delete", bool(method.auto_delete), queue.auto_delete, resource, DECLARE
        )
    # Values are checked for a new queue only: here it counts whether they are the same.
    names = compared(queue.arguments, channel.broker.config.compat)
    check_equivalent(arguments, queue.arguments, names, resource, DECLARE)


def refuse_nameless(arguments: Arguments) -> None:
    """406 for a queue without a name whose type wants one."""
    kind = queue_type(arguments)
    if kind in ("quorum", "stream"):
        text = f"Cannot declare a server-named queue for type rabbit_{kind}_queue"
        raise amqp_error(PRECONDITION_FAILED, text, DECLARE)


def bind(channel: Channel, method: Methods.Bind, arguments: Arguments) -> None:
    """queue.bind."""
    source, name, routing_key = binding(channel, method, BIND)
    exchange = find_exchange(channel, source, BIND)
    queue = find(channel, name, BIND)
    # In RabbitMQ's order: the binding is looked at before the queue's owner.
    check_binding(channel, exchange, queue, routing_key, arguments, BIND)
    require_access(channel, queue, BIND)
    user = channel.session.user
    channel.virtual_host.bind(exchange, queue, routing_key, arguments, user=user)
    if not method.nowait:
        channel.reply_when_safe(Methods.BindOk())


def unbind(channel: Channel, method: Methods.Unbind, arguments: Arguments) -> None:
    """queue.unbind: a binding that is not there is as good as removed."""
    source, name, routing_key = binding(channel, method, UNBIND)
    queue = channel.virtual_host.queues.get(name)
    if queue is not None and channel.virtual_host.is_bound(source, queue, routing_key, arguments):
        require_access(channel, queue, UNBIND)
        user = channel.session.user
        channel.virtual_host.unbind(source, queue, routing_key, arguments, user)
    channel.reply_when_safe(Methods.UnbindOk())


def binding(
    channel: Channel, method: Methods.Bind | Methods.Unbind, ids: tuple[int, int]
) -> tuple[str, str, str]:
    """Exchange, queue and routing key of a binding that the user may make or remove."""
    source = stripped(method.exchange)
    name = channel.named_queue(stripped(method.queue), ids)
    routing_key = method.routing_key or ""
    if not method.queue and not routing_key:
        routing_key = name
    if name == REPLY_TO and channel.broker.config.compat == "4.3":
        text = "cannot bind or unbind to a volatile (direct reply-to) queue"
        raise amqp_error(ACCESS_REFUSED, text, ids)
    virtual_host = channel.virtual_host
    access, user = virtual_host.access, channel.session.user
    access.require(user, virtual_host.name, "write", "queue", name, ids)
    refuse_default(source, ids)
    access.require(user, virtual_host.name, "read", "exchange", source, ids)
    require_topic_read(channel, source, routing_key, ids)
    return source, name, routing_key


def purge(channel: Channel, method: Methods.Purge, arguments: Arguments) -> None:
    """queue.purge: drop what is ready; what is unacknowledged stays."""
    name = channel.named_queue(method.queue or "", PURGE)
    virtual_host = channel.virtual_host
    virtual_host.access.require(
        channel.session.user, virtual_host.name, "read", "queue", name, PURGE
    )
    queue = find(channel, name, PURGE)
    require_access(channel, queue, PURGE)
    count = queue.purge()
    if not method.nowait:
        channel.reply_when_safe(Methods.PurgeOk(count))


def delete(channel: Channel, method: Methods.Delete, arguments: Arguments) -> None:
    """queue.delete: one that is not there is as good as deleted."""
    name = channel.named_queue(stripped(method.queue), DELETE)
    virtual_host = channel.virtual_host
    virtual_host.access.require(
        channel.session.user, virtual_host.name, "configure", "queue", name, DELETE
    )

    def answer(count: int) -> None:
        if not method.nowait:
            channel.reply_when_safe(Methods.DeleteOk(count))

    queue = virtual_host.queues.get(name)
    if queue is None:
        answer(0)
    else:
        require_access(channel, queue, DELETE)
        if queue.type == QUORUM:
            refuse_conditions(queue_text(channel, name), method)
        if method.if_empty and queue.ready:
            text = f"{queue_text(channel, name)} not empty"
            raise amqp_error(PRECONDITION_FAILED, text, DELETE)
        if method.if_unused and len(queue.consumers):
            text = f"{queue_text(channel, name)} in use"
            raise amqp_error(PRECONDITION_FAILED, text, DELETE)
        virtual_host.delete_queue(queue, answer, channel.session.user)


def refuse_conditions(resource: str, method: Methods.Delete) -> None:
    """540: a quorum queue is deleted, or it is not."""
    for flag, given in (("if-unused", method.if_unused), ("if-empty", method.if_empty)):
        if given:
            text = f"cannot delete {resource}. queue.delete operations with {flag} flag set are"
            text += " not supported by quorum queues"
            raise amqp_error(NOT_IMPLEMENTED, text, DELETE)


def find(channel: Channel, name: str, method: tuple[int, int]) -> Queue:
    """The queue, or 404."""
    queue = channel.virtual_host.queues.get(name)
    if queue is None:
        raise amqp_error(NOT_FOUND, f"no {queue_text(channel, name)}", method)
    return queue


def require_access(channel: Channel, queue: Queue, method: tuple[int, int]) -> None:
    """405 if the queue belongs to another connection alone."""
    if queue.owner is not None and queue.owner is not channel.session:
        raise locked(channel, queue.name, method)


def locked(channel: Channel, name: str, method: tuple[int, int]) -> Exception:
    """The refusal of an exclusive queue."""
    return amqp_error(
        RESOURCE_LOCKED,
        f"cannot obtain exclusive access to locked {queue_text(channel, name)}. It could be"
        " originally declared on another connection or the exclusive property value does not"
        " match that of the original declaration.",
        method,
    )


def declared(name: str, ready: int, consumers: int) -> Methods.DeclareOk:
    """declare-ok, for names that pamqp's constructor would not take."""
    reply = Methods.DeclareOk.__new__(Methods.DeclareOk)
    reply.queue = name
    reply.message_count = ready
    reply.consumer_count = consumers
    return reply


HANDLERS: Final[dict[Any, Any]] = {
    Methods.Declare: declare,
    Methods.Bind: bind,
    Methods.Unbind: unbind,
    Methods.Purge: purge,
    Methods.Delete: delete,
}
