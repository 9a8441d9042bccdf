"""AMQP methods on behalf of an HTTP caller: the same handlers, checks and words as for a client.

A call gets a session and a channel of its own, which end with it. They are not among the broker's
connections.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from amqpd.broker.channel import Channel
from amqpd.broker.handlers import handle
from amqpd.broker.session import Origin, Session
from amqpd.commands import Arguments, Frame, MethodCommand
from amqpd.errors import AMQPException
from amqpd.management.call import Call
from amqpd.management.call_outlet import CallOutlet
from amqpd.management.errors import bad_request, from_amqp
from amqpd.short_string import short_string
from amqpd.wire.tables import UnfitValue, typed

CHANNEL_NUMBER: Final = 1


def frame(kind: type[Frame], **arguments: Any) -> Any:
    """A method with these arguments, as the wire would bring it: pamqp's constructors refuse names
    that RabbitMQ takes. Raises 400 for a name that the wire could not carry."""
    method = kind.__new__(kind)
    for name, value in arguments.items():
        if isinstance(value, str):
            check_short(value, name)
        setattr(method, name, value)
    return method


def check_short(value: str, name: str) -> bytes:
    """The value as a short string. Raises 400 for more than 255 octets."""
    try:
        return short_string(value)
    except ValueError:
        length = len(value.encode("utf-8", "surrogateescape"))
        raise bad_request(f"{name} is {length} octets long, the most is 255") from None


def arguments(call: Call, body: Mapping[str, Any]) -> Arguments:
    """The object of that name as a field table; an empty list stands for an empty one.

    Raises 400.
    """
    given = body.get("arguments")
    if given is None or given == []:
        return {}
    if not isinstance(given, dict):
        raise bad_request(["not_a_map", "arguments"])
    return field_table(call, given, "arguments")


def field_table(call: Call, values: dict[str, Any], name: str) -> Arguments:
    """A JSON object as a field table that a client could have sent. Raises 400 for any other:
    nobody could read it again, not even the broker at its next start."""
    try:
        return typed(values, call.broker.limits.table_depth_max)
    except UnfitValue as error:
        raise bad_request(f"{name}: {error}") from error


@contextmanager
def channel_for(call: Call) -> Iterator[tuple[Channel, CallOutlet]]:
    """A channel in the virtual host of the path. Raises 404.

    Exclusive queues of others stay locked to it; what it fetched and did not settle is requeued.
    """
    virtual_host = call.virtual_host
    origin = Origin("HTTP API", call.broker.pid(call.broker.next_serial()))
    session = Session(call.broker, virtual_host, call.user.name, origin, frozenset())
    outlet = CallOutlet()
    channel = session.open_channel(CHANNEL_NUMBER, outlet)
    try:
        yield channel, outlet
    finally:
        session.end()


def perform(call: Call, method: Frame, arguments: Arguments | None = None) -> None:
    """One method on a channel of its own. Raises ApiError for what AMQP refuses."""
    with channel_for(call) as (channel, _):
        try:
            handle(channel, MethodCommand(CHANNEL_NUMBER, method, arguments or {}))
        except AMQPException as error:
            raise from_amqp(error, declaring=True) from error
