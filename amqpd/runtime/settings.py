"""Putting flags, environment and file together into one `Config`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from amqpd.config import MIB, Config, Limits
from amqpd.exit_codes import EX_CONFIG, EX_NOINPUT, EX_USAGE
from amqpd.host_name import is_host
from amqpd.runtime.setting_problems import (
    SECRETS,
    Problem,
    UnknownSetting,
    problem_of,
    shorten,
    too_long,
)

IMAGE_VARIABLES: Final = {
    "RABBITMQ_DEFAULT_USER": "default_user",
    "RABBITMQ_DEFAULT_PASS": "default_pass",
    "RABBITMQ_DEFAULT_VHOST": "default_vhost",
}
"""What the official RabbitMQ image understands, for an empty store."""

MESSAGE_BYTES_MAX_4: Final = 16 * MIB
"""RabbitMQ 4.x took its limit down from 128 MiB."""


OFF: Final = "off"
"""No HTTP API."""

OTHER_VARIABLES: Final = frozenset(
    {"AMQPD_CONFIG", "AMQPD_COMPILE", "AMQPD_MANAGEMENT_URL"}
    | {"AMQPD_MANAGEMENT_USER", "AMQPD_MANAGEMENT_PASSWORD"}
)
"""Those that are no settings of the broker, and have an effect all the same."""
NEAR: Final = 0.9
"""How alike a name is to one that was meant: Kubernetes' AMQPD_PORT and the like are less so."""

TRUE: Final = frozenset({"1", "true", "yes", "on"})
FALSE: Final = frozenset({"", "0", "false", "no", "off"})


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int

    def __str__(self) -> str:
        return show_address(*self)


def show_address(host: str, port: int) -> str:
    """`HOST:PORT`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(text: str) -> Address:
    """`HOST:PORT`, `[V6]:PORT` or `PORT`. Raises ConfigError."""
    host, _, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    well_formed = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535
    if not (well_formed and is_host(bare)) or (":" in bare) != host.startswith("["):
        raise ConfigError(
            f"{text!r} is not an address: write HOST:PORT, for instance 127.0.0.1:5672", EX_USAGE
        )
    return Address(bare or "127.0.0.1", int(port))


TABLES: Final = ("limits", "shovels")
"""Settings that only the file can have."""
FILES: Final = ("tls_certificate", "tls_key", "tls_ca", "data_dir", "definitions", "ready_file")
"""Settings that name a file or a directory."""


class ConfigError(Exception):
    """A setting that cannot be used: which one, where, and what to do."""

    def __init__(self, message: str, exit_code: int = EX_CONFIG) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def read_config(
    flags: Mapping[str, Any],
    config_file: str | None,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """The settings of this process. Raises ConfigError."""
    environment = os.environ if environment is None else environment
    config_file = config_file or environment.get("AMQPD_CONFIG") or None
    from_file = read_file(config_file) if config_file is not None else {}
    settings: dict[str, Any] = {}
    for layer in (from_file, read_environment(environment), flags):
        if layer.get("in_memory"):
            settings.pop("data_dir", None)
        elif "data_dir" in layer:
            settings.pop("in_memory", None)
        settings.update(layer)
    for name in FILES:
        if settings.get(name) is not None:
            settings[name] = str(named_path(settings[name]))
    config = convert(settings, "settings: ")
    if config.compat != "3.13" and "message_bytes_max" not in settings.get("limits", {}):
        limits = msgspec.structs.replace(config.limits, message_bytes_max=MESSAGE_BYTES_MAX_4)
        config = msgspec.structs.replace(config, limits=limits)
    check(config)
    return config


def read_file(name: str) -> dict[str, Any]:
    """The TOML file, checked on its own so that errors name it."""
    path = Path(name)
    try:
        settings: dict[str, Any] = msgspec.toml.decode(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", EX_NOINPUT) from error
    except (msgspec.DecodeError, ValueError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    convert(settings, f"{path}: ")
    check_addresses(settings, f"{path}: ")
    return settings


def read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """AMQPD_* for every setting that is not a table; lists are separated by commas.

    What is empty is not set, as compose files leave `${VARIABLE}` empty; a list is empty then.
    Names that are not settings are passed over: Kubernetes sets AMQPD_PORT and the like for a
    service of that name.
    """
    settings: dict[str, Any] = {}
    for variable, name in IMAGE_VARIABLES.items():
        if environment.get(variable):
            settings[name] = _convert_text(name, environment[variable], variable, environment)
    for field in msgspec.structs.fields(Config):
        variable = f"AMQPD_{field.name.upper()}"
        if variable not in environment or field.name in TABLES:
            continue
        text = environment[variable]
        value: Any = text
        if field.type == tuple[str, ...]:
            value = [part.strip() for part in text.split(",") if part.strip()]
        elif not text:
            continue
        elif field.type is bool:
            if text.lower() not in TRUE | FALSE:
                raise ConfigError(f"{variable}={text}: write true or false")
            value = text.lower() in TRUE
        settings[field.name] = _convert_text(field.name, value, variable, environment)
    return settings


def near_misses(environment: Mapping[str, str]) -> list[str]:
    """Warnings of variables that are passed over, and that somebody surely meant as settings."""
    known = {f"AMQPD_{field.upper()}": field for field in Config.__struct_fields__}
    limits = {f"AMQPD_{field.upper()}": field for field in Limits.__struct_fields__}
    found = []
    for variable in sorted(environment):
        if not variable.startswith("AMQPD_") or variable in OTHER_VARIABLES:
            continue
        if variable in limits:
            advice = f"{limits[variable]} is set in the file only, under [limits]"
        elif variable in known and known[variable] not in TABLES:
            continue
        else:
            import difflib  # only here: it would make each start longer

            near = difflib.get_close_matches(variable, known, 1, NEAR)
            if not near:
                continue
            advice = f"did you mean {near[0]}?"
        found.append(f"{variable} has no effect: {advice}")
    return found


def _convert_text(name: str, value: Any, variable: str, environment: Mapping[str, str]) -> Any:
    """What a variable says, as the type of its setting: numbers come as text there."""
    try:
        config = msgspec.convert({name: value}, Config, strict=False)
    except msgspec.ValidationError as error:
        problem: Problem | UnknownSetting | None = problem_of({name: value}, error)
    else:
        problem = too_long({name: value})
    if problem is not None:
        given = "***" if name in SECRETS else shorten(environment[variable])
        raise ConfigError(f"{variable}={given}: {problem.advice}")
    check_addresses({name: value}, f"{variable}: ")
    return getattr(config, name)


def convert(settings: Mapping[str, Any], source: str) -> Config:
    """The settings as a Config. Raises ConfigError with the name of what is wrong."""
    try:
        config = msgspec.convert(settings, Config)
    except msgspec.ValidationError as error:
        problem: Problem | UnknownSetting | None = problem_of(settings, error)
    else:
        problem = too_long(settings)
        if problem is None:
            return config
    if isinstance(problem, Problem):
        raise ConfigError(f"{source}{problem.name} = {problem.shown}: {problem.advice}")
    assert problem is not None
    raise ConfigError(f"{source}there is no setting {problem.name}: {problem.advice}")


def check_addresses(settings: Mapping[str, Any], source: str) -> None:
    """Addresses of one source, which the error names. Raises ConfigError."""
    management = settings.get("management", OFF)
    addresses = [*settings.get("listen", ()), *settings.get("tls_listen", ())]
    for address in [*addresses, *([] if management == OFF else [management])]:
        try:
            parse_address(address)
        except ConfigError as error:
            raise ConfigError(f"{source}{error}") from None


def named_path(text: str) -> Path:
    """A file or directory of the settings; `~` is a home directory. Raises ConfigError."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ConfigError(f"{text}: nobody's home directory is known there") from None


def check(config: Config) -> None:
    """What no type can say."""
    if config.in_memory and config.data_dir is not None:
        raise ConfigError("--in-memory and --data-dir exclude each other: choose one", EX_USAGE)
    if config.tls_listen and config.tls_certificate is None:
        raise ConfigError("--tls-listen needs --tls-certificate (and --tls-key)", EX_USAGE)
    if not config.listen and not config.tls_listen:
        raise ConfigError("nothing to listen on: give --listen HOST:PORT", EX_USAGE)
    for address in config.listen + config.tls_listen:
        parse_address(address)
    if config.management != OFF:
        parse_address(config.management)
    if config.shovels:
        check_shovels(config)
    limits = config.limits
    if 0 < limits.frame_bytes_max < limits.frame_bytes_min:
        raise ConfigError(
            f"limits: frame_bytes_max {limits.frame_bytes_max} is below frame_bytes_min "
            f"{limits.frame_bytes_min}: raise it, or write 0 for no limit"
        )


def check_serving(config: Config) -> None:
    """What matters to a broker alone, and not to the commands on its store. Raises ConfigError."""
    for name in ("tls_certificate", "tls_key", "tls_ca"):
        if getattr(config, name) is not None and not config.tls_listen:
            flag = "--" + name.replace("_", "-")
            text = (
                f"{flag} (or {name}) has no effect without --tls-listen HOST:PORT (or tls_listen)"
            )
            raise ConfigError(text, EX_USAGE)


def check_shovels(config: Config) -> None:
    """Static shovels. Raises ConfigError."""
    from amqpd.links.shovel_definition import check_static

    for name, value in config.shovels.items():
        problems = check_static(name, value)
        if problems:
            raise ConfigError(f"shovels: {name}: {'; '.join(problems)}")


def data_directory(config: Config, environment: Mapping[str, str] | None = None) -> Path:
    """Where the store is: the setting, or amqpd's place in the user's data directory.

    Raises ConfigError.
    """
    if config.data_dir is not None:
        return named_path(config.data_dir)
    environment = os.environ if environment is None else environment
    home = environment.get("XDG_DATA_HOME")
    if home:
        return Path(home) / "amqpd"
    try:
        return Path.home() / ".local" / "share" / "amqpd"
    except RuntimeError as error:
        raise ConfigError("this user has no home directory: give --data-dir DIR") from error
