"""Blocking calls in threads: who shares one, how many there are, and what happens to those left."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from threading import Event, Thread, current_thread

import anyio
import anyio.lowlevel
import pytest

from amqpd.links.shared_threads import SharedThreads
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.anyio


class Slow:
    """A call that returns when it may, and remembers the threads that are in it."""

    def __init__(self) -> None:
        self.may_end = Event()
        self.threads: list[Thread] = []

    def __call__(self) -> str:
        self.threads.append(current_thread())
        self.may_end.wait()
        return "done"

    async def entered(self, count: int) -> None:
        await until(lambda: len(self.threads) >= count)


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(PATIENCE_S):
        while not condition():
            await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def slow_call() -> AsyncIterator[Slow]:
    """Nothing of it is left running."""
    slow = Slow()
    try:
        yield slow
    finally:
        slow.may_end.set()
        for thread in slow.threads:
            thread.join()


async def test_one_call_serves_all_who_want_the_same() -> None:
    threads, got = SharedThreads[str]("calls"), list[str]()

    async def want() -> None:
        got.append(await threads.result("a", slow))

    async with slow_call() as slow, anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(want)
        await slow.entered(1)
        slow.may_end.set()
    assert got == ["done"] * 100
    assert len(slow.threads) == 1
    assert slow.threads[0].daemon, "a process would wait for it at its end"


async def test_who_gives_up_and_comes_again_finds_the_same_call() -> None:
    threads = SharedThreads[str]("calls")
    async with slow_call() as slow:
        for _ in range(50):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await threads.result("a", slow)
        slow.may_end.set()
        assert await threads.result("a", slow) == "done"
        assert len(slow.threads) == 1


async def test_a_failure_is_for_all_who_wait_and_not_for_those_who_come_later() -> None:
    threads, failures = SharedThreads[str]("calls"), list[str]()

    def fail() -> str:
        slow()
        raise LookupError("nothing there")

    async def want() -> None:
        with pytest.raises(LookupError, match="nothing there"):
            await threads.result("a", fail)
        failures.append("failed")

    async with slow_call() as slow:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(want)
            await slow.entered(1)
            slow.may_end.set()
        assert len(failures) == 3
        assert await threads.result("a", lambda: "there now") == "there now"


async def test_too_many_calls_are_refused_until_one_has_ended() -> None:
    threads = SharedThreads[str]("calls", threads_max=3, patience_s=0)
    async with slow_call() as slow:
        async with anyio.create_task_group() as tasks:
            for key in range(3):
                tasks.start_soon(threads.result, key, slow)
            await slow.entered(3)
            with pytest.raises(OSError, match="calls: 3 have not ended"):
                await threads.result("one more", slow)
            slow.may_end.set()
        assert await threads.result("one more", slow) == "done"


async def test_many_that_begin_at_once_have_patience_with_each_other() -> None:
    threads, got = SharedThreads[int]("calls", threads_max=3, patience_s=PATIENCE_S), list[int]()

    async def want(number: int) -> None:
        got.append(await threads.result(number, lambda: number))

    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(want, number)
    assert sorted(got) == list(range(100))


async def test_a_system_without_threads_to_spare_is_a_failure_like_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads = SharedThreads[str]("calls")
    with monkeypatch.context() as patched:
        patched.setattr(Thread, "start", refuse)
        with pytest.raises(OSError, match="calls: can't start new thread"):
            await threads.result("a", lambda: "done")
    assert await threads.result("a", lambda: "done") == "done"
