"""The recent history exchange (RabbitMQ's plug-in rabbitmq_recent_history_exchange): a fanout that
keeps its last messages for the queues that are bound to it later.

The argument `x-recent-history-length` says how many; a message with the header
`x-recent-history-no-store` set to true is not kept.
"""

from __future__ import annotations

from typing import ClassVar, Final

from amqpd_exchanges.exchange import Arguments, InvalidArguments, Q
from amqpd_exchanges.fields import rendered
from amqpd_exchanges.recording import RecordingExchange

__all__ = ["LENGTH", "LENGTH_DEFAULT", "NO_STORE", "RecentHistoryExchange"]

LENGTH: Final = "x-recent-history-length"
LENGTH_DEFAULT: Final = 20
NO_STORE: Final = "x-recent-history-no-store"

_SIGNED: Final = "bsIlL"


class RecentHistoryExchange(RecordingExchange[Q]):
    """Everything passes."""

    __slots__ = ()

    kind: ClassVar[str] = "x-recent-history"

    @classmethod
    def check_arguments(cls, arguments: Arguments) -> None:
        length = arguments.get(LENGTH)
        # RabbitMQ takes signed integers only.
        if length is not None and (length[0] not in _SIGNED or length[1] <= 0):
            raise InvalidArguments(
                f"Invalid argument {rendered(length)}, '{LENGTH}' must be a positive integer"
            )
