"""Virtual hosts and users: made, changed, deleted while they are in use (3.10.8's words)."""

from __future__ import annotations

import pytest

from amqpd.broker.administration import (
    close_connection,
    delete_user,
    delete_vhost,
    put_user,
    put_vhost,
)
from amqpd.broker.definitions import VhostRecord
from amqpd.broker.parameters import InvalidParameter, NoSuchVhost
from amqpd.broker.passwords import SHA256
from amqpd.broker.policies import set_policy
from tests.conversation import PERSISTENT, BrokerUnderTest


def test_a_virtual_host_goes_with_everything_in_it(journaled: BrokerUnderTest) -> None:
    kept = dict(journaled.journal.store.definitions)
    journaled.add_vhost("gone")
    set_policy(journaled.core, "gone", "p", pattern="", definition={"max-length": 5})
    host = journaled.core.virtual_hosts["gone"]
    queue = host.declare_queue("q", durable=True, auto_delete=False, arguments={})
    made = host.declare_exchange(
        "x", "direct", durable=True, auto_delete=True, internal=False, arguments={}
    )
    host.bind(made, queue, "k", {})
    host.bind(host.exchanges["amq.topic"], queue, "k", {})
    host.bind(host.exchanges["amq.topic"], host.exchanges["amq.fanout"], "k", {})
    host.bind(host.exchanges["amq.fanout"], made, "k", {})
    journaled.turn()
    journaled.journal.commit()
    client = journaled.client(vhost="gone")
    other = journaled.client()
    channel = client.channel()
    channel.consume("q")
    channel.publish("", "q", b"x", PERSISTENT)
    journaled.journal.commit()
    assert journaled.journal.store.rows
    delete_vhost(journaled.core, "gone")
    journaled.turn()
    client.expect_closed(320, "CONNECTION_FORCED - vhost 'gone' is down", (0, 0))
    journaled.journal.commit()
    assert "gone" not in journaled.core.virtual_hosts
    assert journaled.journal.store.definitions == kept
    assert journaled.journal.store.rows == {}
    other.channel()
    journaled.crash_and_recover()
    assert list(journaled.core.virtual_hosts) == ["/"]
    assert journaled.core.parameters.records(component="policy") == []


def test_a_virtual_host_of_the_same_name_is_a_new_one(broker: BrokerUnderTest) -> None:
    broker.add_vhost("v")
    broker.client(vhost="v").channel().queue_declare("q", exclusive=True)
    delete_vhost(broker.core, "v")
    broker.add_vhost("v")
    broker.turn()
    assert broker.core.sessions == {}
    assert broker.core.virtual_hosts["v"].queues == {}
    broker.client(vhost="v").channel().queue_declare("q")


def test_settings_of_a_virtual_host(journaled: BrokerUnderTest) -> None:
    first = VhostRecord("v", "one", ("a",), "classic")
    second = VhostRecord("v", "two", (), None)
    assert put_vhost(journaled.core, first) is True
    assert put_vhost(journaled.core, second) is False
    journaled.turn()
    journaled.journal.commit()
    journaled.crash_and_recover()
    assert journaled.core.virtual_hosts["v"].record == second


def test_virtual_hosts_that_are_refused(broker: BrokerUnderTest) -> None:
    with pytest.raises(InvalidParameter, match="unsupported default queue type 'nosuch'"):
        put_vhost(broker.core, VhostRecord("v", default_queue_type="nosuch"))
    for name in ("", "é" * 128):
        with pytest.raises(InvalidParameter, match="vhost name must have 1 to 255 bytes"):
            put_vhost(broker.core, VhostRecord(name))
    with pytest.raises(NoSuchVhost, match="vhost 'v' does not exist"):
        delete_vhost(broker.core, "v")
    assert list(broker.core.virtual_hosts) == ["/"]


def test_a_deleted_user_is_out(broker: BrokerUnderTest) -> None:
    broker.add_user("ann")
    broker.permit("ann", ".*", ".*", ".*")
    client = broker.client("ann")
    other = broker.client()
    delete_user(broker.core, "ann")
    broker.turn()
    client.expect_closed(320, "CONNECTION_FORCED - user 'ann' is deleted", (0, 0))
    other.channel()
    with pytest.raises(LookupError, match="user 'ann' does not exist"):
        delete_user(broker.core, "ann")


def test_a_user_keeps_limits_that_are_not_mentioned(journaled: BrokerUnderTest) -> None:
    core = journaled.core
    assert put_user(core, "ann", "", SHA256, limits={"max-channels": 3}) is True
    assert put_user(core, "ann", "", SHA256, ["management"]) is False
    journaled.turn()
    journaled.journal.commit()
    journaled.crash_and_recover()
    user = journaled.core.access.user("ann")
    assert user is not None
    assert (user.tags, user.limits) == (("management",), {"max-channels": 3})


def test_users_that_are_refused(broker: BrokerUnderTest) -> None:
    with pytest.raises(InvalidParameter, match="Unrecognised terms"):
        put_user(broker.core, "ann", "", SHA256, limits={"x": 1})
    with pytest.raises(InvalidParameter, match="user name must have 1 to 255 bytes"):
        put_user(broker.core, "", "", SHA256)
    with pytest.raises(ValueError, match="base64"):
        put_user(broker.core, "ann", "?", SHA256)
    assert broker.core.access.user("ann") is None


def test_a_connection_is_closed_with_a_reason(broker: BrokerUnderTest) -> None:
    client = broker.client()
    [session] = broker.core.sessions
    close_connection(broker.core, session, "Closed via management plugin")
    broker.turn()
    client.expect_closed(320, "CONNECTION_FORCED - Closed via management plugin", (0, 0))
