"""The commands and their flags. `amqpd.cli` runs them.

Flags win over the environment (`AMQPD_*`, and those of the official RabbitMQ image), the
environment over the config file (TOML, the names of `amqpd.config.Config`).
"""

from __future__ import annotations

import sys
from typing import Any, Final

import click

from amqpd import __version__
from amqpd.exit_codes import EX_USAGE


def named(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse an empty name, as a variable of the shell leaves it that nobody set: it would be the
    working directory."""
    if value == "":
        raise click.BadParameter("it is empty: name a file or directory.")
    return value


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="amqpd")
def command_line() -> None:
    """An AMQP 0-9-1 broker that RabbitMQ's clients work with, unchanged.

    Without a command it is run: `amqpd` is `amqpd serve`, and `amqpd --in-memory` is
    `amqpd serve --in-memory`.
    """


@command_line.command()
@click.option(
    "--listen",
    multiple=True,
    metavar="HOST:PORT",
    help="Where to accept AMQP; port 0 is any free one. May be repeated.  "
    "[default: 127.0.0.1:5672]",
)
@click.option(
    "--tls-listen",
    multiple=True,
    metavar="HOST:PORT",
    help="Where to accept AMQP over TLS; needs --tls-certificate. May be repeated.",
)
@click.option("--tls-certificate", callback=named, metavar="FILE", help="Certificate chain, PEM.")
@click.option(
    "--tls-key",
    callback=named,
    metavar="FILE",
    help="Private key, PEM, if it is not in the former.",
)
@click.option(
    "--tls-ca", callback=named, metavar="FILE", help="Authorities for clients' certificates, PEM."
)
@click.option(
    "--management",
    metavar="HOST:PORT|off",
    help="Where the HTTP API listens.  [default: 127.0.0.1:15672]",
)
@click.option(
    "--data-dir",
    callback=named,
    metavar="DIR",
    help="Where the store is.  [default: the user's data directory]",
)
@click.option("--in-memory", is_flag=True, default=None, help="Keep nothing on disk.")
@click.option(
    "--definitions",
    callback=named,
    metavar="FILE",
    help="RabbitMQ definitions to load at boot, JSON.",
)
@click.option("--config", "config_file", callback=named, metavar="FILE", help="Settings, TOML.")
@click.option(
    "--compat", type=click.Choice(["3.13", "4.2", "4.3"]), help="Behave as this RabbitMQ."
)
@click.option(
    "--durability",
    type=click.Choice(["full", "normal"]),
    help="full: a confirm waits for the flush; normal: a power cut may lose the last commits.",
)
@click.option(
    "--ready-file",
    callback=named,
    metavar="FILE",
    help="Written when ready: JSON with real addresses.",
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
def serve(config_file: str | None, **flags: Any) -> None:
    """Run the broker until SIGTERM or Ctrl-C; a second one forces."""
    from amqpd.runtime.serve import serve as run
    from amqpd.runtime.settings import ConfigError, check_serving, read_config

    given = {name: value for name, value in flags.items() if value not in (None, ())}
    try:
        config = read_config(given, config_file)
        check_serving(config)
    except ConfigError as error:
        click.echo(f"amqpd: {error}", err=True)
        sys.exit(error.exit_code)
    sys.exit(run(config))


@command_line.command()
@click.argument("address", default="127.0.0.1:5672")
def ping(address: str) -> None:
    """Ask a broker at ADDRESS whether it speaks AMQP 0-9-1; exit 0 if it does."""
    from amqpd.ping import ping as ask

    sys.exit(ask(address))


DATA_DIR: Final = click.option(
    "--data-dir",
    callback=named,
    metavar="DIR",
    help="Where the store is.  [default: as for `amqpd serve`]",
)


@command_line.command()
@DATA_DIR
def doctor(data_dir: str | None) -> None:
    """Say what is whole in the store of a stopped broker; exit 0 if everything is, 65 if not."""
    from amqpd.runtime.maintenance import doctor as look

    sys.exit(look(data_dir))


@command_line.command()
@DATA_DIR
@click.option(
    "--into",
    callback=named,
    metavar="NEWDIR",
    required=True,
    help="A directory that is new or empty.",
)
def recover(data_dir: str | None, into: str) -> None:
    """Save what can be read in a damaged store into a new one; exit 65 if something is lost."""
    from amqpd.runtime.maintenance import recover as save

    sys.exit(save(data_dir, into))


@command_line.command()
@DATA_DIR
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@click.argument("file", callback=named)
def backup(data_dir: str | None, force: bool, file: str) -> None:
    """Copy the store of a running or stopped broker to FILE."""
    from amqpd.runtime.maintenance import backup as copy

    sys.exit(copy(data_dir, file, force=force))


@command_line.command()
@click.option(
    "--data-dir", callback=named, metavar="NEWDIR", required=True, help="A directory: new or empty."
)
@click.argument("file", callback=named)
def restore(data_dir: str, file: str) -> None:
    """Check FILE, a backup, and put it into a new data directory."""
    from amqpd.runtime.maintenance import restore as bring_back

    sys.exit(bring_back(file, data_dir))


@command_line.group(invoke_without_command=True)
@click.pass_context
def definitions(context: click.Context) -> None:
    """RabbitMQ's definitions JSON of the store of a stopped broker."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(EX_USAGE)


VHOST: Final = click.option("--vhost", metavar="NAME", help="Of or into this virtual host alone.")


@definitions.command()
@DATA_DIR
@VHOST
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@click.argument("file", callback=named, default="-")
def export(data_dir: str | None, vhost: str | None, file: str, force: bool) -> None:
    """Write users, virtual hosts, policies, queues and so on to FILE, or to standard output.

    It has the hashes of passwords: FILE is for its owner alone.
    """
    from amqpd.runtime.definitions_command import export as write

    sys.exit(write(data_dir, vhost, file, force=force))


@definitions.command("import")
@DATA_DIR
@VHOST
@click.option("--dry-run", is_flag=True, help="Check FILE and say what would change.")
@click.argument("file", callback=named)
def import_(data_dir: str | None, vhost: str | None, dry_run: bool, file: str) -> None:
    """Add what FILE has, wholly or not at all; nothing is deleted. `-` is standard input."""
    from amqpd.runtime.definitions_command import import_ as read

    sys.exit(read(data_dir, vhost, file, dry_run=dry_run))


@command_line.command()
@click.option(
    "--url",
    default="http://127.0.0.1:15672",
    metavar="URL",
    envvar="AMQPD_MANAGEMENT_URL",
    help="The broker's HTTP API.  [default: http://127.0.0.1:15672]",
)
@click.option("--user", default="guest", metavar="NAME", envvar="AMQPD_MANAGEMENT_USER")
@click.option("--password", default="guest", envvar="AMQPD_MANAGEMENT_PASSWORD")
@click.option("--json", "as_json", is_flag=True, help="As the HTTP API gives them.")
def links(url: str, user: str, password: str, as_json: bool) -> None:
    """Show the federation links and shovels of a running broker; exit 1 if any is down."""
    from amqpd.runtime.links_command import show

    sys.exit(show(url, user, password, as_json=as_json))


@command_line.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    short_help="Put load on any AMQP 0-9-1 broker and say how fast it was.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Its many flags are read where they are needed: no other command pays for them."""
    from amqpd.bench.command import command

    sys.exit(command(args=list(arguments), prog_name="amqpd bench", standalone_mode=False))
