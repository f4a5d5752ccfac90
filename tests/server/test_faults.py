"""Errors that nobody catches: in the log of the process, whichever it is, and nowhere else."""

import json
import select
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from server.exits import Exit
from tests.helpers import leaks
from tests.helpers.server import ROOT

END_S = 60.0

# As each process takes its title: an error in a destructor, in a thread, and one that a library
# logs. They come once more when the process has set up its log.
FAULTY = """
import concurrent.futures, os, setproctitle, threading
from server import child
titled, opened = setproctitle.setproctitle, child.open_log
class Faulty:
    def __del__(self):
        raise ValueError("in a destructor")
def fail(*_):
    raise ValueError("elsewhere")
def faults():
    Faulty()
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    future = concurrent.futures.Future()
    future.add_done_callback(fail)
    future.set_result(None)
def title(text):
    titled(text)
    if text in ("tradechat: loader", "tradechat: repair"):
        faults()
def open_log(*given, **bound):
    opened(*given, **bound)
    faults()
setproctitle.setproctitle = title
child.open_log = open_log
from server.__main__ import main
raise SystemExit(main())
"""
CHILDREN = 6  # loader, journal, archive, files, two workers


def test_errors_that_nobody_catches_are_logged_by_every_process(tmp_path: Path) -> None:
    path = tmp_path / "log"
    command = [sys.executable, "-c", FAULTY, "--port=0", f"--name={leaks.region_name()}"]
    command += [f"--data={tmp_path / 'data'}", "--log-format=json", "--workers=2"]
    with subprocess.Popen(
        [*command, f"--log-file={path}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], END_S)[0]
        process.stdout.readline()
        process.terminate()
        _, error = process.communicate(timeout=END_S)
    assert (process.returncode, error) == (0, b"")
    told = defaultdict(set)
    for line in map(json.loads, path.read_text().splitlines()):
        told[line["event"]].add(line["pid"])
        if line["event"] == "exception_ignored":
            assert line["where"] == "Faulty.__del__"
            assert "in a destructor" in line["exception"]
        elif line["event"] == "library_warned":
            assert line["library"] == "concurrent.futures"
    assert len(told["exception_ignored"]) == CHILDREN
    assert told["thread_crashed"] == told["library_warned"] == told["exception_ignored"]


CRASHED = """
from server.master.supervisor import Supervisor
def fail(_):
    raise ValueError("in the master")
Supervisor._announce = fail
from server.__main__ import main
raise SystemExit(main())
"""


def test_a_fault_of_the_master_is_logged_and_said(tmp_path: Path) -> None:
    path = tmp_path / "log"
    command = [sys.executable, "-c", CRASHED, "--port=0", f"--name={leaks.region_name()}"]
    command += [f"--data={tmp_path / 'data'}", "--log-format=json", "--workers=2"]
    done = subprocess.run(
        [*command, f"--log-file={path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=END_S,
        check=False,
    )
    assert done.returncode == Exit.FAILED
    (said,) = done.stderr.splitlines()
    assert "in the master" in said
    lines = map(json.loads, path.read_text().splitlines())
    (line,) = (line for line in lines if line["event"] == "master_crashed")
    assert "ValueError: in the master" in line["exception"]


UNPREPARED = """
from server.master.resources import Resources
def fail(*_):
    raise ValueError("not prepared")
Resources.keep_only = fail
from server.__main__ import main
raise SystemExit(main())
"""


def test_a_fault_of_a_child_that_has_not_begun_is_logged(tmp_path: Path) -> None:
    command = [sys.executable, "-c", UNPREPARED, "--port=0", f"--name={leaks.region_name()}"]
    done = subprocess.run(
        [*command, f"--data={tmp_path / 'data'}", "--log-format=json", "--workers=2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=END_S,
        check=False,
    )
    assert done.returncode == Exit.NOT_STARTED
    lines = map(json.loads, done.stderr.splitlines())
    crashed, refused = (line for line in lines if line["level"] == "error")
    assert (crashed["event"], crashed["process"]) == ("child_crashed", "loader")
    assert "not prepared" in crashed["exception"]
    assert refused["event"] == "cannot_start"
