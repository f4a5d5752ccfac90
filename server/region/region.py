"""The shared region: one posix_ipc object, mapped by every process of the server.

Created by the master, inherited by its children over fork, attached read-only by the inspector.
All memory is allocated at creation, so that a full /dev/shm is an error at the start and not a
SIGBUS later. The object's own flock tells a live region from one that a dead server left: it is
held by every process that inherited the descriptor.

A name says nothing about whose it is: it may have been removed and taken by another. So a name is
removed only where it is that of the object that is meant (the same inode), and an object only where
it is a region of this user that nobody holds.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import stat
import sys
from collections.abc import Sequence
from typing import Final

import posix_ipc

from server.region.layout import LAYOUT_VERSION, MAGIC, Capacities, Layout
from server.region.views import Record

SHM: Final = "/dev/shm"  # noqa: S108 - where the system keeps shared memory


class RegionError(Exception):
    """The region cannot be created or attached; the text says why and what to do."""


class RegionInUse(RegionError):
    """Another live server has a region of this name."""


def check_processor() -> None:
    """Lock-free readers rely on x86-64's store order; RegionError elsewhere."""
    if platform.machine() not in ("x86_64", "AMD64"):
        raise RegionError(
            f"this processor is {platform.machine()}: the shared region relies on the store order "
            "of x86-64; run the server on an x86-64 machine"
        )


def free_bytes() -> int:
    """So much is free for regions."""
    there = os.statvfs(SHM)
    return there.f_bavail * there.f_frsize


def no_room(needed: int, free: int) -> str:
    """What there is to say where a region of `needed` bytes has no room in `free`."""
    return (
        f"the shared region needs {needed / 2**20:.1f} MiB in {SHM}, which has {free / 2**20:.1f} "
        f"MiB for it: make {SHM} larger (of a container: --shm-size) or lower the capacities"
    )


class Region:
    """A mapped region. `words` and `bytes` are views of the same memory.

    A shared word is read and written through `words` only: one machine load or store. Blobs are
    copied through `bytes` in one slice, before the word that publishes them.
    """

    def __init__(self, name: str, layout: Layout, fd: int, *, writable: bool) -> None:
        self.name: Final = name
        self.layout: Final = layout
        self.fd: Final = fd
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        # Every page is there from the start: the first repair need not wait for them to be cleared.
        flags = mmap.MAP_SHARED | (mmap.MAP_POPULATE if writable else 0)
        self._map = mmap.mmap(fd, layout.size, flags, access)
        self.bytes = memoryview(self._map)
        self.words = self.bytes.cast("Q")
        self.address: Final = (
            ctypes.addressof(ctypes.c_char.from_buffer(self._map)) if writable else 0
        )

    @classmethod
    def create(cls, name: str, capacities: Capacities, now_us: int) -> "Region":
        """A new region, all of it allocated, with its header written. Mode 0600.

        RegionInUse: a live server has this name. RegionError: no room in /dev/shm, or not x86-64.
        What a dead server left under this name is removed.
        """
        check_processor()
        layout = Layout(capacities)
        fd = _create(name)
        try:
            os.ftruncate(fd, layout.size)
            os.posix_fallocate(fd, 0, layout.size)
            region = cls(name, layout, fd, writable=True)
        except BaseException as error:
            _unlink(name, fd)
            os.close(fd)
            if not isinstance(error, OSError | MemoryError):
                raise
            code = getattr(error, "errno", None) or errno.ENOMEM
            raise RegionError(
                f"{no_room(layout.size, free_bytes())} ({os.strerror(code)})"
            ) from error
        header = region.header
        header.layout_version = LAYOUT_VERSION
        header.digest = layout.digest
        header.size = layout.size
        for field in Capacities.__slots__:
            setattr(header, f"capacity_{field}", getattr(capacities, field))
        header.started = header.epoch = now_us
        header.master_pid = os.getpid()
        secret = header.index("salt_secret") * 8
        region.bytes[secret : secret + 32] = os.urandom(32)
        header.log_id = int.from_bytes(os.urandom(8)) or 1
        header.magic = MAGIC
        return region

    @classmethod
    def attach(cls, name: str) -> "Region":
        """The live region of that name, read-only. RegionError: none, or another layout."""
        try:
            # Not by posix_ipc, which waits where a FIFO has the name.
            fd = os.open(f"{SHM}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
                raise _not_ours(name) from error
            raise RegionError(
                f"no region {name!r} can be opened ({error.strerror}): is the server running, and "
                "does --name or --port name it?"
            ) from error
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise _not_ours(name)
            first = Layout(_ANY)
            size = os.fstat(fd).st_size
            if size < first["header"].stride * 8 or size % 8:
                raise _unfinished(name)
            with mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ) as probe:
                header = memoryview(probe).cast("Q")
                try:
                    at = first["header"].at
                    if not header[0]:
                        raise _unfinished(name)
                    if header[0] != MAGIC or header[at(0, "layout_version")] != LAYOUT_VERSION:
                        raise RegionError(
                            f"region {name!r} was made by another version of tradechat"
                        )
                    given = [header[at(0, f"capacity_{f}")] for f in Capacities.__slots__]
                    digest = header[at(0, "digest")]
                finally:
                    header.release()
            try:
                layout = Layout(Capacities(*given))
            except ValueError as error:
                raise RegionError(f"region {name!r} is damaged: {error}") from error
            if digest != layout.digest or size != layout.size:
                raise RegionError(
                    f"region {name!r} has another layout than this program: "
                    "use the tradechat-admin of the version that runs the server"
                )
            return cls(name, layout, fd, writable=False)
        except BaseException:
            os.close(fd)
            raise

    def record(self, segment: str, number: int = 0) -> Record:
        """A record as attributes. KeyError, IndexError: there is none."""
        return Record(self, self.layout[segment], number)

    @property
    def header(self) -> Record:
        return self.record("header")

    @property
    def registry(self) -> Record:
        return self.record("registry")

    @property
    def log(self) -> Record:
        return self.record("log")

    @property
    def events(self) -> Record:
        return self.record("events")

    @property
    def journal(self) -> Record:
        return self.record("journal")

    @property
    def archive(self) -> Record:
        return self.record("archive")

    @property
    def files(self) -> Record:
        return self.record("files")

    @property
    def repairs(self) -> Record:
        return self.record("repairs")

    def column(self, segment: str, field: str) -> list[int]:
        """A field's first word in every record."""
        placed = self.layout[segment]
        first = placed.base + placed.offsets[field]
        end = placed.base + placed.records * placed.stride
        return self.words[first : end : placed.stride].tolist()

    def set_column(self, segment: str, field: str, values: Sequence[int]) -> None:
        """Make it these, storing only where it differs: what is rebuilt is mostly right already."""
        placed = self.layout[segment]
        first = placed.base + placed.offsets[field]
        found = self.column(segment, field)
        for record, (new, old) in enumerate(zip(values, found, strict=True)):
            if new != old:
                self.words[first + record * placed.stride] = new

    def protect(self) -> None:
        """From now on this process can only read it: a store would end the process. OSError."""
        libc = ctypes.CDLL(None, use_errno=True)
        address, size = ctypes.c_void_p(self.address), ctypes.c_size_t(self.layout.size)
        if libc.mprotect(address, size, mmap.PROT_READ):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def is_held(self) -> bool:
        """Tell whether a living process of its server has it.

        By the lock on the object, not by the master's process id: another pid namespace, as in
        another container, has other ids. It is taken for an instant where nobody has it.
        """
        try:
            fcntl.flock(self.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        return False

    def unlink(self) -> None:
        """Remove the name, if it is still this region's; the memory goes with the last process that
        maps it."""
        _unlink(self.name, self.fd)

    def close(self) -> None:
        """Unmap. Nothing may hold the views any more."""
        self.words.release()
        self.bytes.release()
        self._map.close()
        os.close(self.fd)


# The place of the header does not depend on the capacities.
_ANY = Capacities(1, 1, 1, 1, 1, 2, 2, 1, 1, 1, 1, 1)


def _open(name: str) -> int | None:
    """A descriptor of the object of that name; None: there is none. RegionError."""
    try:
        return int(posix_ipc.SharedMemory(f"/{name}").fd)
    except posix_ipc.ExistentialError:
        return None
    except posix_ipc.PermissionsError as error:
        raise RegionError(
            f"region {name!r} belongs to another user; choose another --name"
        ) from error
    except ValueError as error:
        raise _not_ours(name) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _not_ours(name) from error
        raise _failed(name, error) from error


def _not_ours(name: str) -> RegionError:
    return RegionError(
        f"{SHM}/{name} is not a region of tradechat: remove it, or choose another --name"
    )


def _unfinished(name: str) -> RegionError:
    return RegionError(
        f"region {name!r} is not finished: a server is just starting, so try again; or one was "
        "killed as it started, and the next server of that name replaces it"
    )


# posix_ipc says these without an errno.
_WITHOUT_ERRNO: Final = {"process": errno.EMFILE, "system": errno.ENFILE}


def _failed(name: str, error: OSError) -> RegionError:
    """A RegionError whose cause carries the errno."""
    if error.errno is None:
        code = next((c for word, c in _WITHOUT_ERRNO.items() if word in str(error)), errno.EIO)
        error.errno, error.strerror = code, os.strerror(code)
    return RegionError(f"the region {name!r} cannot be made in {SHM}: {error.strerror}")


def _is_named(name: str, fd: int) -> bool:
    """Is this object still the one of that name?"""
    try:
        found = os.lstat(f"{SHM}/{name}")
    except OSError:
        return False
    ours = os.fstat(fd)
    return (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)


def _unlink(name: str, fd: int) -> None:
    if _is_named(name, fd):
        posix_ipc.unlink_shared_memory(f"/{name}")


def _create(name: str) -> int:
    """A new, empty object, held; its descriptor. RegionInUse, RegionError."""
    remove_stale(name)
    try:
        fd = int(posix_ipc.SharedMemory(f"/{name}", posix_ipc.O_CREX, mode=0o600).fd)
    except posix_ipc.ExistentialError as error:
        if not os.path.isdir(SHM):
            raise RegionError(
                f"there is no {SHM}, which shared memory needs: mount a tmpfs there"
            ) from error
        raise _starting(name) from error
    except posix_ipc.PermissionsError as error:
        raise RegionError(
            f"{SHM} may not be written by this user: shared memory needs mode 1777"
        ) from error
    except OSError as error:
        raise _failed(name, error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_named(name, fd):
            return fd
        os.close(fd)
        raise _starting(name)
    except BlockingIOError as error:  # one that starts takes it for what a dead server left
        os.close(fd)
        raise _starting(name) from error
    except OSError as error:
        _unlink(name, fd)
        os.close(fd)
        raise _failed(name, error) from error


def _starting(name: str) -> RegionInUse:
    return RegionInUse(f"another server starts with the region {name!r} just now")


def _is_region(fd: int) -> bool:
    """Has tradechat made this object, or begun to? Its first word is MAGIC at the end, 0 before."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        return False
    first = os.pread(fd, 8, 0)
    if int.from_bytes(first, sys.byteorder) == MAGIC:
        return True
    return not any(first) and stat.S_IMODE(status.st_mode) == 0o600


def remove_stale(name: str) -> None:
    """Remove a region that no live process has; RegionInUse where one has it. RegionError: what is
    there is not a region of this user."""
    fd = _open(name)
    if fd is None:
        return
    try:
        if not _is_region(fd):
            raise _not_ours(name)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _unlink(name, fd)
    except BlockingIOError as error:
        raise RegionInUse(
            f"a running server has the region {name!r}: stop it, or choose another --name"
        ) from error
    except OSError as error:
        raise _failed(name, error) from error
    finally:
        os.close(fd)
