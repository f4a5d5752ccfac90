"""The line mode for a person at a terminal.

The input line stays below what comes in, also while a line waits for its answer, and vanishes when
it is done: a message is seen as everybody sees it, a command is repeated above its result.
"""

import asyncio
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO, cast

from prompt_toolkit import PromptSession
from prompt_toolkit.application import Application
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys

from client.chat.completing import CommandCompleter
from client.chat.ends import Interrupted
from client.chat.line_face import LineFace
from client.chat.model import Kind
from client.chat.panes import PLACE_MAX
from client.chat.person import Chat
from client.chat.worker import GIVEN_UP, NOT_SENT, Worker
from client.terminal.style import Style
from client.terminal.text import fitted


class TerminalLines:
    """The lines of a person, edited with history and completion."""

    def __init__(self, chat: Chat, worker: Worker, history: History) -> None:
        self._chat = chat
        self._worker = worker
        self._question = ""
        self._hides = False
        self._answer: asyncio.Future[str] | None = None
        self._asking = asyncio.Lock()
        worker.on_done = self._done
        self._session: PromptSession[str] = PromptSession(
            self._prompt,
            completer=CommandCompleter(chat),
            complete_while_typing=False,
            erase_when_done=True,
            enable_suspend=True,
            history=history,
            key_bindings=self._keys(),
            is_password=Condition(lambda: self._hides),
        )

    @property
    def app(self) -> Application[str]:
        return self._session.app

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("c-c")
        @keys.add("<sigint>")
        def drop_or_end(event: KeyPressEvent) -> None:
            """As in a shell: drop what was typed; on an empty line give up what waits, or end."""
            if self._answer is not None:
                if not self._answer.done():
                    self._answer.set_result("")
            elif event.app.current_buffer.text:
                event.app.current_buffer.reset()
            elif self._worker.is_busy:
                event.app.current_buffer.insert_text(self._worker.give_up())
            else:
                event.app.exit(exception=Interrupted())

        @keys.add("enter", filter=Condition(lambda: self._answer is not None))
        def answer(event: KeyPressEvent) -> None:
            """The prompt goes on, with what was being typed."""
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(event.current_buffer.text)

        @keys.add(Keys.BracketedPaste)
        def paste(event: KeyPressEvent) -> None:
            """Several lines stay several; what ends the last one sends nothing by itself."""
            text = event.data.replace("\r\n", "\n").replace("\r", "\n")
            event.current_buffer.insert_text(text.rstrip("\n"))

        @keys.add("escape", "enter")
        def next_row(event: KeyPressEvent) -> None:
            """Alt-Enter: a message of several lines."""
            event.current_buffer.insert_text("\n")

        return keys

    def _prompt(self) -> str:
        if self._question:
            return self._question
        active = self._chat.model.active
        place = "" if active.kind is Kind.PROGRAM else f"[{fitted(active.title, PLACE_MAX)}] "
        waits = "(waiting) " if self._worker.is_busy and self._chat.outage.is_out else ""
        return f"{waits}{place}> "

    def _done(self, line: str, why: str) -> None:
        """What was given up is there to be typed again, unless something else is."""
        typed = self._session.default_buffer
        if why in (GIVEN_UP, NOT_SENT) and not typed.text:
            typed.set_document(Document(line), bypass_readonly=True)
        self.redraw()

    def redraw(self) -> None:
        """Show the prompt as it is to be now."""
        self._session.app.invalidate()

    async def ask(self, question: str, hidden: bool = False) -> str:
        """The answer that is typed next; what was being typed is there again after it. hidden: it
        is not shown."""
        async with self._asking:
            typed = self._session.default_buffer
            kept, self._question, self._hides = typed.document, question, hidden
            self._answer = asyncio.get_running_loop().create_future()
            typed.reset()
            self.redraw()
            try:
                return await self._answer
            finally:
                self._question, self._answer, self._hides = "", None, False
                typed.reset(kept)  # of an answer nothing is left, to be undone to
                self.redraw()

    async def read_line(self) -> str | None:
        """The next line, or None at the end. Interrupted."""
        try:
            line = await self._session.prompt_async()
        except EOFError:  # Ctrl-D
            return None
        self._session.default_buffer.reset()  # it is taken, and nothing that is being typed
        if line.startswith("/") and not line.startswith("//"):
            self._chat.face.remark((Style.QUIET, f"> {line}"))
        return line


class AbovePrompt(io.TextIOBase):
    """A terminal to which is written above the input line.

    The input line is taken away, what is written is put in its place, and it is drawn again below.
    Keys are the program's all the time: prompt_toolkit's own way gives the terminal back meanwhile,
    and what is pressed just then is shown twice, or lost.
    """

    def __init__(self, stream: TextIO, app: Application[str]) -> None:
        super().__init__()
        self._stream = stream
        self._app = app
        self._held = ""

    def write(self, text: str) -> int:
        self._held += text
        return len(text)

    def flush(self) -> None:
        text, self._held = self._held, ""
        if not text:
            return
        is_drawn = self._app.is_running and not self._app.is_done
        if is_drawn:
            self._app.renderer.erase(leave_alternate_screen=False)
        self._stream.write(text)
        self._stream.flush()
        if is_drawn:
            self._app.renderer.reset()
            self._app.invalidate()

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()


@contextmanager
def above_the_prompt(app: Application[str]) -> Iterator[None]:
    """What is written to a terminal appears above the input line; what goes elsewhere, as to a file
    of errors, goes there."""
    before = sys.stdout, sys.stderr
    if sys.stdout.isatty():
        sys.stdout = cast(TextIO, AbovePrompt(sys.stdout, app))
    if sys.stderr is not None and sys.stderr.isatty():
        sys.stderr = cast(TextIO, AbovePrompt(sys.stderr, app))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


async def attend_person(chat: Chat, face: LineFace, history: History) -> None:
    """Carry out what a person types, until they end it. Interrupted."""
    worker = Worker(chat)
    lines = TerminalLines(chat, worker, history)
    with above_the_prompt(lines.app):
        face.asker = lines.ask
        working = asyncio.create_task(worker.run())
        try:
            await _read(lines, worker, working)
        finally:
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working
            chat.unsent = worker.unsent


async def _read(lines: TerminalLines, worker: Worker, working: asyncio.Task[None]) -> None:
    # Between two prompts, too: else what is pressed just then is the terminal's own, which takes a
    # Ctrl-D for the end of a line.
    with lines.app.input.raw_mode():
        await _read_lines(lines, worker, working)
    if not working.done():
        draining = asyncio.ensure_future(worker.drained())
        await asyncio.wait({draining, working}, return_when=asyncio.FIRST_COMPLETED)
        draining.cancel()


async def _read_lines(lines: TerminalLines, worker: Worker, working: asyncio.Task[None]) -> None:
    """Until a person ends it, or the worker has."""
    while True:
        reading = asyncio.ensure_future(lines.read_line())
        try:
            await asyncio.wait({reading, working}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reading.cancel()
            [line] = await asyncio.gather(reading, return_exceptions=True)
        if working.done():
            working.result()
            return
        if isinstance(line, BaseException):
            raise line
        if line is None:
            return
        if line.strip():
            worker.put(line)
