"""What TCP is told of a client's socket, once it was accepted.

    TCP_NODELAY       what is written goes out at once (Nagle)
    TCP_CONGESTION    to a client on this machine it goes as fast as that can read

BBR, which some systems have made their default, spreads what it sends over time, as fast as it has
found the network to be. On the loopback there is no network: it only delays. Bodies of 64 KB came
through at 31,400 a second without it and 23,500 with it, of 1 MB at 2,420 and 1,950, and 1 KB with
acknowledgements at 306,000 and 266,000. Reno sends what there is room for, is in every Linux, and
any process may choose it.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any, Final

from amqpd.loopback import is_loopback

PACING: Final = b"bbr"
UNPACED: Final = b"reno"
NAME_BYTES_MAX: Final = 16
"""Of a congestion control (Linux: TCP_CA_NAME_MAX)."""


def prepare(accepted: socket.socket, remote: Any, *, paced: bool) -> None:
    """Tell TCP all that; `remote` is what `accept` says, `paced` what `is_paced` says."""
    with suppress(OSError):  # it may be gone already
        # uvloop sees to this; asyncio only where the socket says that it is TCP's, and one that was
        # accepted does not. Without it, 10,000 deliveries a second were 3 ms late each.
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if paced and is_local(remote):
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, UNPACED)


def is_local(remote: Any) -> bool:
    """Whether a peer is on this machine; one that is gone before it can be asked is not."""
    return isinstance(remote, tuple) and is_loopback(str(remote[0]))


def is_paced(listening: socket.socket) -> bool:
    """Whether those who are accepted here would be sent to at a pace."""
    option = getattr(socket, "TCP_CONGESTION", None)
    if option is None:  # not Linux
        return False
    with suppress(OSError):
        return listening.getsockopt(socket.IPPROTO_TCP, option, NAME_BYTES_MAX).startswith(PACING)
    return False
