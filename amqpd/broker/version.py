"""What tells that something has changed since one looked at it."""

from __future__ import annotations


class Version:
    """Of things that somebody keeps conclusions from. An object of its own since it is compared for
    every message, and what it is of may not be compiled (`Access`)."""

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 0
        """Goes up with each change."""
