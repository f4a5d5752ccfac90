"""The records of clients over real connections: given away, taken back, and over restarts."""

import time
from pathlib import Path

import pytest

from libproto.errors import Status
from libproto.messages import Flag, Opcode
from server.region.region import Region
from tests.helpers.server import RunningServer, StartServer, wait_until
from tests.helpers.wire import Lobby, Received, Wire
from tests.integration.banks import kill_all, register, serving

AGAIN = int(Flag.POSSIBLE_DUPLICATE)
SMALL = ("--clients", "2", "--client-retention", "1")


def log_in(
    server: RunningServer, name: str, client_id: int, next_req_id: int
) -> tuple[Wire, Received]:
    """A connection, and what its LOGIN was answered."""
    wire = Wire(server.connect())
    wire.hello(name)
    return wire, wire.login(name, client_id=client_id, next_req_id=next_req_id)


def visit(server: RunningServer, name: str, client_id: int) -> Received:
    """In and out; the answer of the LOGIN."""
    wire, answer = log_in(server, name, client_id, 1)
    if answer.status == Status.OK:
        wire.ok(Opcode.LOGOUT)
    wire.close()
    return answer


def visit_when_there_is_a_place(server: RunningServer, name: str, client_id: int) -> None:
    wait_until(lambda: visit(server, name, client_id).status == Status.OK, "a record is given away")


def pay(wire: Wire, req_id: int, *, flags: int = AGAIN) -> Status:
    return Status(wire.call(Opcode.DEPOSIT, 5, req_id=req_id, flags=flags).status)


@pytest.mark.parametrize("ends", ["no restart", "a stop", "a kill of everything"])
def test_a_retry_after_the_record_was_given_away_is_not_executed(tmp_path: Path, ends: str) -> None:
    """Others take both places; the client comes back (resumed 0), drops, comes back (resumed 1)
    and repeats; between the two the server may have been started anew."""
    data = tmp_path / "data"
    flags = (*SMALL, "--client-grace", "1")
    with serving(data, *flags) as server:
        for name in ("ann", "bob", "cyd"):
            register(server, name)
        ann, _ = log_in(server, "ann", 77, 10)
        assert pay(ann, 10, flags=0) == Status.OK
        ann.close()
        for name, client_id in (("bob", 78), ("cyd", 79)):
            visit_when_there_is_a_place(server, name, client_id)
        answers: list[Received] = []

        def back() -> bool:
            wire, answer = log_in(server, "ann", 77, 11)
            answers.append(answer)
            wire.close()
            return answer.status == Status.OK

        wait_until(back, "a record is given away")
        assert answers[-1].body.resumed == 0
        if ends == "no restart":
            check_unknown(server)
        elif ends == "a kill of everything":
            kill_all(server)
        else:
            assert server.stop() == 0
    if ends != "no restart":
        with serving(data, *flags) as server:
            check_unknown(server)


def check_unknown(server: RunningServer) -> None:
    """In the session after, and the one after that, on whichever worker."""
    for turn in range(4):
        wire, answer = log_in(server, "ann", 77, 11 + turn)
        assert (answer.status, answer.body.resumed) == (Status.OK, 1)
        assert pay(wire, 10) == Status.ERR_TIMEOUT
        assert pay(wire, 10, flags=0) == Status.ERR_TIMEOUT
        assert wire.ok(Opcode.BALANCE).balance == 5 * (turn + 1)
        assert pay(wire, 11 + turn) == Status.OK, "from the floor on it is executed"
        assert pay(wire, 11 + turn) == Status.OK
        wire.close()


def test_one_user_takes_all_places(start_server: StartServer) -> None:
    """The others are told when there is one, and have it then; so has the user's own program."""
    with Lobby(start_server("--clients", "6", "--client-retention", "1")) as lobby:
        burner, other = lobby.new_user(), lobby.new_user()
        wires = [lobby.enter(burner, client_id=client_id) for client_id in range(1, 7)]
        for name in (other, burner):
            refused = visit(lobby.server, name, 100)
            assert (refused.status, refused.body.retry_after_ms) == (Status.ERR_SERVER_BUSY, 1000)
        for wire in wires:
            wire.ok(Opcode.LOGOUT)
        for name in (other, burner):
            visit_when_there_is_a_place(lobby.server, name, 100)
        assert visit(lobby.server, burner, 6).body.resumed == 1, "not the youngest"


@pytest.mark.parametrize("killed", [False, True], ids=["a stop", "a kill of everything"])
def test_after_a_start_nobody_loses_a_record_that_was_in_use(tmp_path: Path, killed: bool) -> None:
    """Not even to its own user, for the grace; whoever comes back in it is known."""
    data = tmp_path / "data"
    flags = ("--clients", "1", "--client-retention", "600", "--client-grace", "600")
    with serving(data, *flags) as server:
        register(server, "ann")
        register(server, "bob")
        assert visit(server, "ann", 7).body.resumed == 0
        if killed:
            kill_all(server)
        else:
            assert server.stop() == 0
    with serving(data, *flags) as server:
        for name in ("ann", "bob"):
            refused = visit(server, name, 8)
            assert refused.status == Status.ERR_SERVER_BUSY
            assert 500_000 < refused.body.retry_after_ms <= 600_000
        assert visit(server, "ann", 7).body.resumed == 1


@pytest.mark.parametrize("killed", [False, True], ids=["a stop", "a kill of everything"])
def test_idle_time_goes_on_after_a_stop_and_begins_anew_after_a_crash(
    tmp_path: Path, killed: bool
) -> None:
    data = tmp_path / "data"
    flags = ("--clients", "2", "--client-retention", "1", "--client-grace", "600")
    with serving(data, *flags) as server:
        for name in ("ann", "bob", "cyd"):
            register(server, name)
        assert visit(server, "ann", 7).status == Status.OK
        keeps, _ = log_in(server, "bob", 8, 1)
        # Who takes ann's place shows that she was idle for the retention time.
        visit_when_there_is_a_place(server, "cyd", 9)
        wait_until(lambda: visit(server, "ann", 7).status == Status.OK, "cyd was, too")
        if killed:
            kill_all(server)
        else:
            idle_for_the_retention_time(server)
            assert server.stop() == 0
        keeps.close()
    with serving(data, *flags) as server:
        answer = visit(server, "cyd", 9)
        expected = Status.ERR_SERVER_BUSY if killed else Status.OK
        assert answer.status == expected, server.log_text()
        assert (data / "idle").exists() is False, "the start has removed it"


def idle_for_the_retention_time(server: RunningServer) -> None:
    """Until every client without a session has been."""
    region = Region.attach(server.name)
    try:

        def idle() -> bool:
            now, lived = time.monotonic_ns() // 1000, region.header.lived
            columns = map(region.column, ["clients"] * 3, ("user", "session", "idle_since"))
            return all(
                not user or session or now + lived - since > 1_000_000
                for user, session, since in zip(*columns, strict=True)
            )

        wait_until(idle, "it has been idle for long enough")
    finally:
        region.close()
