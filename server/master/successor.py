"""A server that is to take the place of this one: this one's side of a take-over.

It asks over the socket in the data directory, and is given copies of the listening sockets. Until
it says GO this server serves as before. Then it ends in order, but for the sockets: it tells its
clients to go, answers them, and brings all to disk. When it has let go of the data directory, which
one server at a time has locked, it says RELEASED.

It keeps its own copies of the sockets until the other one says that it SERVES. So whoever connects
waits in their queues, and if the other one ends before, this one starts again from the journal.
"""

import os
import select
import signal
import socket
from collections.abc import Sequence
from contextlib import closing
from enum import Enum, auto
from typing import Final

import liblog
from server import __version__, control
from server.control import MESSAGE_MAX, SOCKETS_MAX, Answer, Offer, Peer, Step
from server.early import STOP_SIGNALS, signal_name
from server.master.listening import Listening
from server.master.notify import ServiceManager
from server.master.signals import SignalQueue

WATCH_S: Final = 0.25  # between signs of life to the service manager

log = liblog.get("master")


class Fate(Enum):
    """What has come of a take-over."""

    SERVES = auto()  # the other one serves
    GONE = auto()  # it has ended before
    STOPPED = auto()  # a signal asks this one to end


class Successor:
    """Who takes the place of this server: nobody, until somebody asks. One at a time."""

    def __init__(self) -> None:
        self.pid = 0
        self.wants_it = False
        """It has all that it can have before: this server is to end."""
        self.waiting: list[socket.socket] = []
        """Connections that were accepted, and that nobody has begun to serve."""
        self._sock: socket.socket | None = None
        self._poll: select.poll | None = None

    def offer(
        self, sock: socket.socket, peer: Peer, listening: Listening, size: int
    ) -> Answer | None:
        """Give it the sockets, and keep the connection; else say why not. size: of the region."""
        if self._sock is not None:
            text = f"process {self.pid} is about to take the place of this server already"
            return Answer(False, text)
        if peer.uid != os.geteuid():
            text = "only a server of the same user may take its place: it goes on with its files"
            return Answer(False, text)
        message = control.encode(Offer(len(listening.workers), size, __version__))
        fds = [each.fileno() for each in listening.all]
        try:
            socket.send_fds(sock, [message], fds, socket.MSG_DONTWAIT)
        except OSError as error:
            return Answer(False, f"the sockets cannot be handed over: {error.strerror}")
        self._sock, self.pid = sock, peer.pid
        if self._poll is not None:
            self._poll.register(sock, select.POLLIN)
        log.info("take_over_begins", successor=self.pid)
        return None

    def watch(self, poll: select.poll) -> None:
        """Have it wake this poll, if it comes."""
        self._poll = poll

    def look(self) -> bool:
        """Take note of what it has said. Is this server to end for it?"""
        if self._sock is None or self.wants_it:
            return self.wants_it
        said = self._receive()
        if said == Step.GO:
            self.wants_it = True
            self._unwatch()
        elif said is not None:
            log.warning("take_over_abandoned", successor=self.pid)
            self._drop()
        return self.wants_it

    def release(self) -> None:
        """This server has let go of the data directory."""
        for at in range(0, len(self.waiting), SOCKETS_MAX):
            self._send(Step.WAIT, self.waiting[at : at + SOCKETS_MAX])
        self._send(Step.RELEASED)

    def await_serving(self) -> Fate:
        """Until it serves, has ended, or a signal comes. Nothing is locked or forked meanwhile."""
        assert self._sock is not None, "it has said GO"
        manager = ServiceManager()
        with closing(SignalQueue()) as signals, closing(self):
            poll = select.poll()
            for each in (signals, self._sock):
                poll.register(each, select.POLLIN)
            while True:
                manager.tell_alive()
                poll.poll(WATCH_S * 1000)
                for number, _ in signals.take():
                    if number in STOP_SIGNALS or number == signal.SIGQUIT:
                        log.info("stopping", signal=signal_name(number))
                        return Fate.STOPPED
                said = self._receive()
                if said == Step.SERVES:
                    manager.tell(f"MAINPID={self.pid}")
                    log.info("taken_over", successor=self.pid)
                    return Fate.SERVES
                if said is not None:
                    log.error(
                        "take_over_failed",
                        successor=self.pid,
                        advice="its own log says why: this server starts again from the journal",
                    )
                    return Fate.GONE

    def _receive(self) -> str | None:
        """What it has said; "" where it has ended, None where it has said nothing."""
        assert self._sock is not None, "there is one"
        try:
            return self._sock.recv(MESSAGE_MAX, socket.MSG_DONTWAIT).decode(errors="replace")
        except BlockingIOError:
            return None
        except OSError:
            return ""

    def _send(self, step: Step, given: Sequence[socket.socket] = ()) -> None:
        if self._sock is not None:
            try:
                fds = [each.fileno() for each in given]
                socket.send_fds(self._sock, [step.encode()], fds, socket.MSG_DONTWAIT)
            except OSError as error:  # it has ended, which is noticed by what it says
                log.warning("take_over_unheard", successor=self.pid, reason=error.strerror)

    def _unwatch(self) -> None:
        if self._poll is not None and self._sock is not None:
            self._poll.unregister(self._sock)

    def _drop(self) -> None:
        assert self._sock is not None, "there is one"
        self._unwatch()
        self.close()

    def close(self) -> None:
        """Let go of it; for a child, too. May be repeated."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
