"""What the suites of Python clients share: a virtual environment, a source package, pytest.

Everything is pinned by the suites and comes from the package registry at run time. Running again
in a work dir that is kept finds it all there.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from compat import harness

INSTALL_SECONDS = 600.0
TEST_SECONDS = 180


def environment(work_dir: Path, requirements: Sequence[str]) -> Path:
    """The interpreter of a virtual environment that holds these; made once per set of them."""
    key = hashlib.sha256("\n".join([sys.version, *requirements]).encode()).hexdigest()[:12]
    home = work_dir / f"venv-{key}"
    python, done = home / "bin" / "python", home / "installed"
    if done.exists():
        return python
    made = harness.command([sys.executable, "-m", "venv", home], timeout=INSTALL_SECONDS)
    if made.code != 0:
        raise harness.Unavailable(f"python -m venv does not work here: {made.tail}")
    pip: list[str | Path] = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    harness.fetched([*pip, *requirements], "pip install", timeout=INSTALL_SECONDS)
    done.touch()
    return python


def source(python: Path, work_dir: Path, project: str, version: str) -> Path:
    """The unpacked source package of a client: its tests are in there, not in its wheel."""
    folder = work_dir / f"{project}-{version}"
    if folder.exists():
        return folder
    fetch = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    fetch += ["--no-binary", project, "--dest", str(work_dir), f"{project}=={version}"]
    harness.fetched([python, *fetch], "pip download", timeout=INSTALL_SECONDS)
    with tarfile.open(next(work_dir.glob(f"{project}-{version}.tar.gz"))) as archive:
        archive.extractall(work_dir, filter="data")
    return folder


def pytest(
    ctx: harness.Context,
    python: Path,
    folder: Path,
    files: Sequence[str],
    *,
    ini: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    argv: Sequence[str] = (),
) -> list[harness.Result]:
    """Run these files, named from `folder`, and return a result for each test.

    pytest gets a configuration file of our own: the clients' would want plug-ins that rerun
    failures, and a work dir inside this repository would make it find ours.
    """
    config = ctx.work_dir / "pytest.ini"
    config.write_text("\n".join(["[pytest]", *ini]) + "\n")
    report = ctx.work_dir / "junit.xml"
    report.unlink(missing_ok=True)
    chosen = [node(name, files) for name in ctx.only] or list(files)
    line: list[str | Path] = [python, "-m", "pytest", "-q", "-c", config, "--rootdir", folder]
    line += ["-p", "no:cacheprovider", f"--timeout={TEST_SECONDS}", f"--junitxml={report}", *argv]
    line += [f"--deselect={node(known.test, files)}" for known in ctx.left_out]
    done = harness.command(
        [*line, *chosen],
        timeout=ctx.timeout,
        cwd=folder,
        env={"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(folder), **(env or {})},
        log=ctx.work_dir / "pytest.log",
    )
    results = harness.junit_results(report)
    if not results:
        raise harness.SuiteError(f"pytest wrote no results\n{done.tail}")
    return results


def node(name: str, files: Sequence[str]) -> str:
    """pytest's node id of a result's name: `t::test_a::test_x` is `t/test_a.py::test_x`."""
    for file in files:
        prefix = file.removesuffix(".py").replace(os.sep, "::") + "::"
        if name.startswith(prefix):
            return file + "::" + name.removeprefix(prefix)
    return name
