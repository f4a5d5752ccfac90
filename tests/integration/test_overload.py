"""An overloaded server: chat is refused first, then logins, then money, and heartbeats and the
admin port always answer; what was refused was not executed, and it is over by itself.

Most of these are overloaded by answers that wait: the journal process stands still, so that nothing
becomes durable, and a queue of two is too long. How fast the machine is does not matter to that.
"""

import json
import select
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from libproto.errors import Status
from libproto.messages import Flag, Opcode
from server.worker.overload import RETRY_FIRST_MS
from tests.helpers.server import RunningServer, StartServer, lasting_port, wait_until
from tests.helpers.wire import Lobby, Received, Wire, frozen, request

BUSY = Status.ERR_SERVER_BUSY
CLIENT = 0xC11E27
ROOM = 1
FLOOD_S = 240.0  # on any machine


def refused(wire: Wire, opcode: Opcode, *fields: object, req_id: int = 0) -> Received | None:
    """The answer to a request, where it is refused at once; None where it is executed and waits:
    the answer to a HEARTBEAT that is sent behind comes before it."""
    sent = wire.send(opcode, *fields, req_id=req_id)
    beat = wire.send(Opcode.HEARTBEAT, 1)
    first = wire.answer()
    if first.req_id == beat:
        return None
    assert first.req_id == sent
    assert wire.answer().req_id == beat, "a heartbeat is answered"
    assert (first.opcode, first.status) == (opcode, BUSY)
    assert first.body.retry_after_ms >= RETRY_FIRST_MS
    return first


@contextmanager
def answers_waiting(lobby: Lobby, count: int = 3) -> Iterator[None]:
    """So many answers cannot become durable meanwhile, and the worker takes that for overload."""
    wires = [lobby.enter() for _ in range(count)]
    wait_until(lambda: not lobby.counters()["overloaded"], "it is not overloaded by these logins")
    with frozen(lobby.server.journal_pid()):
        for wire in wires:
            wire.send(Opcode.DEPOSIT, 1)
        wait_until(lambda: lobby.counters()["overloaded"] == 1, "it is overloaded")
        yield
    for wire in wires:
        assert wire.answer().status == Status.OK, "an answer that is due is given"


def events(server: RunningServer, name: str) -> list[dict[str, object]]:
    """Its log lines with that event."""
    lines = map(json.loads, server.log_text().splitlines())
    return [line for line in lines if line["event"] == name]


def members(lobby: Lobby, count: int, client_id: int = 0) -> list[Wire]:
    """So many users in the room."""
    wires = [lobby.enter(client_id=client_id) for _ in range(count)]
    for wire in wires:
        wire.ok(Opcode.JOIN_ROOM, ROOM)
    return wires


def test_chat_is_refused_and_money_goes(start_server: StartServer) -> None:
    """Where no more than chat may be refused; and the admin port answers."""
    admin = lasting_port()
    server = start_server(
        *("--queue-limit", "1", "--shed", "chat", "--admin-port", str(admin)), workers=1
    )
    with Lobby(server) as lobby:
        speakers = members(lobby, 40, CLIENT)
        rich, poor = lobby.enter(client_id=CLIENT), lobby.enter()
        rich.ok(Opcode.DEPOSIT, 100)
        name = lobby.new_user()
        shed = 0
        with answers_waiting(lobby):
            answers = []

            def is_refused() -> bool:
                """Another one each time: the answer to what is executed waits."""
                wire = speakers.pop()
                answer = refused(wire, Opcode.CHAT_SEND, ROOM, "hello", req_id=7)
                if answer is not None:
                    answers.append((wire, answer))
                return answer is not None and lobby.counters()["shed_chat"] >= 5

            wait_until(is_refused, "chat is refused")
            wire, _ = answers[-1]
            assert refused(wire, Opcode.ROOM_LIST, 0)
            sent = rich.send(Opcode.TRANSFER, poor.user, 60)
            newcomer = lobby.open()
            assert newcomer.hello(name).status == Status.OK, "a login is not refused"
            with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics") as page:
                metrics = page.read().decode()
            assert "tradechat_overloaded_workers 1" in metrics
            shed = lobby.counters()["shed_chat"]
            assert f'tradechat_shed_total{{class="chat"}} {shed}' in metrics
            assert not lobby.counters()["shed_ledger"] + lobby.counters()["shed_logins"]
        paid = rich.answer()
        assert (paid.req_id, paid.status, paid.body.balance) == (sent, Status.OK, 40)
        wait_until(lambda: lobby.counters()["overloaded"] == 0, "it is over")

        # what was refused was not said; the same request again is said, and said once
        before = wire.ok(Opcode.ROOM_HISTORY, ROOM, 0, 1000).events
        assert all(event.from_user != wire.user or event.kind for event in before)
        again = wire.call(Opcode.CHAT_SEND, ROOM, "hello", req_id=7)
        assert (again.status, again.flags) == (Status.OK, Flag.RESPONSE)
        once_more = wire.call(
            Opcode.CHAT_SEND, ROOM, "hello", req_id=7, flags=Flag.POSSIBLE_DUPLICATE
        )
        assert once_more.body.room_seq == again.body.room_seq
        after = wire.ok(Opcode.ROOM_HISTORY, ROOM, 0, 1000).events
        assert len(after) == len(before) + 1
    (over,) = events(server, "overload_over")
    assert over["shed_chat"] == shed
    assert len(events(server, "overloaded")) == 1, "a line for the episode, not one for a request"


def test_everything_but_heartbeats_may_be_refused(start_server: StartServer) -> None:
    """Ledger requests last; they say when to come again, later and later, and have no outcome."""
    with Lobby(start_server("--queue-limit", "1", workers=1)) as lobby:
        payers = [lobby.enter(client_id=CLIENT) for _ in range(40)]
        name = lobby.new_user()
        with answers_waiting(lobby):
            last = payers[0]

            def is_refused() -> bool:
                nonlocal last
                last = payers.pop()
                return refused(last, Opcode.DEPOSIT, 50, req_id=3) is not None

            wait_until(is_refused, "deposits are refused")
            assert refused(last, Opcode.CHAT_SEND, ROOM, "hello", req_id=4)
            newcomer = lobby.open()
            hello = newcomer.hello(name)
            assert hello.status == BUSY
            assert newcomer.ok(Opcode.HEARTBEAT, 5).client_time == 5

            def asked_ms() -> int:
                answer = refused(last, Opcode.CHAT_SEND, ROOM, "hello", req_id=4)
                assert answer is not None, "where money is refused, all chat is"
                return int(answer.body.retry_after_ms)

            first = asked_ms()
            wait_until(lambda: asked_ms() >= 2 * first, "the time to wait grows")
            shed = lobby.counters()
            assert min(shed["shed_chat"], shed["shed_logins"], shed["shed_ledger"]) > 0
            assert last.status(Opcode.LOGOUT) == Status.OK, "who goes is not kept"
        wait_until(lambda: lobby.counters()["overloaded"] == 0, "it is over")

        assert newcomer.hello(name).status == Status.OK
        assert newcomer.login(name).status == Status.OK
        name = lobby.new_user()
        payer = lobby.enter(name, client_id=CLIENT)
        with answers_waiting(lobby):
            wait_until(lambda: payer.status(Opcode.BALANCE) == BUSY, "it is overloaded again")
        wait_until(lambda: lobby.counters()["overloaded"] == 0, "it is over again")


def test_a_refused_payment_is_made_once(start_server: StartServer) -> None:
    """The same request again, unchanged, and once more with the flag."""
    with Lobby(start_server("--queue-limit", "1", workers=1)) as lobby:
        payers = [lobby.enter(client_id=CLIENT) for _ in range(40)]
        with answers_waiting(lobby):
            payer = payers[0]

            def is_refused() -> bool:
                nonlocal payer
                payer = payers.pop()
                return refused(payer, Opcode.DEPOSIT, 50, req_id=3) is not None

            wait_until(is_refused, "deposits are refused")
        wait_until(lambda: lobby.counters()["overloaded"] == 0, "it is over")
        assert payer.ok(Opcode.BALANCE).balance == 0, "refused is not executed"
        made = payer.call(Opcode.DEPOSIT, 50, req_id=3)
        assert (made.status, made.flags, made.body.balance) == (Status.OK, Flag.RESPONSE, 50)
        again = payer.call(Opcode.DEPOSIT, 50, req_id=3, flags=Flag.POSSIBLE_DUPLICATE)
        assert again.flags == Flag.RESPONSE | Flag.POSSIBLE_DUPLICATE
        assert again.body == made.body
        assert payer.ok(Opcode.BALANCE).balance == 50


def flood(wires: Sequence[Wire], data: bytes, until: Callable[[], bool]) -> None:
    """Send this on all of them again and again, and read away what comes; then close them."""
    poll = select.epoll()
    for wire in wires:
        wire.sock.setblocking(False)
        poll.register(wire.sock, select.EPOLLIN | select.EPOLLOUT)
    by_fd = {wire.sock.fileno(): (wire.sock, memoryview(data)) for wire in wires}
    deadline = time.monotonic() + FLOOD_S
    while not until():
        assert time.monotonic() < deadline
        for fd, ready in poll.poll(1):
            sock, left = by_fd[fd]
            if ready & select.EPOLLIN:
                assert sock.recv(1 << 20)
            if ready & select.EPOLLOUT:
                left = left[sock.send(left) :] or memoryview(data)
                by_fd[fd] = sock, left
    poll.close()
    for wire in wires:
        wire.close()


def test_a_worker_that_is_late_is_overloaded(start_server: StartServer) -> None:
    """By real work: requests come without an end until some are refused, and then no more."""
    with Lobby(start_server("--lag-limit", "0.01", "--shed", "chat", workers=1)) as lobby:
        name = lobby.new_user()
        wires = [lobby.enter(name) for _ in range(100)]
        burst = b"".join(request(Opcode.USER_LOOKUP, n, name) for n in range(1, 257))
        flood(wires, burst, lambda: lobby.counters()["shed_chat"] > 0)
        wait_until(lambda: lobby.counters()["overloaded"] == 0, "it is over")
        assert lobby.enter(name).status(Opcode.USER_LOOKUP, name) == Status.OK
