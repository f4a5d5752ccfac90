"""Completes commands and, by the kind of the parameter, what stands behind them."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress
from typing import Final

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from client.chat.commands import BY_NAME, COMMANDS
from client.chat.model import Buffer, Kind
from client.chat.person import Chat
from client.chat.settings import BY_NAME as SETTINGS
from client.errors import ClientError
from client.terminal.text import escape

LEARN_EVERY_S: Final = 30.0
"""How long the names of rooms are taken for those that there are."""


class CommandCompleter(Completer):
    """Completes the input line: commands, users, rooms, buffers, settings; in a message, names."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._learn_again_at = 0.0
        self._words: dict[str, Callable[[], Iterable[str]]] = {
            "": tuple,
            "place": self._places,
            "user": self._users,
            "command": lambda: BY_NAME,
            "buffer": lambda: (
                _buffer_name(each) for each in chat.model.buffers if each.board is None
            ),
            "setting": lambda: SETTINGS,
        }

    def _places(self) -> list[str]:
        """Numbers of joined rooms, and names of all that are known; one that would have to be
        escaped to be shown is not offered."""
        names = {name for name in self._chat.room_names.values() if escape(name) == name}
        return [*map(str, sorted(self._chat.model.rooms)), *sorted(names)]

    def _users(self) -> list[str]:
        return sorted(self._chat.people - {self._chat.client.username})

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        line = document.text_before_cursor
        *before, word = line.split(" ")
        if not line.startswith("/"):
            # Only when asked for: names in a message would get into the way of typing.
            if word and complete_event.completion_requested:
                yield from self._names(word, is_first=not before)
            return
        if not before:
            for command in COMMANDS:
                if command.name.startswith(word[1:]):
                    yield Completion(f"/{command.name}", -len(word), command.usage, command.about)
            return
        named = BY_NAME.get(before[0][1:])
        if named is None or not named.parameters:
            return
        place = len(before) - 1
        if named.parameters[0].kind == "place":  # a name has blanks
            place, word = 0, line.partition(" ")[2]
        if place < len(named.parameters):
            for choice in self._words[named.parameters[place].kind]():
                if choice.lower().startswith(word.lower()):
                    yield Completion(choice, -len(word))

    async def get_completions_async(
        self, document: Document, complete_event: CompleteEvent
    ) -> AsyncGenerator[Completion, None]:
        """The same; before a name of a room is completed, those that there are now are learnt."""
        now = asyncio.get_running_loop().time()
        is_room = document.text_before_cursor.startswith("/join ")
        if is_room and now >= self._learn_again_at and not self._chat.outage.is_out:
            self._learn_again_at = now + LEARN_EVERY_S
            with suppress(ClientError):
                await self._chat.learn_rooms()
        for completion in self.get_completions(document, complete_event):
            yield completion

    def _names(self, word: str, *, is_first: bool) -> Iterable[Completion]:
        for name in self._users():
            if name.lower().startswith(word.lower()):
                yield Completion(f"{name}: " if is_first else name, -len(word), name)


def _buffer_name(buffer: Buffer) -> str:
    """What /buffer takes: of a room the name, where it is one word that is shown as it is."""
    if buffer.kind is not Kind.ROOM:
        return f"@{buffer.name}" if buffer.kind is Kind.DIRECT else buffer.name
    is_word = buffer.called and escape(buffer.called) == "".join(buffer.called.split())
    return f"#{buffer.called}" if is_word else f"#{buffer.name}"
