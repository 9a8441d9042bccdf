"""Resource alarms, as RabbitMQ raises them: while one is active, nobody publishes.

A connection is blocked at its first publish after the alarm: that publish is still taken, the
client is told once if it can be (`connection.blocked`), and nothing more is read from it until all
alarms are clear. Connections that only consume are never blocked.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol


class Alarm(Enum):
    """What is short."""

    MEMORY = "memory"
    DISK = "disk"


class Blockable(Protocol):
    """A connection that was blocked."""

    def unblock(self) -> None:
        """All alarms are clear."""


class Alarms:
    """The active alarms of a broker, and whom they block."""

    def __init__(self) -> None:
        self._active: dict[Alarm, None] = {}
        self._blocked: dict[Blockable, None] = {}

    def __bool__(self) -> bool:
        return bool(self._active)

    @property
    def active(self) -> tuple[Alarm, ...]:
        """Which alarms are raised."""
        return tuple(alarm for alarm in Alarm if alarm in self._active)

    @property
    def reason(self) -> str:
        """What connection.blocked says."""
        return "low on " + " & ".join(alarm.value for alarm in self.active)

    def set(self, alarm: Alarm, raised: bool) -> bool:
        """Raise or clear an alarm; True if that changed something."""
        if raised == (alarm in self._active):
            return False
        if raised:
            self._active[alarm] = None
            return True
        del self._active[alarm]
        if not self._active:
            blocked, self._blocked = self._blocked, {}
            for connection in blocked:
                connection.unblock()
        return True

    def block(self, connection: Blockable) -> None:
        """The connection published during an alarm."""
        self._blocked[connection] = None

    def forget(self, connection: Blockable) -> None:
        """The connection is gone."""
        self._blocked.pop(connection, None)
