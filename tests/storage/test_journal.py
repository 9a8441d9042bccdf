from __future__ import annotations

from amqpd_storage.entries import (
    ELIDED,
    LARGE_BYTES,
    PENDING,
    TAKEN,
    Barrier,
    Delivered,
    DropQueue,
    PutDefinition,
    Settle,
)
from amqpd_storage.journal import ENTRY_OVERHEAD_BYTES, Journal
from tests.storage.contents import ENVELOPE, enqueue, make_content


def test_takes_everything_pending_in_order() -> None:
    journal = Journal()
    first, second = enqueue(1, 1), enqueue(1, 2)
    settle, drop = Settle(7, 4), DropQueue(3)
    journal.append_all([first, settle])
    journal.append_all([drop, second])

    batch = journal.take()

    assert batch is not None
    assert batch.entries == [first, settle, drop, second]
    assert batch.enqueues == [first, second]
    assert not batch.is_empty


def test_nothing_to_take() -> None:
    assert Journal().take() is None


def test_one_batch_at_a_time() -> None:
    journal = Journal()
    journal.append_all([enqueue(1, 1)])
    batch = journal.take()
    late = enqueue(1, 2)
    journal.append_all([late])

    assert journal.take() is None
    assert journal.has_pending

    assert batch is not None
    journal.committed(batch)
    following = journal.take()
    assert following is not None
    assert following.enqueues == [late]
    assert not journal.has_pending


def test_enqueue_is_taken_with_its_batch() -> None:
    journal = Journal()
    message = enqueue(1, 1)
    journal.append_all([message])
    assert message.state == PENDING

    journal.take()

    assert message.state == TAKEN


def test_elided_enqueue_is_left_out() -> None:
    journal = Journal()
    settled, kept = enqueue(1, 1), enqueue(1, 2)
    journal.append_all([settled, kept])
    settled.state = ELIDED

    batch = journal.take()

    assert batch is not None
    assert batch.entries == batch.enqueues == [kept]
    assert settled.state == ELIDED


def test_batch_of_barriers_and_elided_enqueues_needs_no_transaction() -> None:
    journal = Journal()
    barrier, settled = Barrier(), enqueue(1, 1)
    settled.state = ELIDED
    journal.append_all([settled, barrier])

    batch = journal.take()

    assert batch is not None
    assert batch.is_empty
    assert batch.barriers == [barrier]


def test_shared_message_is_written_with_the_first_enqueue_that_is_not_elided() -> None:
    journal = Journal()
    content = make_content(b"news", message_id=5)
    copies = [enqueue(queue_id, 1, content) for queue_id in range(1, 4)]
    journal.append_all([*copies])
    copies[0].state = ELIDED

    batch = journal.take()

    assert batch is not None
    assert batch.shared == [content]
    assert content.stored
    journal.committed(batch)
    journal.append_all([enqueue(9, 1, content)])
    following = journal.take()
    assert following is not None
    assert following.shared == []


def test_shared_message_that_is_elided_everywhere_is_never_stored() -> None:
    journal = Journal()
    content = make_content(b"news", message_id=5)
    copies = [enqueue(queue_id, 1, content) for queue_id in range(1, 4)]
    journal.append_all([*copies])
    for copy in copies:
        copy.state = ELIDED

    batch = journal.take()

    assert batch is not None
    assert batch.is_empty
    assert not content.stored


def test_pending_bytes_fall_when_the_batch_is_committed() -> None:
    journal = Journal()
    message = make_content(b"x" * 1000)
    journal.append_all([enqueue(1, 1, message), Settle(1, 4)])
    whole = 1000 + len(message.properties) + len(ENVELOPE) + 2 * ENTRY_OVERHEAD_BYTES
    assert journal.pending_bytes == whole

    batch = journal.take()
    journal.append_all([PutDefinition("queue", "q", b"12345")])
    assert journal.pending_bytes == whole + ENTRY_OVERHEAD_BYTES + 5

    assert batch is not None
    journal.committed(batch)
    assert journal.pending_bytes == ENTRY_OVERHEAD_BYTES + 5


def test_bytes_of_a_publish_to_many_queues_count_once() -> None:
    journal = Journal()
    content = make_content(b"x" * 1000, message_id=1)

    journal.append_all([enqueue(queue_id, 1, content) for queue_id in range(10)])

    assert journal.pending_bytes < 1100 + 10 * ENTRY_OVERHEAD_BYTES


def test_appended_list_stays_the_callers() -> None:
    journal = Journal()
    entries = [enqueue(1, 1), enqueue(1, 2)]
    journal.append_all([*entries])
    entries.clear()

    batch = journal.take()

    assert batch is not None
    assert len(batch.enqueues) == 2


def test_neighbours_are_settled_by_one_entry() -> None:
    settle = Settle(7, 4)
    assert settle.extend(8, 5)
    assert settle.extend(9, 0)
    assert (settle.key, settle.last, settle.messages, settle.body_bytes) == (7, 9, 3, 9)


def test_what_is_settled_by_an_entry_of_its_own() -> None:
    settle = Settle(7, 4)
    assert not settle.extend(9, 4)  # no neighbour
    assert not settle.extend(6, 4)
    assert not settle.extend(8, LARGE_BYTES)
    assert not Settle(7, LARGE_BYTES).extend(8, 0)
    assert not Settle(7, 4, message_id=3).extend(8, 4)
    assert (settle.last, settle.messages, settle.body_bytes) == (7, 1, 4)
    assert settle.extend(8, LARGE_BYTES - 5)
    assert not settle.extend(9, 1)  # together they would look like a large one


def test_what_consumers_have_done_is_awaited_by_nobody() -> None:
    journal = Journal()
    journal.append_all([Settle(7, 4), Delivered(1, 5)])
    assert not journal.awaited
    batch = journal.take()
    assert batch is not None
    assert not batch.awaited
    journal.committed(batch)

    for entry in (enqueue(1, 1), Barrier(), DropQueue(3), PutDefinition("queue", "a", b"")):
        journal.append_all([Settle(8, 4), entry, Settle(9, 4)])
        assert journal.awaited
        batch = journal.take()
        assert batch is not None
        assert batch.awaited
        assert not journal.awaited
        journal.committed(batch)
