"""What is to be reached, and whether a run reached it.

A goal names a figure by the name it has in the report. It asks for a value, or for a ratio to
another broker of the same run, or for both; a figure that was not measured has no verdict. Goals
say what is aimed at: a run does not fail for missing one.

To add a goal: a line in GOALS. A goal that is met is raised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

PEER: Final = "rabbitmq"
"""Ratios are to this broker."""
CPU: Final = "CPU"
"""Behind a figure's name: the processor time of the broker for each message, in µs."""
PLAIN_CORE: Final = 2.0
"""Without a compiler the core may take this much longer."""


@dataclass(frozen=True)
class Verdict:
    """A goal beside what a run had."""

    figure: str
    wanted: str
    reached: float | None
    met: bool | None
    """None where the run cannot tell, as without the peer."""
    why: str = ""


@dataclass(frozen=True)
class Goal:
    """One line of what is aimed at."""

    figure: str
    least: float | None = None
    most: float | None = None
    ratio: float | None = None
    """To PEER: how many times as much for a rate, as little for a time or a size. `None`: no
    ratio is asked for."""
    less_is_better: bool = False
    """Which of both the ratio means."""
    per_flush: float | None = None
    """At least this share of the flushes that the disk can do in a second, one after the other."""
    why: str = ""

    def verdicts(
        self,
        values: Mapping[str, float | None],
        first: str,
        others: Sequence[str],
        machine: Mapping[str, object],
    ) -> list[Verdict]:
        """For the values of a run, by broker; `first` is the one that has goals."""
        value = values.get(first)
        if value is None:
            return []
        found = []
        least = self.least
        if self.per_flush is not None and isinstance(flush_ms := machine["fdatasync_ms"], float):
            least = self.per_flush * 1000 / flush_ms if flush_ms else None
        if least is not None:
            wanted = f">= {least:,.6g}" if self.per_flush is None else f">= {least:,.0f}"
            found.append(Verdict(self.figure, wanted, value, value >= least, self.why))
        if self.most is not None:
            wanted = f"<= {self.most:,.6g}"
            found.append(Verdict(self.figure, wanted, value, value <= self.most, self.why))
        if self.ratio is not None and PEER in others:
            found.append(self._beside(value, values.get(PEER)))
        return found

    def _beside(self, value: float, peer: float | None) -> Verdict:
        how = "ahead of" if self.ratio == 1 else f"{self.ratio:g} x"
        wanted = f"{how} {PEER}"
        assert self.ratio is not None
        if not peer or not value:
            return Verdict(self.figure, wanted, None, None, f"{PEER} has no figure")
        reached = peer / value if self.less_is_better else value / peer
        met = reached > 1 if self.ratio == 1 else reached >= self.ratio
        kind: Literal["times as little", "times as much"]
        kind = "times as little" if self.less_is_better else "times as much"
        return Verdict(self.figure, wanted, reached, met, kind)


def _rate(figure: str, least: float | None = None, ratio: float = 1, why: str = "") -> Goal:
    return Goal(figure, least=least, ratio=ratio, why=why)


def _cost(figure: str, most: float | None = None, ratio: float | None = 1, why: str = "") -> Goal:
    return Goal(figure, most=most, ratio=ratio, less_is_better=True, why=why)


LAVINMQ: Final = "LavinMQ 1.0 on such a machine, in another run"
AUTO_ACK: Final = "12 B, automatic ack"
MANUAL_ACK: Final = "1 KB, manual ack, prefetch 200"
PERSISTENT: Final = "1 KB persistent, 200 unconfirmed, consumed"

GOALS: Final = (
    _cost("start to ready", 0.4),
    _cost("idle memory", 45, why="the goal has the HTTP API, which is off here: see http-api"),
    _cost("memory of a connection with a channel", 20),
    _cost("memory of a durable queue", 3),
    _rate(AUTO_ACK, 400_000, 5),
    _cost(f"{AUTO_ACK}: {CPU}", 2.2),
    _rate(MANUAL_ACK, 200_000, 5),
    _cost(f"{MANUAL_ACK}: {CPU}", 4.3),
    _rate(PERSISTENT, 80_000, 4, why="a flush before each confirm"),
    _cost(f"{PERSISTENT}: {CPU}", 10),
    _rate("1 KB persistent, stored only", 80_000),
    _rate("1 KB persistent, then drained", 250_000),
    Goal(
        "1 KB persistent, one in flight",
        per_flush=0.8,
        ratio=1,
        why="0.8 of what the disk can flush in a second",
    ),
    _rate("fan-out 1 to 10, deliveries", 258_000, why=LAVINMQ),
    _rate("topic, 1,000 wildcard bindings", 112_000, why=LAVINMQ),
    _rate("topic, 100,000 bindings"),
    _rate("headers, 100 bindings", 53_000, why=LAVINMQ),
    _rate("64 KB bodies", ratio=2),
    _rate("1 MB bodies", ratio=2),
    _rate("100 producers, 100 consumers, 100 queues"),
    _rate("RPC over direct reply-to, round trips", 13_400, why=LAVINMQ),
    _rate("queue declarations, durable", 3_000),
    _rate("connections opened", 2_000),
    _rate("connections opened and closed"),
    _rate("channels opened and closed"),
    _cost("latency at 2,000/s, 12 B: p50", 70, why=LAVINMQ),
    _cost("latency at 2,000/s, 12 B: p99", 660, why=LAVINMQ),
    _cost("latency at 10,000/s, 1,024 B: p50"),
    _cost("latency at 10,000/s, 1,024 B: p99"),
    Goal("latency at 10,000/s, 1,024 B: within 1 ms", least=99.6),
    Goal("latency at 10,000/s, 1,024 B: within 10 ms", least=99.996),
    Goal("tail at 10,000/s, 1 KB: within 1 ms", least=99.6),
    Goal("tail at 10,000/s, 1 KB: within 10 ms", least=99.996),
    _rate("transient backlog of 1,000,000 x 100 B: publish", 200_000),
    _rate("transient backlog of 1,000,000 x 100 B: then consume", 200_000),
    _cost("transient backlog of 1,000,000 x 100 B: memory with it", 150),
    _rate("10,000 connections: opened", 2_000),
    _rate("100,000 durable queues: declared", 3_000),
)


def core_goals(compiled: bool) -> tuple[Goal, ...]:
    """Of the core alone, which has no peer: 3 µs compiled, 6 µs in plain Python."""
    most = 3.0 if compiled else 3.0 * PLAIN_CORE
    how = "compiled" if compiled else "plain Python"
    return (_cost("in process, 1 KB, publish + deliver + ack", most, ratio=None, why=how),)
