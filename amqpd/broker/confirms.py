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

    __slots__ = (
        "_completed",
        "_due",
        "_ended",
        "_lowest",
        "_outlet",
        "_refused",
        "_refused_before",
        "_waiting",
        "published",
    )

    def __init__(self, outlet: Outlet, due: list[Confirms]) -> None:
        self._outlet = outlet
        self._due = due
        self.published = 0
        """The publish number of the latest message; the first has 1."""
        self._waiting: dict[int, None] = {}
        self._completed: list[int] = []
        self._refused: list[int] = []
        self._refused_before = 0
        """How many were refused, ever."""
        self._lowest = 1
        """No number below this one is waited for."""
        self._ended = False

    def end(self) -> None:
        """The channel is closing: what has completed is said now, or never."""
        self.flush()
        self._ended = True
        self._waiting.clear()

    @property
    def confirmed(self) -> int:
        """Messages that are as safe as they were asked to be; the peer hears of it with the turn's
        end at the latest."""
        return self.published - len(self._waiting) - self._refused_before

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
        self._come_due()
        self._completed.append(publish_number)

    def refuse(self, publish_number: int) -> None:
        """A queue refused the message."""
        if not self._ended:
            self._come_due()
            self._refused.append(publish_number)
            self._refused_before += 1

    def flush(self) -> None:
        """Say what has completed, in as few acks as the truth allows, and what was refused."""
        completed, self._completed = self._completed, []
        refused, self._refused = self._refused, []
        # `multiple` speaks for everything below: for nothing that is waited for, or was refused.
        bound = self._lowest_waiting()
        if refused and (bound is None or refused[0] < bound):
            bound = refused[0]
        below = completed if bound is None else [n for n in completed if n < bound]
        if below:
            self._outlet.confirm(max(below), len(below) > 1)
        if len(below) < len(completed):
            for number in sorted(completed):
                if bound is not None and number > bound:
                    self._outlet.confirm(number, False)
        for number in refused:
            self._outlet.refuse(number, False)

    def _lowest_waiting(self) -> int | None:
        if not self._waiting:
            return None
        # Not the first key of the dict: on the way to it lie the traces of all that left it.
        lowest = self._lowest
        while lowest not in self._waiting:
            lowest += 1
        self._lowest = lowest
        return lowest

    def _come_due(self) -> None:
        if not self._completed and not self._refused:
            self._due.append(self)
