"""Where RabbitMQ 3.10 and the profile 3.13 are known to differ: each rule with its justification.

Every rule quotes the line of the reference (`reference/protocol-0-9-1.md`, by section) or of
RabbitMQ's documentation that says so. A difference that no rule covers is a failure. To add one:
a function that takes both texts or events, its entry in `TEXTS` or `OUTCOMES`, and the quotation.

`LEFT_OUT` names what the generator does not say, for the same kind of reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

LEFT_OUT: Final[dict[str, str]] = {
    "numbers in headers": (
        "§6, headers: `5 is not 5.0`; in 3.10.8 numbers match by value alone, integers, floats and"
        " timestamps"
    ),
    "delivery modes other than 1 and 2": (
        "§5.5: `2 = persistent, all else transient`; 3.10 still answers 406"
        " `invalid message: {delivery_mode_unknown,3}`"
    ),
    "x-queue-leader-locator on classic queues": (
        "§5.4, table of keys: classic takes it; 3.10 answers 406 `of queue type"
        " rabbit_classic_queue`"
    ),
    "int64 as L in headers that are encoded again": (
        "§3.1: `both decode signed; server always emits l`: when it takes BCC out or puts a"
        " reply-to in, RabbitMQ encodes all properties again; amqpd keeps the client's octets"
    ),
    "x-queue-type of a server-named queue that is none": (
        "§1: `Non-protocol crash: 541`: RabbitMQ looks the type up before it checks it; amqpd"
        " answers 406 as for a queue with a name (§5.4)"
    ),
    "topic permission for CC and BCC keys": (
        "§5.5: 3.13 asks for every routing key of the message, 3.10 only for that of the method"
    ),
    "the tag of a reply consumer, for another one": (
        "§5.8: `tag reuse 530`; 3.10 then has two consumers of one tag"
        " (tests/broker/test_reply_to.py)"
    ),
    "a channel that declares its own reply token": (
        "§5.8: a live token is declared `ok, 0 messages, 1 consumer`; in 3.10 the channel's process"
        " then calls itself, and the connection is closed with 541"
    ),
    "requeueing for several consumers at once": (
        "basic.recover and nack with multiple: RabbitMQ's channels requeue consumer by consumer, in"
        " the order of the consumer tags, and its queues hand out in between; amqpd requeues all of"
        " a queue at once, in order (§5.6: `requeue=1: original position`)"
    ),
    "features that are not compared yet": (
        "times other than none and far, dead letters (x-death has the time of each broker); quorum"
        " queues and streams: their arguments are declared with wrong values"
    ),
    "a queue that is to refuse by a policy, and holds more": (
        "RabbitMQ drops what is too much, by the order in which it reads its settings; amqpd drops"
        " nothing (docs/compatibility.md)"
    ),
    "tune and handshake": (
        "§2.4: `>=3.12 sends close; 3.10 silently drops after 3 s`: faults before connection.open"
        " take seconds on RabbitMQ; tests/protocol has them"
    ),
    "unknown methods": (
        "§3: `reader crashes: TCP reset without close (sending 501/503 first is safe)`"
    ),
    "requeueing under global qos": (
        "whether the consumer has room again when its message is handed out once more is a race of"
        " queue and limiter in RabbitMQ"
    ),
    "global qos while settlements wait for tx.commit": (
        "RabbitMQ begins to count without them, and lets as many more through than the window has;"
        " amqpd counts what is not committed as outstanding (docs/compatibility.md)"
    ),
    "global qos while a message of basic.get is outstanding": (
        "rabbit_channel.erl, basic.qos: `not strictly right since that counts unacked messages from"
        " basic.get too`, and notify_limiter gives no place back for them; amqpd counts what"
        " consumers have (§5.6: `shared limit over all the channel's consumers`)"
    ),
    "global qos over two queues": (
        "which of the queues gets the credit is a race between processes in RabbitMQ"
    ),
}


class TextRule(NamedTuple):
    """Rewrites a reply text of either broker to one form."""

    name: str
    reference: str
    rewrite: Callable[[str], str]


SURE_CHARACTERS: Final = 230
"""Of a text that was cut: a longer one is cut earlier."""


def _without_permission_word(text: str) -> str:
    shorter = re.sub(
        r"^ACCESS_REFUSED - (configure|write|read) access", "ACCESS_REFUSED - access", text
    )
    return shorter[:SURE_CHARACTERS] if shorter.endswith("...") else shorter


TEXTS: Final = (
    TextRule(
        "permission word",
        "§7.4: `>=3.12: configure access to {q} refused ...; <=3.11 lacks the leading word`",
        _without_permission_word,
    ),
)


class OutcomeRule(NamedTuple):
    """Two closes that count as one. The connection is closed on both sides afterwards."""

    name: str
    reference: str
    matches: Callable[[dict[str, Any], dict[str, Any]], bool]
    """RabbitMQ's close, ours."""


def _unknown_exchange_type(theirs: dict[str, Any], ours: dict[str, Any]) -> bool:
    def explanation(close: dict[str, Any]) -> str:
        # RabbitMQ says `invalid` if some plug-in's code happens to have an atom of that name.
        text = str(close.get("reply_text", "")).partition(" - ")[2]
        return text.replace("invalid exchange type", "unknown exchange type")

    return (
        (theirs.get("reply_code"), ours.get("reply_code")) == (503, 406)
        and explanation(theirs) == explanation(ours)
        and re.match("unknown exchange type", explanation(ours)) is not None
    )


def _user_id_first(theirs: dict[str, Any], ours: dict[str, Any]) -> bool:
    return (
        (theirs.get("reply_code"), ours.get("reply_code")) == (406, 406)
        and str(theirs.get("reply_text")).startswith("PRECONDITION_FAILED - user_id property")
        and _is_of_the_message(ours)
    )


def _is_of_the_message(close: dict[str, Any]) -> bool:
    """A refusal of what is in a message's properties."""
    found = re.match(
        "PRECONDITION_FAILED - (invalid expiration|invalid message|fast reply|user_id)",
        str(close.get("reply_text")),
    )
    return found is not None


def _topic_first(theirs: dict[str, Any], ours: dict[str, Any]) -> bool:
    return "access to topic" in str(theirs.get("reply_text")) and _is_of_the_message(ours)


OUTCOMES: Final = (
    OutcomeRule(
        "unknown exchange type",
        "§5.3: `>=3.13: 406 CH unknown exchange type 'blah'; <=3.12: 503 CONN same text`",
        _unknown_exchange_type,
    ),
    OutcomeRule(
        "user-id is looked at first",
        "§5.5, order of the checks (of 3.13's sources): user-id comes last; 3.10 has it before"
        " expiration and CC",
        _user_id_first,
    ),
    OutcomeRule(
        "topic permission is looked at first",
        "§5.5, order of the checks (of 3.13's sources): it comes after expiration and CC; 3.10 has"
        " it before",
        _topic_first,
    ),
)


class Race(NamedTuple):
    """Where RabbitMQ itself may do one thing or the other."""

    name: str
    reason: str


CUT_SHORT: Final = Race(
    "what a channel said before it ended its connection",
    "rabbit_writer.erl: replies and returns wait in a process of their own; rabbit_channel.erl,"
    " handle_exception: for an error of the connection the channel ends at once, its supervisor"
    " ends the writer, and the reader sends connection.close by itself. So RabbitMQ's replies of"
    " that step may lack their end; on amqpd all come, in order",
)
LATE: Final = Race(
    "a queue hears late of the end of a channel that got from it",
    "rabbit_channel.erl, notify_queues: before channel.close only the queues of consumers are told"
    " (`classic_consumer_queue_pids`); one that gave messages by basic.get learns it when the"
    " channel's process has ended, after the client's close-ok, and no reply tells when. So it is"
    " asked until both brokers' queues hold the same, no longer than play.LATE_SECONDS",
)


def same_text(text: str) -> str:
    """A reply text in the form in which both brokers' are compared."""
    for rule in TEXTS:
        text = rule.rewrite(text)
    return text


def excused(theirs: dict[str, Any], ours: dict[str, Any]) -> OutcomeRule | None:
    """The rule under which two closes are the same."""
    return next((rule for rule in OUTCOMES if rule.matches(theirs, ours)), None)
