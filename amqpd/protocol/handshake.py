"""What is said before a connection is open: greetings, SASL, tuning (0-9-1 §2.2.4, §4.2.2).

Pure functions of bytes and numbers; `amqpd.protocol.connection` keeps the state.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from amqpd.commands import Arguments
from amqpd.config import Limits
from amqpd.errors import NOT_ALLOWED, ConnectionException
from amqpd.wire.tables import TableError, decode_table

GREETING_OCTETS: Final = 8
GREETING: Final = b"AMQP\x00\x00\x09\x01"
ACCEPTED_GREETINGS: Final = (GREETING, b"AMQP\x01\x01\x00\x09")
"""The second is what clients of the old 0-9 sent; RabbitMQ takes both as 0-9-1."""

TUNE: Final = (10, 31)
"""connection.tune-ok, whose values a refusal names."""

LOCALES: Final = "en_US"
ANONYMOUS: Final = "ANONYMOUS"


def mechanisms(compat: str) -> tuple[str, ...]:
    """The SASL mechanisms that a profile offers: RabbitMQ 4.x added one."""
    return ("PLAIN", "AMQPLAIN") if compat == "3.13" else (ANONYMOUS, "PLAIN", "AMQPLAIN")


HTTP_METHODS: Final = (b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PATC", b"CONN")


class Credentials(NamedTuple):
    """What a SASL response says; nothing, for ANONYMOUS."""

    user: str
    password: bytes
    anonymous: bool = False


def describe_greeting(octets: bytes) -> str:
    """In plain words, what a peer began with that was not AMQP 0-9-1."""
    if octets[:4] == b"AMQP" and len(octets) >= GREETING_OCTETS:
        if octets[4:] == b"\x00\x01\x00\x00" or octets[4:] == b"\x03\x01\x00\x00":
            return "an AMQP 1.0 client: only AMQP 0-9-1 is spoken here"
        if octets[4:] == b"\x02\x01\x00\x00":
            return "an AMQP 1.0 client that wants TLS: only AMQP 0-9-1 is spoken here"
        version = "-".join(map(str, octets[4:]))
        return f"a client of AMQP {version}: only AMQP 0-9-1 is spoken here"
    # HTTP has a CONNECT as well, with a name behind it.
    if octets[:5] == b"STOMP" or octets[:8] in (b"CONNECT\n", b"CONNECT\r"):
        return "a STOMP client: this port speaks AMQP 0-9-1"
    if octets[:4] in HTTP_METHODS:
        return "an HTTP request: this port speaks AMQP 0-9-1"
    if octets[:2] == b"\x16\x03":
        return "a TLS handshake: this port speaks plain AMQP 0-9-1; give TLS clients --tls-listen"
    if octets[:1] == b"\x10" and (b"MQTT" in octets or b"MQI" in octets):
        return "an MQTT client: this port speaks AMQP 0-9-1"
    return f"octets that are not a greeting of AMQP 0-9-1: {octets!r}"


def read_plain(response: bytes) -> Credentials | None:
    """RFC 4616 with an empty authorisation identity, as RabbitMQ takes it; None if it is not."""
    parts = response.split(b"\x00")
    if len(parts) != 3 or parts[0]:
        return None
    try:
        return Credentials(parts[1].decode(), parts[2])
    except UnicodeDecodeError:
        return None


def read_amqplain(response: bytes, depth_max: int) -> Credentials | None:
    """A field table without its length, holding LOGIN and PASSWORD; None if it is not."""
    try:
        table, _ = decode_table(len(response).to_bytes(4, "big") + response, 0, depth_max)
    except TableError:
        return None
    login, password = table.get("LOGIN"), table.get("PASSWORD")
    if login is None or password is None or login[0] != "S" or password[0] not in "Sx":
        return None
    secret = password[1]
    if isinstance(secret, str):
        secret = secret.encode("utf-8", "surrogateescape")
    return Credentials(login[1], secret)


def read_response(mechanism: str, response: bytes, depth_max: int) -> Credentials | None:
    """The credentials in a SASL response; None if mechanism or response cannot be understood."""
    if mechanism == "PLAIN":
        return read_plain(response)
    if mechanism == "AMQPLAIN":
        return read_amqplain(response, depth_max)
    if mechanism == ANONYMOUS:
        return Credentials("", b"", anonymous=True)
    return None


def capabilities(client_properties: Arguments) -> frozenset[str]:
    """The capabilities that the client claims with a true value."""
    octet, table = client_properties.get("capabilities", ("V", None))
    if octet != "F":
        return frozenset()
    return frozenset(name for name, field in table.items() if field == ("t", True))


def agree_frame_max(wanted: int, limits: Limits) -> int:
    """The frame_max of the connection: the client's, if the broker's limits allow it."""
    check_tuning("frame_max", wanted, limits.frame_bytes_min, limits.frame_bytes_max)
    return wanted


def agree_channel_max(wanted: int, limits: Limits) -> int:
    """The channel_max of the connection: the client's, if the broker's limits allow it."""
    check_tuning("channel_max", wanted, 1, limits.channel_max)
    return wanted


def check_tuning(name: str, wanted: int, least: int, most: int) -> None:
    """Refuse what lies outside; 0 means no limit, which only a broker without one accepts."""
    if most and (wanted == 0 or wanted > most):
        shown = "0 (no limit)" if wanted == 0 else str(wanted)
        raise ConnectionException(
            NOT_ALLOWED,
            f"negotiated {name} = {shown} is higher than the maximum allowed value ({most})",
            TUNE,
        )
    if wanted and wanted < least:
        raise ConnectionException(
            NOT_ALLOWED,
            f"negotiated {name} = {wanted} is lower than the minimum allowed value ({least})",
            TUNE,
        )
