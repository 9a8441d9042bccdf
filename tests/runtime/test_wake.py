"""Waiting for something to do, or for a time."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from amqpd.runtime.wake import Wake


def test_what_was_said_before_is_not_waited_for_and_counts_once() -> None:
    async def scene() -> None:
        wake = Wake()
        wake.set()
        wake.set()
        assert await wake.wait(None)
        assert not await wake.wait(0.0)

    asyncio.run(scene())


def test_whoever_waits_is_woken() -> None:
    async def scene() -> None:
        wake = Wake()
        loop = asyncio.get_running_loop()
        for patience_s in (None, 3600.0):
            loop.call_soon(wake.set)
            loop.call_soon(wake.set)
            assert await wake.wait(patience_s)
            assert not await wake.wait(0.0)

    asyncio.run(scene())


def test_one_that_is_cancelled_leaves_it_as_it_was() -> None:
    async def scene() -> None:
        wake = Wake()
        with anyio.move_on_after(0) as scope:
            await wake.wait(None)
        assert scope.cancelled_caught
        wake.set()
        assert await wake.wait(None)

    asyncio.run(scene())


@pytest.mark.parametrize("backend", ["asyncio", "uvloop"])
def test_time_is_up_with_nothing_to_do(backend: str) -> None:
    async def scene() -> None:
        assert not await Wake().wait(0.001)

    anyio.run(scene, backend_options={"use_uvloop": backend == "uvloop"})
