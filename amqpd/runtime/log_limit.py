"""A limit on log lines that a client can provoke as often as it likes."""

from __future__ import annotations

from typing import Final

LINES_MAX: Final = 10
WINDOW_S: Final = 10.0


class LogLimit:
    """`LINES_MAX` lines in `WINDOW_S`; what is beyond is not said, but counted."""

    __slots__ = ("_left", "_left_out", "_until")

    def __init__(self) -> None:
        self._until = float("-inf")
        self._left = 0
        self._left_out = 0

    def admits(self, now: float) -> bool:
        """Whether one more line may be written; it is counted if not."""
        if now >= self._until:
            self._until = now + WINDOW_S
            self._left = LINES_MAX
        if self._left:
            self._left -= 1
            return True
        self._left_out += 1
        return False

    def take_left_out(self) -> int:
        """How many lines were left out since this was asked last: to be said with the next one."""
        left_out, self._left_out = self._left_out, 0
        return left_out
