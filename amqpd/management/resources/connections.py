"""/connections, /channels, /consumers."""

from __future__ import annotations

from functools import partial
from typing import Any

from amqpd.broker.administration import close_connection
from amqpd.broker.channel import Channel
from amqpd.broker.session import Session
from amqpd.management import fields, statistics
from amqpd.management.auth import (
    MANAGEMENT,
    MONITORING,
    anybody,
    has,
    in_virtual_host,
    require_own,
    wanted_virtual_hosts,
)
from amqpd.management.call import Answer, Call, done, listed_in_steps
from amqpd.management.errors import not_found
from amqpd.management.node import NO_TRAFFIC, Traffic
from amqpd.management.routing import Table

CLOSE_REASON = "Closed via management plugin"


def _visible(call: Call) -> list[Session]:
    """Everybody's, for monitoring; otherwise one's own."""
    sessions = list(call.broker.sessions)
    if has(call.user, MONITORING):
        return sessions
    return [session for session in sessions if session.user == call.user.name]


def _find(call: Call) -> Session:
    """The connection in the path. Raises 404, or 401 for somebody else's."""
    for session in call.broker.sessions:
        if session.origin.name == call["name"]:
            require_own(call, session.user)
            return session
    raise not_found()


def every(call: Call) -> Answer:
    """All that the user sees; of a virtual host, or of a user."""
    sessions = _visible(call)
    if "vhost" in call.parameters:
        home = call.virtual_host
        sessions = [session for session in sessions if session.virtual_host is home]
    if "user" in call.parameters:
        sessions = [session for session in sessions if session.user == call["user"]]
    traffic = call.node.traffic()

    def make(session: Session) -> dict[str, Any]:
        return _shown(call, session, traffic.get(session, NO_TRAFFIC))

    return listed_in_steps(sessions, make, "name", head=lambda one: {"name": one.origin.name})


def _shown(call: Call, session: Session, traffic: Traffic) -> dict[str, Any]:
    """A connection with the rates of its octets."""
    octets = {"recv_oct": traffic.received_bytes, "send_oct": traffic.sent_bytes}
    rates = call.statistics.shown(session, octets, call.query, "data_rates")
    return fields.connection(call.node, session, traffic) | rates


def show(call: Call) -> Answer:
    """One connection."""
    session = _find(call)
    traffic = call.node.traffic().get(session, NO_TRAFFIC)
    return Answer(body=_shown(call, session, traffic))


def close(call: Call) -> Answer:
    """connection.close to a client: 320, with the reason in the header X-Reason."""
    close_connection(call.broker, _find(call), _reason(call))
    return done()


def _reason(call: Call) -> str:
    given = call.headers.get("x-reason") or CLOSE_REASON
    # Headers come as Latin-1, whatever they are; clients write UTF-8, as RabbitMQ takes it.
    return given.encode("latin-1").decode("utf-8", "surrogateescape")


def close_all_of_user(call: Call) -> Answer:
    """The same for every connection of a user."""
    require_own(call, call["user"])
    reason = _reason(call)
    for session in list(call.broker.sessions):
        if session.user == call["user"]:
            close_connection(call.broker, session, reason)
    return done()


def _channels(call: Call, sessions: list[Session]) -> Answer:
    channels: list[Channel] = [
        channel for session in sessions for channel in session.channels.values()
    ]
    make = partial(_shown_channel, call)
    return listed_in_steps(channels, make, "name", head=fields.channel_head)


def _shown_channel(call: Call, channel: Channel) -> dict[str, Any]:
    """A channel with its statistics."""
    numbers = statistics.of_channel(channel)
    body = fields.channel(call.node, channel)
    body |= call.statistics.of_messages(channel, numbers, call.query)
    idle_since = call.statistics.idle_since(channel, numbers)
    return body if idle_since is None else body | {"idle_since": idle_since}


def channels_of_connection(call: Call) -> Answer:
    """Those of one connection."""
    return _channels(call, [_find(call)])


def channels(call: Call) -> Answer:
    """All that the user sees, or those in a virtual host."""
    sessions = _visible(call)
    if "vhost" in call.parameters:
        home = call.virtual_host
        sessions = [session for session in sessions if session.virtual_host is home]
    return _channels(call, sessions)


def show_channel(call: Call) -> Answer:
    """One channel, with its consumers."""
    for session in call.broker.sessions:
        for channel in session.channels.values():
            if fields.channel_name(channel) == call["name"]:
                require_own(call, session.user)
                body = _shown_channel(call, channel)
                consumers = [
                    fields.consumer(call.node, consumer) for consumer in channel.consumers.values()
                ]
                details = {"consumer_details": consumers, "publishes": [], "deliveries": []}
                return Answer(body=body | details)
    raise not_found()


def consumers(call: Call) -> Answer:
    """Everybody's, for monitoring; otherwise one's own. Of one virtual host, or of all."""
    hosts = wanted_virtual_hosts(call, MANAGEMENT)
    everybodys = has(call.user, MONITORING)
    found = [
        consumer
        for host in hosts
        for queue in host.queues.values()
        for consumer in queue.consumers.members()
        if everybodys or consumer.channel.session.user == call.user.name
    ]
    return listed_in_steps(found, partial(fields.consumer, call.node))


def register(table: Table) -> None:
    """The paths."""
    table.add("/connections", GET=(every, anybody))
    table.add("/vhosts/{vhost}/connections", GET=(every, in_virtual_host))
    table.add("/connections/{name}", GET=(show, anybody), DELETE=(close, anybody))
    table.add("/connections/{name}/channels", GET=(channels_of_connection, anybody))
    table.add(
        "/connections/username/{user}", GET=(every, anybody), DELETE=(close_all_of_user, anybody)
    )
    table.add("/channels", GET=(channels, anybody))
    table.add("/vhosts/{vhost}/channels", GET=(channels, in_virtual_host))
    table.add("/channels/{name}", GET=(show_channel, anybody))
    table.add("/consumers", GET=(consumers, anybody))
    table.add("/consumers/{vhost}", GET=(consumers, anybody))
