"""The delayed exchange's waiting room: a message that has waited is routed as if published now.

As in the plugin, bindings are looked up at that time, nobody hears if there are none, and the
header `x-delay` is negated: a message that has waited does not wait again in whatever delayed
exchange it comes to.
"""

from __future__ import annotations

from typing import Final

from amqpd.broker.publishing import RoutedContent, carbon_copies, hide_bcc, share, sift
from amqpd.broker.waiting_room import DelayedMessage, WaitingRoom
from amqpd.commands import Field, make_message
from amqpd.wire.properties import read_headers, with_header
from amqpd_exchanges.delayed import DELAY, delay_ms

INT32_MIN: Final = -(1 << 31)


class DelayedMessages(WaitingRoom):
    """The waiting room of one exchange of type x-delayed-message."""

    def _release(self, delayed: DelayedMessage) -> None:
        home = self._home
        depth_max = home.broker.limits.table_depth_max
        waited = delayed.content
        headers = read_headers(waited.properties, depth_max)
        properties = with_header(waited.properties, DELAY, negated(delay_ms(headers)))
        message = make_message(
            waited.channel, waited.target, properties, waited.keep(), waited.persistent, True
        )
        hide_bcc(message, depth_max)
        keys = [*carbon_copies(message, headers), *message.target.notes.hidden_keys]
        content = RoutedContent(home, message)
        found = home.router.route(self._exchange.table, message.target.routing_key, content, keys)
        queues, refused = sift(home, message, found)
        if refused:
            content.take_back()
        share(home, message, queues)
        for queue in queues:
            queue.publish(message, delayed.confirm)


def negated(delay: int) -> Field:
    """The header of a message that has waited: an int32 as the plugin's, as long as it fits."""
    return ("I" if -delay >= INT32_MIN else "l", -delay)
