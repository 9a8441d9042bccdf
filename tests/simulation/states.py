"""The durable part of the model's state, and what is found in a store: are they the same?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from amqpd.broker.deduplication import header_text
from amqpd.broker.definitions import (
    BindingRecord,
    ExchangeRecord,
    ParameterRecord,
    QueueRecord,
    Record,
    ReturnRecord,
    SeenRecord,
)
from tests.simulation.actions import Publish
from tests.simulation.letters import Letter, ReturnCount


class Kept(NamedTuple):
    """A message of a durable queue."""

    uid: int
    handed_out: bool
    maybe: bool
    """It may have been handed out, or will be called so."""
    expires_ms: int
    letter: Letter
    level: int
    """Its priority, negative, or that under which it was written anew."""
    recorded: ReturnCount
    due_ms: int
    """Until when it waits, or waited last, since it came back."""
    buried_as: str


class Waiting(NamedTuple):
    """A message of a durable delayed exchange."""

    published: Publish
    due_ms: int


class State(NamedTuple):
    """What of the model's state is durable: what a store may be found to hold."""

    queues: dict[str, tuple[Kept, ...]]
    exchanges: frozenset[str]
    bindings: frozenset[tuple[str, str, str]]
    """Exchange, queue, key."""
    waiting: tuple[Waiting, ...] = ()
    seen: tuple[str, ...] = ()
    policy: Mapping[str, int] | None = None


EMPTY: Final = State({}, frozenset(), frozenset())


class FoundMessage(NamedTuple):
    """A message of a queue in the store."""

    uid: int
    redelivered: bool
    """Whether it will be called so."""
    expires_ms: int
    recorded: ReturnCount
    """How often it came back to a queue that counts it."""
    due_ms: int
    """Until when it waits for its retry, or waited last."""
    buried_as: str

    def is_that_of(self, kept: Kept) -> bool:
        """Whether the model had it so."""
        return (
            self.uid == kept.uid
            and self.expires_ms == kept.expires_ms
            and self.buried_as == kept.buried_as
            and (self.redelivered == kept.handed_out or kept.maybe)
            and (kept.maybe or (self.recorded, self.due_ms) == (kept.recorded, kept.due_ms))
        )


class FoundRow(NamedTuple):
    """A row of a queue in the store."""

    position: int
    body: bytes
    redelivered: bool
    expires_ms: int


class Found(NamedTuple):
    """What a store holds after a crash."""

    queues: dict[str, tuple[FoundMessage, ...]]
    exchanges: frozenset[str]
    bindings: frozenset[tuple[str, str, str]]
    waiting: tuple[tuple[int, int], ...]
    """For each message that waits its number, and when it is due; in this order."""
    seen: tuple[str, ...]
    policy: Mapping[str, int] | None

    def is_that_of(self, state: State) -> bool:
        """Whether it is what the model had."""
        return (
            self.exchanges == state.exchanges
            and self.bindings == state.bindings
            and self.policy == state.policy
            and self.seen == tuple(map(shown_header, state.seen))
            and self.waiting == tuple((what.uid, due_ms) for what, due_ms in state.waiting)
            and self.queues.keys() == state.queues.keys()
            and all(
                len(messages) == len(state.queues[name])
                and all(
                    message.is_that_of(kept)
                    for message, kept in zip(messages, state.queues[name], strict=True)
                )
                for name, messages in self.queues.items()
            )
        )


def shown_header(header: str) -> str:
    """As the store has it."""
    return header_text(("S", header))


def found_in(
    records: Sequence[Record],
    rows: dict[int, list[FoundRow]],
    delays: dict[int, list[tuple[bytes, int]]],
) -> Found:
    """From definitions, by queue id the rows, and by exchange id the bodies that wait, and when
    they are due."""
    queues: dict[str, tuple[FoundMessage, ...]] = {}
    returns = {
        (record.queue_id, record.position): record
        for record in records
        if isinstance(record, ReturnRecord)
    }
    exchanges: set[str] = set()
    bindings: set[tuple[str, str, str]] = set()
    waiting: list[tuple[int, int]] = []
    seen: list[tuple[int, str]] = []
    policy = None
    for record in records:
        match record:
            case QueueRecord():
                found = [
                    (row, returns.get((lane_id, row.position)))
                    for lane_id in record.lane_ids
                    for row in rows.get(lane_id, ())
                ]
                found.sort(key=lambda pair: pair[0].position)
                queues[record.name] = tuple(found_message(*pair) for pair in found)
            case ExchangeRecord():
                exchanges.add(record.name)
                waiting += [(uid_of(body), due) for body, due in delays.get(record.exchange_id, ())]
            case SeenRecord():
                seen.append((record.number, record.header))
            case ParameterRecord(component="policy"):
                policy = record.value["definition"]
            case BindingRecord():
                bindings.add((record.source, record.destination, record.routing_key))
    headers = tuple(header for _, header in sorted(seen))
    return Found(queues, frozenset(exchanges), frozenset(bindings), tuple(waiting), headers, policy)


def found_message(row: FoundRow, returned: ReturnRecord | None) -> FoundMessage:
    """A row, and what is known of its return."""
    uid = uid_of(row.body)
    if returned is None:
        return FoundMessage(uid, row.redelivered, row.expires_ms, ReturnCount(), 0, "")
    recorded = ReturnCount(returned.acquired, returned.failed)
    redelivered = row.redelivered or recorded.acquired > 0
    due_ms, buried_as = returned.ready_at_ms, returned.buried_as
    return FoundMessage(uid, redelivered, row.expires_ms, recorded, due_ms, buried_as)


def uid_of(body: bytes) -> int:
    """The number at the beginning of the body."""
    return int(body[: body.index(b" ")])
