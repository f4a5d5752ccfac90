"""What a worker does without memory, by a real limit, in a process of its own; what clients see of
it is in tests/integration/test_exhaustion.py."""

import json
import subprocess
import sys
from pathlib import Path

from libproto import form
from server.exits import Exit
from server.worker import memory

START = f"""
import json, resource
from pathlib import Path
import liblog
from {memory.__name__} import HEADROOM, RESERVE, Memory

def allow(bytes):
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + bytes, -1))

liblog.configure(fmt="json")
memory = Memory()
"""
ROOT = Path(form.__file__).parents[1]


def run(script: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", START + script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def events(done: "subprocess.CompletedProcess[str]") -> list[str]:
    return [json.loads(line)["event"] for line in done.stderr.splitlines()]


def test_there_is_room_for_connections_with_a_reserve_and_headroom() -> None:
    done = run(
        """
said = [memory.has_room()]
allow(HEADROOM // 2)
said += [memory.has_room()]
allow(HEADROOM * 2)
memory.ran_out()
said += [memory.has_room()]
memory.restore()
said += [memory.has_room()]
print(json.dumps(said))
"""
    )
    assert json.loads(done.stdout) == [True, False, False, True]


def test_the_reserve_can_be_used_and_the_log_says_it_once() -> None:
    done = run(
        """
allow(0)
try:
    bytearray(RESERVE // 2)
except MemoryError:
    memory.ran_out()
    memory.ran_out()
print(len(bytearray(RESERVE // 2)) == RESERVE // 2)
"""
    )
    assert done.stdout == "True\n"
    assert events(done) == ["out_of_memory"]


def test_it_ends_where_it_cannot_know_what_was_not_done() -> None:
    done = run(
        """
allow(0)
try:
    bytearray(RESERVE // 2)
except MemoryError as error:
    memory.end(error)
print("went on")
"""
    )
    assert (done.returncode, done.stdout) == (Exit.FAILED, "")
    assert events(done) == ["worker_out_of_memory"]
