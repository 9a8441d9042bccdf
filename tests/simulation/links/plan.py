"""What network a seed makes: who is joined to whom, by which links, and what may go wrong."""

from __future__ import annotations

import itertools
import math
from random import Random
from typing import Final, Literal, NamedTuple

Kind = Literal["exchange", "queue", "shovel"]
Edge = tuple[str, str]

NAMES: Final = "abcde"
BREAKING: Final = ("power", "power", "kill", "all", "cut", "cut", "login", "away")
HARMLESS: Final = ("alarm", "policy")
LATENCIES_S: Final = (0.0005, 0.01, 0.2)
COMMITS_S: Final = (0.005, 0.05, 2.0)
WINDOWS: Final = (300, 5000, 65536)
PIECES: Final = ((1, 7, 200), (50, 3000), (65536,))
LIFETIMES: Final = (10, 900, 1500, 4000, 9000, 30_000, 200_000)
QUICK_LATENCY_S: Final = 0.01
QUICK_COMMIT_S: Final = 0.05
QUICK_WINDOW: Final = 65536


class Plan(NamedTuple):
    """A network."""

    kind: Kind
    shape: str
    names: tuple[str, ...]
    edges: tuple[Edge, ...]
    """From where messages go to where."""
    owners: tuple[str, ...]
    """Of each edge: the broker that has the link."""
    max_hops: int
    prefetch: int
    ack_mode: str
    reconnect_delay_s: int
    heartbeat_s: int
    queue_type: str
    """Of the queues that exchange links have upstream."""
    queue_types: dict[str, str]
    """Of the queue q of each broker."""
    trouble: float
    """How much of it; 0 is none."""
    troubles: tuple[str, ...]
    latency_s: float
    """Of a connection between two brokers, about."""
    commit_s: float
    """What each step of a commit takes at most."""
    window: int
    """Octets that are under way on a connection, each way."""
    pieces: tuple[int, ...]
    """Octets that arrive together."""
    lifetimes: tuple[float, ...]
    """Octets that a connection carries amid trouble before it is cut."""

    @property
    def breaks(self) -> bool:
        """Messages may come twice, if there is enough trouble."""
        return self.trouble > 0 and "power" in self.troubles

    @property
    def publishing(self) -> tuple[str, ...]:
        """Where messages are published."""
        return self.names

    @property
    def sinks(self) -> tuple[str, ...]:
        """Where they are to arrive."""
        return self.names[-1:] if self.kind == "shovel" else self.names

    @property
    def keeps_order(self) -> bool:
        """What one broker publishes goes one way only, and comes back into no queue."""
        return self.kind != "queue" and "quorum" not in self.queue_types.values()

    def links_of(self, name: str) -> list[Edge]:
        """Those that a broker has."""
        pairs = zip(self.edges, self.owners, strict=True)
        return [edge for edge, owner in pairs if owner == name]

    def upstreams_of(self, name: str) -> list[str]:
        """The other ends of its links of federation."""
        return [source for source, _ in self.links_of(name)]

    def shovels_of(self, name: str) -> list[Edge]:
        """Source and destination of its shovels."""
        return self.links_of(name)

    def reaches(self, source: str, name: str) -> bool:
        """Whether what is published at one exchange arrives at another, or the same."""
        reached = {source}
        for _ in range(self.max_hops):
            reached |= {there for here, there in self.edges if here in reached}
        return name in reached

    @property
    def is_quick(self) -> bool:
        """A link settles a prefetch within the two seconds that it has when it is replaced."""
        return (
            self.latency_s <= QUICK_LATENCY_S
            and self.commit_s <= QUICK_COMMIT_S
            and self.window >= QUICK_WINDOW
        )


def make_plan(chance: Random) -> Plan:
    """By the seed."""
    kind: Kind = chance.choice(("exchange", "exchange", "queue", "shovel"))
    shape = chance.choice(("chain",) if kind == "shovel" else ("chain", "ring", "mesh", "pair"))
    names = tuple(NAMES[: {"chain": 5, "ring": chance.randint(3, 5), "mesh": 4, "pair": 2}[shape]])
    chain = list(itertools.pairwise(names))
    if shape == "chain":
        edges = chain
    elif shape == "ring":
        edges = [*chain, (names[-1], names[0])]
    else:
        edges = [(one, other) for one in names for other in names if one != other]
    owners = [chance.choice(names if kind == "shovel" else edge[1:]) for edge in edges]
    max_hops = 1 if shape == "mesh" else chance.randint(1, len(names) + 1)
    troubles = chance.choice((BREAKING + HARMLESS, BREAKING + HARMLESS, HARMLESS))
    return Plan(
        kind=kind,
        shape=shape,
        names=names,
        edges=tuple(edges),
        owners=tuple(owners),
        max_hops=max_hops if kind == "exchange" else 1,
        prefetch=chance.choice((1, 5, 50, 1000)),
        ack_mode=chance.choice(("on-confirm",) * 6 + ("on-publish", "no-ack")),
        reconnect_delay_s=chance.choice((1, 5)),
        heartbeat_s=chance.choice((0, 5)),
        queue_type=chance.choice(("classic", "classic", "quorum")),
        queue_types={name: chance.choice(("classic", "classic", "quorum")) for name in names},
        trouble=chance.choice((0.0, 0.3, 1.0, 1.0)),
        troubles=troubles,
        latency_s=chance.choice(LATENCIES_S),
        commit_s=chance.choice(COMMITS_S),
        window=chance.choice(WINDOWS),
        pieces=chance.choice(PIECES),
        lifetimes=chance.choice((LIFETIMES, (math.inf,))),
    )
