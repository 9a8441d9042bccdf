"""Sockets to other brokers: TCP, and TLS with what the URI says of certificates."""

from __future__ import annotations

import ssl
from typing import Final, Protocol

import anyio
from anyio.streams.tls import TLSStream

from amqpd.links.uri import LinkURI

CHUNK_BYTES: Final = 256 * 1024
NO_SERVER_NAME: Final = "disable"


class Transport(Protocol):
    """Bytes to and from one broker."""

    @property
    def name(self) -> str:
        """What that broker calls the connection, if that is known; or empty."""
        ...

    async def receive(self) -> bytes:
        """A chunk. Raises `anyio.EndOfStream`, `anyio.BrokenResourceError` or `OSError`."""
        ...

    async def send(self, data: bytes) -> None:
        """All of it. Raises `anyio.BrokenResourceError` or `OSError`."""
        ...

    async def aclose(self) -> None:
        """Hang up."""
        ...


class StreamTransport:
    """Over an anyio stream."""

    name = ""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self._stream = stream

    async def receive(self) -> bytes:
        """A chunk of what the broker says."""
        return await self._stream.receive(CHUNK_BYTES)

    async def send(self, data: bytes) -> None:
        """Say something."""
        await self._stream.send(data)

    async def aclose(self) -> None:
        """Hang up."""
        await self._stream.aclose()


async def connect(uri: LinkURI) -> Transport:
    """A connection to another broker. Raises OSError (TLS: ssl.SSLError), TimeoutError."""
    with anyio.fail_after(uri.connection_timeout_s or None):
        stream = await anyio.connect_tcp(uri.host, uri.port)
        if not uri.tls:
            return StreamTransport(stream)
        try:
            secured = await TLSStream.wrap(
                stream,
                server_side=False,
                hostname=server_name_of(uri),
                ssl_context=tls_context(uri),
            )
        except BaseException:
            await anyio.aclose_forcefully(stream)
            raise
        return StreamTransport(secured)


def server_name_of(uri: LinkURI) -> str | None:
    """For SNI and the certificate's name; None if there is to be no name."""
    return None if uri.server_name == NO_SERVER_NAME else uri.server_name or uri.host


def tls_context(uri: LinkURI) -> ssl.SSLContext:
    """Certificates and their verification. Raises OSError, ssl.SSLError for unusable files."""
    context = ssl.create_default_context(cafile=uri.cacertfile)
    # Brokers hang up without a word of TLS.
    context.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    # Without a name to compare there is nothing to compare with.
    if uri.verify == "verify_none" or server_name_of(uri) is None:
        context.check_hostname = False
    if uri.verify == "verify_none":
        context.verify_mode = ssl.CERT_NONE
    if uri.certfile is not None:
        # Never ask on the terminal.
        password = uri.key_password or ""
        context.load_cert_chain(uri.certfile, uri.keyfile, password=lambda: password)
    return context
