"""The deduplication exchange (the plug-in rabbitmq-message-deduplication): a fanout that a message
passes only if none with the same `x-deduplication-header` has passed lately.

The argument `x-cache-size` says how many headers it remembers, `x-cache-ttl` for how many
milliseconds, unless a message's header of that name says otherwise. A message without the header
always passes.
"""

from __future__ import annotations

from typing import ClassVar, Final

from amqpd_exchanges.exchange import Arguments, InvalidArguments, Q
from amqpd_exchanges.fields import Field
from amqpd_exchanges.recording import RecordingExchange, decimal

__all__ = ["CACHE_PERSISTENCE", "CACHE_SIZE", "CACHE_TTL", "DeduplicationExchange"]

CACHE_SIZE: Final = "x-cache-size"
CACHE_TTL: Final = "x-cache-ttl"
CACHE_PERSISTENCE: Final = "x-cache-persistence"


class DeduplicationExchange(RecordingExchange[Q]):
    """What is new passes."""

    __slots__ = ()

    kind: ClassVar[str] = "x-message-deduplication"

    @classmethod
    def check_arguments(cls, arguments: Arguments) -> None:
        if not _is_positive(arguments.get(CACHE_SIZE)):
            raise InvalidArguments(
                f"Missing or invalid argument, '{CACHE_SIZE}' must be an integer greater than 0"
            )
        if CACHE_TTL in arguments and not _is_positive(arguments[CACHE_TTL]):
            raise InvalidArguments(
                f"Invalid argument, '{CACHE_TTL}' must be an integer greater than 0"
            )
        persistence = arguments.get(CACHE_PERSISTENCE, ("S", "memory"))
        if persistence not in (("S", "memory"), ("S", "disk")):
            raise InvalidArguments(
                f"Invalid argument, '{CACHE_PERSISTENCE}' must be either 'disk' or 'memory'"
            )


def _is_positive(field: Field | None) -> bool:
    number = None if field is None else decimal(field)
    return number is not None and number > 0
