"""One connection out of several addresses: the first to answer (RFC 8305)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import anyio
from anyio.abc import ByteStream

STAGGER_S: Final = 0.25
"""So long an address is tried alone, as in `anyio.connect_tcp`."""


async def first_to_connect(
    addresses: Sequence[str], connect: Callable[[str], Awaitable[ByteStream]]
) -> ByteStream:
    """Try each in its turn, a moment after the one before, or at once when that failed. Raises
    OSError when all have failed, with their reasons."""
    connected: list[ByteStream] = []
    failures: list[OSError] = []

    async def attempt(address: str, over: anyio.Event) -> None:
        try:
            stream = await connect(address)
        except OSError as error:
            failures.append(error)
        else:
            if connected:  # two have answered in the same moment
                await anyio.aclose_forcefully(stream)
            else:
                connected.append(stream)
                tasks.cancel_scope.cancel()
        finally:
            over.set()

    try:
        async with anyio.create_task_group() as tasks:
            for address in addresses:
                over = anyio.Event()
                tasks.start_soon(attempt, address, over)
                with anyio.move_on_after(STAGGER_S):
                    await over.wait()
    except BaseException:
        for stream in connected:
            await anyio.aclose_forcefully(stream)
        raise
    if connected:
        return connected[0]
    raise OSError("; ".join(dict.fromkeys(map(_reason, failures))))


def _reason(failure: OSError) -> str:
    """anyio says of each attempt that all have failed: why is in the cause."""
    cause = failure.__cause__ or failure
    return getattr(cause, "strerror", None) or str(cause)
