"""Class confirm: RabbitMQ's publisher confirms."""

from __future__ import annotations

from typing import Any, Final

from amqpd.broker.channel import Channel
from amqpd.broker.confirms import Confirms
from amqpd.commands import Arguments, Confirm
from amqpd.errors import PRECONDITION_FAILED, amqp_error


def select(channel: Channel, method: Confirm.Select, arguments: Arguments) -> None:
    """confirm.select: number what is published from here on. Said twice, it changes nothing."""
    if channel.transaction is not None:
        raise amqp_error(PRECONDITION_FAILED, "cannot switch from tx to confirm mode", (85, 10))
    if channel.confirms is None:
        channel.confirms = Confirms(channel.outlet, channel.broker.effects.due_confirms)
    if not method.nowait:
        channel.reply(Confirm.SelectOk())


HANDLERS: Final[dict[Any, Any]] = {Confirm.Select: select}
