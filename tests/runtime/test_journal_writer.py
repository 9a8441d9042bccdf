"""The journal's writer against a disk that is full or fails for a while, or for good."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio.lowlevel import checkpoint

from amqpd.broker.broker import Broker
from amqpd.config import Config
from amqpd.runtime.backoff import Backoff
from amqpd.runtime.commit_metrics import Histogram
from amqpd.runtime.journal_writer import JournalWriter
from amqpd_storage.entries import (
    POSITION_MAX,
    Barrier,
    Delivered,
    PutDefinition,
    Settle,
    storage_key,
)
from amqpd_storage.errors import DamagedStore, JournalFailed, StoreError
from amqpd_storage.journal import ENTRY_OVERHEAD_BYTES, Batch


class Disk:
    """A store that fails as often as it is told to."""

    def __init__(self, *failures: StoreError) -> None:
        self.failures = list(failures)
        self.tidying: list[JournalFailed] = []
        self.tidied = anyio.Event()
        self.attempts: list[Batch] = []
        self.attempted = anyio.Event()
        self.written: list[Batch] = []
        self.under_way = False
        self.meanwhile: Callable[[], Awaitable[None]] = checkpoint
        """What is to happen while it tidies up."""

    def start_write(self, batch: Batch, done: Callable[[BaseException | None], None]) -> None:
        self.attempts.append(batch)
        self.attempted.set()
        self.under_way = True
        asyncio.get_running_loop().call_soon(self.finish_write, batch, done)

    def finish_write(self, batch: Batch, done: Callable[[BaseException | None], None]) -> None:
        self.under_way = False
        if self.failures:
            done(self.failures.pop(0))
        else:
            self.written.append(batch)
            done(None)

    async def tidy(self) -> bool:
        if self.tidying:
            raise self.tidying.pop(0)
        await self.meanwhile()
        self.tidied.set()
        return False


class Stage:
    """A writer with what it talks to."""

    def __init__(
        self,
        disk: Disk,
        retry_s: float = 0.0,
        retry_max_s: float = 0.0,
        unawaited_every_s: float = 0.0,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.disk = disk
        self.troubles: list[str | None] = []
        self.in_trouble = anyio.Event()
        self.turns = 0
        self.busy: list[bool] = []
        """Whether the writer was, at the end of each turn."""
        self.fault: Exception | None = None
        self.broker = Broker(Config(), journaling=True, entropy=bytes)
        self.writer = JournalWriter(
            self.broker,
            disk,
            finish_turn=self.finish_turn,
            on_trouble=self.on_trouble,
            bytes_max=1000,
            retry_s=retry_s,
            retry_max_s=retry_max_s,
            unawaited_every_s=unawaited_every_s,
            clock=clock,
        )

    def finish_turn(self) -> None:
        self.turns += 1
        self.busy.append(self.writer.busy)
        if self.fault is not None:
            raise self.fault

    def on_trouble(self, error: JournalFailed | None) -> None:
        self.troubles.append(None if error is None else error.reason)
        if error is not None:
            self.in_trouble.set()

    def append(self, *names: str) -> None:
        self.writer.append([PutDefinition("vhost", name, b"{}") for name in names])

    def settle(self, position: int) -> None:
        """A consumer has acknowledged a message: nobody waits for that."""
        self.writer.append([Settle(storage_key(1, position), 0)])

    @property
    def settled(self) -> list[list[int]]:
        """Positions, batch by batch."""
        return [
            [entry.key & POSITION_MAX for entry in batch.entries if isinstance(entry, Settle)]
            for batch in self.disk.written
        ]

    async def turns_of_the_loop(self) -> None:
        """So many that whatever is to be written at once is written."""
        for _ in range(10):
            await checkpoint()

    @property
    def written(self) -> list[list[str]]:
        return [
            [entry.key for entry in batch.entries if isinstance(entry, PutDefinition)]
            for batch in self.disk.written
        ]


def full() -> JournalFailed:
    return JournalFailed(None, "full", disk_full=True)


def failing() -> JournalFailed:
    return JournalFailed(None, "I/O error", passing=True)


def broken() -> JournalFailed:
    return JournalFailed(None, "it has lost something")


def play(scene: Callable[[], Awaitable[None]]) -> None:
    anyio.run(scene)


def test_a_full_disk_is_waited_for_and_the_same_batch_is_written() -> None:
    stage = Stage(Disk(full(), full()))

    async def scene() -> None:
        stage.append("a", "b")
        await stage.writer.flush()

    play(scene)
    assert stage.written == [["a", "b"]]
    assert stage.disk.attempts == [stage.disk.written[0]] * 3
    assert stage.troubles == ["full", "full", None]


def test_a_disk_that_fails_is_waited_for_and_asked_what_became_of_the_same_batch() -> None:
    stage = Stage(Disk(failing(), full(), failing()))

    async def scene() -> None:
        stage.append("a", "b")
        await stage.writer.flush()

    play(scene)
    assert stage.written == [["a", "b"]]
    assert stage.disk.attempts == [stage.disk.written[0]] * 4
    assert stage.troubles == ["I/O error", "full", "I/O error", None]
    assert stage.writer.metrics.retries == 3


def test_a_disk_that_fails_is_tried_more_and_more_seldom_until_it_is_well() -> None:
    backoff = Backoff(1.0, 6.0)
    assert [backoff.pause_s() for _ in range(5)] == [1.0, 2.0, 4.0, 6.0, 6.0]
    backoff.succeeded()
    assert backoff.pause_s() == 1.0


@pytest.mark.parametrize("failure", [full(), failing()])
def test_what_comes_in_meanwhile_waits_its_turn(failure: JournalFailed) -> None:
    stage = Stage(Disk(failure), retry_s=0.001)

    async def scene() -> None:
        async with anyio.create_task_group() as tasks:
            stage.append("first")
            tasks.start_soon(stage.writer.flush)
            await stage.disk.attempted.wait()
            stage.append("second")
            stage.append("third")
        await stage.writer.flush()

    play(scene)
    assert stage.written == [["first"], ["second", "third"]]


@pytest.mark.parametrize("failures", [(full(), full()), (failing(), failing())])
def test_a_disk_still_ill_when_the_broker_stops_is_not_waited_for(
    failures: tuple[JournalFailed, ...],
) -> None:
    stage = Stage(Disk(*failures), retry_s=3600)

    async def scene() -> None:
        async with anyio.create_task_group() as tasks:
            stage.append("never")
            tasks.start_soon(stage.writer.run)
            await stage.in_trouble.wait()
            tasks.cancel_scope.cancel()
        with pytest.raises(JournalFailed):
            await stage.writer.settle()

    play(scene)
    assert stage.written == []
    assert stage.turns == 0


def test_a_disk_that_has_room_when_the_broker_stops_gets_the_rest() -> None:
    stage = Stage(Disk(full()), retry_s=3600)

    async def scene() -> None:
        async with anyio.create_task_group() as tasks:
            stage.append("late")
            tasks.start_soon(stage.writer.run)
            await stage.in_trouble.wait()
            stage.append("later")
            tasks.cancel_scope.cancel()
        await stage.writer.settle()

    play(scene)
    assert stage.written == [["late"], ["later"]]


@pytest.mark.parametrize("failure", [broken(), DamagedStore(None, "malformed")])
def test_any_other_failure_is_final(failure: StoreError) -> None:
    stage = Stage(Disk(failure))

    async def scene() -> None:
        stage.append("lost")
        with pytest.raises(type(failure)):
            await stage.writer.flush()
        await stage.writer.settle()

    play(scene)
    assert stage.written == []
    assert len(stage.disk.attempts) == 1
    assert stage.turns == 0


def test_a_failure_to_tidy_up_may_be_final_too() -> None:
    disk = Disk()
    disk.tidying = [broken()]
    stage = Stage(disk)

    async def scene() -> None:
        stage.append("a")
        with pytest.raises(JournalFailed, match="it has lost something"):
            await stage.writer.run()
        stage.append("b")
        await stage.writer.settle()

    play(scene)
    assert stage.written == [["a"]]


def test_a_disk_that_fails_to_tidy_up_is_tried_again_though_nobody_writes() -> None:
    disk = Disk()
    disk.tidying = [failing(), failing()]
    stage = Stage(disk)

    async def scene() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stage.writer.run)
            await disk.tidied.wait()
            tasks.cancel_scope.cancel()

    play(scene)
    assert stage.troubles == ["I/O error", "I/O error", None]


def test_what_comes_in_one_turn_of_the_loop_is_one_batch() -> None:
    stage = Stage(Disk())

    async def scene() -> None:
        stage.append("a")
        stage.append("b")
        await stage.disk.attempted.wait()
        stage.append("c")
        stage.append("d")
        await stage.writer.flush()

    play(scene)
    assert stage.written == [["a", "b"], ["c", "d"]]


def test_nothing_is_written_while_somebody_tidies_up() -> None:
    stage = Stage(Disk())

    async def meanwhile() -> None:
        stage.append("a")
        await asyncio.sleep(0.001)
        assert stage.disk.attempts == []

    stage.disk.meanwhile = meanwhile

    async def scene() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stage.writer.run)
            await stage.disk.tidied.wait()
            await stage.writer.flush()
            tasks.cancel_scope.cancel()

    play(scene)
    assert stage.written == [["a"]]


def test_who_tidies_up_waits_for_the_batch_under_way_and_for_none_behind_it() -> None:
    """With a disk that never rests: a step each second all the same."""
    now = [0.0]
    stage = Stage(Disk(), clock=lambda: now[0])
    written: list[int] = []

    async def meanwhile() -> None:
        assert not stage.disk.under_way
        written.append(len(stage.disk.written))

    stage.disk.meanwhile = meanwhile

    async def scene() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stage.writer.run)
            while not written:
                stage.append("a")
                await asyncio.sleep(0)
                now[0] += 0.01
            tasks.cancel_scope.cancel()
        await stage.writer.settle()

    play(scene)
    assert written[0] > 1


def test_a_failure_while_somebody_waits_to_tidy_up_ends_the_writer() -> None:
    stage = Stage(Disk(failing(), broken()), retry_s=0.1, retry_max_s=0.1)

    async def scene() -> None:
        stage.append("a")
        with pytest.raises(JournalFailed, match="it has lost something"):
            await stage.writer.run()

    play(scene)
    assert len(stage.disk.attempts) == 2
    assert not stage.disk.tidied.is_set()


def test_a_fault_of_the_broker_ends_the_writer() -> None:
    stage = Stage(Disk())

    async def scene() -> None:
        stage.fault = ZeroDivisionError()
        stage.append("a")
        with pytest.raises(ZeroDivisionError):
            await stage.writer.run()
        stage.append("b")
        await stage.writer.settle()

    play(scene)
    assert stage.written == [["a"]]


def test_what_nobody_waits_for_goes_at_once_but_not_batch_after_batch() -> None:
    stage = Stage(Disk(), unawaited_every_s=3600)

    async def scene() -> None:
        stage.settle(1)
        await stage.turns_of_the_loop()
        assert stage.settled == [[1]]
        stage.settle(2)
        stage.writer.append([Delivered(1, 4)])
        await stage.turns_of_the_loop()
        stage.settle(3)
        await stage.turns_of_the_loop()
        assert stage.settled == [[1]]
        assert not stage.writer.busy
        await stage.writer.flush()
        assert stage.settled == [[1], [2, 3]]

    play(scene)


def test_what_nobody_waits_for_is_written_when_its_time_has_come() -> None:
    stage = Stage(Disk(), unawaited_every_s=0.001)

    async def scene() -> None:
        stage.settle(1)
        await stage.turns_of_the_loop()
        stage.disk.attempted = anyio.Event()
        stage.settle(2)
        stage.settle(3)
        await stage.disk.attempted.wait()
        await stage.turns_of_the_loop()
        assert stage.settled == [[1], [2, 3]]

    play(scene)


def test_it_goes_with_what_somebody_waits_for_and_the_next_of_it_at_once() -> None:
    stage = Stage(Disk(), unawaited_every_s=3600)

    async def scene() -> None:
        stage.settle(1)
        await stage.turns_of_the_loop()
        stage.settle(2)
        assert not stage.writer.busy
        stage.append("a")
        assert stage.writer.busy
        await stage.turns_of_the_loop()
        assert (stage.settled, stage.written) == ([[1], [2]], [[], ["a"]])
        stage.settle(3)
        await stage.turns_of_the_loop()
        assert stage.settled == [[1], [2], [3]]

    play(scene)


@pytest.mark.parametrize("written", [True, False], ids=["later", "meanwhile"])
def test_who_stops_the_broker_does_not_wait_for_the_time_to_come(written: bool) -> None:
    disk = Disk()
    stage = Stage(disk, unawaited_every_s=3600)

    async def scene() -> None:
        stage.settle(1)
        await checkpoint()
        assert disk.under_way
        stage.settle(2)
        if written:
            await stage.turns_of_the_loop()
            assert stage.settled == [[1]]
        await stage.writer.settle()
        assert stage.settled == [[1], [2]]

    play(scene)


def test_once_all_is_written_it_is_not_busy() -> None:
    stage = Stage(Disk())

    async def scene() -> None:
        stage.append("a")
        assert stage.writer.busy
        await stage.writer.flush()

    play(scene)
    assert stage.busy == [False], "the turn that the commit ends has nothing to wait for"


def test_it_is_full_while_more_than_the_limit_is_unwritten() -> None:
    stage = Stage(Disk())

    async def scene() -> None:
        stage.append(*(f"vhost {number}" for number in range(20)))
        assert stage.writer.full
        await stage.writer.flush()
        assert not stage.writer.full

    play(scene)


def test_commits_are_counted_and_timed() -> None:
    moments = iter([10.0, 10.004, 20.0, 20.3])
    stage = Stage(Disk(full()), clock=lambda: next(moments, 30.0))

    async def scene() -> None:
        stage.append("a", "b")
        assert stage.writer.waiting == (2, 2 * ENTRY_OVERHEAD_BYTES + 4)
        await stage.writer.flush()
        stage.append("c")
        await stage.writer.flush()

    play(scene)
    assert stage.writer.waiting == (0, 0)
    metrics = stage.writer.metrics
    assert (metrics.seconds.count, metrics.entries.sum, metrics.retries) == (2, 3, 1)
    assert metrics.bytes.sum == 3 * ENTRY_OVERHEAD_BYTES + 6
    assert metrics.waiting_bytes_max == 2 * ENTRY_OVERHEAD_BYTES + 4
    assert metrics.summary()["entries_p50"] == 1


class SlowDisk(Disk):
    """Takes its time, by a clock of its own, and says how that looks to who asks meanwhile."""

    def __init__(self, *seconds: float) -> None:
        super().__init__()
        self.now = 10.0
        self.seconds = list(seconds)
        self.ask: Callable[[], float] = lambda: 0.0
        self.told: list[float] = []

    def start_write(self, batch: Batch, done: Callable[[BaseException | None], None]) -> None:
        super().start_write(batch, done)
        self.now += self.seconds.pop(0)
        self.told.append(self.ask())


def test_a_commit_is_slow_while_it_takes_long_and_the_next_one_until_it_took_less() -> None:
    disk = SlowDisk(0.5, 3.0, 0.5, 0.5)
    stage = Stage(disk, clock=lambda: disk.now)
    disk.ask = lambda: stage.writer.slow_for(2.0)

    async def scene() -> None:
        while disk.seconds:
            stage.append("a")
            await stage.writer.flush()
            assert not disk.ask(), "nothing is being written"

    play(scene)
    assert disk.told == [0.0, 3.0, 3.0, 0.0]


def test_a_batch_of_which_nothing_is_left_is_no_commit() -> None:
    stage = Stage(Disk())

    async def scene() -> None:
        barrier = Barrier()
        stage.broker.effects.barriers[barrier] = None
        stage.writer.append([barrier])
        await stage.writer.flush()

    play(scene)
    assert (stage.writer.metrics.elided, stage.writer.metrics.seconds.count) == (1, 0)


def test_a_histogram_counts_up_to_each_bound() -> None:
    histogram = Histogram((1, 10, 100))
    for value in (0, 1, 2, 10, 11, 1000):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1, 1]
    assert (histogram.count, histogram.sum) == (6, 1024)
    assert histogram.quantile(0.5) == 10
    assert histogram.quantile(0.99) == math.inf
