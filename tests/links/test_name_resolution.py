"""Addresses of names, where a resolver answers, answers nothing, or is silent."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from threading import Event, Thread, current_thread
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from amqpd.links.name_resolution import NameResolution
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.anyio


class Resolver:
    """In place of the system's: knows some names, and is silent about the rest."""

    def __init__(self) -> None:
        self.known: dict[bytes, list[tuple[Any, ...]]] = {}
        """With socket addresses."""
        self.asked: list[bytes] = []
        self.threads: list[Thread] = []
        self.may_answer = Event()

    def know(self, name: str, *addresses: str | tuple[Any, ...]) -> None:
        """An address is one of IPv4, or a socket address."""
        self.known[name.encode()] = [
            (address, 0) if isinstance(address, str) else address for address in addresses
        ]

    def getaddrinfo(self, host: bytes, port: int | None, **options: Any) -> list[tuple[Any, ...]]:
        self.asked.append(host)
        if host not in self.known:
            self.threads.append(current_thread())
            self.may_answer.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [
            (
                socket.AF_INET if len(address) == 2 and "." in str(address[0]) else socket.AF_INET6,
                socket.SOCK_STREAM,
                6,
                "",
                address,
            )
            for address in self.known[host]
        ]

    async def silent_about(self, count: int) -> None:
        """So many look-ups wait."""
        with anyio.fail_after(PATIENCE_S):
            while len(self.threads) < count:
                await anyio.lowlevel.checkpoint()


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    made = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    yield made
    made.may_answer.set()
    for thread in made.threads:
        thread.join()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "fe80::1%eth0", "2001:DB8::1"])
async def test_an_address_is_not_looked_up(resolver: Resolver, address: str) -> None:
    assert await NameResolution().addresses(address) == [address]
    assert resolver.asked == []


async def test_ipv6_and_ipv4_take_turns(resolver: Resolver) -> None:
    sixes = [("2001:db8::1", 0, 0, 0), ("2001:db8::2", 0, 0, 0), ("fe80::3", 0, 0, 7)]
    resolver.know("broker.example", "192.0.2.1", "192.0.2.2", *sixes)
    assert await NameResolution().addresses("broker.example") == [
        "2001:db8::1",
        "192.0.2.1",
        "2001:db8::2",
        "192.0.2.2",
        "fe80::3%7",
    ]


async def test_a_name_beyond_ascii_is_asked_for_as_name_servers_know_it(resolver: Resolver) -> None:
    resolver.know("xn--strae-oqa.example", "192.0.2.1")
    assert await NameResolution().addresses("straße.example") == ["192.0.2.1"]


async def test_a_name_without_an_address_that_can_be_used(resolver: Resolver) -> None:
    resolver.know("broker.example", (28, b"of a Python without IPv6"))
    with pytest.raises(OSError, match="the name has no address"):
        await NameResolution().addresses("broker.example")


async def test_who_answers_is_not_kept_waiting_by_silent_name_servers(resolver: Resolver) -> None:
    """However often their links give up and try again."""
    resolver.know("good.example", "192.0.2.1")
    names = NameResolution(look_ups_max=25)
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as links:
                    for number in range(24):
                        links.start_soon(names.addresses, f"silent-{number}.example")
                    await resolver.silent_about(24)
                    scope.cancel()
        assert await names.addresses("good.example") == ["192.0.2.1"]
        assert len(resolver.asked) == len(set(resolver.asked)) == 25
        assert all(thread.daemon for thread in resolver.threads)
        tasks.cancel_scope.cancel()


async def test_too_many_silent_names_are_an_error_that_says_so(resolver: Resolver) -> None:
    resolver.know("good.example", "192.0.2.1")
    names = NameResolution(look_ups_max=2, patience_s=0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(names.addresses, "silent-1.example")
        tasks.start_soon(names.addresses, "silent-2.example")
        await resolver.silent_about(2)
        with pytest.raises(OSError, match="look-ups of names: 2 have not ended"):
            await names.addresses("good.example")
        assert await names.addresses("192.0.2.1") == ["192.0.2.1"]
        tasks.cancel_scope.cancel()


async def test_what_the_resolver_refuses_is_told(resolver: Resolver) -> None:
    resolver.may_answer.set()
    with pytest.raises(OSError, match="Temporary failure"):
        await NameResolution().addresses("missing.example")
