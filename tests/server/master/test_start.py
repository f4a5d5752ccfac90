"""A start that fails, in whatever way: one true sentence, exit code 3, nothing left behind.

The last is checked around every test, tests/conftest.py."""

import errno
import json
import os
import pty
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from libproto.messages import Opcode
from server.config import Configuration
from server.exits import Exit
from server.master.acquire import CannotStart
from server.master.resources import Resources
from server.master.serve import serve
from tests.helpers import inject, leaks
from tests.helpers.forked import small_settings
from tests.helpers.server import ROOT, RunningServer
from tests.helpers.wire import Lobby

END_S = 60.0

# What the sentence says when this call has failed with the errno of inject.FAILURES.
LIMITS = {
    name: "ulimit -n" if code == errno.EMFILE else "fs.file-max" if code == errno.ENFILE
    else "ulimit -v" if code == errno.ENOMEM else "ulimit -u" if code == errno.EAGAIN
    else os.strerror(code)
    for name, code in inject.FAILURES.values()
}  # fmt: skip


REFUSAL = re.compile('"event":"cannot_start"|^tradechat-server: cannot start: ')

# At least these are among the calls without which there is no server.
NEEDED = {"signalfd4", "openat", "mkdir", "flock", "socket", "bind", "listen", "setsockopt"} | {
    "ftruncate", "fallocate", "mmap", "eventfd2", "socketpair", "pipe2", "clone"
}  # fmt: skip


def test_each_acquisition_fails_once(tmp_path: Path) -> None:
    """The first, the second … call by which the master acquires something, until none fails. A
    server that can do without serves, and stops in order."""
    fatal: dict[int, str] = {}
    for nth in range(1, 1000):
        directory = tmp_path / str(nth)
        directory.mkdir()
        settings = small_settings(directory / "data")
        program = partial(serve, settings, Configuration(settings, lambda: settings))  # noqa: B023 - not read again
        with leaks.watch():
            try:
                seen = inject.run(program, nth, directory, END_S)
            except inject.NotPermitted as error:
                pytest.skip(str(error))
        where = f"call {nth}, {seen.call}: exit code {seen.code}\n{seen.error}"
        assert "Traceback" not in seen.error, where
        if seen.code == Exit.OK:
            assert seen.output.startswith("ready "), where
            if not seen.call:
                break
            continue
        assert (seen.code, seen.output) == (Exit.NOT_STARTED, ""), where
        (line,) = (line for line in seen.error.splitlines() if REFUSAL.search(line))
        said = json.loads(line)["reason"] if line.startswith("{") else line
        assert LIMITS[seen.call] in said, where
        assert not any('"error"' in other for other in seen.error.splitlines() if other != line)
        fatal[nth] = seen.call
    assert set(fatal.values()) >= NEEDED


def test_too_few_descriptors_leave_none(tmp_path: Path) -> None:
    """Whichever of the resources is the first that there is no descriptor for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    refused = 0
    for limit in range(3, hard):
        before = set(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        said = ""
        try:
            Resources(small_settings(tmp_path / "data")).close()
        except CannotStart as error:
            said = str(error)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert set(os.listdir("/proc/self/fd")) == before
        if not said:
            break
        assert "ulimit -n" in said
        refused += 1
    assert refused > 12


# ---- in a real process, as a user meets it


def refusal(tmp_path: Path, *flags: str, before: Sequence[str] = (), **popen: Any) -> str:
    """Why a server does not start: the one sentence. before: a command that starts the server's."""
    name = leaks.region_name()
    command = [*before, sys.executable, "-m", "server", "--port", "0", "--name", name]
    done = subprocess.run(
        [*command, "--data", str(tmp_path / "data"), "--log-format", "json", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=END_S,
        check=False,
        **popen,
    )
    assert done.returncode == Exit.NOT_STARTED, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert not Path("/dev/shm", name).is_file()  # noqa: S108 - the region's place
    (line,) = (line for line in done.stderr.splitlines() if REFUSAL.search(line))
    assert not [each for each in done.stderr.splitlines() if '"error"' in each and each != line]
    return str(json.loads(line)["reason"]) if line.startswith("{") else line


@pytest.mark.parametrize("limit", range(12, 25))
def test_few_open_files(tmp_path: Path, limit: int) -> None:
    """Whether it is the master or a child that has too few: which limit it is, is said."""
    reason = refusal(tmp_path, "--workers", "4", before=("prlimit", f"--nofile={limit}:{limit}"))
    assert "ulimit -n" in reason


def test_few_open_files_for_many_workers(tmp_path: Path) -> None:
    reason = refusal(tmp_path, "--workers", "64", before=("prlimit", "--nofile=256:256"))
    assert "ulimit -n" in reason
    assert "--workers" in reason


def test_the_fewest_open_files_that_start_serve_clients(tmp_path: Path) -> None:
    """`ready` with no descriptor left for a connection would be untrue."""

    limit = 23
    while True:
        before = "prlimit", f"--nofile={limit}:{limit}"

        class Limited(RunningServer):
            program = (*before, *RunningServer.program)

        try:
            server = Limited(tmp_path / str(limit), workers=1)
        except AssertionError as error:
            if "ulimit -n" not in str(error):
                raise
            limit += 1
        else:
            break
    with server, Lobby(server) as lobby:
        for _ in range(4):
            lobby.open().ok(Opcode.HEARTBEAT, 0)


@pytest.mark.parametrize("limit", [0, 100_000, 40 << 20])
def test_files_that_may_not_be_as_large(tmp_path: Path, limit: int) -> None:
    """The region, or a file of the journal."""
    before = ("prlimit", f"--fsize={limit}:{limit}")
    assert "ulimit -f" in refusal(tmp_path, "--segment-size", "64", before=before)


def _a_file(data: Path) -> Path:
    data.write_text("")
    return data


def _a_link(data: Path) -> Path:
    data.symlink_to("nowhere")
    return data


def _below_a_file(data: Path) -> Path:
    data.write_text("")
    return data / "data"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (_a_file, "/data is not a directory"),
        (_a_link, "/data is a link that leads nowhere"),
        (_below_a_file, "/data is not a directory"),
    ],
)
def test_a_data_directory_that_is_none(
    tmp_path: Path, make: Callable[[Path], Path], why: str
) -> None:
    assert why in refusal(tmp_path, "--data", str(make(tmp_path / "data")))


@pytest.mark.parametrize("name", ["identity", "position", "idle"])
def test_a_directory_in_the_place_of_a_file(tmp_path: Path, name: str) -> None:
    """What cannot be read is named, in the words of the system."""
    data = tmp_path / "data"
    RunningServer(data, workers=1).stop()
    (data / name).unlink()
    (data / name).mkdir()
    reason = refusal(tmp_path)
    assert f"{data / name}: Is a directory" in reason
    assert "Errno" not in reason


@pytest.mark.parametrize("mib", [60, 90, 120, 160, 200])
def test_little_address_space(tmp_path: Path, mib: int) -> None:
    """Where the interpreter itself starts. How much is too little depends on the machine."""
    limit = mib << 20
    flags = ("--event-ring", "65536", "--max-message", "8192")  # 512 MiB and more
    reason = refusal(tmp_path, *flags, before=("prlimit", f"--as={limit}:{limit}"))
    assert "memory" in reason or "cannot be loaded" in reason


def test_a_log_file_that_cannot_be_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    for path, why in (
        (tmp_path, "Is a directory"),
        (tmp_path / "none" / "log", "No such file"),
        (tmp_path / "file" / "log", "Not a directory"),
        (tmp_path / "fifo", "nobody reads"),
        (Path("/dev/null/log"), "Not a directory"),
    ):
        reason = refusal(tmp_path, "--log-file", str(path))
        assert str(path) in reason
        assert why in reason
        assert "--log-file" in reason
    assert not (tmp_path / "data").exists()


def test_a_refusal_is_on_standard_error_too(tmp_path: Path) -> None:
    """Where the log goes to a file, whoever starts the server still sees why it does not start."""
    (tmp_path / "data").touch()
    reason = refusal(tmp_path, "--log-file", str(tmp_path / "log"))
    assert "--data" in reason
    assert json.loads((tmp_path / "log").read_text())["reason"] in reason


def test_a_refusal_is_a_sentence_on_a_terminal(tmp_path: Path) -> None:
    """Beside the line of the log, which is made of keys and fields."""
    (tmp_path / "data").touch()
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as terminal:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "server", "--port=0", f"--data={tmp_path / 'data'}"],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=theirs,
                timeout=END_S,
                check=False,
            )
            assert (done.returncode, done.stdout) == (Exit.NOT_STARTED, b"")
            seen = terminal.read(65536).decode()
        finally:
            os.close(theirs)
    event, sentence = seen.splitlines()
    assert "cannot_start" in event
    assert sentence.startswith("tradechat-server: cannot start: ")
    assert "--data" in sentence


# ---- what is in the way in /dev/shm


def test_a_name_that_is_not_a_region_stays(tmp_path: Path) -> None:
    """A file of another program, a link, a directory, a FIFO: refused, and untouched."""
    name = leaks.region_name()
    path, target = Path(leaks.SHM, name), tmp_path / "target"
    target.write_text("precious")

    def fifo() -> None:
        os.mkfifo(path)

    for make in (
        lambda: path.write_text("another program's"),
        lambda: path.write_bytes(bytes(4096)),  # not mode 0600
        lambda: path.symlink_to(target),
        path.mkdir,
        fifo,
    ):
        make()
        was = path.lstat()
        try:
            reason = refusal(tmp_path, "--name", name)
            now = path.lstat()
        finally:
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        assert "--name" in reason
        assert (now.st_ino, now.st_size, now.st_mtime) == (was.st_ino, was.st_size, was.st_mtime)
    assert target.read_text() == "precious"


def in_another_tree(*script: str) -> Sequence[str]:
    """Before a command: it runs with mounts of its own, made by this script of the shell."""
    words = ("unshare", "--mount", "--propagation", "private")
    if subprocess.run([*words, "true"], check=False, capture_output=True).returncode:
        pytest.skip("mounts of our own need root")
    return (*words, "sh", "-c", " && ".join([*script, 'exec "$@"']), "sh")


def test_dev_shm_is_missing(tmp_path: Path) -> None:
    hidden = in_another_tree(
        "mkdir -p " + str(tmp_path / "dev"),
        f"mount -t tmpfs none {tmp_path}/dev",
        *(f"touch {tmp_path}/dev/{n} && mount --bind /dev/{n} {tmp_path}/dev/{n}" for n in DEVICES),
        f"mount --rbind {tmp_path}/dev /dev",
    )
    reason = refusal(tmp_path, before=hidden)
    assert "no /dev/shm" in reason


DEVICES = ("null", "urandom", "zero")


def test_dev_shm_is_read_only(tmp_path: Path) -> None:
    read_only = in_another_tree("mount -t tmpfs -o ro none /dev/shm")
    reason = refusal(tmp_path, before=read_only)
    assert "/dev/shm" in reason  # noqa: S108 - as the user reads it
    assert "Read-only" in reason


def test_dev_shm_is_full(tmp_path: Path) -> None:
    """A size in a container is 64 MB, as a rule."""
    small = in_another_tree("mount -t tmpfs -o size=1m none /dev/shm")
    reason = refusal(tmp_path, before=small)
    assert "No space left" in reason
    assert "MiB" in reason
