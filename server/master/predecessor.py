"""The server whose place this one takes: this one's side of a take-over; the other side's is told
in successor.py.

What can go wrong is tried before it is told to end: the settings, the address, the format of its
data directory, room for the shared region, new sockets. If it ends by itself meanwhile, or is
killed, this server has the listening sockets all the same, and goes on from the journal.
"""

import os
import select
import signal
import socket
from contextlib import closing
from dataclasses import replace
from typing import Final

import liblog
from server import control
from server.config import Settings
from server.control import SOCKET, TAKE_OVER, Ask, Offer, Step
from server.early import STOP_SIGNALS, signal_name
from server.journal.directory import DataDirectory
from server.journal.disk import Disk
from server.journal.errors import JournalError
from server.master import listening, notify
from server.master.acquire import CannotStart
from server.master.listening import Listening
from server.master.resources import capacities
from server.master.signals import SignalQueue
from server.region.layout import Layout
from server.region.region import free_bytes, no_room

ANSWER_S: Final = 5.0  # that the running server may take for its answer

log = liblog.get("master")


class Predecessor:
    """The running server, from its answer on."""

    def __init__(self, settings: Settings) -> None:
        """Ask for its place. CannotStart: it goes on as it was."""
        self._sock = _connected(settings)
        try:
            self.pid: Final = control.peer(self._sock).pid
            offer, given = _ask(self._sock, settings)
            self._sock.setblocking(False)
            self.listening, self.settings = _prepared(settings, offer, given)
        except BaseException:
            self._sock.close()
            raise
        self.waiting: list[socket.socket] = []
        """Connections that are to be served, and that it has not begun to serve."""
        log.info("taking_over", predecessor=self.pid, its_version=offer.version)

    def await_release(self) -> bool:
        """Have it end, and wait until it has let go of the data directory, or has ended. False
        where a signal comes before, and asks this server to end."""
        self._say(Step.GO)
        with closing(SignalQueue()) as signals:
            poll = select.poll()
            for each in (signals, self._sock):
                poll.register(each, select.POLLIN)
            while True:
                poll.poll()
                for number, _ in signals.take():
                    if number in STOP_SIGNALS or number == signal.SIGQUIT:
                        log.info("stopping", signal=signal_name(number))
                        return False
                try:
                    said, came = control.receive(self._sock)
                except BlockingIOError:
                    continue
                except OSError:
                    said, came = b"", []
                self.waiting += came
                if said == Step.WAIT.encode():
                    continue
                if said != Step.RELEASED.encode():
                    log.warning("predecessor_died", predecessor=self.pid)
                notify.be_main()
                return True

    def serves(self) -> None:
        """This server serves: the other one may go."""
        self._say(Step.SERVES)
        self.close()

    def _say(self, step: Step) -> None:
        try:
            self._sock.send(step.encode())
        except OSError as error:  # it has ended: so this one need not wait for it
            log.warning("take_over_unheard", predecessor=self.pid, reason=error.strerror)

    def close(self) -> None:
        """Let go of it; for a child, too. May be repeated."""
        self._sock.close()


def _connected(settings: Settings) -> socket.socket:
    """A connection to it. CannotStart."""
    data = settings.data
    nobody = f"no server runs on {data}: start this one without --take-over"
    try:
        where, fd = control.address(data)
    except OSError as error:
        raise CannotStart(f"{nobody} ({error.strerror})") from error
    sock = control.make()
    try:
        sock.settimeout(ANSWER_S)
        sock.connect(where)
        if (uid := control.peer(sock).uid) != os.geteuid():
            raise CannotStart(
                f"the server on {data} is of another user ({uid}): only a server of that user can "
                "take its place, as it goes on with its files"
            )
    except BaseException as error:
        sock.close()
        if isinstance(error, FileNotFoundError):
            raise CannotStart(nobody) from error
        if isinstance(error, ConnectionRefusedError):
            raise CannotStart(
                f"no server answers on {data}: it is stopping, gives its place to another one, or "
                "was killed"
            ) from error
        if isinstance(error, PermissionError):
            raise CannotStart(
                f"{data / SOCKET} is of another user: only a server of that user can take its place"
            ) from error
        if isinstance(error, OSError):
            raise CannotStart(_silent(settings)) from error
        raise
    finally:
        os.close(fd)
    return sock


def _silent(settings: Settings) -> str:
    return (
        f"the server on {settings.data} has not answered within {ANSWER_S:g} s: it is starting, "
        "stuck or very busy; look at its log"
    )


def _ask(sock: socket.socket, settings: Settings) -> tuple[Offer, Listening]:
    """What it offers. CannotStart."""
    given: list[socket.socket] = []
    try:
        sock.send(control.encode(Ask(TAKE_OVER)))
        data, given = control.receive(sock)
        if not data:
            raise CannotStart(f"the server on {settings.data} has ended without an answer")
        if b'"done"' in data:
            raise CannotStart(control.decode_answer(data).text)
        offer = control.decode_offer(data)
        if not 0 < offer.workers <= len(given):
            raise CannotStart("there are no descriptors for its sockets: raise `ulimit -n`")
    except BaseException as error:
        for each in given:
            each.close()
        if isinstance(error, OSError):
            raise CannotStart(_silent(settings)) from error
        if isinstance(error, ValueError):
            raise CannotStart(
                f"the server on {settings.data} answers what this version does not know: stop it, "
                "and start this one"
            ) from error
        raise
    workers, rest = given[: offer.workers], given[offer.workers :]
    return offer, Listening(workers, rest[0] if rest else None)


def _prepared(settings: Settings, offer: Offer, given: Listening) -> tuple[Listening, Settings]:
    """What can be done before it is told to end. Answers the sockets to listen on, and the settings
    as they are with these. CannotStart."""
    try:
        port = given.port
        if len(given.workers) > settings.seats:  # none may be closed while somebody waits there
            settings = replace(settings, max_workers=len(given.workers), sources=None)
        try:
            DataDirectory(settings.data).identity(Disk())
        except (JournalError, OSError) as error:
            raise CannotStart(f"the running server's data cannot be read: {error}") from error
        _check_memory(settings, offer)
    except BaseException:
        given.close()
        raise
    prepared = listening.go_on(settings, given)
    return prepared, replace(settings, port=port, sources=None)


def _check_memory(settings: Settings, offer: Offer) -> None:
    """CannotStart: there will be no room for the shared region."""
    needed, free = Layout(capacities(settings)).size, free_bytes() + offer.region
    if needed > free:
        raise CannotStart(no_room(needed, free))
