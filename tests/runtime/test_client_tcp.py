"""What TCP is told of a client's socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from amqpd.runtime import client_tcp

LOCAL = ("127.0.0.1", 1)
REMOTE = ("192.0.2.1", 1)

CONGESTION = getattr(socket, "TCP_CONGESTION", None)

on_linux = pytest.mark.skipif(CONGESTION is None, reason="the system has no TCP_CONGESTION")


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket() as made:
        yield made


def congestion_of(sock: socket.socket) -> bytes:
    assert CONGESTION is not None
    return sock.getsockopt(socket.IPPROTO_TCP, CONGESTION, 16).rstrip(b"\0")


class Listening:
    """A listening socket of a system with this default."""

    def __init__(self, default: bytes) -> None:
        self.default = default

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option) == (socket.IPPROTO_TCP, CONGESTION)
        return self.default.ljust(size, b"\0")


@pytest.mark.parametrize("paced", [True, False])
def test_what_is_written_goes_out_at_once(sock: socket.socket, paced: bool) -> None:
    client_tcp.prepare(sock, REMOTE, paced=paced)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@on_linux
def test_nothing_paces_what_goes_to_this_machine(sock: socket.socket) -> None:
    client_tcp.prepare(sock, LOCAL, paced=True)
    assert congestion_of(sock) == b"reno"


@on_linux
@pytest.mark.parametrize(("remote", "paced"), [(REMOTE, True), (LOCAL, False), (None, True)])
def test_otherwise_the_default_of_the_system_stays(
    sock: socket.socket, remote: object, paced: bool
) -> None:
    before = congestion_of(sock)
    client_tcp.prepare(sock, remote, paced=paced)
    assert congestion_of(sock) == before


@on_linux
@pytest.mark.parametrize(
    ("default", "paced"), [(b"bbr", True), (b"bbr2", True), (b"cubic", False), (b"reno", False)]
)
def test_bbr_paces(default: bytes, paced: bool) -> None:
    assert client_tcp.is_paced(Listening(default)) == paced  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("remote", "local"),
    [
        (LOCAL, True),
        (("::ffff:127.0.0.1", 1, 0, 0), True),
        (REMOTE, False),
        (("fe80::1%eth0", 1, 0, 2), False),
        (None, False),
    ],
)
def test_who_is_on_this_machine(remote: object, local: bool) -> None:
    assert client_tcp.is_local(remote) == local


def test_a_socket_that_is_gone_is_no_matter() -> None:
    gone = socket.socket()
    gone.close()
    client_tcp.prepare(gone, LOCAL, paced=True)
    assert not client_tcp.is_paced(gone)
