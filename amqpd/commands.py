"""The vocabulary between protocol and broker: AMQP's methods, and our own forms of the hot ones.

pamqp's classes name every method (`Queue.Declare`, `Basic.Consume`, ...). Those that carry
messages or settle them are too frequent for that and have their own classes here: `Message` is a
published message, its content header and body still the bytes that came in; `Settle` is an ack,
nack or reject. The protocol makes them out of bytes, the broker acts on them, and what the broker
has to say leaves through an `Outlet`, which turns it into bytes again. Neither side imports the
other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final, NamedTuple

from pamqp.base import Frame
from pamqp.commands import Basic, Channel, Confirm, Connection, Exchange, Queue, Tx

from amqpd.access_class import Access
from amqpd.errors import AMQPException
from amqpd.short_string import fits_short_string, short_string
from amqpd_storage.entries import Content

__all__ = [
    "ACK",
    "DISCARD",
    "REQUEUE",
    "Access",
    "Arguments",
    "Basic",
    "Channel",
    "Confirm",
    "Connection",
    "DeliveryOutlet",
    "Exchange",
    "Field",
    "Frame",
    "Message",
    "MethodCommand",
    "Outlet",
    "Oversized",
    "Queue",
    "Settle",
    "Target",
    "Tx",
]


Field = tuple[str, Any]
"""A value of a field table with the type octet it came with: `("I", 5)`, `("S", "text")`.

| octet | Python value | octet | Python value |
|---|---|---|---|
| t | bool | S | str (not UTF-8: surrogate escapes) |
| b B s u I i l L | int | A | list of Field |
| f d | float | F | dict of str to Field |
| D | (scale, unscaled) | V | None |
| T | int, seconds | x | bytes |
"""

Arguments = dict[str, Field]
"""A decoded field table."""

ACK: Final = 0
REQUEUE: Final = 1
DISCARD: Final = 2


class Notes(NamedTuple):
    """What neither properties nor routing key of a message tell."""

    hidden_keys: tuple[str, ...] = ()
    """Keys of the BCC header, which is gone: they count for the dead letter of the message."""
    counts_cc: bool = True
    """Whether the keys of the CC header count, too."""
    is_dead_letter: bool = False
    """The broker itself sent the message here: its x-death is the broker's own."""


NO_NOTES: Final = Notes()


class Target:
    """Where a basic.publish goes: exchange, routing key and flags, parsed once for many messages.

    A channel usually publishes with the same few method payloads again and again, so the reader
    keeps the parsed form, and the broker keeps on it (`route`, `route_version`, `tally`) what it
    found out: the permission, the queues that these bindings lead to, the exchange's count.
    """

    __slots__ = (
        "envelope",
        "exchange",
        "immediate",
        "mandatory",
        "notes",
        "route",
        "route_version",
        "routing_key",
        "stored_envelope",
        "tally",
    )

    def __init__(
        self, exchange: str, routing_key: str, envelope: bytes, mandatory: bool, immediate: bool
    ) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.envelope = envelope
        """Exchange and routing key as the two short strings that came, and go out again."""
        self.stored_envelope = envelope
        """The same, and the notes."""
        self.mandatory = mandatory
        self.immediate = immediate
        self.notes = NO_NOTES
        self.route: Any = None
        self.tally: Any = None
        self.route_version = -1

    def annotate(self, notes: Notes) -> None:
        """Note what is to be known of the message later, after a restart as well.

        Once, right after the target was made. The store keeps as many of the hidden keys as a
        record has room for, and none that no binding can have.
        """
        self.notes = notes
        if notes == NO_NOTES:
            return
        flags = DEAD_LETTER * notes.is_dead_letter | WITHOUT_CC * (not notes.counts_cc)
        stored = self.envelope + bytes((flags,))
        for key in notes.hidden_keys:
            if not fits_short_string(key):
                continue
            octets = short_string(key)
            if len(stored) + len(octets) > STORED_ENVELOPE_MAX:
                break
            stored += octets
        self.stored_envelope = stored


STORED_ENVELOPE_MAX: Final = 65535
DEAD_LETTER: Final = 1
WITHOUT_CC: Final = 2
"""Bits of the octet that may follow exchange and routing key in the store; then come the hidden
keys as short strings."""


def target_of(stored_envelope: bytes) -> Target:
    """The target of a message that was stored with this envelope."""
    exchange, after = _short_string(stored_envelope, 0)
    routing_key, after = _short_string(stored_envelope, after)
    target = Target(exchange, routing_key, stored_envelope[:after], False, False)
    if after < len(stored_envelope):
        flags = stored_envelope[after]
        hidden_keys = []
        after += 1
        while after < len(stored_envelope):
            key, after = _short_string(stored_envelope, after)
            hidden_keys.append(key)
        counts_cc, is_dead_letter = not flags & WITHOUT_CC, bool(flags & DEAD_LETTER)
        target.annotate(Notes(tuple(hidden_keys), counts_cc, is_dead_letter))
    return target


def _short_string(octets: bytes, start: int) -> tuple[str, int]:
    """The text that begins there, and where it ends."""
    end = start + 1 + octets[start]
    return octets[start + 1 : end].decode("utf-8", "surrogateescape"), end


class Message(Content):
    """A published message: raw bytes, and where they are going.

    `properties` is the content header from its property flags on; it and `body` are never changed
    in place, and go out as they came in. No `__init__`: the reader fills the slots, for speed.
    """

    __slots__ = ("channel", "persistent", "special", "target")

    channel: int
    target: Target
    persistent: bool
    """delivery-mode 2; set by the reader."""
    special: bool
    """Has headers, reply-to, expiration or user-id, for which the broker has rules."""

    def aim(self, target: Target) -> None:
        """Say where it is going."""
        self.target = target
        self.envelope = target.stored_envelope


def make_message(
    channel: int, target: Target, properties: bytes, body: bytes, persistent: bool, special: bool
) -> Message:
    """A message with its storage slots in their first state."""
    message = Message()
    message.channel = channel
    message.aim(target)
    message.properties = properties
    message.body = body
    message.persistent = persistent
    message.special = special
    message.message_id = 0
    message.stored = False
    return message


def copy_of(message: Message) -> Message:
    """The same message with a life of its own: the store knows nothing of it, nobody else's row is
    to be waited for."""
    return make_message(
        message.channel,
        message.target,
        message.properties,
        message.keep(),
        message.persistent,
        message.special,
    )


class Oversized:
    """A publish whose body was larger than this broker takes; the body was not kept."""

    __slots__ = ("body_size", "channel", "target")

    def __init__(self, channel: int, target: Target, body_size: int) -> None:
        self.channel = channel
        self.target = target
        self.body_size = body_size


class Settle:
    """basic.ack, basic.nack or basic.reject: `outcome` is ACK, REQUEUE or DISCARD.

    Acks of one delivery each, of tag after tag, that came one behind the other are one command.
    """

    __slots__ = ("channel", "delivery_tag", "last_tag", "method", "multiple", "outcome")

    def __init__(
        self, channel: int, delivery_tag: int, multiple: bool, outcome: int, method: tuple[int, int]
    ) -> None:
        self.channel = channel
        self.delivery_tag = delivery_tag
        self.last_tag = delivery_tag
        """Of the last of several acks: each from `delivery_tag` on is meant by itself."""
        self.multiple = multiple
        self.outcome = outcome
        self.method = method
        """Class and method id, for the error that an unknown delivery tag raises."""


class MethodCommand:
    """Any other method, with the channel it came on and its arguments table still typed."""

    __slots__ = ("arguments", "channel", "method")

    def __init__(self, channel: int, method: Frame, arguments: Arguments) -> None:
        self.channel = channel
        self.method = method
        self.arguments = arguments


class DeliveryOutlet(ABC):
    """What a consumer needs of its channel's outlet.

    A base class and no protocol: compiled, a delivery through it is a call in C.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def congested(self) -> bool:
        """More than `unsent_bytes_max` wait for the peer to read: deliver nothing more."""

    @abstractmethod
    def deliver(
        self, consumer_prefix: bytes, delivery_tag: int, redelivered: bool, message: Message
    ) -> None:
        """Send basic.deliver; `consumer_prefix` is the consumer tag as a short string."""


class Outlet(DeliveryOutlet):
    """What a channel of the broker says to its peer. Implemented by the protocol, per channel.

    Everything said through one outlet reaches the peer in the order in which it was said.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def saturated(self) -> bool:
        """So much waits for the peer to read that even what it asked for is dropped."""

    @abstractmethod
    def method(self, method: Frame) -> None:
        """Send a method without content."""

    @abstractmethod
    def get_ok(
        self, delivery_tag: int, redelivered: bool, message_count: int, message: Message
    ) -> None:
        """Send basic.get-ok."""

    @abstractmethod
    def returned(self, code: int, text: str, message: Message) -> None:
        """Send basic.return with the whole message."""

    @abstractmethod
    def confirm(self, publish_number: int, multiple: bool) -> None:
        """Send basic.ack for what was published."""

    @abstractmethod
    def refuse(self, publish_number: int, multiple: bool) -> None:
        """Send basic.nack for what was published."""

    @abstractmethod
    def fail(self, exception: AMQPException) -> None:
        """Close the channel: the broker has ended it of its own accord."""

    @abstractmethod
    def hold(self) -> object:
        """Keep everything said from here on back until the returned mark is released."""

    @abstractmethod
    def release(self, mark: object) -> None:
        """Let out what was held behind `mark`, up to the next mark still held."""
