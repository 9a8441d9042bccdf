"""Which of several addresses is connected to, and when each is tried, in virtual time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping

import anyio
import pytest
from anyio.abc import ByteStream

from amqpd.links.happy_eyeballs import first_to_connect
from tests.simulation.links.virtual_time import VirtualTimeLoop


class Socket(ByteStream):
    """To an address, until it is closed."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.closed = False

    async def receive(self, max_bytes: int = 65536) -> bytes:
        raise NotImplementedError

    async def send(self, item: bytes) -> None:
        raise NotImplementedError

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        self.closed = True


class Network:
    """Addresses that answer, or refuse, after some seconds."""

    def __init__(
        self, answer_s: Mapping[str, float], refuse_s: Mapping[str, float] | None = None
    ) -> None:
        self._answer_s = answer_s
        self._refuse_s = refuse_s or {}
        self.tried: dict[str, float] = {}
        """When each address was tried, in seconds from the start."""
        self.sockets: list[Socket] = []
        self.ended_s = 0.0

    def connect(self, timeout_s: float = math.inf) -> str:
        """The address of the socket that was given out; the others are closed."""
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            given = runner.run(self._connect(timeout_s))
        assert [socket for socket in self.sockets if not socket.closed] == [given]
        return given.address

    async def _connect(self, timeout_s: float) -> Socket:
        began = anyio.current_time()

        async def attempt(address: str) -> ByteStream:
            self.tried[address] = anyio.current_time() - began
            if address in self._refuse_s:
                await anyio.sleep(self._refuse_s[address])
                raise OSError("All connection attempts failed") from OSError(1, f"{address} is out")
            await anyio.sleep(self._answer_s[address])
            self.sockets.append(Socket(address))
            return self.sockets[-1]

        try:
            with anyio.fail_after(timeout_s):
                found = await first_to_connect([*self._order()], attempt)
        finally:
            self.ended_s = anyio.current_time() - began
        assert isinstance(found, Socket)
        return found

    def _order(self) -> list[str]:
        return sorted({**self._answer_s, **self._refuse_s})


def test_the_first_address_is_enough_where_it_answers() -> None:
    network = Network({"a": 0.2, "b": 0.0})
    assert network.connect() == "a"
    assert network.tried == {"a": 0.0}


def test_a_silent_address_does_not_keep_the_next_one_waiting() -> None:
    network = Network({"a": 1000.0, "b": 1000.0, "c": 0.1})
    assert network.connect() == "c"
    assert network.tried == {"a": 0.0, "b": 0.25, "c": 0.5}
    assert network.ended_s == pytest.approx(0.6)


def test_an_address_that_refuses_lets_the_next_one_begin_at_once() -> None:
    network = Network({"b": 0.1}, {"a": 0.01})
    assert network.connect() == "b"
    assert network.tried == pytest.approx({"a": 0.0, "b": 0.01})


def test_who_answers_first_is_taken_whoever_was_asked_first() -> None:
    assert Network({"a": 0.5, "b": 0.1}).connect() == "b"


def test_of_two_that_answer_in_the_same_moment_one_is_closed() -> None:
    network = Network({"a": 0.75, "b": 0.5})
    network.connect()
    assert len(network.sockets) == 2


def test_when_all_have_failed_their_reasons_are_told() -> None:
    network = Network({}, {"a": 0.3, "b": 0.0})
    with pytest.raises(OSError, match=r"^b is out; a is out$"):
        network.connect()


def test_a_timeout_ends_all_attempts() -> None:
    network = Network({"a": 1000.0, "b": 1000.0})
    with pytest.raises(TimeoutError):
        network.connect(timeout_s=1)
    assert (network.ended_s, network.sockets) == (1, [])
