"""The data directory: of whatever user it is, and whatever becomes of it while the server runs."""

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from libproto.errors import Status
from libproto.messages import Opcode
from server.control import SOCKET
from server.exits import Exit
from tests.helpers.forked import NOBODY, ForkedServer, small_settings
from tests.helpers.server import RunningServer, StartServer
from tests.helpers.wire import Lobby, Received, Wire

END_S = 60.0
NOTICED_S = 1.0  # the longest that a removal may go unnoticed
SLOW_S = 4.0  # what a busy machine may add


def become_nobody() -> None:
    """Permissions do not bind root."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def given(path: Path, mode: int) -> Path:
    """To that user, with this mode."""
    path.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("depth", ["data", "a/data", "a/b/data"])
def test_a_parent_that_may_not_be_read(open_path: Path, depth: str) -> None:
    """To enter it and to write in it is enough, for the first start and the next."""
    parent = given(open_path / "parent", 0o333)
    try:
        for _ in range(2):
            settings = small_settings(parent / depth)
            with ForkedServer(settings, open_path, become_nobody) as server:
                server.await_ready()
            assert server.code == Exit.OK
            (open_path / "stdout").write_text("")
        assert (parent / depth / "journal").is_dir()
    finally:
        parent.chmod(0o755)


def test_memory_only_needs_no_directory(open_path: Path) -> None:
    """Where nothing can be written, as in a container: with `none` nothing is."""
    closed = given(open_path / "closed", 0o555)
    settings = dataclasses.replace(small_settings(closed / "data"), durability="none")
    with ForkedServer(settings, open_path, become_nobody) as server:
        server.await_ready()
    assert server.code == Exit.OK
    assert not (closed / "data").exists()


@pytest.mark.parametrize("name", ["journal", "snapshots", "rooms", ""])
def test_a_directory_that_cannot_be_written(open_path: Path, name: str) -> None:
    """Noticed at the start, with its name, and not at the first request."""
    data = given(open_path / "data", 0o700)
    with ForkedServer(small_settings(data), open_path, become_nobody) as server:
        server.await_ready()
    (open_path / "stdout").write_text("")
    (open_path / "stderr").write_text("")
    closed = data / name
    closed.chmod(0o500)
    try:
        with ForkedServer(small_settings(data), open_path, become_nobody) as server:
            assert server.ended(END_S)
        assert server.code == Exit.NOT_STARTED
        (line,) = (json.loads(each) for each in server.error.splitlines() if '"error"' in each)
        assert f"{closed} cannot be written: Permission denied" in line["reason"]
    finally:
        closed.chmod(0o700)


def remove_data(data: Path) -> None:
    shutil.rmtree(data)


def remove_journal(data: Path) -> None:
    shutil.rmtree(data / "journal")


def remove_segments(data: Path) -> None:
    for path in (data / "journal").iterdir():
        path.unlink()


def move_away(data: Path) -> None:
    data.rename(data.with_name("elsewhere"))


def replace(data: Path) -> None:
    move_away(data)
    without_socket = shutil.ignore_patterns(SOCKET)
    shutil.copytree(data.with_name("elsewhere"), data, ignore=without_socket)


REMOVALS = pytest.mark.parametrize(
    "remove", [remove_data, remove_journal, remove_segments, move_away, replace]
)


def failed(server: RunningServer, began: float) -> None:
    """It has followed the rule for a failed journal, and soon."""
    assert server.wait(END_S) == Exit.JOURNAL, server.log_text()
    assert time.monotonic() - began < NOTICED_S + SLOW_S
    assert '"journal_unwritable"' in server.log_text()
    assert "Traceback" not in server.log_text()


@REMOVALS
def test_files_that_are_removed_while_nobody_asks(
    start_server: StartServer, remove: Callable[[Path], None]
) -> None:
    server = start_server()
    with Lobby(server) as lobby:
        lobby.enter().ok(Opcode.DEPOSIT, 5)
    began = time.monotonic()
    remove(server.data)
    failed(server, began)


@REMOVALS
@pytest.mark.parametrize("used", [True, False], ids=["used", "fresh"])
def test_files_that_are_removed_before_a_request(
    start_server: StartServer, remove: Callable[[Path], None], *, used: bool
) -> None:
    """It is not answered OK, and its client is not kept waiting."""
    server = start_server("--graceful-timeout", "30")
    if remove is remove_segments and not used:
        return  # there are none
    with Lobby(server) as lobby:
        wire = lobby.enter() if used else lobby.open()
        began = time.monotonic()
        remove(server.data)
        if used:
            wire.send(Opcode.DEPOSIT, 5)
            frame = _answer(wire)
            assert frame is None or frame.status != Status.OK
        else:
            assert _answer(wire) is None
        failed(server, began)


def _answer(wire: Wire) -> Received | None:
    """What comes before the end of the stream, beside the server's word that it will close it."""
    frame = wire.receive()
    if frame is not None and frame.opcode == Opcode.GOING_AWAY:
        return wire.receive()
    return frame
