"""How programs begin and end: with real signals, while they are loaded and once they have ended."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import pytest

TIMEOUT_S: Final = 60.0
PROGRAMS: Final = {
    "tradechat-admin": ["--version"],
    "tradechat-bench": ["--version"],
    "tradechat-cli": ["--version"],
    "tradechat-server": ["--print-config"],  # what it serves without, it may be interrupted in
}
INTERRUPTED: Final = 130

PROGRAM = """
import atexit, signal, sys
from libcli.entry import run

def interrupt():
    signal.raise_signal(signal.SIGINT)

def load():
    {load}
    return program

def program():
    {program}
    return 7

sys.exit(run(load))
"""


def _ended(load: str = "pass", program: str = "pass", **popen: object) -> tuple[int, str, str]:
    """The exit code and the output of a program that does this while it is loaded, and then."""
    done = subprocess.run(  # type: ignore[call-overload] # by keyword
        [sys.executable, "-c", PROGRAM.format(load=load, program=program)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        **popen,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("load", "program", "ended"),
    [
        ("pass", "pass", (7, "", "")),
        ("interrupt()", "print('it runs')", (INTERRUPTED, "", "")),
        ("pass", "interrupt()", (INTERRUPTED, "", "")),
        ("pass", "atexit.register(interrupt)", (INTERRUPTED, "", "")),
        (
            "pass",
            "signal.signal(signal.SIGTERM, print), atexit.register(signal.raise_signal, 15)",
            (143, "", ""),
        ),
        ("pass", "sys.exit(3)", (3, "", "")),
    ],
    ids=["none", "loading", "running", "ended", "ended-by-sigterm", "exit"],
)
def test_an_interrupt(load: str, program: str, ended: tuple[int, str, str]) -> None:
    assert _ended(load, program) == ended


def test_the_program_catches_its_own() -> None:
    """Of the kind that asyncio looks for."""
    program = """assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    try:
        interrupt()
    except KeyboardInterrupt:
        print("caught")"""
    assert _ended(program=program) == (7, "caught\n", "")


def test_what_is_ignored_stays_ignored() -> None:
    """As a shell has it for what runs in the background."""
    assert _ended("interrupt()", "interrupt(), atexit.register(interrupt)", preexec_fn=_ignore) == (
        7,
        "",
        "",
    )


def _ignore() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


FIRST_IMPORT = """
import signal, sys
FIRST = ("tradechat", "programs", "libcli", "early")
def look(event, args):
    if event == "import" and args[0].rpartition(".")[2] not in FIRST:
        signal.raise_signal(signal.SIGINT)
sys.addaudithook(look)
from tradechat.programs import {program}
sys.exit({program}())
"""


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_interrupt_before_anything_else_is_imported(program: str) -> None:
    """Two modules of a few lines are all that an interrupt is a traceback in."""
    code = FIRST_IMPORT.format(program=program.removeprefix("tradechat-"))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=TIMEOUT_S, check=False
    )
    assert (done.returncode, done.stderr) == (INTERRUPTED, b"")


@contextmanager
def _imports(program: str) -> Iterator[tuple["subprocess.Popen[bytes]", IO[bytes]]]:
    """A program behind its entry; it tells on standard error what it has imported, and waits for
    its reader. It has ended where the `with` ends."""
    with subprocess.Popen(
        [Path(sys.executable).parent / program, *PROGRAMS[program]],
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        bufsize=0,
        pipesize=4096,
    ) as process:
        told = process.stderr
        assert told is not None
        assert any(line.endswith(b".programs\n") for line in told)
        yield process, told


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_interrupt_while_it_is_loaded(program: str) -> None:
    """At many instants: behind the first modules, and as far as a pipe reaches from each quarter of
    what is imported."""
    with _imports(program) as (process, told):
        count = len(told.readlines())
    assert process.returncode == 0
    for quarter in range(4):
        with _imports(program) as (process, told):
            for _ in range(count * quarter // 4):
                told.readline()
            process.send_signal(signal.SIGINT)
            rest = told.read()
        assert (quarter, process.returncode) == (quarter, INTERRUPTED)
        assert b"Traceback" not in rest
        assert b"KeyboardInterrupt" not in rest
