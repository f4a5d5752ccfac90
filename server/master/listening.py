"""The sockets that a server listens on: made at its start, or those of the server before it.

Whoever waits in the queue of a listener is reset when nobody has it any more. So a server that
takes the place of another one gets its listeners, and there is no instant at which nobody has them.
"""

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from libnet.errors import AddressInUse
from libnet.sockets import listen, listen_first, where
from server.child import limit_of
from server.config import Settings
from server.master.acquire import CannotStart, step


class Listening:
    """A listener for each worker that there can be, all on one port, in the order in which they
    were made; and that of the admin port, None if there is none."""

    def __init__(
        self,
        workers: Sequence[socket.socket],
        admin: socket.socket | None,
        *,
        inherited: bool = True,
    ) -> None:
        """inherited: another server has them, or had them, and may still have the directory."""
        self.inherited: Final = inherited
        self.workers: Final = list(workers)
        self.admin: Final = admin

    @property
    def port(self) -> int:
        """That of the workers."""
        return int(self.workers[0].getsockname()[1])

    @property
    def all(self) -> list[socket.socket]:
        return self.workers if self.admin is None else [*self.workers, self.admin]

    def copies(self) -> "Listening":
        """The same sockets by descriptors of their own. OSError."""
        with ExitStack() as undo:
            made = [undo.enter_context(sock.dup()) for sock in self.all]
            undo.pop_all()
        count = len(self.workers)
        return Listening(made[:count], made[count] if made[count:] else None)

    def close(self) -> None:
        """Close these descriptors. May be repeated."""
        for sock in self.all:
            sock.close()


def begin(settings: Settings) -> Listening:
    """Listen where nobody does. CannotStart: nothing of it is left then."""
    with ExitStack() as undo:
        workers = [undo.enter_context(sock) for sock in _listeners(settings)]
        admin = _admin(settings)
        undo.pop_all()
    return Listening(workers, admin, inherited=False)


def go_on(settings: Settings, given: Listening) -> Listening:
    """Listen where another server does, with its sockets and with more if more workers can be. The
    admin port is a new one where it is to be elsewhere. CannotStart: these settings are for another
    address; what was given is closed then."""
    with ExitStack() as undo:
        undo.callback(given.close)
        here = given.workers[0].getsockname()
        if not _is_at(here, settings.host, settings.port):
            raise CannotStart(
                f"the running server listens on {here[0]} port {here[1]}, and this one is to listen"
                f" on {settings.host} port {settings.port}: give both the same --host and --port"
            )
        workers = list(given.workers)
        with _listening(settings.host, given.port):
            while len(workers) < settings.seats:
                workers.append(undo.enter_context(listen(settings.host, given.port)))
        admin = given.admin
        if admin is not None and not (
            settings.admin_port
            and _is_at(admin.getsockname(), settings.admin_host, settings.admin_port)
        ):
            admin = None
        if admin is None:
            admin = _admin(settings)
            if given.admin is not None:
                given.admin.close()
        undo.pop_all()
    return Listening(workers, admin)


def _is_at(address: Sequence[object], host: str, port: int) -> bool:
    """Is this what a host and a port stand for? 0: any port."""
    with _listening(host, port):
        return address[0] == where(host, port)[0] and port in (0, address[1])


def _listeners(settings: Settings) -> Iterator[socket.socket]:
    """A listening socket for each worker that there can be, all on one port. CannotStart."""
    host, port = settings.host, settings.port
    for number in range(settings.seats):
        with _listening(host, port):
            sock = listen(host, port) if number else listen_first(host, port)
        yield sock
        if not port:
            port = sock.getsockname()[1]


def _admin(settings: Settings) -> socket.socket | None:
    """The listener of the admin port, if there is to be one. CannotStart."""
    if not settings.admin_port:
        return None
    with _listening(settings.admin_host, settings.admin_port, "admin"):
        return listen_first(settings.admin_host, settings.admin_port)


@contextmanager
def _listening(host: str, port: int, whose: str = "") -> Iterator[None]:
    """A port is listened on; whose: before "port", and before the names of its flags. CannotStart,
    which names these."""
    named, flag = (f"the {whose} port", f"--{whose}-") if whose else ("port", "--")
    try:
        with step(f"listen on {host} port {port}"):
            yield
    except CannotStart as error:
        if isinstance(error.__cause__, AddressInUse):
            none = " (0: none)" if whose else ""
            raise CannotStart(
                f"{named} {port} of {host} is in use: stop what listens there, or choose another "
                f"with {flag}port{none}"
            ) from error
        if not limit_of(error):
            raise CannotStart(f"cannot listen on {host}: {error}; see {flag}host") from error
        raise
