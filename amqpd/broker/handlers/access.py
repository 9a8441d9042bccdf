"""Class access: a leftover of 0-8. RabbitMQ grants every request with ticket 1."""

from __future__ import annotations

from typing import Any, Final

from amqpd.broker.channel import Channel
from amqpd.commands import Access, Arguments


def request(channel: Channel, method: Access.Request, arguments: Arguments) -> None:
    """access.request."""
    channel.reply(Access.RequestOk())


HANDLERS: Final[dict[Any, Any]] = {Access.Request: request}
