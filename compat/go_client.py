"""What the suites of Go clients share: a pinned module's source, `go test`, its results.

The module comes from the Go proxy at run time, nothing of it is kept here.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from compat import harness

ROUNDS = 6
"""A test that panics or hangs ends the whole test binary: the rest is run again without it."""
ROUND_SECONDS = 1800
BUILD_SECONDS = 3000
ENVIRONMENT = {"GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"}


def source(go: str, work_dir: Path, module: str) -> Path:
    """A writable copy of the source of `module`, which is `path@version`."""
    folder = work_dir / module.partition("@")[0].replace("/", "-")
    if folder.exists():
        return folder
    scratch = work_dir / "go-download"
    scratch.mkdir(exist_ok=True)
    line = [go, "mod", "download", "-json", module]
    done = harness.fetched(line, f"go mod download {module}", timeout=300, cwd=scratch)
    found = harness.json_in(done)["Dir"]
    shutil.copytree(found, folder, copy_function=shutil.copyfile)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    return folder


def parse(lines: Iterable[str], main: str = "") -> list[harness.Result]:
    """Results from `go test -json`; a test that began and never ended has failed,
    save those that were paused to run in parallel later: they are for another round.

    A TestMain that looks at what is left over once all tests have passed is a test too: `main`
    is its name.
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
    if main and whole == "pass":
        results.append(harness.Result(main, harness.Outcome.PASS))
    elif main and any(r.outcome is harness.Outcome.FAIL for r in results):
        results.append(harness.Result(main, harness.Outcome.FAIL, "not looked for: a test failed"))
    elif main:
        results.append(harness.Result(main, harness.Outcome.FAIL, "".join(words)))
    return results


def anchored(names: Iterable[str]) -> str:
    """A pattern for -run or -skip that means exactly these; parts between slashes stand alone."""
    return "|".join(
        "/".join(f"^{re.escape(part)}$" for part in name.split("/")) for name in sorted(set(names))
    )


def _test_line(go: str) -> list[str]:
    return [go, "test", "-tags", "integration", "-count=1"]


def build_tests(go: str, folder: Path, options: Sequence[str] = ()) -> list[str]:
    """What the tests' binary lists; afterwards all that it is made of is in Go's caches."""
    line = [*_test_line(go), *options, "-list", "."]
    done = harness.command(line, timeout=BUILD_SECONDS, cwd=folder, env=ENVIRONMENT)
    return harness.must(done, "building the tests").output.split()


def run_tests(
    ctx: harness.Context,
    go: str,
    folder: Path,
    env: Mapping[str, str],
    *,
    options: Sequence[str] = (),
    left_out: Sequence[str] = (),
    main: str = "",
) -> list[harness.Result]:
    """All tests of the package, in as many rounds as it takes to get past what ends its binary.

    `options` go to every `go test`; `left_out` names tests that are not run.
    """
    env = {**ENVIRONMENT, **env}
    build = [*_test_line(go), *options]
    listed = build_tests(go, folder, options)
    deadline = time.monotonic() + ctx.timeout
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
        done = harness.command([*line, "."], timeout=left + 60, cwd=folder, env=env, log=log)
        results.update((r.name, r) for r in parse(done.output.splitlines(), main))
        to_do = {name for name in listed if name.startswith(("Test", "Example", "Fuzz"))}
        if ctx.only or not to_do - set(results) - set(left_out):
            break
    return list(results.values())
