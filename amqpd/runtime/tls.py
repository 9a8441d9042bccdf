"""TLS for listeners: the context of the process, and the handshake of one client."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Final

import anyio
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from anyio.streams.tls import TLSStream

from amqpd.config import Config
from amqpd.protocol.handshake import HTTP_METHODS
from amqpd.runtime.settings import EX_NOINPUT, ConfigError, show_address

logger = logging.getLogger("amqpd.connection")

TLS_RECORD: Final = 0x16
"""A handshake record: what every TLS client begins with."""

ALERTS: Final = {
    "TLSV1_ALERT_UNKNOWN_CA": "the client does not know the authority of our certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the client does not accept our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the client does not accept our certificate",
    "UNSUPPORTED_PROTOCOL": "the client offers no version of TLS that is spoken here",
    "NO_SHARED_CIPHER": "the client offers no cipher that is used here",
    "CERTIFICATE_VERIFY_FAILED": "the client's certificate is not of an authority in --tls-ca",
}
"""What OpenSSL calls it, and what it means."""


class FirstWords(ByteStream):
    """A socket that remembers what came first: a failed handshake wants to be explained."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self.heard = b""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """The next octets."""
        data = await self._stream.receive(max_bytes)
        self.heard = self.heard or data[:8]
        return data

    async def send(self, item: bytes) -> None:
        """Send all of it."""
        await self._stream.send(item)

    async def send_eof(self) -> None:
        """Nothing more will be sent."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the socket."""
        await self._stream.aclose()


async def wrap(stream: SocketStream, context: ssl.SSLContext, timeout_s: float) -> TLSStream | None:
    """The stream with TLS; None when the client cannot do it, which is logged and closed."""
    listening = FirstWords(stream)
    try:
        with anyio.fail_after(timeout_s):
            secure = await TLSStream.wrap(listening, ssl_context=context, standard_compatible=False)
    except (EndOfStream, BrokenResourceError, ClosedResourceError, OSError) as error:
        logger.warning(
            "TLS handshake failed",
            extra={
                "peer": _peer_name(stream),
                "reason": describe_failure(listening.heard, error, timeout_s),
            },
        )
        await stream.aclose()
        return None
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise
    secure.transport_stream = stream
    return secure


def describe_failure(heard: bytes, error: Exception, timeout_s: float) -> str:
    """In plain words, why there is no TLS with a client that began with these octets."""
    if heard[:4] == b"AMQP":
        return "a plain AMQP client: this port speaks TLS; give plain clients --listen"
    if heard[:4] in HTTP_METHODS:
        return "a plain HTTP request: this port speaks AMQP over TLS"
    if heard and heard[0] != TLS_RECORD:
        return f"octets that are not TLS: {heard!r}"
    if isinstance(error, TimeoutError):
        return f"handshake not finished in {timeout_s:g} s"
    cause = error if isinstance(error, ssl.SSLError) else error.__cause__
    reason = getattr(cause, "reason", None)
    if reason is not None:
        return ALERTS.get(reason, str(reason))
    return "closed by the client before the handshake was finished"


def server_context(config: Config) -> ssl.SSLContext:
    """For all TLS listeners. Raises ConfigError for files that cannot be used."""
    assert config.tls_certificate is not None
    certificate, key = config.tls_certificate, config.tls_key
    for option, name in (
        ("--tls-certificate", certificate),
        ("--tls-key", key),
        ("--tls-ca", config.tls_ca),
    ):
        if name is not None:
            _check_readable(option, name)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, password=_refuse_password)
    except ssl.SSLError as error:
        pair = certificate if key is None else f"{certificate} and {key}"
        raise ConfigError(
            f"{pair} cannot be used for TLS ({error.reason or error}): "
            "give a certificate chain and its private key as PEM"
        ) from error
    if config.tls_ca is not None:
        try:
            context.load_verify_locations(config.tls_ca)
        except ssl.SSLError as error:
            raise ConfigError(
                f"{config.tls_ca} holds no certificates ({error.reason or error}): give PEM"
            ) from error
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _check_readable(option: str, name: str) -> None:
    try:
        Path(name).open("rb").close()
    except OSError as error:
        text = f"cannot read {name} ({error.strerror}): give a file that is there with {option}"
        raise ConfigError(text, EX_NOINPUT) from error


def _refuse_password() -> str:
    """OpenSSL would ask on the terminal."""
    raise ConfigError("the TLS key is encrypted: give one without a passphrase with --tls-key")


def _peer_name(stream: SocketStream) -> str:
    try:
        remote = stream.extra(SocketAttribute.remote_address)
    except (anyio.TypedAttributeLookupError, BrokenResourceError, ClosedResourceError, OSError):
        return "gone"
    return show_address(str(remote[0]), int(remote[1])) if isinstance(remote, tuple) else "local"
