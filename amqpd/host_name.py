"""Which text can be the name or address of a machine, before anybody is asked for it."""

from __future__ import annotations


def is_host(text: str) -> bool:
    """Whether the system's resolver can be asked: it answers to other texts with an exception that
    has nothing to do with networks. `a..b` has an empty label, and labels have 63 octets at most.
    """
    try:
        text.encode("idna")
    except UnicodeError:
        return False
    return text.isprintable() and not any(character.isspace() for character in text)
