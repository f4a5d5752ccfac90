"""A disk in memory that forgets: what power cuts, kills and failing calls leave of a journal is
tried at every call, without a machine to switch off.

`SimulatedDisk` is a `Disk` whose files have two sides: what processes **see** (the page cache) and
what is **kept** (on the medium). Between them stands what has not been synced.

- Data is kept after `sync` of its file, names after `sync_directory` of their directory; neither
  does the other's work. A file whose name was never synced is gone after a power cut; a name whose
  removal was not synced is back.
- `after_power_cut` is the disk that the machine starts with again. Of what was not synced anything
  may be there: every 512-byte sector is as it was kept or as it was at some time since; a file's
  size likewise; a change of names has happened or not (a rename is one change). Who chooses is a
  `Survivors` function; `ADVERSARIES` are those to try.
- `after_kill` is the disk that the next process finds: all that was seen, no descriptors. What was
  not synced still is not.
- `cut_at = N`: in the Nth call that changes something, `PowerCut` is raised, and in every one after
  it. Of a write the `part` given is seen, up to the end of a sector: the kernel copies what a
  process writes page by page, and looks between pages only whether the process was killed (a file's
  data may all the same survive wholly: cut at the call after it). Nothing else is half done where
  processes see it.
- `fail_at = (N, errno)`: the Nth call that changes something raises OSError; of a write or an
  allocation the `part` given is done. A failed `sync` is the trap it is on Linux: what was unsynced
  is still seen, and counts as clean. It may have been kept or not, and no later sync makes sure of
  it, unless it is written again. `drop_clean_pages` is the system that needs memory: then
  such data is read from the medium again.

`calls` counts the calls that change something, and `log` has their names, so that a test tries
N = 1, 2, ... until a run ends without reaching its N.

Simpler than a system: no modes, no "..", no links; a directory cannot be opened, renamed or
removed; a rename from one directory to another is two changes. Sizes, which a journalling file
system keeps as metadata, are not lost by a failed sync: the next good one keeps them.
"""

import errno
import os
import random
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

from server.journal.disk import Disk, Piece

SECTOR: Final = 512  # bytes: what the medium writes wholly or not at all


class PowerCut(BaseException):
    """Here the process, or the machine, ended; no `except Exception` outlives it."""


# ---- what survives


@dataclass(frozen=True, slots=True)
class Choice:
    """Something that was not synced: one of `versions` is what was kept."""

    kind: Literal["name", "size", "sector"]
    versions: int  # 0: as it was synced last; the highest: as processes saw it
    first: bool = True  # among the sectors of its file that were not synced
    last: bool = True


Survivors: TypeAlias = Callable[[Choice], int]
"""Which version survives."""


def nothing(_choice: Choice) -> int:
    return 0


def everything(choice: Choice) -> int:
    return choice.versions - 1


def no_data(choice: Choice) -> int:
    """Names and sizes alone."""
    return 0 if choice.kind == "sector" else choice.versions - 1


def data_alone(choice: Choice) -> int:
    """No names, no sizes."""
    return choice.versions - 1 if choice.kind == "sector" else 0


def first_sector(choice: Choice) -> int:
    return choice.versions - 1 if choice.first else 0


def last_sector(choice: Choice) -> int:
    return choice.versions - 1 if choice.last else 0


def but_first_sector(choice: Choice) -> int:
    return 0 if choice.kind == "sector" and choice.first else choice.versions - 1


def but_last_sector(choice: Choice) -> int:
    return 0 if choice.kind == "sector" and choice.last else choice.versions - 1


def at_random(seed: int) -> Survivors:
    chosen = random.Random(seed)  # noqa: S311 - the same for the same seed
    return lambda choice: chosen.randrange(choice.versions)


ADVERSARIES: Final[dict[str, Survivors]] = {
    survivors.__name__: survivors
    for survivors in (
        nothing,
        everything,
        no_data,
        data_alone,
        first_sector,
        last_sector,
        but_first_sector,
        but_last_sector,
    )
}


# ---- files and directories


class _File:
    def __init__(self) -> None:
        self.seen = bytearray()
        self._kept = bytearray()
        self._sizes: list[int] = []  # that it has had since a sync
        self._versions: dict[int, list[bytes]] = {}  # by sector, what it has held since then
        self._dirty: set[int] = set()  # sectors that the next sync writes

    def __deepcopy__(self, memo: dict[int, object]) -> "_File":
        """By hand: a campaign makes tens of thousands."""
        memo[id(self)] = other = _File()
        other.seen = self.seen[:]
        other._kept = self._kept[:]
        other._sizes = self._sizes[:]
        other._versions = {sector: found[:] for sector, found in self._versions.items()}
        other._dirty = self._dirty.copy()
        return other

    def resize(self, size: int) -> None:
        old = len(self.seen)
        if size < old:
            del self.seen[size:]
            self._note(size, old)
        else:
            self.seen.extend(bytes(size - old))
        if size != old:
            self._sizes.append(size)

    def write(self, data: bytes, offset: int) -> None:
        end = offset + len(data)
        if not data:
            return
        if end > len(self.seen):
            self.resize(end)
        self.seen[offset:end] = data
        self._note(offset, end)

    def _note(self, start: int, end: int) -> None:
        """What processes see of these bytes is another version of their sectors."""
        for sector in range(start // SECTOR, -(-end // SECTOR)):
            self._versions.setdefault(sector, []).append(_sector(self.seen, sector))
            self._dirty.add(sector)

    def sync(self) -> None:
        self._kept = _resized(self._kept, len(self.seen))
        for sector in self._dirty:
            del self._versions[sector]
            _put(self._kept, sector, _sector(self.seen, sector))
        self._sizes.clear()
        self._dirty.clear()

    def fail_sync(self) -> None:
        self._dirty.clear()

    def drop_clean(self) -> None:
        for sector in self._versions.keys() - self._dirty:
            _put(self.seen, sector, _sector(self._kept, sector))

    def survive(self, survives: Survivors) -> None:
        """Be what a power cut leaves."""
        size = [len(self._kept), *self._sizes][_chosen(survives, "size", len(self._sizes))]
        sectors = sorted(self._versions)
        highest = max(size, len(self._kept), (sectors[-1] + 1) * SECTOR if sectors else 0)
        left = _resized(self._kept, highest)
        for sector in sectors:
            versions = self._versions[sector]
            first, last = sector == sectors[0], sector == sectors[-1]
            version = _chosen(survives, "sector", len(versions), first, last)
            if version:
                _put(left, sector, versions[version - 1])
        self._kept = left[:size]
        self.seen = self._kept[:]
        self._sizes, self._versions, self._dirty = [], {}, set()


def _sector(data: bytearray, sector: int) -> bytes:
    """Zeros stand behind the end of a file."""
    return bytes(data[sector * SECTOR : (sector + 1) * SECTOR]).ljust(SECTOR, b"\0")


def _put(data: bytearray, sector: int, content: bytes) -> None:
    """Its size stays as it is."""
    start, end = sector * SECTOR, min((sector + 1) * SECTOR, len(data))
    if start < end:
        data[start:end] = content[: end - start]


def _resized(data: bytearray, size: int) -> bytearray:
    return data[:size].ljust(size, b"\0")


def _chosen(
    survives: Survivors,
    kind: Literal["name", "size", "sector"],
    changes: int,
    first: bool = True,
    last: bool = True,
) -> int:
    return survives(Choice(kind, changes + 1, first, last)) if changes else 0


@dataclass(eq=False)
class _Directory:
    seen: "dict[str, _Node]" = field(default_factory=dict)
    kept: "dict[str, _Node]" = field(default_factory=dict)
    changes: "list[dict[str, _Node | None]]" = field(default_factory=list)

    def __deepcopy__(self, memo: dict[int, object]) -> "_Directory":
        memo[id(self)] = other = _Directory()
        other.seen = {name: deepcopy(node, memo) for name, node in self.seen.items()}
        other.kept = {name: deepcopy(node, memo) for name, node in self.kept.items()}
        other.changes = deepcopy(self.changes, memo) if self.changes else []
        return other

    def change(self, names: "dict[str, _Node | None]") -> None:
        """None: the name is removed."""
        self.changes.append(names)
        _apply(self.seen, names)

    def sync(self) -> None:
        self.kept = dict(self.seen)
        self.changes.clear()

    def survive(self, survives: Survivors) -> None:
        for names in self.changes:
            if _chosen(survives, "name", 1):
                _apply(self.kept, names)
        self.seen = dict(self.kept)
        self.changes = []


_Node: TypeAlias = _File | _Directory


def _apply(entries: dict[str, _Node], names: dict[str, _Node | None]) -> None:
    for name, node in names.items():
        if node is None:
            entries.pop(name, None)
        else:
            entries[name] = node


def _error(number: int, path: Path | None = None) -> OSError:
    return OSError(number, os.strerror(number), *([] if path is None else [str(path)]))


@dataclass(slots=True)
class _Open:
    file: _File
    writable: bool


# ---- the disk


class SimulatedDisk(Disk):
    """See the module. `root` and what is above it are there, and kept."""

    def __init__(
        self,
        root: Path = Path("/data"),
        *,
        cut_at: int = 0,
        fail_at: tuple[int, int] = (0, 0),
        part: float = 0.0,
    ) -> None:
        self.cut_at = cut_at  # these three may be set at any time; `calls` begins at 0
        self.fail_at = fail_at
        self.part = part
        self.log: list[str] = []
        self.root: Final = root
        self._top = _Directory()
        self._open: dict[int, _Open] = {}
        self._next_fd = 1_000_000  # no descriptor of this process
        at = self._top
        for name in root.parts[1:]:
            directory = _Directory()
            at.change({name: directory})
            at.sync()
            at = directory

    @property
    def calls(self) -> int:
        return len(self.log)

    @property
    def open_files(self) -> int:
        return len(self._open)

    # ---- what happens to it

    def after_power_cut(self, survives: Survivors = nothing) -> "SimulatedDisk":
        disk = self.after_kill()
        disk._top.survive(survives)
        for node in disk._nodes():
            node.survive(survives)
        return disk

    def after_kill(self) -> "SimulatedDisk":
        disk = SimulatedDisk(self.root)
        disk._top = deepcopy(self._top)
        return disk

    def drop_clean_pages(self) -> None:
        """What a failed sync has not kept is no longer seen."""
        for node in self._nodes():
            if isinstance(node, _File):
                node.drop_clean()

    def _nodes(self) -> Iterator[_Node]:
        """All that have a name, below the top; each directory before what is in it."""
        waiting = [self._top]
        while waiting:
            directory = waiting.pop()
            # Sorted as they are come to: what survives of a directory is what is gone through.
            for name in sorted(directory.seen):
                node = directory.seen[name]
                yield node
                if isinstance(node, _Directory):
                    waiting.append(node)

    def _call(self, name: str) -> None:
        self.log.append(name)
        if self.cut_at and self.calls >= self.cut_at:
            raise PowerCut(f"at call {self.calls}, {name}")
        if self.calls == self.fail_at[0]:
            raise _error(self.fail_at[1])

    # ---- Disk

    def make_directory(self, path: Path) -> None:
        self._call("make_directory")
        parent, there = self._place(path)
        if there is None:
            parent.change({path.name: _Directory()})
        elif isinstance(there, _File):
            raise _error(errno.EEXIST, path)

    def names(self, directory: Path) -> list[str]:
        return sorted(self._directory(directory).seen)

    def create(self, path: Path) -> int:
        self._call("create")
        parent, there = self._place(path)
        if there is not None:
            raise _error(errno.EEXIST, path)
        file = _File()
        parent.change({path.name: file})
        return self._opened(file, writable=True)

    def open(self, path: Path, *, writable: bool = False) -> int:
        return self._opened(self._file(path), writable)

    def size(self, fd: int) -> int:
        return len(self._at(fd).seen)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        if size <= 0:
            return b""
        if offset < 0:
            raise _error(errno.EINVAL)
        file = self._at(fd)
        return bytes(file.seen[offset : offset + size])

    def allocate(self, fd: int, size: int) -> None:
        file = self._at(fd)
        if size <= 0:
            raise _error(errno.EINVAL)
        self._at(fd, errno.EBADF)
        old = len(file.seen)
        try:
            self._call("allocate")
        except OSError:
            file.resize(max(old, old + int((size - old) * self.part)))
            raise
        file.resize(max(old, size))

    def write(self, fd: int, pieces: Sequence[Piece], offset: int) -> None:
        assert offset >= 0
        file = self._at(fd, errno.EBADF)
        data = b"".join(pieces)
        try:
            self._call("write")
        except BaseException:
            if self.calls in (self.cut_at, self.fail_at[0]):
                end = offset + int(len(data) * self.part)
                file.write(data[: max(0, end - end % SECTOR - offset)], offset)
            raise
        file.write(data, offset)

    def truncate(self, fd: int, size: int) -> None:
        if size < 0:
            raise _error(errno.EINVAL)
        file = self._at(fd, errno.EINVAL)
        self._call("truncate")
        file.resize(size)

    def sync(self, fd: int) -> None:
        file = self._at(fd)
        try:
            self._call("sync")
        except OSError:
            file.fail_sync()
            raise
        file.sync()

    def sync_directory(self, path: Path) -> None:
        directory = self._directory(path)
        self._call("sync_directory")
        directory.sync()

    def rename(self, old: Path, new: Path) -> None:
        self._call("rename")
        before, parent = self._directory(old.parent), self._directory(new.parent)
        file, there = self._file(old), self._node(new)
        if isinstance(there, _Directory):
            raise _error(errno.EISDIR, new)
        if there is file:
            return
        if parent is before:
            parent.change({old.name: None, new.name: file})
        else:
            parent.change({new.name: file})
            before.change({old.name: None})

    def remove(self, path: Path) -> None:
        self._call("remove")
        self._file(path)
        self._directory(path.parent).change({path.name: None})

    def close(self, fd: int) -> None:
        self._at(fd)
        del self._open[fd]

    # ---- places

    def _opened(self, file: _File, writable: bool) -> int:
        self._next_fd += 1
        self._open[self._next_fd] = _Open(file, writable)
        return self._next_fd

    def _at(self, fd: int, unless_writable: int = 0) -> _File:
        """unless_writable: the error where it is open for reading only; 0: none."""
        if fd not in self._open:
            raise _error(errno.EBADF)
        found = self._open[fd]
        if unless_writable and not found.writable:
            raise _error(unless_writable)
        return found.file

    def _node(self, path: Path) -> _Node | None:
        at: _Node | None = self._top
        for name in path.parts[1:]:
            if at is None:
                raise _error(errno.ENOENT, path)
            if isinstance(at, _File):
                raise _error(errno.ENOTDIR, path)
            at = at.seen.get(name)
        return at

    def _directory(self, path: Path) -> _Directory:
        found = self._node(path)
        if isinstance(found, _Directory):
            return found
        raise _error(errno.ENOENT if found is None else errno.ENOTDIR, path)

    def _file(self, path: Path) -> _File:
        found = self._node(path)
        if isinstance(found, _File):
            return found
        raise _error(errno.ENOENT if found is None else errno.EISDIR, path)

    def _place(self, path: Path) -> tuple[_Directory, _Node | None]:
        """Where a name is or would be, and what it names."""
        return self._directory(path.parent), self._node(path)
