"""The link client and a broker in one process: bytes between them, cut as the test likes."""

from __future__ import annotations

from amqpd.links.client import Event, LinkClient, State
from amqpd.links.shovel import Shovel
from amqpd.links.shovel_definition import ShovelDefinition
from amqpd.links.uri import LinkURI, parse_uri
from tests.conversation import BrokerUnderTest, Client

URI = parse_uri("amqp://localhost?heartbeat=0")
WHOLE = 1 << 30


class Wire(Client):
    """One connection of a link to the broker under test."""

    def __init__(
        self, broker: BrokerUnderTest, uri: LinkURI = URI, vhost: str = "/", step: int = WHOLE
    ) -> None:
        super().__init__(broker, name="link")
        broker.clients[self.peer.connection] = self
        self.link = LinkClient(uri, vhost, "Shovel s", broker.now)
        self.step = step
        """Octets that arrive at a time."""
        self.cut_off = False
        self._to_link = b""

    def _hear(self, data: bytes) -> None:
        self._to_link += data

    def move(self) -> list[Event] | None:
        """Bytes both ways, once; what the link heard, None if nothing moved."""
        said = b"" if self.cut_off else self.link.take_output(self.broker.now)
        for start in range(0, len(said), self.step):
            self.send_bytes(said[start : start + self.step])
        heard, self._to_link = self._to_link, b""
        events: list[Event] = []
        for start in range(0, len(heard), self.step):
            events += self.link.receive(heard[start : start + self.step], self.broker.now)
        return events if said or heard else None

    def converse(self) -> list[Event]:
        """Bytes both ways until both are quiet; what the link heard."""
        events: list[Event] = []
        while (more := self.move()) is not None:
            events += more
        return events

    def cut(self) -> None:
        """The socket is gone, with everything under way."""
        self._to_link = b""
        self.cut_off = True
        self.link.lost("cut")
        self.drop()


class ShovelUnderTest:
    """A shovel between two brokers, or between two queues of one."""

    def __init__(
        self,
        source: BrokerUnderTest,
        destination: BrokerUnderTest,
        definition: ShovelDefinition,
        step: int = WHOLE,
    ) -> None:
        self.source = Wire(source, step=step)
        self.destination = Wire(destination, step=step)
        entry = {"shovelled-by": ("S", "here"), "shovel-name": ("S", "s")}
        self.shovel = Shovel(
            definition, self.source.link, self.destination.link, entry, lambda: 1_700_000_000.5
        )

    def settle(self) -> None:
        """Until nobody has anything to say. Raises LinkFailed."""
        while self.move():
            pass

    def move(self) -> bool:
        """A step; whether anything moved."""
        moved = False
        for wire in (self.source, self.destination):
            events = wire.move()
            if events is not None:
                moved = True
                self.shovel.hear(wire.link, events)
        return moved

    def leave(self) -> None:
        """Say goodbye to both."""
        for wire in (self.source, self.destination):
            wire.link.close(wire.broker.now)
            wire.converse()
            assert wire.link.state is State.CLOSED
