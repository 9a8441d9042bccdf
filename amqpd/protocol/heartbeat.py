"""Heartbeats (0-9-1 §4.2.7), as RabbitMQ keeps them: values in, deadlines out.

Half an interval without anything written sends one; two checks in a row, an interval apart, that
find nothing new received end the connection, so a silent peer is dropped after two to three
intervals.
"""

from __future__ import annotations

from typing import Final

HEARTBEAT_FRAME: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"
SILENT_CHECKS_MAX: Final = 2


class Heartbeat:
    """Both directions of one connection. Times are seconds of the clock that the caller keeps."""

    __slots__ = (
        "_check_at",
        "_octets_seen",
        "_silent_checks",
        "interval_s",
        "octets_received",
        "paused",
        "sent_at",
    )

    def __init__(self, interval_s: float, now: float) -> None:
        self.interval_s = interval_s
        self.sent_at = now
        """When something was last written; the connection keeps it."""
        self.octets_received = 0
        """Grows with everything received; the connection keeps it."""
        self.paused = False
        """The peer is not being read from: its silence says nothing."""
        self._octets_seen = 0
        self._check_at = now + interval_s
        self._silent_checks = 0

    def due(self, now: float) -> bool:
        """Whether a heartbeat has to be sent."""
        return now >= self.sent_at + self.interval_s / 2

    def silent(self, now: float) -> bool:
        """Whether the peer has been silent for too long; never while it is not being read from."""
        if self.paused:
            return False
        if now >= self._check_at:
            self._check_at = now + self.interval_s
            if self.octets_received == self._octets_seen:
                self._silent_checks += 1
            else:
                self._silent_checks = 0
            self._octets_seen = self.octets_received
        return self._silent_checks >= SILENT_CHECKS_MAX

    def deadline(self) -> float:
        """When to ask again."""
        if self.paused:
            return self.sent_at + self.interval_s / 2
        return min(self._check_at, self.sent_at + self.interval_s / 2)
