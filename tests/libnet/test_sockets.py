"""Sockets, on real ones: shared ports, the probe, connecting, and whole reads and writes."""

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libnet import (
    AddressInUse,
    ConnectFailed,
    DeadlineExceeded,
    NetError,
    PeerClosed,
    connect,
    listen,
    probe_port,
    readn,
    tune,
    writen,
)
from libnet.sockets import is_self_connected, listen_first, steer
from tests.helpers.server import lasting_port

TIMEOUT_S = 10.0
HOSTS = ["127.0.0.1", "::1"]


def soon() -> float:
    """A deadline that a test meets unless something hangs."""
    return time.monotonic() + TIMEOUT_S


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def accept(listener: socket.socket) -> socket.socket:
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    assert poller.poll(TIMEOUT_S * 1000), "nobody connected"
    return listener.accept()[0]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection: the client's end (blocking) and the server's, with small buffers."""
    with listen("127.0.0.1", 0) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client = connect("127.0.0.1", port_of(listener), TIMEOUT_S)
        server = accept(listener)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with client, server:
        yield client, server


# Listening


def waiting(listener: socket.socket) -> int:
    """How many have connected to it, and are taken by this."""
    count = 0
    while True:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return count
        sock.close()
        count += 1


@pytest.mark.parametrize("host", HOSTS)
def test_connections_come_to_the_first_listeners_only(host: str) -> None:
    """As many as are wanted just now, in the order in which they were made. Who has connected
    before stays in the queue of another one, and is served."""
    with ExitStack() as stack:
        first = stack.enter_context(listen_first(host, 0))
        port = port_of(first)
        listeners = [first, *(stack.enter_context(listen(host, port)) for _ in range(3))]
        for count in (1, 3, 2, 4):
            steer(listeners[-1], count)
            clients = [connect(host, port, TIMEOUT_S) for _ in range(24 * count)]
            steer(first, 1)
            came = [waiting(listener) for listener in listeners]
            assert sum(came) == len(clients)
            assert all(came[:count])
            assert not any(came[count:])
            for client in clients:
                client.close()


@pytest.mark.parametrize("host", HOSTS)
def test_two_listeners_share_a_port_and_both_are_served(host: str) -> None:
    with listen(host, 0) as one, listen(host, port_of(one)) as two:
        assert not one.getblocking()
        assert not two.getblocking()
        assert one.family == (socket.AF_INET6 if ":" in host else socket.AF_INET)
        clients = [connect(host, port_of(one), TIMEOUT_S) for _ in range(64)]
        served = {one: 0, two: 0}
        poller = select.poll()
        for listener in served:
            poller.register(listener, select.POLLIN)
        by_fd = {listener.fileno(): listener for listener in served}
        while sum(served.values()) < len(clients):
            ready = poller.poll(TIMEOUT_S * 1000)
            assert ready
            for fd, _ in ready:
                by_fd[fd].accept()[0].close()
                served[by_fd[fd]] += 1
        for client in clients:
            client.close()
        assert min(served.values()) > 0


def test_listener_is_kept_from_programs_that_are_started() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert not os.get_inheritable(listener.fileno())


@pytest.mark.parametrize("host", HOSTS)
def test_port_of_somebody_who_does_not_share_is_in_use(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as other:
        other.bind((host, 0))
        other.listen()
        with pytest.raises(AddressInUse, match=f"{host} port {port_of(other)}"):
            listen(host, port_of(other))
        with pytest.raises(AddressInUse):
            probe_port(host, port_of(other))


@pytest.mark.parametrize("host", HOSTS)
def test_probe_notices_somebody_who_shares(host: str) -> None:
    with listen(host, 0) as other:
        port = port_of(other)
        with listen(host, port):
            pass  # which is why the probe is needed
        with pytest.raises(AddressInUse):
            probe_port(host, port)
    probe_port(host, port)


def test_probe_notices_a_listener_on_all_addresses() -> None:
    with listen("0.0.0.0", 0) as other, pytest.raises(AddressInUse):  # noqa: S104 - the case
        probe_port("127.0.0.1", port_of(other))


def test_free_port_can_be_probed_and_then_listened_on() -> None:
    port = lasting_port()
    probe_port("127.0.0.1", port)
    probe_port("127.0.0.1", 0)
    with listen("127.0.0.1", port) as listener:
        assert port_of(listener) == port


def test_connections_of_a_former_server_do_not_block_its_port() -> None:
    with listen("127.0.0.1", lasting_port()) as listener:
        port = port_of(listener)
        client = connect("127.0.0.1", port, TIMEOUT_S)
        accept(listener).close()  # closed here first: this end goes to TIME_WAIT
        assert client.recv(1) == b""
        client.close()
    probe_port("127.0.0.1", port)
    listen("127.0.0.1", port).close()


@pytest.mark.parametrize("host", ["fe80::1%no-such-link", "a..b", "203.0.113.1"])
def test_host_that_is_not_ours_is_a_typed_error_that_names_it(host: str) -> None:
    with pytest.raises(NetError, match=host):
        listen(host, 0)


# Connecting


@pytest.mark.parametrize("host", HOSTS)
def test_connection_is_blocking_and_tuned(host: str) -> None:
    with listen(host, 0) as listener, connect(host, port_of(listener), TIMEOUT_S, 12_345) as sock:
        assert sock.getblocking()
        assert sock.gettimeout() is None
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 12_345


def test_tune_sets_what_the_kernel_reads_back(pair: tuple[socket.socket, socket.socket]) -> None:
    _, server = pair
    tune(server, 4321)
    assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 4321


def test_refused_connection_says_where_and_why() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets this port
        port = port_of(taken)
        with pytest.raises(ConnectFailed, match=f"127.0.0.1 port {port}: Connection refused"):
            connect("127.0.0.1", port, TIMEOUT_S)


@pytest.mark.parametrize("host", ["fe80::1%no-such-link", "a..b"])
def test_host_that_does_not_resolve_is_connect_failed(host: str) -> None:
    with pytest.raises(ConnectFailed, match=host):
        connect(host, 1, TIMEOUT_S)


def test_connect_gives_up_at_its_timeout() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        # A full accept queue lets the kernel drop what comes: the next ones stay unanswered.
        waiting = [socket.socket() for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        try:
            with pytest.raises(ConnectFailed, match=r"no answer within 0.2 s"):
                connect("127.0.0.1", port_of(full), 0.2)
        finally:
            for sock in waiting:
                sock.close()


def test_connection_to_itself_is_recognised() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.connect(sock.getsockname())
        assert is_self_connected(sock)
    with (
        listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname(), TIMEOUT_S) as sock,
    ):
        assert not is_self_connected(sock)


def test_a_connection_that_was_reset_is_not_to_itself() -> None:
    """The kernel has forgotten its other end by then."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as sock,
    ):
        accepted, _ = listener.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()
        select.select([sock], [], [], 10.0)
        with pytest.raises(OSError, match="not connected"):
            sock.getpeername()
        assert not is_self_connected(sock)


# Whole reads and writes


@pytest.mark.parametrize("blocking", [True, False])
def test_everything_arrives_over_tiny_buffers(
    pair: tuple[socket.socket, socket.socket], blocking: bool
) -> None:
    client, server = pair
    client.setblocking(blocking)
    server.setblocking(blocking)
    data = os.urandom(1_000_000)
    writer = threading.Thread(target=writen, args=(client, data, soon()))
    writer.start()
    received = readn(server, 1, soon()) + readn(server, len(data) - 1, soon())
    writer.join(TIMEOUT_S)
    assert received == data
    assert client.getblocking() is blocking
    assert server.getblocking() is blocking


@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=6))
def test_any_sizes_of_reads_give_the_same_bytes(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    one, two = socket.socketpair()
    with one, two:
        writen(one, data, soon())
        parts = [readn(two, b - a, soon()) for a, b in pairwise(edges)]
    assert b"".join(parts) == data


def test_reads_without_a_deadline_wait_for_the_bytes(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    client, server = pair
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(readn(server, 6, None)))
    reader.start()
    writen(client, b"abc", None)
    writen(client, b"def", None)
    reader.join(TIMEOUT_S)
    assert got == [b"abcdef"]


def test_reading_nothing_needs_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    assert readn(server, 0, time.monotonic() - 1) == b""
    writen(client, b"", time.monotonic() - 1)
    with pytest.raises(ValueError, match="-1 bytes"):
        readn(server, -1, None)


def test_read_ends_at_its_deadline_and_tells_what_came(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    client, server = pair
    writen(client, b"abc", soon())
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded) as caught:
        readn(server, 10, start + 0.2)
    assert time.monotonic() - start >= 0.2
    assert caught.value.transferred == 3
    assert isinstance(caught.value, TimeoutError)


def test_what_has_arrived_is_taken_although_the_deadline_passed(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    client, server = pair
    writen(client, b"abc", soon())
    assert readn(server, 1, soon()) == b"a"
    assert readn(server, 2, time.monotonic() - 1) == b"bc"
    with pytest.raises(DeadlineExceeded) as caught:
        readn(server, 1, time.monotonic() - 1)
    assert caught.value.transferred == 0


def test_peer_that_trickles_does_not_extend_the_deadline(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    client, server = pair
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.02):
            writen(client, b"x", None)

    writer = threading.Thread(target=trickle)
    writer.start()
    try:
        start = time.monotonic()
        with pytest.raises(DeadlineExceeded) as caught:
            readn(server, 100_000, start + 0.3)
        assert time.monotonic() - start < TIMEOUT_S
        assert 0 < caught.value.transferred < 100_000
    finally:
        stop.set()
        writer.join(TIMEOUT_S)


def test_write_ends_at_its_deadline_and_tells_what_was_taken(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    client, server = pair
    data = bytes(10_000_000)
    with pytest.raises(DeadlineExceeded) as caught:
        writen(client, data, time.monotonic() + 0.2)
    taken = caught.value.transferred
    assert 0 < taken < len(data)
    client.shutdown(socket.SHUT_WR)
    assert readn(server, taken, soon()) == data[:taken]
    with pytest.raises(PeerClosed):
        readn(server, 1, soon())


@pytest.mark.parametrize("sent", [0, 1, 31])
def test_peer_that_closes_in_the_middle_is_told_with_what_came(
    pair: tuple[socket.socket, socket.socket], sent: int
) -> None:
    client, server = pair
    writen(client, b"x" * sent, soon())
    client.close()
    with pytest.raises(PeerClosed, match=f"after {sent} of 32 bytes") as caught:
        readn(server, 32, soon())
    assert caught.value.transferred == sent
    assert isinstance(caught.value, ConnectionError)


def reset(sock: socket.socket) -> None:
    """Close with a reset instead of an orderly end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_peer_that_resets_is_told_to_reader_and_writer(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    client, server = pair
    reset(client)
    with pytest.raises(PeerClosed):
        readn(server, 1, soon())
    with pytest.raises(PeerClosed) as caught:
        writen(server, b"x", soon())
    assert caught.value.transferred == 0


def test_writer_that_waits_is_told_of_a_reset(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    caught: list[PeerClosed] = []

    def write() -> None:
        with pytest.raises(PeerClosed) as info:
            writen(client, bytes(10_000_000), soon())
        caught.append(info.value)

    writer = threading.Thread(target=write)
    writer.start()
    readn(server, 1, soon())
    reset(server)
    writer.join(TIMEOUT_S)
    assert caught[0].transferred > 0


def test_reader_and_writer_share_a_socket(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    caught: list[int] = []

    def read() -> None:
        with pytest.raises(DeadlineExceeded) as info:
            readn(client, 10, time.monotonic() + 0.2)
        caught.append(info.value.transferred)

    reader = threading.Thread(target=read)
    reader.start()
    data = os.urandom(1_000_000)
    writer = threading.Thread(target=writen, args=(client, data, soon()))
    writer.start()
    reader.join(TIMEOUT_S)  # the reader's short deadline passes while the writer waits
    assert readn(server, len(data), soon()) == data
    writer.join(TIMEOUT_S)
    assert caught == [0]


def test_socket_that_was_closed_here_is_a_net_error(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    client, _ = pair
    client.close()
    with pytest.raises(NetError) as caught:
        readn(client, 1, soon())
    assert not isinstance(caught.value, PeerClosed)
    with pytest.raises(NetError):
        writen(client, b"x", soon())
