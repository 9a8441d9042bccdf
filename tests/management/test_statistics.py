"""Numbers that clients read: each is what happened, over AMQP and over HTTP."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from amqpd.management.statistics import SAMPLE_S
from tests.conversation import PERSISTENT, TRANSIENT, Channel, properties
from tests.management.api import Api, api


@pytest.fixture
def broker() -> Api:
    """An empty one."""
    return api()


@pytest.fixture
def channel(broker: Api) -> Channel:
    """Of a client, with a queue `q`."""
    opened = broker.broker.client().channel()
    opened.queue_declare("q")
    return opened


def sample(broker: Api) -> None:
    """Let the time between two readings pass, and read."""
    broker.broker.advance(SAMPLE_S)
    for _ in broker.application.statistics.sample():
        pass


def stats(broker: Api, path: str) -> dict[str, Any]:
    """What is not zero of an object's `message_stats`, without details."""
    shown = broker.get(path).get("message_stats", {})
    return {name: value for name, value in shown.items() if isinstance(value, int) and value}


def everywhere(broker: Api) -> list[dict[str, Any]]:
    """Of the queue, the one channel, the virtual host and the broker."""
    name = broker.get("/channels")[0]["name"].replace(" ", "%20")
    return [
        stats(broker, path)
        for path in ("/queues/%2F/q", f"/channels/{name}", "/vhosts/%2F", "/overview")
    ]


def test_nothing_happened(broker: Api, channel: Channel) -> None:
    assert everywhere(broker) == [{}, {}, {}, {}]
    assert "message_stats" not in broker.get("/queues/%2F/q")


def test_published_delivered_and_acknowledged(broker: Api, channel: Channel) -> None:
    channel.qos(3)
    for _ in range(5):
        channel.publish("", "q", b"x")
    channel.consume("q")
    channel.ack(2, multiple=True)
    expected = {"publish": 5, "deliver": 5, "deliver_get": 5, "ack": 2}
    assert everywhere(broker) == [expected] * 4
    queue = broker.get("/queues/%2F/q")
    assert [queue[name] for name in ("messages", "messages_ready", "messages_unacknowledged")] == [
        3,
        0,
        3,
    ]


def test_automatic_acknowledgement(broker: Api, channel: Channel) -> None:
    channel.publish("", "q", b"x")
    channel.consume("q", no_ack=True)
    channel.publish("", "q", b"x")
    expected = {"publish": 2, "deliver_no_ack": 2, "deliver_get": 2}
    assert everywhere(broker) == [expected] * 4


def test_requeued_and_rejected(broker: Api, channel: Channel) -> None:
    for _ in range(3):
        channel.publish("", "q", b"x")
    channel.consume("q")
    channel.reject(1, requeue=True)
    channel.reject(2, requeue=False)
    channel.ack(3)
    expected = {"publish": 3, "deliver": 4, "deliver_get": 4, "redeliver": 1, "ack": 1}
    assert everywhere(broker) == [expected] * 4


def test_several_at_once(broker: Api, channel: Channel) -> None:
    for _ in range(4):
        channel.publish("", "q", b"x")
    channel.qos(4)
    tag = channel.consume("q")
    channel.cancel(tag)
    channel.nack(2, multiple=True, requeue=False)
    channel.nack(4, multiple=True)
    expected = {"publish": 4, "deliver": 4, "deliver_get": 4}
    assert everywhere(broker) == [expected] * 4


def test_gets(broker: Api, channel: Channel) -> None:
    channel.publish("", "q", b"1")
    channel.publish("", "q", b"2")
    channel.get("q", no_ack=True)
    got = channel.get("q")
    assert got is not None
    channel.get("q")
    channel.ack(got.delivery_tag)
    expected = {"publish": 2, "get_no_ack": 1, "get": 1, "get_empty": 1, "deliver_get": 2, "ack": 1}
    assert everywhere(broker) == [expected] * 4


def test_a_transaction_acknowledges_when_it_is_committed(broker: Api, channel: Channel) -> None:
    channel.publish("", "q", b"x")
    got = channel.get("q")
    assert got is not None
    channel.tx_select()
    channel.publish("", "q", b"y")
    channel.ack(got.delivery_tag)
    (shown,) = broker.get("/channels")
    assert (shown["messages_uncommitted"], shown["acks_uncommitted"]) == (1, 1)
    assert everywhere(broker)[1] == {"publish": 1, "get": 1, "deliver_get": 1}
    channel.tx_commit()
    assert everywhere(broker) == [{"publish": 2, "get": 1, "deliver_get": 1, "ack": 1}] * 4


def test_a_transaction_beside_a_channel_without(broker: Api, channel: Channel) -> None:
    """They share what was found out about where messages go."""
    transactional = channel.client.channel()
    transactional.tx_select()
    transactional.publish("", "q", b"x")
    channel.publish("", "q", b"y")
    assert stats(broker, "/exchanges/%2F/amq.default") == {"publish_in": 1, "publish_out": 1}
    transactional.tx_commit()
    assert stats(broker, "/exchanges/%2F/amq.default") == {"publish_in": 2, "publish_out": 2}


def test_confirms(broker: Api, channel: Channel) -> None:
    broker.does(201, "PUT", "/queues/%2F/full", {"arguments": FULL})
    channel.publish("", "q", b"before")
    channel.confirm_select()
    channel.publish("", "q", b"x")
    channel.publish("", "full", b"x")
    (shown,) = broker.get("/channels")
    assert shown["confirm"] is True
    name = shown["name"].replace(" ", "%20")
    assert stats(broker, f"/channels/{name}") == {"publish": 3, "confirm": 1}


FULL = {"x-max-length": 0, "x-overflow": "reject-publish"}


def test_unroutable(broker: Api, channel: Channel) -> None:
    channel.publish("amq.fanout", "", b"x")
    channel.publish("amq.fanout", "", b"x", mandatory=True)
    channel.confirm_select()
    channel.publish("amq.fanout", "", b"x")
    channel.publish("amq.fanout", "", b"x", mandatory=True)
    expected = {"publish": 4, "confirm": 2, "drop_unroutable": 2, "return_unroutable": 2}
    assert everywhere(broker)[1:] == [expected] * 3
    assert stats(broker, "/exchanges/%2F/amq.fanout") == {"publish_in": 4}


def test_exchanges(broker: Api, channel: Channel) -> None:
    channel.queue_declare("other")
    for queue in ("q", "other"):
        channel.queue_bind(queue, "amq.fanout")
    for _ in range(3):
        channel.publish("amq.fanout", "", b"x")
        channel.publish("", "q", b"x")
    channel.publish("amq.fanout", "", b"x")
    assert stats(broker, "/exchanges/%2F/amq.fanout") == {"publish_in": 4, "publish_out": 8}
    assert stats(broker, "/exchanges/%2F/amq.default") == {"publish_in": 3, "publish_out": 3}
    assert stats(broker, "/queues/%2F/q") == {"publish": 7}
    assert stats(broker, "/queues/%2F/other") == {"publish": 4}


def test_two_channels_of_one_connection(broker: Api, channel: Channel) -> None:
    second = channel.client.channel()
    for _ in range(2):
        channel.publish("", "q", b"x")
        second.publish("", "q", b"x")
    published = [shown["message_stats"]["publish"] for shown in broker.get("/channels")]
    assert published == [2, 2]
    assert stats(broker, "/exchanges/%2F/amq.default") == {"publish_in": 4, "publish_out": 4}


def test_what_is_gone_still_counts(broker: Api, channel: Channel) -> None:
    channel.confirm_select()
    for _ in range(3):
        channel.publish("", "q", b"x")
    channel.consume("q")
    channel.ack(1)
    channel.client.close()
    expected = {"publish": 3, "confirm": 3, "deliver": 3, "deliver_get": 3, "ack": 1}
    for path in ("/vhosts/%2F", "/overview"):
        assert stats(broker, path) == expected
    del expected["confirm"]
    assert stats(broker, "/queues/%2F/q") == expected
    assert stats(broker, "/exchanges/%2F/amq.default") == {"publish_in": 3, "publish_out": 3}


def test_a_consumer_that_lost_its_queue(broker: Api, channel: Channel) -> None:
    channel.publish("", "q", b"x")
    channel.consume("q", no_ack=True)
    channel.queue_delete("q")
    expected = {"publish": 1, "deliver_no_ack": 1, "deliver_get": 1}
    assert stats(broker, "/overview") == expected


def test_what_was_there_before_the_start_was_not_published_since(broker: Api) -> None:
    broker.does(201, "PUT", "/queues/%2F/d", {"durable": True})
    message = {
        "properties": {"delivery_mode": 2},
        "routing_key": "d",
        "payload": "x",
        "payload_encoding": "string",
    }
    broker.does(200, "POST", "/exchanges/%2F/amq.default/publish", message)
    assert stats(broker, "/queues/%2F/d") == {"publish": 1}
    broker.broker.crash_and_recover()
    assert broker.get("/queues/%2F/d")["messages"] == 1
    assert stats(broker, "/queues/%2F/d") == {}
    broker.does(200, "POST", "/exchanges/%2F/amq.default/publish", message)
    assert stats(broker, "/queues/%2F/d") == {"publish": 1}


def test_http_counts_as_well(broker: Api, channel: Channel) -> None:
    message = {"properties": {}, "routing_key": "q", "payload": "", "payload_encoding": "string"}
    broker.does(200, "POST", "/exchanges/%2F/amq.default/publish", message)
    broker.does(200, "POST", "/queues/%2F/q/get", GET_AND_KEEP)
    found = stats(broker, "/overview")
    assert found == {"publish": 1, "confirm": 1, "get": 1, "get_empty": 1, "deliver_get": 1}


GET_AND_KEEP = {"count": 2, "ackmode": "ack_requeue_true", "encoding": "auto"}


def test_rates(broker: Api, channel: Channel) -> None:
    sample(broker)
    for _ in range(10):
        channel.publish("", "q", b"x")
    sample(broker)
    queue = broker.get("/queues/%2F/q")
    assert queue["message_stats"]["publish_details"] == {"rate": 2.0}
    assert queue["messages_details"] == {"rate": 2.0}
    sample(broker)
    assert broker.get("/overview")["message_stats"]["publish_details"] == {"rate": 0.0}


def test_samples(broker: Api, channel: Channel) -> None:
    for _ in range(4):
        sample(broker)
        channel.publish("", "q", b"x")
    query = "lengths_age=10&lengths_incr=5&msg_rates_age=60&msg_rates_incr=10"
    queue = broker.get(f"/queues/%2F/q?{query}")
    details = queue["messages_details"]
    assert [found["sample"] for found in details["samples"]] == [3, 2, 1]
    stamps = [found["timestamp"] for found in details["samples"]]
    assert stamps[0] - stamps[1] == SAMPLE_S * 1000
    assert details["avg"] == 2.0
    assert details["avg_rate"] == 0.2
    details = queue["message_stats"]["publish_details"]
    assert [found["sample"] for found in details["samples"]] == [3, 1]


def test_readings_of_what_is_gone_are_not_kept(broker: Api, channel: Channel) -> None:
    sample(broker)
    channel.queue_delete("q")
    channel.client.close()
    sample(broker)
    kept = {type(thing).__name__ for thing in broker.application.statistics._kept}
    assert kept == {"BrokerExchange", "VirtualHost", "str"}


def test_churn(broker: Api, channel: Channel) -> None:
    channel.queue_declare("q")
    channel.queue_delete("q")
    channel.close()
    broker.broker.client().close()
    churn = broker.get("/overview")["churn_rates"]
    assert {name: value for name, value in churn.items() if isinstance(value, int)} == {
        "channel_closed": 1,
        "channel_created": 1,
        "connection_closed": 1,
        "connection_created": 2,
        "queue_created": 1,
        "queue_declared": 2,
        "queue_deleted": 1,
    }


def test_connections_count_octets(broker: Api, channel: Channel) -> None:
    before = broker.get("/connections")[0]["recv_oct"]
    channel.publish("", "q", b"x" * 1000)
    after = broker.get("/connections")[0]["recv_oct"]
    assert 1000 < after - before < 1200


def test_a_virtual_host_counts_octets_of_connections_that_are_gone_too(
    broker: Api, channel: Channel
) -> None:
    channel.publish("", "q", b"x" * 1000)
    sample(broker)
    before = broker.get("/vhosts/%2F")
    assert before["recv_oct"] == broker.get("/connections")[0]["recv_oct"] > 1000
    channel.client.drop()
    broker.broker.client().channel().publish("", "q", b"x" * 1000)
    sample(broker)
    after = broker.get("/vhosts/%2F")
    assert after["recv_oct"] > before["recv_oct"] + 1000
    rate = (after["recv_oct"] - before["recv_oct"]) / SAMPLE_S
    assert after["recv_oct_details"]["rate"] == rate


def test_messages_and_octets_of_a_queue(broker: Api, channel: Channel) -> None:
    broker.does(201, "PUT", "/queues/%2F/d", {"durable": True})
    channel.publish("", "d", b"four", PERSISTENT)
    channel.publish("", "d", b"seven..", TRANSIENT)
    channel.publish("", "d", b"two", properties(timestamp=1_700_000_000))
    first, second = channel.get("d"), channel.get("d")
    assert first is not None
    assert second is not None
    found = broker.get("/queues/%2F/d")
    assert {name: found[name] for name in found if name.startswith("message_bytes")} == {
        "message_bytes": 14,
        "message_bytes_paged_out": 0,
        "message_bytes_persistent": 4,
        "message_bytes_ram": 14,
        "message_bytes_ready": 3,
        "message_bytes_unacknowledged": 11,
    }
    wanted = ("messages_paged_out", "messages_persistent", "messages_ram", "messages_ready_ram")
    assert [found[name] for name in (*wanted, "messages_unacknowledged_ram")] == [0, 1, 3, 1, 2]
    assert found["head_message_timestamp"] == 1_700_000_000
    assert broker.get("/queues")[0]["message_bytes"] == 14


def test_what_a_quorum_queue_adds(broker: Api, channel: Channel) -> None:
    arguments = {"x-queue-type": "quorum"}
    broker.does(201, "PUT", "/queues/%2F/r", {"durable": True, "arguments": arguments})
    channel.publish("", "r", b"four", TRANSIENT)
    found = broker.get("/queues/%2F/r")
    node = broker.get("/overview")["node"]
    assert (found["leader"], found["members"], found["online"]) == (node, [node], [node])
    assert (found["messages_persistent"], found["messages_dlx"]) == (1, 0)


def test_idle_since(broker: Api, channel: Channel) -> None:
    assert "idle_since" not in broker.get("/queues/%2F/q")
    sample(broker)
    since = broker.get("/queues/%2F/q")["idle_since"]
    sample(broker)
    assert broker.get("/queues/%2F/q")["idle_since"] == since
    assert broker.get("/channels")[0]["idle_since"] == since
    channel.publish("", "q", b"x")
    assert "idle_since" not in broker.get("/queues/%2F/q")
    sample(broker)
    now_s = broker.broker.core.effects.epoch_s + broker.broker.now
    later = datetime.fromisoformat(broker.get("/queues/%2F/q")["idle_since"])
    assert abs(later.timestamp() - now_s) < 0.001
    assert later - datetime.fromisoformat(since) == timedelta(seconds=2 * SAMPLE_S)


def test_what_nobody_uses_shares_its_readings(broker: Api) -> None:
    host = broker.broker.core.virtual_hosts["/"]
    for number in range(3):
        host.declare_queue(f"q{number}", durable=False, auto_delete=False, arguments={})
    for _ in range(20):
        sample(broker)
    kept = broker.application.statistics._kept
    readings = [kept[queue] for queue in host.queues.values()]
    assert len(readings) == 3
    assert all(found is readings[0] for found in readings)
    assert len(readings[0]) == 1


def test_readings_are_kept_for_a_minute(broker: Api, channel: Channel) -> None:
    for _ in range(30):
        sample(broker)
        channel.publish("", "q", b"x")
    query = "msg_rates_age=600&msg_rates_incr=5"
    details = broker.get(f"/queues/%2F/q?{query}")["message_stats"]["publish_details"]
    assert [found["sample"] for found in details["samples"]] == list(range(29, 16, -1))
    for _ in range(30):
        sample(broker)
    details = broker.get(f"/queues/%2F/q?{query}")["message_stats"]["publish_details"]
    assert [found["sample"] for found in details["samples"]] == [30] * 13
    assert (details["rate"], details["avg"], details["avg_rate"]) == (0.0, 30.0, 0.0)
    kept = broker.application.statistics._kept
    [queue] = broker.broker.core.virtual_hosts["/"].queues.values()
    assert len(kept[queue]) <= 14


def test_readings_while_one_is_under_way(broker: Api, channel: Channel) -> None:
    """Some things were read, some not yet: what is shown is of the one before, or of this one."""
    sample(broker)
    for number in range(250):
        broker.broker.core.virtual_hosts["/"].declare_queue(
            f"q{number}", durable=False, auto_delete=False, arguments={}
        )
    channel.publish("", "q", b"x")
    channel.publish("", "q249", b"x")
    sample(broker)
    channel.publish("", "q249", b"x")
    broker.broker.advance(SAMPLE_S)
    under_way = broker.application.statistics.sample()
    next(under_way)
    for name in ("q", "q249"):
        found = broker.get(f"/queues/%2F/{name}?lengths_age=60&lengths_incr=5")
        samples = [shown["sample"] for shown in found["messages_details"]["samples"]]
        assert samples == {"q": [1, 0], "q249": [1]}[name]
        assert found["messages_details"]["rate"] == {"q": 0.2, "q249": 0.0}[name]
    assert list(under_way) == []
    assert broker.get("/queues/%2F/q249")["messages_details"]["rate"] == 1 / SAMPLE_S


def test_a_reset_forgets_samples_and_keeps_counts(broker: Api, channel: Channel) -> None:
    sample(broker)
    channel.publish("", "q", b"one")
    sample(broker)
    assert broker.get("/queues/%2F/q")["messages_details"]["rate"] > 0
    broker.does(404, "DELETE", "/reset/nobody")
    assert broker.get("/queues/%2F/q")["messages_details"]["rate"] > 0
    broker.does(204, "DELETE", "/reset")
    found = broker.get("/queues/%2F/q")
    assert (found["messages"], found["messages_details"]["rate"]) == (1, 0)
