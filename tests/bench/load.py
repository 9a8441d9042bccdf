"""Publishers and consumers that cost next to nothing, and the processes they run in.

The load shares the machine with the broker it measures, so what is timed neither encodes nor
parses:

- a publisher sends slices of one prebuilt block of publishes; with confirms it reads acks, all of
  21 octets, to know how far its window has moved;
- a consumer counts octets: all deliveries of a workload have one size, learned from the first one.
  Its acks, one for each delivery, are slices of one prebuilt string of basic.ack frames.

Publisher and consumer are processes of their own, forked from one that only waits. Measured on
two cores through a relay, 1 KB each: threads cost 0.4-0.5 us a message, processes 0.5-0.7 us. That
is too little to tell beside a broker, and processes never wait for each other's interpreter lock.

    parent:  fork roles ... all ready -> CPU? -> go ............ total -> results -> CPU?
    role:    connect, prebuild -> ready -> (waits) -> timed loop -> result
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from multiprocessing.sharedctypes import RawValue
from typing import Any, Final, Generic, TypeVar

from tests.bench import process, sockets, wire
from tests.bench.client import Address, Connection
from tests.bench.sockets import RECEIVE_OCTETS, REPLY_SECONDS, make_hot

WINDOW: Final = 200
"""Publishes that wait for their confirm, and deliveries that wait for their ack."""
IDLE_SECONDS: Final = 0.05
"""How long a consumer waits for octets before it looks whether the run is over."""
DRAIN_SECONDS: Final = 15.0
"""How long deliveries may lag behind the last publish; then the run counts what has come."""
READY_SECONDS: Final = 60.0
EVEN_OCTETS: Final = 8192
"""Of one block, where many sockets publish the same number of messages."""
EVEN_AHEAD: Final = 8
"""Blocks that one of them may be ahead of the slowest."""

T = TypeVar("T")


class LoadError(Exception):
    """A run that has no figure, and why."""


@dataclass(frozen=True)
class Limit:
    """A workload ends at whichever comes first."""

    count: int
    seconds: float


@dataclass(frozen=True)
class Published:
    """What a publisher did; times are of time.perf_counter, one clock for all processes."""

    count: int
    began: float
    ended: float


@dataclass(frozen=True)
class Consumed:
    """What a consumer got, and when the last of it came."""

    count: int
    ended: float


class Progress:
    """What the parent tells the consumers while they run, in memory they share."""

    def __init__(self) -> None:
        self._total = RawValue(ctypes.c_longlong, -1)
        self._give_up = RawValue(ctypes.c_double, float("inf"))

    def finish(self, total: int, drain_seconds: float = DRAIN_SECONDS) -> None:
        """No more than `total` deliveries will come to each connection."""
        self._give_up.value = time.perf_counter() + drain_seconds
        self._total.value = total

    @property
    def total(self) -> int:
        """Deliveries to expect, or -1 while nobody knows."""
        return int(self._total.value)

    @property
    def overdue(self) -> bool:
        """Time to count what has come."""
        return time.perf_counter() > float(self._give_up.value)


class Gate:
    """A role's side of the start: say ready, wait for all the others."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self.cpu_began = 0.0

    def wait(self) -> float:
        """Blocks until the parent starts the clock."""
        gc.collect()
        gc.disable()
        self._pipe.send(None)
        self._pipe.recv()
        self.cpu_began = time.process_time()
        return time.perf_counter()


class Role(Generic[T]):
    """One process of a run: `work` connects, waits at the gate, and returns a result."""

    def __init__(self, name: str, work: Callable[[Gate], T]) -> None:
        context = multiprocessing.get_context("fork")
        self.name = name
        self.cpu_seconds = 0.0
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_run_role, args=(work, theirs), name=name, daemon=True
        )
        self._process.start()
        theirs.close()

    def await_ready(self) -> None:
        """Returns when the role waits at the gate."""
        self._receive(READY_SECONDS)

    def go(self) -> None:
        """Opens the gate."""
        self._pipe.send(None)

    def finished(self, seconds: float) -> bool:
        """Whether the result is there, after waiting for it so long at most."""
        return self._pipe.poll(seconds)

    def result(self, timeout: float) -> T:
        """What `work` returned."""
        result, self.cpu_seconds = self._receive(timeout)
        self._process.join()
        answer: T = result
        return answer

    def stop(self) -> None:
        """Ends the process, whatever it does."""
        self._process.kill()
        self._process.join()

    def _receive(self, timeout: float) -> tuple[T, float]:
        if not self._pipe.poll(timeout):
            raise LoadError(f"the {self.name} did not finish in {timeout:.0f} s")
        try:
            received = self._pipe.recv()
        except EOFError:
            raise LoadError(f"the {self.name} ended without a result") from None
        if isinstance(received, LoadError):
            raise received
        answer: tuple[T, float] = received
        return answer


def _run_role(work: Callable[[Gate], T], pipe: Pipe) -> None:
    gate = Gate(pipe)
    try:
        result = work(gate)
    except BlockingIOError:
        pipe.send(LoadError(f"the broker was silent for {REPLY_SECONDS:.0f} s"))
    except (LoadError, wire.ProtocolError, OSError) as error:
        pipe.send(LoadError(f"{type(error).__name__}: {error}"))
    else:
        pipe.send((result, time.process_time() - gate.cpu_began))


@contextlib.contextmanager
def roles(*parts: Role[Any]) -> Iterator[None]:
    """Roles that end with the block, come what may."""
    try:
        yield
    finally:
        for part in parts:
            part.stop()


# --- publishers ------------------------------------------------------------------------------


def flood(sock: socket.socket, messages: Sequence[bytes], limit: Limit, began: float) -> Published:
    """Publish as fast as the broker reads, without confirms."""
    block, each = wire.block_of(messages)
    deadline, published = began + limit.seconds, 0
    while published < limit.count and time.perf_counter() < deadline:
        sock.sendall(block)
        published += each
    return Published(published, began, time.perf_counter())


def flood_evenly(
    socks: Sequence[socket.socket], messages: Sequence[bytes], limit: Limit, began: float
) -> Published:
    """Publish as fast as the broker reads, a message for each socket, the same number through all.

    None gets more than a few blocks ahead of the slowest, so that in the end there is little to
    level. The count is that of one socket.
    """
    blocks = [wire.block_of([message], EVEN_OCTETS) for message in messages]
    each = blocks[0][1]
    poll, outlets = select.epoll(), dict[int, Outlet]()
    for sock, (block, _) in zip(socks, blocks, strict=True):
        sock.setblocking(False)
        outlets[sock.fileno()] = Outlet(sock, memoryview(block))
        poll.register(sock.fileno(), select.EPOLLOUT)
    rounds, asleep = -(-limit.count // (each * len(socks))), set[int]()
    deadline, last = began + limit.seconds, rounds
    while outlets:
        slowest = min(outlet.rounds for outlet in outlets.values())
        if last == rounds and time.perf_counter() >= deadline:
            last = max(outlet.started for outlet in outlets.values())
        for number in [n for n in asleep if outlets[n].rounds < min(last, slowest + EVEN_AHEAD)]:
            asleep.remove(number)
            poll.modify(number, select.EPOLLOUT)
        ready = poll.poll(REPLY_SECONDS)
        if not ready:
            raise LoadError(f"the broker read nothing for {REPLY_SECONDS:.0f} s")
        for number, _ in ready:
            outlet = outlets[number]
            outlet.send()
            if outlet.rounds >= last:
                poll.unregister(number)
                del outlets[number]
            elif outlet.rounds >= slowest + EVEN_AHEAD:
                asleep.add(number)
                poll.modify(number, 0)
        # One that was asleep when the end was set has nothing left to send.
        for number in [n for n, outlet in outlets.items() if outlet.rounds >= last]:
            asleep.discard(number)
            poll.unregister(number)
            del outlets[number]
    return Published(last * each, began, time.perf_counter())


class Outlet:
    """One of many publishing sockets: whole blocks go out, in as many parts as it takes."""

    def __init__(self, sock: socket.socket, block: memoryview) -> None:
        self.sock = sock
        self.rounds = 0
        """Blocks that are out."""
        self._block = block
        self._at = 0

    @property
    def started(self) -> int:
        """Blocks that are out or begun: a message that was begun has to be finished."""
        return self.rounds + (self._at > 0)

    def send(self) -> None:
        """As much as the socket takes now, up to the end of a block."""
        try:
            self._at += self.sock.send(self._block[self._at :])
        except BlockingIOError:
            return
        if self._at == len(self._block):
            self._at = 0
            self.rounds += 1


def confirmed(
    sock: socket.socket, message: bytes, limit: Limit, began: float, window: int
) -> Published:
    """Publish with at most `window` unconfirmed; ends when the last one is confirmed.

    Who has one alone does not sleep while it waits (sockets).
    """
    receive = sockets.receive_awake if window == 1 else sockets.receive
    size, block = len(message), memoryview(message * window)
    confirms, published = wire.Confirms(), 0
    deadline = began + limit.seconds
    while True:
        if published < limit.count and time.perf_counter() < deadline:
            room = min(window - published + confirms.count, limit.count - published)
            sock.sendall(block[: room * size])
            published += room
        if confirms.count >= published:
            break
        confirms.receive(receive(sock))
    if confirms.nacked:
        raise LoadError(f"{confirms.nacked} publishes were nacked")
    return Published(published, began, time.perf_counter())


# --- consumers -------------------------------------------------------------------------------


class Inlet:
    """One consuming connection: octets in, a count out, acks back."""

    def __init__(self, sock: socket.socket, acks: bytes = b"", first: bytes = b"") -> None:
        make_hot(sock, IDLE_SECONDS)
        self.sock = sock
        self.octets = 0
        self.size = 0
        self.how = 0
        """Flags for recv: once the size is known, the kernel counts and does not copy."""
        self._acks = memoryview(acks)
        self._settled = 0
        self._head = bytearray()
        if first:
            self.received(memoryview(first))

    @property
    def count(self) -> int:
        """Whole deliveries so far."""
        return self.octets // self.size if self.size else 0

    def received(self, data: memoryview) -> None:
        """Count what came; answer what came whole."""
        self.octets += len(data)
        if not self.size:
            self._head += data
            self.size = wire.delivery_size(self._head) or 0
            if not self.size:
                return
            self._head.clear()
            self.how = socket.MSG_TRUNC
        if self._acks:
            whole = self.octets // self.size
            if whole > self._settled:
                at, end = self._settled * wire.SETTLE_SIZE, whole * wire.SETTLE_SIZE
                self.sock.sendall(self._acks[at:end])
                self._settled = whole


def consume(inlets: Sequence[Inlet], progress: Progress) -> Consumed:
    """Receive until every inlet has its total, or the parent's patience ends."""
    buffer = bytearray(RECEIVE_OCTETS)
    view, ended = memoryview(buffer), time.perf_counter()
    poll = select.epoll() if len(inlets) > 1 else None
    by_number = {inlet.sock.fileno(): inlet for inlet in inlets}
    if poll:
        for number in by_number:
            poll.register(number, select.EPOLLIN)
    ready: Sequence[Inlet] = inlets
    while True:
        if poll:
            ready = [by_number[number] for number, _ in poll.poll(IDLE_SECONDS)]
        for inlet in ready:
            try:
                octets = inlet.sock.recv_into(buffer, 0, inlet.how)
            except BlockingIOError:
                continue
            if not octets:
                raise LoadError("the broker closed the consumer's socket")
            inlet.received(view[:octets])
            ended = time.perf_counter()
        total = progress.total
        if total >= 0 and (progress.overdue or all(inlet.count >= total for inlet in inlets)):
            break
    for inlet in inlets:
        complete = inlet.count == total and inlet.octets == total * inlet.size
        if inlet.count >= total and not complete:
            raise LoadError(f"{inlet.octets} octets are not {total} deliveries of {inlet.size}")
    return Consumed(sum(inlet.count for inlet in inlets), ended)


def drained(connection: Connection, count: int, stage: int, began: float) -> list[float]:
    """Receive `count` deliveries of one size, acknowledging each: seconds of each stage of so many.

    Acks are made as they are needed: those of ten million deliveries would be 210 MB.
    """
    sock, size, settled = connection.sock, 0, 0
    make_hot(sock)
    head, buffer = bytearray(connection.received), bytearray(RECEIVE_OCTETS)
    octets = len(head)
    seconds: list[float] = []
    while settled < count:
        if not size:
            size = wire.delivery_size(head) or 0
        whole = octets // size if size else 0
        if whole > settled:
            sock.sendall(wire.acks(whole, first=settled + 1))
            while whole >= stage * (len(seconds) + 1):
                seconds.append(time.perf_counter() - began - sum(seconds))
            settled = whole
        else:
            got = sock.recv_into(buffer)
            if not got:
                raise LoadError("the broker closed the consumer's socket")
            octets += got
            if not size:
                head += buffer[:got]
    return seconds


# --- a run -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What came of one publisher and one consumer."""

    published: Published
    consumed: Consumed
    seconds: float
    """From the gate to the last delivery or confirm, whichever was later."""
    broker_cpu: float
    load_cpu: float
    expected: int

    @property
    def note(self) -> str:
        """Says so when the consumer was given up on."""
        if self.consumed.count == self.expected:
            return ""
        return f"incomplete: {self.consumed.count} of {self.expected} delivered in time"


def run(
    publisher: Role[Published],
    consumer: Role[Consumed],
    progress: Progress,
    pids: Sequence[int],
    inlets: int = 1,
) -> Run:
    """Start both at once, wait for both, and read the broker's CPU time around it."""
    parts: tuple[Role[Published] | Role[Consumed], ...] = (consumer, publisher)
    try:
        for part in parts:
            part.await_ready()
        cpu = process.cpu_seconds(pids)
        for part in parts:
            part.go()
        published = publisher.result(3 * REPLY_SECONDS)
        progress.finish(published.count)
        consumed = consumer.result(2 * DRAIN_SECONDS)
        cpu = process.cpu_seconds(pids) - cpu
    finally:
        for part in parts:
            part.stop()
    ended = max(published.ended, consumed.ended)
    load = publisher.cpu_seconds + consumer.cpu_seconds
    expected = published.count * inlets
    return Run(published, consumed, ended - published.began, cpu, load, expected)


def solo(part: Role[T], pids: Sequence[int], timeout: float) -> tuple[T, float]:
    """A role that runs alone: its result and the broker's CPU seconds meanwhile."""
    try:
        part.await_ready()
        cpu = process.cpu_seconds(pids)
        part.go()
        result = part.result(timeout)
        return result, process.cpu_seconds(pids) - cpu
    finally:
        part.stop()


def beside(other: Role[Any], part: Role[T], timeout: float) -> T:
    """The result of a role that has another one to talk to, which ends with it."""
    parts = other, part
    with roles(*parts):
        for each in parts:
            each.await_ready()
            each.go()
        return part.result(timeout)


def open_inlets(
    address: Address, queues: Sequence[str], *, acks: bytes = b"", prefetch: int = 0
) -> list[Inlet]:
    """A consuming connection for each queue."""
    inlets = []
    for queue in queues:
        connection = Connection(address)
        connection.consume(queue, no_ack=not acks, prefetch=prefetch)
        inlets.append(Inlet(connection.sock, acks, bytes(connection.received)))
    return inlets
