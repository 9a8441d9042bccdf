"""Delayed messages and the journal: what is kept, when it is safe, and how little is in memory."""

from __future__ import annotations

import random

import pytest

from amqpd.broker import waiting_room
from amqpd.broker.waiting_room import WaitingRoom
from amqpd.commands import Exchange, Queue
from amqpd.runtime.recovery import restored_delays
from amqpd_storage.entries import Delay, DropDelays, Enqueue, Release
from amqpd_storage.errors import DamagedStore
from tests.constants import replace_constant
from tests.conversation import BrokerUnderTest, Channel, Confirmed, method, properties, table


def set_up(broker: BrokerUnderTest, *, durable: bool = True) -> Channel:
    """Exchange `later`, queue `q` bound by `k`; committed."""
    channel = broker.client().channel()
    arguments = table({"x-delayed-type": "direct"})
    channel.send(
        method(
            Exchange.Declare, exchange="later", exchange_type="x-delayed-message", durable=durable
        ),
        arguments,
    )
    channel.send(method(Queue.Declare, queue="q", durable=True))
    channel.send(method(Queue.Bind, queue="q", exchange="later", routing_key="k"))
    broker.journal.commit()
    channel.take_all()
    channel.confirm_select()
    return channel


def send(channel: Channel, body: bytes, delay_ms: int, *, persistent: bool = True) -> None:
    sent = properties(headers={"x-delay": delay_ms}, delivery_mode=2 if persistent else None)
    channel.publish("later", "k", body, sent)


def room(broker: BrokerUnderTest) -> WaitingRoom:
    found = broker.core.virtual_hosts["/"].exchanges["later"].waiting_room
    assert found is not None
    return found


def delivered(broker: BrokerUnderTest) -> list[bytes]:
    """Everything in `q`, at the price of a new client."""
    broker.journal.commit()
    bodies = broker.client().channel().drain("q")
    broker.journal.commit()
    return bodies


def restart(broker: BrokerUnderTest) -> None:
    """A crash, and the first turn of the next life."""
    broker.crash_and_recover()
    broker.turn()


def in_memory(broker: BrokerUnderTest) -> int:
    waiting = room(broker)
    return len(waiting._heap) + len(waiting._beyond)


# -- confirms


def test_a_confirm_waits_for_the_flush(journaled: BrokerUnderTest) -> None:
    channel = set_up(journaled)
    send(channel, b"x", 1000)
    channel.expect_nothing()
    journaled.journal.begin_commit()
    channel.expect_nothing()
    journaled.journal.end_commit()
    assert channel.confirms() == [Confirmed(1)]


@pytest.mark.parametrize("durable", [False, True])
def test_what_is_not_kept_is_confirmed_at_once(journaled: BrokerUnderTest, durable: bool) -> None:
    channel = set_up(journaled, durable=durable)
    send(channel, b"x", 1000, persistent=not durable)
    assert channel.confirms() == [Confirmed(1)]
    assert journaled.journal.commit() == []


def test_what_comes_due_before_it_was_written_never_is(journaled: BrokerUnderTest) -> None:
    """Its publisher waits for the queue instead."""
    channel = set_up(journaled)
    send(channel, b"x", 5)
    journaled.advance(0.01)
    channel.expect_nothing()
    written = journaled.journal.commit()
    assert len(written) == 1
    assert isinstance(written[0], Enqueue)
    assert channel.confirms() == [Confirmed(1)]
    restart(journaled)
    assert delivered(journaled) == [b"x"]


def test_what_comes_due_while_it_is_written_waits_for_both(journaled: BrokerUnderTest) -> None:
    channel = set_up(journaled)
    send(channel, b"x", 5)
    journaled.journal.begin_commit()
    journaled.advance(0.01)
    journaled.journal.end_commit()
    channel.expect_nothing()
    written = journaled.journal.commit()
    assert {type(entry) for entry in written} > {Release}
    assert channel.confirms() == [Confirmed(1)]


def test_what_comes_due_and_has_nowhere_to_go_is_confirmed(journaled: BrokerUnderTest) -> None:
    channel = set_up(journaled)
    channel.send(method(Queue.Unbind, queue="q", exchange="later", routing_key="k"))
    journaled.journal.commit()
    channel.take_all()
    send(channel, b"x", 5)
    journaled.advance(0.01)
    assert channel.confirms() == [Confirmed(1)]


# -- crashes


def test_a_message_waits_through_a_crash(journaled: BrokerUnderTest) -> None:
    channel = set_up(journaled)
    for body, delay in ((b"c", 3000), (b"a", 1000), (b"b", 2000), (b"d", 3000)):
        send(channel, body, delay)
    send(channel, b"transient", 1000, persistent=False)
    journaled.journal.commit()
    restart(journaled)
    assert room(journaled).messages == 4
    journaled.advance(1.5)
    assert delivered(journaled) == [b"a"]
    restart(journaled)
    journaled.advance(5)
    assert delivered(journaled) == [b"b", b"c", b"d"]


def test_what_came_due_while_the_broker_was_down_is_released_at_once(
    journaled: BrokerUnderTest,
) -> None:
    channel = set_up(journaled)
    send(channel, b"2", 2000)
    send(channel, b"1", 1000)
    journaled.journal.commit()
    journaled.now += 3600
    restart(journaled)
    journaled.advance(0)
    assert delivered(journaled) == [b"1", b"2"]


def test_release_is_one_transaction(journaled: BrokerUnderTest) -> None:
    """Before its commit the message is where it was, after it in its queue; in no case in both."""
    channel = set_up(journaled)
    send(channel, b"x", 5)
    journaled.journal.commit()
    journaled.advance(0.01)
    batch = journaled.journal.begin_commit()
    assert batch is not None
    assert {type(entry).__name__ for entry in batch.entries} == {"QueueMessage", "Release"}
    restart(journaled)
    assert room(journaled).messages == 1
    journaled.advance(0)
    journaled.journal.commit()
    restart(journaled)
    assert room(journaled).messages == 0
    assert delivered(journaled) == [b"x"]


def test_new_messages_come_after_those_of_before_the_crash(journaled: BrokerUnderTest) -> None:
    channel = set_up(journaled)
    send(channel, b"1", 1000)
    send(channel, b"2", 1000)
    journaled.journal.commit()
    restart(journaled)
    channel = journaled.client().channel()
    send(channel, b"3", 1000)
    journaled.advance(2)
    assert delivered(journaled) == [b"1", b"2", b"3"]


def test_an_exchange_that_is_deleted_takes_its_messages_along(journaled: BrokerUnderTest) -> None:
    channel = set_up(journaled)
    send(channel, b"written", 1000)
    journaled.journal.commit()
    assert channel.confirms() == [Confirmed(1)]
    send(channel, b"not written", 1000)
    journaled.client().channel().send(method(Exchange.Delete, exchange="later"))
    assert channel.confirms() == [Confirmed(2)]
    written = journaled.journal.commit()
    assert DropDelays(1) in written
    assert not any(isinstance(entry, Delay) for entry in written)
    assert journaled.journal.store.delays == {}
    restart(journaled)
    channel = set_up(journaled)
    assert room(journaled).messages == 0
    assert room(journaled).exchange_id == 1


def test_a_new_exchange_of_the_same_name_has_other_rows(journaled: BrokerUnderTest) -> None:
    channel = set_up(journaled)
    send(channel, b"x", 1000)
    channel.send(method(Exchange.Delete, exchange="later"))
    channel = set_up(journaled)
    assert room(journaled).exchange_id == 2
    send(channel, b"y", 1000)
    journaled.journal.commit()
    restart(journaled)
    journaled.advance(2)
    assert delivered(journaled) == [b"y"]


def test_messages_of_an_exchange_that_is_not_defined_are_damage(journaled: BrokerUnderTest) -> None:
    channel = set_up(journaled)
    send(channel, b"x", 1000)
    journaled.journal.commit()
    definitions = journaled.journal.store.definitions
    for name in [name for name in definitions if "later" in name[1]]:
        del definitions[name]
    with pytest.raises(DamagedStore, match="messages of exchange 1, which is not defined"):
        restart(journaled)


# -- the window


@pytest.fixture
def small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six messages are many."""
    replace_constant(monkeypatch, waiting_room, "WINDOW_MESSAGES", 6)
    replace_constant(monkeypatch, waiting_room, "LOW_MESSAGES", 2)
    replace_constant(monkeypatch, waiting_room, "READ_MESSAGES", 3)


@pytest.mark.usefixtures("small_window")
def test_only_a_window_is_in_memory(journaled: BrokerUnderTest) -> None:
    channel = set_up(journaled)
    for number in range(100):
        send(channel, b"%d" % number, 1000 + number * 10)
        if number % 10 == 9:
            journaled.journal.commit()
            assert in_memory(journaled) <= 6
    assert room(journaled).messages == 100
    for _ in range(40):
        journaled.advance(0.1)
        journaled.journal.commit()
        assert in_memory(journaled) <= 6
    assert delivered(journaled) == [b"%d" % number for number in range(100)]
    assert room(journaled).messages == 0


@pytest.mark.usefixtures("small_window")
def test_large_messages_make_a_small_window(
    journaled: BrokerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_constant(monkeypatch, waiting_room, "WINDOW_BYTES", 1000)
    channel = set_up(journaled)
    for number in range(6):
        send(channel, b"%d" % number * 400, 1000 + number)
    journaled.journal.commit()
    assert in_memory(journaled) <= 2
    journaled.advance(2)
    assert [body[:1] for body in delivered(journaled)] == [b"%d" % number for number in range(6)]


@pytest.mark.usefixtures("small_window")
def test_a_start_reads_the_nearest_and_no_more(journaled: BrokerUnderTest) -> None:
    channel = set_up(journaled)
    for number in range(50):
        send(channel, b"%d" % number, 1000 + 10 * number)
    journaled.journal.commit()
    restart(journaled)
    assert in_memory(journaled) == 3
    assert room(journaled).messages == 50
    journaled.advance(5)
    assert delivered(journaled) == [b"%d" % number for number in range(50)]


@pytest.mark.usefixtures("small_window")
def test_what_is_published_during_a_read_is_not_forgotten(journaled: BrokerUnderTest) -> None:
    """The read may have come before the write: whatever it did not find is still in memory."""
    channel = set_up(journaled)
    for number in range(20):
        send(channel, b"%02d" % number, 1000 + 100 * number)
    journaled.journal.commit()
    journaled.reads_at_once = False
    restart(journaled)
    channel = journaled.client().channel()
    (read,) = journaled.core.effects.delay_reads
    journaled.core.effects.delay_reads.clear()
    rows, at_end = journaled.journal.store.read_delays(read.exchange_id, read.after, read.rows_max)
    # Between the first and the second of what was read, long before it, and after it.
    for body, delay in ((b"00.5", 1050), (b"-1", 10), (b"05.5", 1550)):
        send(channel, body, delay)
    journaled.journal.commit()  # after the read, before its answer
    read.room.fill(restored_delays(read.room, rows), at_end=at_end)
    journaled.reads_at_once = True
    journaled.turn()
    journaled.advance(10)
    bodies = [b"%02d" % number for number in range(20)] + [b"00.5", b"-1", b"05.5"]
    assert delivered(journaled) == sorted(bodies, key=float)


@pytest.mark.usefixtures("small_window")
def test_nothing_overtakes_what_is_still_to_be_read(journaled: BrokerUnderTest) -> None:
    """A transient message that is due later than rows of the store waits until these are there."""
    channel = set_up(journaled)
    for number in range(20):
        send(channel, b"%02d" % number, 1000)
    journaled.journal.commit()
    journaled.reads_at_once = False
    restart(journaled)
    channel = journaled.client().channel()
    send(channel, b"transient", 2000, persistent=False)
    journaled.advance(5)
    assert room(journaled).messages == 21
    journaled.reads_at_once = True
    journaled.turn()
    journaled.advance(0)
    assert delivered(journaled) == [b"%02d" % number for number in range(20)] + [b"transient"]


@pytest.mark.usefixtures("small_window")
def test_an_exchange_may_go_while_its_messages_are_read(journaled: BrokerUnderTest) -> None:
    channel = set_up(journaled)
    for number in range(20):
        send(channel, b"%d" % number, 1000)
    journaled.journal.commit()
    journaled.reads_at_once = False
    restart(journaled)
    channel = journaled.client().channel()
    channel.send(method(Exchange.Delete, exchange="later"))
    journaled.reads_at_once = True
    journaled.turn()
    journaled.advance(5)
    assert delivered(journaled) == []


@pytest.mark.usefixtures("small_window")
@pytest.mark.parametrize("seed", range(40))
def test_any_order_of_publishing_reading_and_writing(journaled: BrokerUnderTest, seed: int) -> None:
    """Whatever happens when: everything arrives, once, by due time and arrival, and in time."""
    chance = random.Random(seed)
    channel = set_up(journaled)
    journaled.reads_at_once = False
    due: list[tuple[int, int, bytes]] = []
    for number in range(120):
        match chance.randrange(8):
            case 0:
                journaled.journal.commit()
            case 1:
                journaled.answer_reads()
                journaled.turn()
            case 2:
                journaled.advance(chance.randrange(40) / 1000)
            case _:
                delay = chance.choice((10, 50, 50, 200, 2000, chance.randrange(1, 500)))
                persistent = chance.random() < 0.8
                body = b"%d" % number
                send(channel, body, delay, persistent=persistent)
                due.append((journaled.core.effects.epoch_ms() + delay, number, body))
    journaled.reads_at_once = True
    journaled.turn()
    journaled.advance(10)
    assert delivered(journaled) == [body for _, _, body in sorted(due)]
    assert (room(journaled).messages, in_memory(journaled)) == (0, 0)
    assert journaled.journal.store.delays == {}
    numbers = [confirmed.number for confirmed in channel.confirms()]
    assert max(numbers) == len(due)
