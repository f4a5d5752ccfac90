"""What a client tries again by itself, and when it stops."""

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import (
    AsyncClient,
    BadArgument,
    Client,
    ConnectionLost,
    RetryPolicy,
    ServerBusy,
)
from client.core.retry import Attempts
from libproto.errors import Status
from libproto.messages import OUTCOME_WINDOW, Opcode
from tests.client.conftest import Make, register
from tests.client.peer import PASSWORD, USERNAME, Wire, answer, refuse, serving
from tests.client.turns import turn
from tests.helpers.server import StartServer

FAST = RetryPolicy(busy_attempts=3, pause_s_first=0.001, pause_s_max=0.002)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"busy_attempts": 0}, "busy_attempts"),
        ({"busy_attempts": 1.5}, "busy_attempts"),
        ({"pause_s_first": -1}, "pause_s_first"),
        ({"pause_s_max": "1"}, "pause_s_max"),
        ({"reconnect_for_s": float("nan")}, "reconnect_for_s"),
    ],
)
def test_a_bad_policy_is_named(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(BadArgument) as caught:
        RetryPolicy(**settings)
    assert caught.value.argument == name


@given(
    st.integers(1, 20),
    st.floats(0, 1),
    st.integers(0, 5000),
    st.floats(0, 20),
    st.floats(0, 2),
    st.floats(0, 10),
)
def test_pauses(
    attempts: int, drawn: float, asked_ms: int, left_s: float, first_s: float, max_s: float
) -> None:
    """As long as the server asks for at least, never past the deadline, and no attempt too many."""
    policy = RetryPolicy(busy_attempts=attempts, pause_s_first=first_s, pause_s_max=max_s)
    made = Attempts(policy, lambda: drawn)
    pauses = [made.pause_s(asked_ms, left_s) for _ in range(attempts)]
    assert pauses[-1] is None
    for pause_s in pauses[:-1]:
        if not asked_ms or asked_ms / 1000 >= left_s:
            assert pause_s is None
        else:
            assert pause_s is not None
            assert asked_ms / 1000 <= pause_s < left_s
            assert pause_s <= max(max_s, asked_ms / 1000 * 1.25)


@pytest.mark.parametrize("refusals", [1, 2])
def test_a_busy_server_is_asked_again(make: Make, refusals: int) -> None:
    """Under the same number, so that it is executed once."""

    def script(wire: Wire) -> None:
        wire.log_in()
        numbers = []
        for _ in range(refusals):
            request = wire.request()
            numbers.append((request.req_id, request.flags, request.fields))
            wire.send(refuse(request, Status.ERR_SERVER_BUSY, "overload", 1))
        request = wire.request()
        assert {*numbers, (request.req_id, request.flags, request.fields)} == {(1, 0, (5,))}
        wire.send(answer(request, 3, 5))
        assert wire.wait_closed() == []

    with serving(script) as port, make(port=port, retry=FAST) as ann:
        ann.login(USERNAME, PASSWORD)
        assert ann.deposit(5).balance == 5
        assert ann.unanswered == ()


def test_a_busy_server_is_not_asked_for_ever(make: Make) -> None:
    def script(wire: Wire) -> None:
        wire.log_in()
        for _ in range(FAST.busy_attempts):
            wire.send(refuse(wire.request(), Status.ERR_SERVER_BUSY, "overload", 1))
        wire.send(refuse(wire.request(), Status.ERR_SERVER_BUSY, "never", 0))
        wire.send(refuse(wire.request(), Status.ERR_SERVER_BUSY, "later", 60_000))
        assert wire.wait_closed() == []

    with serving(script) as port, make(port=port, retry=FAST) as ann:
        ann.login(USERNAME, PASSWORD)
        with pytest.raises(ServerBusy, match="overload"):
            ann.deposit(5)
        assert ann.unanswered == ()  # nothing happened, for sure
        with pytest.raises(ServerBusy, match="never"):
            ann.balance()
        with pytest.raises(ServerBusy, match="later"):  # past the deadline
            ann.balance()


def test_what_would_be_too_old_is_not_sent_again(make: Make) -> None:
    def script(wire: Wire) -> None:
        wire.log_in()
        wire.send(refuse(wire.request(), Status.ERR_SERVER_BUSY, "overload", 1))
        assert wire.wait_closed() == []

    with serving(script) as port, make(port=port, retry=FAST) as ann:
        ann.login(USERNAME, PASSWORD)
        first = ann.new_req_id()
        for _ in range(OUTCOME_WINDOW):
            ann.new_req_id()
        with pytest.raises(ServerBusy, match="overload"):
            ann.deposit(5, req_id=first)


def test_close_ends_a_pause() -> None:
    def script(wire: Wire) -> None:
        wire.log_in()
        wire.send(refuse(wire.request(), Status.ERR_SERVER_BUSY, "overload", 50_000))
        wire.send(answer(wire.request(), 1, 2))
        assert wire.wait_closed() == []

    async def main(port: int) -> None:
        async with AsyncClient(port=port, timeout_s=100) as ann:
            await ann.login(USERNAME, PASSWORD)
            asked = asyncio.create_task(ann.balance())
            await turn()  # in which it is sent
            await ann.heartbeat()  # whose answer comes after the refusal
            assert not asked.done()
            await ann.close()
            with pytest.raises(ConnectionLost, match="closed"):
                await asked

    with serving(script) as port:
        asyncio.run(main(port))


def test_a_rate_limit_is_kept(start_server: StartServer) -> None:
    """A real server that refuses most of what is asked at once; the program hears nothing of it."""
    server = start_server("--rate-limit", "40", workers=1)
    register(server, "ann")
    url = f"tradechat://ann@{server.host}:{server.port}"
    with Client(url, password=PASSWORD, timeout_s=60, retry=RetryPolicy(busy_attempts=99)) as ann:
        for count in range(1, 101):
            assert ann.deposit(1).balance == count


def test_reconnecting_ends_when_the_policy_says_so(make: Make) -> None:
    """Here the server takes connections, and says nothing."""

    def script(wire: Wire) -> None:
        wire.log_in()
        assert wire.request().opcode == Opcode.BALANCE

    policy = RetryPolicy(reconnect_for_s=0.2)
    with serving(script) as port:
        ann = make(port=port, reconnect=True, retry=policy, timeout_s=60)
        with ann:
            ann.login(USERNAME, PASSWORD)
            began = time.monotonic()
            with pytest.raises(ConnectionLost, match=r"not reconnected within 0.2 s: "):
                ann.balance()
            assert time.monotonic() - began >= 0.2
            assert not ann.connected
            assert not ann.reconnecting
