"""What a worker asks the archive process: histories that go back beyond the rings.

A question is a datagram and so is its answer; the connection that waits for it handles no other
frame meanwhile, the worker does. It waits for `ANSWER_S` at most: it would not notice either that
its client has gone, and count as a connection for as long as the archive stands still. A question
says until when it waits, and the archive does no work for one that waits no more.

A new archive process says hello, and what was asked of the one before is asked again; where it has
failed, nobody waits for another.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from server.archive.protocol import DATAGRAM_MAX, HELLO, Kind, Question, head_of

ANSWER_S: Final = 5.0

Answered = Callable[[bytes], None]
"""Called with the answer; b"": there is none."""


class _Open(NamedTuple):
    """A question that waits."""

    question: Question
    answered: Answered
    timer: asyncio.TimerHandle


class ArchiveClient:
    """A worker's end."""

    def __init__(
        self, sock: socket.socket, loop: asyncio.AbstractEventLoop, answer_s: float = ANSWER_S
    ) -> None:
        self._sock, self._loop, self._answer_s = sock, loop, answer_s
        # Not those of this slot's worker before, whose answers may still come.
        self._token = os.getpid() << 32
        self._open: dict[int, _Open] = {}
        loop.add_reader(sock.fileno(), self._readable)

    def ask(self, kind: Kind, fields: tuple[int, int, int, int], answered: Answered) -> bool:
        """Ask; `answered` is called with the answer. False: it has more questions than it can take
        just now."""
        self._token += 1
        until = time.monotonic_ns() + int(self._answer_s * 1e9)
        question = Question(self._token, kind, until, fields)
        if not self._send(question):
            return False
        timer = self._loop.call_later(self._answer_s, self._settle, self._token, b"")
        self._open[self._token] = _Open(question, answered, timer)
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
                self._ask_again()
            else:
                self._settle(token, data if good else b"")

    def _ask_again(self) -> None:
        for token, (question, _, _) in tuple(self._open.items()):
            if not self._send(question):
                self._settle(token, b"")

    def _settle(self, token: int, answer: bytes) -> None:
        """Answer who waits; nobody where it was answered before, or came too late, or is of this
        slot's worker before."""
        found = self._open.pop(token, None)
        if found is not None:
            found.timer.cancel()
            found.answered(answer)

    def give_up(self) -> None:
        """The archive has failed: whoever waits is told."""
        for token in tuple(self._open):
            self._settle(token, b"")
