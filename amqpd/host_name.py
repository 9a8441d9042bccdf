"""Which text can be the name or address of a machine, before anybody is asked for it."""

from __future__ import annotations

from typing import Final

LABEL_OCTETS_MAX: Final = 63


def is_host(text: str) -> bool:
    """Whether the system's resolver can be asked: it answers to other texts with an exception that
    has nothing to do with networks. `a..b` has an empty label, and labels have 63 octets at most.
    Nothing at all is every interface.
    """
    if not text.isprintable() or any(character.isspace() for character in text):
        return False
    if text.isascii():  # without the codec, which every start would have to import
        labels = text.removesuffix(".").split(".")
        return not text or all(0 < len(label) <= LABEL_OCTETS_MAX for label in labels)
    try:
        text.encode("idna")
    except UnicodeError:
        return False
    return True
