"""Scenario: what the disk and the sockets leave of one message in flight, whoever keeps it.

A flush takes as long as it takes, and who waits for it behind a socket is a process that has to be
woken. So the same is done without a broker: a process of a few lines takes 1 KB from a socket,
writes, flushes and answers with an ack. What it does not reach, no broker does on this machine.

Two ways of writing, since they differ: at the end of a file that grows, which is how the goal's
flushes are counted, and over what is there already, two pages at a time, which is what SQLite's log
does once it has its length.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Final

from tests.bench import load, wire
from tests.bench.load import Gate, Limit, Role
from tests.bench.report import Figure
from tests.bench.site import Site
from tests.bench.sockets import joined, make_hot

SECONDS: Final = 4.0
BODY: Final = b"x" * 1024
PAGES: Final = b"x" * 8192
LENGTH: Final = 512 * len(PAGES)
"""Of the file that is written over."""

Flush = Callable[[], None]


def flushes(site: Site) -> Iterator[Figure]:
    """A second has so many, and so many answers that wait for one each."""
    limit = Limit(10**9, site.seconds or SECONDS)
    with tempfile.TemporaryFile(dir=site.home, buffering=0) as file:
        number = file.fileno()
        for name, make in (("1 KB appended", appending), ("8 KB written over", overwriting)):
            flush = make(number)
            yield Figure(f"{name} and flushed", alone(flush, limit), "/s")
            answered = behind_a_socket(flush, limit)
            rate = answered.count / (answered.ended - answered.began)
            yield Figure(f"{name}, flushed and answered, no broker", rate, "msg/s")


def appending(number: int) -> Flush:
    """At the end of a file, by its descriptor."""

    def flush() -> None:
        os.write(number, BODY)
        os.fdatasync(number)

    return flush


def overwriting(number: int) -> Flush:
    """From the beginning to LENGTH, again and again."""
    os.pwrite(number, b"x" * LENGTH, 0)
    os.fsync(number)
    places = itertools.cycle(range(0, LENGTH, len(PAGES)))

    def flush() -> None:
        os.pwrite(number, PAGES, next(places))
        os.fdatasync(number)

    return flush


def alone(flush: Flush, limit: Limit) -> float:
    """Flushes a second, one after the other."""
    began, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - began) < limit.seconds:
        flush()
        count += 1
    return count / seconds


def behind_a_socket(flush: Flush, limit: Limit) -> load.Published:
    """A publisher with one message in flight, and who keeps it."""
    message = wire.publish("", "q", BODY, wire.PERSISTENT)
    with joined() as (publisher, keeper):

        def keep(gate: Gate) -> None:
            gate.wait()
            make_hot(keeper)
            for number in itertools.count(1):
                left = len(message)
                while left:
                    data = keeper.recv(left)
                    if not data:
                        return
                    left -= len(data)
                flush()
                keeper.sendall(wire.acks(number, first=number))

        def publish(gate: Gate) -> load.Published:
            began = gate.wait()
            make_hot(publisher)
            return load.confirmed(publisher, message, limit, began, 1)

        patience = limit.seconds + load.DRAIN_SECONDS
        return load.beside(Role("keeper", keep), Role("publisher", publish), patience)
