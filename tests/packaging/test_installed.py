"""The installed wheel, run by a user whose own modules have the names of ours in a checkout.

They are in the working directory and on PYTHONPATH, so each of them would be imported before a
top-level package of ours, and complains if it is.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from build_backend.hooks import PACKAGE
from libproto import __version__
from tests.helpers.server import RunningServer
from tests.packaging.conftest import MOVED, run

COMMANDS = ("tradechat-admin", "tradechat-bench", "tradechat-cli", "tradechat-server")
PASSWORD = "correct horse"  # noqa: S105 - of the tests' users
# A HEARTBEAT request, req_id 7.
FRAME = "4e530100002000000008000400000000000000000007c4d6e36100000000000000060a24181e4000"

PAYMENTS = """\
import asyncio
import sys

from tradechat import AsyncClient, Client, InsufficientFunds

port = int(sys.argv[1])


async def back() -> None:
    async with AsyncClient("127.0.0.1", port) as bob:
        await bob.login("bob", "sesame")
        alice = await bob.lookup("alice")
        paid = await bob.transfer(alice.user_id, 225)
        print("bob has", paid.balance)


with Client("127.0.0.1", port) as alice, Client("127.0.0.1", port) as bob:
    alice.register("alice", "sesame")
    bob.register("bob", "sesame")
    alice.login("alice", "sesame")
    alice.deposit(10000)
    paid = alice.transfer(alice.lookup("bob").user_id, 1250)
    print("alice has", paid.balance)
    asyncio.run(back())
    print("alice has", alice.balance().balance)
    try:
        alice.transfer(alice.lookup("bob").user_id, 1000000)
    except InsufficientFunds:
        print("and no more")
"""


def user(
    environment: Path, hostile: Path, command: str, *arguments: str | Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment in the user's folder."""
    return run(
        *(environment / "bin" / command, *arguments),
        cwd=hostile,
        variables={"PYTHONPATH": str(hostile), **variables},
    )


@pytest.fixture
def installed_server(environment: Path, hostile: Path, tmp_path: Path) -> Iterator[RunningServer]:
    """A server that was started by the installed command in the user's folder."""

    class Installed(RunningServer):
        program = (str(environment / "bin/tradechat-server"),)
        folder = hostile

    with Installed(tmp_path / "data", PYTHONPATH=str(hostile)) as server:
        yield server
        assert server.stop() == 0, server.log_text()


@pytest.mark.parametrize("name", MOVED)
def test_the_users_module_is_what_its_name_imports(
    environment: Path, hostile: Path, name: str
) -> None:
    """Else the tests below would show nothing: no module of ours has the name."""
    done = user(environment, hostile, "python", "-c", f"import {name}")
    assert f"{name}" in done.stderr
    assert "of the user was taken for ours" in done.stderr


def test_every_module_is_imported_from_the_wheel(environment: Path, hostile: Path) -> None:
    program = f"""
import importlib, pkgutil, {PACKAGE}
names = [each.name for each in pkgutil.walk_packages({PACKAGE}.__path__, "{PACKAGE}.")]
for name in names:
    print(importlib.import_module(name).__file__)
"""
    done = user(environment, hostile, "python", "-c", program)
    assert done.returncode == 0, done.stderr
    files = done.stdout.splitlines()
    assert len(files) > 100
    assert [file for file in files if not file.startswith(str(environment))] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_tells_its_version_and_its_use(
    environment: Path, hostile: Path, command: str
) -> None:
    done = user(environment, hostile, command, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{command} {__version__} (compiled)\n"
    done = user(environment, hostile, command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {command} ")
    assert "--version" in done.stdout


def test_a_frame_is_explained(environment: Path, hostile: Path) -> None:
    module = f"{PACKAGE}.libproto"
    done = user(environment, hostile, "python", "-m", module, "decode", FRAME)
    assert (done.returncode, done.stderr) == (0, "")
    assert "HEARTBEAT" in done.stdout
    done = user(environment, hostile, "python", "-m", module, "--help")
    assert done.stdout.startswith(f"usage: python -m {module} ")


def test_two_users_pay_each_other_by_the_library(
    environment: Path, hostile: Path, installed_server: RunningServer
) -> None:
    (hostile / "payments.py").write_text(PAYMENTS)
    done = user(environment, hostile, "python", "payments.py", str(installed_server.port))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        *("alice has 8750", "bob has 1025", "alice has 8975", "and no more")
    ]


def test_two_users_pay_each_other_by_the_commands(
    environment: Path, hostile: Path, installed_server: RunningServer
) -> None:
    port = installed_server.port

    def cli(name: str, *words: str) -> str:
        done = user(
            environment,
            hostile,
            "tradechat-cli",
            *("--user", name, *words),
            TRADECHAT_PORT=str(port),
            TRADECHAT_PASSWORD=PASSWORD,
            NO_COLOR="1",
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    cli("alice", "--register", "deposit", "100")
    cli("bob", "--register", "deposit", "5")
    cli("alice", "pay", "bob", "12.50")
    cli("bob", "pay", "alice", "2.25")
    assert "89.75" in cli("alice", "balance")
    assert "15.25" in cli("bob", "balance")
    done = user(
        *(environment, hostile, "tradechat-admin", "inspect", "accounts"),
        *("--name", installed_server.name),
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()[1:]] == ["8975", "1525"]


def test_the_stress_client_starts_the_installed_server(environment: Path, hostile: Path) -> None:
    """It starts load processes and a server, each by the name of its module."""
    done = user(
        *(environment, hostile, "tradechat-bench", "--connections=4", "--threads=2"),
        *("--processes=2", "--accounts=8", "--duration=0.5", "--warmup=0.1"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "good" in done.stdout


def _checked(environment: Path, hostile: Path, program: str) -> subprocess.CompletedProcess[str]:
    (hostile / "program.py").write_text(program)
    cache = hostile.parents[1] / "mypy-of-installed"  # of all tests of this process
    return run(
        *(sys.executable, "-m", "mypy", "--strict", "--cache-dir", cache),
        *("--python-executable", environment / "bin/python", "program.py"),
        cwd=hostile,
    )


def test_mypy_accepts_a_users_program(environment: Path, hostile: Path) -> None:
    done = _checked(environment, hostile, PAYMENTS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_finds_what_a_user_does_wrong(environment: Path, hostile: Path) -> None:
    """The types are those of the library, not `Any`."""
    done = _checked(environment, hostile, PAYMENTS.replace("deposit(10000)", 'deposit("100")'))
    (line,) = [number for number, text in enumerate(PAYMENTS.splitlines(), 1) if "deposit(" in text]
    assert re.search(rf'^program\.py:{line}: error: Argument 1 to "deposit"', done.stdout, re.M)
