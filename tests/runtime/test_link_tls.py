"""Links over TLS, with real certificates: who is let in, who is not, and what is said of it."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pytest
import trustme

from tests.runtime.client import Client
from tests.runtime.process import BrokerProcess
from tests.runtime.sites import Site, bind, site, until


class Secured(NamedTuple):
    """An upstream that speaks TLS and asks for clients' certificates, and a downstream."""

    upstream: BrokerProcess
    downstream: Site
    authority: Path
    client: Path
    """Certificate and key that the upstream accepts."""
    stranger: Path
    """An authority that has issued nothing here."""

    @property
    def address(self) -> str:
        return str(self.upstream.ready["amqps"][0])

    def link(self, query: str, host: str = "127.0.0.1") -> None:
        """Federate exchange x over a URI with these parameters."""
        port = self.address.rpartition(":")[2]
        uri = f"amqps://guest:guest@{host}:{port}/%2F?{query}"
        value = {"value": {"uri": uri, "reconnect-delay": 0.2}}
        self.downstream.ask("PUT", "/parameters/federation-upstream/%2F/up", value)

    def await_error(self, words: str) -> None:
        until(lambda: words in self.downstream.links()[0].get("error", ""))


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    home = tmp_path_factory.mktemp("links")
    authority, clients, strangers = trustme.CA(), trustme.CA(), trustme.CA()
    issued, accepted = authority.issue_cert("127.0.0.1"), clients.issue_cert("link")
    files = {name: home / f"{name}.pem" for name in ("server", "ca", "client", "clients", "other")}
    issued.private_key_and_cert_chain_pem.write_to_path(str(files["server"]))
    accepted.private_key_and_cert_chain_pem.write_to_path(str(files["client"]))
    authority.cert_pem.write_to_path(str(files["ca"]))
    clients.cert_pem.write_to_path(str(files["clients"]))
    strangers.cert_pem.write_to_path(str(files["other"]))
    brokers = []
    for name in ("up", "down"):
        (home / name).mkdir()
        brokers.append(BrokerProcess(home / name))
    upstream, downstream = brokers
    try:
        tls = ("--tls-listen", "127.0.0.1:0", "--tls-certificate", str(files["server"]))
        upstream.start(*tls, "--tls-ca", str(files["clients"]))
        downstream.start("--management", "127.0.0.1:0")
        with Client(downstream.address) as client:
            bind(client, "x", "q", "#")
        policy = {"pattern": "^x$", "definition": {"federation-upstream": "up"}}
        site(downstream).ask("PUT", "/policies/%2F/p", policy)
        yield Secured(upstream, site(downstream), files["ca"], files["client"], files["other"])
        assert "Traceback" not in upstream.log + downstream.log
    finally:
        for broker in brokers:
            broker.end()


@pytest.mark.parametrize(
    "query",
    [
        "cacertfile={authority}&certfile={client}&keyfile={client}",
        "cacertfile={authority}&certfile={client}&verify=verify_peer",
        "cacertfile={authority}",
        "certfile={client}&verify=verify_none",
        "certfile={client}&verify=verify_none&server_name_indication=elsewhere.example",
        "cacertfile={authority}&certfile={client}&server_name_indication=127.0.0.1",
    ],
)
def test_a_link_over_tls_carries_messages(secured: Secured, query: str) -> None:
    secured.link(query.format(authority=secured.authority, client=secured.client))
    secured.downstream.await_running()
    with Client(secured.upstream.address) as up, Client(secured.downstream.address) as down:
        up.confirm_select()
        up.publish("x", "k", b"m" * 300_000)
        up.wait_confirmed()
        until(lambda: down.message_count("q") == 1)
        got = down.get("q", no_ack=True)
        assert got is not None
        assert got.body == b"m" * 300_000
    assert secured.downstream.links()[0]["uri"] == f"amqps://{secured.address}/%2F"


@pytest.mark.parametrize(
    ("query", "host", "words"),
    [
        ("certfile={client}", "127.0.0.1", "certificate is not accepted"),
        ("cacertfile={stranger}&certfile={client}", "127.0.0.1", "certificate is not accepted"),
        ("cacertfile={authority}&certfile={client}", "localhost", "Hostname mismatch"),
        (
            "cacertfile={authority}&certfile={client}&server_name_indication=elsewhere.example",
            "127.0.0.1",
            "Hostname mismatch",
        ),
        ("cacertfile={authority}&certfile=/missing.pem", "127.0.0.1", "No such file"),
        ("cacertfile=/missing.pem&certfile={client}", "127.0.0.1", "No such file"),
    ],
)
def test_a_link_that_is_not_to_be_trusted_says_why(
    secured: Secured, query: str, host: str, words: str
) -> None:
    paths = {"authority": secured.authority, "client": secured.client, "stranger": secured.stranger}
    secured.link(query.format(**paths), host)
    secured.await_error(words)


def test_several_uris_are_tried_in_turn(secured: Secured) -> None:
    good = f"amqps://{secured.address}/%2F?cacertfile={secured.authority}&certfile={secured.client}"
    uris = ["amqp://127.0.0.1:1", f"amqp://{secured.address}", good]
    value = {"value": {"uri": uris, "reconnect-delay": 0.2}}
    secured.downstream.ask("PUT", "/parameters/federation-upstream/%2F/up", value)
    secured.downstream.await_running()
    assert secured.downstream.links()[0]["uri"] == f"amqps://{secured.address}/%2F"


class Peer:
    """Something that listens, and does with each connection what it is told."""

    def __init__(self, treat: Callable[[socket.socket], None]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.accepted: list[socket.socket] = []
        self._treat = treat
        Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                accepted, _ = self.listener.accept()
                self.accepted.append(accepted)
                with suppress(OSError):
                    self._treat(accepted)

    def close(self) -> None:
        for each in (self.listener, *self.accepted):
            each.close()


@pytest.mark.parametrize("linger", [True, False])
def test_a_peer_that_hangs_up_in_the_handshake_is_tried_again(
    secured: Secured, linger: bool
) -> None:
    """A broker that starts anew, or a balancer that has none behind it."""

    def hang_up(accepted: socket.socket) -> None:
        if linger:
            accepted.recv(1)
        else:
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()

    with closing(Peer(hang_up)) as peer:
        value = {"value": {"uri": f"amqps://127.0.0.1:{peer.port}", "reconnect-delay": 0.05}}
        secured.downstream.ask("PUT", "/parameters/federation-upstream/%2F/up", value)
        until(lambda: len(peer.accepted) > 3)


def test_a_peer_that_is_silent_after_the_handshake_holds_nobody(
    secured: Secured,
) -> None:
    """The other end of a shovel cannot be reached: this one is given up without a last word."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued = trustme.CA().issue_cert("127.0.0.1")
    issued.configure_cert(context)

    def shake_hands(accepted: socket.socket) -> None:
        peer.accepted.append(context.wrap_socket(accepted, server_side=True))

    with closing(Peer(shake_hands)) as peer:
        value = {
            "src-uri": f"amqps://127.0.0.1:{peer.port}?verify=verify_none",
            "src-queue": "from",
            "dest-uri": "amqp://127.0.0.1:1",
            "dest-queue": "to",
            "reconnect-delay": 0.05,
        }
        secured.downstream.ask("PUT", "/parameters/shovel/%2F/silent", {"value": value})
        until(lambda: len(peer.accepted) > 4)
        secured.downstream.ask("DELETE", "/parameters/shovel/%2F/silent")
