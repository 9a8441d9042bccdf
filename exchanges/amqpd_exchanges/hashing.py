"""Hashes that are the same in every process and on every machine: what they decide must not change
with a restart. (Python's own `hash` of a string does.)"""

from __future__ import annotations

from hashlib import blake2b

__all__ = ["hash_of"]


def hash_of(text: str) -> int:
    """64 bits that stand for the text."""
    octets = text.encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(octets, digest_size=8).digest(), "little")
