"""Flags over environment over file, and what is said of settings that cannot be used."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from amqpd.config import MIB, Config, Limits
from amqpd.runtime.setting_problems import describe
from amqpd.runtime.settings import (
    IMAGE_VARIABLES,
    Address,
    ConfigError,
    check_serving,
    data_directory,
    near_misses,
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
        ("listen = 1", "listen = 1: write a list of texts"),
        ("lisen = []", "there is no setting lisen: did you mean listen?"),
        ("data-dir = 'd'", "there is no setting data-dir: did you mean data_dir?"),
        ("heartbeat_s = 5", "there is no setting heartbeat_s: heartbeat_s belongs under [limits]"),
        ("zzz = 5", "there is no setting zzz: docs/configuration.md has them all"),
        (
            "[limits]\nchanel_max = 1",
            "there is no setting limits.chanel_max: did you mean limits.channel_max?",
        ),
        ("[limits]\nlisten = []", "there is no setting limits.listen: listen belongs above [limit"),
        ("limits = 1", "limits = 1: write the limits below a heading [limits]"),
        ('compat = "2.8"', 'compat = "2.8": write one of 3.13, 4.2, 4.3'),
        ('listen = ["here"]', "'here' is not an address: write HOST:PORT"),
        ("listen = [1]", "listen = [1]: write a list of texts"),
        ("shovels = {a = 1}", "shovels = {"),
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
        ("AMQPD_COMPAT", "9", "AMQPD_COMPAT=9: write one of 3.13, 4.2, 4.3"),
        (
            "AMQPD_MEMORY_HIGH_WATERMARK",
            "x",
            "AMQPD_MEMORY_HIGH_WATERMARK=x: write a number from 0 to 1",
        ),
        ("AMQPD_MEMORY_HIGH_WATERMARK", "nan", "AMQPD_MEMORY_HIGH_WATERMARK=nan: write a number"),
        (
            "AMQPD_DEFAULT_VHOST",
            "é" * 128,
            f"AMQPD_DEFAULT_VHOST={'é' * 60}...: write 1 to 255 oct",
        ),
        ("AMQPD_DEFAULT_USER", "\udcff", "AMQPD_DEFAULT_USER=\udcff: write it in UTF-8"),
        ("RABBITMQ_DEFAULT_USER", "u" * 256, f"RABBITMQ_DEFAULT_USER={'u' * 60}...: write a text "),
        ("AMQPD_LISTEN", "a..b:1", "AMQPD_LISTEN: 'a..b:1' is not an address: write HOST:PORT"),
    ],
)
def test_variables_that_are_refused(variable: str, value: str, problem: str) -> None:
    code, said = refused(None, None, **{variable: value})
    assert code == os.EX_CONFIG
    assert said.startswith(problem)


@pytest.mark.parametrize(
    ("setting", "allowed"),
    [
        ("memory_high_watermark = -1", "a number from 0 to 1"),
        ("memory_high_watermark = 40", "a number from 0 to 1"),
        ("memory_high_watermark = nan", "a number from 0 to 1"),
        ("disk_free_limit_bytes = -1", "a whole number from 0 to 4611686018427387904"),
        ('data_dir = ""', "a text that is not empty"),
        ('default_user = ""', "a text of 1 to 255 characters"),
        ("limits.heartbeat_s = 100000", "a whole number from 0 to 65535"),
        ("limits.heartbeat_s = -5", "a whole number from 0 to 65535"),
        ("limits.heartbeat_s = 1.5", "a whole number from 0 to 65535"),
        ("limits.channel_max = 100000", "a whole number from 0 to 65535"),
        ("limits.frame_bytes_max = -7", "a whole number from 0 to 2147483647"),
        ("limits.frame_bytes_max = 1099511627776", "a whole number from 0 to 2147483647"),
        ("limits.parameters_max = -1", "a whole number from 0 to 1000000000"),
        ("limits.handshake_timeout_s = 0", "a number from 0.001 to 1000000000"),
        ("limits.table_depth_max = 0", "a whole number from 4 to 200"),
        ("limits.connections_max = 0", "a whole number from 1 to 1000000000"),
        ("limits.message_bytes_max = -1", "a whole number from 1 to 536870912"),
        ("limits.turn_s = -1", "a number from 0.0001 to 10"),
        ("limits.turn_s = inf", "a number from 0.0001 to 10"),
        ("limits.busy_wait_s = nan", "a number from 0 to 1"),
        ("limits.queue_memory_messages = -1", "a whole number from 1 to 1000000000"),
        ("limits.shutdown_s = inf", "a number from 0 to 1000000000"),
        ("limits.consumer_timeout_s = -1", "a number from 0 to 1000000000"),
        ("limits.http_connections_max = 0", "a whole number from 1 to 1000000000"),
    ],
)
def test_what_no_client_could_work_with(toml: Path, setting: str, allowed: str) -> None:
    toml.write_text(setting)
    name, _, value = setting.partition(" = ")
    shown = {"nan": "NaN", "inf": "Infinity"}.get(value, value)
    assert refused(file=toml) == (os.EX_CONFIG, f"{toml}: {name} = {shown}: write {allowed}")


def test_every_number_has_a_range_and_every_default_is_in_it() -> None:
    for struct in (Config, Limits):
        assert msgspec.convert(msgspec.to_builtins(struct()), struct) == struct()
        for field in msgspec.structs.fields(struct):
            words = describe(field.type)
            assert " from " in words or "number" not in words, field.name


def test_a_password_is_not_repeated(toml: Path) -> None:
    toml.write_text("default_pass = 4711")
    assert refused(file=toml)[1] == f"{toml}: default_pass = ***: write a text that is not empty"


def test_what_is_empty_is_not_set(toml: Path) -> None:
    """As `${VARIABLE}` is in a compose file; lists alone may be empty."""
    toml.write_text('compat = "4.2"\nin_memory = true\n')
    names = [f"AMQPD_{field.upper()}" for field in Config.__struct_fields__]
    lists = {"AMQPD_LISTEN", "AMQPD_TLS_LISTEN", "AMQPD_LOOPBACK_USERS"}
    empty = dict.fromkeys([*names, *IMAGE_VARIABLES], "")
    for name in lists:
        del empty[name]
    assert read_config({}, str(toml), empty) == config(file=toml)
    assert config(AMQPD_CONFIG="") == Config()
    assert config(AMQPD_LOOPBACK_USERS="").loopback_users == ()
    assert refused(None, None, AMQPD_LISTEN="")[0] == os.EX_USAGE


def test_a_home_directory_in_the_file(
    toml: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    toml.write_text('data_dir = "~/store"\nready_file = "~/ready"\n')
    made = config(file=toml)
    assert (made.data_dir, made.ready_file) == (f"{tmp_path}/store", f"{tmp_path}/ready")
    toml.write_text('data_dir = "~nobody-of-this-name/store"\n')
    assert "home directory" in refused(file=toml)[1]


@pytest.mark.parametrize("name", ["tls_certificate", "tls_key", "tls_ca"])
def test_a_certificate_without_a_listener(name: str) -> None:
    made = config({name: "/f"})
    with pytest.raises(ConfigError, match=f"{name}.* without --tls-listen HOST:PORT"):
        check_serving(made)
    check_serving(config({name: "/f", "tls_certificate": "/c", "tls_listen": ("0",)}))


def test_variables_that_are_nearly_settings() -> None:
    kubernetes = ["AMQPD_PORT", "AMQPD_SERVICE_HOST", "AMQPD_SERVICE_PORT", "AMQPD_PORT_5672_TCP"]
    kubernetes += ["AMQPD_PORT_5672_TCP_ADDR", "AMQPD_SERVICE_PORT_MANAGEMENT", "AMQPD_NAME"]
    others = ["AMQPD_CONFIG", "AMQPD_COMPILE", "AMQPD_MANAGEMENT_URL", "AMQPD_MANAGEMENT_USER"]
    assert near_misses(dict.fromkeys([*kubernetes, *others, "AMQPD_DATA_DIR"], "x")) == []
    assert near_misses({"AMQPD_DATADIR": "/d", "AMQPD_HEARTBEAT_S": "5", "AMQPD_LISTENS": ""}) == [
        "AMQPD_DATADIR has no effect: did you mean AMQPD_DATA_DIR?",
        "AMQPD_HEARTBEAT_S has no effect: heartbeat_s is set in the file only, under [limits]",
        "AMQPD_LISTENS has no effect: did you mean AMQPD_LISTEN?",
    ]


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
    "text",
    [
        "",
        "host",
        "host:",
        "host:-1",
        "host:65536",
        "::1:5672",
        "h:²",
        "[h]:1",
        "h: 1",
        "a..b:1",
        "h h:1",
        "h:" + "9" * 5000,
    ],
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
