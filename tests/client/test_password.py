"""A password that its user changes: other sessions end, and this client comes back by it."""

import os
import signal

import pytest

from client import Client, ConnectionLost, NotLoggedIn, Superseded, Unauthorized
from libproto.scram import NEW_ITERATIONS
from tests.client.programs import PASSWORD
from tests.helpers.server import RunningServer, StartServer, wait_until

NEW = "another one altogether"


def test_it_is_changed_and_comes_back_by_it(start_server: StartServer) -> None:
    server = start_server()
    with Client("127.0.0.1", server.port, reconnect=True) as mine:
        mine.register("ann", PASSWORD)
        with pytest.raises(NotLoggedIn, match="log in first, nothing was sent"):
            mine.change_password(NEW)
        mine.login("ann", PASSWORD)
        with Client("127.0.0.1", server.port) as other:
            other.login("ann", PASSWORD)
            mine.change_password(NEW)
            with pytest.raises((Superseded, ConnectionLost, Unauthorized)):
                other.balance()
        before = mine.session_id
        for pid in server.worker_pids():
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: mine.connected and mine.session_id != before, "it is back")
        assert mine.balance().balance == 0
    with Client("127.0.0.1", server.port) as again, pytest.raises(Unauthorized):
        again.login("ann", PASSWORD)
    with Client("127.0.0.1", server.port) as again:
        again.login("ann", NEW)
        assert again._core.iterations == NEW_ITERATIONS, "as many as a new password has"


def test_it_is_changed_where_the_server_asks_for_more_iterations_than_are_usual(
    start_server: StartServer,
) -> None:
    """HELLO has told those of the password as it was."""
    with start_server() as before, Client("127.0.0.1", before.port) as client:
        client.register("ann", PASSWORD)
    least = NEW_ITERATIONS + 1
    with RunningServer(before.data, "--scram-iterations", str(least)) as server:
        with Client("127.0.0.1", server.port) as client:
            client.login("ann", PASSWORD)
            client.change_password(NEW)
        with Client("127.0.0.1", server.port) as client:
            client.login("ann", NEW)
            assert client._core.iterations >= least
