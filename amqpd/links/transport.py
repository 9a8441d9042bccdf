"""Sockets to other brokers: TCP, and TLS with what the URI says of certificates."""

from __future__ import annotations

from typing import Final, Protocol

import anyio
from anyio.streams.tls import TLSStream

from amqpd.links.happy_eyeballs import first_to_connect
from amqpd.links.name_resolution import NameResolution
from amqpd.links.tls_contexts import TLSContexts
from amqpd.links.uri import LinkURI, server_name_of, tls_problem

CHUNK_BYTES: Final = 256 * 1024


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


class Connector:
    """Connects to other brokers."""

    def __init__(self) -> None:
        """Within an event loop, for that loop."""
        self._names = NameResolution()
        self._contexts = TLSContexts()

    async def connect(self, uri: LinkURI) -> Transport:
        """A connection to another broker, for no longer than the URI says. Raises OSError (TLS:
        ssl.SSLError), TimeoutError; anyio.EndOfStream or anyio.BrokenResourceError where the
        broker hangs up before TLS."""
        try:
            with anyio.fail_after(uri.connection_timeout_s or None):
                return await self._connect(uri)
        except OSError:
            raise
        except ValueError as error:
            # What is no name or path to the libraries, whatever the checks say.
            raise OSError(f"the URI cannot be used: {error}") from None

    async def _connect(self, uri: LinkURI) -> Transport:
        problem = tls_problem(uri)
        if problem:
            raise OSError(problem)
        # Before the socket: nobody is called who would then be left waiting.
        context = await self._contexts.context(uri) if uri.tls else None
        stream = await first_to_connect(
            await self._names.addresses(uri.host),
            lambda address: anyio.connect_tcp(address, uri.port),
        )
        if context is None:
            return StreamTransport(stream)
        try:
            secured = await TLSStream.wrap(
                stream, server_side=False, hostname=server_name_of(uri), ssl_context=context
            )
        except BaseException:
            await anyio.aclose_forcefully(stream)
            raise
        return StreamTransport(secured)
