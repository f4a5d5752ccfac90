"""What a person has typed, carried out line by line while they go on typing.

A line waits until those before it are done; it is never lost: what was not sent in the end is told.
"""

import asyncio
from collections.abc import Awaitable, Callable

from client.chat.commands import execute
from client.chat.person import Chat
from client.terminal.style import Style

GIVEN_UP = "given up"
NOT_SENT = "not sent"
"""Why a line was not carried out, where it was the person who said so."""
PATIENCE_S = 1.0
"""After so long without an answer it is shown that a line waits."""

Action = Callable[[], Awaitable[None]]


class Worker:
    """Carries out lines, one after the other."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._lines: asyncio.Queue[tuple[str, Action | None]] = asyncio.Queue()
        self._current: asyncio.Task[str] | None = None
        self.waiting: list[str] = []
        """The lines that are not done; the first is being carried out."""
        self.on_slow: Callable[[str], object] = self._say_slow
        """Called with a line that has been waiting for its answer a while."""
        self.on_done: Callable[[str, str], object] = lambda _, __: None
        """Called with a line that is done, and why it was not carried out, if so."""

    def put(self, text: str, action: Action | None = None) -> None:
        """Carry this out after the others. action: what the text stands for, if it is one line
        that was not typed."""
        self.waiting.append(text)
        self._lines.put_nowait((text, action))

    @property
    def unsent(self) -> list[str]:
        """What was not sent, once this has ended: but what is in doubt, which was told."""
        return self.waiting[1:] if self._chat.in_doubt else self.waiting

    @property
    def is_busy(self) -> bool:
        return bool(self.waiting)

    def give_up(self) -> str:
        """Give up the line that is being carried out, and those after it; the lines."""
        while not self._lines.empty():
            self._lines.get_nowait()
            self._lines.task_done()
        given_up = "\n".join(self.waiting[1:])
        del self.waiting[1:]
        if self._current is not None:
            self._current.cancel()
        return given_up

    async def run(self) -> None:
        """Carry out what is put in, until the chat has ended; what execute raises is raised."""
        while not self._chat.ended:
            text, action = await self._lines.get()
            for line in await self._split(text):
                await self._execute(line, action)
            if self.waiting:
                del self.waiting[0]
            self._lines.task_done()

    async def drained(self) -> None:
        """Until everything is done that was put in."""
        await self._lines.join()

    async def _split(self, text: str) -> list[str]:
        """The messages that a text of several lines is to be, by what the person says."""
        lines = text.split("\n")
        if len(lines) < max(2, self._chat.settings["paste_lines"]):
            return [text]
        answer = await self._chat.face.ask(
            f"{len(lines)} lines: send them as [o]ne message, [l]ine by line, or [N]ot? "
        )
        match answer.strip().lower()[:1]:
            case "o":
                return [text]
            case "l":
                return [line for line in lines if line.strip()]
        self._chat.face.remark("nothing was sent")
        self.on_done(text, NOT_SENT)
        return []

    async def _execute(self, line: str, action: Action | None) -> None:
        self._current = asyncio.ensure_future(execute(self._chat, line, action))
        try:
            done, _ = await asyncio.wait({self._current}, timeout=PATIENCE_S)
            if not done:
                self.on_slow(line)
                await asyncio.wait({self._current})
        finally:
            self._current.cancel()
        try:
            why = await self._current
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            why, self._chat.in_doubt = GIVEN_UP, ""  # which was told
            self._chat.face.remark((Style.QUIET, f"given up: {line}"))
        self.on_done(line, why)

    def _say_slow(self, line: str) -> None:
        self._chat.face.remark((Style.QUIET, f"waiting: {line}"))
