"""A server in the place of another one: with its sockets, its data and its clients."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from client import AsyncClient, Push
from libproto.errors import Status
from libproto.messages import ChatBroadcast, EventKind, Opcode
from server import control
from server.control import TAKE_OVER, Answer, Ask, Step
from server.exits import Exit
from server.journal.directory import DirectoryInUse, lock_data
from tests.helpers import leaks
from tests.helpers.forked import NOBODY, ForkedServer, small_settings
from tests.helpers.server import ROOT, RunningServer, lasting_port, wait_until
from tests.helpers.wire import Lobby, Wire
from tests.server.master.test_signals import events

END_S = 60.0
PASSWORD = "correct horse"  # noqa: S105 - of the tests' users
ROOM = 1
DOWN_S = 60.0  # more than any machine needs for a take-over: no call may fail for it


class Relay:
    """Servers on one data directory, each in the place of the one before."""

    def __init__(self, data: Path, *flags: str) -> None:
        self.flags = flags
        self.servers = [RunningServer(data, *flags)]

    @property
    def first(self) -> RunningServer:
        return self.servers[0]

    @property
    def last(self) -> RunningServer:
        return self.servers[-1]

    def command(self, *flags: str) -> list[str]:
        """Of a server that takes the place of the one that serves."""
        return ["--name", self.first.name, *self.flags, *flags, "--take-over"]

    def take_over(self, *flags: str) -> RunningServer:
        """Another server, when it serves and the one before has ended in order."""
        before, made = self.last, RunningServer(self.first.data, *self.command(*flags))
        self.servers.append(made)
        assert before.wait() == Exit.OK
        return made

    def begin(
        self, *flags: str, program: tuple[str, ...] = ("-m", "server")
    ) -> "subprocess.Popen[str]":
        """Another server, which is not waited for."""
        return subprocess.Popen(
            [
                *(sys.executable, *program, "--port", "0", "--log-format", "json"),
                *("--data", str(self.first.data), "--workers", "2"),
                *self.command(*flags),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Callable[..., Relay]]:
    """Makes one; what serves at the end of the test is stopped, and has to end with 0."""
    made: list[Relay] = []

    def make(*flags: str) -> Relay:
        made.append(Relay(tmp_path / "data", "--admin-port", "0", *flags))
        return made[-1]

    yield make
    for each in made:
        for server in each.servers:
            if server.process.poll() is None:
                assert server.stop() == 0, server.log_text()


def told(server: RunningServer, name: str) -> list[dict[str, object]]:
    return events(server.log_text(), name)


# ---- clients


class Trader:
    """A program: it pays in, pays its neighbour, and talks in a room, all the time."""

    def __init__(self, number: int, port: int, known: Path) -> None:
        """known: the file of servers that were seen; every other program is encrypted, and the
        server has to be the same for it all along."""
        self.options: dict[str, Any] = (
            {"encrypt": "require", "known_servers": known} if number % 2 else {}
        )
        self.name = f"user{number}"
        self.port = port
        self.user = 0
        self.paid = self.sent = 0
        self.heard: list[Push] = []
        self.client: AsyncClient | None = None

    async def begin(self) -> None:
        self.client = AsyncClient(
            "127.0.0.1",
            self.port,
            timeout_s=DOWN_S,
            reconnect=True,
            on_push=self.heard.append,
            **self.options,
        )
        await self.client.connect()
        self.user = await self.client.register(self.name, PASSWORD)
        await self.client.login(self.name, PASSWORD)
        await self.client.join(ROOM)

    async def trade(self, other: "Trader", over: asyncio.Event) -> None:
        assert self.client is not None
        while not over.is_set():
            await self.client.deposit(3)
            self.paid += 3
            await self.client.transfer(other.user, 1)
            self.paid -= 1
            other.paid += 1
            await self.client.send(ROOM, f"{self.name} {self.sent}")
            self.sent += 1

    async def come_again(self, over: asyncio.Event) -> int:
        """Programs that begin at any instant: each connects, logs in and asks."""
        count = 0
        while not over.is_set():
            async with AsyncClient("127.0.0.1", self.port, timeout_s=DOWN_S, reconnect=True) as one:
                await one.login(self.name, PASSWORD)
                await one.balance()
            count += 1
        return count


@contextmanager
def knocking(port: int, *, killed: bool = False) -> Iterator[list[int]]:
    """Connections are made one after the other, each of which has to be served; counts them.

    killed: a server that may have accepted one is killed meanwhile; nobody is refused all the same.
    """
    over, failures, made = threading.Event(), list[BaseException](), [0]

    def knock() -> None:
        try:
            while not over.is_set():
                sock = socket.create_connection(("127.0.0.1", port), timeout=DOWN_S)
                with Wire(sock) as wire:
                    try:
                        wire.ok(Opcode.HEARTBEAT, 1)
                    except ConnectionError:
                        if not killed:
                            raise
                        continue
                made[0] += 1
        except BaseException as error:  # noqa: BLE001 - raised by the test's own thread
            failures.append(error)

    thread = threading.Thread(target=knock)
    thread.start()
    try:
        yield made
    finally:
        over.set()
        thread.join()
    if failures:
        raise failures[0]


TRADERS = 6


async def trading(port: int, what: Callable[[], object], *, killed: bool = False) -> None:
    """Programs at work while something is done to the server: no error, every cent where it should
    be, and every message told to everybody, once and in order. Others come and go, unless the old
    server is killed: who is not logged in then has no session that could be resumed."""
    folder = tempfile.TemporaryDirectory()
    known = Path(folder.name) / "known"
    traders = [Trader(number, port, known) for number in range(TRADERS)]
    over = asyncio.Event()
    try:
        for each in traders:
            await each.begin()
        visitor = Trader(TRADERS, port, known)
        await visitor.begin()
        tasks = [
            asyncio.create_task(each.trade(traders[number - 1], over))
            for number, each in enumerate(traders)
        ]
        visits = asyncio.create_task(visitor.come_again(over)) if not killed else None
        await asyncio.to_thread(what)
        over.set()
        await asyncio.gather(*tasks)
        assert visits is None or await visits
        for each in traders:
            assert each.client is not None
            assert (await each.client.balance()).balance == each.paid
        said = {f"{each.name} {number}" for each in traders for number in range(each.sent)}
        deadline = asyncio.get_running_loop().time() + END_S
        for each in traders:
            while len(texts(each)) < len(said) and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.01)
            assert len(texts(each)) == len(said)
            assert set(texts(each)) == said
            numbers = [push.room_seq for push in each.heard if isinstance(push, ChatBroadcast)]
            if killed:  # numbers that may have been used are left out
                assert numbers == sorted(set(numbers))
            else:
                assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            assert {type(push) for push in each.heard} == {ChatBroadcast}, "no gap is told"
    finally:
        for each in [*traders, visitor]:
            if each.client is not None:
                await each.client.close()
        folder.cleanup()


def texts(trader: Trader) -> list[str]:
    """What it has heard said."""
    pushes = [push for push in trader.heard if isinstance(push, ChatBroadcast)]
    return [push.message for push in pushes if push.kind == EventKind.MESSAGE]


def await_leaving(server: RunningServer) -> None:
    wait_until(lambda: bool(told(server, "worker_leaves")), "a worker leaves", END_S)


def test_programs_notice_nothing(relay: Callable[..., Relay]) -> None:
    """Two take-overs under load, the second while workers are being replaced."""
    chain = relay()

    def twice() -> None:
        for number in range(2):
            before = chain.last
            if number:
                before.signal(signal.SIGHUP)
                await_leaving(before)
            chain.take_over()
            assert not told(before, "process_died")

    with knocking(chain.first.port) as knocks:
        asyncio.run(trading(chain.first.port, twice))
    assert knocks[0]
    assert len({each.port for each in chain.servers}) == 1


# ---- a server that is killed, at each step

PAUSED = """
import importlib, os, signal, sys
module, _, path = {where!r}.partition(":")
*owners, name = path.split(".")
owner = importlib.import_module(module)
for each in owners:
    owner = getattr(owner, each)
real = getattr(owner, name)
def paused(*given, **named):
    os.kill(os.getpid(), signal.SIGSTOP)
    return real(*given, **named)
setattr(owner, name, paused)
from server.__main__ import main
sys.exit(main())
"""
BEFORE_GO = "server.master.predecessor:Predecessor.await_release"
BEFORE_THE_LOCK = "server.master.serve:Resources"
LOADING = "server.master.children:restore"
BEFORE_IT_SERVES = "server.master.supervisor:Supervisor._announce"
STEPS = {
    "before the old one ends": BEFORE_GO,
    "when that has ended": BEFORE_THE_LOCK,
    "while it loads": LOADING,
    "before it says that it serves": BEFORE_IT_SERVES,
}


def family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def stands_still(pid: int) -> int:
    """The process, or the child of it, that is stopped; 0 if none is."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for each in family(pid):
            if Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                return each
    return 0


@contextmanager
def paused(chain: Relay, where: str) -> Iterator["subprocess.Popen[str]"]:
    """A server that takes the place of another one, and has stopped at a step."""
    process = chain.begin(program=("-c", PAUSED.format(where=where)))
    try:
        wait_until(lambda: bool(stands_still(process.pid)), "it is at the step", END_S)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def kill(process: "subprocess.Popen[str]") -> None:
    """kill -9 of a master; its children are waited for, which end with it."""
    pids = family(process.pid)
    process.kill()
    process.wait()
    for pid in pids[1:]:
        leaks.wait_gone(pid, END_S)


@pytest.mark.parametrize("where", STEPS.values(), ids=STEPS)
def test_the_new_server_is_killed(relay: Callable[..., Relay], where: str) -> None:
    """The old one goes on, or begins anew: nobody is refused, and no program sees an error."""
    chain = relay()
    server = chain.first
    before = set(server.worker_pids())

    def killed() -> None:
        with paused(chain, where) as process:
            kill(process)
        event = "take_over_abandoned" if where == BEFORE_GO else "take_over_failed"
        wait_until(lambda: bool(told(server, event)), event, END_S)
        wait_until(lambda: len(told(server, "serving")) == 1 + (where != BEFORE_GO), "it serves")

    with knocking(server.port, killed=True) as knocks:
        asyncio.run(trading(server.port, killed))
    assert knocks[0]
    assert server.process.poll() is None
    assert (before == set(server.worker_pids())) == (where == BEFORE_GO)
    assert chain.take_over().port == server.port, "as if nothing had been"


@pytest.mark.parametrize("master_only", [False, True], ids=["all of it", "its master"])
@pytest.mark.parametrize(
    "where", [BEFORE_GO, BEFORE_THE_LOCK, LOADING, BEFORE_IT_SERVES], ids=list(STEPS)
)
def test_the_old_server_is_killed(
    relay: Callable[..., Relay], where: str, master_only: bool
) -> None:
    """The new one goes on from the journal; who waits in the queues is served by it."""
    chain = relay()
    server = chain.first
    with ExitStack() as stack:

        def killed() -> None:
            process = stack.enter_context(paused(chain, where))
            if master_only:
                kill(server.process)
                server.wait()
            else:
                server.crash()
            with socket.create_connection((server.host, server.port), timeout=DOWN_S) as sock:
                os.kill(stands_still(process.pid), signal.SIGCONT)
                assert process.stdout is not None
                line = process.stdout.readline()
                assert line.startswith(f"ready host=127.0.0.1 port={server.port} "), line
                with Wire(sock) as wire:
                    wire.ok(Opcode.HEARTBEAT, 1)

            def end() -> None:
                process.terminate()
                assert process.wait(END_S) == Exit.OK

            stack.callback(end)

        asyncio.run(trading(server.port, killed, killed=True))


def test_the_old_server_hangs_and_is_killed(relay: Callable[..., Relay]) -> None:
    """While it brings to disk what it has answered: the new one does not begin before that."""
    chain = relay()
    server = chain.first
    with ExitStack() as stack:
        pid = server.journal_pid()

        def killed() -> None:
            os.kill(pid, signal.SIGSTOP)
            process = chain.begin()
            stack.callback(process.communicate)
            stack.callback(process.terminate)
            wait_until(lambda: bool(told(server, "handing_over")), "it ends", END_S)
            wait_until(lambda: not server.worker_pids(), "its workers have ended", END_S)
            assert not told(server, "stopped")
            server.crash()
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready ")

        asyncio.run(trading(server.port, killed, killed=True))


def test_the_new_server_cannot_load(relay: Callable[..., Relay]) -> None:
    """There are more users than it has room for: it says so, and the old one begins anew."""
    chain = relay()
    server = chain.first

    def refused() -> None:
        process = chain.begin("--accounts", "2")
        _, error = process.communicate(timeout=END_S)
        assert process.returncode == Exit.NOT_STARTED
        assert "set accounts to 7 or more" in error
        wait_until(lambda: len(told(server, "serving")) == 2, "the old one serves", END_S)

    with knocking(server.port):
        asyncio.run(trading(server.port, refused))
    assert server.process.poll() is None


# ---- by hand: what each side says


class Claimant:
    """Who asks for the place of a server."""

    def __init__(self, server: RunningServer) -> None:
        where, fd = control.address(server.data)
        self.sock = control.make()
        self.given: list[socket.socket] = []
        try:
            self.sock.settimeout(END_S)
            self.sock.connect(where)
            self.sock.send(control.encode(Ask(TAKE_OVER)))
            self.answer, self.given = control.receive(self.sock)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(fd)

    def close(self) -> None:
        for each in (self.sock, *self.given):
            each.close()


def test_one_at_a_time(relay: Callable[..., Relay]) -> None:
    chain = relay()
    with closing(Claimant(chain.first)) as first:
        assert len(first.given) == control.decode_offer(first.answer).workers > 1
        with closing(Claimant(chain.first)) as second:
            text = f"process {os.getpid()} is about to take the place of this server already"
            assert control.decode_answer(second.answer) == Answer(False, text)
            assert not second.given
        process = chain.begin()
        _, error = process.communicate(timeout=END_S)
        assert process.returncode == Exit.NOT_STARTED
        assert text in error
    wait_until(lambda: bool(told(chain.first, "take_over_abandoned")), "it has gone", END_S)
    chain.take_over()


def test_the_directory_is_let_go_of_before(relay: Callable[..., Relay]) -> None:
    """RELEASED is said when a lock can be had, and not before."""
    server = relay().first
    pid = server.journal_pid()
    with closing(Claimant(server)) as claimant:
        os.kill(pid, signal.SIGSTOP)
        claimant.sock.send(Step.GO.encode())
        wait_until(lambda: not server.worker_pids(), "the workers have ended", END_S)
        with pytest.raises(DirectoryInUse):
            lock_data(server.data)
        os.kill(pid, signal.SIGCONT)
        assert control.receive(claimant.sock) == (Step.RELEASED.encode(), [])
        os.close(lock_data(server.data))
    wait_until(lambda: len(told(server, "serving")) == 2, "it serves again", END_S)


def test_connections_that_nobody_has_served_come_along(relay: Callable[..., Relay]) -> None:
    """Accepted, with nothing read: they are given to the new server, or served by the old one."""
    server = relay("--handshake-timeout", "3600").first
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(server.connect(END_S))) for _ in range(20)]
        with closing(Claimant(server)) as claimant:
            with Lobby(server) as lobby:
                wait_until(lambda: lobby.counters()["connections"] == 20, "all are accepted", END_S)
            claimant.sock.send(Step.GO.encode())
            said, came = control.receive(claimant.sock)
            for each in came:
                each.close()
            assert (said, len(came)) == (Step.WAIT.encode(), 20)
            assert control.receive(claimant.sock)[0] == Step.RELEASED.encode()
        for wire in wires:
            wire.ok(Opcode.HEARTBEAT, 1)
            assert not wire.pushes


def test_nothing_is_refused(relay: Callable[..., Relay]) -> None:
    """Of a client that asks on and on each request is answered, or not executed."""
    server = relay().first
    answered = 0
    with ExitStack() as stack:
        lobby = stack.enter_context(Lobby(server))
        name = lobby.new_user()
        wire = lobby.enter(name)
        claimant = stack.enter_context(closing(Claimant(server)))
        claimant.sock.send(Step.GO.encode())
        with suppress(ConnectionError):
            while True:
                wire.send(Opcode.DEPOSIT, 1)
                frame = wire.receive()
                while frame is not None and frame.opcode == Opcode.GOING_AWAY:
                    frame = wire.receive()
                if frame is None:
                    break
                assert (frame.opcode, frame.status) == (Opcode.DEPOSIT, Status.OK)
                answered += 1
        assert control.receive(claimant.sock)[0] == Step.RELEASED.encode()
        claimant.close()
        wait_until(lambda: len(told(server, "serving")) == 2, "it serves again", END_S)
        with Wire(server.connect()) as again:
            again.hello(name)
            again.login(name)
            assert again.ok(Opcode.BALANCE).balance == answered


# ---- what is refused, and changes nothing


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--port", "1"], "and this one is to listen on 127.0.0.1 port 1: give both the same"),
        (["--host", "::1"], "and this one is to listen on ::1 port 0: give both the same"),
        (["--host", "no.such.host.invalid"], "cannot be resolved"),
        (["--event-ring", "1048576", "--max-message", "32768"], "the shared region needs"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_it_can_see_before(relay: Callable[..., Relay], flags: list[str], said: str) -> None:
    chain = relay()
    with Wire(chain.first.connect()) as wire:
        process = chain.begin(*flags)
        _, error = process.communicate(timeout=END_S)
        assert process.returncode == Exit.NOT_STARTED
        assert said in error
        wire.ok(Opcode.HEARTBEAT, 1)
        assert not wire.pushes


def test_another_format(relay: Callable[..., Relay]) -> None:
    chain = relay()
    file = chain.first.data / "identity"
    kept = file.read_text()
    lines = kept.replace("format ", "format 9").splitlines(keepends=True)
    file.write_text("".join(lines[:-1]))  # without its checksum, which is of this format
    process = chain.begin()
    _, error = process.communicate(timeout=END_S)
    assert process.returncode == Exit.NOT_STARTED
    assert "this version of tradechat reads format" in error
    file.write_text(kept)
    with Wire(chain.first.connect()) as wire:
        wire.ok(Opcode.HEARTBEAT, 1)


def test_there_is_no_server(tmp_path: Path, relay: Callable[..., Relay]) -> None:
    """None ever, one that was stopped, one that was killed."""

    def refused(data: Path) -> str:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "server", "--take-over", "--port", "0"),
                *("--admin-port", "0", "--data", str(data)),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=END_S,
            check=False,
        )
        assert (done.returncode, done.stdout) == (Exit.NOT_STARTED, "")
        return done.stderr

    nobody = "start this one without --take-over"
    assert nobody in refused(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    server = relay().first
    assert server.stop() == 0
    assert nobody in refused(server.data)
    with RunningServer(server.data, "--admin-port", "0") as other:
        other.crash()
        assert "no server answers" in refused(server.data)


def test_it_needs_a_journal() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "server", "--take-over", "--durability", "none"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=END_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (Exit.USAGE, "")
    assert done.stderr == (
        "tradechat-server: --take-over needs a journal: durability must not be none\n"
    )


def test_another_user(tmp_path: Path, relay: Callable[..., Relay]) -> None:
    if os.geteuid():
        pytest.skip("only root can be another user")
    server = relay().first
    where, fd = control.address(server.data)
    for path, mode in ((server.data, 0o755), (Path(where), 0o666)):  # which must not help
        path.chmod(mode)
    os.close(fd)
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == 0 and not directory.stat().st_mode & 0o001:
            directory.chmod(0o755)
    settings = small_settings(server.data)
    with ForkedServer(settings, tmp_path, lambda: os.setuid(NOBODY), take_over=True) as other:
        assert other.ended(END_S)
        assert other.code == Exit.NOT_STARTED
        said = f"the server on {server.data} is of another user (0): only a server of that user can"
        assert said in other.error
    with Wire(server.connect()) as wire:
        wire.ok(Opcode.HEARTBEAT, 1)


# ---- by a signal


def test_sigusr2_starts_the_same_program_again(relay: Callable[..., Relay]) -> None:
    chain = relay()
    server = chain.first
    pids: list[int] = []

    def upgrade() -> None:
        server.signal(signal.SIGUSR2)
        assert server.process.stdout is not None
        words = dict(word.split("=") for word in server.process.stdout.readline().split()[1:])
        assert (words["host"], int(words["port"])) == (server.host, server.port)
        pids.append(int(words["pid"]))
        assert server.process.wait(END_S) == Exit.OK

    with knocking(server.port):
        asyncio.run(trading(server.port, upgrade))
    assert told(server, "upgrade_started")[0]["successor"] == pids[0] != server.process.pid
    os.kill(pids[0], signal.SIGTERM)
    leaks.wait_gone(pids[0], END_S)
    server.wait()
    assert [line["pid"] for line in told(server, "stopped")] == [server.process.pid, pids[0]]


# ---- what else is handed over


@pytest.mark.parametrize("host", ["::1", "::", "0.0.0.0", "localhost"])  # noqa: S104 - the case
def test_addresses_of_both_kinds(relay: Callable[..., Relay], host: str) -> None:
    chain = relay("--host", host)
    with ExitStack() as stack:
        address = {"::": "::1", "0.0.0.0": "127.0.0.1"}.get(host, host)  # noqa: S104 - the case
        with suppress(OSError):
            stack.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6)).close()
        chain.take_over()
        sock = socket.create_connection((address, chain.last.port), timeout=END_S)
        stack.enter_context(Wire(sock)).ok(Opcode.HEARTBEAT, 1)


def test_more_and_fewer_workers(relay: Callable[..., Relay]) -> None:
    """Every listener has somebody who accepts on it, and every connection is served."""
    chain = relay()
    with knocking(chain.first.port):
        for workers, most in (("3", "9"), ("1", "1"), ("2", "2")):
            chain.take_over("--workers", workers, "--max-workers", most)
        for _ in range(50):
            with Wire(chain.last.connect()) as wire:
                wire.ok(Opcode.HEARTBEAT, 1)


def test_the_admin_port_goes_along(tmp_path: Path) -> None:
    """Whoever asks meanwhile waits, and is answered by the new server."""
    port = lasting_port()
    chain = Relay(tmp_path / "data", "--admin-port", str(port))
    over, failures, asked = threading.Event(), list[BaseException](), [0]

    def ask() -> None:
        try:
            while not over.is_set():
                url = f"http://127.0.0.1:{port}/stats"
                with urllib.request.urlopen(url, timeout=DOWN_S) as answer:
                    assert json.load(answer)
                asked[0] += 1
        except BaseException as error:  # noqa: BLE001 - raised by the test's own thread
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        chain.take_over()
        before = asked[0]
        wait_until(lambda: asked[0] > before + 1 or bool(failures), "it answers", END_S)
    finally:
        over.set()
        thread.join()
    assert not failures
    elsewhere = lasting_port()
    chain.take_over("--admin-port", str(elsewhere))
    with urllib.request.urlopen(f"http://127.0.0.1:{elsewhere}/health", timeout=DOWN_S) as answer:
        assert json.load(answer)["ready"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=DOWN_S)
    assert chain.last.stop() == 0


def test_the_service_manager_is_told(tmp_path: Path) -> None:
    """Which process is the main one, and that it lives; that nothing stops."""
    path, heard = str(tmp_path / "notify"), list[str]()
    over = threading.Event()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(0.05)

        def hear() -> None:  # at once: there is no place for many
            while not over.is_set():
                with suppress(TimeoutError):
                    heard.append(sock.recv(4096).decode())

        thread = threading.Thread(target=hear)
        thread.start()
        try:
            start = partial(RunningServer, NOTIFY_SOCKET=path, WATCHDOG_USEC="300000")
            first = start(tmp_path / "data", "--admin-port", "0")
            flags = "--admin-port", "0", "--name", first.name, "--take-over"
            second = start(first.data, *flags, WATCHDOG_PID=str(first.process.pid))
            assert first.wait() == Exit.OK
            assert f"MAINPID={second.process.pid}" in heard
            assert not [each for each in heard if each.startswith("STOPPING")]
            before = heard.count("WATCHDOG=1")
            wait_until(lambda: heard.count("WATCHDOG=1") > before + 2, "it lives", END_S)
            assert second.stop() == 0
        finally:
            over.set()
            thread.join()
