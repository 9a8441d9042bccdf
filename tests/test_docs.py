"""The documentation keeps up with the code: settings, limits, links, tests that are named."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from amqpd.broker.policy_settings import known_keys
from amqpd.broker.queue_arguments import arguments_of
from amqpd.config import Config, Limits
from amqpd.runtime.setting_problems import describe
from amqpd.runtime.settings import TABLES
from amqpd_exchanges.router import KINDS
from tests.patience import PATIENCE_S
from tests.runtime.process import bare_environment

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
COMPATIBILITY = (ROOT / "docs" / "compatibility.md").read_text()
NAMED_TEST = re.compile(r"\btest_\w+")
NAMED_FILE = re.compile(r"\b(?:tests|compat)/[\w/-]+\.py")
TEST_FILES = list((ROOT / "tests").rglob("test_*.py"))
TESTS = {path.stem for path in TEST_FILES} | {
    name
    for path in TEST_FILES
    for name in re.findall(r"^ *(?:async )?def (test_\w+)\(", path.read_text(), re.MULTILINE)
}
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`[^`\n]*`")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def rows(heading: str) -> dict[str, list[str]]:
    """The cells of the table below a heading of the configuration page, by the name in front."""
    section = CONFIGURATION.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    names = [row[0].strip("`") for row in cells]
    assert len(set(names)) == len(names), "a name stands there twice"
    return dict(zip(names, cells, strict=True))


@pytest.mark.parametrize(("heading", "kind"), [("Settings", Config), ("Limits", Limits)])
def test_every_field_is_documented_and_no_other(heading: str, kind: type[msgspec.Struct]) -> None:
    assert list(rows(heading)) == list(kind.__struct_fields__)


def test_flags_are_documented_as_they_are() -> None:
    from amqpd.command_line import serve

    flags = {option for parameter in serve.params for option in parameter.opts}
    told = {
        name
        for cells in rows("Settings").values()
        for name in re.findall(r"`(--[\w-]+)`", cells[2])
    }
    assert told | {"--config"} == flags


def test_variables_are_documented_as_they_are() -> None:
    for name, cells in rows("Settings").items():
        expected = "" if name in TABLES else f"`AMQPD_{name.upper()}`"
        assert cells[3] == expected


@pytest.mark.parametrize(
    ("heading", "settings", "column"), [("Settings", Config(), 1), ("Limits", Limits(), 2)]
)
def test_defaults_are_documented_as_they_are(
    heading: str, settings: msgspec.Struct, column: int
) -> None:
    for name, cells in rows(heading).items():
        value = getattr(settings, name)
        if value is not None and value != () and name not in TABLES:
            assert shown(value) in cells[column], name


def test_ranges_are_documented_as_they_are() -> None:
    for name, cells in rows("Limits").items():
        limit = next(field for field in msgspec.structs.fields(Limits) if field.name == name)
        assert numbers(cells[3]) == numbers(describe(limit.type).partition(" from ")[2]), name


def numbers(text: str) -> list[float]:
    """Those in a text, in bytes if they are sizes."""
    units = {"MiB": 1 << 20, "TiB": 1 << 40}
    found = re.findall(r"([\d.]+)(?: (MiB|TiB))?", text.replace(",", ""))
    return [float(number) * units.get(unit, 1) for number, unit in found]


def shown(value: object) -> str:
    """A default as the page writes it; sizes of a mebibyte and more are in MiB."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int) and value >= 1 << 20 and value % (1 << 20) == 0:
        return f"{value >> 20} MiB"
    if value == 256 * 1024:
        return "256 KiB"
    return str(value)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = SPAN.sub("", BLOCK.sub("", page.read_text()))
    for target in LINK.findall(text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name}: {target}"
        assert path.is_relative_to(ROOT), f"{page.name}: {target} leads out of the repository"
        if anchor:
            assert anchor in anchors(path), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_that_are_named_exist(page: Path) -> None:
    text = BLOCK.sub("", page.read_text())  # what is shown in a block is for others to have
    assert set(NAMED_TEST.findall(text)) - TESTS == set()
    for name in NAMED_FILE.findall(text):
        assert (ROOT / name).is_file(), name


def shown_by(heading: str) -> dict[str, str]:
    """The last cell of each row of a table of the compatibility page, by what the row is about."""
    section = COMPATIBILITY.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return {name: row[-1] for row in rows for name in re.findall(r"`([\w.-]+)`", row[0])}


def test_every_argument_of_a_queue_has_its_row() -> None:
    rows = shown_by("Arguments of queues")
    for name in {"expiration", "x-message-deduplication", *arguments_of("classic")} | arguments_of(
        "quorum"
    ):
        assert NAMED_TEST.search(rows[name]), name


def test_every_type_of_exchange_has_its_row() -> None:
    rows = shown_by("Exchanges")
    for kind in KINDS:
        assert NAMED_TEST.search(rows[kind]), kind


def test_every_setting_of_a_policy_has_its_row() -> None:
    rows = shown_by("Policies and parameters")
    for name in known_keys("policy", "3.13"):
        assert NAMED_TEST.search(rows[name]) or NAMED_FILE.search(rows[name]), name


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings have."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in HEADING.findall(BLOCK.sub("", page.read_text()))
    }


# -- the page on tests: what it shows works when it is copied


def blocks(heading: str, language: str) -> list[str]:
    """The code below a heading of the page on tests."""
    page = (ROOT / "docs" / "testing.md").read_text()
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.DOTALL | re.MULTILINE)


def run_copied(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """As a user would, in a directory of theirs that knows nothing of this one."""
    commands = directory / "commands"
    commands.mkdir()
    amqpd = commands / "amqpd"
    amqpd.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m amqpd "$@"\n')
    amqpd.chmod(0o755)
    environment = bare_environment(directory)
    environment["PATH"] = f"{commands}{os.pathsep}{os.environ['PATH']}"
    environment.pop("PYTHONSAFEPATH", None)
    return subprocess.run(
        command,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_the_fixture_for_pytest_works(tmp_path: Path) -> None:
    fixture, test = blocks("pytest", "python")
    (tmp_path / "conftest.py").write_text(fixture)
    (tmp_path / "test_it.py").write_text(test)
    done = run_copied(tmp_path, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_the_class_for_unittest_works(tmp_path: Path) -> None:
    (test,) = blocks("unittest", "python")
    (tmp_path / "test_it.py").write_text(test)
    # A class that leaves its broker behind would say so.
    done = run_copied(tmp_path, sys.executable, "-W", "error", "-m", "unittest", "-v", "test_it")
    assert done.returncode == 0, done.stderr
    assert "Ran 1 test" in done.stderr


@pytest.mark.parametrize("result", [0, 3])
def test_the_lines_of_shell_work(tmp_path: Path, result: int) -> None:
    (script,) = blocks("Any language", "sh")
    tests = tmp_path / "run-my-tests"
    tests.write_text(f'#!/bin/sh\namqpd ping "$AMQP_URL" && exit {result}\n')
    tests.chmod(0o755)
    done = run_copied(tmp_path, "sh", "-c", script)
    assert done.returncode == result, done.stderr
    assert re.fullmatch(r"amqpd: 127.0.0.1:\d+ is up\n", done.stdout)
    assert "stopping signal=SIGTERM" in (tmp_path / "amqpd.log").read_text()
