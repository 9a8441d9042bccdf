"""Direct reply-to: replies without a reply queue (RabbitMQ's `amq.rabbitmq.reply-to`).

A channel that consumes the pseudo-queue gets a token. Publishing with the pseudo-queue as reply-to
carries the token instead; publishing to the default exchange with the token as routing key reaches
that channel directly, from any connection. Nothing is stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from amqpd.broker.takes_all import TakesAll
from amqpd.short_string import short_string

if TYPE_CHECKING:
    from amqpd.broker.channel import Channel
    from amqpd.broker.messages import PendingConfirm
    from amqpd.commands import Message

REPLY_TO: Final = "amq.rabbitmq.reply-to"
TOKEN_PREFIX: Final = "amq.rabbitmq.reply-to."


class ReplyConsumer(TakesAll):
    """The one reply consumer of a channel; routes like a queue, keeps nothing."""

    __slots__ = ("channel", "consumer_tag", "prefix", "token")

    def __init__(self, channel: Channel, consumer_tag: str, token: str) -> None:
        self.channel = channel
        self.consumer_tag = consumer_tag
        self.token = token
        self.prefix = short_string(consumer_tag)

    def publish(self, message: Message, confirm: PendingConfirm | None) -> None:
        """Pass a reply on; replies are at most once, as in RabbitMQ.

        One is dropped when its requester long stopped reading, to bound what is kept for it.
        """
        channel = self.channel
        if channel.outlet.saturated:
            return
        channel.delivery_tag += 1
        channel.outlet.deliver(self.prefix, channel.delivery_tag, False, message)
