"""What every compat suite shares: options, a fresh broker, processes with a bound, the verdict.

A suite is a folder `compat/<suite>/` with

- `run.py`: obtains the client's tests from its registry, runs them, returns one `Result` per test;
- `expected.json`: names of the tests that pass on RabbitMQ (written by `--write-expected`, with
  `--broker rabbitmq`), and the seconds they took there. One that does not run is a failure: a
  test process that dies half-way must not look green;
- `known.toml`: tests that may fail, each named with its reason:

      [[known]]
      test = "TestSomething/with_a_part"   # exact, or a shell pattern
      needs = "management"                 # or rabbitmqctl, feature, broker, client, tls, timing
      reason = "drops its own connection through the management API"
      skip = true                          # optional: the runner leaves it out altogether

`run.py` is, in full:

      import sys
      from pathlib import Path

      sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
      from compat import harness


      ABOUT = harness.About("a-client", VERSION, "Python", "its own tests")


      def run(ctx: harness.Context) -> list[harness.Result]:
          ...


      if __name__ == "__main__":
          sys.exit(harness.main(Path(__file__).parent, run, ABOUT))

Exit codes: 0 all that has to pass passed, 1 not so, 77 a toolchain is missing (with the reason).
Each suite folder and this one hold an `__init__.py`, so that type checkers tell the runners apart.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import fnmatch
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.parse
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
TETHER = ROOT / "compat" / "tether.py"
EXIT_SKIPPED = 77
DID_NOT_RUN = "did not run"
BROKER_START_SECONDS = 300.0
BROKER_STOP_SECONDS = 60.0
TESTS_SECONDS = 3600.0
"""The bound of a suite's tests: five times what they take on a machine that does nothing else."""
FETCH_PAUSES_SECONDS = (2.0, 20.0)
AGAIN_MAX = 10
"""So many failures of a suite may be accidents: those tests are run once more."""
PLUGINS_FOR_LINKS = ("rabbitmq_federation", "rabbitmq_shovel")
FREE_PORTS = (16_000, 32_000)
FREE_PORT_TRIES = 1000


class Unavailable(Exception):
    """A toolchain the suite needs is not on this machine: the suite is skipped, saying so."""


class SuiteError(Exception):
    """The suite could not be run at all (no client, no build, no broker): a failure."""


class Outcome(enum.StrEnum):
    """What a test did."""

    PASS = "pass"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True)
class Result:
    """One test of a suite."""

    name: str
    outcome: Outcome
    detail: str = ""
    seconds: float = 0.0

    @property
    def last_words(self) -> str:
        """The end of its detail, stack frames of Java aside, for a line of text."""
        lines = [line.strip() for line in self.detail.strip().splitlines()]
        said = [line for line in lines if line and not line.startswith("at ")]
        return said[-1] if said else "no reason given"


@dataclass(frozen=True)
class About:
    """One client of a suite, as the matrix names it."""

    client: str
    version: str
    language: str
    tests: str
    """Whose tests, and which: `its integration tests`, `scenarios of ours`."""
    prefix: str = ""
    """What the names of its results begin with, where a suite has several clients."""


@dataclass(frozen=True)
class Known:
    """A test, or a pattern of tests, that may fail, and why."""

    test: str
    needs: str
    reason: str
    skip: bool = False

    def matches(self, name: str) -> bool:
        """Exact first, since test names may hold the letters of a shell pattern."""
        return self.test == name or fnmatch.fnmatchcase(name, self.test)


def load_known(suite_dir: Path) -> list[Known]:
    """The suite's known.toml; none is an empty list."""
    path = suite_dir / "known.toml"
    if not path.exists():
        return []
    entries = tomllib.loads(path.read_text()).get("known", [])
    return [Known(e["test"], e["needs"], e["reason"], bool(e.get("skip", False))) for e in entries]


@dataclass(frozen=True)
class Expected:
    """What RabbitMQ passed, and in how many seconds."""

    passed: tuple[str, ...] = ()
    seconds: float = 0.0


def load_expected(suite_dir: Path) -> Expected:
    """The suite's expected.json; none means that nothing is missed."""
    path = suite_dir / "expected.json"
    if not path.exists():
        return Expected()
    data = json.loads(path.read_text())
    return Expected(tuple(data["passed"]), float(data["seconds"]))


@dataclass
class Report:
    """A suite's results held against what RabbitMQ passes and what is known."""

    suite: str
    results: list[Result]
    known: list[Known] = field(default_factory=list)
    expected: Expected = field(default_factory=Expected)
    seconds: float = 0.0
    about: Sequence[About] = ()
    again: Sequence[Result] = ()
    """Failures of tests that passed when they were run again, alone."""
    build: str = ""
    """Of the amqpd that was judged (see `Broker`)."""

    def known_for(self, name: str) -> Known | None:
        """The entry that excuses this test, if one does."""
        return next((k for k in self.known if k.matches(name)), None)

    def with_outcome(self, outcome: Outcome) -> list[Result]:
        """The results of one kind."""
        return [r for r in self.results if r.outcome is outcome]

    @property
    def passed(self) -> list[Result]:
        """Tests that passed, known or not."""
        return self.with_outcome(Outcome.PASS)

    @property
    def failed(self) -> list[Result]:
        """Failures that nothing excuses: failed, skipped or missing where RabbitMQ passes."""
        must_pass = set(self.expected.passed)
        bad = [
            r
            for r in self.results
            if r.outcome is Outcome.FAIL or (r.outcome is Outcome.SKIP and r.name in must_pass)
        ]
        ran = {r.name for r in self.results}
        bad += [Result(n, Outcome.FAIL, DID_NOT_RUN) for n in self.expected.passed if n not in ran]
        return [r for r in bad if self.known_for(r.name) is None]

    @property
    def excused(self) -> list[tuple[Result, Known]]:
        """Tests that did not pass, or did not run, and are named as known."""
        ran = {r.name for r in self.results}
        missing = [
            Result(n, Outcome.SKIP, DID_NOT_RUN) for n in self.expected.passed if n not in ran
        ]
        pairs = [
            (r, self.known_for(r.name))
            for r in [*self.results, *missing]
            if r.outcome is not Outcome.PASS
        ]
        return [(r, k) for r, k in pairs if k is not None]

    @property
    def skipped(self) -> int:
        """Skips that RabbitMQ has too, and the known ones."""
        names = {r.name for r in self.with_outcome(Outcome.SKIP)}
        names |= {r.name for r, _ in self.excused}
        return len(names - {r.name for r in self.failed})

    @property
    def ok(self) -> bool:
        """True when something ran, and all that has to pass passed."""
        return bool(self.passed) and not self.failed

    @property
    def summary(self) -> str:
        """The closing line that test runners and CI read."""
        return f"{len(self.passed)} passed, {len(self.failed)} failed, {self.skipped} skipped"

    def print(self) -> None:
        """Every failure with its last words, every excuse by name, then the summary."""
        for result, known in self.excused:
            print(f"known: {result.name}: {known.needs}: {known.reason}")
        for result in self.again:
            print(f"passed when run again, alone: {result.name}: {result.last_words}")
        missing = [result.name for result in self.failed if result.detail == DID_NOT_RUN]
        if missing:
            print(f"FAILED: {len(missing)} did not run: {', '.join(missing)}")
        for result in self.failed:
            if result.name not in missing:
                print(f"FAILED: {result.name}")
                for line in result.detail.strip().splitlines()[-15:]:
                    print(f"    {line}")
        if not self.results:
            print(f"{self.suite}: no test ran")
        print(f"{self.suite}: {self.seconds:.0f} s")
        print(self.summary, flush=True)

    def as_json(self) -> dict[str, object]:
        """For --json and the matrix."""
        return {
            "suite": self.suite,
            "ok": self.ok,
            "passed": len(self.passed),
            "failed": len(self.failed),
            "skipped": self.skipped,
            "seconds": round(self.seconds, 1),
            "build": self.build,
            "failures": [{"test": r.name, "detail": r.detail[-2000:]} for r in self.failed],
            "again": [
                {"test": r.name, "detail": r.detail[-2000:], "why": r.last_words}
                for r in self.again
            ],
            "known": [
                {
                    "test": known.test,
                    "needs": known.needs,
                    "reason": known.reason,
                    "tests": sum(k is known for _, k in self.excused),
                }
                for known in self.known
            ],
            "clients": [self._of_client(about) for about in self.about],
        }

    def _of_client(self, about: About) -> dict[str, object]:
        """A row of the matrix."""

        def count(names: Iterable[str]) -> int:
            return sum(name.startswith(about.prefix) for name in names)

        failed = {r.name for r in self.failed}
        skipped = {r.name for r in self.with_outcome(Outcome.SKIP)}
        skipped |= {r.name for r, _ in self.excused}
        return {
            "client": about.client,
            "version": about.version,
            "language": about.language,
            "tests": about.tests,
            "on_rabbitmq": count(self.expected.passed),
            "passed": count(r.name for r in self.passed),
            "failed": count(failed),
            "skipped": count(skipped - failed),
        }


def skipped_json(suite: str, reason: str, about: Sequence[About]) -> dict[str, object]:
    """For --json, when there was nothing to run the suite with."""
    clients = [
        {"client": a.client, "version": a.version, "language": a.language, "tests": a.tests}
        for a in about
    ]
    return {"suite": suite, "ok": True, "skipped_because": reason, "clients": clients}


# --- processes -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Completed:
    """A finished command; `code` is None when it was stopped at its time limit."""

    code: int | None
    output: str
    seconds: float

    @property
    def tail(self) -> str:
        """The last lines, for a message."""
        return "\n".join(self.output.splitlines()[-25:])


def tethered(
    argv: Sequence[str | Path], env: Mapping[str, str], out: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a broker in a session of its own; it ends when this process does, however it ends."""
    return subprocess.Popen(
        [sys.executable, "-I", str(TETHER), *map(str, argv)],
        env=dict(env),
        stdin=subprocess.PIPE,
        stdout=out,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def stop_group(
    process: subprocess.Popen[bytes],
    grace: float = 5.0,
    signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGKILL),
) -> None:
    """End a process that was started with its own session, and all its children."""
    for sig in signals:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sig)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    if process.stdin:
        process.stdin.close()


def command(
    argv: Sequence[str | Path],
    *,
    timeout: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    stdin: bytes | None = None,
) -> Completed:
    """Run a command in its own process group; stdout and stderr together, kept in `log` if given.

    `env` is added to this process's environment. Output goes through a file, so that a hanging
    grandchild that holds the pipe open can't hold us.
    """
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        if log:
            out: IO[bytes] = stack.enter_context(log.open("w+b"))
        else:
            out = stack.enter_context(tempfile.TemporaryFile())
        given = stack.enter_context(tempfile.TemporaryFile())
        given.write(stdin or b"")
        given.seek(0)
        process = subprocess.Popen(
            [str(a) for a in argv],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=given,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code: int | None
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            stop_group(process)
        out.seek(0)
        text = out.read().decode("utf-8", "replace")
    return Completed(code, text, time.monotonic() - begun)


def need(program: str) -> str:
    """The path of a program, or `Unavailable`."""
    found = shutil.which(program)
    if found is None:
        raise Unavailable(f"{program} is not installed")
    return found


def fetched(
    argv: Sequence[str | Path],
    what: str,
    *,
    timeout: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Completed:
    """Run a command that asks a registry: a few times, since networks fail now and then."""
    for pause in FETCH_PAUSES_SECONDS:
        done = command(argv, timeout=timeout, cwd=cwd, env=env)
        if done.code == 0:
            return done
        time.sleep(pause)
    return must(command(argv, timeout=timeout, cwd=cwd, env=env), what)


def must(done: Completed, what: str) -> Completed:
    """The same command, or `SuiteError` with its last words."""
    if done.code != 0:
        how = "timed out" if done.code is None else f"exit code {done.code}"
        raise SuiteError(f"{what}: {how}\n{done.tail}")
    return done


def json_in(done: Completed) -> dict[str, Any]:
    """The first JSON object a command printed, whatever it said before or after it."""
    found, _ = json.JSONDecoder().raw_decode(done.output[done.output.index("{") :])
    return dict(found)


def junit_results(path: Path) -> list[Result]:
    """Results of a JUnit XML file as pytest writes it; names are `module::Class::test`."""
    if not path.exists():
        return []
    results = []
    for case in ET.parse(path).iter("testcase"):
        where = case.get("classname", "").replace(".", "::")
        outcome, detail = Outcome.PASS, ""
        for child in case:
            if child.tag in ("failure", "error"):
                outcome, detail = Outcome.FAIL, child.text or child.get("message") or ""
            elif child.tag == "skipped" and outcome is Outcome.PASS:
                outcome, detail = Outcome.SKIP, child.get("message", "")
        seconds = float(case.get("time", "0"))
        results.append(Result(f"{where}::{case.get('name', '')}", outcome, detail, seconds))
    return results


# --- brokers ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Broker:
    """Where a broker listens. `addresses` is the ready file's JSON, for TLS and the like."""

    url: str
    addresses: Mapping[str, Sequence[str]] = field(default_factory=dict)
    management_url: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    """What rabbitmqctl needs to find it, when it is RabbitMQ."""
    build: str = ""
    """`compiled` or `plain Python`, as an amqpd that was started here says; empty for others."""

    @property
    def host(self) -> str:
        """The host to dial."""
        return urllib.parse.urlsplit(self.url).hostname or "127.0.0.1"

    @property
    def port(self) -> int:
        """The port to dial."""
        return urllib.parse.urlsplit(self.url).port or 5672

    @property
    def user(self) -> str:
        """The account."""
        return urllib.parse.unquote(urllib.parse.urlsplit(self.url).username or "guest")

    @property
    def password(self) -> str:
        """Its password."""
        return urllib.parse.unquote(urllib.parse.urlsplit(self.url).password or "guest")

    @property
    def vhost(self) -> str:
        """The virtual host, `/` unless the URL names one."""
        return urllib.parse.unquote(urllib.parse.urlsplit(self.url).path[1:]) or "/"


def free_port() -> int:
    """A TCP port nobody listens on at the moment, for a program that cannot choose one by itself.

    It is none of those that the system hands out to clients and to listeners at port 0 (from 32768
    on): one of these could be gone by the time the program has started.
    """
    for _ in range(FREE_PORT_TRIES):
        port = random.randrange(*FREE_PORTS)
        if port_is_free(port):
            return port
    raise SuiteError(f"no free port from {FREE_PORTS[0]} to {FREE_PORTS[1]}")


def port_is_free(port: int) -> bool:
    """Whether a broker could listen there, on the addresses that `localhost` may mean."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def amqpd(work_dir: Path, argv: Sequence[str] = (), extra: Sequence[str] = ()) -> Iterator[Broker]:
    """A fresh amqpd on a free port with an empty data directory; stopped by SIGTERM.

    `argv` replaces `python -m amqpd` (an installed or compiled one); `extra` goes after `serve`.
    """
    home = Path(tempfile.mkdtemp(prefix="amqpd-", dir=work_dir))
    ready, log = home / "ready.json", home / "broker.log"
    env = dict(os.environ)
    if not argv:
        argv = [sys.executable, "-m", "amqpd"]
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    line = [*argv, "serve", "--listen", "127.0.0.1:0", "--data-dir", str(home / "data")]
    line += ["--management", "127.0.0.1:0", "--ready-file", str(ready), *extra]
    with log.open("wb") as out:
        process = tethered(line, env, out)
    try:
        addresses = _await_ready(process, ready, log)
        api = addresses.get("management")
        yield Broker(
            f"amqp://guest:guest@{addresses['amqp'][0]}/",
            addresses,
            f"http://{api[0]}" if api else None,
            build=_build(log),
        )
        if process.poll() is not None:
            raise SuiteError(f"amqpd died during the suite, exit code {process.returncode}\n")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(BROKER_STOP_SECONDS)
        stop_group(process)
        tail = log.read_text(errors="replace").splitlines()[-20:]
        if process.returncode != 0:
            print(f"amqpd ended with exit code {process.returncode}:", *tail, sep="\n  ")


def amqpd_tls_options(certificates: Path) -> list[str]:
    """A TLS listener on any free port, with the server's certificate of this folder."""
    options = ["--tls-listen", "127.0.0.1:0", "--tls-ca", str(certificates / "ca.pem")]
    options += ["--tls-certificate", str(certificates / "server.pem")]
    return [*options, "--tls-key", str(certificates / "server.key")]


def _await_ready(
    process: subprocess.Popen[bytes], ready: Path, log: Path
) -> dict[str, Sequence[str]]:
    """The ready file's JSON once it is whole."""
    deadline = time.monotonic() + BROKER_START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            addresses: dict[str, Sequence[str]] = json.loads(ready.read_text())
            return addresses
        time.sleep(0.05)
    raise SuiteError("amqpd did not start\n" + log.read_text(errors="replace")[-2000:])


def _build(log: Path) -> str:
    """What the broker's first line says of itself (docs/configuration.md)."""
    said = re.search(r'Server startup complete .*\bbuild=("[^"]*"|\S+)', log.read_text("utf-8"))
    return said[1].strip('"') if said else ""


# --- the program -----------------------------------------------------------------------------


@dataclass
class Context:
    """What a suite's `run` gets."""

    broker: Broker
    work_dir: Path
    suite_dir: Path
    known: list[Known]
    timeout: float
    fresh: Callable[..., contextlib.AbstractContextManager[Broker]]
    """`with ctx.fresh() as broker:` another empty broker of the same kind, for suites in parts.
    With `["--option", ...]` for an amqpd; with `tls`, a folder of `compat.certificates`, it listens
    for TLS too; with `ports` for AMQP and HTTP it listens there; `definitions` is a file that it
    starts with; with `links` it has an HTTP API, federation and shovels. With --amqp-url: that one,
    whatever is asked for."""
    only: Sequence[str] = ()
    """Tests named on the command line, for a look at one; empty means all."""

    @property
    def url(self) -> str:
        """The broker's AMQP URL."""
        return self.broker.url

    @property
    def left_out(self) -> list[Known]:
        """Known tests that are not to be run at all; with an HTTP API, those that need it are."""
        has_api = self.broker.management_url is not None
        return [k for k in self.known if k.skip and not (k.needs == "management" and has_api)]


def _parser(suite: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"compat/{suite}/run.py")
    parser.add_argument("--amqp-url", help="a broker that runs already; default: start one")
    parser.add_argument("--management-url", help="its HTTP API, if it has one")
    parser.add_argument(
        "--broker",
        choices=("amqpd", "rabbitmq", "rabbitmq-management"),
        default="amqpd",
        help="which broker to start without --amqp-url (rabbitmq: the installed package)",
    )
    parser.add_argument("--amqpd", default="", help="command instead of `python -m amqpd`")
    parser.add_argument("--work-dir", type=Path, help="kept; default: a temporary directory")
    parser.add_argument(
        "--timeout", type=float, default=TESTS_SECONDS, help="seconds for the tests"
    )
    parser.add_argument("--json", type=Path, help="write the report there")
    parser.add_argument("--write-expected", action="store_true", help="rewrite expected.json")
    parser.add_argument("--only", action="append", default=[], metavar="TEST", help="just these")
    return parser


def _fresh(
    args: argparse.Namespace, work_dir: Path
) -> Callable[..., contextlib.AbstractContextManager[Broker]]:
    """How to come by an empty broker under these options."""

    def fresh(
        extra: Sequence[str] = (),
        tls: Path | None = None,
        ports: tuple[int, int] | None = None,
        definitions: Path | None = None,
        links: bool = False,
    ) -> contextlib.AbstractContextManager[Broker]:
        if args.amqp_url:
            return contextlib.nullcontext(Broker(args.amqp_url, management_url=args.management_url))
        if args.broker == "amqpd":
            options = [*extra, *(amqpd_tls_options(tls) if tls else ())]
            if ports:
                options += ["--listen", f"127.0.0.1:{ports[0]}"]
                options += ["--management", f"127.0.0.1:{ports[1]}"]
            if definitions:
                options += ["--definitions", str(definitions)]
            return amqpd(work_dir, shlex.split(args.amqpd), options)
        from compat import rabbitmq_server

        return rabbitmq_server.server(
            work_dir,
            management=links or args.broker.endswith("management"),
            plugins=PLUGINS_FOR_LINKS if links else (),
            settings=[f"load_definitions = {definitions}"] if definitions else (),
            certificates=tls,
            ports=ports,
        )

    return fresh


def write_expected(path: Path, results: Iterable[Result], seconds: float) -> None:
    """Keep what passed, sorted, so that a newer client shows as a readable difference."""
    names = sorted({r.name for r in results if r.outcome is Outcome.PASS})
    path.write_text(json.dumps({"seconds": round(seconds), "passed": names}, indent=1) + "\n")


def tried_again(
    results: list[Result], failed: Sequence[Result], once: Callable[[Sequence[str]], list[Result]]
) -> tuple[list[Result], list[Result]]:
    """The results after those that failed were run once more; the failures that this mended.

    Clients' tests lose races of their own on a machine that has much to do. A fault of the broker
    shows twice, and what showed once is told: it is no pass like the others.
    """
    if not 0 < len(failed) <= AGAIN_MAX:
        return results, []
    names = [result.name for result in failed]
    print(f"once more, alone: {', '.join(names)}", flush=True)
    second = {r.name: r for r in once(names) if r.name in names and r.outcome is Outcome.PASS}
    kept = [result for result in results if result.name not in second]
    return [*kept, *second.values()], [result for result in failed if result.name in second]


def main(
    suite_dir: Path,
    run: Callable[[Context], list[Result]],
    about: About | Sequence[About],
    argv: Sequence[str] | None = None,
) -> int:
    """Run one suite from the command line; the exit code."""
    clients = [about] if isinstance(about, About) else list(about)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # stop the broker too
    suite_dir = suite_dir.resolve()
    args = _parser(suite_dir.name).parse_args(argv)
    known, expected = load_known(suite_dir), load_expected(suite_dir)
    with contextlib.ExitStack() as stack:
        if args.work_dir:
            work_dir = args.work_dir.resolve()
            work_dir.mkdir(parents=True, exist_ok=True)
        else:
            work_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compat-")))
        fresh = _fresh(args, work_dir)
        results: list[Result] = []
        again: list[Result] = []
        seconds = 0.0
        build = ""
        must = Expected() if args.only else expected

        def once(only: Sequence[str]) -> list[Result]:
            nonlocal build
            with fresh() as broker:
                build = broker.build
                return run(Context(broker, work_dir, suite_dir, known, args.timeout, fresh, only))

        begun = time.monotonic()
        try:
            results = once(tuple(args.only))
            seconds = time.monotonic() - begun
            if not args.write_expected:
                failed = Report(suite_dir.name, results, known, must).failed
                results, again = tried_again(results, failed, once)
        except Unavailable as reason:
            print(f"{suite_dir.name}: skipped: {reason}")
            if args.json:
                body = skipped_json(suite_dir.name, str(reason), clients)
                args.json.write_text(json.dumps(body, indent=1))
            return EXIT_SKIPPED
        except SuiteError as reason:
            results = [*results, Result("the run itself", Outcome.FAIL, str(reason))]
    if args.write_expected:
        write_expected(suite_dir / "expected.json", results, seconds)
        expected = load_expected(suite_dir)
        must = expected
    report = Report(suite_dir.name, results, known, must, seconds, clients, again, build)
    report.print()
    if args.json:
        args.json.write_text(json.dumps(report.as_json(), indent=1) + "\n")
    return 0 if report.ok else 1
