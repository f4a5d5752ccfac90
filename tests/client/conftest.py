"""What several tests of the client need: servers, users, clients of each kind, loops."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from client import Client, base
from client.core.security import REQUIRE
from tests.client.on_a_loop import OnALoop
from tests.client.peer import PASSWORD
from tests.helpers.server import RunningServer, wait_until

# The first loop of uvloop opens descriptors that stay for the process, which would look like
# something that a test has left behind.
uvloop.new_event_loop().close()

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
Make = Callable[..., Any]
"""Makes a client: a `Client`, or what has its methods."""
RunAndCollect = Callable[[Coroutine[Any, Any, None]], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    wait_until(lambda: set(threading.enumerate()) <= before, "the end of all threads")


# ---- clients of each kind


def _on(loop_factory: LoopFactory) -> Make:
    return lambda *args, **options: OnALoop(loop_factory, *args, **options)


@pytest.fixture(
    params=[Client, _on(asyncio.new_event_loop), _on(uvloop.new_event_loop)],
    ids=["blocking", "asyncio", "uvloop"],
)
def make(request: pytest.FixtureRequest) -> Make:
    """Makes a client of the kind that is tested."""
    kind: Make = request.param
    return kind


@pytest.fixture
def make_lasting(make: Make) -> Make:
    """Makes a client that reconnects, of the kind that is tested."""
    return lambda *args, **options: make(*args, reconnect=True, **options)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run_and_collect(request: pytest.FixtureRequest) -> RunAndCollect:
    """Runs a coroutine on each kind of loop; gives what the loop's exception handler got."""

    def run_it(coroutine: Coroutine[Any, Any, None]) -> list[dict[str, Any]]:
        unhandled: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: unhandled.append(context))
            runner.run(coroutine)
        return unhandled

    return run_it


@pytest.fixture(params=["clear", "encrypted"])
def both_ways(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Clients of this test go over clear connections, and once more over encrypted ones, where they
    do not say otherwise."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    if request.param == "encrypted":
        monkeypatch.setattr(base, "AUTO", REQUIRE)


# ---- users of a server


def register(server: RunningServer, *names: str) -> None:
    """Register users whose password is PASSWORD."""
    with Client(port=server.port) as client:
        for name in names:
            client.register(name, PASSWORD)


@pytest.fixture
def ann(server: RunningServer) -> Iterator[Client]:
    """A user with 1,000 on the account, to look at what happened."""
    register(server, "ann")
    with Client(port=server.port) as made:
        made.login("ann", PASSWORD)
        made.deposit(1000)
        yield made


@pytest.fixture
def bob(server: RunningServer) -> Iterator[Client]:
    register(server, "bob")
    with Client(port=server.port) as made:
        made.login("bob", PASSWORD)
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server for all tests of a module, on which alice, bob and carol are registered."""
    data = tmp_path_factory.mktemp("shared") / "data"
    # Each test has rooms of its own, by their numbers; others are opened by name.
    with RunningServer(data, "--rooms", "512", "--numbered-rooms", "256") as made:
        register(made, "alice", "bob", "carol")
        yield made
    assert made.process.returncode == 0, made.log_text()
