"""TLS of one connection, as bytes in and bytes out: the standard library's, without a socket."""

from __future__ import annotations

import contextlib
import ssl
from typing import Final

from amqpd.protocol.handshake import HTTP_METHODS

TLS_RECORD: Final = 0x16
"""A handshake record: what every TLS client begins with."""
READ_BYTES: Final = 256 * 1024

ALERTS: Final = {
    "TLSV1_ALERT_UNKNOWN_CA": "the client does not know the authority of our certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the client does not accept our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the client does not accept our certificate",
    "UNSUPPORTED_PROTOCOL": "the client offers no version of TLS that is spoken here",
    "NO_SHARED_CIPHER": "the client offers no cipher that is used here",
    "CERTIFICATE_VERIFY_FAILED": "the client's certificate is not of an authority in --tls-ca",
}
"""What OpenSSL calls it, and what it means."""


class TLSFailed(Exception):
    """There is no TLS with this client; the text says why, `alert` is what may still be sent."""

    def __init__(self, reason: str, alert: bytes) -> None:
        super().__init__(reason)
        self.alert = alert


class TLSLayer:
    """Records from the peer in, octets for the broker out, and the other way round."""

    __slots__ = ("_begun", "_incoming", "_object", "_outgoing", "_ready", "peer_closed")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._ready = False
        self._begun = b""
        self.peer_closed = False
        """The peer said that nothing more comes from it."""

    @property
    def ready(self) -> bool:
        """The handshake is done."""
        return self._ready

    def receive(self, records: bytes) -> bytes:
        """What the peer said. Raises TLSFailed. Call `send(b"")` afterwards, for what TLS says."""
        if not self._ready and len(self._begun) < 8:
            self._begun = (self._begun + records)[:8]
        self._incoming.write(records)
        try:
            if not self._ready:
                self._object.do_handshake()
                self._ready = True
            return self._read()
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLError as error:
            reason = describe_failure(self._begun, error)
            raise TLSFailed(reason, self._outgoing.read()) from error

    def send(self, data: bytes) -> bytes:
        """The records that carry `data`, and whatever TLS itself has to say."""
        if data and self._ready:
            with contextlib.suppress(ssl.SSLError):  # after a failure there is nobody to tell
                self._object.write(data)
        return self._outgoing.read()

    def close(self) -> None:
        """Say that nothing more comes: `send(b"")` has the alert."""
        with contextlib.suppress(ssl.SSLError, ValueError):  # the peer need not answer
            self._object.unwrap()

    def _read(self) -> bytes:
        pieces = []
        try:
            while data := self._object.read(READ_BYTES):
                pieces.append(data)
            self.peer_closed = True  # its socket will follow
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.peer_closed = True
        return b"".join(pieces)


def describe_failure(heard: bytes, error: ssl.SSLError) -> str:
    """In plain words, why there is no TLS with a client that began with these octets."""
    if heard[:4] == b"AMQP":
        return "a plain AMQP client: this port speaks TLS; give plain clients --listen"
    if heard[:4] in HTTP_METHODS:
        return "a plain HTTP request: this port speaks AMQP over TLS"
    if heard and heard[0] != TLS_RECORD:
        return f"octets that are not TLS: {heard!r}"
    return ALERTS.get(error.reason, error.reason or str(error))
