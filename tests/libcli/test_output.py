"""libcli.output and libcli.arguments: a program whose output cannot be written ends with a
documented exit code and at most one sentence. Real descriptors of real processes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60.0
LONG, SHORT = 100_000, 1

PROGRAM = """
import sys
from libcli import output
from libcli.arguments import Parser

def main():
    parser = Parser(prog="tried", description="x" * 20_000)
    parser.add_argument("--version", action="version", version="1")
    parser.add_argument("--lines", type=int, default=0)
    parser.add_argument("--at-once", action="store_true")
    options = parser.parse_args()
    for n in range(options.lines):
        (output.put_line if options.at_once else output.put)("line\\n")
    output.complain("a message")
    return 7 if options.lines else 0

sys.exit(output.run("tried", main))
"""


def tried(arguments: str, redirect: str) -> tuple[int, str]:
    """Run PROGRAM by a shell; its exit code, and what it says on standard error."""
    command = f'"$0" -c "$1" {arguments} {redirect}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["/bin/bash", "-c", command, sys.executable, PROGRAM],
        cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


ASKED = ("--lines 1", "--lines 100000", "--lines 1 --at-once", "--help", "--version")


@pytest.mark.parametrize("arguments", ASKED)
def test_output_that_cannot_be_written(arguments: str) -> None:
    code, said = tried(arguments, ">/dev/full")
    assert code == 1
    assert said.removeprefix("a message\n") == (
        "tried: cannot write to standard output: No space left on device\n"
    )


@pytest.mark.parametrize(("arguments", "code"), [*((each, 7) for each in ASKED[:3]),
                                                 *((each, 0) for each in ASKED[3:])])  # fmt: skip
def test_a_program_that_nobody_wants_output_of(arguments: str, code: int) -> None:
    assert tried(arguments, ">&-") == (code, "a message\n" if code else "")


@pytest.mark.parametrize("arguments", ["--lines 100000", "--lines 100000 --at-once"])
def test_a_reader_that_has_seen_enough(arguments: str) -> None:
    assert tried(arguments, "| head -n 1")[:1] == (141,)
    assert "Traceback" not in tried(arguments, "| true")[1]


@pytest.mark.parametrize(("arguments", "code"), [("--lines 1", 7), ("", 0), ("--lines x", 2)])
@pytest.mark.parametrize("redirect", ["2>/dev/full", "2>&-"])
def test_a_message_that_cannot_be_written_is_dropped(
    arguments: str, code: int, redirect: str
) -> None:
    assert tried(arguments, redirect) == (code, "")


@pytest.mark.parametrize(("redirect", "code"), [(">/dev/full 2>/dev/full", 1), (">&- 2>&-", 7)])
def test_neither_can_be_written(redirect: str, code: int) -> None:
    assert tried("--lines 1", redirect) == (code, "")


def test_wrong_usage_goes_to_standard_error() -> None:
    code, said = tried("--lines x", ">/dev/full")
    assert code == 2
    assert said.startswith("usage: tried")
    assert "invalid int value: 'x'" in said
