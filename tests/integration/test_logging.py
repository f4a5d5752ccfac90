"""A server whose log cannot be written: it serves, repairs, replaces and stops all the same."""

import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from libproto.messages import Opcode
from tests.helpers.server import RunningServer, StartServer, wait_until
from tests.helpers.wire import Lobby

PROCESSES = ("worker 0", "worker 1", "journal", "archive")


def pid_of(server: RunningServer, what: str) -> int:
    return next((pid for pid, title in server.children().items() if title == what), 0)


def is_replaced(server: RunningServer, what: str, before: int) -> bool:
    return pid_of(server, what) not in (0, before)


def replace_each(server: RunningServer, lobby: Lobby) -> None:
    """Kill each of its processes once: another one takes its place, and money moves on."""
    for what in PROCESSES:
        before = pid_of(server, what)
        os.kill(before, signal.SIGKILL)
        wait_until(partial(is_replaced, server, what, before), f"another {what}", 30)
        payer = lobby.enter()
        payer.ok(Opcode.DEPOSIT, 5)
        payer.close()


def fill(fd: int) -> None:
    """Write into this pipe, whose reading end is given, until it takes no more."""
    end = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK)
    for size in (4096, 1):
        try:
            while True:
                os.write(end, b"\n" * size)
        except BlockingIOError:
            pass
    os.close(end)


def lines_so_far(fd: int) -> list[dict[str, Any]]:
    """All whole lines that are in the pipe just now."""
    os.set_blocking(fd, False)
    data = b""
    try:
        while piece := os.read(fd, 65536):
            data += piece
    except BlockingIOError:
        pass
    return [json.loads(line) for line in data.splitlines() if line]


def test_standard_error_is_a_pipe_that_nobody_reads(start_server: StartServer) -> None:
    server = start_server("--log-file", "", "--log-level", "debug", "--stats-interval", "0.1")
    assert server.process.stderr is not None
    pipe = server.process.stderr.fileno()
    fill(pipe)
    with Lobby(server) as lobby:
        replace_each(server, lobby)
    found: list[dict[str, Any]] = []

    def told() -> bool:
        found.extend(lines_so_far(pipe))
        return any(line["event"] == "log_lines_dropped" for line in found)

    wait_until(told, "the dropped lines are told")
    fill(pipe)
    server.signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    server.wait()  # now it is read to its end


def test_the_disk_of_the_log_is_full(start_server: StartServer) -> None:
    server = start_server("--log-file", "/dev/full", "--log-level", "debug")
    with Lobby(server) as lobby:
        replace_each(server, lobby)
    assert server.stop() == 0


@pytest.mark.parametrize("how", ["removed", "a file", "unwritable"])
def test_the_log_file_cannot_be_opened_any_more(
    start_server: StartServer, tmp_path: Path, how: str
) -> None:
    """New processes log to standard error, and say there that and why they do."""
    if how == "unwritable" and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "server.log"
    server = start_server("--log-file", str(path))
    if how == "unwritable":
        path.unlink()
        folder.chmod(0o500)
    else:
        shutil.rmtree(folder)
        if how == "a file":
            folder.touch()
    with Lobby(server) as lobby:
        replace_each(server, lobby)
    server.signal(signal.SIGTERM)
    _, error = server.process.communicate(timeout=30)
    assert server.process.returncode == 0
    told = [line for line in map(json.loads, error.splitlines()) if line["level"] == "error"]
    assert {line["event"] for line in told} == {"log_file_unusable"}
    reasons = {"removed": "No such file", "a file": "Not a directory", "unwritable": "Permission"}
    for line in told:
        assert line["path"] == str(path)
        assert line["reason"].startswith(reasons[how])
        assert "restart" in line["advice"]
    assert len({line["pid"] for line in told}) == len(PROCESSES)
