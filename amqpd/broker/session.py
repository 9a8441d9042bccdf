"""The broker's side of one connection: who it is, where it is, and its channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amqpd.broker.channel import Channel
from amqpd.commands import Outlet

if TYPE_CHECKING:
    from amqpd.broker.broker import Broker
    from amqpd.broker.queue import Queue
    from amqpd.broker.virtual_host import VirtualHost


class Session:
    """An open connection, as the broker sees it. Made by `Broker.open_session`."""

    __slots__ = (
        "broker",
        "capabilities",
        "channels",
        "exclusive_queues",
        "name",
        "user",
        "virtual_host",
    )

    def __init__(
        self,
        broker: Broker,
        virtual_host: VirtualHost,
        user: str,
        name: str,
        capabilities: frozenset[str],
    ) -> None:
        self.broker = broker
        self.virtual_host = virtual_host
        self.user = user
        self.name = name
        """`peer -> broker`, for logs."""
        self.capabilities = capabilities
        self.channels: dict[int, Channel] = {}
        self.exclusive_queues: dict[Queue, None] = {}

    def open_channel(self, number: int, outlet: Outlet) -> Channel:
        """The peer opened a channel."""
        channel = Channel(number, self, outlet)
        self.channels[number] = channel
        return channel

    def end_channel(self, number: int) -> None:
        """The channel was closed, by whichever side."""
        self.channels.pop(number).end()

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
        self.broker.sessions.pop(self, None)
