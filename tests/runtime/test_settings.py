"""Flags over environment over file, and what is said of settings that cannot be used."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from amqpd.config import MIB, Config, Limits
from amqpd.runtime.settings import (
    Address,
    ConfigError,
    data_directory,
    parse_address,
    read_config,
)


def config(
    flags: Mapping[str, Any] | None = None, file: Path | None = None, **environment: str
) -> Config:
    return read_config(flags or {}, None if file is None else str(file), environment)


def refused(
    flags: Mapping[str, Any] | None = None, file: Path | None = None, **environment: str
) -> tuple[int, str]:
    with pytest.raises(ConfigError) as error:
        config(flags, file, **environment)
    return error.value.exit_code, str(error.value)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "amqpd.toml"


def test_defaults() -> None:
    assert config() == Config()
    assert Config().listen == ("127.0.0.1:5672",)


def test_the_image_s_variables() -> None:
    made = config(
        RABBITMQ_DEFAULT_USER="ada", RABBITMQ_DEFAULT_PASS="pw", RABBITMQ_DEFAULT_VHOST="v"
    )
    assert (made.default_user, made.default_pass, made.default_vhost) == ("ada", "pw", "v")
    assert config(RABBITMQ_DEFAULT_USER="ada", AMQPD_DEFAULT_USER="eve").default_user == "eve"


def test_precedence(toml: Path) -> None:
    toml.write_text('compat = "4.2"\ndurability = "normal"\nlisten = ["127.0.0.1:1"]\n')
    assert config(file=toml).compat == "4.2"
    made = config({"listen": ("127.0.0.1:3",)}, toml, AMQPD_COMPAT="4.3", AMQPD_LISTEN="[::1]:2")
    assert made.listen == ("127.0.0.1:3",)
    assert made.compat == "4.3"
    assert made.durability == "normal"
    assert config(AMQPD_CONFIG=str(toml)).durability == "normal"


def test_what_stands_higher_decides_where_the_store_is() -> None:
    assert config({"in_memory": True}, AMQPD_DATA_DIR="/d").in_memory
    assert config({"in_memory": True}, AMQPD_DATA_DIR="/d").data_dir is None
    assert config({"data_dir": "/d"}, AMQPD_IN_MEMORY="1").data_dir == "/d"
    assert not config({"data_dir": "/d"}, AMQPD_IN_MEMORY="1").in_memory
    assert refused({"data_dir": "/d", "in_memory": True}) == (
        os.EX_USAGE,
        "--in-memory and --data-dir exclude each other: choose one",
    )


def test_types_of_variables() -> None:
    made = config(
        AMQPD_LISTEN="127.0.0.1:1, 127.0.0.1:2 ,",
        AMQPD_IN_MEMORY="Yes",
        AMQPD_MEMORY_HIGH_WATERMARK="0.7",
        AMQPD_DISK_FREE_LIMIT_BYTES="7",
        AMQPD_DEFAULT_PASS="007",
        AMQPD_DEFAULT_USER="true",
        AMQPD_LOOPBACK_USERS="",
        AMQPD_PORT="tcp://10.0.0.1:5672",  # Kubernetes
        AMQPD_LIMITS="nothing",
    )
    assert made.listen == ("127.0.0.1:1", "127.0.0.1:2")
    assert made.in_memory
    assert (made.memory_high_watermark, made.disk_free_limit_bytes) == (0.7, 7)
    assert (made.default_pass, made.default_user) == ("007", "true")
    assert made.loopback_users == ()
    assert not config(AMQPD_IN_MEMORY="off").in_memory


def test_limits(toml: Path) -> None:
    toml.write_text("[limits]\nchannel_max = 7\nlinger_s = 1\n")
    assert config(file=toml).limits == Limits(channel_max=7, linger_s=1.0)


def test_a_smaller_message_in_the_4_x_profiles(toml: Path) -> None:
    assert config().limits.message_bytes_max == 128 * MIB
    assert config({"compat": "4.2"}).limits.message_bytes_max == 16 * MIB
    toml.write_text("[limits]\nmessage_bytes_max = 99\n")
    assert config({"compat": "4.2"}, toml).limits.message_bytes_max == 99


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("listen = 1", "Expected `array`, got `int` - at `$.listen`"),
        ("lisen = []", "Object contains unknown field `lisen`"),
        ("[limits]\nchanel_max = 1", "Object contains unknown field `chanel_max` - at `$.limits`"),
        ('compat = "2.8"', "Invalid enum value '2.8' - at `$.compat`"),
        ("listen = [", "is not TOML: Invalid value (at end of document)"),
        ("a = \udcff", "is not TOML: "),
    ],
)
def test_files_that_are_refused(toml: Path, text: str, problem: str) -> None:
    toml.write_bytes(text.encode("utf-8", "surrogateescape"))
    code, said = refused(file=toml)
    assert code == os.EX_CONFIG
    assert said.startswith(f"{toml}")
    assert problem in said
    assert "\n" not in said


def test_a_file_that_is_not_there(toml: Path) -> None:
    code, said = refused(file=toml)
    assert code == os.EX_NOINPUT
    assert said == f"cannot read {toml}: No such file or directory"


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("AMQPD_IN_MEMORY", "ture", "AMQPD_IN_MEMORY=ture: write true or false"),
        ("AMQPD_COMPAT", "9", "AMQPD_COMPAT=9: Invalid enum value '9'"),
        ("AMQPD_MEMORY_HIGH_WATERMARK", "x", "AMQPD_MEMORY_HIGH_WATERMARK=x: Expected `float`"),
    ],
)
def test_variables_that_are_refused(variable: str, value: str, problem: str) -> None:
    code, said = refused(None, None, **{variable: value})
    assert code == os.EX_CONFIG
    assert said.startswith(problem)


def test_what_no_type_can_say(toml: Path) -> None:
    assert refused({"management": "on"})[0] == os.EX_USAGE
    assert config({"management": "off"}).management == "off"
    assert refused({"tls_listen": ("127.0.0.1:5671",)})[0] == os.EX_USAGE
    assert refused({"listen": ()})[0] == os.EX_USAGE
    assert refused({"listen": ("here",)})[0] == os.EX_USAGE
    toml.write_text("[limits]\nframe_bytes_max = 4095")
    assert refused(file=toml)[0] == os.EX_CONFIG
    toml.write_text("[limits]\nframe_bytes_max = 0")
    assert config(file=toml).limits.frame_bytes_max == 0


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:5672", Address("127.0.0.1", 5672)),
        ("5672", Address("127.0.0.1", 5672)),
        (":0", Address("127.0.0.1", 0)),
        ("localhost:65535", Address("localhost", 65535)),
        ("[::]:5672", Address("::", 5672)),
        ("0.0.0.0:1", Address("0.0.0.0", 1)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "host", "host:", "host:-1", "host:65536", "::1:5672", "h:²", "[h]:1", "h: 1"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match="is not an address: write HOST:PORT"):
        parse_address(text)


def test_how_addresses_are_shown() -> None:
    assert str(Address("::1", 5672)) == "[::1]:5672"
    assert str(Address("127.0.0.1", 5672)) == "127.0.0.1:5672"


def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_directory(Config(data_dir="/d"), {}) == Path("/d")
    assert data_directory(Config(), {"XDG_DATA_HOME": "/x"}) == Path("/x/amqpd")
    assert data_directory(Config(), {}) == tmp_path / ".local/share/amqpd"
