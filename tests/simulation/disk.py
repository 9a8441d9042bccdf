"""A disk that loses, tears and reorders what was not synced. In memory, and driven by a seed.

    write, truncate ──> volatile image          what a running process reads back
           │
           └──> the file's unsynced writes ──sync──> durable image
                        │
                        └──power cut──> each sector of each write: kept, lost or torn

**What is assumed of a real disk and file system**, and nothing else:

- What a sync of the file covered is on the disk when the sync returns.
- Of each unsynced write, every sector (512 or 4096 octets, by the cut) is kept or lost on its own,
  or torn: a part of it is new, or it is garbage. An earlier write may be lost where a later one
  was kept.
- A torn write damages nothing outside its own range (SQLite's "powersafe overwrite").
- Creating, renaming and unlinking are a journal of the directory: of what was not synced, a power
  cut keeps a prefix. A rename is atomic. Syncing a directory makes all of it durable.
- A file's content and its name are independent: a name can survive whose content does not.

`kill` is the other way to stop: everything written is there, synced or not.

Every call that changes something is counted, and `cut_at` names the call before which the power
goes: `PowerCut` comes out of it, and out of every call after it, until `restart`.

Calls may fail without that: while the disk is `full`, whatever would make a file longer; and those
in `failing`, with an I/O error. A call that fails has done nothing, and what a sync should have
made durable is synced by the next one; or (`forgets`) by none. Linux marks pages clean whose
writing failed: some of them are on the disk, others never will be, and nobody is told again. What a
process reads is what was written, or, once the cache has dropped such pages, what the disk has.
While it is `blind`, nothing can be read.
"""

from __future__ import annotations

from random import Random
from typing import Final, NamedTuple

SECTORS: Final = (512, 4096)
KEEP: Final = (0.0, 0.1, 0.5, 0.9, 1.0)
"""How much of the unsynced sectors a cut keeps: chosen per cut."""
DROPPED: Final = 0.3
"""How often the cache no longer has what a failed sync forgot."""


class PowerCut(Exception):
    """The machine has no power: whatever runs on it ends here."""


class DiskError(Exception):
    """A call failed, with EIO."""


class DiskFull(DiskError):
    """A call failed, with ENOSPC."""


class Write(NamedTuple):
    """An unsynced write, or (without data) an unsynced change of the file's size to `offset`."""

    offset: int
    data: bytes | None


class File:
    """A file, whatever its name."""

    __slots__ = ("durable", "unsynced", "volatile")

    def __init__(self) -> None:
        self.volatile = bytearray()
        self.durable = bytearray()
        self.unsynced: list[Write] = []

    def copy(self) -> File:
        """Another one like it."""
        other = File()
        other.volatile = self.volatile[:]
        other.durable = self.durable[:]
        other.unsynced = self.unsynced[:]
        return other


class Disk:
    """One directory of files, on a disk whose power can go."""

    def __init__(self) -> None:
        self.names: dict[str, File] = {}
        self._durable_names: dict[str, File] = {}
        self._unsynced_names: list[tuple[str, File | None]] = []
        self._rename_halves: set[int] = set()
        self.calls = 0
        """Calls that changed something, or made a change durable."""
        self.cut_at: int | None = None
        """The number of the call before which the power goes."""
        self.powered = True
        self.states: list[Disk] | None = None
        """If it is a list: what the disk was before each call since."""
        self.syncs_lie = False
        """A disk that reports a sync it did not do."""
        self.full = False
        self.failing = range(0)
        """Numbers of the calls that fail."""
        self.forgets: Random | None = None
        """If a sync that fails forgets: by chance, what of it."""
        self.blind = False

    def copy(self) -> Disk:
        """Another one in the same state."""
        other = Disk()
        files: dict[int, File] = {}
        for name, file in self.names.items():
            other.names[name] = files.setdefault(id(file), file.copy())
        for name, file in self._durable_names.items():
            other._durable_names[name] = files.setdefault(id(file), file.copy())
        for name, change in self._unsynced_names:
            found = None if change is None else files.setdefault(id(change), change.copy())
            other._unsynced_names.append((name, found))
        other._rename_halves = set(self._rename_halves)
        other.calls = self.calls
        other.syncs_lie = self.syncs_lie
        return other

    # -- what a process does

    def count(self) -> None:
        """One more call; the power may go before it."""
        if self.cut_at is not None and self.calls >= self.cut_at:
            self.powered = False
        self.require_power()
        if self.states is not None:
            self.states.append(self.copy())
        self.calls += 1

    def _fail(self) -> bool:
        """Whether the call that was just counted fails."""
        return self.calls - 1 in self.failing

    def require_power(self) -> None:
        """Nothing works without."""
        if not self.powered:
            raise PowerCut

    def create(self, name: str) -> File:
        """A new, empty file under a name that is free."""
        self.count()
        if self._fail():
            raise DiskError
        assert name not in self.names
        file = File()
        self._name(name, file)
        return file

    def unlink(self, name: str) -> None:
        """The name is gone."""
        self.count()
        if self._fail():
            raise DiskError
        self._name(name, None)

    def rename(self, old: str, new: str) -> None:
        """The file has another name, at once; who had that has none."""
        self.count()
        if self._fail():
            raise DiskError
        file = self.names[old]
        self._rename_halves.add(len(self._unsynced_names))
        self._name(new, file)
        self._name(old, None)

    def sync_names(self) -> None:
        """fsync of the directory."""
        self.count()
        if self._fail():
            raise DiskError
        if not self.syncs_lie:
            self._durable_names = dict(self.names)
            self._unsynced_names.clear()
            self._rename_halves.clear()

    def write(self, file: File, offset: int, data: bytes) -> None:
        """pwrite."""
        self.count()
        if self._fail():
            raise DiskError
        if self.full and offset + len(data) > len(file.volatile):
            raise DiskFull
        file.unsynced.append(Write(offset, data))
        apply(file.volatile, offset, data)

    def truncate(self, file: File, size: int) -> None:
        """ftruncate."""
        self.count()
        if self._fail():
            raise DiskError
        file.unsynced.append(Write(size, None))
        resize(file.volatile, size)

    def sync(self, file: File) -> None:
        """fsync."""
        self.count()
        if self._fail():
            if self.forgets is not None:
                self.forget(file, self.forgets)
            raise DiskError
        if self.syncs_lie:
            return
        for offset, data in file.unsynced:
            if data is None:
                resize(file.durable, offset)
            else:
                apply(file.durable, offset, data)
        file.unsynced.clear()

    def read(self, file: File, offset: int, size: int) -> bytes:
        """pread; short at the end of the file."""
        if self.blind:
            raise DiskError
        return bytes(file.volatile[offset : offset + size])

    @property
    def is_ill(self) -> bool:
        """Something may fail."""
        return self.blind or self.calls < self.failing.stop

    def heal(self) -> None:
        """Nothing fails any more, but for want of room."""
        self.failing = range(0)
        self.forgets = None
        self.blind = False

    # -- what happens to it

    def cut(self, chance: Random, keep: float | None = None) -> None:
        """The power went: what was not synced is kept, lost or torn. Call `restart` next.

        `keep` is how much of it is kept; by chance if it is not given.
        """
        if keep is None:
            keep = chance.choice(KEEP)
        sector = chance.choice(SECTORS)
        survived = dict(self._durable_names)
        kept = len(self._unsynced_names)
        if keep < 1.0:
            kept = chance.randint(0, kept) if keep else 0
        if kept and kept - 1 in self._rename_halves:
            kept += 1  # a rename is atomic
        for name, change in self._unsynced_names[:kept]:
            if change is None:
                survived.pop(name, None)
            else:
                survived[name] = change
        for file in survived.values():
            for offset, data in file.unsynced:
                if data is not None:
                    tear(file.durable, offset, data, sector, keep, chance)
                elif keep == 1.0 or chance.random() < keep:
                    resize(file.durable, offset)
            file.unsynced.clear()
            file.volatile = file.durable[:]
        self.names = survived
        self._settled()

    def kill(self) -> None:
        """The process was killed, the machine goes on: nothing is lost. Call `restart` next."""
        # What was not synced stays unsynced: a power cut soon after may still take it.
        self.powered = False

    def restart(self) -> None:
        """Power is back, or the process, and the disk is well."""
        self.powered = True
        self.cut_at = None
        self.full = False
        self.heal()

    def forget(self, file: File, chance: Random) -> None:
        """A sync fails: some of what it should have brought to the disk is there, and nothing of it
        is left to be synced."""
        keep, sector = chance.choice(KEEP), chance.choice(SECTORS)
        for offset, data in file.unsynced:
            if data is not None:
                tear(file.durable, offset, data, sector, keep, chance)
            elif chance.random() < keep:
                resize(file.durable, offset)
        file.unsynced.clear()
        if chance.random() < DROPPED:
            file.volatile = file.durable[:]

    def _settled(self) -> None:
        self._durable_names = dict(self.names)
        self._unsynced_names.clear()
        self._rename_halves.clear()
        self.powered = False

    def _name(self, name: str, file: File | None) -> None:
        self._unsynced_names.append((name, file))
        if file is None:
            del self.names[name]
        else:
            self.names[name] = file


def apply(image: bytearray, offset: int, data: bytes) -> None:
    """Write into an image; a gap behind its end is filled with zeros."""
    if offset > len(image):
        image.extend(bytes(offset - len(image)))
    image[offset : offset + len(data)] = data


def resize(image: bytearray, size: int) -> None:
    """Cut or extend an image."""
    if size < len(image):
        del image[size:]
    else:
        image.extend(bytes(size - len(image)))


def tear(
    image: bytearray, offset: int, data: bytes, sector: int, keep: float, chance: Random
) -> None:
    """What a power cut leaves of one write."""
    if keep == 1.0:
        apply(image, offset, data)
        return
    if keep == 0.0:
        return
    start = 0
    while start < len(data):
        end = min(len(data), ((offset + start) // sector + 1) * sector - offset)
        drawn = chance.random()
        if drawn < keep:
            apply(image, offset + start, data[start:end])
        elif drawn > 0.97:
            middle = chance.randint(start, end)
            apply(image, offset + start, data[start:middle])
            if drawn > 0.985:
                apply(image, offset + middle, chance.randbytes(end - middle))
        start = end
