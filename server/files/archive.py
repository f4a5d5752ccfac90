"""What the files process asks the archive: the events of a room, one question at a time."""

import os
import socket
import time
from contextlib import suppress
from typing import Final

from server.archive.protocol import (
    DATAGRAM_MAX,
    HELLO,
    Kind,
    Question,
    head_of,
    unpack_events,
)

_ANSWER_S: Final = 5.0

Events = tuple[int, list[bytes]]


class Asking:
    """Its end of a socket to the archive. It never waits."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._token = os.getpid() << 32
        self._open: tuple[tuple[int, int, int, int], float] | None = None

    def fileno(self) -> int:
        return self._sock.fileno()

    def events(self, room: int, after: int, limit: int, size: int) -> Events | None:
        """The oldest number that it has of a room, and bodies of its events above `after`,
        ascending; none: it has no more. None: it has not answered yet; ask again."""
        fields = (room, after, limit, size)
        if self._open is None or self._open[0] != fields or time.monotonic() > self._open[1]:
            self._ask(fields)
        while True:
            try:
                data = self._sock.recv(DATAGRAM_MAX)
            except BlockingIOError:
                return None
            if not data:
                return None
            token, good = head_of(data)
            if token == HELLO:
                self._ask(fields)
            elif token == self._token:
                self._open = None
                return unpack_events(data) if good else None

    def drain(self) -> None:
        """Nobody asks: take away what has come, the greeting of an archive or an answer that came
        too late, for as long as it is there it can be read, and a poll waits for nothing."""
        self._open = None
        with suppress(BlockingIOError):
            while self._sock.recv(DATAGRAM_MAX):
                pass

    def _ask(self, fields: tuple[int, int, int, int]) -> None:
        self._token += 1
        until = time.monotonic() + _ANSWER_S
        try:
            self._sock.send(Question(self._token, Kind.EVENTS, int(until * 1e9), fields).pack())
            self._open = fields, until
        except BlockingIOError:
            self._open = None
