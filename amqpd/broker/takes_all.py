"""Where messages may go that is no queue, and has room for all of them."""

from __future__ import annotations

from typing import Final

from amqpd.commands import Message


class TakesAll:
    """To publishing it is like a queue that is never full: see `Queue` for what these say."""

    __slots__ = ()

    durable: Final = False
    message_ttl_ms: Final = None

    def refuses(self, message: Message) -> bool:
        """There is always room."""
        return False

    def refuses_dead_letter(self, message: Message) -> bool:
        """There is always room."""
        return False

    def has_duplicate(self, message: Message) -> bool:
        """Nobody looks through what is there."""
        return False

    def bury_refused(self, message: Message) -> None:
        """Never called: see `refuses`."""
