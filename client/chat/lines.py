"""Where the chat's lines come from: a pipe, or a person at a terminal.

At a terminal the input line stays below what comes in, and vanishes when it is done: a message is
seen as everybody sees it, a command is repeated above its result.
"""

import asyncio
import os
from collections.abc import Callable, Iterable
from typing import Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from client.chat.command import UsageError
from client.chat.person import BY_NAME, COMMANDS, Chat
from client.terminal.display import Style

LINE_MAX = 1 << 20  # bytes; far more than any message may have
_READ_SIZE = 65536


class Interrupted(Exception):
    """Ctrl-C on an empty input line."""


class Source(Protocol):
    """Where lines come from."""

    async def read_line(self) -> str | None:
        """Return the next line without its end, or None after the last. Interrupted."""


class PipeLines:
    """The lines of a descriptor that is no terminal, read without a thread: one that waited for a
    line would hold up the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._held = bytearray()
        self._at_end = False

    async def read_line(self) -> str | None:
        """UsageError: the line is not UTF-8."""
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


class TerminalLines:
    """The lines of a person, edited with history and completion."""

    def __init__(self, chat: Chat) -> None:
        keys = KeyBindings()

        @keys.add("c-c")
        @keys.add("<sigint>")
        def drop_or_end(event: KeyPressEvent) -> None:
            """As in a shell: drop what was typed; on an empty line, end."""
            if event.app.current_buffer.text:
                event.app.current_buffer.reset()
            else:
                event.app.exit(exception=Interrupted())

        self._chat = chat
        self._session: PromptSession[str] = PromptSession(
            completer=CommandCompleter(chat),
            complete_while_typing=False,
            erase_when_done=True,
            key_bindings=keys,
        )

    async def read_line(self) -> str | None:
        rooms = self._chat.rooms
        try:
            line = await self._session.prompt_async(f"[room {rooms[-1]}] > " if rooms else "> ")
        except EOFError:  # Ctrl-D
            return None
        if line.startswith("/") and not line.startswith("//"):
            self._chat.screen.remark((Style.QUIET, f"> {line}"))
        return line


class CommandCompleter(Completer):
    """Completes commands and, by the kind of the parameter, what stands behind them."""

    def __init__(self, chat: Chat) -> None:
        self._words: dict[str, Callable[[], Iterable[str]]] = {
            "": tuple,
            "room": lambda: map(str, chat.rooms),
            "user": lambda: sorted(chat.people - {chat.client.username}),
            "command": lambda: BY_NAME,
        }

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        del complete_event
        line = document.text_before_cursor
        if not line.startswith("/"):
            return
        *before, word = line.split(" ")
        if not before:
            for command in COMMANDS:
                if command.name.startswith(word[1:]):
                    yield Completion(f"/{command.name}", -len(word), command.usage, command.about)
            return
        named = BY_NAME.get(before[0][1:])
        place = len(before) - 1
        if named is not None and place < len(named.parameters):
            for choice in self._words[named.parameters[place].kind]():
                if choice.startswith(word):
                    yield Completion(choice, -len(word))
