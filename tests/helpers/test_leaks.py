"""The check that every test stands under: it sees each kind of leak, and only leaks."""

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import posix_ipc
import pytest

from tests.helpers import leaks

ROOT = Path(__file__).resolve().parents[2]
SLEEPER = ["sleep", "30"]  # ends by itself, should a test of this file fail
# A shell that leaves a process behind and ends: its orphan is handed to us.
ORPHAN_MAKER = ["sh", "-c", "sleep 30 >/dev/null 2>&1 & echo $!"]


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_nothing_left_is_no_leak() -> None:
    with leaks.watch(), socket.socket():
        subprocess.run(["true"], check=True)


def test_a_running_child_is_a_leak_and_is_ended() -> None:
    with pytest.raises(leaks.LeakError, match=r"process \d+ \(sleep\)"), leaks.watch(0):
        child = subprocess.Popen(SLEEPER)
    assert not _exists(child.pid)
    child.wait()


def test_a_child_that_was_not_waited_for_is_a_leak() -> None:
    def leave() -> int:
        if (child := os.fork()) == 0:
            os._exit(0)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        return child

    with pytest.raises(leaks.LeakError, match="never waited for"), leaks.watch(0):
        child = leave()
    assert not _exists(child)


def test_an_orphan_is_a_leak() -> None:
    with pytest.raises(leaks.LeakError) as caught, leaks.watch(0):
        pid = int(subprocess.run(ORPHAN_MAKER, check=True, capture_output=True).stdout)
    assert f"process {pid} " in str(caught.value)
    assert not _exists(pid)


def test_a_child_of_a_child_is_a_leak() -> None:
    def leave() -> subprocess.Popen[bytes]:
        parent = subprocess.Popen(
            ["sh", "-c", "sleep 30 >/dev/null & echo; wait"], stdout=subprocess.PIPE
        )
        assert parent.stdout is not None
        with parent.stdout as output:
            output.readline()  # the child is there
        return parent

    with pytest.raises(leaks.LeakError) as caught, leaks.watch(0):
        parent = leave()
    assert str(caught.value).count("process ") == 2
    parent.wait()


def test_a_new_child_of_a_process_that_was_there_is_no_leak() -> None:
    with subprocess.Popen(
        ["sh", "-c", "read go; sleep 30 >/dev/null & echo; wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as shared:
        assert shared.stdin is not None
        assert shared.stdout is not None
        with leaks.watch():
            shared.stdin.write(b"\n")
            shared.stdin.flush()
            shared.stdout.readline()
        for process in leaks.descendants().values():
            os.kill(process.pid, signal.SIGKILL)
            if process.pid != shared.pid:
                orphan = process.pid
    leaks.wait_gone(orphan)


def test_what_goes_within_the_grace_is_no_leak() -> None:
    read_end, write_end = os.pipe()
    with leaks.watch():
        # It ends when the pipe does, and is reaped while the check looks again.
        child = os.fork()
        if child == 0:
            os.close(write_end)
            os.read(read_end, 1)
            os._exit(0)
        previous = signal.signal(signal.SIGCHLD, lambda *_: leaks.wait_gone(child))
        os.close(write_end)
    signal.signal(signal.SIGCHLD, previous)
    os.close(read_end)


def test_an_entry_of_dev_shm_is_a_leak() -> None:
    name = f"/tradechat-test-leak-{os.getpid()}"
    try:
        with pytest.raises(leaks.LeakError, match=name), leaks.watch(0):
            posix_ipc.SharedMemory(name, posix_ipc.O_CREX, size=4096).close_fd()
    finally:
        posix_ipc.unlink_shared_memory(name)


class Another:
    """A process that says, when asked, what it would call a leak of its own. To it we are another
    one. It is ready before there is anything to see: what nobody has open is a leak to every test
    that runs meanwhile, and so must not be there for long.
    """

    TELL = textwrap.dedent(
        """
        from tests.helpers import leaks

        print(flush=True)
        while input() == "tell":
            print(leaks.leaks_since(leaks.snapshot()._replace(shm=frozenset()), 0), flush=True)
        """
    )

    def __init__(self, owner: int | None = None) -> None:
        """owner: who is charged there, if not who is charged here."""
        changed = {} if owner is None else {leaks.OWNER: str(owner)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.TELL],
            cwd=ROOT,
            env={**os.environ, **changed},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def _order(self, order: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{order}\n")
        self._process.stdin.flush()

    def told(self) -> str:
        self._order("tell")
        return self._answer()

    def __enter__(self) -> "Another":
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._order("end")
        assert self._process.returncode == 0


def test_an_entry_of_our_name_is_a_leak_whoever_has_it_open() -> None:
    name = leaks.region_name()
    with Another() as another:
        memory = posix_ipc.SharedMemory(f"/{name}", posix_ipc.O_CREX, size=4096)
        try:
            assert name in another.told()
            memory.close_fd()
            assert name in another.told()
        finally:
            posix_ipc.unlink_shared_memory(f"/{name}")


def test_an_entry_of_the_name_of_another_is_none_though_nobody_has_it_open() -> None:
    """A server that was killed on purpose leaves its region until the next one replaces it."""
    name = leaks.region_name()
    with Another(owner=1) as another:
        posix_ipc.SharedMemory(f"/{name}", posix_ipc.O_CREX, size=4096).close_fd()
        try:
            assert name not in another.told()
        finally:
            posix_ipc.unlink_shared_memory(f"/{name}")


def test_an_entry_of_dev_shm_that_another_process_has_open_is_none() -> None:
    name = f"/tradechat-test-open-{os.getpid()}"
    with Another() as another:
        memory = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, size=4096)
        try:
            assert name not in another.told()
            memory.close_fd()
            assert name in another.told()
        finally:
            posix_ipc.unlink_shared_memory(name)


def test_an_entry_of_dev_shm_that_another_bench_is_named_in_is_none() -> None:
    """It kills its servers and starts them again; meanwhile nobody has the region open."""
    with Another() as another, subprocess.Popen(SLEEPER) as bench:
        name = f"faults-crash-{bench.pid}"
        posix_ipc.SharedMemory(f"/{name}", posix_ipc.O_CREX, size=4096).close_fd()
        try:
            assert name not in another.told()
            everything = leaks.leaks_since(leaks.snapshot()._replace(shm=frozenset()), 0)
            assert f"{leaks.SHM}/{name}" in everything, "it is a child of ours"
            bench.kill()
            bench.wait()
            assert name in another.told(), "it has ended"
        finally:
            posix_ipc.unlink_shared_memory(f"/{name}")


def test_an_entry_of_dev_shm_of_another_user_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"tradechat-test-user-{os.getpid()}"
    before = leaks.snapshot()
    posix_ipc.SharedMemory(f"/{name}", posix_ipc.O_CREX, size=4096).close_fd()
    try:
        assert any(name in line for line in leaks.leaks_since(before, 0))
        another = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: another)
        assert not any(name in line for line in leaks.leaks_since(before, 0))
    finally:
        posix_ipc.unlink_shared_memory(f"/{name}")


def test_an_entry_of_dev_shm_that_another_process_has_mapped_is_none() -> None:
    """A named semaphore is mapped, and no descriptor stays open on it."""
    name = f"tradechat-test-mapped-{os.getpid()}"
    with Another() as another:
        semaphore = posix_ipc.Semaphore(f"/{name}", posix_ipc.O_CREX)
        try:
            assert name not in another.told()
            semaphore.close()
            assert name in another.told()
        finally:
            posix_ipc.unlink_semaphore(f"/{name}")


def _open_socket() -> Callable[[], None]:
    return socket.socket().close


def _open_file() -> Callable[[], None]:
    return open(__file__).close


def _open_eventfd() -> Callable[[], None]:
    descriptor = os.eventfd(0)
    return lambda: os.close(descriptor)


@pytest.mark.parametrize("leave_open", [_open_socket, _open_file, _open_eventfd])
def test_an_open_descriptor_is_a_leak(leave_open: Callable[[], Callable[[], None]]) -> None:
    with pytest.raises(leaks.LeakError, match="descriptor"), leaks.watch(0):
        close = leave_open()
    close()


def test_wait_gone_reaps_an_orphan() -> None:
    pid = int(subprocess.run(ORPHAN_MAKER, check=True, capture_output=True).stdout)
    os.kill(pid, signal.SIGKILL)
    leaks.wait_gone(pid)
    assert not _exists(pid)


def test_wait_gone_gives_up_at_its_deadline() -> None:
    with subprocess.Popen(SLEEPER) as child:
        with pytest.raises(TimeoutError, match=f"process {child.pid}"):
            leaks.wait_gone(child.pid, timeout_s=0.0)
        child.kill()


def test_wait_gone_of_a_process_that_never_was() -> None:
    leaks.wait_gone(2**22 + 1)  # above the largest pid there can be


def test_every_test_stands_under_the_check(tmp_path: Path) -> None:
    """A run of pytest with this conftest, on a test that leaves a process, is a red run."""
    planted = tmp_path / "test_planted.py"
    planted.write_text(
        textwrap.dedent(
            """
            import subprocess

            def test_that_leaves_a_process():
                subprocess.Popen(["sleep", "30"])

            def test_after_it():
                pass
            """
        )
    )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", planted],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 1, run.stdout
    assert "left behind: process" in run.stdout
    assert "2 passed, 1 error" in run.stdout


def test_beside_another_process_of_the_run_each_is_charged_with_its_own(tmp_path: Path) -> None:
    """One leaves an entry that nobody has open. All the time it is there, tests begin and end in
    the other: these are green, and the one that left it is red."""
    (tmp_path / "test_one.py").write_text(
        textwrap.dedent(
            f"""
            from pathlib import Path

            import posix_ipc

            from tests.helpers import leaks
            from tests.helpers.server import wait_until

            here = Path({str(tmp_path)!r})

            def test_that_leaves_an_entry():
                wait_until((here / "begun").exists, "the other's first test has begun", 60)
                name = leaks.region_name()
                posix_ipc.SharedMemory("/" + name, posix_ipc.O_CREX, size=4096).close_fd()
                (here / "name").write_text(name)
                wait_until((here / "over").exists, "the other's first test is over", 60)
            """
        )
    )
    (tmp_path / "test_other.py").write_text(
        textwrap.dedent(
            f"""
            from pathlib import Path

            from tests.helpers.server import wait_until

            here = Path({str(tmp_path)!r})

            def test_in_which_it_appears():
                (here / "begun").touch()
                wait_until((here / "name").exists, "the entry is there", 60)

            def test_after_it():
                (here / "over").touch()
            """
        )
    )
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"),
            *("-n2", "--dist=loadfile", "-v", tmp_path),
        ],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != leaks.OWNER},
        capture_output=True,
        text=True,
        timeout=100,
    )
    name = (tmp_path / "name").read_text()
    posix_ipc.unlink_shared_memory(f"/{name}")
    assert run.returncode == 1, run.stdout
    assert f"left behind: {leaks.SHM}/{name}" in run.stdout
    assert re.search(r"^ERROR \S+::test_that_leaves_an_entry\b", run.stdout, re.MULTILINE)
    assert "3 passed, 1 error" in run.stdout
