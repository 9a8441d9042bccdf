"""Who may do what: the permission of each operation, and topic permissions (5.x, management 5)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from amqpd.config import Compat
from tests.conversation import BrokerUnderTest, Channel, Refused, Returned, properties

Action = Callable[[Channel], object]


def refusal(kind: str, what: str, name: str) -> str:
    return f"ACCESS_REFUSED - {kind} access to {what} '{name}' in vhost '/' refused for user 'u'"


def user(broker: BrokerUnderTest, configure: str = "", write: str = "", read: str = "") -> Channel:
    """A channel of a user with these rights, beside what guest declared."""
    guest = broker.client().channel()
    guest.exchange_declare("x", "topic")
    guest.exchange_declare("y", "fanout")
    guest.queue_declare("q")
    broker.add_user("u")
    broker.permit("u", configure, write, read)
    return broker.client("u").channel()


ALTERNATE = {"alternate-exchange": "alt"}
DEAD_LETTER = {"x-dead-letter-exchange": "dlx"}

MATRIX: list[tuple[str, Action, tuple[int, int], list[tuple[str, str, str]]]] = [
    (
        "declare x",
        lambda c: c.exchange_declare("new"),
        (40, 10),
        [("configure", "exchange", "new")],
    ),
    (
        "declare x again",
        lambda c: c.exchange_declare("x", "topic"),
        (40, 10),
        [("configure", "exchange", "x")],
    ),
    ("delete x", lambda c: c.exchange_delete("y"), (40, 20), [("configure", "exchange", "y")]),
    (
        "declare x with an alternate",
        lambda c: c.exchange_declare("new", arguments=ALTERNATE),
        (40, 10),
        [
            ("configure", "exchange", "new"),
            ("read", "exchange", "new"),
            ("write", "exchange", "alt"),
        ],
    ),
    ("declare q", lambda c: c.queue_declare("new"), (50, 10), [("configure", "queue", "new")]),
    ("delete q", lambda c: c.queue_delete("q"), (50, 40), [("configure", "queue", "q")]),
    (
        "declare q with dead letters",
        lambda c: c.queue_declare("new", arguments=DEAD_LETTER),
        (50, 10),
        [("configure", "queue", "new"), ("read", "queue", "new"), ("write", "exchange", "dlx")],
    ),
    (
        "bind x",
        lambda c: c.exchange_bind("y", "x", "k"),
        (40, 30),
        [("write", "exchange", "y"), ("read", "exchange", "x")],
    ),
    (
        "unbind x",
        lambda c: c.exchange_unbind("y", "x", "k"),
        (40, 40),
        [("write", "exchange", "y"), ("read", "exchange", "x")],
    ),
    (
        "bind q",
        lambda c: c.queue_bind("q", "x", "k"),
        (50, 20),
        [("write", "queue", "q"), ("read", "exchange", "x")],
    ),
    (
        "unbind q",
        lambda c: c.queue_unbind("q", "x", "k"),
        (50, 50),
        [("write", "queue", "q"), ("read", "exchange", "x")],
    ),
    ("purge", lambda c: c.queue_purge("q"), (50, 30), [("read", "queue", "q")]),
    ("get", lambda c: c.get("q"), (60, 70), [("read", "queue", "q")]),
    ("consume", lambda c: c.consume("q"), (60, 20), [("read", "queue", "q")]),
]


@pytest.mark.parametrize(
    ("action", "ids", "needed"), [row[1:] for row in MATRIX], ids=[row[0] for row in MATRIX]
)
def test_each_operation_needs_its_permissions_and_no_more(
    broker: BrokerUnderTest,
    action: Action,
    ids: tuple[int, int],
    needed: list[tuple[str, str, str]],
) -> None:
    """Without each in turn, in the order in which they are asked for; then with just these."""
    channel = user(broker)
    granted: dict[str, list[str]] = {"configure": [], "write": [], "read": []}
    for kind, what, name in needed:
        with channel.refuses(403, refusal(kind, what, name), ids):
            action(channel)
        granted[kind].append(f"^{name}$")
        broker.permit("u", **{one: "|".join(patterns) for one, patterns in granted.items()})
        channel = broker.client("u").channel()
    action(channel)


def test_publish_needs_write(broker: BrokerUnderTest) -> None:
    channel = user(broker, ".*", "^x$", ".*")
    channel.publish("x", "k")
    channel.publish("y", "k")
    channel.expect_closed(403, refusal("write", "exchange", "y"), (60, 40))
    channel.open()
    channel.publish("", "q")
    channel.expect_closed(403, refusal("write", "exchange", "amq.default"), (60, 40))
    broker.permit("u", "", "^amq\\.default$", "")
    channel = broker.client("u").channel()
    channel.publish("", "q", b"1", mandatory=True)
    channel.expect_nothing()


def test_permission_comes_before_existence(broker: BrokerUnderTest) -> None:
    """Nobody learns by it what there is."""
    channel = user(broker)
    channel.publish("nope", "k")
    channel.expect_closed(403, refusal("write", "exchange", "nope"), (60, 40))
    channel.open()
    with channel.refuses(403, refusal("read", "queue", "nope"), (60, 70)):
        channel.get("nope")
    channel.open()
    with channel.refuses(403, refusal("configure", "queue", "nope"), (50, 40)):
        channel.queue_delete("nope")
    channel.open()
    with channel.refuses(403, refusal("write", "queue", "nope"), (50, 20)):
        channel.queue_bind("nope", "nope", "k")


def test_names_come_before_permission(broker: BrokerUnderTest) -> None:
    channel = user(broker)
    text = "ACCESS_REFUSED - queue name 'amq.x' contains reserved prefix 'amq.*'"
    with channel.refuses(403, text, (50, 10)):
        channel.queue_declare("amq.x")
    channel.open()
    with channel.refuses(403, refusal("configure", "exchange", "amq.x"), (40, 10)):
        channel.exchange_declare("amq.x")
    channel.open()
    text = "ACCESS_REFUSED - deletion of system exchange 'amq.x' in vhost '/' not allowed"
    with channel.refuses(403, text, (40, 20)):
        channel.exchange_delete("amq.x")


def test_write_comes_before_the_default_exchange(broker: BrokerUnderTest) -> None:
    channel = user(broker)
    with channel.refuses(403, refusal("write", "queue", "q"), (50, 20)):
        channel.queue_bind("q", "", "k")
    broker.permit("u", "", "^q$", "")
    channel = broker.client("u").channel()
    text = "ACCESS_REFUSED - operation not permitted on the default exchange"
    with channel.refuses(403, text, (50, 20)):
        channel.queue_bind("q", "", "k")


def test_generated_names_need_permission_too(broker: BrokerUnderTest) -> None:
    channel = user(broker)
    with pytest.raises(Refused, match=r"403 .*configure access to queue 'amq\.gen-"):
        channel.queue_declare("")
    broker.permit("u", "^amq\\.gen-.*", "", "")
    assert broker.client("u").channel().queue_declare("", exclusive=True).queue


def test_permissions_are_unanchored(broker: BrokerUnderTest) -> None:
    channel = user(broker, "foo", "", "")
    channel.queue_declare("a-foo-b")
    with channel.refuses(403, refusal("configure", "queue", "fo"), (50, 10)):
        channel.queue_declare("fo")


def test_declaring_again_needs_no_more_than_configure(broker: BrokerUnderTest) -> None:
    """Alternate and dead letter exchanges are asked about when something is created."""
    channel = user(broker, "^q$|^x$", "", "")
    broker.client().channel().queue_declare("q", passive=True)
    with channel.refuses(
        406,
        "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-exchange' for queue 'q' in vhost"
        " '/': received the value 'dlx' of type 'longstr' but current is none",
        (50, 10),
    ):
        channel.queue_declare("q", arguments=DEAD_LETTER)


def test_passive_declares_by_profile() -> None:
    """No permission up to 4.1; from 4.2 on any one of the three, and refusals name configure."""
    passive: list[tuple[Action, str, str, tuple[int, int]]] = [
        (lambda c: c.queue_declare("q", passive=True), "queue", "q", (50, 10)),
        (lambda c: c.exchange_declare("x", passive=True), "exchange", "x", (40, 10)),
    ]
    profiles: list[Compat] = ["3.13", "4.2", "4.3"]
    for compat in profiles:
        broker = BrokerUnderTest(compat=compat)
        guest = broker.client().channel()
        guest.queue_declare("q", durable=True)
        guest.exchange_declare("x")
        broker.add_user("u")
        for action, what, name, ids in passive:
            broker.permit("u")
            channel = broker.client("u").channel()
            if compat == "3.13":
                action(channel)
                continue
            with channel.refuses(403, refusal("configure", what, name), ids):
                action(channel)
            for kind in ("configure", "write", "read"):
                broker.permit("u", **{kind: f"^{name}$"})
                action(broker.client("u").channel())


def test_virtual_hosts_are_apart(broker: BrokerUnderTest) -> None:
    broker.add_vhost("v")
    here, there = broker.client().channel(), broker.client(vhost="v").channel()
    here.queue_declare("q")
    here.queue_bind("q", "amq.fanout")
    there.publish("amq.fanout", "", b"1")
    there.publish("", "q", b"1", mandatory=True)
    assert there.take(Returned).body == b"1"
    assert here.counts("q") == (0, 0)
    with there.refuses(404, "NOT_FOUND - no queue 'q' in vhost 'v'", (50, 10)):
        there.queue_declare("q", passive=True)


def test_entering_a_virtual_host(broker: BrokerUnderTest) -> None:
    broker.add_user("u")
    stranger = broker.stranger()
    text = "NOT_ALLOWED - access to vhost '/' refused for user 'u'"
    with stranger.refuses(530, text, (10, 40)):
        stranger.connect("u", "secret")
    stranger = broker.stranger()
    with stranger.refuses(530, "NOT_ALLOWED - vhost nope not found", (10, 40)):
        stranger.connect("u", "secret", "nope")


def test_wrong_passwords(broker: BrokerUnderTest) -> None:
    text = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details"
    stranger = broker.stranger()
    with stranger.refuses(403, f"{text} see the broker logfile.", (0, 0)):
        stranger.connect("guest", "wrong")


def test_guest_from_elsewhere(broker: BrokerUnderTest) -> None:
    assert broker.core.config.loopback_users == ("guest",)
    text = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details"
    stranger = broker.stranger(is_loopback=False)
    with stranger.refuses(403, f"{text} see the broker logfile.", (0, 0)):
        stranger.connect()
    broker.add_user("u")
    broker.permit("u")
    broker.client("u", is_loopback=False)


def test_a_right_taken_away(broker: BrokerUnderTest) -> None:
    """It counts at once here; in RabbitMQ a channel may go on for a while."""
    channel = user(broker, "", ".*", "")
    channel.publish("x", "k")
    assert broker.core.access.may("u", "/", "write", "x")
    broker.permit("u")
    channel.publish("x", "k")
    channel.expect_closed(403, refusal("write", "exchange", "x"), (60, 40))


# Topics


def topic_user(broker: BrokerUnderTest, write: str, read: str) -> Channel:
    """A user who may do everything, but these topics only in `x`."""
    channel = user(broker, ".*", ".*", ".*")
    broker.core.access.put_topic_permission("u", "/", "x", write, read)
    return channel


def topic_refusal(kind: str, key: str) -> str:
    return (
        f"ACCESS_REFUSED - {kind} access to topic '{key}' in exchange 'x' in vhost '/' refused"
        " for user 'u'"
    )


def test_topics_to_write(broker: BrokerUnderTest) -> None:
    channel = topic_user(broker, "^a\\.", "")
    channel.publish("x", "a.b")
    channel.publish("y", "b")
    channel.publish("x", "b.a")
    channel.expect_closed(403, topic_refusal("write", "b.a"), (60, 40))
    channel.open()
    channel.publish("x", "a.b", b"", properties(headers={"CC": ["a.c"], "BCC": ["b.c"]}))
    channel.expect_closed(403, topic_refusal("write", "b.c"), (60, 40))


def test_topics_to_read(broker: BrokerUnderTest) -> None:
    channel = topic_user(broker, "", "^a\\.")
    channel.queue_bind("q", "x", "a.#")
    channel.exchange_bind("y", "x", "a.*")
    channel.queue_bind("q", "y", "b")
    refused: list[tuple[Action, tuple[int, int]]] = [
        (lambda c: c.queue_bind("q", "x", "b"), (50, 20)),
        (lambda c: c.queue_unbind("q", "x", "b"), (50, 50)),
        (lambda c: c.exchange_bind("y", "x", "b"), (40, 30)),
        (lambda c: c.exchange_unbind("y", "x", "b"), (40, 40)),
    ]
    for action, ids in refused:
        with channel.refuses(403, topic_refusal("read", "b"), ids):
            action(channel)
        channel.open()


def test_topics_with_variables(broker: BrokerUnderTest) -> None:
    channel = topic_user(broker, "^{username}\\.{vhost}$", "")
    channel.publish("x", "u./")
    channel.publish("x", "v./")
    channel.expect_closed(403, topic_refusal("write", "v./"), (60, 40))


def test_topics_of_other_users(broker: BrokerUnderTest) -> None:
    topic_user(broker, "^$", "^$")
    guest = broker.client().channel()
    guest.publish("x", "any")
    guest.queue_bind("q", "x", "any")


def test_direct_reply_to_needs_no_permission_to_consume(broker: BrokerUnderTest) -> None:
    channel = user(broker, "", "^amq\\.default$", "")
    channel.consume("amq.rabbitmq.reply-to", no_ack=True)
    channel.queue_declare("amq.rabbitmq.reply-to")
