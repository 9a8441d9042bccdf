"""What arguments and policies make of a queue's messages: how long, how many, and then where to.

Of a number the lower one holds, of a text that of the arguments (RabbitMQ's classic queues; a queue
type whose policies win names the texts in `policy_first`). Both were checked before: by
`queue_arguments` and `policy_settings`. Here they are only read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

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


def read_rules(
    arguments: Arguments,
    definition: Mapping[str, Any] | None = None,
    policy_first: Collection[str] = (),
) -> QueueRules:
    """The rules of a queue: from its arguments, and from the definition of its policies."""
    settings = definition or {}

    def number(name: str) -> int | None:
        found = (arguments.get(f"x-{name}", (None, None))[1], settings.get(name))
        numbers = [value for value in found if isinstance(value, int)]
        return min(numbers) if numbers else None

    def text(name: str) -> str | None:
        found = (arguments.get(f"x-{name}", (None, None))[1], settings.get(name))
        texts = [value for value in found if isinstance(value, str)]
        if not texts:
            return None
        return texts[-1] if name in policy_first else texts[0]

    return QueueRules(
        message_ttl_ms=number("message-ttl"),
        expires_ms=number("expires"),
        max_length=number("max-length"),
        max_length_bytes=number("max-length-bytes"),
        overflow=text("overflow") or DROP_HEAD,
        dead_letter_exchange=text("dead-letter-exchange"),
        dead_letter_routing_key=text("dead-letter-routing-key"),
    )
