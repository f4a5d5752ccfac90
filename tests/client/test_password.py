"""A password that its user changes: other sessions end, and this client comes back by it."""

import os
import signal

import pytest

from client import Client, ConnectionLost, NotLoggedIn, Superseded, Unauthorized
from libproto.scram import NEW_ITERATIONS
from tests.client.programs import PASSWORD
from tests.helpers.server import StartServer, wait_until

NEW = "another one altogether"


def test_it_is_changed_and_comes_back_by_it(start_server: StartServer) -> None:
    server = start_server()
    with Client("127.0.0.1", server.port, reconnect=True) as mine:
        mine.register("ann", PASSWORD)
        with pytest.raises(NotLoggedIn):
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
