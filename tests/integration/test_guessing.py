"""Who guesses passwords is slowed down, over all workers and connections; who is guessed at is not
kept out."""

import time
from concurrent.futures import ThreadPoolExecutor

from libproto.errors import Status
from tests.helpers.server import StartServer
from tests.helpers.wire import Lobby

MOST = 3
AT_ONCE = 12


def guess(lobby: Lobby, name: str, password: str = "a guess") -> tuple[int, float]:  # noqa: S107
    """What a login is answered, and after how long."""
    wire = lobby.open()
    wire.hello(name)
    began = time.monotonic()
    status = wire.login(name, password=password).status
    return status, time.monotonic() - began


def test_guesses_are_answered_later_and_later(start_server: StartServer) -> None:
    """Of a name that nobody has as well. The right password waits, and is taken; another user is
    not concerned."""
    server = start_server("--login-failures", str(MOST))
    with Lobby(server) as lobby:
        for name in ("ann", "bob"):
            wire = lobby.open()
            wire.hello(name)
            wire.register(name)
        for name in ("ann", "nobody"):
            for _ in range(MOST):
                assert guess(lobby, name)[0] == Status.ERR_UNAUTHORIZED
            status, took = guess(lobby, name)
            assert (status, took > 1) == (Status.ERR_UNAUTHORIZED, True)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            at_once = [*pool.map(lambda _: guess(lobby, "ann"), range(AT_ONCE))]
        statuses = [status for status, _ in at_once]
        assert {*statuses} == {Status.ERR_UNAUTHORIZED, Status.ERR_SERVER_BUSY}
        assert statuses.count(Status.ERR_UNAUTHORIZED) <= 3, "one in two seconds is looked at"
        assert guess(lobby, "bob", "correct horse")[0] == Status.OK
        status = Status.ERR_SERVER_BUSY
        while status == Status.ERR_SERVER_BUSY:
            status, _ = guess(lobby, "ann", "correct horse")
        assert status == Status.OK
        told = [line for line in server.log_text().splitlines() if '"guessing"' in line]
        assert sum('"name":"ann"' in line for line in told) == 1, "once for an episode"
        assert sum('"name":"nobody"' in line for line in told) == 1
        assert lobby.counters()["failed_logins"] >= 2 * (MOST + 1)
        assert lobby.counters()["guesses_refused"] == statuses.count(Status.ERR_SERVER_BUSY)


def test_a_right_password_is_never_delayed_by_itself(start_server: StartServer) -> None:
    with Lobby(start_server("--login-failures", "1")) as lobby:
        wire = lobby.open()
        wire.hello("ann")
        wire.register("ann")
        for _ in range(30):
            assert guess(lobby, "ann", "correct horse")[0] == Status.OK
        assert lobby.counters()["guesses_delayed"] == 0
