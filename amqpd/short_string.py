"""Short strings: an octet that says how many there are, and up to 255 of them.

All names travel as such (AMQP 0-9-1, 4.2.5.3). In Python they are text; octets that are no UTF-8
are kept as lone surrogates, so that they go out as they came in.
"""

from __future__ import annotations

from typing import Final

SHORT_STRING_OCTETS_MAX: Final = 255
UTF8_OCTETS_MAX: Final = 4
"""Of a character."""
SHOWN: Final = 32


def short_string(text: str) -> bytes:
    """The text with its length octet in front. Raises ValueError above 255 octets."""
    octets = text.encode("utf-8", "surrogateescape")
    if len(octets) > SHORT_STRING_OCTETS_MAX:
        raise ValueError(f"{text[:SHOWN]!r}... has {len(octets)} octets, a short string up to 255")
    return bytes((len(octets),)) + octets


def fits_short_string(text: str) -> bool:
    """Whether a short string can be made of it."""
    if len(text) <= SHORT_STRING_OCTETS_MAX // UTF8_OCTETS_MAX:
        return True
    return len(text.encode("utf-8", "surrogateescape")) <= SHORT_STRING_OCTETS_MAX


def cut_to_short_string(text: str) -> str:
    """As much of the text as a short string has room for."""
    if fits_short_string(text):
        return text
    octets = text.encode("utf-8", "surrogateescape")[:SHORT_STRING_OCTETS_MAX]
    return octets.decode("utf-8", "surrogateescape")
