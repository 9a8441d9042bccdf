"""The process as its user meets it: how it starts, what it says, how it ends."""

from __future__ import annotations

import errno
import json
import os
import pty
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pamqp import commands

from amqpd.ping import ping
from amqpd.runtime.links_command import show
from amqpd.runtime.listen_advice import cannot_listen
from tests.patience import PATIENCE_S
from tests.runtime.client import Client, Closed, connect, read_to_end
from tests.runtime.process import BrokerProcess, bare_environment, run_command, wait_until

DATA = Path(__file__).parent / "data"
EX_FORCED = 130
MANY = 20


def refusal(broker: BrokerProcess, *arguments: str, **settings: str) -> tuple[int, str]:
    """Exit code and the one line that a broker says which cannot start."""
    broker.spawn(*arguments, environment=settings)
    code = broker.wait()
    lines = broker.log.splitlines()
    assert len(lines) == 1, broker.log
    assert lines[0].startswith("amqpd: ")
    assert not broker.ready_file.exists()
    return code, lines[0].removeprefix("amqpd: ")


# -- starting


def test_ready(broker: BrokerProcess) -> None:
    broker.ready_file.write_text("of a broker that was killed")
    broker.spawn()
    wait_until(lambda: broker.log)
    broker.end()
    assert "killed" not in broker.ready_file.read_text()
    broker.log_file.unlink()
    broker.start()
    assert broker.ready["pid"] == broker.pid
    assert set(broker.ready) == {"pid", "version", "amqp", "amqps", "management"}
    assert broker.ready["amqps"] == broker.ready["management"] == []
    wait_until(lambda: "complete" in broker.log)
    (line,) = broker.log.splitlines()
    assert "[info] Server startup complete" in line
    assert f"amqp={broker.address}" in line
    assert f"data={broker.data_directory}" in line
    with Client(broker.address) as client:
        assert client.server_properties["product"] == "RabbitMQ"
        assert client.server_properties["version"] == "3.13.7"
    assert broker.stop() == 0


@pytest.mark.parametrize("in_memory", [False, True])
def test_who_is_refused_leaves_the_ready_file_of_who_runs(
    broker: BrokerProcess, in_memory: bool
) -> None:
    broker.start(in_memory=in_memory)
    told = broker.ready_file.read_text()
    flags = ["--in-memory"] if in_memory else ["--data-dir", str(broker.data_directory)]
    flags += ["--listen", broker.address, "--ready-file", str(broker.ready_file)]
    again = run_command(broker.directory, "serve", *flags)
    assert again.returncode == (os.EX_UNAVAILABLE if in_memory else os.EX_TEMPFAIL)
    assert broker.ready_file.read_text() == told


def test_several_listeners_flags_and_profile(broker: BrokerProcess) -> None:
    broker.start("--listen", "localhost:0", "--compat", "4.2", "--durability", "normal")
    addresses = broker.ready["amqp"]
    assert len(set(addresses)) == len(addresses) >= 2
    for address in addresses:
        with Client(address) as client:
            assert client.server_properties["version"] == "4.2.1"


def test_serve_is_the_default(broker: BrokerProcess) -> None:
    """`amqpd` alone, told by the environment where."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(broker.directory),
        "AMQPD_LISTEN": "127.0.0.1:0",
        "AMQPD_MANAGEMENT": "127.0.0.1:0",
        "AMQPD_READY_FILE": str(broker.ready_file),
        "RABBITMQ_DEFAULT_USER": "ada",
        "RABBITMQ_DEFAULT_PASS": "pässword",
        "RABBITMQ_DEFAULT_VHOST": "räume",
    }
    with broker.log_file.open("wb") as log:
        broker.child = subprocess.Popen(
            [sys.executable, "-m", "amqpd"], env=environment, stderr=log
        )
    wait_until(broker.ready_file.exists, lambda: broker.log)
    broker.ready = json.loads(broker.ready_file.read_text())
    assert (broker.directory / ".local/share/amqpd/amqpd.sqlite3").exists()
    with Client(broker.address, user="ada", password="pässword", vhost="räume") as client:
        client.declare("q")
        client.close()
    with pytest.raises(Closed, match="vhost / not found"):
        Client(broker.address, user="ada", password="pässword")
    assert broker.stop() == 0


def test_config_file_below_environment_below_flags(broker: BrokerProcess) -> None:
    config = broker.directory / "amqpd.toml"
    config.write_text(
        'compat = "4.2"\ndefault_user = "file"\ndefault_pass = "file"\n'
        "[limits]\nheartbeat_s = 7\nchannel_max = 9\n"
    )
    broker.start(
        "--compat",
        "4.3",
        environment={
            "AMQPD_CONFIG": str(config),
            "AMQPD_DEFAULT_USER": "env",
            "AMQPD_COMPAT": "3.13",
        },
    )
    with Client(broker.address, user="env", password="file") as client:
        assert client.server_properties["version"] == "4.3.0"
    sock = connect(broker.address)
    with Client.__new__(Client) as client:
        client.sock, client.received = sock, bytearray()
        sock.sendall(b"AMQP\x00\x00\x09\x01")
        client.expect(commands.Connection.Start)
        login = "\x00env\x00file"
        client.send(commands.Connection.StartOk({}, "PLAIN", login, "en_US"), 0)
        tune = client.expect(commands.Connection.Tune)
        assert (tune.heartbeat, tune.channel_max) == (7, 9)


# -- what keeps it from starting


def test_port_in_use(broker: BrokerProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, line = refusal(broker, "--listen", f"127.0.0.1:{port}")
    assert code == os.EX_UNAVAILABLE
    assert line == (
        f"cannot listen on 127.0.0.1:{port}: Address already in use; "
        "stop what listens there, or choose another address with --listen"
    )


def test_address_of_another_machine(broker: BrokerProcess) -> None:
    code, line = refusal(broker, "--listen", "192.0.2.1:0")
    assert code == os.EX_UNAVAILABLE
    assert line.startswith("cannot listen on 192.0.2.1:0: Cannot assign requested address; ")
    code, line = refusal_again(broker, "--listen", "no-such-host.invalid:0")
    assert code == os.EX_UNAVAILABLE
    assert line.startswith("cannot listen on no-such-host.invalid:0: ")


def refusal_again(broker: BrokerProcess, *arguments: str) -> tuple[int, str]:
    broker.log_file.unlink()
    return refusal(broker, *arguments)


def test_directory_not_writable(broker: BrokerProcess) -> None:
    (broker.directory / "file").touch()
    broker.data_directory = broker.directory / "file" / "data"
    code, line = refusal(broker)
    assert code == os.EX_CANTCREAT
    assert line == (
        f"can not write to {broker.data_directory} (Not a directory): "
        "make the data directory writable for this user, or choose another one"
    )


def test_what_to_do_depends_on_what_the_system_says() -> None:
    def advice(error: OSError) -> str:
        return cannot_listen("h:1", "--tls-listen", error)

    assert advice(PermissionError(errno.EACCES, "Permission denied")) == (
        "cannot listen on h:1: Permission denied; "
        "this user may not have that port: choose one above 1023 with --tls-listen"
    )
    assert "this machine does not have that address" in advice(OSError(errno.EADDRNOTAVAIL, "x"))
    assert "nobody knows that host" in advice(socket.gaierror(-2, "Name or service not known"))
    assert "stop what listens there" in advice(OSError(errno.EADDRINUSE, "x"))


def test_a_port_of_the_http_api_in_use(broker: BrokerProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        code, line = refusal(broker, "--management", place)
    assert code == os.EX_UNAVAILABLE
    assert line == (
        f"cannot listen on {place} for the HTTP API: Address already in use; stop what listens "
        "there, or choose another address with --management; `--management off` does without it"
    )


def test_a_directory_that_is_a_file(broker: BrokerProcess) -> None:
    broker.data_directory.touch()
    assert refusal(broker) == (
        os.EX_CANTCREAT,
        f"{broker.data_directory} is a file: choose a directory with --data-dir",
    )


def test_a_backup_that_cannot_be_written(broker: BrokerProcess) -> None:
    broker.start()
    file = broker.directory / "nowhere" / "backup"
    done = run_command(
        broker.directory, "backup", "--data-dir", str(broker.data_directory), str(file)
    )
    assert done.returncode == os.EX_CANTCREAT
    assert done.stderr == (
        f"amqpd: cannot write {file} (No such file or directory): choose another FILE, "
        "or make room for it\n"
    )


def test_a_first_user_of_a_store_that_is_not_new(broker: BrokerProcess) -> None:
    words = "default_user, default_pass and default_vhost have no effect: the store is not new"
    ada = {"AMQPD_DEFAULT_USER": "ada", "AMQPD_DEFAULT_PASS": "pw"}
    broker.start(environment=ada)
    broker.stop()
    broker.start(environment=ada)
    broker.stop()
    assert words not in broker.log
    for other in ({"AMQPD_DEFAULT_PASS": "new"}, {"AMQPD_DEFAULT_VHOST": "v"}):
        broker.log_file.unlink()
        broker.start(environment=ada | other)
        broker.stop()
        assert broker.log.count(words) == 1


def test_what_a_terminal_is_told(broker: BrokerProcess) -> None:
    """The URL has a user who is there."""
    broker.start(environment={"AMQPD_DEFAULT_USER": "ada"})
    broker.stop()
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "wb") as terminal, broker.log_file.open("ab") as log:
        arguments = ["--listen", "127.0.0.1:0", "--data-dir", str(broker.data_directory)]
        broker.child = subprocess.Popen(
            [sys.executable, "-m", "amqpd", *arguments],
            stdout=terminal,
            stderr=log,
            env=bare_environment(broker.directory),
            cwd=Path(__file__).parents[2],
        )
    with os.fdopen(ours, "rb", buffering=0) as screen:
        said = b""
        while b"Ctrl-C" not in said:
            said += screen.read(1000)
        broker.stop()
    assert said.startswith(b"AMQP   amqp://ada:***@127.0.0.1:")
    assert b"\nHTTP   off\r\n" in said


def test_damaged_file(broker: BrokerProcess) -> None:
    broker.data_directory.mkdir()
    file = broker.data_directory / "amqpd.sqlite3"
    file.write_bytes(b"not a database" * 100)
    code, line = refusal(broker)
    assert code == os.EX_DATAERR
    assert line.startswith(f"{file} is damaged (it is not an SQLite database)")
    assert file.read_bytes() == b"not a database" * 100


def test_damaged_definition(broker: BrokerProcess) -> None:
    """What SQLite finds in order, and we do not."""
    broker.start()
    broker.stop()
    file = broker.data_directory / "amqpd.sqlite3"
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE definition SET value = x'00' WHERE kind = 'user'")
        assert connection.total_changes == 1
    connection.close()
    broker.log_file.unlink()
    code, line = refusal(broker)
    assert code == os.EX_DATAERR
    assert line.startswith(f"{file} is damaged (")


def test_store_of_a_newer_broker(broker: BrokerProcess) -> None:
    broker.start()
    broker.stop()
    file = broker.data_directory / "amqpd.sqlite3"
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.execute("UPDATE meta SET value = '99' WHERE name = 'schema_version'")
    connection.close()
    broker.log_file.unlink()
    code, line = refusal(broker)
    assert code == os.EX_CONFIG
    assert line.startswith(f"{file} was written by a newer amqpd")


def test_ready_file_that_cannot_be_written(broker: BrokerProcess) -> None:
    (broker.directory / "file").touch()
    broker.ready_file = broker.directory / "file" / "ready.json"
    code, line = refusal(broker)
    assert code == os.EX_CANTCREAT
    assert line == (
        f"cannot write {broker.ready_file} (Not a directory): "
        "choose another place with --ready-file"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["--lissen", "x"], os.EX_USAGE, "No such option '--lissen'."),
        (["--compat", "2.8"], os.EX_USAGE, "Invalid value for '--compat': '2.8' is not one of"),
        (["--data-dir", ""], os.EX_USAGE, "Invalid value for '--data-dir': it is empty: name a"),
        (["--management", "a..b:1"], os.EX_USAGE, "'a..b:1' is not an address: write HOST:PORT"),
        (["--tls-certificate", "/f"], os.EX_USAGE, "--tls-certificate (or tls_certificate) has no"),
        (["--listen", "here"], os.EX_USAGE, "'here' is not an address: write HOST:PORT"),
        (["--management", "on"], os.EX_USAGE, "'on' is not an address: write HOST:PORT"),
        (["--tls-listen", "[::1]:0"], os.EX_USAGE, "--tls-listen needs --tls-certificate"),
        (["--config", "/nowhere"], os.EX_NOINPUT, "cannot read /nowhere: No such file"),
        (["--definitions", "/nowhere"], os.EX_NOINPUT, "cannot read /nowhere (No such file"),
        (
            ["--tls-listen", "127.0.0.1:0", "--tls-certificate", "/nowhere"],
            os.EX_NOINPUT,
            "cannot read /nowhere (No such file or directory): give a file that is there with "
            "--tls-certificate",
        ),
    ],
)
def test_other_refusals(broker: BrokerProcess, arguments: list[str], code: int, line: str) -> None:
    got = refusal(broker, *arguments)
    assert got[0] == code
    assert got[1].startswith(line)


def test_bad_definitions(broker: BrokerProcess) -> None:
    file = broker.directory / "definitions.json"
    file.write_text(json.dumps({"vhosts": [{"name": "/"}], "queues": [{"name": "q", "vhost": 7}]}))
    code, line = refusal(broker, "--definitions", str(file))
    assert code == os.EX_DATAERR
    assert line.startswith(f"{file}: $.queues[0].vhost: ")
    # What is refused while it is applied leaves no trace either.
    binding = {
        "vhost": "/",
        "source": "amq.direct",
        "destination": "nowhere",
        "destination_type": "queue",
    }
    file.write_text(json.dumps({"vhosts": [{"name": "v"}], "bindings": [binding]}))
    code, line = refusal_again(broker, "--definitions", str(file))
    assert code == os.EX_DATAERR
    assert line == f"{file}: $.bindings[0]: no queue 'nowhere' in vhost '/'; correct the file"
    broker.start()
    with pytest.raises(Closed, match="vhost v not found"):
        Client(broker.address, vhost="v")


# -- stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_clients_are_told(broker: BrokerProcess, number: signal.Signals) -> None:
    broker.start()
    clients = [Client(broker.address) for _ in range(MANY)]
    greeting = connect(broker.address)  # this one never said anything
    broker.wait_for_log("connection opened", MANY)
    broker.signal(number)
    for client in clients:
        with pytest.raises(Closed) as closed:
            client.expect(commands.Connection.CloseOk)
        assert closed.value.code == 320
        assert closed.value.text == (
            "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"
        )
        # Who reconnects at once is not served by a broker that is about to go.
        with pytest.raises(ConnectionRefusedError):
            connect(broker.address)
        client.send(commands.Connection.CloseOk(), 0)
        assert client.wait_gone() == b""
        client.sock.close()
    assert read_to_end(greeting) == b""
    greeting.close()
    assert broker.wait() == 0
    assert f"stopping signal={number.name}" in broker.log
    assert "Traceback" not in broker.log


def test_messages_of_the_last_moment_are_kept(broker: BrokerProcess) -> None:
    broker.start()
    with Client(broker.address) as client:
        client.declare("q")
        for number in range(200):
            client.publish("", "q", b"%d" % number * 1000)
        client.message_count("q")  # the broker has them all; whether they are on disk nobody knows
        broker.signal(signal.SIGTERM)
        with pytest.raises(Closed):
            client.expect(commands.Connection.CloseOk)
        client.send(commands.Connection.CloseOk(), 0)
    assert broker.wait() == 0
    broker.start()
    with Client(broker.address) as client:
        assert client.message_count("q") == 200


def test_clients_that_do_not_answer_are_given_up(broker: BrokerProcess) -> None:
    config = broker.directory / "amqpd.toml"
    config.write_text("[limits]\nshutdown_s = 0.2\n")
    broker.start("--config", str(config))
    with Client(broker.address):
        assert broker.stop() == 0
    assert "some clients did not close their connections" in broker.log


def test_a_second_signal_forces(broker: BrokerProcess) -> None:
    config = broker.directory / "amqpd.toml"
    config.write_text("[limits]\nshutdown_s = 1000\nlinger_s = 1000\n")
    broker.start("--config", str(config))
    with Client(broker.address) as client:
        client.declare("q")
        client.confirm_select()
        client.publish("", "q", b"kept")
        client.wait_confirmed()
        broker.signal(signal.SIGTERM)
        with pytest.raises(Closed):
            client.wait_confirmed(2)
        broker.signal(signal.SIGINT)
        assert broker.wait() == EX_FORCED
    assert broker.log.endswith("amqpd: forced to stop: what was confirmed is safe\n")
    assert "Traceback" not in broker.log
    broker.start("--config", str(config))
    with Client(broker.address) as client:
        assert client.message_count("q") == 1


@pytest.mark.parametrize(
    "hanging",
    [
        # A task that does not heed its cancellation, the last flush, and a thread at the very end.
        "serve.run_links = hang",
        "serve.JournalWriter.settle = hang",
        "import threading\nthreading.Thread(target=time.sleep, args=(1000,)).start()",
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_stop_that_hangs(
    broker: BrokerProcess, hanging: str, number: signal.Signals
) -> None:
    script = broker.directory / "hanging.py"
    script.write_text(
        "import time\nimport anyio\nfrom amqpd.cli import main\nfrom amqpd.runtime import serve\n"
        "async def hang(*arguments):\n"
        "    with anyio.CancelScope(shield=True):\n"
        "        await anyio.sleep_forever()\n"
        f"{hanging}\nmain()\n"
    )
    arguments = ["--listen", "127.0.0.1:0", "--ready-file", str(broker.ready_file)]
    arguments += ["--data-dir", str(broker.data_directory)]
    with broker.log_file.open("ab") as log:
        broker.child = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stderr=log,
            env=bare_environment(broker.directory),
            cwd=Path(__file__).parents[2],
        )
    wait_until(broker.ready_file.exists, lambda: broker.log)
    broker.signal(number)
    broker.wait_for_log("stopping signal=")
    broker.signal(number)
    assert broker.wait() == EX_FORCED
    assert broker.log.endswith("amqpd: forced to stop: what was confirmed is safe\n")


def test_stopped_as_soon_as_it_is_ready(broker: BrokerProcess) -> None:
    for _ in range(3):
        broker.start(in_memory=True)
        assert broker.stop() == 0


# -- definitions


def export(name: str) -> Path:
    return DATA / name


@pytest.fixture
def passwords(broker: BrokerProcess) -> Path:
    """The real export, with a password that we know for one of its users."""
    content = json.loads(export("rabbitmq_3_10_8_definitions.json").read_text())
    for user in content["users"]:
        if user["name"] == "alice":
            user["password"] = "known"
    file = broker.directory / "definitions.json"
    file.write_text(json.dumps(content))
    return file


def test_definitions_of_a_broker(broker: BrokerProcess, passwords: Path) -> None:
    content = json.loads(passwords.read_text())
    for boot in range(2):
        broker.start("--definitions", str(passwords))
        for vhost in {
            entry["vhost"] for entry in content["permissions"] if entry["user"] == "alice"
        }:
            with Client(broker.address, user="alice", password="known", vhost=vhost) as client:
                for queue in content["queues"]:
                    if queue["vhost"] == vhost:
                        declare = commands.Queue.Declare(0, queue["name"], passive=True)
                        assert client.exists(declare), queue
                for exchange in content["exchanges"]:
                    if exchange["vhost"] == vhost:
                        name = exchange["name"]
                        assert client.exists(commands.Exchange.Declare(0, name, passive=True))
                client.close()
        assert broker.log.count("definitions imported") == boot + 1
        assert broker.stop() == 0
    # The same both times: nothing was added a second time.
    with sqlite3.connect(broker.data_directory / "amqpd.sqlite3") as connection:
        kinds = dict(connection.execute("SELECT kind, count(*) FROM definition GROUP BY kind"))
    connection.close()
    assert kinds["user"] == len(content["users"])
    assert kinds["vhost"] == len(content["vhosts"])
    durable = [queue for queue in content["queues"] if queue["durable"]]
    assert kinds["queue"] == len(durable)


def test_unknown_parts_are_told(broker: BrokerProcess, passwords: Path) -> None:
    content = json.loads(passwords.read_text())
    content["robots"] = [{"name": "\x1b[31mrobot"}]
    passwords.write_text(json.dumps(content))
    broker.start("--definitions", str(passwords))
    warnings = [line for line in broker.log.splitlines() if "[warning]" in line]
    assert any("robots" in line for line in warnings)
    assert "\x1b" not in broker.log


def test_definitions_of_one_vhost(broker: BrokerProcess) -> None:
    file = export("rabbitmq_3_10_8_vhost_definitions.json")
    content = json.loads(file.read_text())
    broker.start("--definitions", str(file), environment={"RABBITMQ_DEFAULT_VHOST": "mine"})
    with Client(broker.address, vhost="mine") as client:  # no users in the file: guest is there
        for queue in content["queues"]:
            declare = commands.Queue.Declare(0, queue["name"], passive=True)
            assert client.exists(declare), queue


def test_who_brings_users_gets_no_guest(broker: BrokerProcess) -> None:
    file = broker.directory / "definitions.json"
    permission = {"user": "ada", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}
    user = {"name": "ada", "password": "pw", "tags": []}
    file.write_text(json.dumps({"users": [user], "permissions": [permission]}))
    broker.start("--definitions", str(file))
    with Client(broker.address, user="ada", password="pw") as client:
        client.declare("q")
        client.close()
    with pytest.raises(Closed, match="Login was refused"):
        Client(broker.address)
    assert broker.stop() == 0
    # A broker that is not new keeps what it has, and gets what the file says.
    other = BrokerProcess(broker.directory / "other")
    other.directory.mkdir()
    try:
        other.start()
        other.stop()
        other.start("--definitions", str(file))
        Client(other.address).close()
        Client(other.address, user="ada", password="pw").close()
    finally:
        other.end()


# -- ping


@pytest.fixture
def silent() -> Iterator[str]:
    """Something that listens and is no broker."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_ping(broker: BrokerProcess) -> None:
    broker.start()
    answer = run_command(broker.directory, "ping", broker.address)
    assert (answer.returncode, answer.stdout) == (0, f"amqpd: {broker.address} is up\n")
    broker.stop()
    answer = run_command(broker.directory, "ping", broker.address)
    assert answer.returncode == os.EX_UNAVAILABLE
    assert answer.stderr.startswith(f"amqpd: no answer from {broker.address}: ")
    answer = run_command(broker.directory, "ping", "nonsense")
    assert answer.returncode == os.EX_USAGE
    assert answer.stderr == "amqpd: 'nonsense' is not an address: write HOST:PORT\n"


def test_places_to_ping(broker: BrokerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    broker.start(in_memory=True)
    port = broker.address.rpartition(":")[2]
    for address in (port, f":{port}", f"amqp://guest:guest@127.0.0.1:{port}/%2F"):
        assert ping(address) == 0
        assert capsys.readouterr().out == f"amqpd: 127.0.0.1:{port} is up\n"
    for address in ("a..b:5672", "::1:5672", "h:65536", "amqp://h:x", "amqps://h:1", "h h:1"):
        assert ping(address) == os.EX_USAGE
        said = capsys.readouterr().err
        assert said == f"amqpd: {address!r} is not an address: write HOST:PORT\n"
    broker.stop()
    assert ping(port) == os.EX_UNAVAILABLE
    assert "connection refused. Is the broker running there?" in capsys.readouterr().err


def test_a_ping_that_is_interrupted(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with subprocess.Popen(
            [sys.executable, "-m", "amqpd", "ping", address],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).parents[2],
        ) as child:
            accepted, _ = silent.accept()
            with accepted:
                assert accepted.recv(8).startswith(b"AMQP")
                child.send_signal(signal.SIGINT)
                said, _ = child.communicate(timeout=PATIENCE_S)
    assert (child.returncode, said) == (EX_FORCED, b"")


@pytest.mark.parametrize("url", ["http://a..b:5", "http://localhost:notaport", "http://[::1", "x"])
def test_links_of_a_url_that_is_none(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(url, "guest", "guest", as_json=False) == os.EX_USAGE
    said = capsys.readouterr().err
    assert said == f"amqpd: {url} is no URL of an HTTP API: give --url http://HOST:PORT\n"


def test_ping_of_something_else(tmp_path: Path, silent: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "amqpd", "ping", silent],
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as child:
        host, _, port = silent.rpartition(":")
        assert host
        assert port
        _, said = child.communicate(timeout=PATIENCE_S)
        assert child.returncode == os.EX_UNAVAILABLE
    assert b"no answer from" in said


# -- what clients can write into the log


def test_nobody_forges_log_lines(broker: BrokerProcess) -> None:
    broker.start()
    forged = "x\n2026-01-01 00:00:00.000 [info] forged\r\x1b[31m"
    with pytest.raises(Closed, match="Login was refused"):
        Client(broker.address, user=forged, password="x")
    with pytest.raises(Closed):
        Client(broker.address, vhost=forged)
    with Client(broker.address) as client:
        client.publish(forged, "", b"")
        with pytest.raises(Closed, match="no exchange"):
            client.declare("q")
        client.call(commands.Channel.Open())
        client.declare("q", arguments={forged: forged})
        client.send(commands.Connection.Close(320, forged, 0, 0), 0)
        client.expect(commands.Connection.CloseOk)
    sock = connect(broker.address)
    sock.sendall(forged.encode())
    read_to_end(sock)
    sock.close()
    broker.stop()
    assert broker.log.count("forged") >= 5
    for line in broker.log.splitlines():
        assert line[:4].isdigit(), line
        assert "[info] forged" not in line[:50]
    assert "\x1b" not in broker.log
    assert "\r" not in broker.log_file.read_bytes().decode()


def test_ping_needs_the_standard_library_only() -> None:
    script = (
        "import sys, amqpd.cli\n"
        "sys.argv = ['amqpd', 'ping', '127.0.0.1:1']\n"
        "try:\n    amqpd.cli.main()\n"
        "except SystemExit as end:\n"
        "    allowed = {*sys.stdlib_module_names, 'amqpd', '__main__'}\n"
        "    print(end.code, *{m.partition('.')[0] for m in sys.modules} - allowed)\n"
    )
    command = [
        sys.executable,
        "-S",
        "-c",
        script,
    ]  # without .pth files, which import what they like
    answer = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert answer.stdout.split() == [str(os.EX_UNAVAILABLE)]
