"""Addresses of hosts, looked up in threads of our own.

The event loop looks names up in a few threads that all share: where a name server is silent, names
that nobody answers for would keep everybody else waiting, and those who give up would leave the
look-up behind.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address
from itertools import chain, zip_longest
from typing import Final

from amqpd.links.shared_threads import PATIENCE_S, THREADS_MAX, SharedThreads

THREADS_NAME: Final = "look-ups of names"


class NameResolution:
    """Asks the system's resolver, about each name once at a time."""

    def __init__(self, look_ups_max: int = THREADS_MAX, patience_s: float = PATIENCE_S) -> None:
        """Within an event loop, for that loop."""
        self._look_ups = SharedThreads[list[str]](THREADS_NAME, look_ups_max, patience_s)

    async def addresses(self, host: str) -> list[str]:
        """Of a name or an address, in the order in which to try them.

        Raises OSError (socket.gaierror), ValueError for what IDNA does not know as a name.
        """
        if is_address(host):
            return [host]
        name = encoded(host)
        return await self._look_ups.result(name, lambda: look_up(name))


def is_address(host: str) -> bool:
    """Whether there is nothing to look up."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def encoded(host: str) -> bytes:
    """As name servers know it: IDNA 2008, the same as for the name in the certificate. Raises
    ValueError."""
    if host.isascii():
        return host.encode()
    import idna

    return idna.encode(host, uts46=True)


def look_up(name: bytes) -> list[str]:
    """IPv6 and IPv4 in turn, beginning with IPv6, as RFC 8305 has it. Blocks, for as long as the
    system's resolver likes. Raises OSError."""
    found: dict[int, list[str]] = {socket.AF_INET6: [], socket.AF_INET: []}
    for family, _, _, _, address in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM):
        # Python without IPv6 has numbers for its addresses.
        if family in found and isinstance(address[0], str):
            found[family].append(_with_scope(address[0], *address[3:]))
    in_turn = chain.from_iterable(zip_longest(*found.values()))
    addresses = [address for address in in_turn if address is not None]
    if not addresses:
        raise OSError("the name has no address")
    return addresses


def _with_scope(address: str, scope: object = 0) -> str:
    """Of an IPv6 address, the interface belongs to it where it is link-local."""
    return f"{address}%{scope}" if scope else address
