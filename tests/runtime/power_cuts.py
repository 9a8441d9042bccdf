"""A file system that can lose its power under a real process.

    broker ──system calls──> kernel ──FUSE──> a process with tests.simulation.disk.Disk in memory

What is assumed of a disk, and what a cut leaves of it, is the simulator's: see there. Between two
mounts the kernel's page cache goes too, so that a restarted broker reads what the disk has kept.

`LosingDisk` mounts it; `PoweredBroker` is a broker on it whose `kill` is a power cut. Run as a
module this is the file system's own process, which obeys lines on its standard input:

    off                         from now on every call fails with EIO
    on SEED [KEEP]              unmount, decide by the seed what was kept, and mount again
    slow SECONDS                each fsync takes so long, and other calls go on meanwhile
    fail CALL ERRNO SEED NAME   so do calls of this kind to files whose name ends in NAME; an fsync
                                forgets then, by the seed, what it should have brought to the disk.
                                One kind after the other may be made to fail
    well                        nothing is slow and nothing fails any more

and answers each with a line when it is done. It unmounts and ends at the end of its input.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Concatenate, Final, ParamSpec, TypeVar, cast

import pytest

from tests.runtime.process import BrokerProcess
from tests.simulation.disk import Disk, File, PowerCut

BLOCK: Final = 4096
FREE_BLOCKS: Final = (16 << 30) // BLOCK
MNT_DETACH: Final = 2

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


# -- in the test's process


class LosingDisk:
    """The file system at `directory`, which is empty. Skips the test where there is no FUSE."""

    def __init__(self, directory: Path, chance: Random) -> None:
        directory.mkdir(mode=0o700)
        self._chance = chance
        self.powered = True
        self.keep: float | None = None
        """How much of the unsynced data cuts keep, from 0 to 1; by chance if it is None."""
        self.unsynced: list[int] = []
        """For each cut: so many writes to the store and its log were not synced."""
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.runtime.power_cuts", str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert self._child.stdout is not None
        if self._child.stdout.readline() != "ready\n":
            _, complaint = self._child.communicate()
            assert self._child.returncode == os.EX_UNAVAILABLE, complaint
            reason = complaint.strip().splitlines()[-1:]
            pytest.skip(f"no file system in user space can be mounted here: {reason}")

    def off(self) -> None:
        """The power goes."""
        self.unsynced.append(int(self._command("off")))
        self.powered = False

    def on(self) -> None:
        """The power is back, and what the disk has kept is there. Nothing may have files open."""
        keep = "" if self.keep is None else str(self.keep)
        assert self._command(f"on {self._chance.getrandbits(32)} {keep}") == "ready"
        self.powered = True

    def slow(self, seconds: float) -> None:
        """Each fsync takes so long from now on."""
        assert self._command(f"slow {seconds}") == "done"

    def fail(self, call: str, number: int, name: str = "") -> None:
        """From now on `open`, `read`, `write` or `fsync` fails for files whose name ends in this.

        What an fsync that fails should have brought to the disk will not be there.
        """
        seed = self._chance.getrandbits(32)
        assert self._command(f"fail {call} {number} {seed} {name}") == "done"

    def heal(self) -> None:
        """Nothing is slow, and nothing fails any more."""
        assert self._command("well") == "done"

    def end(self) -> None:
        """Unmount it."""
        _, complaint = self._child.communicate()
        assert self._child.returncode == 0, complaint

    def _command(self, line: str) -> str:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(line + "\n")
        self._child.stdin.flush()
        return self._child.stdout.readline().strip()


class PoweredBroker(BrokerProcess):
    """A broker with its data on a losing disk. To kill it is to cut the power of both."""

    def __init__(self, directory: Path, disk: LosingDisk, *arguments: str) -> None:
        super().__init__(directory)
        self.disk = disk
        self._arguments = arguments

    def spawn(self, *arguments: str, **options: object) -> None:
        """Start it, with the power on."""
        if not self.disk.powered:
            self.disk.on()
        super().spawn(*self._arguments, *arguments, **options)  # type: ignore[arg-type]

    def kill(self) -> None:
        """The disk goes first: a broker that saw its last writes fail has to keep silent, too."""
        self.disk.off()
        self.end()


@contextlib.contextmanager
def powered_broker(directory: Path, chance: Random, *arguments: str) -> Iterator[PoweredBroker]:
    """A broker that is not started yet, on an empty disk; `arguments` are for each `amqpd serve`.

    `directory` gets the mount point `data`, and the broker's other files.
    """
    disk = LosingDisk(directory / "data", chance)
    try:
        broker = PoweredBroker(directory, disk, *arguments)
        try:
            yield broker
        finally:
            broker.end()
    finally:
        disk.end()


# -- in the file system's process


def on_disk(
    operation: Callable[Concatenate[Operations, Arguments], Result],
) -> Callable[Concatenate[Operations, Arguments], Result]:
    """An operation that needs power, and is one step: a cut comes before it or after it."""

    name = operation.__name__

    @functools.wraps(operation)
    def guarded(self: Operations, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if name == "fsync" and self.illness.fsync_s:
            time.sleep(self.illness.fsync_s)
        with self.one_at_a_time:
            try:
                self.disk.require_power()
                self.check(name, args)
                return operation(self, *args, **kwargs)
            except PowerCut:
                raise OSError(errno.EIO, os.strerror(errno.EIO)) from None

    return guarded


class Illness:
    """What is wrong with the disk."""

    def __init__(self) -> None:
        self.fsync_s = 0.0
        self.failing: dict[str, tuple[int, str]] = {}
        """For each kind of call that fails, its error, and how names end for which it does."""
        self.forgets = Random(0)


CREATING: Final = {"create": "open", "unlink": "open", "rename": "open", "truncate": "write"}
"""Calls that fail with others."""


class Operations:
    """FUSE's operations, as mfusepy calls them, on a disk: one flat directory.

    Locks are the kernel's own: it keeps them by itself for a file system that has no lock calls.
    """

    use_ns = True

    def __init__(
        self, disk: Disk, illness: Illness, lock: threading.Lock, mounted: Callable[[], None]
    ) -> None:
        self.disk = disk
        self.illness = illness
        self.one_at_a_time = lock  # not `lock`, which would be an operation
        self._mounted = mounted
        self._handles: dict[int, File] = {}
        self._last_handle = 0

    def check(self, call: str, arguments: tuple[object, ...]) -> None:
        """Raise OSError if the disk is too ill for this call: a path first, or a handle last."""
        illness = self.illness
        found = illness.failing.get(CREATING.get(call, call))
        if found is None:
            return
        number, ending = found
        path = arguments[0]
        if isinstance(path, str):
            file, names = self.disk.names.get(path[1:]), [path[1:]]
        else:
            file = self._handles[cast(int, arguments[-1])]
            names = [name for name, held in self.disk.names.items() if held is file]
        if any(name.endswith(ending) for name in names):
            if call == "fsync" and file is not None:
                self.disk.forget(file, illness.forgets)
            raise OSError(number, os.strerror(number))

    def init(self, path: str) -> None:
        """The kernel has said hello."""
        self._mounted()

    @on_disk
    def getattr(self, path: str | None, handle: int | None = None) -> dict[str, int]:
        owner = {"st_uid": os.getuid(), "st_gid": os.getgid()}
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2, **owner}
        size = len(self._file(path, handle).volatile)
        return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": size, **owner}

    @on_disk
    def readdir(self, path: str, handle: int) -> list[str]:
        return [".", "..", *self.disk.names]

    @on_disk
    def statfs(self, path: str) -> dict[str, int]:
        blocks = dict.fromkeys(("f_blocks", "f_bfree", "f_bavail"), FREE_BLOCKS)
        return {"f_bsize": BLOCK, "f_frsize": BLOCK, "f_namemax": 255, **blocks}

    @on_disk
    def create(self, path: str, mode: int) -> int:
        return self._open(self.disk.create(path[1:]))

    @on_disk
    def open(self, path: str, flags: int) -> int:
        file = self._file(path, None)
        if flags & os.O_TRUNC:
            self.disk.truncate(file, 0)
        return self._open(file)

    def release(self, path: str | None, handle: int) -> int:
        del self._handles[handle]  # with or without power
        return 0

    @on_disk
    def read(self, path: str | None, size: int, offset: int, handle: int) -> bytes:
        return bytes(self._handles[handle].volatile[offset : offset + size])

    @on_disk
    def write(self, path: str | None, data: bytes, offset: int, handle: int) -> int:
        self.disk.write(self._handles[handle], offset, data)
        return len(data)

    @on_disk
    def truncate(self, path: str | None, length: int, handle: int | None = None) -> int:
        self.disk.truncate(self._file(path, handle), length)
        return 0

    @on_disk
    def fsync(self, path: str | None, datasync: int, handle: int) -> int:
        self.disk.sync(self._handles[handle])
        return 0

    @on_disk
    def fsyncdir(self, path: str | None, datasync: int, handle: int) -> int:
        self.disk.sync_names()
        return 0

    @on_disk
    def unlink(self, path: str) -> int:
        self._file(path, None)
        self.disk.unlink(path[1:])
        return 0

    @on_disk
    def rename(self, old: str, new: str) -> int:
        self._file(old, None)
        self.disk.rename(old[1:], new[1:])
        return 0

    def chown(self, path: str | None, user: int, group: int) -> int:
        return 0  # SQLite, as root, gives its log the owner of the database

    def utimens(self, path: str | None, times: object) -> int:
        return 0

    def _open(self, file: File) -> int:
        self._last_handle += 1
        self._handles[self._last_handle] = file
        return self._last_handle

    def _file(self, path: str | None, handle: int | None) -> File:
        if handle is not None and handle in self._handles:
            return self._handles[handle]
        file = None if path is None else self.disk.names.get(path[1:])
        if file is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return file


class Mounts:
    """One mount after another of one disk; each is served by the main thread."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.disk = Disk()
        self.illness = Illness()
        self.lock = threading.Lock()
        self.stopping = False
        self.mounted = threading.Event()
        self.unmounted = threading.Event()
        self.wanted = threading.Event()

    def obey(self) -> None:
        """Do what standard input says."""
        self.mounted.wait()
        say("ready")
        for line in sys.stdin:
            say(self._do(*line.split()))
        self.stopping = True
        self._unmount()

    def serve(self) -> None:
        """Mount, until standard input ends."""
        import mfusepy  # type: ignore[import-untyped]

        while not self.stopping:
            operations = Operations(self.disk, self.illness, self.lock, self.mounted.set)
            mfusepy.FUSE(
                operations,
                self.directory,
                foreground=True,
                hard_remove=True,  # an open file without a name needs no hidden one
                fsname="amqpd-test",
            )
            self.unmounted.set()
            self.wanted.wait()
            self.wanted.clear()

    def _do(self, command: str, *arguments: str) -> str:
        if command == "off":
            with self.lock:
                self.disk.powered = False
                files = [file for name, file in self.disk.names.items() if "-shm" not in name]
            return str(sum(len(file.unsynced) for file in files))
        if command == "slow":
            self.illness.fsync_s = float(arguments[0])
            return "done"
        if command == "fail":
            call, number, chance, *name = arguments
            with self.lock:
                self.illness.forgets = Random(int(chance))
                self.illness.failing[call] = int(number), "".join(name)
            return "done"
        if command == "well":
            with self.lock:
                self.illness.failing.clear()
                self.illness.fsync_s = 0.0
            return "done"
        assert command == "on"
        seed, *keep = arguments
        self._unmount()
        self.disk.cut(Random(int(seed)), float(keep[0]) if keep else None)
        self.disk.restart()
        self.mounted.clear()
        self.wanted.set()
        self.mounted.wait()
        return "ready"

    def _unmount(self) -> None:
        """Returns when no call of the kernel's will come any more."""
        if os.geteuid() == 0:
            library = ctypes.CDLL(None, use_errno=True)
            if library.umount2(self.directory.encode(), MNT_DETACH) != 0:
                raise OSError(ctypes.get_errno(), "umount2")
        else:
            subprocess.run(["fusermount3", "-u", "-z", self.directory], check=True)
        self.unmounted.wait()
        self.unmounted.clear()
        if self.stopping:
            self.wanted.set()


def say(line: str) -> None:
    """Answer."""
    print(line, flush=True)


def main() -> int:
    """The file system's process."""
    try:
        import mfusepy  # noqa: F401
    except (ImportError, OSError) as error:  # the latter without libfuse
        print(error, file=sys.stderr)
        return os.EX_UNAVAILABLE
    mounts = Mounts(sys.argv[1])
    threading.Thread(target=mounts.obey, daemon=True).start()
    try:
        mounts.serve()
    except RuntimeError as error:
        print("fuse:", error, file=sys.stderr)
        return os.EX_SOFTWARE if mounts.mounted.is_set() else os.EX_UNAVAILABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
