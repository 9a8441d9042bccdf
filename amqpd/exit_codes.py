"""How the commands end, in the codes of sysexits.h: what a script or a supervisor goes by."""

from __future__ import annotations

from typing import Final

EX_USAGE: Final = 64
"""The command line cannot be used as it is."""
EX_DATAERR: Final = 65
"""What is in a file or in the store is wrong, or damaged."""
EX_NOINPUT: Final = 66
"""A file or a store that was named is not there, or cannot be read."""
EX_UNAVAILABLE: Final = 69
"""An address is taken, or nobody answers there."""
EX_CANTCREAT: Final = 73
"""A file or directory cannot be made or written."""
EX_IOERR: Final = 74
"""The disk failed."""
EX_TEMPFAIL: Final = 75
"""The store belongs to another broker for now."""
EX_CONFIG: Final = 78
"""A setting cannot be used."""
EX_FORCED: Final = 130
"""Ended at once by a signal, as shells show Ctrl-C."""
EX_PIPE: Final = 141
"""Nobody reads what it says any more, as shells show SIGPIPE."""
