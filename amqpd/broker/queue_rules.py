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
AT_LEAST_ONCE: Final = "at-least-once"
DEDUPLICATION: Final = "x-message-deduplication"
RETRY_DISABLED: Final = "disabled"
RETRY_ALL: Final = "all"
RETRY_FAILED: Final = "failed"
RETRY_RETURNED: Final = "returned"


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
    dead_letter_strategy: str | None = None
    """At least once, or (None, too) at most once; of quorum queues."""
    delivery_limit: int | None = None
    """Deliveries that may fail before a quorum queue buries a message; below 0 is no limit."""
    consumer_timeout_ms: int | None = None
    """Longest that a delivery may be unacknowledged; None for what the broker's limits say."""
    delayed_retry_type: str = RETRY_DISABLED
    """Which returned messages wait before they are delivered again."""
    delayed_retry_min_ms: int | None = None
    delayed_retry_max_ms: int | None = None
    deduplicates: bool = False
    """No two messages with the same `x-deduplication-header` at a time."""

    @property
    def delays_retries(self) -> bool:
        """Whether messages that come back may have to wait."""
        return self.delayed_retry_type != RETRY_DISABLED and self.delayed_retry_min_ms is not None

    @property
    def discards_at_once(self) -> bool:
        """Whether a message that no consumer takes at once is nobody's any more."""
        return self.message_ttl_ms == 0 and self.dead_letter_exchange is None

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
    if arguments or definition:
        return _read_rules(arguments, definition or {}, policy_first)
    return NO_RULES


def _read_rules(
    arguments: Arguments, settings: Mapping[str, Any], policy_first: Collection[str]
) -> QueueRules:
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

    def delivery_limit() -> int | None:
        limits = [
            value
            for value in (
                arguments.get("x-delivery-limit", ("V", None))[1],
                settings.get("delivery-limit"),
            )
            if isinstance(value, int)
        ]
        # Below 0 is no limit, and any limit is less than that.
        return (max if min(limits) < 0 else min)(limits) if limits else None

    def deduplicates() -> bool:
        # As in the plug-in: policies win, and of arguments whatever is not false means yes.
        said = settings.get(DEDUPLICATION)
        if said is None:
            said = DEDUPLICATION in arguments and arguments[DEDUPLICATION][1] is not False
        return bool(said) and arguments.get("x-queue-type") != ("S", "quorum")

    overflow = text("overflow") or DROP_HEAD
    if overflow == REJECT_PUBLISH_DLX and arguments.get("x-queue-type") == ("S", "quorum"):
        overflow = DROP_HEAD  # accepted there, and without that meaning
    return QueueRules(
        message_ttl_ms=number("message-ttl"),
        expires_ms=number("expires"),
        max_length=number("max-length"),
        max_length_bytes=number("max-length-bytes"),
        overflow=overflow,
        dead_letter_exchange=text("dead-letter-exchange"),
        dead_letter_routing_key=text("dead-letter-routing-key"),
        dead_letter_strategy=text("dead-letter-strategy"),
        delivery_limit=delivery_limit(),
        consumer_timeout_ms=number("consumer-timeout"),
        delayed_retry_type=text("delayed-retry-type") or RETRY_DISABLED,
        delayed_retry_min_ms=number("delayed-retry-min"),
        delayed_retry_max_ms=number("delayed-retry-max"),
        deduplicates=deduplicates(),
    )


NO_RULES: Final = _read_rules({}, {}, ())
"""Those of a queue that says nothing: one for all of them, which most are."""
