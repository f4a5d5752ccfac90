"""Peers that ask and never read what they are answered: what is kept for them is bounded, and their
deadlines hold."""

import socket
import time
from pathlib import Path

from libnet.transport import HIGH_MARK
from libproto.messages import Opcode
from tests.helpers.server import RunningServer, StartServer, wait_until
from tests.helpers.wire import Lobby, Wire, frozen, request

DEADLINE_S = 1.0
KIB = 1024


def unread(wire: Wire) -> int:
    """Bytes of the kernel's buffers, of both ends, that hold what one connection sent and was sent;
    those of the server's end only (ss would ask the same: /proc/net/tcp)."""
    port = wire.sock.getsockname()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[2].partition(":")[2], 16) == port:
            queues = fields[4].split(":")
            return sum(int(queue, 16) for queue in queues)
    return 0


def flooded(wire: Wire, data: bytes) -> int:
    """How much of an endless flood one can send that nobody takes for a second."""
    wire.sock.setblocking(False)
    sent, last = 0, time.monotonic()
    while time.monotonic() - last < 1.0 and sent < 64 << 20:
        try:
            sent += wire.sock.send(data)
            last = time.monotonic()
        except BlockingIOError:
            time.sleep(0)
        except ConnectionError:
            break
    return sent


def small_reader(server: RunningServer) -> Wire:
    """A connection whose own end keeps next to nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(30)
    sock.connect((server.host, server.port))
    return Wire(sock)


def test_before_login_next_to_nothing_is_kept(start_server: StartServer) -> None:
    with Lobby(start_server("--handshake-timeout", "60")) as lobby:
        wire = small_reader(lobby.server)
        flooded(wire, b"".join(request(Opcode.HEARTBEAT, n, n) for n in range(1, 1000)))
        assert unread(wire) <= 64 * KIB
        wire.close()


def test_the_deadline_of_a_login_holds_for_who_does_not_read(start_server: StartServer) -> None:
    flags = ("--handshake-timeout", str(DEADLINE_S), "--unauthenticated-rate", "0")
    with Lobby(start_server(*flags)) as lobby:
        wire = small_reader(lobby.server)
        began = time.monotonic()
        wire.sock.setblocking(False)
        data = b"".join(request(Opcode.HEARTBEAT, n, n) for n in range(1, 1000))
        open_for = 0.0
        while not open_for:
            try:
                wire.sock.send(data)
            except BlockingIOError:
                time.sleep(0)
            except ConnectionError:
                open_for = time.monotonic() - began
            assert time.monotonic() - began < 60
        wait_until(lambda: lobby.counters()["connections"] == 0, "it is closed")
        wire.close()
        assert lobby.counters()["timed_out"] == 1


def test_parked_answers_count(start_server: StartServer) -> None:
    """Histories of 60 KB each, that wait for the journal: as few of them are made as may wait for
    a peer that does not read."""
    with Lobby(start_server("--durability", "sync", workers=1)) as lobby:
        talker, asker = lobby.enter(), lobby.enter()
        for wire in (talker, asker):
            wire.ok(Opcode.JOIN_ROOM, 1)
        for _ in range(16):
            talker.ok(Opcode.CHAT_SEND, 1, "x" * 4000)
        with frozen(lobby.server.journal_pid()):
            talker.send(Opcode.CHAT_SEND, 1, "not durable yet")
            wait_until(lambda: lobby.served("CHAT_SEND")["requests"][0] == 17, "it is said")
            count = 100
            asker.send_raw(
                b"".join(request(Opcode.ROOM_HISTORY, n, 1, 0, 256) for n in range(1, count + 1))
            )
            wait_until(lambda: lobby.served("ROOM_HISTORY")["requests"][0] > 0, "it has begun")
            talker.send(Opcode.HEARTBEAT, 1)  # of the same worker: it has had its turn after that
            wait_until(lambda: lobby.served("HEARTBEAT")["requests"][0] == 1, "a turn later")
            made = lobby.served("ROOM_HISTORY")["requests"][0]
            assert made <= HIGH_MARK // (60 * KIB) + 2
        for _ in range(count):
            assert len(asker.answer().body.events) == 19
