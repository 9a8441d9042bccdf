"""amqp091-go's own tests: the module comes from the Go proxy, nothing of it is kept here.

Its integration tests are behind the build tag `integration` and read AMQP_URL. Two things they
want beside AMQP: an HTTP API on localhost:15672 (fixed in their source), and a rabbitmqctl.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
import urllib.parse
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from compat import harness

MODULE = "github.com/rabbitmq/amqp091-go@v1.16.0"
ROUNDS = 6
"""A test that panics or hangs ends the whole test binary: the rest is run again without it."""
ROUND_SECONDS = 600
MAIN = "TestMain (no goroutine left over)"
API_PORT = 15672


def obtain(go: str, work_dir: Path) -> Path:
    """A writable copy of the pinned module's source."""
    source = work_dir / "amqp091-go"
    if source.exists():
        return source
    scratch = work_dir / "go-download"
    scratch.mkdir(exist_ok=True)
    done = harness.command([go, "mod", "download", "-json", MODULE], timeout=300, cwd=scratch)
    found = harness.json_in(harness.must(done, f"go mod download {MODULE}"))["Dir"]
    shutil.copytree(found, source, copy_function=shutil.copyfile)
    for path in [source, *source.rglob("*")]:
        path.chmod(0o755)
    return source


def parse(lines: Iterable[str]) -> list[harness.Result]:
    """Results from `go test -json`; a test that began and never ended has failed,
    save those that were paused to run in parallel later: they are for another round.

    Once all tests have passed, TestMain looks for goroutines left over: a test too.
    """
    results: list[harness.Result] = []
    output: dict[str, list[str]] = {}
    paused: set[str] = set()
    whole, words = "", []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        name, action = event.get("Test"), event.get("Action")
        if name is None:
            if action == "output":
                words.append(event["Output"])
            elif action in ("pass", "fail"):
                whole = action
        elif action == "run":
            output.setdefault(name, [])
        elif action == "pause":
            paused.add(name)
        elif action == "cont":
            paused.discard(name)
        elif action == "output":
            output.setdefault(name, []).append(event["Output"])
        elif action in ("pass", "fail", "skip"):
            text = "" if action == "pass" else "".join(output.get(name, []))
            elapsed = float(event.get("Elapsed", 0))
            results.append(harness.Result(name, harness.Outcome(action), text, elapsed))
    results += [
        harness.Result(name, harness.Outcome.FAIL, "ended the test binary (panic or time limit)")
        for name in set(output) - {r.name for r in results} - paused
    ]
    if whole == "pass":
        results.append(harness.Result(MAIN, harness.Outcome.PASS))
    elif any(r.outcome is harness.Outcome.FAIL for r in results):
        results.append(harness.Result(MAIN, harness.Outcome.FAIL, "not looked for: a test failed"))
    else:
        results.append(harness.Result(MAIN, harness.Outcome.FAIL, "".join(words)))
    return results


def anchored(names: Iterable[str]) -> str:
    """A pattern for -run or -skip that means exactly these; parts between slashes stand alone."""
    return "|".join(
        "/".join(f"^{re.escape(part)}$" for part in name.split("/")) for name in sorted(set(names))
    )


def run(ctx: harness.Context) -> list[harness.Result]:
    """All of them, in as many rounds as it takes to get past what ends the test binary."""
    go = harness.need("go")
    source = obtain(go, ctx.work_dir)
    env = {"AMQP_URL": ctx.url, "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"}
    if ctl := ctx.broker.env.get("RABBITMQCTL"):
        env["RABBITMQ_RABBITMQCTL_PATH"] = ctl
    build = [go, "test", "-tags", "integration", "-count=1"]
    done = harness.command([*build, "-list", "."], timeout=600, cwd=source, env=env)
    listed = harness.must(done, "building the tests of amqp091-go").output.split()
    deadline = time.monotonic() + ctx.timeout
    api = urllib.parse.urlsplit(ctx.broker.management_url or "").port == API_PORT
    left_out = [k.test for k in ctx.known if k.skip and not (k.needs == "management" and api)]
    results: dict[str, harness.Result] = {}
    for number in range(1, ROUNDS + 1):
        left = min(ROUND_SECONDS, deadline - time.monotonic())
        if left < 1:
            break
        line = [*build, "-json", f"-timeout={left:.0f}s"]
        if ctx.only:
            line += ["-run", anchored(ctx.only)]
        ended = [name for name in results if "/" not in name]
        if ended or left_out:
            line += ["-skip", anchored([*ended, *left_out])]
        log = ctx.work_dir / f"go-test-{number}.json"
        done = harness.command([*line, "."], timeout=left + 60, cwd=source, env=env, log=log)
        results.update((r.name, r) for r in parse(done.output.splitlines()))
        to_do = {name for name in listed if name.startswith(("Test", "Example", "Fuzz"))}
        if ctx.only or not to_do - set(results) - set(left_out):
            break
    return list(results.values())


if __name__ == "__main__":
    sys.exit(harness.main(Path(__file__).parent, run))
