"""Completes commands and, by the kind of the parameter, what stands behind them."""

from collections.abc import Callable, Iterable

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from client.chat.commands import BY_NAME, COMMANDS
from client.chat.person import Chat
from client.chat.settings import BY_NAME as SETTINGS


class CommandCompleter(Completer):
    """Completes the input line: commands, users, rooms, buffers, settings; in a message, names."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._words: dict[str, Callable[[], Iterable[str]]] = {
            "": tuple,
            "room": lambda: map(str, sorted(chat.model.rooms)),
            "user": self._users,
            "command": lambda: BY_NAME,
            "buffer": lambda: (_buffer_name(each.title) for each in chat.model.buffers),
            "setting": lambda: SETTINGS,
        }

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
        place = len(before) - 1
        if named is not None and place < len(named.parameters):
            for choice in self._words[named.parameters[place].kind]():
                if choice.startswith(word):
                    yield Completion(choice, -len(word))

    def _names(self, word: str, *, is_first: bool) -> Iterable[Completion]:
        for name in self._users():
            if name.lower().startswith(word.lower()):
                yield Completion(f"{name}: " if is_first else name, -len(word), name)


def _buffer_name(title: str) -> str:
    return title.replace("room ", "#")
