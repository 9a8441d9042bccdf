"""Limits of virtual hosts and users: what is refused, in which words, and from when on.

Observed on RabbitMQ 3.10.8.
"""

from __future__ import annotations

from typing import Any

import pytest

from amqpd.broker import limits
from amqpd.broker.administration import put_vhost
from amqpd.broker.definitions import VhostRecord
from amqpd.broker.parameters import InvalidParameter, NoSuchVhost
from tests.conversation import BrokerUnderTest, Refused

OPEN = (10, 40)


def set_limit(broker: BrokerUnderTest, limit: str, value: Any, vhost: str = "/") -> None:
    limits.set_vhost_limit(broker.core, vhost, limit, value)
    broker.turn()


def refused_open(broker: BrokerUnderTest, text: str, user: str = "guest") -> None:
    with pytest.raises(Refused) as refused:
        broker.client(user)
    refused.value.check(530, f"NOT_ALLOWED - {text}", OPEN, of_connection=True)


def test_connections_of_a_virtual_host(broker: BrokerUnderTest) -> None:
    broker.add_vhost("other")
    broker.client(vhost="other")
    first = broker.client()
    set_limit(broker, "max-connections", 1)
    text = "access to vhost '/' refused for user 'guest': connection limit (1) is reached"
    refused_open(broker, text)
    first.close()
    broker.client().close()
    set_limit(broker, "max-connections", 0)
    refused_open(broker, text.replace("1", "0"))
    set_limit(broker, "max-connections", -1)
    broker.client()
    broker.client()


def test_queues_of_a_virtual_host(broker: BrokerUnderTest) -> None:
    channel = broker.client().channel()
    set_limit(broker, "max-queues", 1)
    channel.queue_declare("a")
    channel.queue_declare("a")
    text = "PRECONDITION_FAILED - cannot declare queue 'b': queue limit in vhost '/' (1) is reached"
    with channel.refuses(406, text, (50, 10)):
        channel.queue_declare("b")
    channel.open()
    limits.clear_vhost_limit(broker.core, "/", "max-queues")
    channel.queue_declare("b")
    set_limit(broker, "max-queues", 1)  # those that are there stay
    assert channel.counts("a") == (0, 0)


def test_connections_of_a_user(broker: BrokerUnderTest) -> None:
    broker.add_user("ann")
    broker.permit("ann", ".*", ".*", ".*")
    limits.set_user_limit(broker.core, "ann", "max-connections", 1)
    client = broker.client("ann")
    text = "connection refused for user 'ann': user connection limit (1) is reached"
    refused_open(broker, text, "ann")
    broker.client("guest")
    client.drop()
    broker.client("ann")
    limits.clear_user_limit(broker.core, "ann", "max-connections")
    broker.client("ann")


def test_channels_of_a_user_over_all_connections(broker: BrokerUnderTest) -> None:
    limits.set_user_limit(broker.core, "guest", "max-channels", 2)
    first = broker.client()
    channel = first.channel()
    broker.client().channel()
    second = broker.client()
    text = "number of channels opened for user 'guest' has reached the maximum allowed user limit"
    with second.refuses(530, f"NOT_ALLOWED - {text} of (2)", (0, 0)):
        second.channel()
    channel.close()
    broker.client().channel()


@pytest.mark.parametrize(
    ("limit", "value", "text"),
    [
        ("max-foo", 5, 'Unrecognised terms [{<<"max-foo">>,5}] in limits'),
        ("max-queues", "x", 'max-queues should be a number, actually was <<"x">>'),
        ("max-queues", 1.5, "max-queues should be a number, actually was 1.5"),
    ],
)
def test_wrong_limits_of_a_virtual_host(
    broker: BrokerUnderTest, limit: str, value: Any, text: str
) -> None:
    with pytest.raises(InvalidParameter) as refused:
        set_limit(broker, limit, value)
    assert str(refused.value) == f"Validation failed\n\n{text}\n"
    assert limits.vhost_limits(broker.core, "/") == {}


@pytest.mark.parametrize(
    ("limit", "value", "text"),
    [
        ("max-foo", 5, 'Unrecognised terms [{<<"max-foo">>,5}] in user-limits'),
        ("max-channels", "x", 'max-channels should be a number, actually was <<"x">>'),
    ],
)
def test_wrong_limits_of_a_user(broker: BrokerUnderTest, limit: str, value: Any, text: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        limits.set_user_limit(broker.core, "guest", limit, value)
    assert str(refused.value) == text


def test_who_is_not_there(broker: BrokerUnderTest) -> None:
    with pytest.raises(NoSuchVhost):
        set_limit(broker, "max-queues", 1, "nowhere")
    with pytest.raises(LookupError, match="user 'nobody' does not exist"):
        limits.set_user_limit(broker.core, "nobody", "max-channels", 1)


def test_limits_survive_a_crash(journaled: BrokerUnderTest) -> None:
    set_limit(journaled, "max-queues", 7)
    set_limit(journaled, "max-connections", 8)
    limits.set_user_limit(journaled.core, "guest", "max-channels", 9)
    journaled.turn()
    journaled.journal.commit()
    journaled.crash_and_recover()
    assert limits.vhost_limits(journaled.core, "/") == {"max-queues": 7, "max-connections": 8}
    guest = journaled.core.access.user("guest")
    assert guest is not None
    assert guest.limits == {"max-channels": 9}
    limits.clear_vhost_limit(journaled.core, "/", "max-queues")
    limits.clear_vhost_limit(journaled.core, "/", "max-connections")
    assert journaled.core.parameters.records() == []


# -- the default queue type


@pytest.mark.parametrize(
    ("default", "how", "kind"),
    [
        ("classic", {"durable": True}, "classic"),
        ("classic", {"durable": True, "auto_delete": True}, "classic"),
        ("classic", {"durable": False}, None),
        ("classic", {"durable": True, "exclusive": True}, None),
        ("quorum", {"durable": True}, "quorum"),
        ("quorum", {"durable": True, "auto_delete": True}, None),
        ("quorum", {"durable": False}, None),
        (None, {"durable": True}, None),
    ],
)
def test_a_default_queue_type_goes_where_it_can(
    broker: BrokerUnderTest, default: str | None, how: dict[str, Any], kind: str | None
) -> None:
    put_vhost(broker.core, VhostRecord("/", default_queue_type=default))
    channel = broker.client().channel()
    channel.queue_declare("q", **how)
    channel.queue_declare("q", **how)
    arguments = broker.core.virtual_hosts["/"].queues["q"].arguments
    assert arguments == ({} if kind is None else {"x-queue-type": ("S", kind)})


def test_a_declared_queue_type_stays(broker: BrokerUnderTest) -> None:
    put_vhost(broker.core, VhostRecord("/", default_queue_type="quorum"))
    channel = broker.client().channel()
    channel.queue_declare("q", durable=True, arguments={"x-queue-type": "classic"})
    assert broker.core.virtual_hosts["/"].queues["q"].type == "classic"
