"""Exchanges of type x-federation-upstream: what a RabbitMQ downstream declares to link to us."""

from __future__ import annotations

from typing import Any

import pytest

from amqpd.commands import Exchange, Queue
from tests.conversation import (
    BrokerUnderTest,
    Channel,
    Refused,
    method,
    properties,
    table,
)

KIND = "x-federation-upstream"


def arguments(max_hops: Any = ("l", 2), **more: Any) -> dict[str, Any]:
    """As rabbit_federation_exchange_link declares it."""
    return {
        "x-max-hops": max_hops,
        "x-downstream-name": "down",
        "x-downstream-vhost": "/",
        "x-internal-purpose": "federation",
        **more,
    }


def hop(name: str, vhost: str = "/") -> dict[str, Any]:
    return {"uri": "amqp://there", "cluster-name": name, "vhost": vhost}


@pytest.fixture
def linked(channel: Channel) -> Channel:
    channel.exchange_declare("x", "topic")
    channel.exchange_declare("i", KIND, internal=True, auto_delete=True, arguments=arguments())
    channel.queue_declare("q")
    channel.queue_bind("q", "i")
    channel.exchange_bind("i", "x", "a.*")
    return channel


@pytest.mark.parametrize(
    ("received_from", "passes"),
    [
        (None, True),
        ([], True),
        ([hop("elsewhere")], True),
        ([hop("down", "other")], True),
        ([hop("down")], False),
        ([hop("one"), hop("two")], False),
        (["down"], True),
        ([{"cluster-name": ("x", b"down"), "vhost": "/"}], True),
        ("from a client", True),
        (7, True),
    ],
)
def test_a_message_passes_while_it_may_travel(
    linked: Channel, received_from: Any, passes: bool
) -> None:
    headers = None if received_from is None else {"x-received-from": received_from}
    linked.publish("x", "a.b", b"m", properties(headers=headers))
    assert linked.drain("q") == ([b"m"] if passes else [])


def test_what_passed_once_says_nothing_of_the_next(linked: Channel) -> None:
    travelled = properties(headers={"x-received-from": [hop("down")]})
    for how in (properties(), travelled, properties(), travelled):
        linked.publish("x", "a.b", b"m", how)
    linked.publish("x", "b", b"not bound")
    assert linked.drain("q") == [b"m", b"m"]


def test_links_of_old_versions_do_not_say_where_they_lead_to(channel: Channel) -> None:
    channel.exchange_declare("i", KIND, arguments={"x-max-hops": ("l", 2)})
    channel.queue_declare("q")
    channel.queue_bind("q", "i")
    travelled: list[list[Any]] = [[{}], [hop("down")], [hop("down"), hop("down")]]
    for entries in travelled:
        channel.publish("i", "", b"m", properties(headers={"x-received-from": entries}))
    assert channel.drain("q") == [b"m", b"m"]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({}, "Argument x-max-hops missing"),
        ({"x-max-hops": ("I", 1)}, "Argument x-max-hops must be of type long"),
        ({"x-max-hops": "1"}, "Argument x-max-hops must be of type long"),
    ],
)
def test_the_number_of_hops_is_a_must(channel: Channel, wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(Refused) as refused:
        channel.exchange_declare("i", KIND, arguments=wrong)
    assert (refused.value.code, refused.value.text) == (406, f"PRECONDITION_FAILED - {text}")


def test_only_the_hops_make_two_declarations_differ(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    channel.exchange_declare("i", KIND, arguments=arguments())
    channel.exchange_declare("i", KIND, arguments=arguments(**{"x-downstream-name": "other"}))
    with pytest.raises(Refused) as refused:
        channel.exchange_declare("i", KIND, arguments=arguments(("l", 3)))
    assert refused.value.code == 406
    assert "inequivalent arg 'x-max-hops'" in refused.value.text


def test_it_is_there_after_a_restart(journaled: BrokerUnderTest) -> None:
    channel = journaled.client().channel()
    declare = method(Exchange.Declare, exchange="i", exchange_type=KIND, durable=True)
    channel.send(declare, table(arguments(("l", 1))))
    channel.send(method(Queue.Declare, queue="q", durable=True))
    channel.send(method(Queue.Bind, queue="q", exchange="i", routing_key=""))
    journaled.journal.commit()
    journaled.crash_and_recover()
    channel = journaled.client().channel()
    channel.publish("i", "", b"first hop")
    channel.publish("i", "", b"second", properties(headers={"x-received-from": [hop("one")]}))
    assert channel.drain("q") == [b"first hop"]
