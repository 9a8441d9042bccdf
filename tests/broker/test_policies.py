"""Policies: which hold, what they change, and that they come and go with what they change.

What is marked with a version was observed on RabbitMQ 3.10.8 or read in its source.
"""

from __future__ import annotations

from typing import Any

import pytest

from amqpd.broker.parameters import InvalidParameter, NoSuchParameter, NoSuchVhost
from amqpd.broker.policies import clear_policy, policies, set_policy
from amqpd.broker.policy_settings import Kind
from amqpd.broker.queue import Queue
from amqpd.config import Compat
from amqpd.wire.properties import read_headers
from amqpd.wire.tables import plain
from tests.conversation import PERSISTENT, BrokerUnderTest, Channel, properties


def put(
    broker: BrokerUnderTest,
    definition: dict[str, Any],
    *,
    name: str = "p",
    pattern: str = "^q",
    kind: Kind = "policy",
    **how: Any,
) -> None:
    set_policy(broker.core, "/", name, pattern=pattern, definition=definition, kind=kind, **how)
    broker.turn()


def drop(broker: BrokerUnderTest, name: str = "p", kind: Kind = "policy") -> None:
    clear_policy(broker.core, "/", name, kind=kind)
    broker.turn()


def queue(broker: BrokerUnderTest, name: str = "q") -> Queue:
    return broker.core.virtual_hosts["/"].queues[name]


def in_force(broker: BrokerUnderTest, name: str = "q") -> tuple[str | None, str | None]:
    found = queue(broker, name)
    return (
        found.policy.name if found.policy else None,
        found.operator_policy.name if found.operator_policy else None,
    )


def fill(channel: Channel, count: int, name: str = "q", props: bytes = PERSISTENT) -> None:
    for number in range(count):
        channel.publish("", name, b"%d" % number, props)


# -- live: length


def test_a_length_limit_trims_at_once_and_goes_with_its_policy(
    broker: BrokerUnderTest, channel: Channel
) -> None:
    channel.queue_declare("q")
    fill(channel, 5)
    put(broker, {"max-length": 2})
    assert channel.counts("q")[0] == 2
    channel.publish("", "q", b"5")
    drop(broker)
    channel.publish("", "q", b"6")
    assert channel.drain("q") == [b"4", b"5", b"6"]


def test_what_is_trimmed_goes_to_the_dead_letter_exchange_of_the_same_policy(
    broker: BrokerUnderTest, channel: Channel
) -> None:
    channel.queue_declare("q")
    channel.queue_declare("dead")
    fill(channel, 3)
    put(
        broker,
        {"max-length": 1, "dead-letter-exchange": "", "dead-letter-routing-key": "dead"},
    )
    assert channel.drain("dead") == [b"0", b"1"]
    assert channel.drain("q") == [b"2"]


def test_a_limit_in_bytes_weighs_what_is_there(broker: BrokerUnderTest, channel: Channel) -> None:
    channel.queue_declare("q")
    fill(channel, 5)
    got = channel.get("q")
    assert got is not None
    channel.nack(got.delivery_tag)  # one message waits as returned, the others as never delivered
    put(broker, {"max-length-bytes": 3})
    assert channel.counts("q")[0] == 3
    channel.publish("", "q", b"55")
    assert channel.drain("q") == [b"4", b"55"]


def test_a_queue_that_refuses_drops_nothing_when_it_becomes_limited(
    broker: BrokerUnderTest, channel: Channel
) -> None:
    channel.queue_declare("q")
    channel.confirm_select()
    fill(channel, 3)
    channel.confirms()
    put(broker, {"max-length": 2, "overflow": "reject-publish"})
    assert channel.counts("q")[0] == 3
    channel.publish("", "q", b"refused")
    [confirmed] = channel.confirms()
    assert not confirmed.ack
    put(broker, {"max-length": 2})
    assert channel.counts("q")[0] == 2
    channel.publish("", "q", b"taken")
    [confirmed] = channel.confirms()
    assert confirmed.ack
    assert channel.drain("q") == [b"2", b"taken"]


def test_a_queue_that_refused_by_policy_can_be_deleted(
    broker: BrokerUnderTest, channel: Channel
) -> None:
    put(broker, {"max-length": 0, "overflow": "reject-publish"})
    channel.queue_declare("q")
    host = broker.core.virtual_hosts["/"]
    assert host.refusing_queues == 1
    channel.queue_delete("q")
    assert host.refusing_queues == 0
    channel.queue_declare("q")
    drop(broker)
    assert host.refusing_queues == 0


# -- live: time


def test_a_time_to_live_holds_for_what_is_published_from_then_on(
    broker: BrokerUnderTest, channel: Channel
) -> None:
    """3.10.8: what is in a classic queue stays without, and what got one keeps it."""
    channel.queue_declare("q")
    fill(channel, 2)
    put(broker, {"message-ttl": 100})
    broker.advance(1)
    assert channel.counts("q")[0] == 2
    assert channel.drain("q") == [b"0", b"1"]
    fill(channel, 2)
    drop(broker)
    broker.advance(1)
    assert channel.counts("q")[0] == 0
    fill(channel, 1)
    broker.advance(1)
    assert channel.counts("q")[0] == 1


def test_the_smaller_time_to_live_of_message_and_policy_counts(
    broker: BrokerUnderTest, channel: Channel
) -> None:
    put(broker, {"message-ttl": 1000})
    channel.queue_declare("q")
    fill(channel, 1, props=properties(expiration="100"))
    broker.advance(0.2)
    assert channel.counts("q")[0] == 0
    fill(channel, 1, props=properties(expiration="100000"))
    broker.advance(1.1)
    assert channel.counts("q")[0] == 0


def test_an_expiry_begins_when_the_policy_comes_and_ends_with_it(
    broker: BrokerUnderTest, channel: Channel
) -> None:
    channel.queue_declare("q")
    channel.queue_declare("q2")
    broker.advance(10)
    put(broker, {"expires": 500})
    broker.advance(0.4)
    put(broker, {"expires": 500}, pattern="^q$")
    broker.advance(0.2)
    host = broker.core.virtual_hosts["/"]
    assert set(host.queues) == {"q2"}  # q: 0.6 s unused under a policy; q2: no policy any more
    broker.advance(10)
    assert set(host.queues) == {"q2"}


# -- which policy holds


def test_priority_then_name_decide(broker: BrokerUnderTest, channel: Channel) -> None:
    channel.queue_declare("q")
    put(broker, {"max-length": 1}, name="low", priority=1)
    put(broker, {"max-length": 2}, name="high", priority=2)
    assert in_force(broker) == ("high", None)
    assert queue(broker).rules.max_length == 2
    put(broker, {"max-length": 3}, name="even", priority=2)
    assert in_force(broker) == ("even", None)
    drop(broker, "even")
    drop(broker, "high")
    assert in_force(broker) == ("low", None)
    drop(broker, "low")
    assert in_force(broker) == (None, None)
    assert queue(broker).effective_policy_definition is None


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("", True),
        ("ders", True),
        ("^ders", False),
        ("^orders$", True),
        ("o.*s", True),
        ("O", False),
    ],
)
def test_patterns_are_found_anywhere(
    broker: BrokerUnderTest, channel: Channel, pattern: str, matches: bool
) -> None:
    channel.queue_declare("orders")
    put(broker, {"max-length": 1}, pattern=pattern)
    assert (queue(broker, "orders").policy is not None) is matches


@pytest.mark.parametrize(
    ("apply_to", "queues", "exchanges"),
    [
        ("all", True, True),
        ("queues", True, False),
        ("classic_queues", True, False),
        ("quorum_queues", False, False),
        ("streams", False, False),
        ("exchanges", False, True),
    ],
)
def test_apply_to(
    broker: BrokerUnderTest, channel: Channel, apply_to: str, queues: bool, exchanges: bool
) -> None:
    channel.queue_declare("q")
    channel.exchange_declare("qx")
    put(broker, {"alternate-exchange": "a"}, apply_to=apply_to)
    host = broker.core.virtual_hosts["/"]
    assert (host.queues["q"].policy is not None) is queues
    assert (host.exchanges["qx"].policy is not None) is exchanges


def test_a_key_of_another_queue_type_keeps_the_whole_policy_away(
    broker: BrokerUnderTest, channel: Channel
) -> None:
    """3.10.8: and the next policy holds instead."""
    channel.queue_declare("q")
    put(broker, {"max-length": 1, "delivery-limit": 3}, name="quorum", priority=5)
    put(broker, {"max-length": 9}, name="classic")
    assert in_force(broker) == ("classic", None)
    assert queue(broker).rules.max_length == 9


def test_exclusive_and_server_named_queues_are_governed_too(
    broker: BrokerUnderTest, channel: Channel
) -> None:
    name = channel.queue_declare(exclusive=True).queue or ""
    put(broker, {"max-length": 1}, pattern="^amq\\.gen")
    fill(channel, 3, name)
    assert channel.counts(name)[0] == 1


def test_a_policy_of_another_virtual_host_does_not_hold(broker: BrokerUnderTest) -> None:
    broker.add_vhost("other")
    channel = broker.client(vhost="other").channel()
    channel.queue_declare("q")
    put(broker, {"max-length": 1}, pattern="")
    assert broker.core.virtual_hosts["other"].queues["q"].policy is None


# -- merging


def test_arguments_and_policy(broker: BrokerUnderTest, channel: Channel) -> None:
    """The lower number, and the text of the arguments."""
    arguments = {
        "x-max-length": 3,
        "x-message-ttl": 50,
        "x-dead-letter-exchange": "of-arguments",
        "x-overflow": "reject-publish",
    }
    channel.queue_declare("q", arguments=arguments)
    put(
        broker,
        {
            "max-length": 2,
            "message-ttl": 100,
            "expires": 1000,
            "dead-letter-exchange": "of-policy",
            "dead-letter-routing-key": "key",
            "overflow": "drop-head",
        },
    )
    rules = queue(broker).rules
    assert (rules.max_length, rules.message_ttl_ms, rules.expires_ms) == (2, 50, 1000)
    assert (rules.dead_letter_exchange, rules.dead_letter_routing_key) == ("of-arguments", "key")
    assert rules.overflow == "reject-publish"


def test_policy_and_operator_policy(broker: BrokerUnderTest, channel: Channel) -> None:
    channel.queue_declare("q")
    put(broker, {"max-length": 5, "message-ttl": 10, "overflow": "drop-head", "queue-mode": "lazy"})
    put(
        broker,
        {"max-length": 3, "message-ttl": 20, "expires": 9, "overflow": "reject-publish"},
        name="op",
        kind="operator_policy",
    )
    assert in_force(broker) == ("p", "op")
    assert queue(broker).effective_policy_definition == {
        "max-length": 3,
        "message-ttl": 10,
        "expires": 9,
        "overflow": "reject-publish",
        "queue-mode": "lazy",
    }
    drop(broker)
    assert queue(broker).effective_policy_definition == {
        "max-length": 3,
        "message-ttl": 20,
        "expires": 9,
        "overflow": "reject-publish",
    }
    drop(broker, "op", "operator_policy")
    assert queue(broker).effective_policy_definition is None


# -- exchanges


def test_an_alternate_exchange_comes_and_goes(broker: BrokerUnderTest, channel: Channel) -> None:
    channel.queue_declare("left")
    channel.exchange_declare("alternate", "fanout")
    channel.queue_bind("left", "alternate")
    channel.exchange_declare("qx")
    channel.publish("qx", "nowhere", b"lost")
    put(broker, {"alternate-exchange": "alternate"})
    channel.publish("qx", "nowhere", b"kept")
    drop(broker)
    channel.publish("qx", "nowhere", b"lost")
    assert channel.drain("left") == [b"kept"]


def test_the_declared_alternate_exchange_wins(broker: BrokerUnderTest, channel: Channel) -> None:
    channel.queue_declare("declared")
    channel.exchange_declare("a", "fanout")
    channel.queue_bind("declared", "a")
    channel.exchange_declare("qx", arguments={"alternate-exchange": "a"})
    put(broker, {"alternate-exchange": "amq.fanout"})
    channel.publish("qx", "nowhere", b"x")
    drop(broker)
    channel.publish("qx", "nowhere", b"y")
    assert channel.drain("declared") == [b"x", b"y"]


def test_the_default_exchange_has_no_alternate(broker: BrokerUnderTest, channel: Channel) -> None:
    """3.10.8: a policy that matches its empty name is shown there, and has no effect."""
    channel.queue_declare("left")
    channel.queue_bind("left", "amq.fanout")
    put(broker, {"alternate-exchange": "amq.fanout"}, pattern="")
    channel.publish("", "nowhere", b"lost")
    assert channel.counts("left")[0] == 0
    assert broker.core.virtual_hosts["/"].exchanges[""].policy is not None


# -- kept


def test_policies_survive_a_crash_and_hold_for_what_was_declared(
    journaled: BrokerUnderTest,
) -> None:
    put(journaled, {"max-length": 1}, priority=3, apply_to="queues")
    put(journaled, {"max-length": 7}, name="gone")
    put(journaled, {"expires": 1000}, name="op", kind="operator_policy")
    drop(journaled, "gone")
    host = journaled.core.virtual_hosts["/"]
    host.declare_queue("q", durable=True, auto_delete=False, arguments={})
    journaled.turn()
    journaled.journal.commit()
    before = policies(journaled.core), policies(journaled.core, kind="operator_policy")
    journaled.crash_and_recover()
    assert (policies(journaled.core), policies(journaled.core, kind="operator_policy")) == before
    assert [policy.name for policy in before[0]] == ["p"]
    assert in_force(journaled) == ("p", "op")
    assert queue(journaled).rules.max_length == 1


def test_what_a_limit_drops_is_dropped_in_the_store(journaled: BrokerUnderTest) -> None:
    host = journaled.core.virtual_hosts["/"]
    host.declare_queue("q", durable=True, auto_delete=False, arguments={})
    journaled.turn()
    journaled.journal.commit()
    channel = journaled.client().channel()
    fill(channel, 3)
    journaled.journal.commit()
    put(journaled, {"max-length": 1})
    journaled.journal.commit()
    journaled.crash_and_recover()
    assert journaled.client().channel().drain("q") == [b"2"]


def test_a_policy_that_another_profile_refuses_stays_in_force(journaled: BrokerUnderTest) -> None:
    put(journaled, {"ha-mode": "all", "max-length": 1})
    journaled.journal.commit()
    journaled.config = type(journaled.config)(compat="4.2")
    journaled.crash_and_recover()
    [policy] = policies(journaled.core)
    assert policy.definition == {"ha-mode": "all", "max-length": 1}


# -- refusals


def refusal(broker: BrokerUnderTest, definition: Any, kind: Kind = "policy", **how: Any) -> str:
    with pytest.raises(InvalidParameter) as refused:
        set_policy(
            broker.core, "/", "p", definition=definition, kind=kind, **{"pattern": "q", **how}
        )
    assert policies(broker.core, kind=kind) == []
    return str(refused.value)


@pytest.mark.parametrize(
    ("definition", "text"),
    [
        ({"zzz": 5}, '[{<<"zzz">>,5}] are not recognised policy settings'),
        (
            {"zzz": 5, "a": "x", "b": [1, [97]], "c": {"e": 1.5}, "d": None, "f": True},
            '[{<<"a">>,<<"x">>},{<<"b">>,[1,"a"]},{<<"c">>,#{<<"e">> => 1.5}},{<<"d">>,null},'
            '{<<"f">>,true},{<<"zzz">>,5}] are not recognised policy settings',
        ),
        ({}, "no policy provided"),
        ([], "no policy provided"),
        (5, "definition must be a dictionary: 5"),
        ({"alternate-exchange": 5}, "5 is not a valid alternate exchange name"),
        ({"dead-letter-exchange": True}, "true is not a valid dead letter exchange name"),
        ({"dead-letter-routing-key": [1]}, "[1] is not a valid dead letter routing key"),
        ({"message-ttl": -1}, "-1 is not a valid message TTL"),
        ({"message-ttl": "x"}, '<<"x">> is not a valid message TTL'),
        ({"message-ttl": 1.5}, "1.5 is not a valid message TTL"),
        ({"message-ttl": True}, "true is not a valid message TTL"),
        ({"message-ttl": 1 << 63}, f"{1 << 63} is not a valid message TTL"),
        ({"expires": 0}, "0 is not a valid queue expiry"),
        ({"max-length": -1}, "-1 is not a valid maximum length"),
        ({"max-length-bytes": "1"}, '<<"1">> is not a valid maximum length in bytes'),
        ({"max-in-memory-length": -1}, "-1 is not a valid maximum memory in bytes"),
        ({"queue-mode": "x"}, '<<"x">> is not a valid queue-mode value'),
        ({"queue-version": 3}, "3 is not a valid queue-version value"),
        ({"queue-version": True}, "true is not a valid queue-version value"),
        ({"overflow": "x"}, '<<"x">> is not a valid overflow value'),
        ({"delivery-limit": -1}, "-1 is not a valid delivery limit"),
        ({"max-age": "1x"}, '<<"1x">> is not a valid max age'),
        ({"queue-leader-locator": "x"}, '<<"x">> is not a valid queue leader locator value'),
        ({"initial-cluster-size": -1}, "-1 is not a valid cluster size"),
        ({"stream-max-segment-size-bytes": -1}, "-1 is not a valid segment size"),
        ({"dead-letter-strategy": "x"}, '<<"x">> is not a valid dead letter strategy'),
        ({"consumer-timeout": "x"}, '<<"x">> is not a valid consumer timeout'),
        ({"max-priority": 5}, '[{<<"max-priority">>,5}] are not recognised policy settings'),
        ({"ha-mode": "x"}, '<<"x">> is not a valid ha-mode value'),
        ({"ha-mode": "exactly"}, 'ha-mode="exactly" takes an integer, none given'),
        ({"ha-mode": "nodes", "ha-params": []}, 'ha-mode="nodes" list must be non-empty'),
        ({"ha-mode": "all", "ha-params": 2}, 'ha-mode="all" does not take parameters'),
        (
            {"ha-params": 2},
            "ha-mode must be specified to specify ha-params, ha-sync-mode or"
            " ha-promote-on-shutdown",
        ),
        (
            {"ha-mode": "all", "ha-sync-mode": "x"},
            'ha-sync-mode must be "manual" or "automatic", got <<"x">>',
        ),
        ({"queue-master-locator": "x"}, '<<"x">> invalid queue-master-locator value'),
        (
            {"x-message-deduplication": "yes"},
            "'x-message-deduplication' must be a boolean, got <<\"yes\">>",
        ),
        ({"x-cache-size": 0}, "'x-cache-size' must be an integer greater than 0, got 0"),
        ({"x-cache-ttl": True}, "'x-cache-ttl' must be an integer greater than 0, got true"),
        (
            {"x-cache-persistence": "tape"},
            "'x-cache-persistence' must be either 'disk' or 'memory', got <<\"tape\">>",
        ),
        ({"federation-upstream": 5}, "5 is not a valid federation upstream name"),
        (
            {"federation-upstream-pattern": "a("},
            'could not compile pattern a( to a regular expression. Error: {"missing )",2}',
        ),
        (
            {"federation-upstream": "a", "federation-upstream-set": "b"},
            "cannot specify federation-upstream, federation-upstream-set or"
            " federation-upstream-pattern together",
        ),
        (
            {"max-length": 5, "max-length-bytes": -5, "zzz": 1},
            "-5 is not a valid maximum length in bytes",
        ),
    ],
)
def test_definitions_are_refused_in_these_words(
    broker: BrokerUnderTest, definition: Any, text: str
) -> None:
    """3.10.8, save what it does not know yet."""
    assert refusal(broker, definition) == f"Validation failed\n\n{text}\n"


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("a(", '{"missing )",2}'),
        ("a)", '{"unmatched parentheses",1}'),
        ("[a", '{"missing terminating ] for character class",2}'),
        ("a**", '{"nothing to repeat",2}'),
        ("*", '{"nothing to repeat",0}'),
        ("\\", '{"\\\\ at end of pattern",1}'),
    ],
)
def test_patterns_are_refused_in_these_words(
    broker: BrokerUnderTest, pattern: str, reason: str
) -> None:
    """3.10.8."""
    text = f"pattern should be regular expression but is invalid: {reason}"
    said = refusal(broker, {"max-length": 1}, pattern=pattern)
    assert said == f"Validation failed\n\n{text}\n"


def test_everything_wrong_is_told_at_once(broker: BrokerUnderTest) -> None:
    """3.10.8, with the choice of 3.13."""
    said = refusal(broker, {"max-length": -5}, pattern="(", priority="x", apply_to="x")
    assert said == (
        "Validation failed\n\n"
        "-5 is not a valid maximum length\n"
        "apply-to 'x' unrecognised; should be one of: 'queues', 'classic_queues', "
        " 'quorum_queues', 'streams', 'exchanges', or 'all'\n"
        'pattern should be regular expression but is invalid: {"missing )",1}\n'
        'priority should be a number, actually was <<"x">>\n'
    )
    assert refusal(broker, {"max-length": 1}, pattern=5) == (
        "Validation failed\n\npattern should be a binary but was 5\n"
    )


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [("dead-letter-exchange", "x", '<<"x">>'), ("x-message-deduplication", True, "true")],
)
def test_operators_may_set_less(broker: BrokerUnderTest, key: str, value: Any, shown: str) -> None:
    said = refusal(broker, {key: value}, kind="operator_policy")
    text = f'[{{<<"{key}">>,{shown}}}] are not recognised policy settings'
    assert said == f"Validation failed\n\n{text}\n"


def test_profiles_know_different_settings() -> None:
    for compat, refused in (
        ("4.2", {"ha-mode": "all"}),
        ("4.3", {"ha-mode": "all"}),
    ):
        said = refusal(BrokerUnderTest(compat=compat), refused)  # type: ignore[arg-type]
        assert "are not recognised policy settings" in said
    put(BrokerUnderTest(compat="4.3"), {"delivery-limit": -1})


@pytest.mark.parametrize("compat", ["3.13", "4.2", "4.3"])
@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_delayed_retry_by_policy_is_for_every_queue_type(compat: Compat, kind: str) -> None:
    broker = BrokerUnderTest(compat=compat)
    put(broker, {"delayed-retry-type": "all", "delayed-retry-min": 1000})
    channel = broker.client().channel()
    channel.queue_declare("q", durable=True, arguments={"x-queue-type": kind})
    channel.publish("", "q", b"m", PERSISTENT)
    got = channel.get("q")
    assert got is not None
    channel.reject(got.delivery_tag)
    broker.advance(0.999)
    assert channel.get("q") is None
    broker.advance(0.001)
    assert channel.get("q") is not None


def test_queues_tell_of_the_policies_that_reach_them(
    broker: BrokerUnderTest, channel: Channel
) -> None:
    """3.10.8: the policy that was set, whichever it is that holds."""
    channel.queue_declare("events")
    channel.queue_bind("events", "amq.rabbitmq.event", "queue.policy.*")
    channel.queue_declare("q")
    put(broker, {"max-length": 1}, by="ann")
    drop(broker)
    told = []
    while (got := channel.get("events", no_ack=True)) is not None:
        headers = plain(read_headers(got.properties, 9))
        told.append((got.routing_key, headers["name"], headers["type"], headers.get("definition")))
    assert told == [
        ("queue.policy.updated", "q", "rabbit_classic_queue", {"max-length": 1}),
        ("queue.policy.cleared", "q", "rabbit_classic_queue", None),
    ]


def test_mirroring_is_accepted_with_a_warning(broker: BrokerUnderTest) -> None:
    put(broker, {"ha-mode": "all"})
    [warning] = broker.warnings
    assert "policy 'p' asks for mirrored classic queues" in warning


def test_what_is_not_there(broker: BrokerUnderTest) -> None:
    with pytest.raises(NoSuchParameter, match="Parameter does not exist"):
        clear_policy(broker.core, "/", "p")
    with pytest.raises(NoSuchVhost):
        set_policy(broker.core, "nowhere", "p", pattern="", definition={"max-length": 1})
    assert policies(broker.core, "nowhere") == []


@pytest.mark.parametrize("kind", ["policy", "operator_policy"])
def test_events_tell_of_it(broker: BrokerUnderTest, channel: Channel, kind: Kind) -> None:
    channel.queue_declare("events")
    channel.queue_bind("events", "amq.rabbitmq.event", "policy.#")
    channel.queue_bind("events", "amq.rabbitmq.event", "operator.policy.#")
    put(broker, {"max-length": 1}, kind=kind, by="ann")
    drop(broker, kind=kind)
    told = []
    while (got := channel.get("events", no_ack=True)) is not None:
        headers = plain(read_headers(got.properties, 9))
        told.append((got.routing_key, headers["name"], headers["user_who_performed_action"]))
        if got.routing_key == "policy.set":
            assert (headers["vhost"], headers["pattern"], headers["apply-to"]) == ("/", "^q", "all")
            assert (headers["definition"], headers["priority"]) == ({"max-length": 1}, 0)
    cleared = f"{kind.replace('_', '.')}.cleared"
    assert told == [("policy.set", "p", "ann"), (cleared, "p", "rmq-internal")]


def test_a_policy_has_a_size(broker: BrokerUnderTest) -> None:
    said = refusal(broker, {"alternate-exchange": "x" * 70000})
    assert said == "Validation failed\n\nvalue is larger than 65536 bytes\n"


@pytest.mark.parametrize("priority", [3, 2.5])
def test_a_priority_is_told_as_it_was_given(broker: BrokerUnderTest, priority: float) -> None:
    """Clients that expect an integer refuse 3.0."""
    set_policy(broker.core, "/", "p", pattern="", definition={"max-length": 1}, priority=priority)
    (policy,) = policies(broker.core)
    told = policy.value()["priority"]
    assert (type(told), told) == (type(priority), priority)
