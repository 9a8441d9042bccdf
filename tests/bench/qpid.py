"""Apache Qpid Broker-J, another broker for AMQP 0-9-1 (Java, through Maven), as a peer.

Durable messages are in Derby, which is what it can be given without another download; Derby flushes
before a confirm. Direct reply-to is RabbitMQ's own, and not known here: `rpc` has no figure.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from compat import harness, java_program
from tests.bench import brokers, process
from tests.bench.brokers import Broker, BrokerError

VERSION: Final = "9.2.1"
PARTS: Final = (
    "qpid-broker-core",
    "qpid-broker-plugins-amqp-0-8-protocol",
    "qpid-broker-plugins-derby-store",
    "qpid-broker-plugins-logging-logback",
)
COORDINATES: Final = (
    *(f"org.apache.qpid:{part}:{VERSION}" for part in PARTS),
    "ch.qos.logback:logback-classic:1.5.16",
    "commons-cli:commons-cli:1.8.0",
)
MAIN_JAR: Final = f"org.apache.qpid:qpid-broker:{VERSION}"
"""It would bring a store that Maven does not have any more."""
MAIN: Final = "org.apache.qpid.server.Main"
READY: Final = "BRK-1004"
"""It listens some time before its virtual host is there."""
SETTINGS: Final[dict[str, Any]] = {
    "name": "bench",
    "modelVersion": "9.0",
    "authenticationproviders": [
        {
            "name": "plain",
            "type": "Plain",
            "secureOnlyMechanisms": [],
            "users": [{"name": "guest", "type": "managed", "password": "guest"}],
        }
    ],
    "ports": [
        {
            "name": "AMQP",
            "port": "${bench.port}",
            "bindingAddress": "127.0.0.1",
            "protocols": ["AMQP_0_9_1"],
            "authenticationProvider": "plain",
            "virtualhostaliases": [{"name": "defaultAlias", "type": "defaultAlias"}],
        }
    ],
    "virtualhostnodes": [
        {
            "name": "bench",
            "type": "DERBY",
            "defaultVirtualHostNode": "true",
            "virtualHostInitialConfiguration": json.dumps({"type": "DERBY"}),
        }
    ],
}


@contextlib.contextmanager
def qpid(home: Path) -> Iterator[Broker]:
    """Started in a directory of its own. Raises BrokerError where Java or Maven is missing."""
    try:
        java = harness.need("java")
        place = Path(tempfile.gettempdir()) / "amqpd-bench-qpid"
        place.mkdir(exist_ok=True)
        jars = java_program.classpath(place, *COORDINATES, bare=(MAIN_JAR,))
    except (harness.Unavailable, harness.SuiteError) as error:
        raise BrokerError(f"no Qpid Broker-J: {error}") from error
    port = brokers.free_port()
    (home / "settings.json").write_text(json.dumps(SETTINGS))
    argv: list[str | Path] = [java, "-Xmx1g", f"-DQPID_WORK={home / 'work'}", "-cp", jars, MAIN]
    argv += ["-st", "JSON", "-icp", home / "settings.json", "-prop", f"bench.port={port}"]

    def ready() -> int | None:
        return port if READY in (home / "server.log").read_text(errors="replace") else None

    began = time.perf_counter()
    with brokers.started(argv, {}, home) as child:
        brokers.await_amqp(child, home, ready)
        seconds = time.perf_counter() - began
        pids = tuple(process.in_session(child.pid))
        yield Broker("qpid", f"amqp://127.0.0.1:{port}", pids, seconds)
