"""Tables that were large once.

A dict does not become smaller as its keys go: after a hundred thousand queues came and went, the
tables of their names keep five megabytes each.
"""

from __future__ import annotations

from sys import getsizeof
from typing import Any, Final

SMALL_BYTES: Final = 4096
"""Not worth it."""
SPARSE_BYTES: Final = 1024
"""A table in regular use has some 50 to 150 for each key."""


def shrink(table: dict[Any, Any]) -> None:
    """To be called when keys went: makes the table anew, in place, where hardly any are left."""
    size = getsizeof(table)
    if size > SMALL_BYTES and size > SPARSE_BYTES * len(table):
        left = dict(table)
        table.clear()
        table.update(left)
