"""What a queue's arguments make of its messages: how long they stay, how many, and where they go.

Checked by `queue_arguments` before; here they are only read.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from amqpd.commands import Arguments

DROP_HEAD: Final = "drop-head"
REJECT_PUBLISH: Final = "reject-publish"
REJECT_PUBLISH_DLX: Final = "reject-publish-dlx"


class QueueRules(NamedTuple):
    """The rules of one queue; None where there is none."""

    message_ttl_ms: int | None
    expires_ms: int | None
    """How long the queue may be unused before it is deleted."""
    max_length: int | None
    max_length_bytes: int | None
    overflow: str
    dead_letter_exchange: str | None
    dead_letter_routing_key: str | None

    @property
    def limits_length(self) -> bool:
        """Whether there is a limit to what the queue holds."""
        return self.max_length is not None or self.max_length_bytes is not None

    @property
    def refuses_publishes(self) -> bool:
        """Whether a full queue refuses what is published to it, rather than drop its head."""
        return self.limits_length and self.overflow != DROP_HEAD


def read_rules(arguments: Arguments) -> QueueRules:
    """The rules in a queue's arguments."""

    def value(name: str) -> object:
        return arguments.get(name, (None, None))[1]

    def number(name: str) -> int | None:
        found = value(name)
        return found if isinstance(found, int) else None

    def text(name: str) -> str | None:
        found = value(name)
        return found if isinstance(found, str) else None

    return QueueRules(
        message_ttl_ms=number("x-message-ttl"),
        expires_ms=number("x-expires"),
        max_length=number("x-max-length"),
        max_length_bytes=number("x-max-length-bytes"),
        overflow=text("x-overflow") or DROP_HEAD,
        dead_letter_exchange=text("x-dead-letter-exchange"),
        dead_letter_routing_key=text("x-dead-letter-routing-key"),
    )
