"""What to do where the broker cannot listen on an address, by what the system says."""

from __future__ import annotations

import errno
import socket


def cannot_listen(where: str, flag: str, error: OSError) -> str:
    """The one line that says what, where and what to do."""
    return f"cannot listen on {where}: {error.strerror or error}; {_advice(flag, error)}"


def _advice(flag: str, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"nobody knows that host: name one of this machine, or its address, with {flag}"
    if error.errno == errno.EACCES:
        return f"this user may not have that port: choose one above 1023 with {flag}"
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            "this machine does not have that address: choose one of its own, or 0.0.0.0 for all "
            f"of them, with {flag}"
        )
    return f"stop what listens there, or choose another address with {flag}"
