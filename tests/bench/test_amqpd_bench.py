"""`amqpd bench` against an amqpd of its own: small counts, and what it says of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import trustme

from amqpd import __version__
from amqpd.bench.command import command, plan_of
from amqpd.bench.plan import Plan
from amqpd.exit_codes import EX_PIPE
from tests.patience import PATIENCE_S
from tests.runtime.process import BrokerProcess, bare_environment

COUNTS = ("-C", "300", "-D", "300")
ONE_QUEUE = ("-u", "perf")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    process = BrokerProcess(tmp_path_factory.mktemp("bench"))
    process.start("--management", "off")
    yield process
    process.kill()


def run(broker: BrokerProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    uri = f"amqp://{broker.address}"
    return amqpd("--uri", uri, *arguments, directory=broker.directory)


def amqpd(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "amqpd", "bench", *arguments],
        env=bare_environment(directory, None),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def figures(broker: BrokerProcess, *arguments: str) -> dict[str, Any]:
    done = run(broker, "--json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    "options",
    [
        ("-a",),
        ("-q", "20"),
        ("-q", "50", "-A", "10"),
        ("-c", "10", "-f", "persistent", "-q", "20"),
        ("-c", "1", "-qq"),
        ("-e", "bench-topic", "-t", "topic", "-k", "a.b.c"),
        ("-e", "", "-ad", "false"),
        ("-s", "300000", "-q", "10"),
        ("-r", "1000", "-R", "1000"),
        ("-X", "3", "-C", "100"),
    ],
    ids=" ".join,
)
def test_what_is_published_arrives(broker: BrokerProcess, options: tuple[str, ...]) -> None:
    said = figures(broker, *COUNTS, "-u", f"perf {' '.join(options)}"[:200], *options)
    assert (said["sent"], said["received"]) == (300, 300)
    assert said["confirmed"] == (300 if "-c" in options else 0)
    assert said["consumer_latency"]["min"] > 0
    assert (said["confirm_latency"] is not None) == ("-c" in options)
    assert said["broker"]["product"] == "RabbitMQ"
    assert said["broker"]["implementation"] == f"amqpd {__version__}"


def test_many_producers_and_consumers_share_queues(broker: BrokerProcess) -> None:
    said = figures(
        broker, "-x", "6", "-y", "3", "-qp", "many-%d", "-qpf", "1", "-qpt", "3",
        "-C", "50", "-D", "100", "-a",
    )  # fmt: skip
    assert (said["sent"], said["received"]) == (300, 300)


def test_without_a_queue_each_consumer_gets_everything(broker: BrokerProcess) -> None:
    said = figures(broker, "-y", "3", "-a", *COUNTS)
    assert (said["sent"], said["received"]) == (300, 900)


def test_a_run_that_publishes_so_many_ends_when_nothing_comes_any_more(
    broker: BrokerProcess,
) -> None:
    said = figures(broker, *ONE_QUEUE, "-C", "200", "-c", "50", "-q", "10")
    assert (said["sent"], said["confirmed"]) == (200, 200)
    assert said["received"] <= 200  # on a machine that stops for a second, not all


def test_stored_and_then_consumed_by_another_run(broker: BrokerProcess) -> None:
    kept = ("-u", "kept", "-ad", "false")
    assert figures(broker, *kept, "-y", "0", "-C", "100", "-c", "10")["confirmed"] == 100
    assert figures(broker, *kept, "-x", "0", "-D", "100")["received"] == 100


def test_unroutable_messages_come_back(broker: BrokerProcess) -> None:
    said = figures(
        broker, "-y", "0", "-f", "mandatory", "-e", "amq.direct", "-c", "10", "-C", "100"
    )
    assert (said["confirmed"], said["returned"]) == (100, 100)


def test_a_time_ends_it(broker: BrokerProcess) -> None:
    said = figures(broker, *ONE_QUEUE, "-z", "0.2", "-r", "200")
    assert said["seconds"] >= 0.2
    assert said["options"]["producer_rate"] == 200


def test_lines_say_how_it_goes(broker: BrokerProcess) -> None:
    done = run(broker, *ONE_QUEUE, *COUNTS, "-d", "my-run", "-c", "5")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("id: my-run, time ")
    assert any("min/median/75th/95th/99th consumer latency: " in line for line in lines)
    assert any(line.startswith("id: my-run, receiving rate avg: ") for line in lines)


def test_it_says_who_was_measured(broker: BrokerProcess) -> None:
    done = run(broker, *ONE_QUEUE, "-z", "0.3")
    assert f", amqpd {__version__} (as RabbitMQ 3.13.7)\n" in done.stdout


def test_the_brokers_refusal_is_told(broker: BrokerProcess) -> None:
    done = run(broker, "-e", "not there", "-p", "-u", "not there")
    assert done.returncode == 69
    assert "404 NOT_FOUND - no queue 'not there' in vhost '/'" in done.stderr


def test_a_wrong_password_is_told(broker: BrokerProcess) -> None:
    uri = f"amqp://guest:wrong@{broker.address}"
    done = amqpd("-h", uri, directory=broker.directory)
    assert done.returncode == 69
    assert "403" in done.stderr
    assert "wrong" not in done.stderr


def test_no_broker_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = amqpd("-h", f"amqp://127.0.0.1:{port}", directory=tmp_path)
    assert done.returncode == 69
    assert done.stderr.count("\n") == 1
    assert "connection refused" in done.stderr


def test_over_tls(tmp_path: Path) -> None:
    """Many connections, and what is said of files that are of no use."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    chain, key, trusted = (tmp_path / name for name in ("chain.pem", "key.pem", "ca.pem"))
    issued.private_key_and_cert_chain_pem.write_to_path(str(chain))
    issued.private_key_pem.write_to_path(str(key))
    authority.cert_pem.write_to_path(str(trusted))
    broker = BrokerProcess(tmp_path)
    options = ("--tls-listen", "127.0.0.1:0", "--tls-certificate", str(chain))
    broker.start("--management", "off", *options, "--tls-key", str(key))
    try:
        (address,) = broker.ready["amqps"]
        uri = f"amqps://{address}?server_name_indication=localhost&cacertfile="
        counts = ("-x", "10", "-y", "10", "-C", "30", "-D", "30", "-u", "tls", "--json")
        done = amqpd("-h", f"{uri}{trusted}", *counts, directory=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["received"] == 300
        missing = amqpd("-h", f"{uri}{tmp_path}/none.pem", *counts, directory=tmp_path)
        wrong = amqpd("-h", f"{uri}{key}", *counts, directory=tmp_path)
    finally:
        broker.kill()
    for refused in (missing, wrong):
        assert (refused.returncode, refused.stdout) == (69, "")
        assert refused.stderr.count("\n") == 1
        assert "Traceback" not in refused.stderr
    assert "No such file or directory" in missing.stderr


def test_a_run_that_nobody_reads_to_its_end(broker: BrokerProcess) -> None:
    """`| head`: it ends with the next line, and complains of nothing."""
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen(
        [sys.executable, "-m", "amqpd", "bench", "-h", f"amqp://{broker.address}", "-i", "0.1"],
        env=bare_environment(broker.directory, None),
        cwd=Path(__file__).parents[2],
        stdout=writing,
        stderr=subprocess.PIPE,
    ) as bench:
        os.close(writing)
        _, said = bench.communicate(timeout=PATIENCE_S)
    assert (bench.returncode, said) == (EX_PIPE, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_waiting_for_who_says_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"amqp://127.0.0.1:{silent.getsockname()[1]}"
        with subprocess.Popen(
            [sys.executable, "-m", "amqpd", "bench", "-h", uri],
            env=bare_environment(tmp_path, None),
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as bench:
            accepted, _ = silent.accept()
            with accepted:
                assert accepted.recv(8).startswith(b"AMQP")
                bench.send_signal(number)
                said, _ = bench.communicate(timeout=PATIENCE_S)
    assert (bench.returncode, said) == (130, b"")


def test_how_long_it_waits_for_a_broker() -> None:
    assert plan("-h", "amqp://h").uri.connection_timeout_s == 10
    assert plan("-h", "amqp://h?connection_timeout=500").uri.connection_timeout_s == 0.5


def plan(*arguments: str) -> Plan:
    context = command.make_context("amqpd bench", list(arguments))
    del context.params["as_json"]
    return plan_of(**context.params)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("-s", "11"), "a body has 12 at least"),
        (("-x", "0", "-y", "0"), "neither producers nor consumers"),
        (("-a", "-A", "5"), "exclude each other"),
        (("-q", "5", "-A", "10"), "more than --qos 5"),
        (("-u", "a", "-qp", "b-%d"), "exclude each other"),
        (("-qp", "b"), "needs a %d"),
        (("-qp", "b-%d", "-qpf", "5", "-qpt", "4"), "no range of queues"),
        (("-p",), "needs a queue"),
        (("-qa", "x-max-length"), "give KEY=VALUE"),
        (("-h", "http://localhost"), "scheme must be amqp or amqps"),
        (("-h", "amqp://"), "names no host"),
        (("-h", "amqp://a..b/"), "'a..b' cannot be the name of a host"),
        (("-x", "-1"), "-1 is not in the range"),
        (("-qa", "x-expires=9223372036854775808"), "numbers have 64 bits"),
        (("-qa", f"{'x' * 256}=1"), "--queue-args xxx"),
        (("-h", f"amqp://h/{'v' * 256}"), "--uri with virtual host vvv"),
        (("-u", "é" * 128), "ééé... is too long: AMQP carries 255 octets"),
        (("-qp", f"{'x' * 254}%d", "-qpt", "10"), "--queue-pattern xxx"),
        (("-e", "x" * 256), "--exchange xxx"),
        (("-t", "x" * 256), "--type xxx"),
        (("-k", "x" * 256), "--routing-key xxx"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: tuple[str, ...], problem: str) -> None:
    with pytest.raises(click.ClickException) as refused:
        plan(*arguments)
    assert problem in refused.value.format_message()


def test_names_may_be_as_long_as_amqp_carries_them() -> None:
    long = "x" * 255
    assert plan("-u", long, "-e", long, "-t", long, "-k", long, "-qa", f"{long}=1").queue == long
    assert plan("-qp", f"{'x' * 253}%d", "-qpt", "10").queues[-1] == "x" * 253 + "10"
    assert plan("-qa", "x=-9223372036854775808").queue_arguments == {"x": ("l", -(1 << 63))}


def test_what_is_too_long_is_one_line(tmp_path: Path) -> None:
    done = amqpd("-u", "x" * 300, directory=tmp_path)
    assert done.returncode == 64
    assert done.stderr == (
        f"amqpd: --queue {'x' * 32}... is too long: AMQP carries 255 octets."
        " See amqpd bench --help\n"
    )


def test_letters_mean_what_they_mean_to_perftest() -> None:
    made = plan(
        *("-x", "2", "-y", "3", "-X", "4", "-Y", "5", "-s", "1024", "-c", "100", "-q", "200"),
        *("-f", "persistent", "-f", "mandatory", "-u", "q", "-t", "topic", "-e", "x", "-k", "a.b"),
        *("-z", "30", "-r", "1000", "-R", "2000", "-C", "7", "-D", "8", "-i", "2", "-ad", "false"),
        *("-A", "10", "-qa", "x-max-length=10,x-overflow=drop-head,x-single-active-consumer=true"),
    )
    assert (made.producers, made.consumers) == (2, 3)
    assert (made.producer_channels, made.consumer_channels) == (4, 5)
    assert (made.body_bytes, made.unconfirmed_max, made.prefetch) == (1024, 100, 200)
    assert (made.persistent, made.mandatory, made.auto_delete) == (True, True, False)
    assert (made.queue, made.exchange_type, made.exchange) == ("q", "topic", "x")
    assert (made.routing_key, made.seconds, made.interval_s) == ("a.b", 30.0, 2.0)
    assert (made.producer_rate, made.consumer_rate) == (1000.0, 2000.0)
    assert (made.producer_messages, made.consumer_messages, made.ack_every) == (7, 8, 10)
    assert made.queue_arguments == {
        "x-max-length": ("l", 10),
        "x-overflow": ("S", "drop-head"),
        "x-single-active-consumer": ("t", True),
    }
