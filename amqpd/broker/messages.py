"""A message's life in the broker: its place in a queue, and the confirm its publisher waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amqpd.commands import Message
from amqpd_storage.entries import TAKEN, Enqueue

if TYPE_CHECKING:
    from amqpd.broker.confirms import Confirms
    from amqpd.broker.returns import Returned


class PendingConfirm:
    """A publish that is confirmed once `remaining` durable queues have it on disk."""

    __slots__ = ("confirms", "publish_number", "remaining")

    def __init__(self, confirms: Confirms, publish_number: int) -> None:
        self.confirms = confirms
        self.publish_number = publish_number
        self.remaining = 0

    def safe(self) -> None:
        """One of the queues need not be waited for any more."""
        self.remaining -= 1
        if self.remaining == 0:
            self.confirms.complete(self.publish_number)


class QueueMessage(Enqueue[Message]):
    """A message at its position in a queue.

    It is the journal's `Enqueue` at the same time. `key` is 0 for what is not journaled: then
    `state` says nothing.
    """

    __slots__ = ("confirm", "position", "redelivered", "returned")

    def __init__(self, position: int, content: Message) -> None:
        self.key = 0
        self.content = content
        self.state = TAKEN
        self.expires_ms = 0
        self.position = position
        self.redelivered = False
        self.confirm: PendingConfirm | None = None
        self.returned: Returned | None = None
        """What its queue wrote down when it came back, if it does."""
