"""The program around the server: what it says of its environment, and of what it cannot write."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.exits import Exit
from tests.helpers import leaks
from tests.helpers.server import ROOT

END_S = 60.0
COMMAND = (sys.executable, "-m", "server")
UNMEANT = {
    "TRADECHAT_PORT": "tcp://10.96.0.12:7878",  # as Kubernetes sets it for a service of that name
    "TRADECHAT_SERVICE_HOST": "10.96.0.12",
    "TRADECHAT_ROOMS": "",
    "TRADECHAT_WORKRES": "2",
}
TOLD = {"TRADECHAT_PORT", "TRADECHAT_ROOMS", "TRADECHAT_WORKRES"}


def test_a_server_starts_with_variables_that_are_not_meant_for_it(tmp_path: Path) -> None:
    """And warns of each in its log."""
    flags = (f"--data={tmp_path / 'data'}", f"--name={leaks.region_name()}", "--log-format=json")
    with subprocess.Popen(
        # The port is from the file: a flag would go before the variable, and hide its fault.
        [*COMMAND, "--config", "/dev/stdin", *flags, "--workers=1"],
        cwd=ROOT,
        env={**os.environ, **UNMEANT},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("port = 0\n")
        process.stdin.close()
        process.stdin = None
        ready = process.stdout.readline()
        process.terminate()
        _, log = process.communicate(timeout=END_S)
    assert ready.startswith("ready "), log
    assert process.returncode == Exit.OK
    warnings = [line for line in map(json.loads, log.splitlines()) if line["level"] == "warning"]
    passed_over = [line for line in warnings if line["event"] == "variable_passed_over"]
    assert sorted(line["variable"] for line in passed_over) == sorted(TOLD)
    assert {line["event"] for line in warnings} - {"runs_as_root"} == {
        "variable_passed_over",
        "new_data_directory",
    }


def test_variables_are_told_beside_what_is_printed() -> None:
    done = subprocess.run(
        [*COMMAND, "--print-config"],
        cwd=ROOT,
        env={**os.environ, **UNMEANT},
        capture_output=True,
        text=True,
        timeout=END_S,
        check=False,
    )
    assert done.returncode == Exit.OK
    assert "\nport = 7878" in done.stdout
    assert {line.split()[1] for line in done.stderr.splitlines()} == TOLD


@pytest.mark.parametrize("what", ["--print-config", "--check-config", "--help", "--version"])
@pytest.mark.parametrize(
    ("redirect", "code", "said"),
    [
        (
            ">/dev/full",
            Exit.FAILED,
            "tradechat-server: cannot write to standard output: No space left on device\n",
        ),
        (">&-", Exit.OK, ""),
        ("2>&-", Exit.OK, ""),
    ],
)
def test_an_output_that_cannot_be_written(what: str, redirect: str, code: Exit, said: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirect}', "sh", *COMMAND, what],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=END_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.parametrize("what", ["--print-config", "--check-config", "--help", "--version"])
def test_a_reader_that_has_gone(what: str) -> None:
    """As with `| true`."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*COMMAND, what],
            cwd=ROOT,
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=END_S,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (Exit.OUTPUT_CLOSED, b"")
