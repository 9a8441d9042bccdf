"""Messages that die like the one before are told the same as if nobody had compared them."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conversation import BrokerUnderTest, properties

TTL = "60"
HEADERS: list[dict[str, Any] | None] = [
    None,
    {},
    {"a": 1},
    {"CC": ["copies"]},
    {"BCC": ["copies"]},
    {"x-death": [{"queue": "q", "reason": "rejected", "count": 3}]},
]

lives = st.lists(
    st.tuples(
        st.sampled_from(HEADERS),
        st.sampled_from([None, TTL]),
        st.sampled_from([None, "m1", "m2"]),
        st.sampled_from(["q", "r"]),
        st.sampled_from(["reject", "wait", "a second later"]),
    ),
    min_size=2,
    max_size=5,
)


@settings(deadline=None, max_examples=300)
@given(lives, st.booleans(), st.booleans())
def test_who_dies_like_the_one_before_is_told_the_same(
    lives: list[Any], own_key: bool, again: bool
) -> None:
    told = [dead_letters(lives, own_key, again, remember=remember) for remember in (True, False)]
    assert told[0] == told[1]


def dead_letters(lives: list[Any], own_key: bool, again: bool, *, remember: bool) -> list[Any]:
    """What comes of these messages in `dead` and `copies`; if `again`, after two deaths."""
    broker = BrokerUnderTest()
    channel = broker.client().channel()
    channel.exchange_declare("dlx", "fanout" if own_key else "direct")
    channel.exchange_declare("in", "direct")
    arguments = {"x-dead-letter-exchange": "dlx"}
    if own_key:
        arguments["x-dead-letter-routing-key"] = "gone"
    channel.queue_declare("q", arguments=arguments)
    for name in ("dead", "copies"):
        channel.queue_declare(name)
    for key in ("q", "r"):
        channel.queue_bind("q", "in", key)
        channel.queue_bind("dead", "dlx", key)
    channel.queue_bind("copies", "dlx", "copies")
    queue = broker.core.virtual_hosts["/"].queues["q"]

    def die(key: str, said: bytes, end: str) -> None:
        if not remember:
            queue.burial = None
        channel.publish("in", key, b"x", said)
        broker.advance({"reject": 0, "wait": 0.07, "a second later": 1}[end])
        if (got := channel.get("q")) is not None:
            channel.reject(got.delivery_tag, requeue=False)

    for headers, expiration, message_id, key, end in lives:
        die(key, properties(headers=headers, expiration=expiration, message_id=message_id), end)
    for _ in lives if again else ():
        # With its history, as from a client that tries again.
        if (got := channel.get("dead", no_ack=True)) is not None:
            die("q", got.properties, "reject")
    found: list[Any] = []
    for name in ("dead", "copies"):
        while (got := channel.get(name, no_ack=True)) is not None:
            found.append((got.exchange, got.routing_key, got.properties, got.redelivered))
    return found
