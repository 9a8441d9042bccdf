"""Delayed retry: a message that comes back waits before it is delivered again.

RabbitMQ 4.3 has it for quorum queues; here every type of queue has it, in every profile (an older
RabbitMQ does not know the arguments, and a queue that has them wants what they say).

    delay = min(x-delayed-retry-min * failed deliveries, x-delayed-retry-max)

A delivery has failed when it was rejected, or its channel or connection ended; a basic.nack or
basic.recover returns a message without that, and so makes it wait the minimum.
"""

from __future__ import annotations

from amqpd.broker.queue_rules import RETRY_FAILED, RETRY_RETURNED, QueueRules


def delay_ms(rules: QueueRules, failures: int, failed: bool) -> int:
    """How long a message waits that comes back; 0 for not at all.

    `failures` are its failed deliveries so far, and `failed` says whether this return was one.
    """
    least = rules.delayed_retry_min_ms
    if least is None or not rules.delays_retries:
        return 0
    if rules.delayed_retry_type == (RETRY_RETURNED if failed else RETRY_FAILED):
        return 0
    delay = least * max(1, failures)
    most = rules.delayed_retry_max_ms
    return delay if most is None else min(delay, most)
