"""`tradechat-admin drain` and `restart`, and the socket that they go over."""

import io
import os
import signal
import stat
from collections.abc import Callable
from contextlib import ExitStack, closing, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

from client import Client
from libcli.arguments import EXIT_USAGE
from libproto.messages import Opcode
from server import control
from server.admin import control_cli
from server.admin.cli import main
from server.admin.command import EXIT_NOT_DONE
from server.control import MESSAGE_MAX, SOCKET, Answer, Ask
from server.master.desk import OPEN_MAX
from tests.helpers.forked import NOBODY
from tests.helpers.server import RunningServer, StartServer, wait_until
from tests.helpers.wire import Lobby

PASSWORD = "correct horse"  # noqa: S105 - of the tests' users


class Run(NamedTuple):
    """What became of a command."""

    code: int
    out: str
    err: str


def admin(*arguments: str) -> Run:
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main(arguments)
    return Run(code, out.getvalue(), err.getvalue())


def refused(*arguments: str) -> str:
    """The one sentence that says why it could not be done."""
    run = admin(*arguments)
    assert (run.code, run.out) == (EXIT_NOT_DONE, "")
    (line,) = run.err.splitlines()
    return line


def workers(server: RunningServer) -> dict[int, str]:
    return {pid: what for pid, what in server.children().items() if what.startswith("worker")}


def ask(data: Path, message: bytes) -> bytes:
    """What a message is answered with; nothing where the connection is closed."""
    where, fd = control.address(data)
    with closing(control.make()) as sock:
        sock.settimeout(30)
        try:
            sock.connect(where)
        finally:
            os.close(fd)
        sock.send(message)
        return sock.recv(MESSAGE_MAX)


@pytest.mark.parametrize("by", ["--data", "--name"])
def test_a_restart(server: RunningServer, by: str) -> None:
    before = set(workers(server))
    with Client(port=server.port) as client:
        client.register("ann", PASSWORD)
        client.login("ann", PASSWORD)
        run = admin("restart", by, str(server.data) if by == "--data" else server.name)
        assert run == Run(0, "2 workers are being replaced one by one\n", "")
        wait_until(
            lambda: len(workers(server)) == 2 and not before & set(workers(server)), "others"
        )
        assert client.deposit(5).balance == 5
        assert client.reconnects == 0


def test_one_worker_is_drained(server: RunningServer) -> None:
    before = workers(server)
    gone = next(pid for pid, what in before.items() if what == "worker 1")
    run = admin("drain", "1", "--data", str(server.data))
    assert (run.code, run.out) == (0, "worker 1 has ended, and another one has its place\n")
    assert run.err.splitlines()[0] == "worker 1: another worker is being started"
    assert gone not in workers(server)
    assert len(workers(server)) == 2
    assert sorted(workers(server).values()) == ["worker 0", "worker 2"]
    assert len(set(before) & set(workers(server))) == 1
    said = refused("drain", "1", "--data", str(server.data))
    assert "no worker 1 accepts connections; those that do: 0, 2" in said
    with Lobby(server) as lobby:
        lobby.enter().ok(Opcode.DEPOSIT, 5)


def test_a_drain_that_takes_long(server: RunningServer) -> None:
    """A client that does not go: what is waited for is told, and for how long was asked for."""
    with Lobby(server) as lobby:
        wire = lobby.open_on(1)
        data = str(server.data)
        said = admin("drain", "1", "--timeout", "1", "--data", data)
        assert (said.code, said.out) == (EXIT_NOT_DONE, "")
        *progress, last = said.err.splitlines()
        assert progress[-1] == "worker 1: it serves the clients it still has: 1"
        assert "worker 1 has not ended within 1 s (it serves the clients it still has: 1)" in last
        assert "no worker 1 accepts connections" in refused("drain", "1", "--data", data)
        run = admin("drain", "0", "--no-wait", "--data", data)
        assert run == Run(0, "worker 0 is being replaced\n", "")
        wire.close()
        wait_until(
            lambda: (
                not {"worker 0", "worker 1"} <= set(workers(server).values())
                and len(workers(server)) == 2
            ),
            "both are replaced",
        )


@pytest.mark.parametrize("text", ["-1", "1e9", "nan", "soon"])
def test_a_timeout_that_is_none(text: str) -> None:
    run = admin("drain", "1", "--timeout", text)
    assert (run.code, run.out) == (EXIT_USAGE, "")
    assert "--timeout" in run.err


def test_settings_that_are_wrong(start_server: StartServer, tmp_path: Path) -> None:
    file = tmp_path / "tradechat.toml"
    file.write_text("heartbeat = 9\n")
    server = start_server("--config", str(file))
    file.write_text("heartbeat = 99\n")
    before = set(workers(server))
    said = refused("restart", "--data", str(server.data))
    assert "heartbeat must be less than idle_timeout" in said
    assert set(workers(server)) == before


# ---- where it cannot be done


def test_there_is_no_server(tmp_path: Path) -> None:
    assert "cannot be opened: No such file" in refused("restart", "--data", str(tmp_path / "no"))
    said = refused("restart", "--data", str(tmp_path))
    assert f"no server runs on {tmp_path}: start one with `tradechat-server --data" in said
    assert "no-such-server" in refused("restart", "--name", "no-such-server")


def test_the_server_was_killed(server: RunningServer) -> None:
    """Its socket is still there, and the next server takes its place."""
    server.crash()
    assert (server.data / SOCKET).is_socket()
    assert "the last one was killed" in refused("restart", "--data", str(server.data))
    with RunningServer(server.data) as again:
        assert admin("restart", "--data", str(again.data)).code == 0
    assert not (server.data / SOCKET).exists()


def test_a_server_without_a_data_directory(start_server: StartServer) -> None:
    server = start_server("--durability", "none")
    said = refused("restart", "--name", server.name)
    assert f"kill -HUP {server.process.pid}" in said
    assert not server.data.exists()


def test_a_server_that_hangs(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_cli, "ANSWER_S", 0.1)
    server.signal(signal.SIGSTOP)
    try:
        said = refused("restart", "--data", str(server.data))
    finally:
        server.signal(signal.SIGCONT)
    assert "has not answered within 0.1 s" in said
    with Lobby(server) as lobby:
        lobby.enter().ok(Opcode.DEPOSIT, 5)


def test_a_path_that_is_too_long_for_a_socket(tmp_path: Path) -> None:
    data = tmp_path / ("long" * 30) / "data"
    data.parent.mkdir()
    with RunningServer(data):
        assert admin("restart", "--data", str(data)).code == 0


# ---- the socket


def test_it_is_its_users_alone(server: RunningServer) -> None:
    mode = (server.data / SOCKET).stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def as_nobody(function: Callable[[], object]) -> int:
    """The exit code of a process of another user."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            function()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_another_user_is_refused(server: RunningServer) -> None:
    """By the master too, where the file's mode lets them in."""
    if os.geteuid():
        pytest.skip("only root can be another user")
    where, fd = control.address(server.data)
    for path, mode in ((server.data, 0o755), (where, 0o666)):  # which must not help
        os.chmod(path, mode)

    def restart() -> None:
        with closing(control.make()) as sock:
            sock.connect(where)
            sock.send(control.encode(Ask("restart")))
            answer = control.decode_answer(sock.recv(MESSAGE_MAX))
            assert answer == Answer(
                False, "only the server's own user and root may ask it for something"
            )

    assert as_nobody(restart) == 0
    os.close(fd)
    assert '"operator_refused"' in server.log_text()
    assert '"reloading"' not in server.log_text()


@pytest.mark.parametrize(
    "message",
    [b"x", b"[]", b"{}", b'{"command": 1, "worker": 0}', b'"' * MESSAGE_MAX, b"\xff"],
    ids=["text", "list", "nothing", "number", "long", "bytes"],
)
def test_what_is_no_request_is_answered(server: RunningServer, message: bytes) -> None:
    answer = control.decode_answer(ask(server.data, message))
    assert not answer.done
    assert "cannot be read" in answer.text


def test_an_unknown_command_is_answered(server: RunningServer) -> None:
    answer = control.decode_answer(ask(server.data, control.encode(Ask("fly"))))
    assert answer == Answer(False, "'fly' is nothing that this server can be asked for")


def test_who_asks_for_nothing_is_in_nobodys_way(server: RunningServer) -> None:
    """The oldest of them goes where there are too many, and the server does all else."""
    where, fd = control.address(server.data)
    with ExitStack() as stack:
        silent = [stack.enter_context(closing(control.make())) for _ in range(3 * OPEN_MAX)]
        for sock in silent:
            sock.settimeout(30)
            sock.connect(where)
        assert admin("restart", "--data", str(server.data)).code == 0
        assert silent[0].recv(1) == b""
        with Lobby(server) as lobby:
            lobby.enter().ok(Opcode.DEPOSIT, 5)
    os.close(fd)
