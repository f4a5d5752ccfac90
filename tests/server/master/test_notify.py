"""A server that a service manager has started tells it how it is."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from server.master.notify import READY, ServiceManager
from tests.helpers.server import RunningServer

PATIENCE_S = 60.0


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address)
        sock.settimeout(PATIENCE_S)
        yield sock


def told(sock: socket.socket) -> list[str]:
    """All that has come so far."""
    sock.setblocking(False)
    found = []
    while True:
        try:
            found.append(sock.recv(4096).decode())
        except BlockingIOError:
            return found


def test_ready_alive_and_stopping(tmp_path: Path) -> None:
    where = str(tmp_path / "notify")
    with listening(where) as sock:
        data = tmp_path / "data"
        with RunningServer(data, NOTIFY_SOCKET=where, WATCHDOG_USEC="300000") as server:
            while sock.recv(4096).decode() != READY:
                pass
            assert sock.recv(4096) == b"WATCHDOG=1"
            assert sock.recv(4096) == b"WATCHDOG=1", "again and again"
            assert server.stop() == 0
        rest = told(sock)
    assert rest.count("STOPPING=1") == 1
    assert "READY=1" not in rest


def test_without_a_watchdog_it_says_when_it_serves_and_when_it_stops(tmp_path: Path) -> None:
    where = f"\0{tmp_path.name}-{os.getpid()}"
    with listening(where) as sock:
        with RunningServer(tmp_path / "data", NOTIFY_SOCKET=f"@{where[1:]}") as server:
            assert server.stop() == 0
        assert told(sock) == ["READY=1", "STOPPING=1"]


def test_where_nobody_listens_nothing_is_lost(tmp_path: Path) -> None:
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell(READY)
    ServiceManager({}).tell(READY)


@pytest.mark.parametrize(("is_ours", "count"), [(True, 1), (False, 0)])
def test_a_watchdog_of_another_process_is_not_ours(
    tmp_path: Path, is_ours: bool, count: int
) -> None:
    where = str(tmp_path / "notify")
    pid = str(os.getpid() if is_ours else 1)
    with listening(where) as sock:
        manager = ServiceManager(
            {"NOTIFY_SOCKET": where, "WATCHDOG_USEC": "3600000000", "WATCHDOG_PID": pid}
        )
        manager.tell_alive()
        manager.tell_alive()
        assert told(sock) == ["WATCHDOG=1"] * count
