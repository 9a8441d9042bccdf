"""How long a test waits for something of the real world before it says that it never came."""

from __future__ import annotations

from typing import Final

PATIENCE_S: Final = 300.0
"""So long nothing takes, also where the processor is lent out to others for most of the time: there
a minute was not enough for what takes a second elsewhere. It only ends what would never end."""
