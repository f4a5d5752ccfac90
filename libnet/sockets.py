"""TCP sockets: listening ones that share a port, tuned connections, and whole reads and writes.

Each worker has a listener of its own on the one port (SO_REUSEPORT), so the kernel spreads
connections and no worker waits for another to accept. The price is that a second server could bind
to the same port without an error. So the first listener is made without sharing (`listen_first`):
the kernel lets one process have it, at whatever instant, with overlapping addresses too. After
that it shares.

A listener that is closed resets whoever waits in its queue. So where there are to be fewer, none is
closed: `steer` has no more come to those that are not wanted, and somebody accepts what they have.
"""

import ctypes
import encodings.idna  # noqa: F401 - else getaddrinfo loads it, which fails without descriptors
import errno
import math
import os
import random
import select
import socket
import struct
import time

from libnet.errors import AddressInUse, ConnectFailed, DeadlineExceeded, NetError, PeerClosed

_RACES_MAX = 8  # lost in a row, each against another that begins at the same instant
_RACE_S = 0.02

# Of asm-generic/socket.h and linux/filter.h: a classic BPF program of three instructions.
_SO_ATTACH_REUSEPORT_CBPF = 51
_INSTRUCTION = struct.Struct("=HBBI")  # code, two jumps, operand
_PROGRAM = struct.Struct("@HL")  # how many instructions, and where they are
_LOAD_WORD, _MODULO, _RETURN = 0x20, 0x94, 0x16
_RANDOM_NUMBER = 0xFFFFF000 + 56  # what the load is of: SKF_AD_OFF + SKF_AD_RANDOM

USER_TIMEOUT_MS = 30_000
"""How long sent bytes may stay unacknowledged on a client's connection before it is given up."""


def reason(error: Exception) -> str:
    """Say in words what went wrong; a host that is no name at all fails as UnicodeError."""
    if not isinstance(error, OSError):
        return str(error)
    if error.errno and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)  # the event loop has put an address there
    return error.strerror or str(error)


def peer_of(sock: socket.socket) -> str:
    """The address at the other end of a connection, without its port: "192.0.2.7", "2001:db8::7".
    An IPv4 address is written as one, also where it came to an IPv6 socket. Empty where the peer
    has gone already."""
    try:
        host = str(sock.getpeername()[0])
    except OSError:
        return ""
    return host.removeprefix("::ffff:") if "." in host else host.partition("%")[0]


def network_of(host: str) -> str:
    """What one peer can choose an address from, as whoever counts by address must: of IPv6 the
    first 64 bits, which are a single customer's (RFC 6177), of IPv4 the whole address."""
    if ":" not in host:
        return host
    return socket.inet_pton(socket.AF_INET6, host)[:8].hex()


_Address = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


def _resolved(host: str, port: int) -> tuple[int, int, int, _Address]:
    """Return family, kind, protocol and address of the first one that `host` stands for."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise NetError(f"host {host!r} cannot be resolved: {reason(error)}") from error
    return family, kind, proto, address


def where(host: str, port: int) -> tuple[object, ...]:
    """Return the address that a listener on `host` and `port` has, as its `getsockname` tells it
    but for a `port` that is 0. Raises NetError."""
    return _resolved(host, port)[3]


def _bound(host: str, port: int, share: bool) -> socket.socket:
    """Return a socket bound to the first address that `host` stands for."""
    family, kind, proto, address = _resolved(host, port)
    try:
        sock = socket.socket(family, kind, proto)
    except OSError as error:
        raise NetError(f"cannot make a socket for {host}: {reason(error)}") from error
    try:
        # Connections of an earlier server that linger in TIME_WAIT are no obstacle.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(f"{host} port {port} is in use by another process") from error
        raise NetError(f"cannot bind to {host} port {port}: {reason(error)}") from error
    return sock


def listen(host: str, port: int, backlog: int = 1024) -> socket.socket:
    """Return a non-blocking listener, IPv4 or IPv6, that shares its port (SO_REUSEPORT).

    `port` 0 takes a free one. Raises AddressInUse where a process that does not share has the
    port, else NetError. One that shares is not noticed: see `listen_first`.
    """
    return _listening(_bound(host, port, share=True), host, backlog)


def listen_first(host: str, port: int, backlog: int = 1024) -> socket.socket:
    """Return a listener as `listen` does, if nobody else listens on the port; it shares then.

    Raises AddressInUse if any process listens on an address that overlaps, one that shares it
    included, else NetError. Of several processes that call it at the same instant one succeeds.
    """
    for attempt in range(_RACES_MAX):
        # Several may bind before one listens, and the kernel may then refuse each of them. Who
        # comes again finds out whether another one has it.
        try:
            sock = _listening(_bound(host, port, share=False), host, backlog)
        except _RaceLost as error:
            if attempt == _RACES_MAX - 1:
                raise AddressInUse(str(error)) from error
            time.sleep(random.uniform(0, _RACE_S))  # noqa: S311 - only to be apart
            continue
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except OSError as error:
            sock.close()
            raise NetError(f"cannot share {host} port {port}: {reason(error)}") from error
        return sock
    raise AssertionError


class _RaceLost(AddressInUse):
    """Bound, but another one listens meanwhile."""


def _listening(sock: socket.socket, host: str, backlog: int) -> socket.socket:
    """The bound socket, listening; closed where that fails."""
    try:
        sock.listen(backlog)
        sock.setblocking(False)
    except OSError as error:
        port = sock.getsockname()[1]
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise _RaceLost(f"{host} port {port} is in use by another process") from error
        raise NetError(f"cannot listen on {host} port {port}: {reason(error)}") from error
    return sock


def steer(listener: socket.socket, count: int) -> None:
    """Spread what connects to a shared port from now on over the first `count` of its listeners, in
    the order in which they were made; without this it is spread over all. One whose handshake has
    begun stays where it is. listener: any of them. OSError where the system cannot do it.
    """
    program = ctypes.create_string_buffer(
        _INSTRUCTION.pack(_LOAD_WORD, 0, 0, _RANDOM_NUMBER)
        + _INSTRUCTION.pack(_MODULO, 0, 0, count)
        + _INSTRUCTION.pack(_RETURN, 0, 0, 0),
        3 * _INSTRUCTION.size,
    )
    told = _PROGRAM.pack(3, ctypes.addressof(program))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, told)


def probe_port(host: str, port: int) -> None:
    """Raise AddressInUse if any process listens on the port, one that shares it included.

    Binds without SO_REUSEPORT and closes again; raises NetError where the address cannot be bound.
    """
    _bound(host, port, share=False).close()


def limit_buffers(sock: socket.socket, size: int) -> None:
    """Bytes that the kernel keeps at most of what arrives at a socket, and of what it sends. Where
    nothing is said it keeps megabytes for a peer that does not read. The kernel doubles the value,
    for its own needs (socket(7)), and bounds it by net.core.rmem_max and wmem_max. Not for a
    listener: the window of what it accepts could never grow beyond it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def tune(sock: socket.socket, user_timeout_ms: int) -> None:
    """Send without delay, and give the connection up when sent bytes stay unacknowledged so long.

    TCP_NODELAY, because a response is written whole and Nagle would only hold it back;
    TCP_USER_TIMEOUT (RFC 5482), because the default is a quarter of an hour. A system without it
    (any but Linux) keeps its own limit.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # else an unanswered heartbeat shows the loss
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, user_timeout_ms)


def connect(
    host: str, port: int, timeout_s: float, user_timeout_ms: int = USER_TIMEOUT_MS
) -> socket.socket:
    """Return a blocking, tuned connection; `timeout_s` holds for each address `host` stands for.

    Raises ConnectFailed.
    """
    try:
        sock = socket.create_connection((host, port), timeout=timeout_s)
    except TimeoutError as error:
        why = f"no answer within {timeout_s:g} s"
        raise ConnectFailed(f"cannot connect to {host} port {port}: {why}") from error
    except (OSError, UnicodeError) as error:
        raise ConnectFailed(f"cannot connect to {host} port {port}: {reason(error)}") from error
    if is_self_connected(sock):
        sock.close()
        raise ConnectFailed(f"cannot connect to {host} port {port}: nobody listens there")
    sock.settimeout(None)
    tune(sock, user_timeout_ms)
    return sock


def is_self_connected(sock: socket.socket) -> bool:
    """Tell whether both ends are this socket.

    TCP's simultaneous open does that when the kernel picks, as the local port, the very port that
    is connected to: it happens to who retries on the loopback address while the server is down.
    """
    try:
        return bool(sock.getsockname() == sock.getpeername())
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            return False  # the other end has reset it already: whoever reads is told
        raise


def _wait(sock: socket.socket, event: int, deadline: float | None, transferred: int) -> None:
    poller = select.poll()
    poller.register(sock, event)
    if deadline is None:
        poller.poll()
        return
    left_s = deadline - time.monotonic()
    if left_s <= 0 or not poller.poll(math.ceil(left_s * 1000)):
        raise DeadlineExceeded(f"deadline passed after {transferred} bytes", transferred)


# Both functions below try first and wait afterwards, and leave the socket's mode alone: a second
# thread may be using it in the other direction, and settimeout() would change that too.


def readn(sock: socket.socket, n: int, deadline: float | None) -> bytes:
    """Read exactly `n` bytes by `deadline` (time.monotonic() seconds; None waits for ever).

    Works on blocking and on non-blocking sockets. What has already arrived is taken even when the
    deadline has passed. Raises PeerClosed and DeadlineExceeded; both carry `transferred`.
    """
    if n < 0:
        raise ValueError(f"cannot read {n} bytes")
    data = bytearray(n)
    view = memoryview(data)
    done = 0
    while done < n:
        try:
            got = sock.recv_into(view[done:], 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            _wait(sock, select.POLLIN, deadline, done)
            continue
        except OSError as error:
            raise _lost(error, done) from error
        if got == 0:
            raise PeerClosed(f"peer closed after {done} of {n} bytes", done)
        done += got
    return bytes(data)


def writen(sock: socket.socket, data: bytes, deadline: float | None) -> None:
    """Write all of `data` by `deadline` (time.monotonic() seconds; None waits for ever).

    Works on blocking and on non-blocking sockets. Raises PeerClosed and DeadlineExceeded; both
    carry `transferred`, which counts what the kernel took, not what the peer received.
    """
    view = memoryview(data)
    done = 0
    while done < len(view):
        try:
            done += sock.send(view[done:], socket.MSG_DONTWAIT)
        except BlockingIOError:
            _wait(sock, select.POLLOUT, deadline, done)
        except OSError as error:
            raise _lost(error, done) from error


# A connection's ends: reset, aborted, given up by TCP_USER_TIMEOUT, or its way there gone.
_LOST = {
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.EPIPE,
    errno.ETIMEDOUT,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
}


def _lost(error: OSError, transferred: int) -> NetError:
    if error.errno in _LOST:
        return PeerClosed(
            f"connection lost after {transferred} bytes: {reason(error)}", transferred
        )
    return NetError(f"socket cannot be used: {reason(error)}")
