"""How often somebody may: requests of a user and of an address, messages, payments told,
registrations, sessions, rooms, client records. Who keeps within is not held up by who does not."""

import time
from pathlib import Path

from libproto.errors import Status
from libproto.messages import Capability, Opcode
from tests.helpers.server import RunningServer, StartServer, wait_until
from tests.helpers.wire import Lobby, Wire, request
from tests.integration.test_crowds import OTHER, connect_from

BUSY = Status.ERR_SERVER_BUSY
RATE = 20


def timed(wire: Wire, number: int) -> tuple[list[Status], float]:
    """What so many BALANCEs, sent at once, are answered with; and in how many seconds."""
    began = time.monotonic()
    wire.send_raw(b"".join(request(Opcode.BALANCE, n) for n in range(1, number + 1)))
    found = [Status(wire.answer().status) for _ in range(number)]
    return found, time.monotonic() - began


def test_the_rate_of_a_user_is_that_of_all_its_sessions(start_server: StartServer) -> None:
    with Lobby(start_server("--user-rate", str(RATE), workers=2)) as lobby:
        username = lobby.new_user()
        one, other, stranger = lobby.enter(username), lobby.enter(username), lobby.enter()
        number = 3 * RATE // 2
        began = time.monotonic()
        # One after the other: of what two workers count at the same moment some may be lost.
        found = [status for wire in (one, other) for status in timed(wire, number)[0]]
        done = found.count(Status.OK)
        assert done <= RATE + (time.monotonic() - began) * RATE + 1
        assert done >= RATE
        statuses, _ = timed(stranger, RATE)
        assert statuses == [Status.OK] * RATE


def test_the_rate_of_an_address_holds_before_login_too(start_server: StartServer) -> None:
    flags = ("--address-rate", str(RATE), "--unauthenticated-rate", "0")
    with Lobby(start_server(*flags, workers=2)) as lobby:
        wires = [lobby.open() for _ in range(2)]
        began = time.monotonic()
        found = list[Status]()
        for wire in wires:  # one after the other, as above
            wire.send_raw(b"".join(request(Opcode.HEARTBEAT, n, 1) for n in range(1, RATE + 1)))
            found += [Status(wire.answer().status) for _ in range(RATE)]
        done = found.count(Status.OK)
        assert RATE <= done <= RATE + (time.monotonic() - began) * RATE + 1
        with Wire(connect_from(lobby.server, OTHER)) as elsewhere:
            assert elsewhere.ok(Opcode.HEARTBEAT, 1).client_time == 1


def test_a_connection_that_is_not_logged_in_has_a_rate(start_server: StartServer) -> None:
    """By default. After login it has another one, or none."""
    with Lobby(start_server(workers=1)) as lobby:
        flood = lobby.open()
        flood.send_raw(b"".join(request(Opcode.HEARTBEAT, n, 1) for n in range(1, 401)))
        wait_until(lambda: lobby.counters()["slowed"] > 0, "it is held up")
        member = lobby.enter()
        statuses, _ = timed(member, 400)
        assert statuses == [Status.OK] * 400
        assert lobby.counters()["slowed"] + lobby.counters()["rate_limited"] < 400


def test_so_many_messages_of_one_user_in_one_room(start_server: StartServer) -> None:
    with Lobby(start_server("--chat-rate", "2")) as lobby:
        flood, other = lobby.enter(client_id=5), lobby.enter()
        for wire in (flood, other):
            for room in (1, 2):
                wire.ok(Opcode.JOIN_ROOM, room)
        answers = [flood.call(Opcode.CHAT_SEND, 1, "again") for _ in range(20)]
        refused = [answer for answer in answers if answer.status != Status.OK]
        assert refused
        assert all(answer.status == BUSY for answer in refused)
        assert all(0 < answer.body.retry_after_ms <= 501 for answer in refused)
        assert flood.ok(Opcode.CHAT_SEND, 2, "another room").room_seq
        assert other.ok(Opcode.CHAT_SEND, 1, "another user").room_seq
        assert flood.ok(Opcode.DEPOSIT, 5).balance == 5
        names = [member.user_id for member in other.ok(Opcode.ROOM_MEMBERS, 1, 0).members]
        directs = [other.call(Opcode.DIRECT_SEND, names[0], "psst").status for _ in range(20)]
        assert set(directs) == {Status.OK, BUSY}
        first = next(n for n, answer in enumerate(answers) if answer.status != Status.OK)
        assert first >= 10, "5 s of the rate may come at once"


def test_so_much_of_one_user_is_written(start_server: StartServer) -> None:
    """By all its connections, on whichever worker; others write on, and reading is not counted."""
    with Lobby(start_server("--user-writes", "30", workers=2)) as lobby:
        username = lobby.new_user()
        one, two, other = lobby.enter(username, client_id=5), lobby.enter(username), lobby.enter()
        to_user = one.ok(Opcode.USER_LOOKUP, username).user_id
        before = lobby.counters()["over_quota"]
        answers = [one.call(Opcode.DEPOSIT, 1) for _ in range(20)]
        two.ok(Opcode.JOIN_ROOM, 1)
        answers += [two.call(Opcode.CHAT_SEND, 1, "again") for _ in range(20)]
        done = [answer.status for answer in answers].index(BUSY)
        assert [answer.status for answer in answers] == [Status.OK] * done + [BUSY] * (40 - done)
        assert done == 29
        assert all(0 < answer.body.retry_after_ms <= 120_001 for answer in answers[done:])
        assert "written" in answers[-1].body.detail
        assert lobby.counters()["over_quota"] == before + 40 - done
        assert one.ok(Opcode.BALANCE).balance == 20
        assert len(one.ok(Opcode.TXN_HISTORY, 0, 99).transactions) == 20
        two.ok(Opcode.LEAVE_ROOM, 1)
        other.ok(Opcode.DEPOSIT, 7)
        assert other.ok(Opcode.TRANSFER, to_user, 7).balance == 0


def test_so_many_payments_are_told(start_server: StartServer) -> None:
    """All are made; of a flood the payee is told of some, and finds the rest in the history."""
    with Lobby(start_server("--payment-rate", "3")) as lobby:
        payer = lobby.enter()
        payee_name = lobby.new_user()
        payee = lobby.enter(payee_name, capabilities=int(Capability.PAYMENTS))
        to_user = payer.ok(Opcode.USER_LOOKUP, payee_name).user_id
        payer.ok(Opcode.DEPOSIT, 1000)
        began = time.monotonic()
        for _ in range(100):
            payer.ok(Opcode.TRANSFER, to_user, 1)
        seconds = time.monotonic() - began
        untold = lobby.counters()["payments_untold"]
        assert untold >= 100 - 3 - 3 * seconds - 1
        for _ in range(100 - untold):
            assert payee.push().opcode == Opcode.PAYMENT
        assert payee.ok(Opcode.BALANCE).balance == 100


def test_registrations_of_an_address_and_in_all(start_server: StartServer) -> None:
    flags = ("--address-registrations", "3", "--registrations", "5")
    with Lobby(start_server(*flags, workers=2)) as lobby:

        def register(wire: Wire) -> Status:
            username = lobby.name()
            wire.hello(username)
            return Status(wire.register(username).status)

        here = [register(lobby.open()) for _ in range(5)]
        assert here == [Status.OK] * 3 + [BUSY] * 2
        found = list[Status]()
        for _ in range(4):
            with Wire(connect_from(lobby.server, OTHER)) as wire:
                found.append(register(wire))
        assert found == [Status.OK] * 2 + [BUSY] * 2


def test_sessions_of_a_user(start_server: StartServer) -> None:
    """One more is refused; one that supersedes is not one more; a place that is free is given."""
    with Lobby(start_server("--user-sessions", "3", workers=2)) as lobby:
        username = lobby.new_user()
        first, *_ = [lobby.enter(username, client_id=n) for n in range(1, 4)]
        late = lobby.open()
        late.hello(username)
        refused = late.login(username, client_id=4)
        assert refused.status == BUSY
        assert "sessions" in refused.body.detail
        lobby.enter(username, client_id=2)
        lobby.enter()
        first.close()

        def enters() -> bool:
            wire = lobby.open()
            wire.hello(username)
            return wire.login(username, client_id=5).status == Status.OK

        wait_until(enters, "a session has ended")


def test_rooms_of_a_session(start_server: StartServer) -> None:
    with Lobby(start_server("--session-rooms", "2")) as lobby:
        wire = lobby.enter()
        wire.ok(Opcode.JOIN_ROOM, 1)
        wire.ok(Opcode.JOIN_ROOM, 2)
        assert wire.call(Opcode.JOIN_ROOM, 3).status == Status.ERR_LIMIT
        wire.ok(Opcode.JOIN_ROOM, 2)
        wire.ok(Opcode.LEAVE_ROOM, 1)
        wire.ok(Opcode.JOIN_ROOM, 3)


def test_client_records_are_counted_over_a_restart(tmp_path: Path) -> None:
    data, flags = tmp_path / "data", ("--user-clients", "3")
    with RunningServer(data, *flags) as server, Lobby(server) as lobby:
        username = lobby.new_user()
        for client_id in (1, 2, 3):
            lobby.enter(username, client_id=client_id)
        assert server.stop() == 0
    for ends in (RunningServer.stop, RunningServer.crash):
        with RunningServer(data, *flags) as server, Lobby(server) as lobby:
            wire = lobby.open()
            wire.hello(username)
            refused = wire.login(username, client_id=4)
            assert refused.status == BUSY
            assert "clients" in refused.body.detail
            ends(server)


def test_client_records_of_a_user(start_server: StartServer) -> None:
    """Of one's own the one that has been idle the longest goes, and nobody else's; where all were
    in use just now, the login says when one may be given away."""
    flags = ("--user-clients", "3", "--client-retention", "1")
    with Lobby(start_server(*flags, workers=2)) as lobby:
        username, other = lobby.new_user(), lobby.enter(client_id=9)
        kept = lobby.enter(username, client_id=1)
        for client_id in (2, 3):
            with Wire(lobby.server.connect()) as wire:
                wire.hello(username)
                assert wire.login(username, client_id=client_id).status == Status.OK
                wire.ok(Opcode.LOGOUT)

        def login(client_id: int) -> tuple[Status, int]:
            with Wire(lobby.server.connect()) as wire:
                wire.hello(username)
                answer = wire.login(username, client_id=client_id)
                status = Status(answer.status)
                return status, answer.body.resumed if status == Status.OK else 0

        wait_until(lambda: login(4)[0] == Status.OK, "one has been idle for a second")
        assert login(3) == (Status.OK, 1), "it was idle for less"
        assert login(4) == (Status.OK, 1)
        status, resumed = login(2)
        assert (status, resumed) in {(BUSY, 0), (Status.OK, 0)}, "its record was given away"
        assert kept.ok(Opcode.DEPOSIT, 1).balance == 1
        assert other.ok(Opcode.DEPOSIT, 1).balance == 1
