"""The chat through pipes: one line after the other is read, and carried out to its answer.

A terminal that cannot move its cursor (TERM=dumb) is read so, too.
"""

import asyncio
import os
import sys

from client.chat.command import UsageError
from client.chat.commands import execute
from client.chat.person import Chat
from client.errors import ConnectionLost

LINE_MAX = 1 << 20  # bytes; far more than any message may have
_READ_SIZE = 65536
_SHOWN_MAX = 60  # characters of a line that failed


class PipeLines:
    """The lines of a descriptor, read without a thread: one that waited for a line would hold up
    the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._held = bytearray()
        self._at_end = False

    async def read_line(self) -> str | None:
        """Return the next line without its end, or None after the last. UsageError: the line is
        not UTF-8."""
        while not self._at_end and b"\n" not in self._held:
            if len(self._held) > LINE_MAX:
                self._held.clear()
                self._at_end = True
                raise UsageError(f"a line is longer than {LINE_MAX} bytes: the rest is not read")
            await self._readable()
            data = os.read(self._descriptor, _READ_SIZE)
            self._held += data
            self._at_end = not data
        if not self._held:
            return None
        end = self._held.find(b"\n")
        line = bytes(self._held if end < 0 else self._held[:end])
        del self._held[: len(line) + 1]
        try:
            return line.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            raise UsageError("a line is not UTF-8 text, and was passed over") from error

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        try:
            loop.add_reader(self._descriptor, ready.set)
        except PermissionError:  # a regular file: epoll has no use for it, it is always readable
            return
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self._descriptor)


async def attend_script(chat: Chat, stop_on_error: bool, is_person: bool) -> None:
    """Carry out line after line, until the last. What fails is told with the number of its line
    and its text, but to a person, who sees it."""
    source = PipeLines(sys.stdin.fileno())
    number = 0
    while not chat.ended:
        number += 1
        try:
            line = await source.read_line()
        except UsageError as error:
            chat.place = ""  # that of the line before
            chat.fail(f"line {number}: {error}")
            continue
        if line is None:
            return
        chat.place = "" if is_person else f"line {number}, {line[:_SHOWN_MAX]!r}: "
        try:
            await execute(chat, line)
        except (asyncio.CancelledError, ConnectionLost):
            chat.unsent = [] if chat.in_doubt else [line]
            raise
        if stop_on_error and chat.failed:
            chat.face.remark(f"stopped at line {number}")
            return
