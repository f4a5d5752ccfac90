"""The chat line after line: what is shown is written, and stays as it was."""

from collections.abc import Awaitable, Callable

from client.chat import entries
from client.chat.model import Buffer, Entry, Sort
from client.chat.rows import clock
from client.chat.settings import Settings
from client.terminal import display
from client.terminal.display import Screen
from client.terminal.style import Line, Part, Style


class LineFace:
    """Shows a chat on standard output, and messages of the program on standard error."""

    keeps_lines = False

    def __init__(self, screen: Screen, settings: Settings, *, for_a_person: bool) -> None:
        """for_a_person: at a terminal, where times are shown and somebody can be asked."""
        self._screen = screen
        self._settings = settings
        self._is_person = for_a_person
        self.asker: Callable[[str, bool], Awaitable[str]] | None = None
        """Shows a question, and gives the answer; the second: hides it."""

    def shown(self, buffer: Buffer, entry: Entry, *, dated: bool = False) -> None:
        del buffer
        if entry.sort is Sort.PRESENCE and not self._settings["joins"]:
            return
        line: Line = entry.line
        if dated:
            line = entries.dated(entry)
        elif self._is_person and self._settings["times"]:
            line = [(Style.QUIET, f"{clock(entry.time_us)} "), *line]
        self._screen.show(line)

    def begin(self) -> None:
        """There is one place."""

    def result(self, line: Line) -> None:
        self._screen.show(line)

    def money(self, line: Line) -> None:
        self._screen.show(display.of_money(line))

    def remark(self, *line: Part) -> None:
        self._screen.remark(*line)

    def complain(self, text: str) -> None:
        self._screen.complain(text)

    def attract(self, buffer: Buffer, entry: Entry) -> None:
        del buffer, entry
        if self._is_person and self._settings["notify"] != "none":
            self._screen.ring()

    async def ask(self, question: str, *, hidden: bool = False) -> str:
        assert self.asker is not None, "nobody is asked where nobody is"
        return await self.asker(question, hidden)

    def found(self, buffer: Buffer, place: int) -> None:
        self._screen.show(entries.dated(buffer.entries[place]))

    def refresh(self) -> None:
        """Nothing that is written changes."""
