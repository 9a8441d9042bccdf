"""Whether a file is there. Who cannot tell must not take it for missing: a store would be made anew
in its place."""

from __future__ import annotations

from pathlib import Path


def is_there(path: Path) -> bool:
    """Whether there is something of that name. Raises OSError where nobody can tell.

    `Path.exists` says no then, from Python 3.14 on.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
