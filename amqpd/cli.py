"""The executable. `amqpd` alone is `amqpd serve`.

Health checks run `amqpd ping` every few seconds, so it has to do with the standard library: nothing
else is imported before it is known that something else is wanted.
"""

from __future__ import annotations

import sys
from typing import Final

from amqpd.exit_codes import EX_FORCED, EX_USAGE

COMMANDS: Final = (
    "serve",
    "ping",
    "doctor",
    "recover",
    "backup",
    "restore",
    "definitions",
    "links",
    "bench",
)
OWN_OPTIONS: Final = ("-h", "--help", "--version")


def main() -> None:
    """`amqpd`."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["ping"] and len(arguments) <= 2 and not arguments[-1].startswith("-"):
        from amqpd.ping import ping

        sys.exit(ping(*arguments[1:]))
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in OWN_OPTIONS):
        arguments = ["serve", *arguments]
    run(arguments)


def run(arguments: list[str]) -> None:
    """A command with its flags, to the end of the process."""
    import click

    from amqpd.command_line import command_line

    try:
        exit_code = command_line(args=arguments, prog_name="amqpd", standalone_mode=False)
    except click.ClickException as error:
        # One line, as for everything else that keeps the broker from starting.
        of = f" {arguments[0]}" if arguments[0] in COMMANDS else ""
        print(f"amqpd: {error.format_message()} See amqpd{of} --help", file=sys.stderr)
        sys.exit(EX_USAGE)
    except click.Abort:
        sys.exit(EX_FORCED)
    sys.exit(exit_code)
