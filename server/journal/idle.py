"""How long each client had been idle at an orderly stop: a file that the next start reads, once.

Idle time is no part of the log: a LOGIN that resumes a client leaves no record. So what is known of
it is known for a whole stop or not at all. The start removes the file before anybody can log in:
after a crash there is none, nobody is taken for idle who was there a moment ago, and all clients
begin to be idle at the start.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from struct import Struct
from typing import Final

from server.journal.disk import Disk, read_file
from server.journal.format import FORMAT_VERSION, IDLE, IDLE_CLIENT, READ_FORMATS, TEMPORARY, crc64
from server.region.layout import WORD
from server.region.region import Region

Idle = Mapping[tuple[int, int], int]
"""Microseconds of lived time, by user and client_id; whoever is not in it has just been there."""

_HEADER: Final = Struct(f"<{len(IDLE.fields)}Q")
_CLIENT: Final = Struct(f"<{sum(f.words for f in IDLE_CLIENT)}Q")


def of_region(region: Region, clock_us: int) -> Idle:
    """Of all clients of a region that nobody changes. clock_us: CLOCK_MONOTONIC now."""
    column, lived = region.column, region.header.lived + clock_us
    columns = map(column, ["clients"] * 4, ("user", "client_id", "session", "idle_since"))
    return {
        (user, client_id): 0 if session else max(0, lived - since)
        for user, client_id, session, since in zip(*columns, strict=True)
        if user
    }


def write(disk: Disk, path: Path, txn: int, idle: Idle) -> None:
    """Write the file; when this returns it is durable. txn: the newest txn_id. OSError."""
    remove(disk, path)
    body = b"".join(_CLIENT.pack(*client, us) for client, us in idle.items())
    temporary = path.with_name(path.name + TEMPORARY)
    fd = disk.create(temporary)
    try:
        header = IDLE.pack(FORMAT_VERSION, txn, len(idle), rest=(body,))
        disk.write(fd, [header, body], 0)
        disk.sync(fd)
    finally:
        disk.close(fd)
    disk.rename(temporary, path)
    disk.sync_directory(path.parent)


def remove(disk: Disk, path: Path) -> None:
    """Remove it, and what a stop that was killed has left half done; durably. OSError."""
    names = {path.name, path.name + TEMPORARY} & set(disk.names(path.parent))
    for name in sorted(names):
        disk.remove(path.with_name(name))
    if names:
        disk.sync_directory(path.parent)


def take(disk: Disk, path: Path, txn: int) -> tuple[Idle, str]:
    """What the file says of a state whose newest txn_id is `txn`, or nothing where there is none;
    and what is wrong with one that was passed over, or "". It is gone when this returns. OSError.
    """
    idle: Idle = {}
    why = ""
    if path.name in disk.names(path.parent):
        try:
            data = memoryview(read_file(disk, path))
        except OSError as error:
            why = f"it cannot be read: {error.strerror}"
        else:
            why = _fault(data, txn)
        if not why:
            idle = dict(_clients(data[IDLE.size :]))
    remove(disk, path)
    return idle, why


def _fault(data: memoryview, txn: int) -> str:
    if len(data) < IDLE.size:
        return "it has no whole header"
    magic, version, of_txn, clients, crc = _HEADER.unpack_from(data)
    body = data[IDLE.size :]
    if magic != IDLE.magic or crc64(body, crc64(data[: IDLE.size - WORD])) != crc:
        return "it is damaged"
    if version not in READ_FORMATS:
        return f"it has format {version}, and this program reads {FORMAT_VERSION}"
    if of_txn != txn:
        return f"it is of transaction {of_txn}, and the state of {txn}"
    if len(body) != clients * _CLIENT.size:
        return "its length is not what its count makes"
    return ""


def _clients(body: memoryview) -> Iterator[tuple[tuple[int, int], int]]:
    for user, client_id, us in _CLIENT.iter_unpack(body):
        yield (user, client_id), us
