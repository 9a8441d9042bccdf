"""Header fields of every type that each client can send come back octet for octet.

A program for each client publishes one message with all the header fields and properties that the
client can write to the queue `fidelity`, takes it (basic.get), rejects it, and takes it again from
`fidelity.dead`. A recorder between client and broker keeps what went by. What the client wrote goes
to a second broker, too: over federation links and through a shovel (`links.py`). A result says what
became of one type: `pika::t through a queue`.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from amqpd.commands import Arguments, Channel, Queue
from compat import harness, java_program, python_client, scenario_program
from compat.differential.wire import Wire, method
from compat.header_fidelity import links, recorder
from compat.node_clients import run as node_clients

PYTHON = {
    "pika": "1.3.2",
    "amqp": "5.4.2",
    "aio-pika": "10.2.1",
    "amqpstorm": "3.1.4",
    "rabbitpy": "3.0.2",
    "pamqp": "4.0.1",
    "aiormq": "7.2.4",
}
GO_MODULE = "github.com/rabbitmq/amqp091-go"
GO_VERSION = "1.16.0"
LAPIN = "4.12.3"
JAVA = "5.37.0"
BUNNY = "2.19.0"
PHP_AMQPLIB = "3.5.3"
ANYEVENT = "1.22"
QUEUE, DEAD = "fidelity", "fidelity.dead"
OF_A_CLIENT = ("a queue", "a dead letter")
"""The ways that a client's program goes by itself, in this order."""
ADDED = {
    "a queue": (),
    "a dead letter": (b"x-death", b"x-first-death-", b"x-last-death-"),
    "a federated exchange": (b"x-received-from",),
    "a federated queue": (b"x-received-from", b"x-original-"),
    "a shovel": (),
}
"""The ways, and what the names of the header fields begin with that the broker adds on them."""
FAIL = harness.Outcome.FAIL
PROGRAM_SECONDS = 300.0
BUILD_SECONDS = 3000.0
Command = list[str | Path]


@dataclass(frozen=True)
class Client:
    """A client, and how its program comes about."""

    name: str
    version: str
    language: str
    command: Callable[[harness.Context], Command]


def _python(program: str) -> Callable[[harness.Context], Command]:
    requirements = [f"{name}=={version}" for name, version in PYTHON.items()]

    def command(ctx: harness.Context) -> Command:
        python = python_client.environment(ctx.work_dir, requirements)
        return [python, ctx.suite_dir / "python" / program]

    return command


def _raw(ctx: harness.Context) -> Command:
    return [sys.executable, ctx.suite_dir / "python" / "raw.py"]


def _node(program: str) -> Callable[[harness.Context], Command]:
    def command(ctx: harness.Context) -> Command:
        node = harness.need("node")
        folder = node_clients.install(ctx)
        shutil.copyfile(ctx.suite_dir / program, folder / program)
        return [node, folder / program]

    return command


def _go(ctx: harness.Context) -> Command:
    go = harness.need("go")
    folder = ctx.work_dir / "go"
    folder.mkdir(exist_ok=True)
    shutil.copyfile(ctx.suite_dir / "client.go", folder / "main.go")
    module = f"module fidelity\n\ngo 1.21\n\nrequire {GO_MODULE} v{GO_VERSION}\n"
    (folder / "go.mod").write_text(module)
    env = {"GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"}
    line = [go, "build", "-o", "fidelity", "."]
    done = harness.command(line, timeout=BUILD_SECONDS, cwd=folder, env=env)
    harness.must(done, "building the Go program")
    return [folder / "fidelity"]


def _rust(ctx: harness.Context) -> Command:
    cargo = harness.need("cargo")
    folder = ctx.work_dir / "rust"
    (folder / "src").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ctx.suite_dir / "lapin.rs", folder / "src" / "main.rs")
    (folder / "Cargo.toml").write_text(
        '[package]\nname = "fidelity"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\n'
        f'lapin = "={LAPIN}"\ntokio = {{ version = "1", features = ["full"] }}\n'
    )
    env = {"CARGO_PROFILE_DEV_DEBUG": "0", "CARGO_BUILD_JOBS": "1", "CARGO_INCREMENTAL": "0"}
    done = harness.command([cargo, "build"], timeout=BUILD_SECONDS, cwd=folder, env=env)
    harness.must(done, "building the Rust program")
    return [folder / "target" / "debug" / "fidelity"]


def _java(ctx: harness.Context) -> Command:
    coordinates = (f"com.rabbitmq:amqp-client:{JAVA}", "org.slf4j:slf4j-nop:1.7.36")
    jars = java_program.classpath(ctx.work_dir, *coordinates)
    return [*java_program.compiled(ctx.work_dir, jars, ctx.suite_dir / "Fidelity.java"), "Fidelity"]


def _ruby(ctx: harness.Context) -> Command:
    test = ("-e", 'require "bunny"')
    return [
        scenario_program.debian("ruby", test, ("ruby", "ruby-bunny")),
        ctx.suite_dir / "bunny.rb",
    ]


def _php(ctx: harness.Context) -> Command:
    test = ("-r", 'require "PhpAmqpLib/autoload.php"; new PhpAmqpLib\\Message\\AMQPMessage("x");')
    php = scenario_program.debian("php", test, ("php-cli", "php-amqplib"))
    return [php, ctx.suite_dir / "amqplib.php"]


def _perl(ctx: harness.Context) -> Command:
    test = ("-e", "use AnyEvent::RabbitMQ")
    perl = scenario_program.debian("perl", test, ("libanyevent-rabbitmq-perl",))
    return [perl, ctx.suite_dir / "anyevent.pl"]


CLIENTS = (
    Client("raw frames", "-", "Python", _raw),
    Client("pika", PYTHON["pika"], "Python", _python("of_pika.py")),
    Client("py-amqp", PYTHON["amqp"], "Python", _python("of_py_amqp.py")),
    Client("aio-pika", PYTHON["aio-pika"], "Python", _python("of_aio_pika.py")),
    Client("AMQPStorm", PYTHON["amqpstorm"], "Python", _python("of_amqpstorm.py")),
    Client("rabbitpy", PYTHON["rabbitpy"], "Python", _python("of_rabbitpy.py")),
    Client("amqplib", node_clients.PACKAGES["amqplib"], "JavaScript", _node("amqplib_fields.mjs")),
    Client(
        "rabbitmq-client",
        node_clients.PACKAGES["rabbitmq-client"],
        "JavaScript",
        _node("rabbitmq_client_fields.mjs"),
    ),
    Client("amqp091-go", GO_VERSION, "Go", _go),
    Client("lapin", LAPIN, "Rust", _rust),
    Client("com.rabbitmq:amqp-client", JAVA, "Java", _java),
    Client("Bunny", BUNNY, "Ruby", _ruby),
    Client("php-amqplib", PHP_AMQPLIB, "PHP", _php),
    Client("AnyEvent::RabbitMQ", ANYEVENT, "Perl", _perl),
)
ABOUT = tuple(
    harness.About(
        client.name, client.version, client.language, "header fields by type", f"{client.name}::"
    )
    for client in CLIENTS
)


def judge(client: str, octets: bytes, came: Mapping[str, bytes]) -> list[harness.Result]:
    """A result for each type octet that was sent and each way; and for each way as a whole."""
    sent = recorder.parse(octets)
    kinds = sorted(set().union(*(recorder.types(value) for _, value in sent.fields)))
    results = []
    for way, added in ADDED.items():
        if way not in came:
            results.append(harness.Result(f"{client}::all through {way}", FAIL, "did not come"))
            continue
        found = recorder.parse(came[way])
        fields = dict(found.fields)
        for kind in kinds:
            wrong = [
                f"{name!r}: sent {value!r}, found {fields.get(name)!r}"
                for name, value in sent.fields
                if kind in recorder.types(value) and fields.get(name) != value
            ]
            outcome = FAIL if wrong else harness.Outcome.PASS
            results.append(
                harness.Result(f"{client}::{kind} through {way}", outcome, "\n".join(wrong))
            )
        same = came[way] == octets if not added else _same_without(added, sent, found)
        detail = "" if same else f"sent {octets!r}\nfound {came[way]!r}"
        outcome = harness.Outcome.PASS if same else FAIL
        results.append(harness.Result(f"{client}::all through {way}", outcome, detail))
    return results


def _same_without(
    added: tuple[bytes, ...], sent: recorder.PropertyList, found: recorder.PropertyList
) -> bool:
    """Whether nothing else was added, nothing is missing, and no octet around changed."""
    kept = [field for field in found.fields if not field[0].startswith(added)]
    around = (found.flags, found.before, found.after) == (sent.flags, sent.before, sent.after)
    return around and sorted(kept) == sorted(sent.fields)


def empty_queues(url: str) -> None:
    """Two queues, the first of which dead-letters to the second."""
    wire = Wire(url, "guest")
    wire.say(1, Channel.Open())
    for queue in (QUEUE, DEAD):
        wire.say(
            1, method(Queue.Delete, queue=queue, if_unused=False, if_empty=False, nowait=False)
        )
    wire.say(1, Queue.Declare(queue=DEAD, durable=True))
    arguments: Arguments = {"x-dead-letter-exchange": ("S", "")}
    arguments["x-dead-letter-routing-key"] = ("S", DEAD)
    wire.say(1, Queue.Declare(queue=QUEUE, durable=True), arguments)
    declared = 0
    while declared < len((QUEUE, DEAD)):
        if not wire.read():
            raise harness.SuiteError(f"no queues: {wire.events}")
        declared = sum(event.name == "queue.declare_ok" for event in wire.events)
    wire.shut()


def of_client(
    ctx: harness.Context, broker: harness.Broker, joined: links.Links, client: Client
) -> list[harness.Result]:
    """Run its program through a recorder, and send on what it wrote."""
    try:
        line = client.command(ctx)
    except harness.Unavailable as reason:
        print(f"{client.name}: skipped: {reason}", flush=True)
        return [harness.Result(f"{client.name}::*", harness.Outcome.SKIP, str(reason))]
    empty_queues(broker.url)
    with recorder.recorder(broker.host, broker.port) as (kept, port):
        url = f"amqp://{broker.user}:{broker.password}@127.0.0.1:{port}"
        path = os.pathsep.join([str(harness.ROOT), os.environ.get("PYTHONPATH", "")])
        env = {"AMQP_URL": url, "PYTHONPATH": path}
        done = harness.command(line, timeout=PROGRAM_SECONDS, env=env)
    if done.code != 0 or (len(kept.published), len(kept.delivered)) != (1, len(OF_A_CLIENT)):
        went = f"{len(kept.published)} published, {len(kept.delivered)} delivered"
        return [harness.Result(f"{client.name}::the program", FAIL, f"{went}\n{done.tail}")]
    octets = kept.published[0]
    came = dict(zip(OF_A_CLIENT, kept.delivered, strict=True)) | joined.carry(octets)
    return judge(client.name, octets, came)


def run(ctx: harness.Context) -> list[harness.Result]:
    """Every client; `--only CLIENT::...` for one."""
    chosen: Sequence[Client] = CLIENTS
    if ctx.only:
        chosen = [c for c in CLIENTS if any(o.startswith(f"{c.name}::") for o in ctx.only)]
    with (
        ctx.fresh(links=True) as first,
        ctx.fresh(links=True) as second,
        links.Links(first, second) as joined,
    ):
        return [result for client in chosen for result in of_client(ctx, first, joined, client)]


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run, ABOUT))
