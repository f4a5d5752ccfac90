"""Connecting by name on an event loop: every address is tried, under one deadline.

The addresses that a name stands for are tried as RFC 8305 ("happy eyeballs") says: in the order of
the resolver with the families interleaved, the next one as soon as one has failed or has not
answered within STAGGER_S; the first that answers is taken and the others are dropped. So a dead
first address costs a quarter of a second and not the whole timeout.

The resolver of the operating system blocks and cannot be interrupted, so it runs in a daemon thread
of its own: one that hangs delays neither the deadline nor the end of the loop or of the program.
"""

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Any, Final

from aiohappyeyeballs import start_connection

from libnet.errors import ConnectFailed
from libnet.sockets import USER_TIMEOUT_MS, is_self_connected, reason, tune

STAGGER_S: Final = 0.25
"""How long an address has for itself before the next one is tried beside it (RFC 8305, 5)."""

_Addresses = list[tuple[Any, ...]]
"""As `socket.getaddrinfo` gives them."""


async def dial(host: str, port: int, deadline: float | None) -> socket.socket:
    """Return a non-blocking, tuned TCP connection, made by `deadline` (time of the running loop;
    None: the caller sees to it).

    The deadline covers name resolution. Raises ConnectFailed. If it is cancelled, no socket and no
    connection are left behind.
    """
    try:
        async with asyncio.timeout_at(deadline):
            sock = await start_connection(
                await _resolve(host, port), happy_eyeballs_delay=STAGGER_S
            )
    except (OSError, RuntimeError, UnicodeError) as error:  # RuntimeError: uvloop's sock_connect
        late = isinstance(error, TimeoutError) and error.errno is None
        why = "no answer in time" if late else reason(error)
        raise ConnectFailed(f"cannot connect to {host} port {port}: {why}") from error
    try:
        if is_self_connected(sock):
            raise ConnectionRefusedError("nobody listens there")
        tune(sock, USER_TIMEOUT_MS)
    except OSError as error:
        sock.close()
        raise ConnectFailed(f"cannot connect to {host} port {port}: {reason(error)}") from error
    return sock


async def _resolve(host: str, port: int) -> _Addresses:
    """The addresses of a host; OSError or UnicodeError if it has none."""
    with suppress(socket.gaierror):  # a name, not an address
        return _addresses(host, port, socket.AI_NUMERICHOST)
    loop = asyncio.get_running_loop()
    found: asyncio.Future[_Addresses] = loop.create_future()

    def look_up() -> None:
        try:
            addresses, error = _addresses(host, port, 0), None
        except (OSError, UnicodeError) as raised:
            addresses, error = [], raised
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, addresses, error)

    def tell(addresses: _Addresses, error: OSError | UnicodeError | None) -> None:
        if found.done():
            return  # cancelled
        if error is not None:
            found.set_exception(error)
        else:
            found.set_result(addresses)

    threading.Thread(target=look_up, name="tradechat-resolver", daemon=True).start()
    return await found


def _addresses(host: str, port: int, flags: int) -> _Addresses:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags))
