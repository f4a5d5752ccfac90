"""The memory of each process of a server, as the system tells it."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from server.region.region import Region

_PAGE: Final = 4096  # bytes: of x86-64, where alone the server runs
OTHERS: Final = "others"


def memory_of_all(region: Region) -> dict[str, int]:
    """Bytes that are resident for a process alone, neither of a file nor shared, by what it is.
    Those that live for a moment (loader, repair, snapshot), and the admin process, are `others`
    together. A process that has ended, or is in another pid namespace, is left out."""
    master = region.header.master_pid
    named = {
        region.journal.pid: "journal",
        region.archive.pid: "archive",
        region.files.pid: "files",
    }
    named |= {pid: f"worker {slot}" for slot, pid in enumerate(region.column("workers", "pid"))}
    found: dict[str, int] = {}
    for pid, depth in _family(master):
        name = named.get(pid, OTHERS) if depth else "master"
        with suppress(OSError):
            _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_bytes().split()
            found[name] = found.get(name, 0) + (int(resident) - int(shared)) * _PAGE
    return found


def _family(pid: int, depth: int = 0) -> Iterator[tuple[int, int]]:
    """A process and its descendants, each with how far down it is."""
    yield pid, depth
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_bytes().split():
            yield from _family(int(child), depth + 1)
