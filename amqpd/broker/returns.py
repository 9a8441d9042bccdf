"""What a queue knows of messages that came back to it: how often, and until when they wait.

    handed out ──comes back──> counted ──> over the limit: buried (reason delivery_limit)
                                  │
                                  ├──> delayed retry: waits in `_waiting` until its time
                                  └──> ready again

Quorum queues count, and so do queues that delay retries; others ask nothing here. What is written
down stays with the message (`QueueMessage.returned`), and for a message that is kept on disk it is
in the journal, as a definition of its own: a restart knows it before it reads any message. Most
messages never come back, and cost nothing.

What counts, and what clients are told (`x-delivery-count`), differs between RabbitMQ's versions:

    3.13, 4.2   x-delivery-count is the number of returns, and is held against the limit
    4.3         x-delivery-count is the number of failed deliveries (basic.reject, the end of a
                channel or connection), and is held against the limit; x-acquired-count is the
                number of returns
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

from amqpd.broker import definitions
from amqpd.broker.definitions import ReturnRecord
from amqpd.broker.delayed_retry import delay_ms
from amqpd.commands import Message, make_message
from amqpd.config import Compat
from amqpd.wire.properties import read_headers, with_headers
from amqpd_storage.entries import POSITION_BITS, POSITION_MAX, DropRange, storage_key

if TYPE_CHECKING:
    from amqpd.broker.effects import Effects
    from amqpd.broker.messages import QueueMessage
    from amqpd.broker.queue import Queue

RETURNED: Final = 0
"""basic.nack, basic.recover, a consumer that took too long: nothing failed."""
REJECTED: Final = 1
"""basic.reject, with requeue."""
LOST: Final = 2
"""The channel or connection ended."""

DELIVERY_LIMIT_DEFAULT: Final = 20
"""Of quorum queues from 4.0 on; before, they had none."""
DELIVERY_COUNT: Final = "x-delivery-count"
ACQUIRED_COUNT: Final = "x-acquired-count"


class Returned:
    """What is known of one message that came back."""

    __slots__ = ("acquired", "buried_as", "failed", "ready_at_ms")

    def __init__(
        self, acquired: int = 0, failed: int = 0, ready_at_ms: int = 0, buried_as: str = ""
    ) -> None:
        self.acquired = acquired
        """How often it was handed out and came back."""
        self.failed = failed
        """How many of these deliveries failed."""
        self.ready_at_ms = ready_at_ms
        """When it is to be delivered again, in milliseconds since 1970; 0 for at once."""
        self.buried_as = buried_as
        """Why it is dead, while its dead letter has not found a place; "" for a living one."""


class Returns:
    """The returned messages of one queue. It belongs to its queue, and changes nothing else."""

    __slots__ = ("_effects", "_number", "_queue", "_recorded", "_waiting")

    def __init__(self, queue: Queue, effects: Effects) -> None:
        self._queue = queue
        self._effects = effects
        self._waiting: list[tuple[int, int, QueueMessage]] = []
        """A heap of what waits for its retry: when, a number of its own, and what."""
        self._number = 0
        self._recorded: dict[int, Returned] = {}
        """What the journal knows, by the key of the message."""

    @property
    def waiting(self) -> int:
        """How many messages wait for their retry."""
        return len(self._waiting)

    # -- a message comes back

    def count(self, stored: QueueMessage, failed: bool) -> Returned:
        """It was handed out, and comes back; `failed` says whether that was a failed delivery."""
        returned = stored.returned
        if returned is None:
            returned = stored.returned = Returned()
        returned.acquired += 1
        returned.failed += failed
        returned.ready_at_ms = 0
        return returned

    def delay(self, stored: QueueMessage, failed: bool) -> bool:
        """Let it wait, if the queue's rules say so."""
        assert stored.returned is not None
        wait_ms = delay_ms(self._queue.rules, stored.returned.failed, failed)
        if not wait_ms:
            return False
        stored.returned.ready_at_ms = self._effects.epoch_ms() + wait_ms
        self._wait(stored)
        return True

    def bury(self, stored: QueueMessage, reason: str) -> None:
        """It is dead, and its dead letter has found no place yet."""
        if stored.returned is None:
            stored.returned = Returned()
        stored.returned.buried_as = reason
        self.record(stored)

    def _wait(self, stored: QueueMessage) -> None:
        assert stored.returned is not None
        self._number += 1
        heappush(self._waiting, (stored.returned.ready_at_ms, self._number, stored))
        self._effects.timed_queues[self._queue] = None

    # -- what waits

    def deadline(self) -> float | None:
        """When the next one is to be delivered again, in seconds of the runtime's clock."""
        return self._waiting[0][0] / 1000 - self._effects.epoch_s if self._waiting else None

    def due(self) -> Iterator[QueueMessage]:
        """Those whose time has come, taken out."""
        # A deadline in seconds is a rounded number: half a millisecond is as good as none.
        now_ms = (self._effects.epoch_s + self._effects.now) * 1000 + 0.5
        while self._waiting and self._waiting[0][0] <= now_ms:
            yield heappop(self._waiting)[2]

    def take_all(self) -> list[QueueMessage]:
        """Everything that waits, taken out, for a purge."""
        taken = [stored for _, _, stored in self._waiting]
        self._waiting.clear()
        return taken

    # -- the journal

    def record(self, stored: QueueMessage) -> None:
        """Keep what is known of the message for the time after a restart, if it is kept."""
        if not self._queue.outlasts(stored.key):
            return
        assert stored.returned is not None
        self._recorded[stored.key] = stored.returned
        self._effects.entries.append(definitions.encode(record_of(stored.key, stored.returned)))

    def forget(self, stored: QueueMessage) -> None:
        """The message is gone, or not a returned one any more."""
        if self._recorded.pop(stored.key, None) is not None:
            self._drop(stored.key)

    def forget_between(self, ranges: Iterable[DropRange]) -> None:
        """The messages of these keys are gone, which nobody has read."""
        for dropped in ranges:
            gone = [key for key in self._recorded if dropped.first <= key <= dropped.last]
            for key in gone:
                del self._recorded[key]
                self._drop(key)

    def forget_all(self) -> None:
        """The queue is gone, and its ids may be others'."""
        for key in self._recorded:
            self._drop(key)
        self._recorded.clear()

    def _drop(self, key: int) -> None:
        self._effects.entries.append(definitions.drop(record_of(key, Returned())))

    def restore(self, record: ReturnRecord) -> None:
        """The journal knew of this; its message comes later."""
        self._recorded[storage_key(record.queue_id, record.position)] = Returned(
            record.acquired, record.failed, record.ready_at_ms, record.buried_as
        )

    def recall(self, stored: QueueMessage) -> bool:
        """A message was found in the store. Whether it is to wait still, and does."""
        stored.returned = self._recorded.get(stored.key)
        if stored.returned is None:
            return False
        stored.redelivered = True
        if stored.returned.ready_at_ms <= self._effects.epoch_ms():
            return False
        self._wait(stored)
        return True


def record_of(key: int, returned: Returned) -> ReturnRecord:
    """What is known of a message, as the journal keeps it."""
    return ReturnRecord(
        queue_id=key >> POSITION_BITS,
        position=key & POSITION_MAX,
        acquired=returned.acquired,
        failed=returned.failed,
        ready_at_ms=returned.ready_at_ms,
        buried_as=returned.buried_as,
    )


def limit_of(limit: int | None, compat: Compat) -> int | None:
    """The delivery limit in force; None for none."""
    if limit is None and compat != "3.13":
        limit = DELIVERY_LIMIT_DEFAULT
    return limit if limit is not None and limit >= 0 else None


def with_counts(message: Message, returned: Returned, compat: Compat, depth_max: int) -> Message:
    """The message as it is delivered again: a copy that says how often it was."""
    headers = dict(read_headers(message.properties, depth_max))
    if compat == "4.3":
        headers[DELIVERY_COUNT] = ("l", returned.failed)
        headers[ACQUIRED_COUNT] = ("l", returned.acquired)
    else:
        headers[DELIVERY_COUNT] = ("l", returned.acquired)
    properties = with_headers(message.properties, headers)
    return make_message(
        message.channel, message.target, properties, message.keep(), message.persistent, True
    )
