"""How this broker was built."""

from __future__ import annotations

from amqpd.broker import broker


def is_compiled() -> bool:
    """Whether mypyc compiled the core (see hatch_build.py), or it is plain Python."""
    return not str(broker.__file__).endswith(".py")
