"""The client, where there is no Linux: none of the server, of its dependencies, of Linux's calls.

The programs below run in an interpreter of this machine from which all that is taken away: modules
by name, and those names of the standard library that only Linux has.
"""

import sys
from pathlib import Path

import pytest

from build_backend.hooks import PACKAGE
from tests.helpers.server import RunningServer
from tests.packaging.conftest import run
from tests.test_imports import ARROWS

TOPS = ("client", *ARROWS["client"])

TAKEN_AWAY = """
import asyncio, importlib, os, pkgutil, socket, subprocess, sys

absent = {"crcmod", "orjson", "posix_ipc", "pycurl", "setproctitle", "structlog", "uvloop"}
absent |= {"fcntl", "grp", "mmap", "pwd", "resource", "termios", "tty"}
absent |= {PREFIX + name for name in ("server", "liblog", "bench")}


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Absent())
for name in absent & sys.modules.keys():
    del sys.modules[name]
for module, start in (
    (os, ("EFD_", "eventfd", "memfd_", "pidfd_", "sched_")),
    (socket, ("SO_REUSEPORT", "TCP_USER_TIMEOUT", "TCP_DEFER_ACCEPT", "SOCK_CLOEXEC")),
):
    for name in [name for name in vars(module) if name.startswith(start)]:
        delattr(module, name)
if hasattr(os, "process_cpu_count"):  # Python 3.13: it is this one where there is no sched_
    os.process_cpu_count = os.cpu_count
"""
IMPORT_ALL = """
import tradechat

names = []
for top in TOPS:
    package = importlib.import_module(PREFIX + top)
    names += [each.name for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
for name in names:
    importlib.import_module(name)
print(len(names))
try:
    importlib.import_module(PREFIX + "server.config")
except ModuleNotFoundError as error:
    print(error.name)
"""
TALK = """
from tradechat import AsyncClient, Client


async def balance(port):
    async with AsyncClient("127.0.0.1", port) as client:
        await client.login("alice", "sesame")
        return (await client.balance()).balance


port = int(sys.argv[1])
with Client("127.0.0.1", port) as client:
    client.register("alice", "sesame")
    client.login("alice", "sesame")
    client.deposit(100)
print(asyncio.run(balance(port)))
"""


def _prefix(python: Path) -> str:
    return "" if str(python) == sys.executable else f"{PACKAGE}."


@pytest.fixture(params=["checkout", "installed"])
def python(request: pytest.FixtureRequest) -> Path:
    """The interpreter of the checkout, or of the environment with the wheel."""
    if request.param == "checkout":
        return Path(sys.executable)
    environment: Path = request.getfixturevalue("environment")
    return environment / "bin/python"


def _program(python: Path, body: str) -> str:
    return f"PREFIX = {_prefix(python)!r}\nTOPS = {TOPS}\n{TAKEN_AWAY}{body}"


def test_every_module_of_the_client_half_is_imported(python: Path, tmp_path: Path) -> None:
    done = run(python, "-c", _program(python, IMPORT_ALL), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    count, refused = done.stdout.split()
    assert int(count) > 30
    assert refused == f"{_prefix(python)}server"


def test_both_clients_talk_to_a_server(python: Path, tmp_path: Path, server: RunningServer) -> None:
    done = run(python, "-c", _program(python, TALK), str(server.port), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "100\n"), done.stderr
