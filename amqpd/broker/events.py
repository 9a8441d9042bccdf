"""The event exchange: what happens in the broker, as messages (RabbitMQ's rabbitmq_event_exchange).

    broker.events.emit("policy.set", {"vhost": "/", "name": "p", "priority": 1}, user)

is all that is needed to tell of something: no message is made unless somebody has bound a queue to
`amq.rabbitmq.event`. What was told in a turn is published at its end (`internal_publishing`), so
whoever tells of a change need not expect queues and consumers to move under it.

An event is an empty persistent message. Its routing key says what happened (`queue.created`), its
headers to what: the properties, `user_who_performed_action` and `timestamp_in_ms`. The forms of the
values are RabbitMQ's (rabbit_exchange_type_event.erl): whole numbers are int64, field tables are
arrays of Erlang terms, and the last property comes first.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from amqpd.commands import Arguments, Field
from amqpd.wire.properties import DELIVERY_MODE, HEADERS, TIMESTAMP
from amqpd.wire.tables import encode_table, erlang, type_name

if TYPE_CHECKING:
    from amqpd.broker.broker import Broker

EVENT_EXCHANGE: Final = "amq.rabbitmq.event"
INTERNAL_USER: Final = "rmq-internal"
"""Who did what no user asked for: the end of auto-delete things, of exclusive queues, ..."""

DEPTH_MAX: Final = 16
"""Tables and lists within one another that an event's property has."""

Properties = Mapping[str, Any]
"""What an event says, in RabbitMQ's order: bool, int, float, str, lists and mappings of these."""

_PREFIX: Final = (HEADERS | DELIVERY_MODE | TIMESTAMP).to_bytes(2, "big")
_PERSISTENT: Final = b"\x02"


class Events:
    """The seam between what happens and who listens."""

    __slots__ = ("_broker", "_vhost")

    def __init__(self, broker: Broker, vhost: str) -> None:
        """`vhost` names the virtual host that has the exchange."""
        self._broker = broker
        self._vhost = vhost

    @property
    def wanted(self) -> bool:
        """Whether anybody listens: ask first where the properties are costly to put together."""
        home = self._broker.virtual_hosts.get(self._vhost)
        return home is not None and bool(home.exchanges[EVENT_EXCHANGE].table.bindings)

    def emit(self, key: str, properties: Properties, user: str | None = INTERNAL_USER) -> None:
        """Tell that something happened, if anybody listens.

        `key` is the routing key, `properties` become headers. `user` performed the action; None
        for what nobody performs (a login, an alarm).
        """
        if not self.wanted:
            return
        broker = self._broker
        epoch_ms = broker.effects.epoch_ms()
        fields = {"timestamp_in_ms": epoch_ms, **properties}
        if user is not None:
            fields["user_who_performed_action"] = user
        headers = {name: event_field(fields[name]) for name in reversed(fields)}
        timestamp = (epoch_ms // 1000).to_bytes(8, "big")
        broker.internal_publishing.add(
            broker.virtual_hosts[self._vhost],
            EVENT_EXCHANGE,
            key,
            _PREFIX + encode_table(headers) + _PERSISTENT + timestamp,
            b"",
            persistent=True,
        )


def event_field(value: Any, depth: int = 0) -> Field:
    """A value in the form that RabbitMQ's events have it in; what is nested too deeply is cut."""
    if depth > DEPTH_MAX:
        return ("S", "...")
    if isinstance(value, bool):
        return ("t", value)
    if isinstance(value, int):
        return ("l", value)
    if isinstance(value, float):
        return ("f", value)
    if isinstance(value, str):
        return ("S", value)
    if isinstance(value, Mapping) and value:
        return ("F", {name: event_field(value[name], depth + 1) for name in reversed(value)})
    if value is None:
        return ("S", "none")
    # An empty table is an empty list in Erlang.
    return ("A", [event_field(item, depth + 1) for item in value])


def terms(arguments: Arguments) -> list[str]:
    """A field table as events show it: `{<<"x-max-length">>,signedint,5}`."""
    return [
        f"{{{erlang('S', name)},{type_name(octet)},{erlang(octet, value)}}}"
        for name, (octet, value) in arguments.items()
    ]


def address_term(host: str) -> str:
    """An address as an Erlang term: `{127,0,0,1}`; a name stays one."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return "{" + ",".join(str(octet) for octet in address.packed) + "}"
    groups = (int(group, 16) for group in address.exploded.split(":"))
    return "{" + ",".join(map(str, groups)) + "}"
