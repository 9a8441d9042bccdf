"""Dead letters (reference 7.2): where they go, what their headers say, and that none is lost."""

from __future__ import annotations

from typing import Any

import pytest

from amqpd.commands import Queue
from amqpd.wire.properties import EXPIRATION, read_headers, read_property
from amqpd.wire.tables import plain
from tests.conversation import (
    PERSISTENT,
    BrokerUnderTest,
    Channel,
    Confirmed,
    Got,
    declare,
    method,
    properties,
    table,
)


def stage(channel: Channel, **arguments: object) -> None:
    """`q`, whose dead letters go through the exchange `dlx` with the key `gone` to `dead`."""
    channel.exchange_declare("dlx", "direct")
    declare(channel, "dead")
    channel.queue_bind("dead", "dlx", "gone")
    declare(
        channel,
        "q",
        x_dead_letter_exchange="dlx",
        x_dead_letter_routing_key="gone",
        **arguments,
    )


def headers_of(got: Got) -> dict[str, Any]:
    return plain(read_headers(got.properties, 64))


def reject(channel: Channel, queue: str = "q") -> None:
    got = channel.get(queue)
    assert got is not None
    channel.reject(got.delivery_tag, requeue=False)


def test_a_rejected_message_goes_to_the_dead_letter_exchange(channel: Channel) -> None:
    stage(channel)
    channel.publish("", "q", b"body", properties(content_type="text/plain", headers={"mine": 1}))
    reject(channel)
    got = channel.get("dead")
    assert got is not None
    assert (got.exchange, got.routing_key, got.body, got.redelivered) == (
        "dlx",
        "gone",
        b"body",
        False,
    )
    headers = read_headers(got.properties, 64)
    assert headers["mine"] == table({"mine": 1})["mine"]
    octet, deaths = headers["x-death"]
    assert octet == "A"
    ((kind, death),) = deaths
    assert kind == "F"
    time_octet, _ = death.pop("time")
    assert time_octet == "T"
    assert death == {
        "count": ("l", 1),
        "reason": ("S", "rejected"),
        "queue": ("S", "q"),
        "exchange": ("S", ""),
        "routing-keys": ("A", [("S", "q")]),
    }
    assert {key: value for key, value in plain(headers).items() if "-death-" in key} == {
        "x-first-death-queue": "q",
        "x-first-death-reason": "rejected",
        "x-first-death-exchange": "",
        "x-last-death-queue": "q",
        "x-last-death-reason": "rejected",
        "x-last-death-exchange": "",
    }


@pytest.mark.parametrize("multiple", [False, True])
def test_nack_without_requeue_is_a_rejection(channel: Channel, multiple: bool) -> None:
    stage(channel)
    for number in range(3):
        channel.publish("", "q", b"%d" % number)
        last = channel.get("q")
    assert last is not None
    channel.nack(last.delivery_tag, multiple=multiple, requeue=False)
    assert channel.drain("dead") == ([b"0", b"1", b"2"] if multiple else [b"2"])


def test_an_expired_message_loses_its_expiration_and_remembers_it(
    broker: BrokerUnderTest, channel: Channel
) -> None:
    stage(channel)
    channel.publish("", "q", b"x", properties(expiration="500"))
    broker.advance(1)
    got = channel.get("dead")
    assert got is not None
    assert read_property(got.properties, EXPIRATION) is None
    (death,) = headers_of(got)["x-death"]
    assert (death["reason"], death["original-expiration"]) == ("expired", "500")
    assert death["time"] == 1000


def test_the_head_of_a_full_queue_is_a_dead_letter(channel: Channel) -> None:
    stage(channel, x_max_length=1)
    channel.publish("", "q", b"old")
    channel.publish("", "q", b"new")
    got = channel.get("dead")
    assert got is not None
    assert got.body == b"old"
    assert headers_of(got)["x-first-death-reason"] == "maxlen"


def test_reject_publish_dlx_dead_letters_the_new_message(channel: Channel) -> None:
    stage(channel, x_max_length=1, x_overflow="reject-publish-dlx")
    channel.confirm_select()
    channel.publish("", "q", b"old")
    channel.publish("", "q", b"new")
    assert channel.confirms() == [Confirmed(1), Confirmed(2, ack=False)]
    assert channel.drain("q") == [b"old"]
    assert channel.drain("dead") == [b"new"]


def test_without_a_key_of_its_own_the_messages_keys_are_used(channel: Channel) -> None:
    channel.exchange_declare("dlx", "direct")
    for key in ("k", "copy"):
        declare(channel, f"dead-{key}")
        channel.queue_bind(f"dead-{key}", "dlx", key)
    declare(channel, "q", x_dead_letter_exchange="dlx")
    channel.queue_bind("q", "amq.direct", "k")
    channel.publish("amq.direct", "k", b"x", properties(headers={"CC": ["copy"]}))
    reject(channel)
    got = channel.get("dead-k")
    assert got is not None
    assert (got.routing_key, headers_of(got)["x-death"][0]["routing-keys"]) == ("k", ["k", "copy"])
    assert channel.counts("dead-copy")[0] == 1


def journaled_channel(broker: BrokerUnderTest, queues: dict[str, dict[str, Any]]) -> Channel:
    """Durable queues, each bound to amq.direct by its own name; amq.fanout leads to `q`."""
    channel = broker.client().channel()
    for name, arguments in queues.items():
        channel.send(method(Queue.Declare, queue=name, durable=True), table(arguments))
        channel.send(method(Queue.Bind, queue=name, exchange="amq.direct", routing_key=name))
    channel.send(method(Queue.Bind, queue="q", exchange="amq.fanout", routing_key=""))
    broker.journal.commit()
    channel.take_all()
    return channel


COPIES = properties(delivery_mode=2, headers={"CC": ["copy"], "BCC": ["blind", "nowhere"]})


@pytest.mark.parametrize("crash", [False, True])
def test_blind_copies_count_and_stay_unseen(crash: bool) -> None:
    """Observed on 3.10.8: of a dead letter's dead letter, too."""
    broker = BrokerUnderTest(journaling=True)
    to_direct = {"x-dead-letter-exchange": "amq.direct"}
    again = {"q": to_direct, "blind": {"x-dead-letter-exchange": "amq.topic"}, "copy": {}}
    channel = journaled_channel(broker, {**again, "last": {}})
    channel.send(method(Queue.Bind, queue="last", exchange="amq.topic", routing_key="nowhere"))
    channel.publish("amq.fanout", "k", b"x", COPIES)
    for queue in ("q", "blind"):
        broker.journal.commit()
        if crash:
            broker.crash_and_recover()
            channel = broker.client().channel()
        reject(channel, queue)
    broker.journal.commit()
    if crash:
        broker.crash_and_recover()
        channel = broker.client().channel()
    for queue, deaths in (("copy", 1), ("last", 2)):
        got = channel.get(queue)
        assert got is not None
        headers = headers_of(got)
        assert (headers["CC"], "BCC" in headers) == (["copy"], False)
        assert len(headers["x-death"]) == deaths
        assert all(death["routing-keys"] == ["k", "copy"] for death in headers["x-death"])


def test_a_key_of_the_queue_ends_the_copies() -> None:
    """RabbitMQ keeps the CC header from 3.13 on, and counts its keys no more."""
    broker = BrokerUnderTest(journaling=True)
    to_next = {"x-dead-letter-exchange": "amq.direct", "x-dead-letter-routing-key": "next"}
    queues = {"q": to_next, "next": {"x-dead-letter-exchange": "amq.direct"}, "copy": {}}
    channel = journaled_channel(broker, {**queues, "blind": {}})
    channel.publish("amq.fanout", "k", b"x", COPIES)
    broker.journal.commit()
    reject(channel, "q")
    broker.journal.commit()
    broker.crash_and_recover()
    channel = broker.client().channel()
    got = channel.get("next")
    assert got is not None
    assert headers_of(got)["CC"] == ["copy"]
    channel.reject(got.delivery_tag, requeue=False)
    assert [channel.counts(queue)[0] for queue in ("copy", "blind")] == [0, 0]


def test_more_blind_copies_than_a_record_has_room_for() -> None:
    """Those that have no room do not survive a crash; the message does."""
    broker = BrokerUnderTest(journaling=True)
    queues = {"q": {"x-dead-letter-exchange": "amq.direct"}, "first": {}, "last": {}}
    channel = journaled_channel(broker, queues)
    keys = ["first", *(str(number).zfill(255) for number in range(300)), "last"]
    channel.publish("amq.fanout", "k", b"x", properties(delivery_mode=2, headers={"BCC": keys}))
    broker.journal.commit()
    assert all(len(row.envelope) <= 65535 for row in broker.journal.store.rows.values())
    broker.crash_and_recover()
    channel = broker.client().channel()
    reject(channel)
    assert (channel.drain("first"), channel.drain("last")) == ([b"x"], [])


def test_a_missing_dead_letter_exchange_drops(channel: Channel) -> None:
    declare(channel, "q", x_dead_letter_exchange="nowhere")
    channel.publish("", "q", b"x")
    reject(channel)
    assert channel.counts("q")[0] == 0


def test_neither_purge_nor_delete_dead_letters(channel: Channel) -> None:
    stage(channel)
    channel.publish("", "q", b"x")
    channel.queue_purge("q")
    channel.publish("", "q", b"x")
    channel.queue_delete("q")
    assert channel.counts("dead")[0] == 0


def test_counts_grow_and_the_most_recent_death_comes_first(
    broker: BrokerUnderTest, channel: Channel
) -> None:
    """q -rejected-> wait -expired-> q, the retry loop that everybody builds."""
    declare(channel, "q", x_dead_letter_exchange="", x_dead_letter_routing_key="wait")
    declare(
        channel,
        "wait",
        x_message_ttl=1000,
        x_dead_letter_exchange="",
        x_dead_letter_routing_key="q",
    )
    channel.publish("", "q", b"x")
    for _ in range(3):
        reject(channel)
        broker.advance(1.1)
    got = channel.get("q")
    assert got is not None
    deaths = [(d["queue"], d["reason"], d["count"]) for d in headers_of(got)["x-death"]]
    assert deaths == [("wait", "expired", 3), ("q", "rejected", 3)]
    assert headers_of(got)["x-first-death-queue"] == "q"
    assert headers_of(got)["x-last-death-queue"] == "wait"
    assert got.exchange == ""


def test_a_loop_in_which_nobody_rejects_is_cut(broker: BrokerUnderTest, channel: Channel) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        declare(
            channel,
            name,
            x_message_ttl=100,
            x_dead_letter_exchange="",
            x_dead_letter_routing_key=other,
        )
    channel.publish("", "a", b"x")
    broker.advance(60)
    assert (channel.counts("a")[0], channel.counts("b")[0]) == (0, 0)


def test_a_queue_that_is_its_own_dead_letter_queue_with_no_time_to_live(channel: Channel) -> None:
    declare(channel, "q", x_message_ttl=0, x_dead_letter_exchange="", x_dead_letter_routing_key="q")
    channel.publish("", "q", b"x")
    assert channel.counts("q")[0] == 0


@pytest.mark.parametrize(("compat", "count"), [("3.13", 8), ("4.2", 1)])
def test_history_that_a_client_supplies(compat: Any, count: int) -> None:
    """3.x continues it; from 4.0 on it is replaced."""
    channel = BrokerUnderTest(compat=compat).client().channel()
    stage(channel)
    death = {"queue": "q", "reason": "rejected", "count": 7}
    channel.publish("", "q", b"x", properties(headers={"x-death": [death]}))
    reject(channel)
    got = channel.get("dead")
    assert got is not None
    (found,) = headers_of(got)["x-death"]
    assert found["count"] == count


@pytest.mark.parametrize(("compat", "count"), [("3.13", 8), ("4.2", 1), ("4.3", 1)])
def test_history_that_a_client_supplies_is_no_truer_after_a_crash(compat: Any, count: int) -> None:
    broker = BrokerUnderTest(journaling=True, compat=compat)
    channel = broker.client().channel()
    arguments = table({"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
    channel.send(method(Queue.Declare, queue="dead", durable=True))
    channel.send(method(Queue.Declare, queue="q", durable=True), arguments)
    death = {"queue": "q", "reason": "rejected", "count": 7}
    sent = properties(delivery_mode=2, headers={"x-death": [death]})
    channel.publish("", "q", b"x", sent)
    broker.journal.commit()
    broker.crash_and_recover()
    channel = broker.client().channel()
    reject(channel)
    broker.turn()
    broker.journal.commit()
    broker.crash_and_recover()
    got = broker.client().channel().get("dead")
    assert got is not None
    (found,) = headers_of(got)["x-death"]
    assert found["count"] == count


def test_a_crash_leaves_a_dead_letter_in_one_of_the_two_queues() -> None:
    broker = BrokerUnderTest(journaling=True)
    journal = broker.journal
    channel = broker.client().channel()
    arguments = table({"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
    channel.send(method(Queue.Declare, queue="dead", durable=True))
    channel.send(method(Queue.Declare, queue="q", durable=True), arguments)
    journal.commit()
    channel.take_all()
    channel.publish("", "q", b"x", PERSISTENT)
    journal.commit()
    reject(channel)
    batch = journal.begin_commit()
    assert batch is not None
    journal.end_commit()
    assert [row.body for row in journal.store.rows.values()] == [b"x"]
    broker.crash_and_recover()
    survivor = broker.client().channel()
    assert (survivor.drain("q"), survivor.drain("dead")) == ([], [b"x"])


def test_a_confirm_waits_for_the_dead_letter_that_took_the_messages_place() -> None:
    broker = BrokerUnderTest(journaling=True)
    journal = broker.journal
    channel = broker.client().channel()
    arguments = table(
        {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead", "x-message-ttl": 0}
    )
    channel.send(method(Queue.Declare, queue="dead", durable=True))
    channel.send(method(Queue.Declare, queue="q", durable=True), arguments)
    journal.commit()
    channel.take_all()
    channel.confirm_select()
    channel.publish("", "q", b"x", PERSISTENT)
    assert channel.confirms() == []
    journal.commit()
    assert channel.confirms() == [Confirmed(1)]
    assert [row.body for row in journal.store.rows.values()] == [b"x"]


def test_an_exchange_may_be_the_alternate_of_the_dead_letter_exchange(channel: Channel) -> None:
    channel.exchange_declare("ae", "fanout")
    declare(channel, "last")
    channel.queue_bind("last", "ae")
    channel.exchange_declare("dlx", "direct", arguments={"alternate-exchange": "ae"})
    declare(channel, "q", x_dead_letter_exchange="dlx")
    channel.publish("", "q", b"x")
    reject(channel)
    got = channel.get("last")
    assert got is not None
    assert got.exchange == "dlx"
