"""PerfTest, RabbitMQ's own load generator (Java, through Maven), with one short workload at a time.

A workload passes when every producer has published all it was to publish, every consumer has
received all that was meant for it, and nothing was said on stderr. Rates and latencies are kept in
`<work dir>/perf-test/<workload>.txt`, and mean little on a busy machine.
"""

from __future__ import annotations

import re
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import certificates, harness

VERSION = "2.22.1"
ABOUT = harness.About("PerfTest", VERSION, "Java", "workloads to their end")
MAIN = "com.rabbitmq.perf.PerfTest"
CLASSPATH_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:build-classpath"
POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>compat</groupId>
  <artifactId>perf-test</artifactId>
  <version>0</version>
  <dependencies>
    <dependency>
      <groupId>com.rabbitmq</groupId>
      <artifactId>perf-test</artifactId>
      <version>{VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""
FETCH_SECONDS = 600
WORKLOAD_SECONDS = 600
STORE_PASSWORD = "changeit"
TROUBLE = re.compile(
    r"^(?!.*TrustEverythingTrustManager).*\b(WARN|ERROR|Exception|Error)\b", re.MULTILINE
)
"""Apart from what it says of every address for TLS: that certificates may not be looked at."""
CAPTURE_ERRORS = 'errors=$1; shift; exec "$@" 2>"$errors"'


@dataclass(frozen=True)
class Workload:
    """What to run, and how many messages make it whole."""

    options: str
    published: int
    """By each producer."""
    consumed: int
    """By each consumer; 0 where there is none."""
    says: str = ""
    """A pattern that the output has to hold."""


WORKLOADS = {
    "auto_ack": Workload("-x 1 -y 1 -a", 10_000, 10_000),
    "manual_ack": Workload("-x 1 -y 1", 10_000, 10_000),
    "multi_ack": Workload("-x 1 -y 1 -q 100 -A 50", 10_000, 10_000),
    "prefetch_of_one": Workload("-x 1 -y 1 -q 1", 2_000, 2_000),
    "prefetch_of_the_channel": Workload("-x 1 -y 1 -Q 50", 5_000, 5_000),
    "nack_without_requeue": Workload("-x 1 -y 1 -q 50 -na -re false", 5_000, 5_000),
    "confirms": Workload("-x 1 -y 1 -c 100", 5_000, 5_000),
    "confirms_one_by_one": Workload("-x 1 -y 1 -c 1 -f persistent -ad false -u p", 300, 300),
    "persistent": Workload("-x 1 -y 1 -c 500 -q 200 -f persistent -ad false -u d", 5_000, 5_000),
    "transactions": Workload("-x 1 -y 1 -m 20 -n 20", 2_000, 2_000),
    "fanout": Workload("-x 2 -y 4 -t fanout -e fan -qp fan-%d -qpf 1 -qpt 4", 1_000, 2_000),
    "topic": Workload("-x 2 -y 1 -t topic -e topic -k a.b.c", 2_500, 5_000),
    "headers": Workload("-x 1 -y 1 -t headers -e headers -mp a=1,b=two", 5_000, 5_000),
    "polling": Workload("-x 1 -y 1 -po", 1_000, 1_000),
    "thirty_connections": Workload("-x 15 -y 15 -qp many-%d -qpf 1 -qpt 15 -q 20", 300, 300),
    "queue_patterns": Workload("-x 10 -y 5 -qp some-%d -qpf 1 -qpt 5 -c 20", 200, 400),
    "many_channels": Workload("-x 1 -X 10 -y 1 -q 100", 300, 3_000),
    "lazy_arguments": Workload(
        "-x 1 -y 1 -f persistent -ad false -u lazy -qa x-queue-mode=lazy", 5_000, 5_000
    ),
    "priority_arguments": Workload(
        "-x 1 -y 1 -ad false -u prio -qa x-max-priority=10 -mp priority=5", 5_000, 5_000
    ),
    "quorum_queue": Workload("-x 1 -y 1 -c 100 -qq -u quorum", 1_000, 1_000),
    "bodies_of_256_KiB": Workload("-x 1 -y 1 -s 262144 -c 10 -q 10", 200, 200),
    "bodies_in_small_frames": Workload("-x 1 -y 1 -s 100000 -M 4096", 200, 200),
    "a_rate_kept": Workload("-x 1 -y 1 -r 500", 1_000, 1_000),
    "mandatory": Workload("-x 1 -y 1 -f mandatory -c 100", 5_000, 5_000),
    "mandatory_unroutable": Workload("-x 1 -y 0 -f mandatory -c 100 -r 500", 1_000, 0, r"returned"),
    "nack_with_requeue": Workload("-x 1 -y 1 -q 50 -na -re true", 1_000, 3_000),
    "rates_of_both": Workload("-x 1 -y 1 -r 1000 -R 1000", 1_000, 1_000),
    "rates_that_change": Workload("-x 1 -y 1 -vr 200:1 -vr 600:1 -z 6", 0, 0, r"time limit"),
    "sizes_that_change": Workload("-x 1 -y 1 -r 2000 -vs 100:1 -vs 20000:1", 4_000, 4_000),
    "latencies_that_change": Workload("-x 1 -y 1 -q 10 -vl 500:1 -vl 1000:1", 1_000, 1_000),
    "a_consumer_that_takes_its_time": Workload("-x 1 -y 1 -q 10 -L 1000", 1_000, 1_000),
    "one_each_second": Workload("-x 1 -y 1 -P 1", 3, 3),
    "until_the_time_is_over": Workload("-x 1 -y 1 -r 200 -z 3", 0, 0, r"Reached time limit"),
    "bodies_in_json": Workload("-x 1 -y 1 -jb -s 1000 -bc 10 -bfc 20", 2_000, 2_000),
    "bodies_of_files": Workload("-x 1 -y 1 -B {file},{file} -T text/plain", 2_000, 2_000),
    "routing_keys_at_random": Workload("-x 1 -y 1 -t fanout -e any -K -rkcs 50", 2_000, 2_000),
    "exclusive_queues": Workload("-x 1 -y 2 -E", 1_000, 1_000),
    "a_queue_that_is_there": Workload("-x 1 -y 1 -p -u d -sb -e '' -k d", 1_000, 1_000),
    "consumer_arguments": Workload("-x 1 -y 2 -ca x-priority=10", 2_000, 1_000),
    "polling_with_pauses": Workload("-x 1 -y 1 -po -pi 1", 300, 300),
    "starts_in_turn": Workload("-x 1 -y 3 -S -csd 1 -prsd 1 -q 1", 3_000, 500),
    "few_threads_for_many": Workload("-x 10 -y 10 -niot 2 -ctp 2 -pst 2 -hst 1 -b 4", 200, 100),
    "options_of_sockets": Workload("-x 1 -y 1 -tnd false -trbs 32768 -tsbs 32768", 2_000, 2_000),
    "two_addresses": Workload("-x 2 -y 2 -H {uri},{uri} -dcr -ms -mf compact", 1_000, 500),
    "tls": Workload("-x 1 -y 1 -h {tls_uri} -s 10000 -c 100", 2_000, 2_000),
    "tls_with_a_known_authority": Workload("-x 1 -y 1 -h {tls_uri} -udsc", 2_000, 2_000),
}
"""What is left out: streams, OAuth 2, SASL EXTERNAL, instances that are run by Kubernetes."""


def classpath(ctx: harness.Context) -> str:
    """PerfTest's jars and those they need, by way of a project that depends on it."""
    maven = harness.need("mvn")
    scratch = ctx.work_dir / "perf-test"
    scratch.mkdir(exist_ok=True)
    found = scratch / "classpath.txt"
    if not found.exists():
        (scratch / "pom.xml").write_text(POM)
        line = [maven, "--batch-mode", "--quiet", CLASSPATH_GOAL, f"-Dmdep.outputFile={found}"]
        what = f"fetching perf-test {VERSION}"
        harness.fetched(line, what, timeout=FETCH_SECONDS, cwd=scratch)
    return found.read_text().strip()


def verdict(workload: Workload, done: harness.Completed, errors: str) -> str:
    """What is wrong with this run; empty if nothing is."""
    if done.code is None:
        return "did not end: messages are missing"
    if done.code != 0:
        return f"exit code {done.code}"
    if errors.strip() or TROUBLE.search(done.output):
        return "complains"
    wanted = ["Producer reached message limit"] if workload.published else []
    wanted += ["Consumer reached message limit"] if workload.consumed else []
    wanted += [workload.says] if workload.says else []
    missing = [pattern for pattern in wanted if not re.search(pattern, done.output)]
    return f"does not say: {', '.join(missing)}" if missing else ""


@dataclass(frozen=True)
class Places:
    """What stands for the braces in the options of workloads."""

    uri: str
    tls_uri: str
    file: Path

    def options(self, workload: Workload) -> list[str]:
        """The workload's, with the broker's address unless they have one."""
        text = workload.options.format(uri=self.uri, tls_uri=self.tls_uri, file=self.file)
        options = shlex.split(text)
        return options if {"-h", "-H"} & set(options) else ["--uri", self.uri, *options]


def trust_store(authority: Path, out: Path) -> Path:
    """The authority in the form in which a JVM trusts it."""
    store = out / "authority.p12"
    if not store.exists():
        line: list[str | Path] = [harness.need("keytool"), "-importcert", "-noprompt"]
        line += ["-file", authority, "-keystore", store, "-storetype", "PKCS12"]
        line += ["-storepass", STORE_PASSWORD]
        harness.must(harness.command(line, timeout=FETCH_SECONDS), "keytool")
    return store


def run(ctx: harness.Context) -> list[harness.Result]:
    """One JVM for each workload, all against one broker."""
    java, shell = harness.need("java"), harness.need("sh")
    jars = classpath(ctx)
    out = ctx.work_dir / "perf-test"
    file = out / "body.txt"
    file.write_text("a body\n" * 100)
    authorities = certificates.issue(ctx.work_dir)
    store = trust_store(authorities / "ca.pem", out)
    trusting = [f"-Djavax.net.ssl.trustStore={store}"]
    trusting += [f"-Djavax.net.ssl.trustStorePassword={STORE_PASSWORD}"]
    deadline = time.monotonic() + ctx.timeout
    results = []
    left_out = {known.test for known in ctx.left_out}
    with ctx.fresh(tls=authorities) as broker:
        tls = next(iter(broker.addresses.get("amqps", ())), "127.0.0.1:1")
        account = f"{broker.user}:{broker.password}"
        tls_uri = f"amqps://{account}@localhost:{tls.rpartition(':')[2]}"
        places = Places(broker.url.rstrip("/"), tls_uri, file)
        for name, workload in WORKLOADS.items():
            left = min(WORKLOAD_SECONDS, deadline - time.monotonic())
            if name in left_out or (ctx.only and name not in ctx.only) or left < 1:
                continue
            errors = out / f"{name}.stderr.txt"
            line: list[str | Path] = [shell, "-c", CAPTURE_ERRORS, "sh", errors]
            options = places.options(workload)
            # With a trust store the program speaks TLS wherever it connects to.
            settings = trusting if "-udsc" in options else []
            line += [java, "-Xmx512m", *settings, "-cp", jars, MAIN, "--id", name, *options]
            if workload.published:
                line += ["--pmessages", str(workload.published)]
            if workload.consumed:
                line += ["--cmessages", str(workload.consumed)]
            done = harness.command(line, timeout=left, cwd=out, log=out / f"{name}.txt")
            said = errors.read_text(errors="replace")
            wrong = verdict(workload, done, said)
            results.append(
                harness.Result(
                    name,
                    harness.Outcome.FAIL if wrong else harness.Outcome.PASS,
                    "\n".join([done.tail, said[-2000:], wrong]) if wrong else "",
                    done.seconds,
                )
            )
    return results


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
