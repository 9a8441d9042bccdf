"""rabbitmq-c through its command-line tools (Debian's amqp-tools): a script of ours.

Every check is a function named for what it says; it fails by `AssertionError` with what the tool
printed. Queues carry a name of this run, so that a broker in use can be checked too.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import certificates, harness

TOOLS = ("amqp-declare-queue", "amqp-publish", "amqp-get", "amqp-consume", "amqp-delete-queue")
ABOUT = harness.About("rabbitmq-c", "0.11 (amqp-tools)", "C", "scenarios of ours")
TOOL_SECONDS = 120.0
HEARTBEAT_SECONDS = 4
"""The broker gives a client up after two of them: long enough for a machine that has much to do."""
PROBE = "probe"
EMPTY = 2
"""amqp-get's exit code for an empty queue."""
MEGABYTE = bytes(range(256)) * 4096


@dataclass
class Tools:
    """The tools bound to a broker and a directory; `queue` is this check's own name."""

    broker: harness.Broker
    work_dir: Path
    queue: str = ""
    made: list[str] = field(default_factory=list)

    def url(self, *, password: str = "", vhost: str = "") -> str:
        """The broker's URL, with a virtual host that rabbitmq-c reads as it is meant."""
        quoted = urllib.parse.quote(vhost or self.broker.vhost, safe="")
        who = f"{self.broker.user}:{password or self.broker.password}"
        return f"amqp://{who}@{self.broker.host}:{self.broker.port}/{quoted}"

    def tool(self, name: str, *args: str, stdin: bytes = b"", url: str = "") -> harness.Completed:
        """Run `amqp-<name>` to its end."""
        line = [f"amqp-{name}", "-u", url or self.url(), *args]
        done = harness.command(line, timeout=TOOL_SECONDS, stdin=stdin)
        assert done.code is not None, f"amqp-{name} did not end: {done.output}"
        return done

    @property
    def tls_url(self) -> str:
        """The broker's other port."""
        port = self.broker.addresses["amqps"][0].rpartition(":")[2]
        return f"amqps://{self.broker.user}:{self.broker.password}@localhost:{port}/%2F"

    def authority(self, name: str = "ca.pem") -> str:
        """A certificate to trust: the broker's authority, or another one."""
        return str(self.work_dir / "certificates" / name)

    def ok(self, name: str, *args: str, stdin: bytes = b"", url: str = "") -> str:
        """Run it; what it printed, stripped."""
        done = self.tool(name, *args, stdin=stdin, url=url)
        assert done.code == 0, f"amqp-{name} {args}: exit code {done.code}: {done.output}"
        return done.output.strip()

    def refused(self, words: str, name: str, *args: str, url: str = "") -> None:
        """Run it; it must fail with the broker's words."""
        done = self.tool(name, *args, url=url)
        assert done.code != 0, f"amqp-{name} {args} was not refused"
        assert words in done.output, f"expected {words!r} in {done.output!r}"

    def declare(self, *args: str) -> str:
        """Declare this check's queue."""
        self.made.append(self.queue)
        return self.ok("declare-queue", "-q", self.queue, *args)

    def publish(self, body: str, *args: str) -> None:
        """Publish to this check's queue through the default exchange."""
        self.ok("publish", "-r", self.queue, "-b", body, *args)

    def get(self) -> str:
        """One message; it is acknowledged as it is got."""
        return self.ok("get", "-q", self.queue)

    def is_empty(self) -> None:
        """The queue must have nothing ready."""
        done = self.tool("get", "-q", self.queue)
        assert done.code == EMPTY, f"queue is not empty: {done.code} {done.output}"

    @contextlib.contextmanager
    def consuming(self, *args: str) -> Iterator[Callable[[], list[str]]]:
        """A consumer of this check's queue in the background; yields what it has got so far.

        It is known to consume once a message of ours has reached it: nothing else tells.
        """
        path = self.work_dir / f"{self.queue}.got"
        path.write_text("")
        keep = ["--", "sh", "-c", 'cat >> "$0"; echo >> "$0"', str(path)]
        queue = self.queue
        process = subprocess.Popen(
            ["amqp-consume", "-u", self.url(), "-q", queue, *args, *keep],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

        def got() -> list[str]:
            return [line for line in path.read_text().splitlines() if line != PROBE]

        def answers() -> bool:
            self.ok("publish", "-r", queue, "-b", PROBE)
            time.sleep(0.2)
            return path.stat().st_size > 0

        try:
            eventually(answers, "the consumer in the background gets nothing")
            yield got
        finally:
            harness.stop_group(process)


def eventually(true: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def declare_says_the_name(t: Tools) -> None:
    assert t.declare() == t.queue
    assert t.declare() == t.queue, "the same declaration again is the same queue"


def declare_durable(t: Tools) -> None:
    assert t.declare("-d") == t.queue


def declare_names_a_queue(t: Tools) -> None:
    name = t.ok("declare-queue", "-q", "")
    t.made.append(name)
    assert name.startswith("amq.gen-"), name


def publish_and_get(t: Tools) -> None:
    t.declare()
    t.publish("hello")
    assert t.get() == "hello"
    t.is_empty()


def get_of_an_empty_queue(t: Tools) -> None:
    t.declare()
    t.is_empty()


def publish_with_properties(t: Tools) -> None:
    t.declare("-d")
    wanted = ["-p", "-C", "text/plain", "-E", "utf-8", "-t", "answers"]
    t.publish("with properties", *wanted, "-H", "one: 1", "-H", "two: 2")
    assert t.get() == "with properties"


def publish_an_empty_body(t: Tools) -> None:
    t.declare()
    t.ok("publish", "-r", t.queue, stdin=b"")
    done = t.tool("get", "-q", t.queue)
    assert (done.code, done.output) == (0, ""), done
    t.is_empty()


def publish_line_by_line_keeps_the_order(t: Tools) -> None:
    t.declare()
    lines = [f"line {number}" for number in range(200)]
    t.ok("publish", "-l", "-r", t.queue, stdin="".join(f"{x}\n" for x in lines).encode())
    assert t.ok("consume", "-q", t.queue, "-c", "200", "cat").splitlines() == lines
    t.is_empty()


def a_megabyte_comes_back_by_get(t: Tools) -> None:
    t.declare()
    t.ok("publish", "-r", t.queue, stdin=MEGABYTE)
    out = t.work_dir / "megabyte"
    line = ["sh", "-c", 'amqp-get -u "$0" -q "$1" > "$2"', t.url(), t.queue, str(out)]
    assert harness.command(line, timeout=TOOL_SECONDS).code == 0
    assert out.read_bytes() == MEGABYTE, "the body differs"


def a_megabyte_comes_back_by_consume(t: Tools) -> None:
    t.declare()
    t.ok("publish", "-r", t.queue, "-p", stdin=MEGABYTE)
    out = t.work_dir / "megabyte-consumed"
    t.ok("consume", "-q", t.queue, "-c", "1", "--", "sh", "-c", 'cat > "$0"', str(out))
    assert out.read_bytes() == MEGABYTE, "the body differs"
    t.is_empty()


def consume_with_acknowledgement(t: Tools) -> None:
    t.declare()
    for body in ("a\n", "b\n", "c\n"):
        t.publish(body)
    assert t.ok("consume", "-q", t.queue, "-c", "2", "cat").split() == ["a", "b"]
    assert t.get() == "c", "what was not consumed is requeued when the consumer leaves"
    t.is_empty()


def consume_with_prefetch_leaves_the_rest(t: Tools) -> None:
    t.declare()
    for number in range(10):
        t.publish(f"{number}\n")
    got = t.ok("consume", "-q", t.queue, "-p", "1", "-c", "4", "cat").split()
    assert got == ["0", "1", "2", "3"], got
    assert t.get() == "4"
    assert t.ok("delete-queue", "-q", t.queue) == "5"


def consume_without_acknowledgement(t: Tools) -> None:
    t.declare()
    t.publish("once\n")
    assert t.ok("consume", "-A", "-q", t.queue, "-c", "1", "cat") == "once"
    t.is_empty()


def a_command_that_fails_leaves_its_message(t: Tools) -> None:
    t.declare()
    t.publish("again")
    t.tool("consume", "-q", t.queue, "-c", "1", "false")
    assert t.get() == "again"


def consume_through_an_exchange(t: Tools) -> None:
    with t.consuming("-x", "-e", "amq.topic", "-r", f"{t.queue}.*.news") as got:
        keys = [f"{t.queue}.sport.news", f"{t.queue}.sport.else", f"{t.queue}.a.news"]
        for key in keys:
            t.ok("publish", "-e", "amq.topic", "-r", key, "-b", key)
        eventually(lambda: got() == [keys[0], keys[2]], "not the two that match")


def a_fanout_reaches_two_queues(t: Tools) -> None:
    bind = ["-x", "-e", "amq.fanout", "-r", "ignored"]
    with t.consuming(*bind) as one:
        t.queue += "-second"
        with t.consuming(*bind) as two:
            t.ok("publish", "-e", "amq.fanout", "-b", "all")
            eventually(lambda: one() == two() == ["all"], "not both")


def heartbeats_keep_an_idle_consumer(t: Tools) -> None:
    t.declare()
    with t.consuming(f"--heartbeat={HEARTBEAT_SECONDS}") as got:
        time.sleep(3.2 * HEARTBEAT_SECONDS)
        t.publish("still here")
        eventually(lambda: got() == ["still here"], "the consumer is gone")


def an_exclusive_queue_ends_with_its_connection(t: Tools) -> None:
    with t.consuming("-x"):
        t.refused("RESOURCE_LOCKED", "get", "-q", t.queue)

    def is_gone() -> bool:
        done = t.tool("get", "-q", t.queue)
        return "NOT_FOUND" in done.output

    eventually(is_gone, "the queue outlived its connection")


def delete_says_how_many_messages(t: Tools) -> None:
    t.declare()
    t.publish("one")
    t.publish("two")
    assert t.ok("delete-queue", "-q", t.queue) == "2"


def delete_of_an_unknown_queue_is_no_error(t: Tools) -> None:
    assert t.ok("delete-queue", "-q", t.queue) == "0"


def over_tls(t: Tools) -> None:
    t.declare()
    t.ok("publish", "-r", t.queue, "--cacert", t.authority(), stdin=MEGABYTE, url=t.tls_url)
    out = t.work_dir / "megabyte-over-tls"
    line = ["-q", t.queue, "--cacert", t.authority(), "-c", "1"]
    t.ok("consume", *line, "--", "sh", "-c", 'cat > "$0"', str(out), url=t.tls_url)
    assert out.read_bytes() == MEGABYTE, "the body differs"


def tls_with_an_authority_that_is_not_trusted(t: Tools) -> None:
    line = ["-q", t.queue, "--cacert", t.authority("other-ca.pem")]
    t.refused("opening socket", "get", *line, url=t.tls_url)


def refuses_a_wrong_password_403(t: Tools) -> None:
    t.refused("ACCESS_REFUSED", "declare-queue", "-q", t.queue, url=t.url(password="wrong"))


def refuses_a_reserved_name_403(t: Tools) -> None:
    t.refused("ACCESS_REFUSED", "declare-queue", "-q", f"amq.{t.queue}")


def refuses_get_of_an_unknown_queue_404(t: Tools) -> None:
    t.refused(f"NOT_FOUND - no queue '{t.queue}' in vhost '/'", "get", "-q", t.queue)


def refuses_consume_of_an_unknown_queue_404(t: Tools) -> None:
    t.refused("NOT_FOUND", "consume", "-q", t.queue, "-c", "1", "cat")


def refuses_another_connections_exclusive_queue_405(t: Tools) -> None:
    with t.consuming("-x"):
        t.refused("RESOURCE_LOCKED", "declare-queue", "-q", t.queue)


def refuses_other_properties_406(t: Tools) -> None:
    t.declare()
    t.refused("PRECONDITION_FAILED - inequivalent arg", "declare-queue", "-d", "-q", t.queue)


def refuses_delete_if_empty_406(t: Tools) -> None:
    t.declare()
    t.publish("here")
    t.refused("PRECONDITION_FAILED", "delete-queue", "-e", "-q", t.queue)


def refuses_delete_if_unused_406(t: Tools) -> None:
    t.declare()
    with t.consuming():
        t.refused("PRECONDITION_FAILED", "delete-queue", "--if-unused", "-q", t.queue)


def refuses_an_unknown_virtual_host_530(t: Tools) -> None:
    url = t.url(vhost=f"no-{t.queue}")
    t.refused("NOT_ALLOWED", "declare-queue", "-q", t.queue, url=url)


CHECKS: tuple[Callable[[Tools], None], ...] = (
    declare_says_the_name,
    declare_durable,
    declare_names_a_queue,
    publish_and_get,
    get_of_an_empty_queue,
    publish_with_properties,
    publish_an_empty_body,
    publish_line_by_line_keeps_the_order,
    a_megabyte_comes_back_by_get,
    a_megabyte_comes_back_by_consume,
    consume_with_acknowledgement,
    consume_with_prefetch_leaves_the_rest,
    consume_without_acknowledgement,
    a_command_that_fails_leaves_its_message,
    consume_through_an_exchange,
    a_fanout_reaches_two_queues,
    heartbeats_keep_an_idle_consumer,
    an_exclusive_queue_ends_with_its_connection,
    delete_says_how_many_messages,
    delete_of_an_unknown_queue_is_no_error,
    over_tls,
    tls_with_an_authority_that_is_not_trusted,
    refuses_a_wrong_password_403,
    refuses_a_reserved_name_403,
    refuses_get_of_an_unknown_queue_404,
    refuses_consume_of_an_unknown_queue_404,
    refuses_another_connections_exclusive_queue_405,
    refuses_other_properties_406,
    refuses_delete_if_empty_406,
    refuses_delete_if_unused_406,
    refuses_an_unknown_virtual_host_530,
)


def run(ctx: harness.Context) -> list[harness.Result]:
    """Each check with a queue of its own."""
    for tool in TOOLS:
        harness.need(tool)
    results = []
    with ctx.fresh(tls=certificates.issue(ctx.work_dir)) as broker:
        for number, check in enumerate(CHECKS):
            if ctx.only and check.__name__ not in ctx.only:
                continue
            tools = Tools(broker, ctx.work_dir, f"compat-{os.getpid()}-{number}")
            begun = time.monotonic()
            outcome, detail = harness.Outcome.PASS, ""
            try:
                check(tools)
            except AssertionError as failure:
                outcome, detail = harness.Outcome.FAIL, str(failure) or "not as expected"
            finally:
                for queue in set(tools.made):
                    with contextlib.suppress(AssertionError):
                        tools.tool("delete-queue", "-q", queue)
            seconds = time.monotonic() - begun
            results.append(harness.Result(check.__name__, outcome, detail, seconds))
    return results


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
