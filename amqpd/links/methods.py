"""AMQP's methods as links say them: made without pamqp's constructors, which refuse names that
brokers take. A field that is not given is zero or empty on the wire.
"""

from __future__ import annotations

from typing import Any, TypeVar

from amqpd.commands import Basic, Exchange, Frame, Queue

F = TypeVar("F", bound=Frame)


def unchecked(frame_type: type[F], **fields: Any) -> F:
    """A method with these fields."""
    method = frame_type.__new__(frame_type)
    for name, value in fields.items():
        setattr(method, name, value)
    return method


def look_for_queue(queue: str) -> Queue.Declare:
    """A passive queue.declare."""
    return unchecked(Queue.Declare, queue=queue, passive=True, durable=True)


def declare_queue(queue: str, *, durable: bool = True, auto_delete: bool = False) -> Queue.Declare:
    """queue.declare of a queue for everybody."""
    return unchecked(Queue.Declare, queue=queue, durable=durable, auto_delete=auto_delete)


def look_for_exchange(exchange: str, type: str = "direct") -> Exchange.Declare:
    """A passive exchange.declare; the type counts for nothing."""
    return unchecked(Exchange.Declare, exchange=exchange, exchange_type=type, passive=True)


def consume(queue: str, tag: str, *, no_ack: bool, nowait: bool = False) -> Basic.Consume:
    """basic.consume."""
    return unchecked(Basic.Consume, queue=queue, consumer_tag=tag, no_ack=no_ack, nowait=nowait)
