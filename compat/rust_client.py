"""What the suites of Rust clients share: a crate's source, `cargo test`, its results.

The crate comes from the crates registry at run time, nothing of it is kept here; its own lock file
pins what it is built with.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from compat import harness

BUILD_SECONDS = 3000
TEST_SECONDS = 1800
BINARY = re.compile(r"^\s+Running (?:unittests )?(\S+) \(")
TEST = re.compile(r"^test (\S+)(?: - should panic)? \.\.\. (ok|FAILED|ignored)")
VERDICT = re.compile(r"^(ok|FAILED|ignored)$")
BEGUN = re.compile(r"^test (\S+)(?: - should panic)? \.\.\. ")
DETAIL = re.compile(r"^---- (\S+) stdout ----$")
OUTCOMES = {
    "ok": harness.Outcome.PASS,
    "FAILED": harness.Outcome.FAIL,
    "ignored": harness.Outcome.SKIP,
}


def source(cargo: str, work_dir: Path, crate: str, version: str) -> Path:
    """A writable copy of the pinned crate, by way of a project that depends on it."""
    folder = work_dir / crate
    if folder.exists():
        return folder
    scratch = work_dir / f"{crate}-download"
    (scratch / "src").mkdir(parents=True, exist_ok=True)
    (scratch / "src" / "lib.rs").write_text("")
    (scratch / "Cargo.toml").write_text(
        '[package]\nname = "download"\nversion = "0.0.0"\nedition = "2021"\n'
        f'[dependencies]\n{crate} = "={version}"\n'
    )
    line = [cargo, "metadata", "--quiet", "--format-version", "1"]
    done = harness.fetched(line, f"fetching {crate} {version}", timeout=600, cwd=scratch)
    packages = harness.json_in(done)["packages"]
    manifest = next(p["manifest_path"] for p in packages if p["name"] == crate)
    shutil.copytree(Path(manifest).parent, folder)
    return folder


def kept_ports(work_dir: Path) -> tuple[int, int]:
    """Ports for AMQP and HTTP that go into a build, the same ones in each run of a work dir.

    They lie below those that the system gives to clients, so that they are free again next time.
    """
    path = work_dir / "ports.json"
    if not path.exists():
        path.write_text(json.dumps(random.sample(range(20000, 30000), 2)))
    amqp, http = json.loads(path.read_text())
    return int(amqp), int(http)


def replace_ports(folder: Path, amqp: int, http: int) -> None:
    """In a copy of a client's source: these ports in place of 5672 and 15672."""
    for path in [*folder.rglob("*.rs"), *folder.rglob("*.toml"), *folder.rglob("*.conf")]:
        text = path.read_text()
        new = re.sub(r"\b15672\b", str(http), text)
        new = re.sub(
            r"localhost:5672\b|(?<=hostname\(\), )5672\b",
            lambda found: found[0].replace("5672", str(amqp)),
            new,
        )
        if new != text:
            path.write_text(new)


def parse(lines: Iterable[str]) -> list[harness.Result]:
    """Results from libtest's output, named `binary::test`; one that never ended has failed.

    A test that logs has its verdict on a line of its own, after the log.
    """
    results: dict[str, harness.Result] = {}
    details: dict[str, list[str]] = {}
    binary, collecting, begun = "", "", ""
    for line in lines:
        if found := BINARY.match(line):
            binary, collecting, begun = Path(found[1]).stem, "", ""
        elif found := DETAIL.match(line):
            collecting = f"{binary}::{found[1]}"
        elif line.startswith("failures:"):
            collecting = ""
        elif found := TEST.match(line):
            name = f"{binary}::{found[1]}"
            results[name] = harness.Result(name, OUTCOMES[found[2]])
        elif found := BEGUN.match(line):
            begun = f"{binary}::{found[1]}"
            results[begun] = harness.Result(begun, harness.Outcome.FAIL, "did not end")
        elif begun and (found := VERDICT.match(line)):
            results[begun] = harness.Result(begun, OUTCOMES[found[1]])
            begun = ""
        elif collecting:
            details.setdefault(collecting, []).append(line)
    return [
        harness.Result(r.name, r.outcome, "\n".join(details.get(r.name, [])) or r.detail)
        for r in results.values()
    ]


def run_tests(
    ctx: harness.Context,
    cargo: str,
    folder: Path,
    features: str,
    env: Mapping[str, str],
    targets: Sequence[str] = ("--lib", "--tests"),
) -> list[harness.Result]:
    """Build once, then run every test binary to its end, one test at a time, whatever fails."""
    crate = folder.name
    env = {
        "CARGO_TARGET_DIR": str(ctx.work_dir / f"{crate}-target"),
        "CARGO_BUILD_JOBS": os.environ.get("CARGO_BUILD_JOBS", "2"),
        "CARGO_INCREMENTAL": "0",
        "CARGO_PROFILE_TEST_DEBUG": "0",
        "CARGO_PROFILE_DEV_DEBUG": "0",
        "CARGO_TERM_COLOR": "never",
        **env,
    }
    test = [cargo, "test", "--locked", "--features", features, *targets]
    log = ctx.work_dir / f"{crate}-build.log"
    done = harness.command([*test, "--no-run"], timeout=BUILD_SECONDS, cwd=folder, env=env, log=log)
    harness.must(done, f"building the tests of {crate}")
    log = ctx.work_dir / f"{crate}-test.log"
    line = [*test, "--no-fail-fast", "--", "--test-threads=1"]
    for known in ctx.left_out:
        line += ["--skip", known.test.partition("::")[2]]
    line += [name.partition("::")[2] for name in ctx.only]
    limit = min(ctx.timeout, TEST_SECONDS)
    done = harness.command(line, timeout=limit, cwd=folder, env=env, log=log)
    return parse(done.output.splitlines())
