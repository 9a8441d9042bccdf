"""URIs as links take them."""

from __future__ import annotations

import pytest

from amqpd.links.uri import InvalidURI, LinkURI, parse_uri, tls_problem


def test_everything_that_a_uri_can_say() -> None:
    assert parse_uri(
        "amqps://us%40er:pass%3Aword@broker.example:5673/a%2Fb?heartbeat=7&connection_timeout=1500"
        "&channel_max=9&frame_max=8192&auth_mechanism=external&auth_mechanism=plain"
        "&cacertfile=/ca.pem&certfile=/me.pem&keyfile=/me.key&password=se%20cret"
        "&verify=verify_none&server_name_indication=other.example"
    ) == LinkURI(
        tls=True,
        host="broker.example",
        port=5673,
        user="us@er",
        password="pass:word",
        vhost="a/b",
        heartbeat_s=7,
        connection_timeout_s=1.5,
        channel_max=9,
        frame_max=8192,
        mechanisms=("external", "plain"),
        cacertfile="/ca.pem",
        certfile="/me.pem",
        keyfile="/me.key",
        key_password="se cret",
        verify="verify_none",
        server_name="other.example",
        names_port=True,
    )


@pytest.mark.parametrize(
    ("text", "vhost", "is_local", "shown"),
    [
        ("amqp://", None, True, "amqp://"),
        ("amqp:///stage", "stage", True, "amqp:///stage"),
        ("amqp://broker", None, False, "amqp://broker"),
        ("amqp://broker/", "", False, "amqp://broker/"),
        ("amqp://u:p@broker:5673/%2f", "/", False, "amqp://broker:5673/%2F"),
        ("amqp://[::1]:5672", None, False, "amqp://[::1]:5672"),
        ("amqps://broker?password=x", None, False, "amqps://broker"),
    ],
)
def test_vhost_and_what_is_shown(text: str, vhost: str | None, is_local: bool, shown: str) -> None:
    uri = parse_uri(text)
    assert (uri.vhost, uri.is_local, uri.shown) == (vhost, is_local, shown)


def test_without_tls_its_parameters_mean_nothing() -> None:
    uri = parse_uri("amqp://broker?verify=maybe&cacertfile=/ca.pem&abc=123&heartbeat=5")
    assert uri == LinkURI(host="broker", heartbeat_s=5)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("http://broker", "scheme must be amqp or amqps, not 'http'"),
        ("broker:5672", "scheme must be amqp or amqps, not 'broker'"),
        ("amqp://a..b/", "'a..b' cannot be the name of a host"),
        ("amqp://a%00b/", "cannot be the name of a host"),
        ("amqp://broker:port", "not a URI: Port could not be cast"),
        ("amqp://broker/a/b", "a virtual host's name is one segment"),
        ("amqp://broker#x", "no fragment"),
        ("amqp://broker?heartbeat=-1", "heartbeat must be a number from 0 to 65535"),
        ("amqp://broker?heartbeat=65536", "heartbeat must be a number from 0 to 65535"),
        ("amqp://broker?channel_max=", "channel_max must be a number"),
        ("amqp://broker?auth_mechanism=kerberos", "auth_mechanism must be one of"),
        ("amqps://broker?verify=maybe", "verify must be verify_peer or verify_none"),
        ("amqps://broker?verfiy=verify_peer", "unknown parameter 'verfiy'"),
        ("amqps://", "amqps needs a host"),
        ("amqp://%ff@broker", "cannot be decoded"),
    ],
)
def test_what_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidURI, match=reason):
        parse_uri(text)


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("cacertfile=/a%00b", "cacertfile cannot be the name of a file"),
        ("certfile=/a%00b", "certfile cannot be the name of a file"),
        ("keyfile=/a%00b", "keyfile cannot be the name of a file"),
        ("server_name_indication=.example", "server_name_indication cannot be the name of a host"),
        ("server_name_indication=a%00b", "server_name_indication cannot be the name of a host"),
        ("server_name_indication=disable", ""),
        ("server_name_indication=", ""),
        ("cacertfile=/any/path&certfile=&server_name_indication=broker", ""),
    ],
)
def test_what_can_be_read_but_never_used(query: str, problem: str) -> None:
    found = tls_problem(parse_uri(f"amqps://broker?{query}"))
    assert found.startswith(problem)
    assert bool(found) is bool(problem)
