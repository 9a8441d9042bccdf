"""The flags of `amqpd bench`: PerfTest's letters and names, where it has them."""

from __future__ import annotations

import re
import sys
import time
import uuid
from typing import Any, Final

import click
from msgspec import structs

from amqpd.bench.plan import DIRECT, InvalidPlan, Plan
from amqpd.command_output import written
from amqpd.commands import Arguments
from amqpd.links.uri import InvalidURI, parse_uri

FLAGS: Final = ("persistent", "mandatory")
CONNECT_S: Final = 10.0
"""Longest wait for a broker to be ready for a connection, unless the URI says otherwise."""
COUNT: Final = click.IntRange(min=0)
SOME: Final = click.IntRange(min=1)
RATE: Final = click.FloatRange(min=0)
NUMBER: Final = re.compile(r"-?[0-9]{1,99}")


@click.command(
    context_settings={"help_option_names": ["-?", "--help"], "max_content_width": 100},
    epilog="Ctrl-C ends a run without limits, with its summary.",
)
@click.option(
    "-h",
    "--uri",
    default="amqp://localhost",
    show_default=True,
    metavar="URI",
    help="The broker: amqp:// or amqps://USER:PASSWORD@HOST:PORT/VHOST.",
)
@click.option("-x", "--producers", type=COUNT, default=1, show_default=True)
@click.option("-y", "--consumers", type=COUNT, default=1, show_default=True)
@click.option("-X", "--producer-channel-count", type=SOME, default=1, help="Of each producer.")
@click.option("-Y", "--consumer-channel-count", type=SOME, default=1, help="Of each consumer.")
@click.option(
    "-s", "--size", type=SOME, default=12, show_default=True, help="Bytes of a body; 12 at least."
)
@click.option(
    "-c",
    "--confirm",
    type=SOME,
    help="Most publishes that wait for their confirm.  [default: no confirms]",
)
@click.option("-q", "--qos", type=COUNT, default=0, help="Prefetch of each consumer; 0: no limit.")
@click.option("-a", "--autoack", is_flag=True, help="Automatic acknowledgement.")
@click.option("-A", "--multi-ack-every", type=SOME, default=1, help="Acknowledge so many at once.")
@click.option(
    "-f", "--flag", type=click.Choice(FLAGS), multiple=True, help="Of messages; repeatable."
)
@click.option(
    "-u",
    "--queue",
    default="",
    metavar="NAME",
    help="One queue for all.  [default: each consumer has its own, all bound with the routing key]",
)
@click.option("-qp", "--queue-pattern", default="", metavar="NAME", help="Many queues: NAME-%d.")
@click.option("-qpf", "--queue-pattern-from", type=COUNT, default=1, help="The first of them.")
@click.option("-qpt", "--queue-pattern-to", type=COUNT, default=1, help="The last of them.")
@click.option(
    "-qa", "--queue-args", default="", metavar="K=V,...", help="Arguments of declared queues."
)
@click.option("-qq", "--quorum-queue", is_flag=True, help="Declare quorum queues.")
@click.option(
    "-ad",
    "--auto-delete",
    type=bool,
    default=True,
    show_default=True,
    help="Declared queues go with their last consumer.",
)
@click.option("-p", "--predeclared", is_flag=True, help="Declare and bind nothing.")
@click.option(
    "-e",
    "--exchange",
    default=DIRECT,
    show_default=True,
    metavar="NAME",
    help="Empty is the default exchange.",
)
@click.option("-t", "--type", "exchange_type", default=DIRECT, show_default=True)
@click.option("-k", "--routing-key", metavar="KEY", help="[default: a random one for all]")
@click.option("-r", "--rate", type=RATE, default=0, help="Messages a second of each producer.")
@click.option(
    "-R", "--consumer-rate", type=RATE, default=0, help="Messages a second of each consumer."
)
@click.option("-C", "--pmessages", type=COUNT, default=0, help="To publish, by each producer.")
@click.option("-D", "--cmessages", type=COUNT, default=0, help="To receive, by each consumer.")
@click.option("-z", "--time", "seconds", type=RATE, default=0, help="Seconds to run.")
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(min=0.1),
    default=1,
    show_default=True,
    help="Seconds between two lines.",
)
@click.option("-d", "--id", "name", metavar="NAME", help="Of the run, in each line.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document, and no lines.")
def command(as_json: bool, **flags: Any) -> None:
    """Put load on any AMQP 0-9-1 broker and say how fast it was.

    Letters and meanings are those of RabbitMQ's PerfTest. Declared queues are durable, since newer
    brokers refuse others. With --pmessages alone the run ends when nothing has come for a second.

    \b
      amqpd bench -z 10 -u perf -s 1024 -q 200 -c 200 -f persistent
      amqpd bench -h amqp://guest:guest@localhost:5672 -x 2 -y 4 -a -z 30 --json
    """
    from amqpd.bench.run import bench

    plan = plan_of(**flags)
    sys.exit(written(lambda: bench(plan, as_json=as_json)))


def plan_of(
    uri: str,
    flag: tuple[str, ...],
    queue_args: str,
    quorum_queue: bool,
    routing_key: str | None,
    name: str | None,
    **flags: Any,
) -> Plan:
    """The flags as a plan. Raises click.ClickException."""
    arguments = _arguments(queue_args)
    if quorum_queue:
        arguments["x-queue-type"] = ("S", "quorum")
    try:
        where = parse_uri(uri)
        if where.is_local:
            raise InvalidURI("it names no host")
        if "connection_timeout=" not in uri:
            where = structs.replace(where, connection_timeout_s=CONNECT_S)
        return Plan(
            uri=where,
            id=name or time.strftime("bench-%H%M%S"),
            producers=flags["producers"],
            producer_channels=flags["producer_channel_count"],
            consumers=flags["consumers"],
            consumer_channels=flags["consumer_channel_count"],
            body_bytes=flags["size"],
            unconfirmed_max=flags["confirm"],
            producer_messages=flags["pmessages"],
            consumer_messages=flags["cmessages"],
            prefetch=flags["qos"],
            auto_ack=flags["autoack"],
            ack_every=flags["multi_ack_every"],
            persistent="persistent" in flag,
            mandatory="mandatory" in flag,
            queue=flags["queue"],
            queue_pattern=flags["queue_pattern"],
            queue_from=flags["queue_pattern_from"],
            queue_to=flags["queue_pattern_to"],
            queue_arguments=arguments,
            # Quorum queues are never deleted with their last consumer: brokers refuse to try.
            auto_delete=flags["auto_delete"] and not quorum_queue,
            exchange=flags["exchange"],
            exchange_type=flags["exchange_type"],
            predeclared=flags["predeclared"],
            routing_key=str(uuid.uuid4()) if routing_key is None else routing_key,
            producer_rate=flags["rate"],
            consumer_rate=flags["consumer_rate"],
            seconds=flags["seconds"],
            interval_s=flags["interval"],
        )
    except InvalidURI as error:
        raise click.ClickException(f"--uri {uri}: {error}.") from None
    except InvalidPlan as error:
        raise click.ClickException(f"{error}.") from None


def _arguments(text: str) -> Arguments:
    """`x-max-length=10,x-overflow=reject-publish`: numbers and booleans are such."""
    found: Arguments = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise click.ClickException(f"--queue-args {part}: give KEY=VALUE,KEY=VALUE.")
        if NUMBER.fullmatch(value):
            if not -(1 << 63) <= int(value) < 1 << 63:
                raise click.ClickException(f"--queue-args {part}: AMQP's numbers have 64 bits.")
            found[key] = ("l", int(value))
        elif value in ("true", "false"):
            found[key] = ("t", value == "true")
        else:
            found[key] = ("S", value)
    return found
