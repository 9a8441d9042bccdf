"""Compiles the core of the broker with mypyc when a wheel is built, where there is a C compiler.

    pip install .                    compiled; plain Python where there is no compiler
    AMQPD_COMPILE=0 pip install .    plain Python
    AMQPD_COMPILE=1 pip install .    compiled, or an error

The modules are compiled as they are: a wheel has their sources beside them, and the same tests run
on both. An editable installation is never compiled, so that what is edited is what runs.

Everything that a message passes is compiled together, as one library made of a C file for each
module. A class and those that extend it have to be on the same side: what is left out here has no
part in the way of a message, or is a definition by msgspec, which mypyc does not know.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGES: Final = ("amqpd", "exchanges/amqpd_exchanges", "storage/amqpd_storage")
COMPILED: Final = (
    "amqpd/commands.py",
    "amqpd/short_string.py",
    "amqpd/timers.py",
    "amqpd/broker/*.py",
    "amqpd/management/call_outlet.py",
    "amqpd/protocol/*.py",
    "amqpd/runtime/busy_wait.py",
    "amqpd/runtime/client_socket.py",
    "amqpd/runtime/commit_metrics.py",
    "amqpd/runtime/giving_way.py",
    "amqpd/runtime/journal_writer.py",
    "amqpd/runtime/peer.py",
    "amqpd/runtime/trusted_peer.py",
    "amqpd/runtime/turns.py",
    "amqpd/wire/*.py",
    "amqpd_exchanges/*.py",
    "amqpd_storage/changes.py",
    "amqpd_storage/commit_arguments.py",
    "amqpd_storage/entries.py",
    "amqpd_storage/journal.py",
    "amqpd_storage/records.py",
    "amqpd_storage/sqlite_writing.py",
)
PLAIN: Final = (
    "*/__init__.py",
    # Definitions by msgspec, and what administers them.
    "amqpd/broker/access.py",
    "amqpd/broker/administration.py",
    "amqpd/broker/definitions*.py",
    "amqpd/broker/events.py",
    "amqpd/broker/limits.py",
    "amqpd/broker/parameter*.py",
    "amqpd/broker/passwords.py",
    "amqpd/broker/patterns.py",
    "amqpd/broker/policy_settings.py",
    "amqpd/broker/queue_figures.py",
    # Asked once for a connection, or for nothing at all.
    "amqpd/broker/erlang_terms.py",
    "amqpd/broker/federation.py",
    "amqpd/protocol/handshake.py",
)
OPTIMIZATION: Final = "2"
JOBS_MAX: Final = 8
"""Compilers at a time: they need up to 350 MB each."""
SWITCH: Final = "AMQPD_COMPILE"
LIBRARY: Final = "amqpd"


class CompilingHook(BuildHookInterface[Any]):
    """Adds the compiled modules to the wheel."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """What compiling needs: mypy looks into the libraries that the broker uses, too."""
        if not is_wanted():
            return []
        libraries: list[str] = self.metadata.config["project"]["dependencies"]
        return ["mypy>=1.19,<3", "setuptools>=75", *libraries]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, unless the wheel is for an editable installation."""
        if version == "editable" or not is_wanted():
            return
        self._directory = tempfile.mkdtemp(prefix="amqpd-")
        staging = Path(self._directory)
        self.app.display_waiting("Compiling the core of amqpd, which takes a minute or two")
        done = compile_packages(Path(self.root), staging)
        if done.returncode:
            if os.environ.get(SWITCH) == "1":
                shutil.rmtree(staging)  # `finalize` is not called after an error
                raise SystemExit(f"amqpd could not be compiled:\n{done.stdout}")
            self.app.display_warning(
                f"amqpd stays plain Python, it did not compile:\n{done.stdout}"
            )
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        shutil.rmtree(staging / "build")
        for module in staging.glob("**/*" + str(sysconfig.get_config_var("EXT_SUFFIX"))):
            build_data["force_include"][str(module)] = str(module.relative_to(staging))

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """The wheel is written."""
        directory = getattr(self, "_directory", None)
        if directory is not None:
            shutil.rmtree(directory)


def is_wanted() -> bool:
    """As the environment says; else, where a C compiler and Python's headers are."""
    said = os.environ.get(SWITCH)
    if said is not None:
        return said == "1"
    compiler = str(sysconfig.get_config_var("CC") or "").split()
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return bool(compiler) and shutil.which(compiler[0]) is not None and headers.exists()


def compile_packages(root: Path, staging: Path) -> subprocess.CompletedProcess[str]:
    """Copy the packages from the project to `staging`, and compile them there, in place."""
    for package in PACKAGES:
        shutil.copytree(
            root / package,
            staging / Path(package).name,
            ignore=shutil.ignore_patterns("__pycache__", "*.so"),
        )
    (staging / "mypy.ini").write_text("[mypy]\nstrict = true\n")
    return subprocess.run(
        [sys.executable, str(Path(__file__).resolve())],
        cwd=staging,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def chosen_modules() -> list[str]:
    """The modules to compile, of those under the working directory."""
    here = Path()
    chosen = [path for pattern in COMPILED for path in sorted(here.glob(pattern))]
    return [str(path) for path in chosen if not any(path.match(pattern) for pattern in PLAIN)]


def build_in_place() -> None:
    """Compile what is in the working directory, several files at a time."""
    from mypyc.build import mypycify
    from setuptools import Extension, setup
    from setuptools.command.build_ext import build_ext

    jobs = min(os.cpu_count() or 1, JOBS_MAX)

    class BuildExtensions(build_ext):
        """By itself it compiles the files of one extension one after the other."""

        def build_extension(self, ext: Extension) -> None:
            """The objects at once, and then what is linked of them."""

            def compile_one(source: str) -> list[str]:
                objects: list[str] = self.compiler.compile(
                    [source],
                    output_dir=self.build_temp,
                    include_dirs=ext.include_dirs,
                    extra_postargs=ext.extra_compile_args,
                    depends=ext.depends,
                )
                return objects

            with ThreadPoolExecutor(jobs) as pool:
                for objects in pool.map(compile_one, ext.sources):
                    ext.extra_objects += objects
            ext.sources = []
            super().build_extension(ext)

    # As one file it took gcc twice as long, and one processor.
    extensions = mypycify(
        ["--config-file=mypy.ini", *chosen_modules()],
        opt_level=OPTIMIZATION,
        debug_level="0",
        multi_file=True,
        group_name=LIBRARY,
    )
    for extension in extensions:
        # Calls from file to file are as direct as within one.
        extension.extra_compile_args.append("-fvisibility=hidden")
    setup(
        name="amqpd",
        packages=[],
        ext_modules=extensions,
        cmdclass={"build_ext": BuildExtensions},
        script_args=["--quiet", "build_ext", "--inplace", f"--parallel={jobs}"],
    )


if __name__ == "__main__":
    build_in_place()
