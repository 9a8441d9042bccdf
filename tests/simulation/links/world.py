"""One seed's network: several brokers on simulated disks, links between them, and trouble.

    publishers ──> broker ══link══> broker ══link══> broker ──> who counts what arrives
                     │                │                │
                   disk             disk             disk       power cuts, of one or of all at once
            wires: cut at any octet, silent, slow; logins refused; alarms; policies changed; away

Links are federation of exchanges or queues, or shovels, over a chain, a ring, a full mesh, or two
brokers. A phase begins when all links run, publishes amid trouble, and ends in calm. Then

- what was confirmed to its publisher has arrived wherever it should, at least once, if all links
  acknowledge on-confirm; and in any case nothing came from nowhere, or farther than max-hops;
- what was published where nothing broke has arrived exactly once, in order over one way;
- a link never had more messages in memory than its prefetch lets it;
- no message is still going round.

Before a later phase a broker may have been restarted empty. The same seed is the same network, down
to the last octet: `World.digest` says so.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from random import Random
from typing import Any, Final, NamedTuple
from unittest.mock import patch
from zlib import crc32

import anyio
from anyio.abc import TaskGroup

from amqpd.broker.alarms import Alarm
from amqpd.broker.policies import set_policy
from amqpd.commands import Exchange, Queue
from amqpd.links.federation import FederationKeeper
from amqpd.links.keeper import Keeper
from amqpd.links.queue_link import QueueLink
from tests.conversation import method
from tests.simulation.links.machine import LINK_USER, PASSWORD, Machine, Process
from tests.simulation.links.mutations import Bug
from tests.simulation.links.plan import Plan, make_plan
from tests.simulation.links.users import Consumer, Publisher, User
from tests.simulation.links.virtual_time import VirtualTimeLoop, ordered_scopes
from tests.simulation.links.wire import Wire
from tests.simulation.parts import require

LOGS: Final = ("amqpd.federation", "amqpd.shovel", "amqpd.connection")
PATIENCE_S: Final = 3000.0
"""Virtual seconds of calm after which everything has arrived, or never will."""
POLL_S: Final = 5.0
QUIET_S: Final = 60.0
"""With nothing to say, after which nobody will say anything any more."""
AN_HOUR_S: Final = 3600.0
BODY_SIZES: Final = (0, 10, 100, 1000, 9000)
STEPS: Final = 60
"""Of a phase: what publishers, consumers and trouble do one after the other."""
COUNTED: Final = ("power_cuts", "kills", "cuts", "alarms", "logins", "policies", "wipes", "phases")


class Figures(NamedTuple):
    """What was simulated."""

    seconds: float
    brokers: int
    phases: int
    power_cuts: int
    kills: int
    cuts: int
    alarms: int
    logins: int
    policies: int
    wipes: int
    confirmed: int
    arrived: int

    def summary(self, seeds: int, elapsed_s: float) -> str:
        """One line."""
        return (
            f"{elapsed_s:.0f} s: {seeds} networks of {self.brokers} brokers, {self.phases} phases:"
            f" {self.cuts} connections cut, {self.power_cuts} power cuts, {self.kills} kills,"
            f" {self.wipes} restarted empty, {self.alarms} alarms, {self.logins} logins refused,"
            f" {self.policies} policies changed; {self.confirmed} confirms,"
            f" {self.arrived} arrivals; {self.seconds / 3600:.1f} simulated hours"
        )


class LogOfBugs(logging.Handler):
    """What a broker only logs, and is a mistake of ours all the same."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        """An internal error."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, Exception):
            self._world.fail(error)


class World:
    """Everything under one seed."""

    def __init__(self, seed: int, bug: Bug | None = None) -> None:
        self.seed = seed
        self.bug = bug or Bug()
        self.chance = Random(seed)
        self.plan: Plan = make_plan(self.chance)
        while not self.bug.may_show(self.plan):
            self.plan = make_plan(self.chance)
        self.digest = 0
        self.trace: list[str] | None = None
        self.counts = dict.fromkeys(COUNTED, 0)
        self.machines: dict[str, Machine] = {}
        self.stack: ExitStack
        self.tasks: TaskGroup
        self.troubled = False
        """Things may go wrong now."""
        self._loop: VirtualTimeLoop
        self._failure: Exception | None = None
        self._failed: anyio.Event
        self._number = 0
        self._connections = 0
        self._broken = False
        """Something broke in this phase."""
        self._said: dict[int, str] = {}
        """Every message, and the broker at which it was published."""
        self._promised: set[int] = set()
        """What was confirmed in this phase."""
        self._phase_from = 0
        """The first message of this phase."""
        self._confirmed = 0
        self._publishers: dict[str, Publisher] = {}
        self._arrived: dict[str, list[int]] = {}
        """At each broker, in order."""
        self._consumers: list[Consumer] = []

    # -- running

    def run(self, phases: int) -> Figures:
        """So many phases. Raises Violation, or what went wrong."""
        handler = LogOfBugs(self)
        with ExitStack() as self.stack:
            self.stack.enter_context(ordered_scopes())
            self.stack.enter_context(self.bug.planted())
            for name in LOGS:
                logger = logging.getLogger(name)
                for patched in (("handlers", [handler]), ("propagate", False)):
                    self.stack.enter_context(patch.object(logger, *patched))
                self.stack.enter_context(patch.object(logger, "disabled", False))
            try:
                options = {"loop_factory": VirtualTimeLoop}
                anyio.run(self._main, phases, backend_options=options)
            except Exception as error:
                error.add_note(f"in phase {self.counts['phases']} of seed {self.seed}: {self.plan}")
                raise
        return Figures(
            seconds=self._loop.time() - 1000.0,
            brokers=len(self.machines),
            confirmed=self._confirmed,
            arrived=sum(map(len, self._arrived.values())),
            **self.counts,
        )

    async def _main(self, phases: int) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        self._loop = loop
        self._failed = anyio.Event()
        async with anyio.create_task_group() as self.tasks:
            for name in self.plan.names:
                self.machines[name] = Machine(self, name)
                self._arrived[name] = []
            for machine in self.machines.values():
                machine.start()
            for number in range(phases):
                await self._phase(wiping=number > 0 and self.chance.random() < 0.3)
            for machine in self.machines.values():
                if machine.process is not None:
                    process, machine.process = machine.process, None
                    process.end()
            self.tasks.cancel_scope.cancel()

    async def _phase(self, *, wiping: bool) -> None:
        self.counts["phases"] += 1
        if wiping:
            self._wipe()
        await self._await_links()
        self._broken = False
        self._promised.clear()
        self._phase_from = self._number
        self.troubled = True
        for _ in range(self.chance.randint(STEPS // 4, STEPS)):
            await self._step()
        self.troubled = False
        await self._calm_down()

    # -- what happens

    async def _step(self) -> None:
        chance = self.chance
        drawn = chance.random()
        if drawn < 0.5:
            for _ in range(chance.randint(1, 6)):
                self._publish(chance.choice(self.plan.publishing))
            await self.pause(chance.random() * self.plan.commit_s)
        elif drawn < 0.6:
            self._consume(chance.choice(self.plan.names))
        elif drawn < 0.7:
            await self.pause(chance.choice((self.plan.latency_s, self.plan.commit_s, 1.0, 7.0)))
        elif drawn < 0.7 + 0.3 * self.plan.trouble:
            await self._trouble()

    async def _trouble(self) -> None:
        chance = self.chance
        machine = self.machines[chance.choice(self.plan.names)]
        drawn = chance.choice(self.plan.troubles)
        self.note(f"{drawn} {machine.name}")
        if drawn == "power":
            self._cut_power(machine)
        elif drawn == "kill":
            machine.kill()
        elif drawn == "all":
            for each in self.machines.values():
                self._cut_power(each)
        elif drawn == "cut":
            for wire in self._wires_of(machine):
                wire.cut()
        elif drawn == "alarm":
            await self._raise_alarm(machine)
        elif drawn == "login":
            await self._refuse_logins(machine)
        elif drawn == "policy":
            self._change_policy(machine)
        elif drawn == "away":
            machine.reachable = False
            for wire in self._wires_of(machine):
                wire.cut()
            self.later(chance.choice((3.0, 60.0, AN_HOUR_S)), self._come_back, machine)
            await self.pause(chance.random() * 60)

    def _cut_power(self, machine: Machine) -> None:
        """Now, or in the midst of its next writes."""
        if self.chance.random() < 0.5:
            machine.cut_power()
        elif machine.process is not None:
            machine.disk.cut_at = machine.disk.calls + self.chance.randint(0, 10)

    def _wires_of(self, machine: Machine) -> list[Wire]:
        """All connections between it and others."""
        processes = [each.process for each in self.machines.values() if each.process is not None]
        return [
            wire
            for process in processes
            for wire in process.wires
            if wire.remote and machine.process in (wire.owner, wire.target)
        ]

    async def _raise_alarm(self, machine: Machine) -> None:
        process = machine.process
        if process is None:
            return
        self.counts["alarms"] += 1
        alarm = self.chance.choice((Alarm.MEMORY, Alarm.DISK))
        process.set_alarm(alarm, True)
        process.later(self.chance.choice((0.1, 5.0, 100.0)), process.set_alarm, alarm, False)
        await self.pause(self.chance.random())

    async def _refuse_logins(self, machine: Machine) -> None:
        process = machine.process
        if process is None:
            return
        self.counts["logins"] += 1
        machine.set_password(process.core, "another")
        process.turn()
        for wire in self._wires_of(machine):
            wire.cut()
        await self.pause(self.chance.choice((1.0, 20.0)))
        self._let_in(machine)

    def _let_in(self, machine: Machine) -> None:
        if machine.process is not None:
            machine.set_password(machine.process.core, PASSWORD)
            machine.process.turn()

    def _come_back(self, machine: Machine) -> None:
        machine.reachable = True

    def _change_policy(self, machine: Machine) -> None:
        """Or what upstreams and shovels are to be like: the links are made anew."""
        process = machine.process
        if process is None:
            return
        alarmed = any(each.process and each.process.core.alarms for each in self.machines.values())
        if alarmed or not self.plan.is_quick:
            # A link that cannot settle what it has within two seconds leaves it to the next one.
            if not self.plan.breaks:
                return
            self.broke()
        self.counts["policies"] += 1
        self.configure(process, again=True)
        process.turn()

    def _wipe(self) -> None:
        """A broker is restarted empty. What it held is gone, and has arrived before."""
        machine = self.machines[self.chance.choice(self.plan.names)]
        self.note(f"{machine.name} begins anew")
        self.counts["wipes"] += 1
        machine.kill()
        machine.clear_disk()

    # -- links, as users configure them

    def configure(self, process: Process, *, again: bool = False) -> None:
        """Upstreams, policies, shovels, and what they are about; the same `again`, or a little
        otherwise."""
        plan, core, name = self.plan, process.core, process.machine.name
        prefetch = self.chance.choice((1, 7, 1000)) if again else plan.prefetch
        options: dict[str, Any] = {
            "prefetch-count" if plan.kind != "shovel" else "src-prefetch-count": prefetch,
            "reconnect-delay": plan.reconnect_delay_s,
            "ack-mode": plan.ack_mode,
        }
        if plan.kind == "shovel":
            for source, destination in plan.shovels_of(name):
                value = {
                    "src-uri": "amqp://" if source == name else self._uri(source),
                    "dest-uri": "amqp://" if destination == name else self._uri(destination),
                    "src-queue": "q",
                    "dest-queue": "q",
                }
                core.parameters.set("/", "shovel", f"from {source}", value | options)
        else:
            if plan.kind == "exchange":
                options |= {"max-hops": plan.max_hops, "queue-type": plan.queue_type}
            for other in plan.upstreams_of(name):
                value = {"uri": self._uri(other)} | options
                core.parameters.set("/", "federation-upstream", other, value)
            definition = {"federation-upstream-set": "all"}
            pattern = "^x$" if plan.kind == "exchange" else "^q$"
            set_policy(core, "/", "p", pattern=pattern, definition=definition, priority=int(again))
        if not again:
            self._declare(process)

    def _declare(self, process: Process) -> None:
        user = User(process, "admin")
        user.call(method(Exchange.Declare, exchange="x", exchange_type="topic", durable=True))
        kind = self.plan.queue_types[process.machine.name]
        user.call(method(Queue.Declare, queue="q", durable=True), {"x-queue-type": kind})
        user.call(method(Queue.Bind, queue="q", exchange="x", routing_key="all.#"))

    def _uri(self, name: str) -> str:
        return f"amqp://{LINK_USER}:{PASSWORD}@{name}?heartbeat={self.plan.heartbeat_s}"

    # -- messages

    def _publish(self, name: str) -> None:
        process = self.machines[name].process
        if process is None or process.core.alarms:
            return
        publisher = self._publishers.get(name)
        if publisher is None or publisher.process is not process:
            confirmed = partial(self._confirm, process)
            publisher = self._publishers[name] = Publisher(process, "publisher", confirmed)
        if publisher.held_up:
            return
        self._number += 1
        self._said[self._number] = name
        exchange, key = ("x", "all.k") if self.plan.kind == "exchange" else ("", "q")
        publisher.publish(exchange, key, self._number, self.chance.choice(BODY_SIZES))

    def _confirm(self, process: Process, uid: int) -> None:
        self._confirmed += 1
        if uid > self._phase_from:
            self._promised.add(uid)

    def _consume(self, name: str, *, for_good: bool = False) -> None:
        """Somebody takes messages from the queue there, for a while."""
        process = self.machines[name].process
        if process is None or not (for_good or self.plan.kind == "queue"):
            return
        prefetch = 50 if for_good else self.chance.choice((0, 1, 5))
        taken = self._arrived[name].append
        consumer = Consumer(process, "q", prefetch, taken, dawdles=not for_good)
        if for_good:
            self._consumers.append(consumer)
        else:
            process.later(self.chance.choice((0.01, 1.0, 20.0)), consumer.leave)

    # -- calm

    async def _await_links(self) -> None:
        """Until every link runs, what was bound is known as far as it goes, and everybody has
        noticed who is gone."""
        await self._await(lambda: not self._idle_links(), self._idle_links)
        before: list[Any] | None = None
        while before != (before := self._bindings()):
            await self.pause(QUIET_S)
        require(not self._idle_links(), "links do not run", self._idle_links())

    def _idle_links(self) -> list[Any]:
        """What does not run yet, and why."""
        found: list[Any] = [name for name, each in self.machines.items() if each.process is None]
        for name, process in self._processes():
            keepers = process.keepers()
            wanted = len(self.plan.links_of(name))
            if len(keepers) != wanted or not process.settled:
                found.append((name, len(keepers), wanted))
            found += [
                (name, keeper.name, keeper.state, keeper.reason)
                for keeper in keepers
                if keeper.state != "running"
            ]
        return found

    def _bindings(self) -> list[Any]:
        """From the federated exchange, everywhere."""
        if self.plan.kind != "exchange":
            return []
        return [
            sorted((item.destination.name, item.routing_key) for item in exchange.table.bindings)
            for _, process in self._processes()
            if (exchange := process.core.virtual_hosts["/"].exchanges.get("x")) is not None
        ]

    def _processes(self) -> Iterable[tuple[str, Process]]:
        return [
            (name, machine.process)
            for name, machine in self.machines.items()
            if machine.process is not None
        ]

    async def _calm_down(self) -> None:
        """Everything is well again; and everything arrives."""
        for machine in self.machines.values():
            machine.disk.cut_at = None
            machine.reachable = True
            machine.start()
            self._let_in(machine)
        for _, process in self._processes():
            for alarm in Alarm:
                process.set_alarm(alarm, False)
            for wire in list(process.wires):
                wire.octets_left = math.inf
                wire.mend()
        await self._await(lambda: not self._idle_links(), self._idle_links)
        for name in self.plan.sinks:
            self._consume(name, for_good=True)
        if self.plan.ack_mode == "on-confirm" or not self._broken:
            await self._await(lambda: not self._missing(), self._missing)
        forwarded = -1
        while forwarded != (forwarded := self._forwarded()):
            await self.pause(QUIET_S)
        self._check_arrivals()
        for consumer in self._consumers:
            consumer.leave()
        self._consumers.clear()

    async def _await(self, condition: Callable[[], bool], about: Callable[[], Any]) -> None:
        until = self.now + PATIENCE_S
        while not condition():
            require(self.now < until, "it never came", about())
            await self.pause(POLL_S)

    def _missing(self) -> list[Any]:
        """What was promised and has not arrived, and where."""
        missing: list[Any] = []
        if self.plan.kind == "exchange":
            for name, arrived in self._arrived.items():
                due = {uid for uid in self._promised if self.plan.reaches(self._said[uid], name)}
                missing += [(uid, name) for uid in sorted(due.difference(arrived))]
        else:
            anywhere = {uid for arrived in self._arrived.values() for uid in arrived}
            missing += sorted(self._promised - anywhere)
        return missing

    def _forwarded(self) -> int:
        """Messages that passed a link: if that goes on in calm, they go round."""
        links = [keeper.link for _, process in self._processes() for keeper in process.keepers()]
        total = sum(link.forwarded for link in links if link is not None)
        require(total < 100 * (self._number + 100), "messages go round", total)
        return total

    def _check_arrivals(self) -> None:
        plan, first = self.plan, self._phase_from
        copies: Counter[int] = Counter()
        for name, arrived in self._arrived.items():
            require(self._said.keys() >= set(arrived), "from nowhere", name)
            new = [uid for uid in arrived if uid > first]
            for uid in new:
                source = self._said[uid]
                near = plan.kind != "exchange" or plan.reaches(source, name)
                require(near, "beyond max-hops", uid, source, name)
            copies.update(new)
            if self._broken:
                continue
            if plan.kind == "exchange":
                require(len(new) == len(set(new)), "twice, where nothing broke", name, new)
            for source in plan.names if plan.keeps_order else ():
                of_source = [uid for uid in new if self._said[uid] == source]
                require(of_source == sorted(of_source), "out of order", name, source, of_source)
        if not self._broken and plan.kind != "exchange":
            twice = [uid for uid, count in copies.items() if count > 1]
            require(not twice, "twice, where nothing broke", twice)

    def check_memory(self, process: Process) -> None:
        """No link of this process has more than it may."""
        for keeper in process.keepers():
            link = keeper.link
            if link is not None and self.plan.ack_mode != "no-ack":
                held = link.pending + link.unconfirmed
                most = prefetch_of(keeper) * (2 if isinstance(link, QueueLink) else 1)
                require(held <= most, "a link has too much in memory", keeper.name, held, most)

    # -- chance, time and notes

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self._loop.time()

    def later(self, delay_s: float, event: Callable[..., None], *about: Any) -> None:
        """It happens then."""

        def happen() -> None:
            try:
                event(*about)
            except Exception as error:
                self.fail(error)

        self._loop.call_later(delay_s, happen)

    def fail(self, error: Exception) -> None:
        """The run is over, and this is why."""
        if self._failure is None:
            self._failure = error
            self._failed.set()

    async def pause(self, seconds: float) -> None:
        """Raises what went wrong meanwhile."""
        with anyio.move_on_after(seconds):
            await self._failed.wait()
        if self._failure is not None:
            raise self._failure

    def broke(self) -> None:
        """From here on in this phase, messages may come twice."""
        self._broken = True

    def next_number(self) -> int:
        """For the names of connections."""
        self._connections += 1
        return self._connections

    def latency(self) -> float:
        """Of the next octets between two machines."""
        return self.plan.latency_s * (0.5 + self.chance.random())

    def commit_delay(self) -> float:
        """Of the next step of a commit."""
        return self.chance.random() * self.plan.commit_s

    def down_time(self) -> float:
        """Until a dead broker starts again."""
        return self.chance.choice((0.0, 0.5, 30.0, AN_HOUR_S if self.troubled else 0.0))

    def lifetime(self) -> float:
        """Octets that the next connection carries before it is cut."""
        at_risk = self.troubled and self.plan.trouble
        return self.chance.choice(self.plan.lifetimes) if at_risk else math.inf

    def piece_size(self) -> int:
        """Octets that arrive together."""
        return self.chance.choice(self.plan.pieces)

    def record(self, octets: bytes) -> None:
        """They arrived."""
        self.digest = crc32(octets, self.digest)

    def note(self, text: str) -> None:
        """For whoever follows a seed."""
        if self.trace is not None:
            self.trace.append(f"{self.now:.6f} {text}")


def prefetch_of(keeper: Keeper) -> int:
    """What a link may have in memory."""
    if isinstance(keeper, FederationKeeper):
        return keeper.upstream.prefetch_count
    return int(keeper.definition.prefetch_count)  # type: ignore[attr-defined]
