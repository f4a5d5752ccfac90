"""One server of four workers for the tests of a module that neither stop nor configure theirs."""

from collections.abc import Iterator

import pytest

from tests.helpers.server import RunningServer
from tests.helpers.wire import Lobby


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    data = tmp_path_factory.mktemp("shared") / "data"
    rooms = ("--numbered-rooms", "256", "--rooms", "512")
    with RunningServer(data, *rooms, workers=4) as server:
        yield server
    assert server.process.returncode == 0, server.log_text()


@pytest.fixture
def lobby(shared_server: RunningServer) -> Iterator[Lobby]:
    """Connections to the shared server."""
    with Lobby(shared_server) as made:
        yield made
