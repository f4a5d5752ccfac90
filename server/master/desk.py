"""The master's end of the operator's socket: it never waits for who is at the other end."""

import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import liblog
from server import control
from server.control import MESSAGE_MAX, OPERATE, PROGRESS, SOCKET, TAKE_OVER, Answer, Ask, Peer

OPEN_MAX: Final = 8  # connections that have asked for nothing yet: the oldest goes first
BACKLOG: Final = 64

log = liblog.get("master")


class Desk:
    """A socket in the data directory, and who has connected to it."""

    def __init__(self, directory: Path) -> None:
        """Listen. The caller has the directory to itself. OSError."""
        self._path = directory / SOCKET
        self._path.unlink(missing_ok=True)  # of a server that was killed
        self._open: list[socket.socket] = []
        self._poll: select.poll | None = None
        self._listener = control.make()
        try:
            self._listener.setblocking(False)
            where, fd = control.address(directory)
            before = os.umask(0o177)
            try:
                self._listener.bind(where)
            finally:
                os.umask(before)
                os.close(fd)
            self._listener.listen(BACKLOG)
        except OSError:
            self._listener.close()
            raise

    def watch(self, poll: select.poll) -> None:
        """Have it wake this poll, until it is closed."""
        self._poll = poll
        poll.register(self._listener, select.POLLIN)

    def take(
        self,
        answer: Callable[[Ask], Answer],
        offer: Callable[[socket.socket, Peer], Answer | None],
        hand_over: Callable[[socket.socket], Answer | None],
    ) -> None:
        """Answer what was asked since. offer: has a take-over begin; hand_over: has a worker go on
        with it; the connection is theirs then, unless they answer why not."""
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # there is nobody, or no descriptor for who is
                break
            sock.setblocking(False)
            self._open.append(sock)
            if self._poll is not None:
                self._poll.register(sock, select.POLLIN)
            if len(self._open) > OPEN_MAX:
                self._close(self._open[0])
        for sock in tuple(self._open):
            try:
                data = sock.recv(MESSAGE_MAX)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            self._forget(sock)
            if data:
                told = self._answer(sock, data, answer, offer, hand_over)
                if told is None:
                    continue
                with suppress(OSError):  # it has gone, and it is done all the same
                    sock.send(control.encode(told))
            sock.close()

    @staticmethod
    def _answer(
        sock: socket.socket,
        data: bytes,
        answer: Callable[[Ask], Answer],
        offer: Callable[[socket.socket, Peer], Answer | None],
        hand_over: Callable[[socket.socket], Answer | None],
    ) -> Answer | None:
        peer = control.peer(sock)
        if peer.uid not in (0, os.geteuid()):
            log.warning("operator_refused", sender=peer.pid, user=peer.uid)
            return Answer(False, "only the server's own user and root may ask it for something")
        try:
            ask = control.decode_ask(data)
        except ValueError as error:
            return Answer(False, f"the request cannot be read: {error}")
        if ask.command == OPERATE:
            return hand_over(sock)
        if ask.command != PROGRESS:  # which is asked again and again
            log.info("operator_asks", command=ask.command, worker=ask.worker, sender=peer.pid)
        return offer(sock, peer) if ask.command == TAKE_OVER else answer(ask)

    def _forget(self, sock: socket.socket) -> None:
        self._open.remove(sock)
        if self._poll is not None:
            self._poll.unregister(sock)

    def _close(self, sock: socket.socket) -> None:
        self._forget(sock)
        sock.close()

    def close(self) -> None:
        """Answer nobody any more; for a child, too. May be repeated."""
        while self._open:
            self._close(self._open[0])
        if self._poll is not None and self._listener.fileno() >= 0:
            self._poll.unregister(self._listener)
        self._listener.close()

    def remove(self) -> None:
        """Take it out of the directory."""
        with suppress(OSError):  # the directory was removed
            self._path.unlink(missing_ok=True)
