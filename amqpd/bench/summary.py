"""What a run says of itself: a line for each interval, a summary, and the same as JSON."""

from __future__ import annotations

import json
from typing import Any, Final

from amqpd.bench.histogram import Histogram
from amqpd.bench.plan import Plan
from amqpd.bench.tally import Tally
from amqpd.commands import Arguments
from amqpd.wire.tables import plain_value

PERCENTILES: Final = (("median", 50.0), ("75th", 75.0), ("95th", 95.0), ("99th", 99.0))
FINE_PERCENTILES: Final = (*PERCENTILES, ("99.9th", 99.9), ("99.99th", 99.99))
OURS: Final = "amqpd "
"""What an amqpd's information begins with."""
BUSY_SHARE: Final = 0.9
"""Of a processor. A generator that used more of it may have been what was measured."""


def interval_line(plan: Plan, tally: Tally, seconds: float, elapsed: float) -> str:
    """As PerfTest's: rates of the interval, and its latencies in microseconds."""
    seconds = max(seconds, 1e-9)
    parts = [f"id: {plan.id}", f"time {elapsed:.3f} s"]
    if plan.producers:
        parts.append(f"sent: {tally.sent / seconds:.0f} msg/s")
        if tally.returned:
            parts.append(f"returned: {tally.returned / seconds:.0f} msg/s")
        if plan.unconfirmed_max is not None:
            parts.append(f"confirmed: {tally.confirmed / seconds:.0f} msg/s")
            parts.append(f"nacked: {tally.nacked / seconds:.0f} msg/s")
    if plan.consumers:
        parts.append(f"received: {tally.received / seconds:.0f} msg/s")
    for name, times in (("consumer", tally.latency), ("confirm", tally.confirm_latency)):
        if times.count:
            parts.append(_latencies(name, times))
    return ", ".join(parts)


def _latencies(name: str, times: Histogram) -> str:
    words = "/".join(["min", *(word for word, _ in PERCENTILES)])
    values = [times.least, *(times.percentile(percent) for _, percent in PERCENTILES)]
    return f"{words} {name} latency: {'/'.join(str(value // 1000) for value in values)} µs"


class Summary:
    """Of a whole run."""

    def __init__(self, plan: Plan, server_properties: Arguments) -> None:
        self.total = Tally()
        self._plan = plan
        self._server: dict[str, str] = {
            key: str(plain_value(server_properties[key]))
            for key in ("product", "version")
            if key in server_properties
        }
        said = server_properties.get("information")
        words = "" if said is None else str(plain_value(said))
        if words.startswith(OURS):
            # It says that it is RabbitMQ, since clients go by that.
            self._server["implementation"] = words.partition(",")[0]
        self._intervals: list[dict[str, Any]] = []
        self._seconds = 0.0
        self._processor_s = 0.0

    def add(self, tally: Tally, seconds: float, elapsed: float) -> None:
        """An interval is over."""
        self._intervals.append({"time_s": round(elapsed, 3), **_rates(tally, seconds)})
        self.total.add(tally)

    def finish(self, seconds: float, processor_s: float) -> None:
        """The run is over; `processor_s` is what the generator itself used."""
        self._seconds, self._processor_s = seconds, processor_s

    @property
    def _broker(self) -> str:
        """Who was measured."""
        server = self._server.copy()
        implementation = server.pop("implementation", None)
        shown = " ".join(server.values())
        return shown if implementation is None else f"{implementation} (as {shown})"

    def text(self) -> str:
        """As PerfTest ends."""
        plan, total, seconds = self._plan, self.total, max(self._seconds, 1e-9)
        lines = [f"id: {plan.id}, {self._broker}"]
        if plan.producers:
            lines.append(f"id: {plan.id}, sending rate avg: {total.sent / seconds:.0f} msg/s")
        if plan.consumers:
            rate = total.received / seconds
            lines.append(f"id: {plan.id}, receiving rate avg: {rate:.0f} msg/s")
        for name, times in (
            ("consumer", total.latency),
            ("confirm", total.confirm_latency),
        ):
            if times.count:
                words = "/".join(["min", *(word for word, _ in FINE_PERCENTILES), "max"])
                values = [each // 1000 for each in _values(times).values()]
                said = "/".join(map(str, values))
                lines.append(f"id: {plan.id}, {name} latency {words} {said} µs")
        if self._processor_s > BUSY_SHARE * seconds:
            lines.append(
                "the generator used a whole processor: it may be what was measured, not the broker"
            )
        return "\n".join(lines)

    def as_json(self) -> str:
        """Everything; times in microseconds where the name does not say otherwise."""
        plan, total, seconds = self._plan, self.total, self._seconds
        document: dict[str, Any] = {
            "id": plan.id,
            "broker": {"uri": plan.uri.shown, **self._server},
            "options": {
                name: getattr(plan, name)
                for name in plan.__struct_fields__
                if name not in ("id", "uri", "queue_arguments")
            },
            "seconds": round(seconds, 3),
            "generator_processor_seconds": round(self._processor_s, 3),
            "sent": total.sent,
            "confirmed": total.confirmed,
            "nacked": total.nacked,
            "returned": total.returned,
            "received": total.received,
            **_rates(total, seconds),
            "intervals": self._intervals,
        }
        return json.dumps(document, indent=2)


def _rates(tally: Tally, seconds: float) -> dict[str, Any]:
    seconds = max(seconds, 1e-9)
    return {
        "sent_per_second": round(tally.sent / seconds, 1),
        "confirmed_per_second": round(tally.confirmed / seconds, 1),
        "received_per_second": round(tally.received / seconds, 1),
        "consumer_latency": _microseconds(tally.latency),
        "confirm_latency": _microseconds(tally.confirm_latency),
    }


def _microseconds(times: Histogram) -> dict[str, float] | None:
    if not times.count:
        return None
    return {name: value / 1000 for name, value in _values(times).items()}


def _values(times: Histogram) -> dict[str, int]:
    """In nanoseconds, by name, from the least to the most."""
    values = {word: times.percentile(percent) for word, percent in FINE_PERCENTILES}
    return {"min": times.least, **values, "max": times.most}
