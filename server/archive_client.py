"""What a worker asks the archive process: histories that go back beyond the rings.

A question is a datagram and so is its answer; the connection that waits for it handles no other
frame meanwhile, the worker does. A new archive process says hello, and what was asked of the one
before is asked again; where it has failed, nobody waits for another.
"""

import asyncio
import os
import socket
from collections.abc import Callable

from server.journal.questions import DATAGRAM_MAX, HELLO, Kind, Question, head_of

Answered = Callable[[bytes], None]
"""Called with the answer; b"": there is none."""


class ArchiveClient:
    """A worker's end."""

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._sock = sock
        # Not those of this slot's worker before, whose answers may still come.
        self._token = os.getpid() << 32
        self._open: dict[int, tuple[Question, Answered]] = {}
        loop.add_reader(sock.fileno(), self._readable)

    def ask(self, kind: Kind, fields: tuple[int, int, int, int], answered: Answered) -> bool:
        """Ask; `answered` is called with the answer. False: it has more questions than it can take
        just now."""
        self._token += 1
        question = Question(self._token, kind, fields)
        if not self._send(question):
            return False
        self._open[self._token] = question, answered
        return True

    def _send(self, question: Question) -> bool:
        try:
            self._sock.send(question.pack())
        except BlockingIOError:
            return False
        return True

    def _readable(self) -> None:
        while True:
            try:
                data = self._sock.recv(DATAGRAM_MAX)
            except BlockingIOError:
                return
            if not data:
                return
            token, good = head_of(data)
            if token == HELLO:
                for question, _ in self._open.values():
                    self._send(question)
            # It may be answered twice, or be of this slot's worker before.
            elif (found := self._open.pop(token, None)) is not None:
                found[1](data if good else b"")

    def give_up(self) -> None:
        """The archive has failed: whoever waits is told."""
        waiting, self._open = self._open, {}
        for _, answered in waiting.values():
            answered(b"")
