"""The brokers that amqpd is compared with, by the names that `--against` takes.

    rabbitmq    Debian's package, beside its service
    qpid        Apache Qpid Broker-J, through Maven; only when named
    plain       amqpd from the sources, not compiled, where what is measured is compiled

To add a broker: a starter (see `brokers.Starter`), and a line in PEERS.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from tests.bench import brokers
from tests.bench.brokers import Starter
from tests.bench.qpid import qpid

PLAIN: Final = "plain"
PEERS: Final[dict[str, Starter]] = {
    "rabbitmq": brokers.rabbitmq,
    "qpid": qpid,
    PLAIN: brokers.amqpd(label=PLAIN, plain=True),
}


def beside(python: Path | None) -> list[Starter]:
    """What a comparison has: each peer that is there, said on stderr if one is not."""
    found = []
    if brokers.compiled(python):
        found.append(PEERS[PLAIN])
    if brokers.RABBITMQ.exists():
        found.append(PEERS["rabbitmq"])
    else:
        print("without RabbitMQ: rabbitmq-server (the Debian package) is missing", file=sys.stderr)
    return found
