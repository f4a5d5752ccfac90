"""liblog: whole lines from several processes, the two formats, and failure that stays harmless."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import structlog

import liblog

TIMEOUT_S = 60.0


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    liblog.configure()
    structlog.reset_defaults()


def lines_of(path: Path) -> list[dict[str, Any]]:
    text = path.read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def run(code: str, shell_redirect: str = "", **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run `code` in a fresh interpreter, with a redirection that only a shell can make."""
    clean = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -c "$1" {shell_redirect}', sys.executable, code],
        capture_output=True,
        timeout=TIMEOUT_S,
        check=True,
        env=clean | env,
    )


def on_terminal(code: str, **env: str) -> str:
    """Run `code` with standard error on a pseudo-terminal and return what appears there."""
    clean = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code], stderr=slave, stdout=subprocess.DEVNULL, env=clean | env
    ) as process:
        os.close(slave)
        shown = b""
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # EIO: the last one to hold the other end is gone
                break
            shown += data
        assert process.wait(TIMEOUT_S) == 0
    os.close(master)
    return shown.decode()


HELLO = "import liblog; liblog.configure(worker=3); liblog.get('chat').info('hello', user='ann')"


@pytest.mark.parametrize(
    ("code", "is_imported"),
    [
        ("import liblog, sys; print('rich' in sys.modules)", False),
        ("import liblog, rich, sys; print(sys.modules['rich'] is rich)", True),
        ("import rich, liblog, sys; print(sys.modules['rich'] is rich)", True),
    ],
)
def test_rich_is_imported_by_who_wants_it(code: str, is_imported: bool) -> None:
    """It is not ours to need, and takes long."""
    assert run(code).stdout == f"{is_imported}\n".encode()


def test_line_has_the_agreed_keys_and_what_is_bound(tmp_path: Path) -> None:
    path = tmp_path / "log"
    liblog.configure("info", "json", path, worker=3)
    liblog.bind(session=2**64 - 1)
    liblog.get("chat").bind(user="ann").info("sent", req_id=7, opcode=0x0103, status=0)
    (line,) = lines_of(path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("ts"))
    assert line == {
        "level": "info",
        "event": "sent",
        "pid": os.getpid(),
        "worker": 3,
        "session": 2**64 - 1,
        "logger_name": "chat",
        "user": "ann",
        "req_id": 7,
        "opcode": 0x0103,
        "status": 0,
    }


def test_an_events_own_pid_does_not_hide_the_process(tmp_path: Path) -> None:
    path = tmp_path / "log"
    liblog.configure("info", "json", path)
    liblog.get("master").info("worker ended", pid=1, ts="noon")
    (line,) = lines_of(path)
    assert (line["pid"], line["pid_"], line["ts_"]) == (os.getpid(), 1, "noon")


@pytest.mark.parametrize("level", liblog.LEVELS)
def test_level_lets_itself_and_what_is_graver_through(tmp_path: Path, level: str) -> None:
    path = tmp_path / "log"
    liblog.configure(level, "json", path)
    for each in liblog.LEVELS:
        getattr(liblog.get("test"), each)("said")
    expected = liblog.LEVELS[liblog.LEVELS.index(level) :]
    assert tuple(line["level"] for line in lines_of(path)) == expected


def test_exception_is_in_the_line_without_values_of_variables(tmp_path: Path) -> None:
    path = tmp_path / "log"
    liblog.configure("info", "json", path)
    password = "".join(["sec", "ret"])
    try:
        os.stat(tmp_path / "missing" / password[:0])
    except OSError:
        liblog.get("test").exception("failed")
    (line,) = lines_of(path)
    assert line["level"] == "error"
    assert "FileNotFoundError" in line["exception"]
    assert "secret" not in json.dumps(line)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (2**64, repr(2**64)),
        ("\udc80", repr("\udc80")),
        (b"\x00", repr(b"\x00")),
        ({1: 2}, repr({1: 2})),
        ("two\nlines", "two\nlines"),
        (float("nan"), None),
    ],
)
def test_any_value_gives_one_line(tmp_path: Path, value: object, shown: object) -> None:
    path = tmp_path / "log"
    liblog.configure("info", "json", path)
    liblog.get("test").info("odd", value=value, other=1)
    (line,) = lines_of(path)
    assert line["value"] == shown
    assert line["other"] == 1


@pytest.mark.parametrize(
    ("level", "fmt"), [("trace", "json"), ("INFO", "json"), ("info", "xml"), ("info", "")]
)
def test_unknown_level_or_format_is_refused_and_changes_nothing(
    tmp_path: Path, level: str, fmt: str
) -> None:
    path = tmp_path / "log"
    liblog.configure("info", "json", path, worker=1)
    with pytest.raises(ValueError, match="is none of"):
        liblog.configure(level, fmt, None, worker=2)
    liblog.get("test").info("still here")
    assert [line["worker"] for line in lines_of(path)] == [1]


def test_unopenable_file_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    liblog.configure("info", "json", path, worker=1)
    with pytest.raises(FileNotFoundError):
        liblog.configure("info", "json", tmp_path / "missing" / "log", worker=2)
    liblog.get("test").info("still here")
    assert [line["worker"] for line in lines_of(path)] == [1]


def test_processes_share_a_file_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    count = 3000
    liblog.configure("info", "json", path, worker=0)
    log = liblog.get("test")
    go_read, go_write = os.pipe()
    children = []
    for worker in (1, 2):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(go_write)
                liblog.configure("info", "json", path, worker=worker)
                os.read(go_read, 1)  # both begin when the parent closes its end
                for n in range(count):
                    log.info("line", n=n, padding="x" * (n % 997))
                code = liblog.dropped()
            finally:
                os._exit(code)
        children.append(pid)
    os.close(go_read)
    os.close(go_write)
    for pid in children:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    log.info("parent")
    lines = lines_of(path)
    assert lines.pop()["worker"] == 0
    for worker, pid in zip((1, 2), children, strict=True):
        own = [line for line in lines if line["worker"] == worker]
        assert [line["n"] for line in own] == list(range(count))
        assert {line["pid"] for line in own} == {pid}
        assert all(line["padding"] == "x" * (line["n"] % 997) for line in own)
    assert len(lines) == 2 * count
    assert any(a["pid"] != b["pid"] for a, b in pairwise(lines))


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_configuring_again_reopens_and_leaves_no_descriptor(tmp_path: Path) -> None:
    path, rotated = tmp_path / "log", tmp_path / "log.1"
    liblog.configure("info", "json", path)
    log = liblog.get("test")
    bound = log.bind(session=5)
    before = open_files()
    log.info("one")
    path.rename(rotated)
    log.info("two")
    for _ in range(5):
        liblog.configure("info", "json", path)
    log.info("three")
    bound.info("four")
    assert [line["event"] for line in lines_of(rotated)] == ["one", "two"]
    assert [line["event"] for line in lines_of(path)] == ["three", "four"]
    assert open_files() == before


def test_configuring_again_replaces_what_was_bound(tmp_path: Path) -> None:
    path = tmp_path / "log"
    liblog.configure("info", "json", path, worker=1)
    liblog.bind(epoch=1)
    liblog.configure("info", "json", path, role="master")
    liblog.get("test").info("one")
    (line,) = lines_of(path)
    assert line["role"] == "master"
    assert not {"worker", "epoch"} & line.keys()


def test_loggers_made_and_used_before_follow_the_new_configuration(tmp_path: Path) -> None:
    path = tmp_path / "log"
    liblog.configure("error", "console", path)
    log = liblog.get("test")
    bound = log.bind(session=5)
    log.info("not said")
    assert path.read_bytes() == b""
    liblog.configure("debug", "json", path)
    log.debug("one")
    bound.error("two")
    assert [line["event"] for line in lines_of(path)] == ["one", "two"]


def test_the_file_is_not_inherited_by_programs_that_are_started(tmp_path: Path) -> None:
    path = tmp_path / "log"
    liblog.configure("info", "json", path)
    code = (
        "import os\n"
        "for fd in os.listdir('/proc/self/fd'):\n"
        " try: print(os.readlink(f'/proc/self/fd/{fd}'))\n"
        " except OSError: print('closed')"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        close_fds=False,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=True,
    ).stdout.decode()
    assert str(path) not in shown


def test_full_disk_is_counted_and_goes_on(tmp_path: Path) -> None:
    before = liblog.dropped()
    liblog.configure("info", "json", "/dev/full")
    log = liblog.get("test")
    log.info("one")
    log.info("two")
    assert liblog.dropped() == before + 2
    path = tmp_path / "log"
    liblog.configure("info", "json", path)
    log.info("three")
    assert liblog.dropped() == before + 2
    told, line = lines_of(path)
    assert (told["level"], told["event"], told["count"]) == ("warning", "log_lines_dropped", 2)
    assert line["event"] == "three"


def test_torn_line_is_counted_and_does_not_swallow_the_next(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys, liblog\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))\n"
        "liblog.configure('info', 'json', sys.argv[-1])\n"
        "log = liblog.get('test')\n"
        "log.info('short')\n"
        "log.info('long', text='x' * 400)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10000, resource.RLIM_INFINITY))\n"
        "log.info('after')\n"
        "log.info('last')\n"
        "print(liblog.dropped())\n"
    )
    path = tmp_path / "log"
    assert run(code, f"'{path}'").stdout == b"1\n"
    short, long, told, after, last = path.read_text().splitlines()
    assert json.loads(short)["event"] == "short"
    assert '"event":"long"' in long
    assert json.loads(told)["event"] == "log_lines_dropped"
    assert json.loads(after)["event"] == "after"
    assert json.loads(last)["event"] == "last"


def test_closed_standard_error_is_counted_and_nobodys_descriptor_is_written_to(
    tmp_path: Path,
) -> None:
    path = tmp_path / "data"
    code = (
        "import os, sys, liblog\n"
        "fd = os.open(sys.argv[-1], os.O_RDWR | os.O_CREAT)\n"
        "liblog.configure()\n"
        "liblog.get('test').info('lost')\n"
        "os.write(1, b'%d %d' % (fd, liblog.dropped()))\n"
    )
    assert run(code, f"'{path}' 2>&-").stdout == b"2 1"
    assert path.read_bytes() == b""


def test_broken_pipe_is_counted_and_goes_on() -> None:
    code = (
        "import os, liblog\n"
        "end, start = os.pipe()\n"
        "os.dup2(start, 2)\n"
        "os.close(end)\n"
        "liblog.configure()\n"
        "liblog.get('test').info('lost')\n"
        "os.write(1, b'%d' % liblog.dropped())\n"
    )
    assert run(code).stdout == b"1"


def test_count_of_dropped_lines_begins_anew_in_a_forked_process() -> None:
    code = (
        "import os, liblog\n"
        "liblog.configure('info', 'json', '/dev/full')\n"
        "liblog.get('test').info('lost')\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    liblog.configure()\n"
        "    os._exit(liblog.dropped())\n"
        "child = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
        "os.write(1, b'%d %d' % (liblog.dropped(), child))\n"
    )
    assert run(code).stdout == b"1 0"


def test_auto_is_json_where_standard_error_is_no_terminal() -> None:
    line = json.loads(run(HELLO).stderr)
    assert (line["event"], line["worker"], line["user"]) == ("hello", 3, "ann")


def test_auto_is_console_with_colours_on_a_terminal() -> None:
    shown = on_terminal(HELLO, TERM="xterm")
    assert "\x1b[" in shown
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert "hello" in plain
    assert "user='ann'" in plain
    assert "worker=3" in plain
    assert not plain.startswith("{")


def test_no_color_is_honoured() -> None:
    shown = on_terminal(HELLO, TERM="xterm", NO_COLOR="1")
    assert "\x1b" not in shown
    assert "user='ann'" in shown


def test_json_may_be_asked_for_on_a_terminal() -> None:
    line = json.loads(on_terminal(HELLO.replace("worker=3", "fmt='json'")))
    assert line["event"] == "hello"


def test_what_a_peer_sent_does_not_steer_the_terminal() -> None:
    code = HELLO.replace("'ann'", "'\\x1b[2J\\udc80\\nfalse line'")
    assert "\x1b" not in on_terminal(code, TERM="xterm", NO_COLOR="1")


def test_console_in_a_file_has_no_colours_and_exceptions_no_variables(tmp_path: Path) -> None:
    path = tmp_path / "log"
    liblog.configure("info", "console", path)
    password = "".join(["sec", "ret"])
    try:
        os.stat(tmp_path / "missing" / password[:0])
    except OSError:
        liblog.get("test").exception("failed")
    text = path.read_text()
    assert "FileNotFoundError" in text
    assert "secret" not in text
    assert "\x1b" not in text


def test_a_file_gets_json_by_default_even_on_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "log"
    on_terminal(HELLO.replace("worker=3", f"path={str(path)!r}"))
    assert [line["event"] for line in lines_of(path)] == ["hello"]


def test_capture_gives_events_with_their_fields_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    liblog.configure("info", "json", path, worker=4)
    log = liblog.get("test").bind(session=1)
    with liblog.capture() as events:
        log.info("joined", room=7)
        log.debug("not said")
    (event,) = events
    assert event["level"] == "info"
    assert (event["event"], event["room"], event["session"]) == ("joined", 7, 1)
    assert (event["worker"], event["pid"]) == (4, os.getpid())
    assert path.read_bytes() == b""
    log.info("after")
    assert [line["event"] for line in lines_of(path)] == ["after"]


def test_capture_works_before_anything_is_configured(capfd: pytest.CaptureFixture[str]) -> None:
    structlog.reset_defaults()
    with liblog.capture() as events:
        liblog.get("test").debug("said", n=1)
    assert [(event["level"], event["event"], event["n"]) for event in events] == [
        ("debug", "said", 1)
    ]
    assert capfd.readouterr() == ("", "")


def test_the_file_is_opened_anew(tmp_path: Path) -> None:
    """As after it was renamed; where that fails, lines go on to the one that is open."""
    path, moved = tmp_path / "log", tmp_path / "log.1"
    liblog.configure(path=path)
    log = liblog.get("test")
    log.info("first")
    path.rename(moved)
    log.info("second")
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        liblog.reopen()
    log.info("third")
    path.rmdir()
    liblog.reopen()
    log.info("fourth")
    assert [line["event"] for line in lines_of(moved)] == ["first", "second", "third"]
    assert [line["event"] for line in lines_of(path)] == ["fourth"]


def test_without_a_file_nothing_is_opened_anew() -> None:
    liblog.configure()
    liblog.reopen()
