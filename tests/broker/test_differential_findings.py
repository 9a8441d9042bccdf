"""What the differential run against RabbitMQ 3.10.8 found (`compat/differential`)."""

from __future__ import annotations

import pytest

from amqpd.broker.policies import set_policy
from amqpd.commands import Basic, Queue, Tx
from tests.conversation import (
    BrokerUnderTest,
    Channel,
    Confirmed,
    Delivery,
    Returned,
    method,
    properties,
)
from tests.hyphens import hyphenated


def test_line_ends_stay_in_the_names_of_queues_to_be_used(channel: Channel) -> None:
    channel.queue_declare("q")
    for said, ids in (
        (method(Basic.Consume, queue="q\r\n", consumer_tag="t"), (60, 20)),
        (method(Basic.Get, queue="q\r\n"), (60, 70)),
        (method(Queue.Purge, queue="q\r\n"), (50, 30)),
    ):
        channel.send(said)
        channel.expect_closed(404, "NOT_FOUND - no queue 'q\r\n' in vhost '/'", ids)
        channel.open()


def test_what_is_no_string_in_cc_is_no_routing_key(channel: Channel) -> None:
    channel.queue_declare("q")
    cc = ("A", [("I", 1), ("x", b"q"), ("S", "q"), ("V", None)])
    channel.publish("", "nope", b"1", properties(headers={"CC": cc}))
    assert channel.drain("q") == [b"1"]


def test_bcc_is_taken_out_though_it_be_empty_and_of_returns_too(channel: Channel) -> None:
    sent = properties(headers={"a": ("I", 1), "BCC": ("A", [])})
    channel.publish("", "nope", b"1", sent, mandatory=True)
    assert channel.take(Returned).properties == properties(headers={"a": ("I", 1)})


def test_arguments_are_looked_at_in_rabbitmqs_order(channel: Channel) -> None:
    def refused(reason: str, **arguments: tuple[str, object]) -> None:
        channel.send(method(Queue.Declare, queue="q"), hyphenated(arguments))
        channel.expect_closed(406, f"PRECONDITION_FAILED - invalid arg {reason}", (50, 10))
        channel.open()

    queue = "for queue 'q' in vhost '/'"
    refused(
        f"'x-dead-letter-routing-key' {queue}: routing_key_but_no_dlx_defined",
        x_max_priority=("f", 1.0),
        x_dead_letter_routing_key=("S", "k"),
    )
    refused(
        f"'x-overflow' {queue}: invalid_overflow",
        x_max_age=("S", "1h"),
        x_overflow=("S", "zz"),
    )
    refused(
        f"'x-max-age' {queue} of queue type rabbit_classic_queue",
        x_max_age=("S", "1h"),
        x_delivery_limit=("I", 5),
    )


@pytest.mark.parametrize("first", ["x-max-priority", "x-queue-mode", "x-queue-version"])
def test_arguments_are_compared_in_rabbitmqs_order(channel: Channel, first: str) -> None:
    channel.queue_declare("q")
    named = {"x-single-active-consumer": ("t", True), first: ("I", 1)}
    channel.send(method(Queue.Declare, queue="q"), named)
    text = f"PRECONDITION_FAILED - inequivalent arg '{first}' for queue 'q' in vhost '/': "
    text += "received the value '1' of type 'signedint' but current is none"
    channel.expect_closed(406, text, (50, 10))


def test_a_binding_is_looked_at_before_the_owner_of_its_queue(broker: BrokerUnderTest) -> None:
    broker.client().channel().queue_declare("q", exclusive=True)
    channel = broker.client().channel()
    said = method(Queue.Bind, queue="q", exchange="amq.headers")
    channel.send(said, {"x-match": ("S", "zz")})
    text = 'PRECONDITION_FAILED - Invalid x-match field value <<"zz">>; '
    channel.expect_closed(406, text + "expected all, any, all-with-x, or any-with-x", (50, 20))


def test_a_consumers_priority_is_looked_at_before_the_other_consumers(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.consume("q", "t")
    said = method(Basic.Consume, queue="q", consumer_tag="u", exclusive=True)
    channel.send(said, {"x-priority": ("d", 1.0)})
    text = "PRECONDITION_FAILED - invalid arg 'x-priority' for queue 'q' in vhost '/': "
    channel.expect_closed(406, text + '"expected integer, got double"', (60, 20))


def test_the_queue_is_looked_for_before_the_consumer_tag(broker: BrokerUnderTest) -> None:
    broker.client().channel().queue_declare("q")
    channel = broker.client().channel()
    channel.consume("q", "t")
    channel.send(method(Basic.Consume, queue="", consumer_tag="t"))
    channel.expect_closed(404, "NOT_FOUND - no previously declared queue", (60, 20))


def test_a_qos_that_is_not_global_ends_the_global_window(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.qos(1, of_channel=True)
    channel.consume("q", "t")
    channel.publish("", "q", b"1")
    channel.publish("", "q", b"2")
    assert channel.take(Delivery).body == b"1"
    channel.expect_nothing()
    channel.qos(5)
    assert channel.take(Delivery).body == b"2"


def test_a_full_global_window_holds_back_consumers_without_acks(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.queue_declare("r")
    channel.qos(1, of_channel=True)
    channel.consume("q", "t")
    channel.consume("r", "free", no_ack=True)
    channel.publish("", "r", b"0")
    assert channel.take(Delivery).body == b"0"
    channel.publish("", "q", b"1")
    channel.publish("", "r", b"2")
    delivery = channel.take(Delivery)
    assert delivery.body == b"1"
    channel.expect_nothing()
    channel.ack(delivery.delivery_tag)
    assert channel.take(Delivery).body == b"2"


def test_messages_of_get_take_no_place_in_the_global_window(channel: Channel) -> None:
    """RabbitMQ counts those that are outstanding when the window comes, and never lets them go."""
    channel.queue_declare("q")
    for body in (b"0", b"1", b"2"):
        channel.publish("", "q", body)
    got = channel.get("q")
    assert got is not None
    channel.consume("q", "t")
    channel.take(Delivery)
    channel.take(Delivery)
    channel.qos(3, of_channel=True)
    channel.publish("", "q", b"3")
    assert channel.take(Delivery).body == b"3"
    channel.publish("", "q", b"4")
    channel.expect_nothing()
    channel.ack(got.delivery_tag)
    channel.expect_nothing()


def test_a_reply_consumer_that_would_acknowledge_is_told_so_first(channel: Channel) -> None:
    channel.consume("amq.rabbitmq.reply-to", "t", no_ack=True)
    channel.send(method(Basic.Consume, queue="amq.rabbitmq.reply-to", consumer_tag="u"))
    text = "PRECONDITION_FAILED - reply consumer cannot acknowledge"
    channel.expect_closed(406, text, (60, 20))


def test_a_transaction_names_queues_of_the_default_exchange(channel: Channel) -> None:
    channel.tx_select()
    channel.publish("", "q", b"1", properties(headers={"BCC": ["r"]}))
    channel.queue_declare("q")
    channel.queue_declare("r")
    channel.tx_commit()
    assert channel.drain("q") == [b"1"]
    assert channel.drain("r") == [b"1"]


def test_a_queue_that_went_gets_nothing_of_the_transaction(channel: Channel) -> None:
    channel.queue_declare("q")
    channel.tx_select()
    channel.publish("", "q", b"1", mandatory=True)
    channel.queue_delete("q")
    channel.send(method(Tx.Commit))
    assert channel.take(Returned).body == b"1"
    channel.take(Tx.CommitOk)


def test_what_a_transaction_requeues_in_a_row_comes_back_before_any_of_it_goes_out(
    channel: Channel,
) -> None:
    channel.queue_declare("q")
    for body in (b"1", b"2"):
        channel.publish("", "q", body)
    first, second = channel.get("q"), channel.get("q")
    assert first is not None
    assert second is not None
    channel.consume("q", "t")
    channel.tx_select()
    channel.reject(second.delivery_tag)
    channel.nack(first.delivery_tag)
    channel.tx_commit()
    assert channel.bodies() == [b"1", b"2"]


@pytest.mark.parametrize("durable", [True, False])
def test_without_time_to_live_there_is_no_place_behind_older_messages(
    broker: BrokerUnderTest, durable: bool
) -> None:
    channel = broker.client().channel()
    channel.queue_declare("q", durable=durable)
    channel.publish("", "q", b"old")
    set_policy(broker.core, "/", "p", pattern="", definition={"message-ttl": 0})
    channel.confirm_select()
    channel.publish("", "q", b"new", properties(delivery_mode=2))
    assert channel.confirms() == [Confirmed(1)]
    assert channel.counts("q") == (1, 0)

    # A dead letter it can become only at the head.
    buried = {"message-ttl": 0, "dead-letter-exchange": ""}
    set_policy(broker.core, "/", "p", pattern="", definition=buried)
    channel.publish("", "q", b"newer")
    assert channel.counts("q") == (2, 0)


def test_what_comes_back_to_a_full_queue_goes_before_it_is_handed_out(
    broker: BrokerUnderTest, channel: Channel
) -> None:
    channel.queue_declare("q", arguments={"x-max-length": 1})
    first, second, third = (broker.client().channel() for _ in range(3))
    for taker in (first, second, third):
        taker.qos(1)
        taker.consume("q", "t")
        channel.publish("", "q", b"1")
    waiting = broker.client().channel()
    channel.publish("", "q", b"2")
    waiting.consume("q", "t")
    assert waiting.bodies() == [b"2"]
    for taker in (first, second):
        taker.client.drop()
    assert waiting.bodies() == [b"1", b"1"]

    with_two = broker.client().channel()
    channel.queue_declare("r", arguments={"x-max-length": 1})
    with_two.consume("r", "t")
    for body in (b"1", b"2"):
        channel.publish("", "r", body)
    waiting.consume("r", "u")
    with_two.nack(0, multiple=True)
    assert with_two.bodies() + waiting.bodies() == [b"1", b"2", b"2"]


def test_nothing_is_told_as_nothing_where_arguments_differ(channel: Channel) -> None:
    channel.send(method(Queue.Declare, queue="q"), {"x-max-length-bytes": ("I", 120)})
    channel.take(Queue.DeclareOk)
    channel.send(method(Queue.Declare, queue="q"), {"x-max-length-bytes": ("V", None)})
    text = "PRECONDITION_FAILED - inequivalent arg 'x-max-length-bytes' for queue 'q' in vhost '/':"
    channel.expect_closed(406, f"{text} received none but current is '120'", (50, 10))


def test_consumers_that_a_window_held_back_share_what_is_ready(channel: Channel) -> None:
    """Also with one that needs not acknowledge: it would take all of it."""
    channel.queue_declare("q")
    channel.consume("q", "c")
    channel.consume("q", "free", no_ack=True)
    channel.publish("", "q", b"1")
    channel.publish("", "q", b"2")
    channel.qos(2, of_channel=True)
    for body in (b"3", b"4", b"5", b"6"):
        channel.publish("", "q", body)
    served = [(item.consumer_tag, item.body) for item in channel.deliveries()]
    assert served == [("c", b"1"), ("free", b"2"), ("c", b"3")]
    channel.ack(1)
    served = [(item.consumer_tag, item.body) for item in channel.deliveries()]
    assert served == [("free", b"4"), ("c", b"5")]


@pytest.mark.parametrize("end", ["ack", "discard"])
@pytest.mark.parametrize("tags", ["ab", "ba"])
def test_consumers_whose_windows_open_together_are_served_in_the_order_of_their_tags(
    channel: Channel, tags: str, end: str
) -> None:
    channel.queue_declare("q")
    channel.qos(2)
    for tag in tags:
        channel.consume("q", tag)
    for number in range(8):
        channel.publish("", "q", b"%d" % number)
    assert len(channel.deliveries()) == 4
    if end == "ack":
        channel.ack(4, multiple=True)
    else:
        channel.nack(4, multiple=True, requeue=False)
    assert [item.consumer_tag for item in channel.deliveries()] == ["a", "a", "b", "b"]


def test_acks_of_a_transaction_make_room_for_what_it_publishes(channel: Channel) -> None:
    channel.send(method(Queue.Declare, queue="q"), {"x-message-ttl": ("I", 0)})
    channel.take(Queue.DeclareOk)
    channel.tx_select()
    channel.qos(1)
    channel.consume("q", "t")
    other = channel.client.channel()
    other.publish("", "q", b"1")
    assert channel.take(Delivery).body == b"1"
    channel.publish("", "q", b"2")
    channel.ack(1)
    channel.send(method(Tx.Commit))
    assert [item.body for item in channel.take_all() if isinstance(item, Delivery)] == [b"2"]
