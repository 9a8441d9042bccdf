"""The broker's side of one connection: who it is, where it is, and its channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from amqpd.broker.channel import Channel
from amqpd.broker.events import Properties, address_term, terms
from amqpd.commands import Arguments, Outlet

if TYPE_CHECKING:
    from amqpd.broker.broker import Broker
    from amqpd.broker.queue import Queue
    from amqpd.broker.virtual_host import VirtualHost


class Origin(NamedTuple):
    """Where a connection came from, and what was agreed with it."""

    name: str
    """`host:port -> host:port`: of the client, and of the listener it came to."""
    pid: str
    """What tells it from all other connections and channels; see `Broker.pid`."""
    secure: bool = False
    """Over TLS."""
    mechanism: str = "PLAIN"
    client_properties: Arguments = {}  # noqa: RUF012 - never changed
    frame_bytes_max: int = 0
    channel_max: int = 0
    heartbeat_s: int = 0
    connected_ms: int = 0
    """When the client connected, in milliseconds since 1970."""

    @property
    def peer(self) -> tuple[str, int]:
        """The client's address."""
        return _address(self.name.partition(" -> ")[0])

    @property
    def listener(self) -> tuple[str, int]:
        """The address that the client came to."""
        return _address(self.name.partition(" -> ")[2])

    @property
    def user_provided_name(self) -> str | None:
        """The `connection_name` among the client's properties."""
        octet, value = self.client_properties.get("connection_name", ("V", None))
        return str(value) if octet == "S" else None

    def login(self, user: str) -> dict[str, object]:
        """What user.authentication.success and .failure say."""
        return {
            "connection_type": "network",
            "name": user,
            "host": address_term(self.listener[0]),
            "connection_name": self.name,
            "peer_host": address_term(self.peer[0]),
            "peer_port": self.peer[1],
            "protocol": PROTOCOL,
            "auth_mechanism": self.mechanism,
            "ssl": self.secure,
        }

    def created(self, user: str, virtual_host: str, node: str) -> Properties:
        """What connection.created says."""
        return {
            **self._named(),
            "type": "network",
            "pid": self.pid,
            "name": self.name,
            "port": self.listener[1],
            "peer_port": self.peer[1],
            "host": address_term(self.listener[0]),
            "peer_host": address_term(self.peer[0]),
            "ssl": self.secure,
            **dict.fromkeys(("peer_cert_subject", "peer_cert_issuer", "peer_cert_validity"), ""),
            "auth_mechanism": self.mechanism,
            **dict.fromkeys(("ssl_protocol", "ssl_key_exchange", "ssl_cipher", "ssl_hash"), ""),
            "protocol": PROTOCOL,
            "user": user,
            "vhost": virtual_host,
            "timeout": self.heartbeat_s,
            "frame_max": self.frame_bytes_max,
            "channel_max": self.channel_max,
            "client_properties": terms(self.client_properties),
            "connected_at": self.connected_ms,
            "node": node,
        }

    def closed(self, node: str) -> Properties:
        """What connection.closed says."""
        return {
            **self._named(),
            "name": self.name,
            "pid": self.pid,
            "node": node,
            "client_properties": terms(self.client_properties),
        }

    def _named(self) -> dict[str, object]:
        name = self.user_provided_name
        return {} if name is None else {"user_provided_name": name}


PROTOCOL: Final = "{0,9,1}"
"""0-9-1 as events have it."""


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port) if port.isdigit() else 0


class Session:
    """An open connection, as the broker sees it. Made by `Broker.open_session`."""

    __slots__ = (
        "broker",
        "capabilities",
        "channels",
        "exclusive_queues",
        "origin",
        "user",
        "virtual_host",
    )

    def __init__(
        self,
        broker: Broker,
        virtual_host: VirtualHost,
        user: str,
        origin: Origin,
        capabilities: frozenset[str],
    ) -> None:
        self.broker = broker
        self.virtual_host = virtual_host
        self.user = user
        self.origin = origin
        self.capabilities = capabilities
        self.channels: dict[int, Channel] = {}
        self.exclusive_queues: dict[Queue, None] = {}

    def open_channel(self, number: int, outlet: Outlet) -> Channel:
        """The peer opened a channel."""
        channel = Channel(number, self, outlet)
        self.channels[number] = channel
        self.broker.churn.channel_created += 1
        events = self.broker.events
        if events.wanted:
            properties = {
                "pid": channel.pid,
                "name": f"{self.origin.name} ({number})",
                "connection": self.origin.pid,
                "number": number,
                "user": self.user,
                "vhost": self.virtual_host.name,
            }
            events.emit("channel.created", properties, self.user)
        return channel

    def tell_created(self) -> None:
        """connection.created, for whoever listens."""
        broker = self.broker
        if broker.events.wanted:
            properties = self.origin.created(self.user, self.virtual_host.name, broker.node)
            broker.events.emit("connection.created", properties, self.user)

    def end_channel(self, number: int) -> None:
        """The channel was closed, by whichever side."""
        channel = self.channels.pop(number)
        channel.end()
        self.broker.churn.channel_closed += 1
        self.broker.events.emit("channel.closed", {"pid": channel.pid}, self.user)

    def resume(self) -> None:
        """The peer has read what it was sent: deliveries may go on."""
        for channel in list(self.channels.values()):
            channel.unblock_consumers()

    def end(self) -> None:
        """The connection is gone: end its channels, then delete its exclusive queues."""
        for channel in self.channels.values():
            channel.withdraw()
        for number in list(self.channels):
            self.end_channel(number)
        for queue in list(self.exclusive_queues):
            self.virtual_host.delete_queue(queue)
        if self in self.broker.sessions:
            del self.broker.sessions[self]
            self.broker.churn.connection_closed += 1
