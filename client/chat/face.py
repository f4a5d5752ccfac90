"""What a chat needs of whatever shows it: line after line, or a screen."""

from typing import Protocol

from client.chat.model import Buffer, Entry
from client.terminal.style import Line, Part


class Face(Protocol):
    """What shows a chat to a person."""

    keeps_lines: bool
    """Whether lines stay to be scrolled back to, so that older ones are put before them."""

    def shown(self, buffer: Buffer, entry: Entry, *, dated: bool = False) -> None:
        """A line is in a buffer now. dated: it is of another time than now."""

    def begin(self) -> None:
        """A command begins: its results go where the person is now."""

    def result(self, line: Line) -> None:
        """Show a line of what was asked for."""

    def money(self, line: Line) -> None:
        """Show what became of one's own money."""

    def remark(self, *line: Part) -> None:
        """Say what goes on."""

    def complain(self, text: str) -> None:
        """Say what went wrong."""

    def attract(self, buffer: Buffer, entry: Entry) -> None:
        """Something came that is meant for this person."""

    async def ask(self, question: str, *, hidden: bool = False) -> str:
        """The answer that somebody gives. hidden: it is a secret, and not shown."""

    def found(self, buffer: Buffer, place: int) -> None:
        """Show the line that was searched for, by its place among the entries."""

    def refresh(self) -> None:
        """Something else of the model has changed."""
