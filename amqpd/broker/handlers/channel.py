"""Class channel, beside opening and closing, which the connection sees to."""

from __future__ import annotations

from typing import Any, Final

from amqpd.broker.channel import Channel as BrokerChannel
from amqpd.commands import Arguments, Channel
from amqpd.errors import NOT_IMPLEMENTED, amqp_error


def flow(channel: BrokerChannel, method: Channel.Flow, arguments: Arguments) -> None:
    """channel.flow: RabbitMQ never stops on request, and refuses to say that it did."""
    if not method.active:
        raise amqp_error(NOT_IMPLEMENTED, "active=false", (20, 20))
    channel.reply(Channel.FlowOk(True))


def flow_ok(channel: BrokerChannel, method: Channel.FlowOk, arguments: Arguments) -> None:
    """channel.flow-ok: an answer to what is never asked; nothing to do."""


HANDLERS: Final[dict[Any, Any]] = {Channel.Flow: flow, Channel.FlowOk: flow_ok}
