"""Who opens many connections keeps nobody else out: limits by address, and for those that are not
logged in. Two addresses of this machine are the two parties."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from libproto.errors import Status
from libproto.messages import Flag, Opcode
from tests.helpers.server import RunningServer, StartServer, wait_until
from tests.helpers.wire import DEADLINE_S, Lobby, Wire

OTHER = "127.0.0.2"


def connect_from(server: RunningServer, address: str) -> socket.socket:
    return socket.create_connection((server.host, server.port), DEADLINE_S, (address, 0))


def refusal(wire: Wire) -> str:
    """Why a connection was turned away; empty where it was not."""
    wire.send(Opcode.HEARTBEAT, 1)
    frame = wire.receive()
    assert frame is not None
    if frame.opcode == Opcode.HEARTBEAT:
        return ""
    assert (frame.opcode, frame.req_id, frame.flags) == (Opcode.HELLO, 0, Flag.RESPONSE)
    assert frame.status == Status.ERR_SERVER_BUSY
    assert frame.body.retry_after_ms > 0
    return str(frame.body.detail)


def test_one_address_has_so_many_connections(start_server: StartServer) -> None:
    """Over all workers, logged in or not; another address is not concerned, and a worker that was
    killed is in nobody's way."""
    with Lobby(start_server("--address-connections", "6", workers=2)) as lobby:
        server = lobby.server
        username = lobby.new_user()
        wait_until(lambda: lobby.counters()["connections"] == 0, "the registration is over")
        inside = [lobby.enter(username) for _ in range(5)]
        assert refusal(lobby.open()) == ""
        assert refusal(lobby.open()) == "too many connections from one address"
        assert lobby.counters()["refused_address"] == 1
        with Wire(connect_from(server, OTHER)) as elsewhere:
            assert refusal(elsewhere) == ""
        inside.pop().close()
        wait_until(lambda: refusal(lobby.open()) == "", "one has left")
        pids = server.worker_pids()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: len(server.worker_pids()) == 2 and not set(server.worker_pids()) & set(pids),
            "there are new workers",
        )
        wait_until(lambda: lobby.crowd() == 0, "they have begun anew")
        for _ in range(6):
            lobby.enter(username)
        assert refusal(lobby.open()) == "too many connections from one address"


@contextmanager
def flooding(server: RunningServer) -> Iterator[None]:
    """Somebody at the other address opens connections, one after the other, and says nothing."""
    stop, failed = threading.Event(), list[BaseException]()
    opened: list[socket.socket] = []

    def flood() -> None:
        try:
            while not stop.wait(0.005) and len(opened) < 3000:
                opened.append(connect_from(server, OTHER))
        except BaseException as error:
            failed.append(error)
            raise

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        for sock in opened:
            sock.close()
    assert not failed


def test_who_never_logs_in_keeps_nobody_out(start_server: StartServer) -> None:
    with Lobby(start_server("--max-connections", "20", workers=2)) as lobby:
        username = lobby.new_user()
        inside = lobby.enter(username)
        with flooding(lobby.server):
            wait_until(lambda: lobby.counters()["made_way"] > 20, "the server is full of them")
            for _ in range(10):
                lobby.enter(username)
            assert inside.ok(Opcode.HEARTBEAT, 3).client_time == 3
        counters = lobby.counters()
        assert counters["sessions"] == 11, "who is logged in gives way to nobody"


def test_within_an_address_the_oldest_gives_way_after_a_moment(start_server: StartServer) -> None:
    with Lobby(start_server("--max-connections", "4", workers=1)) as lobby:
        waiting = [lobby.open() for _ in range(2)]
        wait_until(lambda: lobby.counters()["unauthenticated"] == 2, "half of the places are taken")

        def enters() -> bool:
            return refusal(lobby.open()) == ""

        wait_until(enters, "the oldest has had its time")
        told = waiting[0].receive()
        assert told is not None
        assert (told.opcode, told.status) == (Opcode.HELLO, Status.ERR_SERVER_BUSY)
        assert waiting[0].receive() is None
        assert waiting[1].ok(Opcode.HEARTBEAT, 7).client_time == 7
