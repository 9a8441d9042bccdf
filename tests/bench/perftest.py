"""The neutral generator: RabbitMQ's own PerfTest (Java, through Maven), `--generator perftest`.

It knows nothing of us, encodes and decodes every message as an application does, and costs many
times what the broker costs: on two cores it is most of what is measured. What counts is that the
brokers are given the same. The rate is the median of the seconds of the second half, when Java has
compiled what it runs.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from compat import harness, java_program
from tests.bench import brokers, process
from tests.bench.brokers import Broker, BrokerError
from tests.bench.report import Figure

COORDINATES: Final = "com.rabbitmq:perf-test:2.22.1"
MAIN: Final = "com.rabbitmq.perf.PerfTest"
SECONDS: Final = 10
PATIENCE_SECONDS: Final = 60
RECEIVED: Final = re.compile(r"time [\d.]+ s.*?received: (\d+) msg/s")
LATENCIES: Final = re.compile(
    r"^id: .*?, consumer latency min/median/75th/95th/99th (\d+)/(\d+)/(\d+)/(\d+)/(\d+) µs", re.M
)


@dataclass(frozen=True)
class Workload:
    """A workload of the same name as ours, in PerfTest's letters."""

    name: str
    figure: str
    options: str
    timed: bool = False
    """Its latencies are what counts, not its rate."""


WORKLOADS: Final = (
    Workload("auto-ack", "12 B, automatic ack", "-a -s 12 -u perf"),
    Workload("manual-ack", "1 KB, manual ack, prefetch 200", "-q 200 -s 1024 -u perf"),
    Workload(
        "persistent",
        "1 KB persistent, 200 unconfirmed, consumed",
        "-q 200 -c 200 -s 1024 -f persistent -ad false -u perf-durable",
    ),
    Workload(
        "fan-out",
        "fan-out 1 to 10, deliveries",
        "-y 10 -a -s 12 -t fanout -e perf-fan -qp fan-%d -qpf 1 -qpt 10",
    ),
    Workload(
        "100-pairs",
        "100 producers, 100 consumers, 100 queues",
        "-x 100 -y 100 -a -s 100 -c 20 -qp pair-%d -qpf 1 -qpt 100 -ctp 4 -niot 4 -niotp 6",
    ),
    Workload("latency", "latency at 2,000/s, 12 B", "-a -s 12 -r 2000 -u perf", timed=True),
    Workload(
        "latency-10k", "latency at 10,000/s, 1,024 B", "-a -s 1024 -r 10000 -u perf", timed=True
    ),
)


class PerfTest:
    """Its jars, and how to run it."""

    def __init__(self) -> None:
        """Raises BrokerError where Java or Maven is missing."""
        try:
            self._java = harness.need("java")
            place = Path(tempfile.gettempdir()) / "amqpd-bench-java"
            place.mkdir(exist_ok=True)
            self._jars = java_program.classpath(place, COORDINATES)
        except (harness.Unavailable, harness.SuiteError) as error:
            raise BrokerError(f"no PerfTest: {error}") from error

    def measure(self, workload: Workload, quick: bool, broker: Broker) -> list[Figure]:
        """One workload, in a Java of its own."""
        argv = [self._java, "-Xmx512m", "-cp", self._jars, MAIN, "--uri", broker.url]
        argv += [*workload.options.split(), "--time", str(SECONDS // 2 if quick else SECONDS)]
        cpu = process.cpu_seconds(broker.pids)
        with tempfile.TemporaryFile() as out:
            child = subprocess.Popen(
                argv, cwd=brokers.ROOT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                code, memory = process.watched(child, broker.pids, SECONDS + PATIENCE_SECONDS)
            finally:
                brokers.stop_session(child, 5)
            out.seek(0)
            said = out.read().decode("utf-8", "replace")
        cpu = process.cpu_seconds(broker.pids) - cpu
        rates = [int(rate) for rate in RECEIVED.findall(said)]
        if code != 0 or not any(rates):
            raise BrokerError(f"PerfTest: exit code {code}\n{said[-2000:]}")
        cpu_us = cpu * 1e6 / sum(rates) if broker.pids else None
        memory_mb = memory / 1e6 if memory else None
        name = f"PerfTest: {workload.figure}"
        if not workload.timed:
            rate = statistics.median(rates[len(rates) // 2 :])
            return [Figure(name, rate, "msg/s", cpu_us, memory_mb=memory_mb)]
        times = LATENCIES.search(said)
        if times is None:
            raise BrokerError(f"PerfTest said no latencies\n{said[-2000:]}")
        return [
            Figure(f"{name}: p50", float(times[2]), "µs", cpu_us, memory_mb=memory_mb),
            Figure(f"{name}: p99", float(times[5]), "µs"),
        ]
