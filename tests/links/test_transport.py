"""Connections over real sockets, and what a link says when there is none."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from threading import Event, Thread, current_thread
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from amqpd.links import tls_contexts
from amqpd.links.runner import Surroundings, wait_until
from amqpd.links.shovel_definition import check_definition, read_definition
from amqpd.links.shovels import ShovelKeeper
from amqpd.links.tls_contexts import Demand
from amqpd.links.transport import Connector, Transport
from amqpd.links.uri import LinkURI, parse_uri
from tests.patience import PATIENCE_S


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    if request.param:
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param}


pytestmark = pytest.mark.anyio


@asynccontextmanager
async def echo(context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Says the first thing back; the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def carries(transport: Transport) -> bool:
    """Whether something comes back; hangs up."""
    with anyio.fail_after(PATIENCE_S):
        await transport.send(b"hello")
        said = await transport.receive()
        await transport.aclose()
    return said == b"hello"


async def test_a_connection_to_an_address_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async with echo() as port:
        monkeypatch.setattr(socket, "getaddrinfo", None)
        assert await carries(await Connector().connect(LinkURI(host="127.0.0.1", port=port)))


async def test_a_name_is_connected_to_at_the_address_that_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def getaddrinfo(*args: object, **options: object) -> list[tuple[Any, ...]]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        ]

    async with echo() as port:
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        assert await carries(await Connector().connect(LinkURI(host="up.example", port=port)))


async def test_silent_name_servers_keep_nobody_else_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More of them than any event loop has threads."""
    system, may_answer, threads = socket.getaddrinfo, Event(), list[Thread]()

    def getaddrinfo(host: bytes, *args: Any, **options: Any) -> list[tuple[Any, ...]]:
        if host == b"localhost":
            return list(system(host, *args, **options))
        threads.append(current_thread())
        may_answer.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    connector = Connector()
    try:
        async with echo() as port, anyio.create_task_group() as tasks:
            monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
            for number in range(40):
                uri = LinkURI(host=f"silent-{number}.example", connection_timeout_s=0)
                tasks.start_soon(connector.connect, uri)
            with anyio.fail_after(PATIENCE_S):
                while len(threads) < 40:
                    await anyio.lowlevel.checkpoint()
            assert await carries(await connector.connect(LinkURI(host="localhost", port=port)))
            tasks.cancel_scope.cancel()
    finally:
        may_answer.set()
        for thread in threads:
            thread.join()


class Authority:
    """Issues a certificate for 127.0.0.1."""

    def __init__(self, home: Path) -> None:
        authority = trustme.CA()
        self.file = home / "ca.pem"
        authority.cert_pem.write_to_path(str(self.file))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(self.context)

    def serve(self) -> AbstractAsyncContextManager[int]:
        return echo(self.context)


async def test_several_connections_over_tls_with_the_same_context(tmp_path: Path) -> None:
    authority, connector = Authority(tmp_path), Connector()
    async with authority.serve() as port:
        uri = parse_uri(f"amqps://127.0.0.1:{port}?cacertfile={authority.file}")
        for _ in range(3):
            assert await carries(await connector.connect(uri))


async def test_tls_without_verification(tmp_path: Path) -> None:
    async with Authority(tmp_path).serve() as port:
        uri = parse_uri(f"amqps://127.0.0.1:{port}?verify=verify_none")
        assert await carries(await Connector().connect(uri))


async def test_certificates_that_cannot_be_read_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk of the network that is away: the loop goes on, and threads do not pile up."""
    may_read, threads = Event(), list[Thread]()

    def read(demand: Demand) -> ssl.SSLContext:
        threads.append(current_thread())
        may_read.wait()
        raise OSError("gone")

    monkeypatch.setattr(tls_contexts, "_make", read)
    file = Authority(tmp_path).file
    uri = parse_uri(f"amqps://127.0.0.1:1?connection_timeout=1&cacertfile={file}")
    connector = Connector()
    try:
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await connector.connect(uri)
        assert len(threads) <= 1
    finally:
        may_read.set()
        for thread in threads:
            thread.join()


def shovel(uri: str) -> ShovelKeeper:
    """From that URI, tried once."""
    value = {"src-uri": "amqp://", "src-queue": "from", "dest-uri": "amqp://", "dest-queue": "to"}
    assert check_definition("s", value) == []
    read = read_definition({**value, "src-uri": uri, "reconnect-delay": 0})
    return ShovelKeeper("/", "s", read, lambda: 0.0)


async def run(keeper: ShovelKeeper) -> None:
    connector = Connector()

    async def connect(uri: LinkURI, vhost: str) -> Transport:
        return await connector.connect(uri)

    around = Surroundings(
        connect=connect,
        now=anyio.current_time,
        finish_turn=lambda: None,
        sleep=anyio.sleep,
        wait=wait_until,
        cluster_name=lambda: "here",
    )
    assert not await keeper.run(around)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("cacertfile={home}/pipe", "'{home}/pipe' is not a regular file"),
        ("cacertfile={home}", "'{home}' is not a regular file"),
        ("cacertfile={ca}&certfile={home}/pipe", "'{home}/pipe' is not a regular file"),
        ("cacertfile={home}/missing.pem", "No such file or directory"),
        ("cacertfile=/a%00b", "cacertfile cannot be the name of a file: it has a NUL"),
        (
            "cacertfile={ca}&certfile={ca}&keyfile=/a%00b",
            "keyfile cannot be the name of a file: it has a NUL",
        ),
        (
            "cacertfile={ca}&server_name_indication=.example",
            "server_name_indication cannot be the name of a host",
        ),
        (
            "cacertfile={ca}&server_name_indication=a%00b",
            "server_name_indication cannot be the name of a host",
        ),
    ],
)
async def test_parameters_that_cannot_be_used_are_a_failure_to_connect(
    tmp_path: Path, query: str, reason: str
) -> None:
    """Also where they were accepted long ago, and are read again at each start."""
    authority = Authority(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    keeper = shovel("amqps://127.0.0.1:1?" + query.format(home=tmp_path, ca=authority.file))
    await run(keeper)
    said = reason.format(home=tmp_path)
    assert keeper.state == "terminated"
    assert keeper.reason == f"source: cannot connect to amqps://127.0.0.1:1: {said}"


async def test_what_no_check_foresees_is_a_failure_to_connect(tmp_path: Path) -> None:
    """A password that is longer than the library takes one."""
    issued = trustme.CA().issue_cert("link").private_key_and_cert_chain_pem.bytes()
    key = load_pem_private_key(issued, None)
    hidden = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"short"))
    file = tmp_path / "client.pem"
    file.write_bytes(hidden + issued[issued.index(b"-----BEGIN CERT") :])
    password = "long" * 500
    query = f"verify=verify_none&certfile={file}&password={password}"
    keeper = shovel(f"amqps://127.0.0.1:1?{query}")
    await run(keeper)
    said = "the URI cannot be used: password cannot be longer than 1024 bytes"
    assert keeper.reason == f"source: cannot connect to amqps://127.0.0.1:1: {said}"


async def test_a_name_that_nobody_may_have_is_a_failure_to_connect() -> None:
    """IDNA 2008 refuses some that IDNA 2003 has let pass."""
    keeper = shovel("amqp://-é.example")
    await run(keeper)
    assert keeper.reason.startswith("source: cannot connect to amqp://-é.example: the URI ")


async def test_a_broker_that_refuses_is_told_in_its_own_words() -> None:
    with closing(socket.socket()) as nobody:
        nobody.bind(("127.0.0.1", 0))
        keeper = shovel(f"amqp://127.0.0.1:{nobody.getsockname()[1]}")
        await run(keeper)
    assert "attempts failed" not in keeper.reason
    assert "refused" in keeper.reason or "Connect call failed" in keeper.reason
