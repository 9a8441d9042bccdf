"""All dynamic shovels of a broker: the component `shovel` of its runtime parameters.

    broker.parameters.register(shovels)        before recovery: parameters make shovels
    await shovels.run(surroundings)            they move messages from then on
    shovel_statuses(broker, "/")               what /api/shovels tells

Setting a parameter again restarts its shovel with the new definition; clearing it ends the shovel,
whether it ever connected or not.
"""

from __future__ import annotations

import logging
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import anyio
from anyio.abc import TaskGroup

from amqpd.links.runner import ShovelKeeper, Surroundings
from amqpd.links.shovel_definition import (
    COMPONENT,
    ShovelDefinition,
    check_definition,
    read_definition,
)

if TYPE_CHECKING:
    from amqpd.broker.broker import Broker

logger = logging.getLogger("amqpd.shovel")


class _Entry:
    """A shovel, and what it takes to end it."""

    def __init__(self, keeper: ShovelKeeper) -> None:
        self.keeper = keeper
        self.scope: anyio.CancelScope | None = None
        self.done: anyio.Event | None = None
        """Set when its last word is said; None if it never ran."""


class Shovels:
    """The shovels that there are to be, and those that run."""

    name = COMPONENT

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._surroundings: Surroundings | None = None
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._tasks: TaskGroup | None = None

    # -- as amqpd.broker.parameters.Component

    def check(self, name: str, value: Any) -> list[str]:
        """What is wrong with a shovel."""
        return check_definition(name, value)

    def changed(self, vhost: str, name: str, value: Any, by: str) -> None:
        """A shovel is wanted, or wanted otherwise."""
        key = (vhost, name)
        previous = self._stop(key)
        self._put(key, read_definition(value), previous)

    def cleared(self, vhost: str, name: str, by: str) -> None:
        """It is not wanted any more."""
        self._stop((vhost, name))

    # -- for those who administer a broker

    def restart(self, vhost: str, name: str) -> None:
        """End a shovel and begin anew. Raises LookupError."""
        entry = self._entries.get((vhost, name))
        if entry is None:
            raise LookupError(f"no shovel '{name}' in vhost '{vhost}'")
        definition = entry.keeper.definition
        previous = self._stop((vhost, name))
        self._put((vhost, name), definition, previous)

    def statuses(self, vhost: str | None = None) -> list[dict[str, Any]]:
        """Of the shovels of a virtual host, or of all: what /api/shovels tells."""
        node = self._broker.node
        return [
            _status(entry.keeper, node)
            for (home, _), entry in self._entries.items()
            if vhost is None or home == vhost
        ]

    # -- running

    async def run(self, surroundings: Surroundings) -> None:
        """Keep the shovels going until cancelled."""
        self._surroundings = surroundings
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                for entry in self._entries.values():
                    self._start(entry, None)
                await anyio.sleep(math.inf)
        finally:
            self._tasks = None

    def _put(
        self, key: tuple[str, str], definition: ShovelDefinition, previous: _Entry | None
    ) -> None:
        entry = _Entry(ShovelKeeper(*key, definition, self._epoch_s))
        self._entries[key] = entry
        self._start(entry, previous)

    def _epoch_s(self) -> float:
        return self._broker.effects.epoch_ms() / 1000

    def _start(self, entry: _Entry, previous: _Entry | None) -> None:
        if self._tasks is not None:
            entry.scope = anyio.CancelScope()
            entry.done = anyio.Event()
            self._tasks.start_soon(self._keep, entry, previous)

    def _stop(self, key: tuple[str, str]) -> _Entry | None:
        entry = self._entries.pop(key, None)
        if entry is not None and entry.scope is not None:
            entry.scope.cancel()
        return entry

    async def _keep(self, entry: _Entry, previous: _Entry | None) -> None:
        assert entry.scope is not None
        assert entry.done is not None
        assert self._surroundings is not None
        finished = False
        try:
            # The same messages are not to be held by two.
            if previous is not None and previous.done is not None:
                with anyio.CancelScope(shield=True):
                    await previous.done.wait()
            with entry.scope:
                finished = await entry.keeper.run(self._surroundings)
        except Exception:
            # A bug of ours: it ends this shovel, and nothing else.
            logger.exception("internal error", extra={"shovel": entry.keeper.name})
            entry.keeper.fail("internal error: see the log")
        finally:
            entry.done.set()
        keeper = entry.keeper
        if finished and self._entries.get((keeper.vhost, keeper.name)) is entry:
            logger.info(
                "shovel finished: deleted", extra={"shovel": keeper.name, "vhost": keeper.vhost}
            )
            self._broker.parameters.clear(keeper.vhost, COMPONENT, keeper.name)
            self._surroundings.finish_turn()


def shovel_statuses(broker: Broker, vhost: str | None = None) -> list[dict[str, Any]]:
    """What /api/shovels tells: of one virtual host, or of all."""
    if not broker.parameters.has(COMPONENT):
        return []
    return cast(Shovels, broker.parameters.component(COMPONENT)).statuses(vhost)


def restart_shovel(broker: Broker, vhost: str, name: str) -> None:
    """End a shovel and begin anew. Raises LookupError."""
    cast(Shovels, broker.parameters.component(COMPONENT)).restart(vhost, name)


def _status(keeper: ShovelKeeper, node: str) -> dict[str, Any]:
    definition, shovel = keeper.definition, keeper.shovel
    state = keeper.told_state
    status: dict[str, Any] = {
        "node": node,
        "timestamp": _shown_time(keeper.changed_epoch_s),
        "name": keeper.name,
        "vhost": keeper.vhost,
        "type": "dynamic",
        "state": state,
        "src_uri": keeper.src_uri.shown,
        "src_protocol": definition.src_protocol,
        "dest_uri": keeper.dest_uri.shown,
        "dest_protocol": definition.dest_protocol,
    }
    fields = {**definition.source_fields, **definition.destination_fields}
    status |= {name.replace("-", "_"): value for name, value in fields.items()}
    if keeper.state == "terminated":
        status["reason"] = keeper.reason
    if shovel is not None:
        endless = "unlimited"
        status |= {
            "remaining": endless if shovel.remaining is None else shovel.remaining,
            "remaining_unacked": shovel.unconfirmed,
            "pending": shovel.pending,
            "forwarded": shovel.forwarded,
            "blocked_status": "blocked" if shovel.blocked else "running",
        }
    return status


def _shown_time(epoch_s: float) -> str:
    """`2026-11-21 4:05:09`, as RabbitMQ writes it: the hour without a zero in front."""
    time = datetime.fromtimestamp(epoch_s, UTC)
    return f"{time:%Y-%m-%d} {time.hour}:{time:%M:%S}"
