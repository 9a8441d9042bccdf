"""The outlet of a channel that an HTTP caller's methods go through."""

from __future__ import annotations

from amqpd.commands import Frame, Message, Outlet
from amqpd.errors import AMQPException


class CallOutlet(Outlet):
    """Keeps what the channel says, for the handler to look at."""

    def __init__(self) -> None:
        self.methods: list[Frame] = []
        self.got: list[tuple[int, bool, int, Message]] = []
        """What basic.get fetched: delivery tag, redelivered, messages left, message."""
        self.was_returned = False
        self.was_refused = False

    @property
    def congested(self) -> bool:
        """Never: it takes no deliveries."""
        return False

    @property
    def saturated(self) -> bool:
        """Never."""
        return False

    def method(self, method: Frame) -> None:
        """A method without content."""
        self.methods.append(method)

    def deliver(
        self, consumer_prefix: bytes, delivery_tag: int, redelivered: bool, message: Message
    ) -> None:
        """Not reached: a call has no consumers."""
        raise AssertionError("a call does not consume")

    def get_ok(
        self, delivery_tag: int, redelivered: bool, message_count: int, message: Message
    ) -> None:
        """basic.get-ok."""
        self.got.append((delivery_tag, redelivered, message_count, message))

    def returned(self, code: int, text: str, message: Message) -> None:
        """basic.return."""
        self.was_returned = True

    def confirm(self, publish_number: int, multiple: bool) -> None:
        """Not asked for: the call waits for the disk by itself."""

    def refuse(self, publish_number: int, multiple: bool) -> None:
        """basic.nack: a queue had no room for what was published."""
        self.was_refused = True

    def fail(self, exception: AMQPException) -> None:
        """Not reached: a call is over before the broker could find its channel at fault."""
        raise AssertionError("a call's channel does not outlive its turn")

    def hold(self) -> object:
        """Nothing is held: the call as a whole waits for the disk."""
        return None

    def release(self, mark: object) -> None:
        """Nothing is held."""
