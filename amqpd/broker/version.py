"""What tells that something has changed since one looked at it."""

from __future__ import annotations


class Version:
    """Of things that somebody keeps conclusions from. Compiled, which what it is of may not be: it
    is compared for every message."""

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 0
        """Goes up with each change."""
