"""Publisher confirms of one channel: which publish numbers are done, and how few acks say so.

Numbers complete in any order. At the end of a turn one `basic.ack multiple=true` covers all that
lie below the lowest number still waited for; those above it go out singly, since `multiple` would
claim the one in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amqpd.commands import Outlet


class Confirms:
    """Of a channel in confirm mode. `due` is the broker's list of those with something to say."""

    __slots__ = ("_completed", "_due", "_ended", "_lowest", "_outlet", "_waiting", "published")

    def __init__(self, outlet: Outlet, due: list[Confirms]) -> None:
        self._outlet = outlet
        self._due = due
        self.published = 0
        """The publish number of the latest message; the first has 1."""
        self._waiting: dict[int, None] = {}
        self._completed: list[int] = []
        self._lowest = 1
        """No number below this one is waited for."""
        self._ended = False

    def end(self) -> None:
        """The channel is closing: nothing more is said on it."""
        self._ended = True
        self._waiting.clear()
        self._completed.clear()

    @property
    def unconfirmed(self) -> int:
        """Messages still waited for."""
        return len(self._waiting)

    def await_number(self, publish_number: int) -> None:
        """The number completes later."""
        if not self._waiting:
            self._lowest = publish_number
        self._waiting[publish_number] = None

    def complete(self, publish_number: int) -> None:
        """The message is as safe as it was asked to be."""
        if self._ended:
            return
        self._waiting.pop(publish_number, None)
        if not self._completed:
            self._due.append(self)
        self._completed.append(publish_number)

    def flush(self) -> None:
        """Say what has completed, in as few acks as the truth allows."""
        completed = self._completed
        if not completed:
            return
        self._completed = []
        if not self._waiting:
            self._outlet.confirm(max(completed), len(completed) > 1)
            return
        # Not the first key of the dict: on the way to it lie the traces of all that left it.
        lowest = self._lowest
        while lowest not in self._waiting:
            lowest += 1
        self._lowest = lowest
        below = [number for number in completed if number < lowest]
        if below:
            self._outlet.confirm(max(below), len(below) > 1)
        if len(below) < len(completed):
            for number in sorted(completed):
                if number > lowest:
                    self._outlet.confirm(number, False)
