"""As whom a server runs: a user of its own, no memory in core dumps, nothing that others can read,
and a warning where others can write. What only root can try is tried where root runs the tests.
"""

import json
import os
import pwd
import resource
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from libproto.messages import Opcode
from server.master.privileges import exposed
from tests.helpers.server import RunningServer, StartServer, wait_until
from tests.helpers.wire import Lobby

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory of nobody's, below one that everybody can reach."""
    made = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own is root's alone
    os.chown(made, NOBODY.pw_uid, NOBODY.pw_gid)
    yield made
    shutil.rmtree(made)


def processes(server: RunningServer) -> list[int]:
    return [server.process.pid, *server.children()]


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def free_low_port() -> int:
    """One that only root may listen on, and nobody does."""
    for port in range(1023, 600, -1):
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port below 1024 is free")


@as_root
def test_it_becomes_a_user_once_it_listens(home: Path) -> None:
    """All processes, with no right of root left, on a port that only root could listen on."""
    port = free_low_port()
    with RunningServer(home / "data", "--run-as", "nobody", "--port", str(port)) as server:
        assert server.port == port
        for pid in processes(server):
            status = status_of(pid)
            assert status["Uid"].split() == [str(NOBODY.pw_uid)] * 4
            assert status["Gid"].split() == [str(NOBODY.pw_gid)] * 4
            assert int(status["CapEff"], 16) == 0
        with Lobby(server) as lobby:
            assert lobby.enter().ok(Opcode.DEPOSIT, 5).balance == 5
        for each in home.rglob("*"):
            assert each.lstat().st_uid == NOBODY.pw_uid
        assert "runs_as_root" not in server.log_text()
        assert server.stop() == 0


@as_root
def test_a_worker_that_is_replaced_is_that_user_too(home: Path) -> None:
    with RunningServer(home / "data", "--run-as", "nobody", workers=1) as server, Lobby(server):
        before = server.worker_pids()
        os.kill(before[0], 9)
        wait_until(lambda: bool(set(server.worker_pids()) - set(before)), "there is another one")
        (found,) = set(server.worker_pids()) - set(before)
        assert status_of(found)["Uid"].split() == [str(NOBODY.pw_uid)] * 4


@as_root
def test_a_user_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="there is no user 'no-such-user' on this machine"):
        RunningServer(tmp_path / "data", "--run-as", "no-such-user")
    assert not (tmp_path / "data").exists()


@as_root
def test_only_root_can_become_another() -> None:
    """Not even who root has become."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.setresgid(NOBODY.pw_gid, NOBODY.pw_gid, NOBODY.pw_gid)
            os.setresuid(NOBODY.pw_uid, NOBODY.pw_uid, NOBODY.pw_uid)
            from server.master.acquire import CannotStart
            from server.master.privileges import become

            become("nobody")  # it is
            try:
                become("root")
            except CannotStart as error:
                code = 0 if "only root can become another user" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_nothing_is_left_of_its_memory_and_its_files_are_its_own(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server("--log-file", str(tmp_path / "server.log"))
    for pid in processes(server):
        assert Path(f"/proc/{pid}/coredump_filter").read_text().strip() == "00000000"
        assert resource.prlimit(pid, resource.RLIMIT_CORE)[0] == 0
    for pid in server.worker_pids():
        # Of a process that may not be dumped these are root's, whoever it runs as (proc(5)).
        assert Path(f"/proc/{pid}/environ").stat().st_uid == 0
    made = [tmp_path / "server.log", *server.data.rglob("*")]
    for each in made:
        assert not stat.S_IMODE(each.lstat().st_mode) & 0o077, each


def test_who_else_can_write(tmp_path: Path) -> None:
    data = tmp_path / "shared" / "data"
    data.mkdir(parents=True, mode=0o700)
    above = exposed(tmp_path)  # of the machine's own directories
    assert exposed(data) == above
    data.chmod(0o777)
    assert exposed(data) == str(data)
    data.chmod(0o1777)
    assert exposed(data) == str(data), "who can add a file there can forge one of the server's"
    data.chmod(0o700)
    data.parent.chmod(0o777)
    assert exposed(data) == str(data.parent)
    data.parent.chmod(0o1777)
    assert exposed(data) == above, "nobody can rename what is another's there"
    assert exposed(data / "not" / "made" / "yet") == above


def test_the_warning(start_server: StartServer, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    server = start_server()
    warnings = [json.loads(line) for line in server.log_text().splitlines() if line[:1] == "{"]
    (found,) = [each for each in warnings if each["event"] == "data_exposed"]
    assert found["path"] == str(tmp_path)
    assert "chmod go-w" in found["advice"]
    assert ("runs_as_root" in server.log_text()) == (os.geteuid() == 0)
