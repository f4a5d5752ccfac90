"""The chat on a screen: lines go into buffers, and the screen shows what of them is looked at."""

import asyncio
from collections.abc import Callable

from client.chat import entries, rows
from client.chat.entries import now_us
from client.chat.model import Buffer, Entry, Kind, Model, Sort, remark, wrong
from client.chat.settings import Settings
from client.terminal.display import text_of
from client.terminal.style import Line, Part
from client.terminal.text import escape

NOTICE_MAX = 120
"""Characters of a desktop notice."""


class ScreenFace:
    """Puts lines into the model, and has the screen drawn anew."""

    keeps_lines = True

    def __init__(self, model: Model, settings: Settings) -> None:
        self._model = model
        self._settings = settings
        self.redraw: Callable[[], object] = lambda: None
        self.ring: Callable[[], object] = lambda: None
        self.notify: Callable[[str], object] = lambda _: None
        """Shows a desktop notice; the text is harmless."""
        self.size: Callable[[], tuple[int, int]] = lambda: (80, 20)
        """Columns and rows of the part that shows messages."""
        self.question = ""
        self.hides = False
        """The answer is a secret, and not shown."""
        self.answer: asyncio.Future[str] | None = None
        self.on_question: Callable[[], object] = lambda: None
        """Called when a question is asked, and when it is answered."""
        self._asking = asyncio.Lock()
        self._asked_in = model.active  # where the command was typed that is carried out

    def shown(self, buffer: Buffer, entry: Entry, *, dated: bool = False) -> None:
        del buffer, entry, dated  # it is in its buffer, which is what is shown
        self.redraw()

    def _add(self, entry: Entry) -> None:
        self._model.add(self._model.active, entry, is_read=True)
        self.redraw()

    def begin(self) -> None:
        self._asked_in = self._model.active

    def result(self, line: Line) -> None:
        model = self._model
        buffer = self._asked_in if self._asked_in in model.buffers else model.active
        model.add(buffer, Entry(Sort.RESULT, now_us(), line, line), is_read=True)
        self.redraw()

    def money(self, line: Line) -> None:
        active, entry = self._model.active, entries.of_receipt(line)
        if active.kind is Kind.BOARD and (room := self._model.room(active.room)):
            self._model.add(room, entry, is_read=True)  # it stays there
        self._add(entry)

    def remark(self, *line: Part) -> None:
        self._add(remark(now_us(), [*line]))

    def complain(self, text: str) -> None:
        self._add(wrong(now_us(), text))

    def attract(self, buffer: Buffer, entry: Entry) -> None:
        match self._settings["notify"]:
            case "bell":
                self.ring()
            case "desktop":
                said = f"{entry.who}: {text_of(entry.body)}" if entry.sort is Sort.SAID else (
                    text_of(entry.body)
                )  # fmt: skip
                self.notify(escape(f"{buffer.title}: {said}")[:NOTICE_MAX])

    async def ask(self, question: str, *, hidden: bool = False) -> str:
        async with self._asking:
            self.question, self.hides = question, hidden
            self.answer = asyncio.get_running_loop().create_future()
            self.on_question()
            self.redraw()
            try:
                return await self.answer
            finally:
                self.question, self.answer, self.hides = "", None, False
                self.on_question()
                self.redraw()

    def found(self, buffer: Buffer, place: int) -> None:
        width, height = self.size()
        rows.show_at(buffer, place, width, height, joins=self._settings["joins"])
        self.redraw()

    def refresh(self) -> None:
        self.redraw()
