"""Names as clients send them, and as refusals show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amqpd.broker.channel import Channel


def stripped(name: str | None) -> str:
    """A name without CR and LF, which RabbitMQ drops from names in declarations and bindings."""
    return (name or "").replace("\r", "").replace("\n", "")


def exchange_text(channel: Channel, name: str) -> str:
    """`exchange 'NAME' in vhost 'VHOST'`."""
    return f"exchange '{name}' in vhost '{channel.virtual_host.name}'"


def queue_text(channel: Channel, name: str) -> str:
    """`queue 'NAME' in vhost 'VHOST'`."""
    return f"queue '{name}' in vhost '{channel.virtual_host.name}'"
