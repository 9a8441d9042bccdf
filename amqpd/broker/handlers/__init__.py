"""What each method does, one file per class of AMQP.

A handler gets the channel, the method and its typed arguments, and answers through the channel or
raises what `amqpd.errors.amqp_error` makes. To add a method: write its handler in the file of its
class and enter it in that file's `HANDLERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from amqpd.broker.channel import Channel
from amqpd.broker.handlers import access, basic, channel, confirm, exchange, queue, tx
from amqpd.commands import Arguments, Frame, MethodCommand
from amqpd.errors import COMMAND_INVALID, ConnectionException

Handler = Callable[[Channel, Any, Arguments], None]

HANDLERS: Final[dict[type[Frame], Handler]] = {
    **access.HANDLERS,
    **channel.HANDLERS,
    **exchange.HANDLERS,
    **queue.HANDLERS,
    **basic.HANDLERS,
    **confirm.HANDLERS,
    **tx.HANDLERS,
}


def handle(on_channel: Channel, command: MethodCommand) -> None:
    """Do what the method says. Raises `AMQPException`."""
    method = command.method
    handler = HANDLERS.get(type(method))
    if handler is None:
        raise ConnectionException(COMMAND_INVALID, "unimplemented method", ids(method))
    handler(on_channel, method, command.arguments)


def ids(method: Frame) -> tuple[int, int]:
    """Class and method id."""
    return method.index >> 16, method.frame_id
