"""Servers that are stopped, killed and started again on one data directory: what the tests of what
survives share."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from libproto.errors import Status
from libproto.messages import Opcode
from server.journal.directory import DataDirectory
from server.journal.disk import Disk
from server.journal.reader import Batch, Reader
from server.region.region import Region
from tests.helpers.server import RunningServer
from tests.helpers.wire import Wire

CLIENT = 0xC11E27


ABOVE_ALL = 1 << 32  # req_ids that a test draws


SMALL = ("--txn-ring", "64", "--event-ring", "16", "--accounts", "64", "--clients", "64")


@contextmanager
def serving(data: Path, *flags: str, workers: int = 2) -> Iterator[RunningServer]:
    """A server on a data directory; killed at the end, if the test has not ended it."""
    server = RunningServer(data, *flags, workers=workers)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            kill_all(server)


def kill_all(server: RunningServer) -> None:
    """kill -9 of every process of it."""
    server.crash()


def entered(server: RunningServer, name: str, *, new: bool = False) -> Wire:
    """A connection logged in under CLIENT."""
    if new:
        register(server, name)
    wire = Wire(server.connect())
    wire.hello(name)
    next_req_id = 1 if new else ABOVE_ALL
    login = wire.login(name, client_id=CLIENT, next_req_id=next_req_id)
    assert login.status == Status.OK
    return wire


def register(server: RunningServer, name: str) -> None:
    with Wire(server.connect()) as wire:
        wire.hello(name)
        assert wire.register(name).status == Status.OK


def events(server: RunningServer, name: str) -> list[dict[str, Any]]:
    lines = map(json.loads, server.log_text().splitlines())
    return [line for line in lines if line["event"] == name]


def transactions(wire: Wire) -> list[Any]:
    """All that TXN_HISTORY tells, oldest first."""
    out: list[Any] = []
    while page := wire.ok(Opcode.TXN_HISTORY, out[-1].txn_id if out else 0, 256).transactions:
        out += page
    return out[::-1]


def said(wire: Wire, room: int) -> tuple[int, list[Any]]:
    """oldest_seq, and all that ROOM_HISTORY tells."""
    out: list[Any] = []
    while (page := wire.ok(Opcode.ROOM_HISTORY, room, out[-1].room_seq if out else 0, 256)).events:
        out += page.events
    return page.oldest_seq, out


def kept(server: RunningServer) -> int:
    """Room events that the archive has written and synced."""
    return word(server, "archive", "kept")


def word(server: RunningServer, segment: str, field: str) -> int:
    region = Region.attach(server.name)
    try:
        return int(region.words[region.layout[segment].at(0, field)])
    finally:
        region.close()


def log_id_of(data: Path) -> int:
    return DataDirectory(data).identity(Disk()).log_id


def batches_of(data: Path) -> list[Batch]:
    return list(Reader(Disk(), data / "journal", log_id_of(data)).batches())


def records_of(data: Path) -> list[Batch]:
    """Those with transactions."""
    return [batch for batch in batches_of(data) if batch.count]
