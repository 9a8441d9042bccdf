"""`amqp://` and `amqps://` URIs as RabbitMQ's links take them (uri-spec, uri-query-parameters).

    amqps://user:password@host:5671/vhost?heartbeat=10&cacertfile=/etc/ca.pem&verify=verify_peer
    amqp://               this broker itself, without a socket, in the link's own virtual host
    amqp:///vhost         the same, another virtual host

Rules kept: what is percent-encoded is decoded, a path of `/` is the virtual host with the empty
name, no path at all is the link's own virtual host, and without user information it is
`guest:guest`. Of an `amqps` URI a parameter that is not known is refused: a misspelt `verify` must
not pass silently. Without TLS it means nothing, however it is spelt, and RabbitMQ's own tools set
it there too.
"""

from __future__ import annotations

from typing import Final, Literal
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from msgspec import Struct

from amqpd.host_name import is_host

PORTS: Final = {"amqp": 5672, "amqps": 5671}
HEARTBEAT_S: Final = 10
CONNECTION_TIMEOUT_MS: Final = 60_000
CHANNEL_MAX: Final = 2047
FRAME_MAX: Final = 0
MECHANISMS: Final = ("plain", "amqplain", "external")
TLS_PARAMETERS: Final = (
    "cacertfile",
    "certfile",
    "keyfile",
    "password",
    "server_name_indication",
    "verify",
)
NUMBERS_MAX: Final = {
    "heartbeat": 65535,
    "connection_timeout": 86_400_000,
    "channel_max": 65535,
    "frame_max": 4_294_967_295,
}

NO_SERVER_NAME: Final = "disable"

Verify = Literal["verify_peer", "verify_none"]


class InvalidURI(ValueError):
    """The text is no URI that a link can use; `str()` says why, without its password."""


class LinkURI(Struct, frozen=True):
    """Where a link goes, and how."""

    tls: bool = False
    host: str = ""
    """Empty: this broker itself."""
    port: int = 5672
    user: str | None = None
    """None: guest on another broker, nobody in particular on this one."""
    password: str = ""
    vhost: str | None = None
    """None: that of the link."""
    heartbeat_s: int = HEARTBEAT_S
    connection_timeout_s: float = CONNECTION_TIMEOUT_MS / 1000
    channel_max: int = CHANNEL_MAX
    frame_max: int = FRAME_MAX
    mechanisms: tuple[str, ...] = ("plain", "amqplain")
    cacertfile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    key_password: str | None = None
    verify: Verify = "verify_peer"
    server_name: str | None = None
    """For SNI and the certificate; None is the host, `disable` none at all."""
    names_port: bool = False
    """The port was given, and is shown."""

    @property
    def is_local(self) -> bool:
        """Whether it means this broker itself, without a socket."""
        return not self.host

    @property
    def shown(self) -> str:
        """The URI without credentials and parameters, for status and headers; the port as
        RabbitMQ shows it (amqp_uri:remove_credentials): where it was given."""
        scheme = "amqps" if self.tls else "amqp"
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.names_port and not self.is_local else ""
        path = "" if self.vhost is None else f"/{quote(self.vhost, safe='')}"
        return f"{scheme}://{host}{port}{path}"


def parse_uri(text: str) -> LinkURI:
    """The URI in a text. Raises InvalidURI."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise InvalidURI(f"not a URI: {error}") from None
    if parts.scheme not in PORTS:
        raise InvalidURI(f"scheme must be amqp or amqps, not '{parts.scheme}'")
    if parts.fragment:
        raise InvalidURI("a URI of a broker has no fragment: write # as %23")
    if "/" in parts.path[1:]:
        raise InvalidURI("a virtual host's name is one segment: write / in it as %2F")
    userinfo, _, _ = parts.netloc.rpartition("@")
    user, _, password = userinfo.partition(":")
    try:
        given = parse_qsl(
            parts.query, keep_blank_values=True, strict_parsing=bool(parts.query), errors="strict"
        )
        decoded = [unquote(part, errors="strict") for part in (user, password, parts.path[1:])]
        host = unquote(parts.hostname or "", errors="strict")
    except ValueError as error:
        raise InvalidURI(f"cannot be decoded: {error}") from None
    if not is_host(host):
        raise InvalidURI(f"'{host}' cannot be the name of a host")
    tls = parts.scheme == "amqps"
    if tls and not host:
        raise InvalidURI("amqps needs a host")
    return LinkURI(
        tls=tls,
        host=host,
        port=PORTS[parts.scheme] if port is None else port,
        user=decoded[0] if userinfo else None,
        password=decoded[1],
        vhost=decoded[2] if parts.path else None,
        names_port=port is not None,
        **_query(given, tls),  # type: ignore[arg-type]
    )


def server_name_of(uri: LinkURI) -> str | None:
    """For SNI and the certificate's name; None if there is to be no name."""
    return None if uri.server_name == NO_SERVER_NAME else uri.server_name or uri.host


def tls_problem(uri: LinkURI) -> str:
    """What of its TLS parameters can never be used, whatever files there are; empty if nothing.

    `parse_uri` lets it pass: what has once been accepted as a parameter must be read again.
    """
    files = {"cacertfile": uri.cacertfile, "certfile": uri.certfile, "keyfile": uri.keyfile}
    for name, path in files.items():
        if path is not None and "\0" in path:
            return f"{name} cannot be the name of a file: it has a NUL"
    if not is_host(server_name_of(uri) or ""):
        return "server_name_indication cannot be the name of a host"
    return ""


def _query(given: list[tuple[str, str]], tls: bool) -> dict[str, object]:
    """The fields that the parameters of a URI stand for."""
    mechanisms: list[str] = []
    fields: dict[str, object] = {}
    for name, value in given:
        if name in NUMBERS_MAX:
            number = _number(name, value)
            if name == "connection_timeout":
                fields["connection_timeout_s"] = number / 1000
            else:
                fields["heartbeat_s" if name == "heartbeat" else name] = number
        elif name == "auth_mechanism":
            if value not in MECHANISMS:
                raise InvalidURI(f"auth_mechanism must be one of {', '.join(MECHANISMS)}")
            mechanisms.append(value)
        elif not tls:
            continue
        elif name not in TLS_PARAMETERS:
            raise InvalidURI(f"unknown parameter '{name}'")
        elif name == "verify":
            if value not in ("verify_peer", "verify_none"):
                raise InvalidURI("verify must be verify_peer or verify_none")
            fields["verify"] = value
        else:
            renamed = {"password": "key_password", "server_name_indication": "server_name"}
            fields[renamed.get(name, name)] = value
    if mechanisms:
        fields["mechanisms"] = tuple(mechanisms)
    return fields


def _number(name: str, value: str) -> int:
    most = NUMBERS_MAX[name]
    if not (value.isascii() and value.isdigit()) or len(value) > 10 or int(value) > most:
        raise InvalidURI(f"{name} must be a number from 0 to {most}")
    return int(value)
