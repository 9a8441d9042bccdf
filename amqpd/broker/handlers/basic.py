"""Class basic, beside publishing and settling: qos, consume, cancel, get, recover."""

from __future__ import annotations

from typing import Any, Final

from amqpd.broker.channel import Channel
from amqpd.broker.consumer import Consumer
from amqpd.broker.handlers.queue import find, require_access
from amqpd.broker.names import queue_text
from amqpd.broker.queue import Queue
from amqpd.broker.queue_arguments import CONSUMER_TIMEOUT, INTEGERS, QUORUM, check_length
from amqpd.broker.reply_to import REPLY_TO, TOKEN_PREFIX, ReplyConsumer
from amqpd.commands import Arguments, Basic
from amqpd.errors import (
    ACCESS_REFUSED,
    NOT_ALLOWED,
    NOT_IMPLEMENTED,
    PRECONDITION_FAILED,
    RESOURCE_LOCKED,
    amqp_error,
)
from amqpd.wire.tables import type_name

QOS: Final = (60, 10)
CONSUME: Final = (60, 20)
GET: Final = (60, 70)
RECOVER: Final = (60, 110)
RECOVER_ASYNC: Final = (60, 100)


def qos(channel: Channel, method: Basic.Qos, arguments: Arguments) -> None:
    """basic.qos, in RabbitMQ's meaning of `global`.

    Not global: the window of each consumer that starts later on this channel, and the end of a
    global one. Global: one window over all consumers of the channel. 4.3 denies the latter and
    treats it as the former.
    """
    if method.prefetch_size:
        text = f"prefetch_size!=0 ({method.prefetch_size})"
        raise amqp_error(NOT_IMPLEMENTED, text, QOS)
    count = method.prefetch_count or 0
    if method.global_ and channel.broker.config.compat != "4.3":
        channel.broker.warn_once(
            "global_qos", "a channel uses global qos: RabbitMQ 4.3 treats it as not global"
        )
        channel.global_prefetch = count
        channel.reply(Basic.QosOk())
        channel.unblock_consumers()
        return
    channel.default_prefetch = count
    # RabbitMQ drops a global limit here; the other way round both are in force.
    channel.global_prefetch = 0
    channel.reply(Basic.QosOk())
    channel.unblock_consumers()


def consume(channel: Channel, method: Basic.Consume, arguments: Arguments) -> None:
    """basic.consume."""
    name = channel.named_queue(method.queue or "", CONSUME)
    tag = method.consumer_tag or ""
    reply_consumer = channel.reply_consumer
    if tag in channel.consumers or (
        reply_consumer is not None and reply_consumer.consumer_tag == tag and name != REPLY_TO
    ):
        raise amqp_error(NOT_ALLOWED, f"attempt to reuse consumer tag '{tag}'", CONSUME)
    most = channel.broker.limits.consumers_per_channel_max
    if most and len(channel.consumers) >= most:
        text = f"reached maximum ({most}) of consumers per channel"
        raise amqp_error(NOT_ALLOWED, text, CONSUME)
    tag = tag or channel.broker.generate_name("amq.ctag-")
    if name == REPLY_TO:
        consume_replies(channel, tag, method)
        return
    virtual_host = channel.virtual_host
    virtual_host.access.require(
        channel.session.user, virtual_host.name, "read", "queue", name, CONSUME
    )
    queue = find(channel, name, CONSUME)
    require_access(channel, queue, CONSUME)
    level = priority(channel, queue, arguments)
    exclusive = bool(method.exclusive)
    if queue.type == QUORUM:
        exclusive = False  # quorum queues take the flag, and have no exclusive consumers
        if channel.global_prefetch:
            text = f"{queue_text(channel, name)} does not support global qos"
            raise amqp_error(NOT_IMPLEMENTED, text, CONSUME)
    refuse_exclusive(channel, queue, exclusive)
    check_timeout(channel, queue, arguments)
    consumer = Consumer(
        tag,
        queue,
        channel,
        no_ack=bool(method.no_ack),
        exclusive=exclusive,
        prefetch=channel.default_prefetch,
        priority=level,
        arguments=arguments,
    )
    channel.add_consumer(consumer)
    if not method.nowait:
        channel.reply(Basic.ConsumeOk(tag))
    queue.dispatch()


def consume_replies(channel: Channel, tag: str, method: Basic.Consume) -> None:
    """basic.consume of the pseudo-queue of direct reply-to."""
    if not method.no_ack:
        raise amqp_error(PRECONDITION_FAILED, "reply consumer cannot acknowledge", CONSUME)
    if channel.reply_consumer is not None:
        raise amqp_error(PRECONDITION_FAILED, "reply consumer already set", CONSUME)
    token = channel.broker.generate_name(TOKEN_PREFIX)
    channel.reply_consumer = ReplyConsumer(channel, tag, token)
    channel.broker.reply_consumers[token] = channel.reply_consumer
    if not method.nowait:
        channel.reply(Basic.ConsumeOk(tag))


def refuse_exclusive(channel: Channel, queue: Queue, exclusive: bool) -> None:
    """403 where an exclusive consumer is, and for one where any consumer is."""
    if queue.consumers.exclusive is not None or (
        exclusive and (len(queue.consumers) or queue.single_active)
    ):
        text = f"{queue_text(channel, queue.name)} in exclusive use"
        raise amqp_error(ACCESS_REFUSED, text, CONSUME)


def priority(channel: Channel, queue: Queue, arguments: Arguments) -> int:
    """The consumer's `x-priority`: any integer, 0 by default."""
    field = arguments.get("x-priority")
    if field is None:
        return 0
    octet, value = field
    if octet not in INTEGERS:
        text = f"invalid arg 'x-priority' for {queue_text(channel, queue.name)}:"
        text += f' "expected integer, got {type_name(octet)}"'
        raise amqp_error(PRECONDITION_FAILED, text, CONSUME)
    return int(value)


def check_timeout(channel: Channel, queue: Queue, arguments: Arguments) -> None:
    """`x-consumer-timeout` of a single consumer, which 4.3 knows of quorum queues."""
    field = arguments.get(CONSUMER_TIMEOUT)
    if field is None or channel.broker.config.compat != "4.3" or queue.type != QUORUM:
        return
    reason = check_length(field, arguments)
    if reason:
        text = f"invalid arg '{CONSUMER_TIMEOUT}' for {queue_text(channel, queue.name)}: {reason}"
        raise amqp_error(PRECONDITION_FAILED, text, CONSUME)


def cancel(channel: Channel, method: Basic.Cancel, arguments: Arguments) -> None:
    """basic.cancel: cancel-ok follows the last delivery; an unknown tag is as good as cancelled."""
    tag = method.consumer_tag or ""
    consumer = channel.consumers.get(tag)
    reply_consumer = channel.reply_consumer
    if consumer is not None:
        channel.remove_consumer(consumer)
    elif reply_consumer is not None and reply_consumer.consumer_tag == tag:
        del channel.broker.reply_consumers[reply_consumer.token]
        channel.reply_consumer = None
    if not method.nowait:
        # The queue may have gone with its last consumer.
        channel.reply_when_safe(Basic.CancelOk(tag))


def cancel_ok(channel: Channel, method: Basic.CancelOk, arguments: Arguments) -> None:
    """basic.cancel-ok: some clients answer the broker's own cancel; nothing to do."""


def get(channel: Channel, method: Basic.Get, arguments: Arguments) -> None:
    """basic.get: prefetch limits do not apply to it."""
    name = channel.named_queue(method.queue or "", GET)
    virtual_host = channel.virtual_host
    virtual_host.access.require(channel.session.user, virtual_host.name, "read", "queue", name, GET)
    queue = find(channel, name, GET)
    require_access(channel, queue, GET)
    if queue.type == QUORUM and queue.single_active:
        text = f"cannot obtain access to locked {queue_text(channel, name)}. basic.get operations"
        text += " are not supported by quorum queues with single active consumer"
        raise amqp_error(RESOURCE_LOCKED, text, GET)
    stored = queue.get()
    if stored is None:
        queue.counts.get_empty += 1
        channel.counts.get_empty += 1
        channel.reply(Basic.GetEmpty())
        return
    channel.delivery_tag += 1
    redelivered = stored.redelivered
    message = queue.presented(stored) if redelivered else stored.content
    for counts in (queue.counts, channel.counts):
        counts.count_get(redelivered, no_ack=bool(method.no_ack))
    if method.no_ack:
        queue.settle(stored)
    else:
        queue.unacked += 1
        channel.watch_acknowledgements()
        channel.unacked[channel.delivery_tag] = (stored, queue, None)
    channel.outlet.get_ok(channel.delivery_tag, redelivered, queue.ready, message)
    if virtual_host.firehose is not None:
        virtual_host.firehose.delivered(channel, queue.name, redelivered, message)


def recover(channel: Channel, method: Basic.Recover, arguments: Arguments) -> None:
    """basic.recover: requeue everything that this channel has not settled."""
    if not method.requeue:
        raise amqp_error(NOT_IMPLEMENTED, "requeue=false", RECOVER)
    # The answer comes first: the redeliveries that follow it belong to the time after.
    channel.reply(Basic.RecoverOk())
    channel.requeue_all()


def recover_async(channel: Channel, method: Basic.RecoverAsync, arguments: Arguments) -> None:
    """basic.recover-async: the same, without an answer."""
    if not method.requeue:
        raise amqp_error(NOT_IMPLEMENTED, "requeue=false", RECOVER_ASYNC)
    channel.requeue_all()


HANDLERS: Final[dict[Any, Any]] = {
    Basic.Qos: qos,
    Basic.Consume: consume,
    Basic.Cancel: cancel,
    Basic.CancelOk: cancel_ok,
    Basic.Get: get,
    Basic.Recover: recover,
    Basic.RecoverAsync: recover_async,
}
