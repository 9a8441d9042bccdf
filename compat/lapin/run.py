"""lapin's own tests: the crate comes from the crates registry, nothing of it is kept here.

Unit tests and tests/ of the crate, which read AMQP_ADDR. The crate's own lock file pins what it
is built with. The reconnecting ones bring a TCP proxy of their own; nothing beside AMQP is needed.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness

VERSION = "4.12.3"
FEATURES = "smol"
"""Beside the default runtime: tests/smol.rs wants it."""
BUILD_SECONDS = 1500
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


def obtain(cargo: str, work_dir: Path) -> Path:
    """A writable copy of the pinned crate, by way of a project that depends on it."""
    source = work_dir / "lapin"
    if source.exists():
        return source
    scratch = work_dir / "lapin-download"
    (scratch / "src").mkdir(parents=True, exist_ok=True)
    (scratch / "src" / "lib.rs").write_text("")
    (scratch / "Cargo.toml").write_text(
        '[package]\nname = "download"\nversion = "0.0.0"\nedition = "2021"\n'
        f'[dependencies]\nlapin = "={VERSION}"\n'
    )
    line = [cargo, "metadata", "--quiet", "--format-version", "1"]
    done = harness.command(line, timeout=600, cwd=scratch)
    packages = harness.json_in(harness.must(done, f"fetching lapin {VERSION}"))["packages"]
    manifest = next(p["manifest_path"] for p in packages if p["name"] == "lapin")
    shutil.copytree(Path(manifest).parent, source)
    return source


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


def run(ctx: harness.Context) -> list[harness.Result]:
    """Build once, then run every test binary to its end, whatever fails."""
    cargo = harness.need("cargo")
    source = obtain(cargo, ctx.work_dir)
    broker = ctx.broker
    vhost = "%2f" if broker.vhost == "/" else broker.vhost
    env = {
        "AMQP_ADDR": f"amqp://{broker.user}:{broker.password}@{broker.host}:{broker.port}/{vhost}",
        "CARGO_TARGET_DIR": str(ctx.work_dir / "lapin-target"),
        "CARGO_INCREMENTAL": "0",
        "CARGO_PROFILE_TEST_DEBUG": "0",
        "CARGO_PROFILE_DEV_DEBUG": "0",
        "CARGO_TERM_COLOR": "never",
    }
    test = [cargo, "test", "--locked", "--features", FEATURES, "--lib", "--tests"]
    log = ctx.work_dir / "lapin-build.log"
    build = [*test, "--no-run", "-j2"]
    done = harness.command(build, timeout=BUILD_SECONDS, cwd=source, env=env, log=log)
    harness.must(done, "building the tests of lapin")
    log = ctx.work_dir / "lapin-test.log"
    line = [*test, "--no-fail-fast", "--", "--test-threads=1"]
    for known in ctx.left_out:
        line += ["--skip", known.test.partition("::")[2]]
    line += [name.partition("::")[2] for name in ctx.only]
    done = harness.command(line, timeout=min(ctx.timeout, 600), cwd=source, env=env, log=log)
    return parse(done.output.splitlines())


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run))
