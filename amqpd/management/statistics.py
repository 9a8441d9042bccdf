"""Counters with their rates: `"ack": 5, "ack_details": {"rate": 0.2}`.

Every `SAMPLE_S` the counters of everything are read (`amqpd.broker.counts`); a rate is what the
last two readings differ by. `?msg_rates_age=60&msg_rates_incr=5` asks for the readings themselves,
as far back as they are kept; `lengths_` asks so for numbers of messages, `data_rates_` for octets.

Kept is only what changed, and things that came at the same time share their first reading: a queue
that nobody uses costs an entry in a table. `idle_since` is when something changed last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final, NamedTuple

from amqpd.broker import counts
from amqpd.broker.channel import Channel
from amqpd.broker.counts import CHURN, NAMES, Counts
from amqpd.broker.exchange import BrokerExchange
from amqpd.broker.queue import Queue
from amqpd.broker.session import Session
from amqpd.broker.virtual_host import VirtualHost
from amqpd.management.listing import Steps
from amqpd.management.node import NO_TRAFFIC, Node, Traffic

SAMPLE_S: Final = 5.0
"""RabbitMQ's collect_statistics_interval."""
OBJECT_SAMPLES_MAX: Final = 13
"""Readings kept of each queue, channel, exchange and connection: a minute of them."""
TOTAL_SAMPLES_MAX: Final = 721
"""Readings kept of the broker as a whole, and of each virtual host: an hour of them."""
SLICE: Final = 200
"""Objects that are read before others have their turn."""

LENGTHS: Final = ("messages", "messages_ready", "messages_unacknowledged")
OCTETS: Final = ("recv_oct", "send_oct")
ALL_COUNTERS: Final = (*NAMES, "deliver_get")
QUEUE_COUNTERS: Final = tuple(
    name for name in ALL_COUNTERS if name not in ("confirm", "drop_unroutable", "return_unroutable")
)

OF_QUEUE: Final = (*QUEUE_COUNTERS, *LENGTHS)
"""What is read of a queue, in the order of `_values_of_queue`."""

Readings = dict[str, int]
Names = tuple[str, ...]
Values = tuple[int, ...]
OVERVIEW: Final = "overview"


class Change(NamedTuple):
    """What counters were at a reading, and at all that followed up to the next change."""

    number: int
    """Of the reading."""
    at_s: float
    names: Names
    values: Values

    def value(self, name: str) -> int:
        """Of one counter; 0 if it was not read."""
        return self.values[self.names.index(name)] if name in self.names else 0


Firsts = dict[tuple[Names, Values], tuple[Change, ...]]
"""The first readings of what is new, to be shared."""


def _most(thing: object) -> int:
    """How many readings of it are kept."""
    whole = thing is OVERVIEW or isinstance(thing, VirtualHost)
    return TOTAL_SAMPLES_MAX if whole else OBJECT_SAMPLES_MAX


class Statistics:
    """Readings of one broker."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._kept: dict[object, tuple[Change, ...]] = {}
        self._times: deque[float] = deque(maxlen=TOTAL_SAMPLES_MAX)
        """When each of the last readings began."""
        self._begun = 0
        """Number of the last of them."""
        self._done = 0
        """Number of the last that has ended: between the two some things were read, some not."""

    # -- reading

    def sample(self) -> Steps[None]:
        """Read everything, a slice at a time."""
        self._begun += 1
        self._times.append(self._node.broker.now)
        firsts: Firsts = {}
        seen: set[object] = set()
        for count, (thing, names, values) in enumerate(self._everything()):
            seen.add(thing)
            self._keep(thing, names, values, firsts)
            if count % SLICE == SLICE - 1:
                yield
        for thing in [thing for thing in self._kept if thing not in seen]:
            del self._kept[thing]
        self._done = self._begun

    def _everything(self) -> Iterator[tuple[object, Names, Values]]:
        broker = self._node.broker
        traffic = self._node.traffic()
        for session in list(broker.sessions):
            yield session, *_apart(of_session(traffic.get(session, NO_TRAFFIC)))
            for channel in list(session.channels.values()):
                channel.turn_to(channel.tally)
                yield channel, *_apart(of_channel(channel))
        for host in list(broker.virtual_hosts.values()):
            for exchange in list(host.exchanges.values()):
                yield exchange, *_apart(of_exchange(exchange))
            for queue in list(host.queues.values()):
                yield queue, OF_QUEUE, _values_of_queue(queue)
            yield host, *_apart(self.of_host(host, traffic))
        hosts = list(broker.virtual_hosts.values())
        yield OVERVIEW, *_apart(self.of_hosts(hosts) | self.churn())

    def _keep(self, thing: object, names: Names, values: Values, firsts: Firsts) -> None:
        kept = self._kept.get(thing)
        if kept is not None and kept[-1].values == values:
            return
        names = names if kept is None else kept[-1].names  # one tuple for all
        change = Change(self._begun, self._times[-1], names, values)
        if kept is None:
            self._kept[thing] = firsts.setdefault((names, values), (change,))
            return
        # Of what is too old the last is still needed: it says what was from then on.
        oldest = self._begun - _most(thing) + 1
        begin = 0
        while begin + 1 < len(kept) and kept[begin + 1].number <= oldest:
            begin += 1
        self._kept[thing] = (*kept[begin:], change)

    def of_host(self, host: VirtualHost, traffic: Mapping[Session, Traffic]) -> Readings:
        """Of a virtual host: its connections, those that are gone, and its queues."""
        total = Counts()
        total.add(host.counts)
        received, sent = host.received_bytes, host.sent_bytes
        for session in self._node.broker.sessions:
            if session.virtual_host is host:
                moved = traffic.get(session, NO_TRAFFIC)
                received += moved.received_bytes
                sent += moved.sent_bytes
                for channel in session.channels.values():
                    total.add(counts.of_channel(channel))
        ready = sum(queue.ready for queue in host.queues.values())
        unacked = sum(queue.unacked for queue in host.queues.values())
        octets = {"recv_oct": received, "send_oct": sent}
        return _counters(total) | _lengths(ready, unacked) | octets

    def of_hosts(self, hosts: list[VirtualHost]) -> Readings:
        """Messages and their counters of several virtual hosts together."""
        total: Readings = {}
        for host in hosts:
            for name, value in self.of_host(host, {}).items():
                if name not in OCTETS:
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
        """`message_stats`, if anything ever happened, and the numbers of messages and octets."""
        lengths: Readings = {name: values[name] for name in LENGTHS if name in values}
        octets: Readings = {name: values[name] for name in OCTETS if name in values}
        apart = {*LENGTHS, *OCTETS}
        counters = {name: value for name, value in values.items() if name not in apart}
        fields = self.shown(thing, lengths, query, "lengths")
        fields |= self.shown(thing, octets, query, "data_rates")
        if any(counters.values()):
            fields["message_stats"] = self.shown(thing, counters, query, "msg_rates")
        return fields

    def idle_since(self, thing: object, values: Readings) -> str | None:
        """From when on nothing has changed, if that was seen; `values` are those of now."""
        kept = self._kept.get(thing)
        if kept is None or kept[-1].values != tuple(values.values()):
            return None
        idle_s = self._node.broker.effects.epoch_s + kept[-1].at_s
        moment = datetime.fromtimestamp(round(idle_s, 3), UTC)
        return moment.isoformat(timespec="milliseconds")

    def shown(
        self, thing: object, values: Readings, query: Mapping[str, str], group: str
    ) -> dict[str, Any]:
        """Each counter and its details. `group` is the beginning of the options for its samples:
        `msg_rates`, `lengths` or `data_rates`."""
        kept = self._kept.get(thing, ())
        window = _window(query, group)
        fields: dict[str, Any] = {}
        for name, value in values.items():
            fields[name] = value
            details: dict[str, Any] = {"rate": self._rate(kept, name)}
            if window is not None:
                details |= self._samples(kept, name, _most(thing), *window)
            fields[f"{name}_details"] = details
        return fields

    def _last(self, kept: tuple[Change, ...]) -> int:
        """Number of the last reading of something."""
        return max(self._done, kept[-1].number)

    def _time(self, number: int) -> float:
        """When a reading began."""
        return self._times[number - self._begun - 1]

    def _rate(self, kept: tuple[Change, ...], name: str) -> float:
        """What the last two readings differ by, a second."""
        if len(kept) < 2 or kept[-1].number < self._last(kept):
            return 0.0
        seconds = self._time(kept[-1].number) - self._time(kept[-1].number - 1)
        return (kept[-1].value(name) - kept[-2].value(name)) / max(seconds, 0.001)

    def _samples(
        self, kept: tuple[Change, ...], name: str, most: int, age_s: int, step_s: int
    ) -> dict[str, Any]:
        """The readings of the last `age_s` seconds, one in `step_s`, the newest first."""
        if not kept:
            return {"samples": [], "avg": 0.0, "avg_rate": 0.0}
        last = self._last(kept)
        newest_s = self._time(last)
        oldest = max(kept[0].number, last - most + 1, self._begun - len(self._times) + 1)
        chosen: list[tuple[float, int]] = []
        change = len(kept) - 1
        for number in range(last, oldest - 1, -1):
            while kept[change].number > number:
                change -= 1
            at_s = self._time(number)
            if newest_s - at_s > age_s:
                break
            if not chosen or chosen[-1][0] - at_s >= step_s - SAMPLE_S / 2:
                chosen.append((at_s, kept[change].value(name)))
        epoch_s = self._node.broker.effects.epoch_s
        numbers = [value for _, value in chosen]
        seconds = chosen[0][0] - chosen[-1][0]
        return {
            "samples": [
                {"sample": value, "timestamp": int((epoch_s + at_s) * 1000)}
                for at_s, value in chosen
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


def of_session(traffic: Traffic) -> Readings:
    """What went over a connection's socket."""
    return {"recv_oct": traffic.received_bytes, "send_oct": traffic.sent_bytes}


def of_channel(channel: Channel) -> Readings:
    """What a channel did."""
    return _counters(counts.of_channel(channel))


def of_exchange(exchange: BrokerExchange) -> Readings:
    """What went through an exchange."""
    published, passed = counts.of_exchange(exchange)
    return {"publish_in": published, "publish_out": passed}


def of_queue(queue: Queue) -> Readings:
    """What happened to a queue's messages, and how many there are."""
    return dict(zip(OF_QUEUE, _values_of_queue(queue), strict=True))


def _values_of_queue(queue: Queue) -> Values:
    """The same without names: there may be very many queues."""
    found = counts.of_queue(queue)
    ready, unacked = queue.ready, queue.unacked
    return (*_COUNTED_BY_QUEUES(found), _delivered(found), ready + unacked, ready, unacked)


def _apart(readings: Readings) -> tuple[Names, Values]:
    return tuple(readings), tuple(readings.values())


def _counters(found: Counts) -> Readings:
    return dict(zip(ALL_COUNTERS, (*_NAMED(found), _delivered(found)), strict=True))


def _delivered(found: Counts) -> int:
    return found.deliver + found.deliver_no_ack + found.get + found.get_no_ack


_NAMED: Final = attrgetter(*NAMES)
_COUNTED_BY_QUEUES: Final = attrgetter(*QUEUE_COUNTERS[:-1])


def _lengths(ready: int, unacked: int) -> Readings:
    return {
        "messages": ready + unacked,
        "messages_ready": ready,
        "messages_unacknowledged": unacked,
    }
