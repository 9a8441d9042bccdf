"""TLS contexts for URIs: made in threads, and used again while their files are the same.

Where a file lies, somebody else decides: to read it may take for ever, and the system's
certificates alone are 26 ms of work and 850 KB.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from stat import S_ISREG
from typing import Final, NamedTuple

from msgspec import Struct

from amqpd.links.shared_threads import SharedThreads
from amqpd.links.uri import LinkURI, server_name_of

THREADS_NAME: Final = "readings of certificates"
KEPT_MAX: Final = 64
FILE_BYTES_MAX: Final = 16 * 1024 * 1024


class Demand(Struct, frozen=True):
    """What a context depends on, as the URI says it."""

    cacertfile: str | None
    """None: the system's certificates."""
    certfile: str | None
    keyfile: str | None
    key_password: str
    verifies: bool
    checks_name: bool


class FileState(NamedTuple):
    """Changes with what is in a file or directory."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


class Kept(NamedTuple):
    """A context, and what its files were before it was made."""

    files: tuple[FileState | None, ...]
    context: ssl.SSLContext


class TLSContexts:
    """Those used last."""

    def __init__(self, kept_max: int = KEPT_MAX) -> None:
        """Within an event loop, for that loop."""
        self._kept_max = kept_max
        self._kept: dict[Demand, Kept] = {}
        """The one used last comes last."""
        self._threads = SharedThreads[Kept](THREADS_NAME)

    async def context(self, uri: LinkURI) -> ssl.SSLContext:
        """For a connection to the URI's host. Raises OSError, ssl.SSLError for unusable files,
        ValueError for what can be no file's name or no key's password."""
        demand = demand_of(uri)
        before = self._kept.get(demand)
        kept = await self._threads.result(demand, lambda: up_to_date(demand, before))
        self._kept.pop(demand, None)
        self._kept[demand] = kept
        if len(self._kept) > self._kept_max:
            del self._kept[next(iter(self._kept))]
        return kept.context


def demand_of(uri: LinkURI) -> Demand:
    """What the URI says, without what makes no difference."""
    verifies = uri.verify != "verify_none"
    return Demand(
        cacertfile=uri.cacertfile or None,
        certfile=uri.certfile,
        keyfile=None if uri.certfile is None else uri.keyfile,
        key_password="" if uri.certfile is None else uri.key_password or "",
        verifies=verifies,
        # Without a name to compare there is nothing to compare with.
        checks_name=verifies and server_name_of(uri) is not None,
    )


def up_to_date(demand: Demand, kept: Kept | None) -> Kept:
    """What is kept, if it still is what is in the files."""
    files = _files(demand)
    return kept if kept is not None and kept.files == files else Kept(files, _make(demand))


def _make(demand: Demand) -> ssl.SSLContext:
    if demand.verifies or demand.cacertfile is not None:
        context = ssl.create_default_context(cafile=demand.cacertfile)
    else:
        # The default context would read the system's certificates, for nobody.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Brokers hang up without a word of TLS.
    context.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    context.check_hostname = demand.checks_name
    if not demand.verifies:
        context.verify_mode = ssl.CERT_NONE
    if demand.certfile is not None:
        # Never ask on the terminal.
        context.load_cert_chain(
            demand.certfile, demand.keyfile, password=lambda: demand.key_password
        )
    return context


def _files(demand: Demand) -> tuple[FileState | None, ...]:
    """How all of the files are. Raises OSError where one cannot be read to its end."""
    states: list[FileState | None] = []
    if demand.cacertfile is None and demand.verifies:
        system = ssl.get_default_verify_paths()
        states += [
            _state(Path(path).stat()) if path else None for path in (system.cafile, system.capath)
        ]
    named = (demand.cacertfile, demand.certfile, demand.keyfile)
    return (*states, *(None if path is None else _readable(path) for path in named))


def _readable(path: str) -> FileState:
    """Before anybody opens it: to open a pipe may take for ever, and to read a device too."""
    found = Path(path).stat()
    if not S_ISREG(found.st_mode):
        raise OSError(f"'{path}' is not a regular file")
    state = _state(found)
    # What the kernel makes up as it is read has no size, and may be waited for.
    if not state.size:
        raise OSError(f"'{path}' is empty")
    if state.size > FILE_BYTES_MAX:
        raise OSError(f"'{path}' has more than {FILE_BYTES_MAX} bytes")
    return state


def _state(found: os.stat_result) -> FileState:
    return FileState(
        found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    )
