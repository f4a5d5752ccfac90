"""The admin port of real servers: it answers whatever goes on, and harms nobody."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError

import pytest
from prometheus_client.parser import text_string_to_metric_families

from libproto.errors import Status
from libproto.messages import Opcode
from server.admin.web.server import STUCK_S, AdminServer
from server.exits import Exit
from tests.helpers import leaks
from tests.helpers.server import RunningServer, StartServer, lasting_port, wait_until
from tests.helpers.wire import Lobby, frozen, stop

WAIT_S = 30.0


class Page(NamedTuple):
    status: int
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Admin:
    """A server with an admin port."""

    def __init__(self, start_server: StartServer, *flags: str) -> None:
        self.port = lasting_port()
        self.server: RunningServer = start_server("--admin-port", str(self.port), *flags)

    def get(self, path: str) -> Page:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}{path}", timeout=WAIT_S
            ) as answer:
                return Page(answer.status, answer.read().decode())
        except HTTPError as error:
            with error:
                return Page(error.code, error.read().decode())

    def metric(self, name: str, **labels: str) -> float:
        """The value of a sample; 0 where there is none."""
        for family in text_string_to_metric_families(self.get("/metrics").text):
            for sample in family.samples:
                if sample.name == f"tradechat_{name}" and sample.labels == labels:
                    return float(sample.value)
        return 0.0

    def pid(self) -> int:
        return next((p for p, what in self.server.children().items() if what == "admin"), 0)


@pytest.fixture
def admin(start_server: StartServer) -> Admin:
    return Admin(start_server)


def test_what_a_live_server_answers(admin: Admin) -> None:
    with Lobby(admin.server) as lobby:
        ann, bob = lobby.enter(), lobby.enter()
        ann.ok(Opcode.DEPOSIT, 100)
        ann.ok(Opcode.TRANSFER, bob.user, 30)
        assert bob.status(Opcode.WITHDRAW, 31) is Status.ERR_INSUFFICIENT_FUNDS
        for wire in (ann, bob):
            wire.ok(Opcode.JOIN_ROOM, 3)
        assert admin.get("/health") == (200, admin.get("/health").text)
        assert admin.get("/health").json == {
            "live": True, "ready": True, "reasons": [], "warnings": [],
        }  # fmt: skip
        assert admin.metric("requests_total", opcode="TRANSFER") == 1
        refused = {"opcode": "WITHDRAW", "status": "ERR_INSUFFICIENT_FUNDS"}
        assert admin.metric("sent_frames_total", **refused) == 1
        assert admin.metric("request_duration_seconds_count", opcode="TRANSFER") == 1
        assert admin.metric("money_imbalance_minor_units") == 0
        assert admin.metric("connections") == lobby.counters()["connections"]
        stats = admin.get("/stats").json
        assert stats["counters"] == lobby.counters()
        assert stats["served"]["TRANSFER"]["sent"] == {"OK": 1}
        assert stats["registry"]["users"] == 2
        assert (stats["imbalance"], stats["state"]) == (0, "SERVING")
        assert {"room": 3, "members": 2} in [
            {"room": room["room"], "members": room["members"]} for room in stats["rooms"]
        ]
        wait_until(lambda: len(admin.get("/stats").json["history"]) >= 2, "samples are taken")


def test_it_can_read_the_region_only(admin: Admin) -> None:
    maps = Path(f"/proc/{admin.pid()}/maps").read_text()
    modes = [line.split()[1] for line in maps.splitlines() if f"/{admin.server.name}" in line]
    assert modes == ["r--s"]


def test_it_answers_while_all_others_stand_still(admin: Admin) -> None:
    """The master, the workers, the journal: it waits for nobody."""
    others = [pid for pid in admin.server.children() if pid != admin.pid()]
    stopped = [admin.server.process.pid, *others]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert admin.get("/health").status == 200
        assert admin.metric("worker_connections", worker="0") == 0
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def test_one_that_is_killed_is_replaced_and_no_client_is_affected(admin: Admin) -> None:
    with Lobby(admin.server) as lobby:
        wire, pid = lobby.enter(), admin.pid()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: admin.pid() not in (0, pid), "another one is forked")
        assert admin.get("/health").status == 200, "its listener has been there all the time"
        wire.ok(Opcode.BALANCE)
        assert lobby.counters()["accepted"] == lobby.counters()["connections"] + 1
        assert admin.metric("worker_deaths_total") == 0


def test_one_that_hangs_is_replaced(start_server: StartServer) -> None:
    """It serves again, on the same port; who has connected meanwhile is answered by the next one.
    One that does its work is left alone for longer than that."""
    timeout_s = 5
    admin = Admin(start_server, f"--worker-timeout={timeout_s}")
    pid, later = admin.pid(), time.monotonic() + timeout_s + 2
    wait_until(lambda: time.monotonic() > later, "it might have been taken for one that hangs")
    assert admin.pid() == pid, admin.server.log_text()
    stop(pid)
    assert admin.get("/health").status in (200, 503)
    assert admin.pid() != pid
    lines = map(json.loads, admin.server.log_text().splitlines())
    assert "admin" in [line["process"] for line in lines if line["event"] == "process_stuck"]


def test_a_loop_that_accepts_nothing_is_noticed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        server = AdminServer(listener, {})
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        began = time.monotonic()
        try:
            wait_until(lambda: server.accepts(began + STUCK_S + 0.1), "it runs")
        finally:
            server.shutdown()
            thread.join()
        assert not server.accepts(time.monotonic() + STUCK_S)


def test_the_memory_of_every_process(admin: Admin) -> None:
    names = ["master", "journal", "archive", "worker 0", "worker 1", "others"]
    values = {name: admin.metric("memory_bytes", process=name) for name in names}
    assert all(1 << 20 < value < 1 << 30 for value in values.values()), values
    with frozen(admin.server.worker_pids()[0]):
        statm = Path(f"/proc/{admin.server.worker_pids()[0]}/statm").read_text().split()
        own = (int(statm[1]) - int(statm[2])) * 4096
        assert own in {admin.metric("memory_bytes", process=f"worker {slot}") for slot in (0, 1)}


def test_a_death_is_seen_in_the_metrics(admin: Admin) -> None:
    with Lobby(admin.server) as lobby:
        os.kill(lobby.worker_pid(0), signal.SIGKILL)
        wait_until(lambda: admin.metric("worker_deaths_total") == 1, "it has been repaired after")
        wait_until(lambda: admin.get("/health").status == 200, "all serve again")
        assert admin.metric("pause_seconds_total") > 0
        assert admin.metric("pauses_total") == admin.metric("repairs_total") == 1


def test_a_server_that_stops_is_not_ready(admin: Admin) -> None:
    with Lobby(admin.server) as lobby:
        wire = lobby.enter()
        with frozen(admin.server.journal_pid()):
            wire.send(Opcode.DEPOSIT, 5)
            wait_until(lambda: admin.metric("requests_total", opcode="DEPOSIT") == 1, "it waits")
            admin.server.signal(signal.SIGTERM)
            wait_until(lambda: admin.get("/health").status == 503, "it says that it stops")
            found = admin.get("/health").json
            assert (found["live"], found["ready"]) == (True, False)
            assert "is stopping" in found["reasons"][0]
        assert admin.server.wait() == 0, admin.server.log_text()
    with pytest.raises(OSError, match="refused") as error:
        socket.create_connection(("127.0.0.1", admin.port))
    assert error.value.errno == errno.ECONNREFUSED


def test_without_an_admin_port_there_is_no_process(server: RunningServer) -> None:
    assert "admin" not in server.children().values()


@pytest.mark.parametrize("flag", ["--admin-port", "--port"])
def test_a_port_in_use_is_told_in_a_sentence(admin: Admin, tmp_path: Path, flag: str) -> None:
    name = leaks.region_name()
    run = subprocess.run(
        [
            *(sys.executable, "-m", "server", "--name", name, "--data", str(tmp_path / "other")),
            *("--admin-port", "0", "--port", "0", flag, str(admin.port), "--log-format", "json"),
        ],
        capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert run.returncode == Exit.NOT_STARTED
    (line,) = [json.loads(line) for line in run.stderr.splitlines() if "cannot_start" in line]
    assert f"port {admin.port} of 127.0.0.1 is in use" in line["reason"]
    assert f"with {flag}" in line["reason"]
    assert not Path(f"/dev/shm/{name}").exists()  # noqa: S108 - the region's place
    assert admin.get("/health").status == 200
