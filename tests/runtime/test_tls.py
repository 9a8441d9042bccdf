"""TLS over real sockets: with and without clients' certificates, and the wrong door."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme
from pamqp import commands

from tests.runtime.client import Client, Closed, Gone, connect, read_to_end, reset
from tests.runtime.process import BrokerProcess

MIB = 1024 * 1024


class Certificates(NamedTuple):
    """Of the broker and of a client, each from an authority of its own."""

    authority: trustme.CA
    clients: trustme.CA
    certificate: Path
    key: Path
    client_authority: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    directory = tmp_path_factory.mktemp("certificates")
    authority, clients = trustme.CA(), trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    made = Certificates(
        authority, clients, directory / "chain.pem", directory / "key.pem", directory / "ca.pem"
    )
    made.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    made.key.write_bytes(issued.private_key_pem.bytes())
    clients.cert_pem.write_to_path(str(made.client_authority))
    return made


Start = Callable[..., str]


@pytest.fixture
def start(broker: BrokerProcess, certificates: Certificates) -> Start:
    """Start the broker with TLS; its TLS address."""

    def started(*arguments: str) -> str:
        broker.start(
            "--tls-listen",
            "127.0.0.1:0",
            "--tls-certificate",
            str(certificates.certificate),
            "--tls-key",
            str(certificates.key),
            *arguments,
        )
        (address,) = broker.ready["amqps"]
        return str(address)

    return started


def client_context(certificates: Certificates, issuer: trustme.CA | None = None) -> ssl.SSLContext:
    """A client that checks the broker's certificate, and may show one of its own."""
    context = ssl.create_default_context()
    certificates.authority.configure_trust(context)
    if issuer is not None:
        issuer.issue_cert("client").configure_cert(context)
    return context


def test_both_doors(broker: BrokerProcess, start: Start, certificates: Certificates) -> None:
    secure_address = start()
    context = client_context(certificates)
    with Client(secure_address, tls=context) as secure, Client(broker.address) as plain:
        secure.declare("q")
        secure.confirm_select()
        secure.publish("", "q", b"through TLS")
        secure.wait_confirmed()
        delivery = plain.get("q", no_ack=True)
        assert delivery is not None
        assert delivery.body == b"through TLS"
        secure.close()
        plain.close()
    assert broker.stop() == 0


def test_big_bodies_both_ways(start: Start, certificates: Certificates) -> None:
    address = start()
    context = client_context(certificates)
    body = os.urandom(8 * MIB)
    with Client(address, tls=context) as client:
        client.declare("q")
        client.confirm_select()
        for size in (0, 1, 16_384, 131_064, 131_065, len(body)):
            client.publish("", "q", body[:size])
        client.wait_confirmed()
        client.consume("q", no_ack=True)
        for size in (0, 1, 16_384, 131_064, 131_065, len(body)):
            assert client.next_delivery().body == body[:size]
        client.close()


def test_the_goodbye_is_a_goodbye_in_tls_too(
    broker: BrokerProcess, start: Start, certificates: Certificates
) -> None:
    address = start()
    context = client_context(certificates)
    sock = connect(address)
    with context.wrap_socket(
        sock, server_hostname="127.0.0.1", suppress_ragged_eofs=False
    ) as secure:
        secure.sendall(b"AMQP\x01\x01\x00\x0a")
        assert secure.recv(8) == b"AMQP\x00\x00\x09\x01"
        assert secure.recv(1) == b""  # a truncation would raise SSLEOFError
    with Client(address, tls=context) as client:
        broker.signal(signal.SIGTERM)
        with pytest.raises(Closed, match="shutdown"):
            client.expect(commands.Connection.CloseOk)
        client.send(commands.Connection.CloseOk(), 0)
        assert client.wait_gone() == b""
    assert broker.wait() == 0


def test_a_client_that_waits_for_our_goodbye_gets_it_at_once(
    start: Start, certificates: Certificates
) -> None:
    with Client(start(), tls=client_context(certificates)) as client:
        client.send(commands.Connection.Close(200, "goodbye", 0, 0), 0)
        client.expect(commands.Connection.CloseOk)
        begun = time.monotonic()
        assert isinstance(client.sock, ssl.SSLSocket)
        client.sock.unwrap().close()
        assert time.monotonic() - begun < 1  # and not `linger_s`


@pytest.mark.parametrize("shown", [True, False])
def test_clients_certificates(
    broker: BrokerProcess, start: Start, certificates: Certificates, shown: bool
) -> None:
    address = start("--tls-ca", str(certificates.client_authority))
    context = client_context(certificates, certificates.clients if shown else None)
    with Client(address, tls=context) as client:
        client.declare("q")
        client.close()
    broker.wait_for_log('reason="closed by the client"')


def test_a_certificate_of_somebody_else(
    broker: BrokerProcess, start: Start, certificates: Certificates
) -> None:
    address = start("--tls-ca", str(certificates.client_authority))
    with pytest.raises((ssl.SSLError, ConnectionResetError, Gone)):
        Client(address, tls=client_context(certificates, trustme.CA()))
    broker.wait_for_log("the client's certificate is not of an authority in --tls-ca")


def test_a_client_that_does_not_trust_the_broker(broker: BrokerProcess, start: Start) -> None:
    address = start()
    with pytest.raises(ssl.SSLCertVerificationError):
        Client(address, tls=ssl.create_default_context())
    broker.wait_for_log("the client does not know the authority of our certificate")


@pytest.mark.parametrize(
    ("said", "explained"),
    [
        (b"AMQP\x00\x00\x09\x01", "a plain AMQP client: this port speaks TLS; give plain clients"),
        (b"GET / HTTP/1.1\r\n\r\n", "a plain HTTP request: this port speaks AMQP over TLS"),
        (b"\x00\x01junk!", "octets that are not TLS: "),
        (b"\x16\x03\x01\xff\xffnonsense", ""),
    ],
)
def test_wrong_door(broker: BrokerProcess, start: Start, said: bytes, explained: str) -> None:
    sock = connect(start())
    sock.sendall(said)
    if said[0] == 0x16:
        sock.shutdown(socket.SHUT_WR)
    heard = read_to_end(sock)
    sock.close()
    assert b"AMQP" not in heard
    broker.wait_for_log("127.0.0.1")
    broker.wait_for_log(explained)
    assert "Traceback" not in broker.log


def test_tls_on_the_plain_port(
    broker: BrokerProcess, start: Start, certificates: Certificates
) -> None:
    start()
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        Client(broker.address, tls=client_context(certificates))
    broker.wait_for_log("a TLS handshake: this port speaks plain AMQP 0-9-1")


def test_silence_and_resets_before_the_handshake(
    broker: BrokerProcess, start: Start, certificates: Certificates
) -> None:
    config = broker.directory / "amqpd.toml"
    config.write_text("[limits]\nhandshake_timeout_s = 0.3\n")
    address = start("--config", str(config))
    silent = connect(address)
    for said in (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00"):
        sock = connect(address)
        sock.sendall(said)
        reset(sock)
    assert read_to_end(silent) == b""
    silent.close()
    broker.wait_for_log("handshake not finished in 0.3 s")
    with Client(address, tls=client_context(certificates)) as client:
        client.close()
    assert broker.stop() == 0
    assert "Traceback" not in broker.log


def test_files_that_cannot_be_used(broker: BrokerProcess, certificates: Certificates) -> None:
    junk = broker.directory / "junk.pem"
    junk.write_text("junk")
    tls = ["--tls-listen", "127.0.0.1:0", "--tls-certificate"]
    chain, key = str(certificates.certificate), str(certificates.key)
    for arguments, problem in (
        ([str(junk)], f"{junk} cannot be used for TLS ("),
        ([chain, "--tls-key", str(junk)], f"{chain} and {junk} cannot be used for TLS ("),
        ([chain], f"{chain} cannot be used for TLS ("),
        ([chain, "--tls-key", key, "--tls-ca", str(junk)], f"{junk} holds no certificates ("),
    ):
        broker.log_file.unlink(missing_ok=True)
        broker.spawn(*tls, *arguments)
        assert broker.wait() == os.EX_CONFIG
        (line,) = broker.log.splitlines()
        assert line.startswith(f"amqpd: {problem}")


def test_a_key_with_a_passphrase(broker: BrokerProcess, certificates: Certificates) -> None:
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    key = serialization.load_pem_private_key(certificates.key.read_bytes(), None)
    locked = broker.directory / "locked.pem"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    broker.spawn(
        "--tls-listen",
        "127.0.0.1:0",
        "--tls-certificate",
        str(certificates.certificate),
        "--tls-key",
        str(locked),
    )
    assert broker.wait() == os.EX_CONFIG
    (line,) = broker.log.splitlines()
    assert line == ("amqpd: the TLS key is encrypted: give one without a passphrase with --tls-key")
