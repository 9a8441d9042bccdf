"""Dead letters that push others out, or are too many for one turn, or are hard to make."""

from __future__ import annotations

from math import factorial
from typing import Any

import pytest

from amqpd.broker.dying import EFFORT_A_TURN
from amqpd.commands import Channel as ChannelClass
from amqpd.commands import Confirm, Queue
from amqpd.commands import Connection as ConnectionClass
from amqpd.config import Config, Limits
from amqpd.wire.properties import read_headers
from tests.conversation import (
    PERSISTENT,
    BrokerUnderTest,
    Channel,
    Confirmed,
    Delivery,
    declare,
    method,
    properties,
    table,
)


def chain(channel: Channel, count: int) -> None:
    """Queues of which each has room for nothing, and drops what it gets into the next one."""
    for number in range(count):
        declare(
            channel,
            f"q{number}",
            x_max_length=0,
            x_dead_letter_exchange="",
            x_dead_letter_routing_key=f"q{number + 1}",
        )
    declare(channel, f"q{count}")


def ring(channel: Channel, count: int) -> None:
    """Queues that drop what they get into all of them: there are `count!` ways through it."""
    channel.exchange_declare("f", "fanout")
    for number in range(count):
        declare(channel, f"q{number}", x_max_length=0, x_dead_letter_exchange="f")
        channel.queue_bind(f"q{number}", "f", "")


def test_a_long_chain_is_no_recursion(broker: BrokerUnderTest, channel: Channel) -> None:
    chain(channel, 400)
    channel.publish("", "q0", b"x")
    broker.advance(1)
    got = channel.get("q400")
    assert got is not None
    _, deaths = read_headers(got.properties, 64)["x-death"]
    assert len(deaths) == 400


def test_many_copies_take_many_turns(broker: BrokerUnderTest, channel: Channel) -> None:
    ring(channel, 6)
    channel.publish("f", "", b"x")
    dying = broker.core.dying
    other = broker.client().channel()
    looks = 0
    while dying.waiting:
        other.queue_declare("other")  # others have their turns
        # As many wait as are on one way, with their neighbours.
        assert len(dying.waiting) <= 6 * 6
        broker.advance(0.000_02)
        looks += 1
    copies = sum(factorial(6) // factorial(6 - length) for length in range(1, 7))
    assert looks >= copies // EFFORT_A_TURN


def test_rejections_take_turns_too(broker: BrokerUnderTest, channel: Channel) -> None:
    declare(channel, "q", x_dead_letter_exchange="", x_dead_letter_routing_key="dead")
    declare(channel, "dead")
    count = EFFORT_A_TURN
    channel.consume("q")
    for number in range(count):
        channel.publish("", "q", b"%d" % number)
    channel.deliveries()
    channel.nack(0, multiple=True, requeue=False)
    assert 0 < broker.core.virtual_hosts["/"].queues["dead"].ready < count
    broker.advance(0.001)
    assert channel.drain("dead") == [b"%d" % number for number in range(count)]


def test_who_waits_for_its_turn_is_where_it_died_after_a_crash() -> None:
    broker = BrokerUnderTest(journaling=True)
    channel = broker.client().channel()
    arguments = table({"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
    for name in ("q", "dead"):
        channel.send(method(Queue.Declare, queue=name, durable=True), arguments)
        broker.journal.commit()
        channel.take(Queue.DeclareOk)
    channel.send(Confirm.Select())
    channel.take(Confirm.SelectOk)
    count = EFFORT_A_TURN
    channel.consume("q")
    for _ in range(count):
        channel.publish("", "q", b"x", PERSISTENT)
    broker.journal.commit()
    channel.take_all()
    channel.nack(0, multiple=True, requeue=False)
    dead = broker.core.virtual_hosts["/"].queues["dead"].ready
    assert 0 < dead < count
    broker.journal.commit()
    broker.crash_and_recover()
    queues = broker.core.virtual_hosts["/"].queues
    assert (queues["dead"].ready, queues["q"].ready) == (dead, count - dead)


def test_a_key_that_is_too_long_is_cut(broker: BrokerUnderTest, channel: Channel) -> None:
    """RabbitMQ routes by it, and breaks the connection of who is to get the message."""
    channel.exchange_declare("dlx", "fanout")
    declare(channel, "dead")
    channel.queue_bind("dead", "dlx", "")
    declare(
        channel,
        "q",
        x_message_ttl=100,
        x_dead_letter_exchange="dlx",
        x_dead_letter_routing_key="k" * 300,
    )
    channel.publish("", "q", b"x")
    broker.advance(1)
    got = channel.get("dead")
    assert got is not None
    assert got.routing_key == "k" * 255


def test_the_count_after_the_last_one_is_the_first(
    broker: BrokerUnderTest, channel: Channel
) -> None:
    declare(channel, "dead")
    declare(
        channel,
        "q",
        x_message_ttl=100,
        x_dead_letter_exchange="",
        x_dead_letter_routing_key="dead",
    )
    death = {"queue": "q", "reason": "expired", "count": 2**63 - 1}
    channel.publish("", "q", b"x", properties(headers={"x-death": [death]}))
    broker.advance(1)
    got = channel.get("dead")
    assert got is not None
    _, ((_, said),) = read_headers(got.properties, 64)["x-death"]
    assert said["count"] == ("l", -(2**63))


def test_headers_that_are_deeper_than_the_limit_of_today() -> None:
    """Stored under another one: the dead letter is one without them."""
    broker = BrokerUnderTest(journaling=True)
    channel = broker.client().channel()
    for name, arguments in (
        ("q", table({"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})),
        ("dead", {}),
    ):
        channel.send(method(Queue.Declare, queue=name, durable=True), arguments)
    deep: dict[str, Any] = {}
    for _ in range(8):
        deep = {"a": deep}
    channel.publish("", "q", b"x", properties(headers=deep, delivery_mode=2))
    broker.journal.commit()
    broker.config = Config(limits=Limits(table_depth_max=4))
    broker.crash_and_recover()
    channel = broker.client().channel()
    got = channel.get("q")
    assert got is not None
    channel.reject(got.delivery_tag, requeue=False)
    broker.journal.commit()
    got = channel.get("dead")
    assert got is not None
    assert got.body == b"x"


@pytest.mark.parametrize(
    ("arguments", "held", "passed_on"),
    [
        ({"x_overflow": "reject-publish"}, 1, 0),
        ({"x_overflow": "reject-publish-dlx"}, 1, 3),
        ({"x_overflow": "reject-publish", "x_queue_type": "quorum"}, 4, 0),
        ({"x_overflow": "drop-head"}, 1, 3),
    ],
)
def test_a_full_queue_refuses_dead_letters_as_well(
    broker: BrokerUnderTest,
    channel: Channel,
    arguments: dict[str, str],
    held: int,
    passed_on: int,
) -> None:
    """RabbitMQ 3.10.8; of a quorum queue it is the publisher that refuses."""
    declare(channel, "q", x_dead_letter_exchange="", x_dead_letter_routing_key="full")
    declare(
        channel,
        "full",
        x_max_length=1,
        x_dead_letter_exchange="",
        x_dead_letter_routing_key="last",
        **arguments,
    )
    declare(channel, "last")
    channel.publish("", "full", b"x")
    for _ in range(3):
        channel.publish("", "q", b"x")
        got = channel.get("q")
        assert got is not None
        channel.reject(got.delivery_tag, requeue=False)
    queues = broker.core.virtual_hosts["/"].queues
    assert (queues["full"].ready, queues["last"].ready) == (held, passed_on)


def test_a_dead_letter_may_be_a_direct_reply(broker: BrokerUnderTest, channel: Channel) -> None:
    requester = broker.client().channel()
    requester.consume("amq.rabbitmq.reply-to", no_ack=True)
    declare(channel, "asked")
    requester.publish("", "asked", properties=properties(reply_to="amq.rabbitmq.reply-to"))
    asked = channel.get("asked", no_ack=True)
    assert asked is not None
    token = asked.properties[3:].decode()
    declare(channel, "q", x_dead_letter_exchange="", x_dead_letter_routing_key=token)
    channel.publish("", "q", b"sorry")
    got = channel.get("q")
    assert got is not None
    channel.reject(got.delivery_tag, requeue=False)
    (reply,) = requester.take_all()
    assert isinstance(reply, Delivery)
    assert reply.body == b"sorry"


def test_a_blind_copy_to_a_key_that_nothing_can_be_bound_with(channel: Channel) -> None:
    declare(channel, "q")
    channel.publish("", "q", b"x", properties(headers={"BCC": ["k" * 300]}))
    assert channel.drain("q") == [b"x"]


@pytest.mark.parametrize("end", ["close", "error", "connection"])
def test_what_is_confirmed_is_said_before_the_channel_ends(channel: Channel, end: str) -> None:
    channel.send(Confirm.Select())
    channel.take(Confirm.SelectOk)
    with channel.client.together():
        channel.publish("", "nowhere")
        if end == "close":
            channel.send(method(ChannelClass.Close, reply_code=200, reply_text="bye"))
        elif end == "error":
            channel.publish("missing", "x")
        else:
            said = method(ConnectionClass.Close, reply_code=200, reply_text="bye")
            channel.client.send(0, said)
    confirmed, *rest = channel.take_all()
    assert confirmed == Confirmed(1)
    assert len(rest) == (end != "connection")
