"""A channel with a task: it prepares itself in requests and replies, then it works.

    begin ──request──> answered ──request──> ... answered ──> ready

Sans-IO: who has the socket hands in what the broker said and sends what the client has to say.
"""

from __future__ import annotations

from collections.abc import Generator

from amqpd.commands import Arguments, Channel, Frame
from amqpd.links.client import LinkClient
from amqpd.links.methods import unchecked

Request = tuple[Frame, Arguments | None]
Script = Generator[Request, Frame, None]
"""Yields requests, and is sent the reply to each."""


class Speaker:
    """One channel."""

    def __init__(self, client: LinkClient, channel: int) -> None:
        self.client = client
        self.channel = channel
        self.ready = False
        """Prepared; it works from now on."""
        self._script = self._whole_script()

    @property
    def tag(self) -> bytes:
        """Its consumer tag, by which deliveries are told apart: they do not say their channel."""
        return b"bench-%d" % self.channel

    def begin(self) -> None:
        """The connection is open: ask for the channel."""
        self.client.send(self.channel, *next(self._script))

    def answered(self, method: Frame) -> None:
        """The reply to the last request came."""
        try:
            self.client.send(self.channel, *self._script.send(method))
        except StopIteration:
            self.ready = True

    def script(self) -> Script:
        """What it asks for once its channel is open."""
        yield from ()

    def _whole_script(self) -> Script:
        yield unchecked(Channel.Open, out_of_band="0"), None
        yield from self.script()
