"""Counters with their rates: `"ack": 5, "ack_details": {"rate": 0.2}`.

Every `SAMPLE_S` the counters of everything are read (`amqpd.broker.counts`); a rate is what the
last two readings differ by. `?msg_rates_age=60&msg_rates_incr=5` asks for the readings themselves,
as far back as they are kept; `lengths_` asks so for numbers of messages, `data_rates_` for octets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from amqpd.broker import counts
from amqpd.broker.channel import Channel
from amqpd.broker.counts import NAMES, Counts
from amqpd.broker.exchange import BrokerExchange
from amqpd.broker.queue import Queue
from amqpd.broker.virtual_host import VirtualHost
from amqpd.management.node import NO_TRAFFIC, Node

SAMPLE_S: Final = 5.0
"""RabbitMQ's collect_statistics_interval."""
OBJECT_SAMPLES_MAX: Final = 13
"""Readings kept of each queue, channel, exchange and connection: a minute of them."""
TOTAL_SAMPLES_MAX: Final = 721
"""Readings kept of the broker as a whole, and of each virtual host: an hour of them."""
SLICE: Final = 200
"""Objects that are read before others have their turn."""

LENGTHS: Final = ("messages", "messages_ready", "messages_unacknowledged")
CHURN: Final = tuple(counts.Churn.__slots__)
QUEUE_COUNTERS: Final = tuple(
    name for name in NAMES if name not in ("confirm", "drop_unroutable", "return_unroutable")
)

Readings = dict[str, int]
OVERVIEW: Final = "overview"


class Reading(NamedTuple):
    """Counters at a time."""

    at_s: float
    values: Readings


class Statistics:
    """Readings of one broker."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._kept: dict[object, deque[Reading]] = {}

    # -- reading

    def sample(self) -> Iterator[None]:
        """Read everything, a slice at a time: call `next` until it ends."""
        seen: set[object] = set()
        for number, (thing, values, most) in enumerate(self._everything()):
            seen.add(thing)
            self._keep(thing, values, most)
            if number % SLICE == SLICE - 1:
                yield
        for thing in [thing for thing in self._kept if thing not in seen]:
            del self._kept[thing]

    def _everything(self) -> Iterator[tuple[object, Readings, int]]:
        broker = self._node.broker
        traffic = self._node.traffic()
        for session in list(broker.sessions):
            moved = traffic.get(session, NO_TRAFFIC)
            octets = {"recv_oct": moved.received_bytes, "send_oct": moved.sent_bytes}
            yield session, octets, OBJECT_SAMPLES_MAX
            for channel in list(session.channels.values()):
                channel.turn_to(channel.tally)
                yield channel, of_channel(channel), OBJECT_SAMPLES_MAX
        for host in list(broker.virtual_hosts.values()):
            for exchange in list(host.exchanges.values()):
                yield exchange, of_exchange(exchange), OBJECT_SAMPLES_MAX
            for queue in list(host.queues.values()):
                yield queue, of_queue(queue), OBJECT_SAMPLES_MAX
            yield host, self.of_host(host), TOTAL_SAMPLES_MAX
        hosts = list(broker.virtual_hosts.values())
        yield OVERVIEW, self.of_hosts(hosts) | self.churn(), TOTAL_SAMPLES_MAX

    def _keep(self, thing: object, values: Readings, most: int) -> None:
        kept = self._kept.get(thing)
        if kept is None:
            kept = self._kept[thing] = deque(maxlen=most)
        kept.append(Reading(self._node.broker.now, values))

    def of_host(self, host: VirtualHost) -> Readings:
        """Of a virtual host: its channels, those that are gone, and the lengths of its queues."""
        total = Counts()
        total.add(host.counts)
        for session in self._node.broker.sessions:
            if session.virtual_host is host:
                for channel in session.channels.values():
                    total.add(counts.of_channel(channel))
        ready = sum(queue.ready for queue in host.queues.values())
        unacked = sum(queue.unacked for queue in host.queues.values())
        return _named(total, NAMES) | _lengths(ready, unacked)

    def of_hosts(self, hosts: list[VirtualHost]) -> Readings:
        """The same of several together."""
        total: Readings = {}
        for host in hosts:
            for name, value in self.of_host(host).items():
                total[name] = total.get(name, 0) + value
        return total

    def churn(self) -> Readings:
        """What came and went."""
        churn = self._node.broker.churn
        return {name: getattr(churn, name) for name in CHURN}

    def forget(self) -> None:
        """Samples begin anew: rates are zero until there are two. What counts on goes on."""
        self._kept.clear()

    # -- showing

    def of_messages(
        self, thing: object, values: Readings, query: Mapping[str, str]
    ) -> dict[str, Any]:
        """`message_stats`, if anything ever happened, and the numbers of messages."""
        counters = {name: value for name, value in values.items() if name not in LENGTHS}
        lengths: Readings = {name: values[name] for name in LENGTHS if name in values}
        fields = self.shown(thing, lengths, query, "lengths")
        if any(counters.values()):
            fields["message_stats"] = self.shown(thing, counters, query, "msg_rates")
        return fields

    def shown(
        self, thing: object, values: Readings, query: Mapping[str, str], group: str
    ) -> dict[str, Any]:
        """Each counter and its details. `group` is the beginning of the options for its samples:
        `msg_rates`, `lengths` or `data_rates`."""
        kept = list(self._kept.get(thing, ()))
        window = _window(query, group)
        fields: dict[str, Any] = {}
        for name, value in values.items():
            fields[name] = value
            fields[f"{name}_details"] = self._details(kept, name, window)
        return fields

    def _details(
        self, kept: list[Reading], name: str, window: tuple[int, int] | None
    ) -> dict[str, Any]:
        readings = [reading for reading in kept if name in reading.values]
        details: dict[str, Any] = {"rate": 0.0}
        if len(readings) > 1:
            before, last = readings[-2:]
            seconds = max(last.at_s - before.at_s, 0.001)
            details["rate"] = (last.values[name] - before.values[name]) / seconds
        if window is not None:
            details |= self._samples(readings, name, *window)
        return details

    def _samples(
        self, readings: list[Reading], name: str, age_s: int, step_s: int
    ) -> dict[str, Any]:
        """The readings of the last `age_s` seconds, one in `step_s`, the newest first."""
        if not readings:
            return {"samples": [], "avg": 0.0, "avg_rate": 0.0}
        epoch_s = self._node.broker.effects.epoch_s
        newest = readings[-1].at_s
        chosen: list[Reading] = []
        for reading in reversed(readings):
            if newest - reading.at_s > age_s:
                break
            if not chosen or chosen[-1].at_s - reading.at_s >= step_s - SAMPLE_S / 2:
                chosen.append(reading)
        numbers = [reading.values[name] for reading in chosen]
        seconds = chosen[0].at_s - chosen[-1].at_s
        return {
            "samples": [
                {
                    "sample": reading.values[name],
                    "timestamp": int((epoch_s + reading.at_s) * 1000),
                }
                for reading in chosen
            ],
            "avg": sum(numbers) / len(numbers),
            "avg_rate": (numbers[0] - numbers[-1]) / seconds if seconds else 0.0,
        }


def _window(query: Mapping[str, str], group: str) -> tuple[int, int] | None:
    """How far back samples are wanted, and how far apart; None for none."""
    given = [query.get(f"{group}_{what}", "") for what in ("age", "incr")]
    if not all(text.isascii() and text.isdigit() and len(text) < 10 for text in given):
        return None
    age_s, step_s = (int(text) for text in given)
    return age_s, max(step_s, 1)


def of_channel(channel: Channel) -> Readings:
    """What a channel did."""
    return _named(counts.of_channel(channel), NAMES)


def of_exchange(exchange: BrokerExchange) -> Readings:
    """What went through an exchange."""
    published, passed = counts.of_exchange(exchange)
    return {"publish_in": published, "publish_out": passed}


def of_queue(queue: Queue) -> Readings:
    """What happened to a queue's messages, and how many there are."""
    return _named(counts.of_queue(queue), QUEUE_COUNTERS) | _lengths(queue.ready, queue.unacked)


def _named(found: Counts, names: tuple[str, ...]) -> Readings:
    values = {name: getattr(found, name) for name in names}
    values["deliver_get"] = found.deliver + found.deliver_no_ack + found.get + found.get_no_ack
    return values


def _lengths(ready: int, unacked: int) -> Readings:
    return {
        "messages": ready + unacked,
        "messages_ready": ready,
        "messages_unacknowledged": unacked,
    }
