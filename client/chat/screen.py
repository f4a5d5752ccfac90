"""The chat on a whole terminal: what is drawn where, and what the keys do.

What is shown is made of the model by `rows` and `panes`; here is only where it stands. The input
line is never touched by what arrives.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer as Input
from prompt_toolkit.data_structures import Point
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import History
from prompt_toolkit.layout import (
    BufferControl,
    ConditionalContainer,
    Float,
    FloatContainer,
    HSplit,
    Layout,
    UIContent,
    UIControl,
    VSplit,
    Window,
)
from prompt_toolkit.layout.controls import FormattedTextControl
from prompt_toolkit.layout.dimension import Dimension
from prompt_toolkit.layout.menus import CompletionsMenu
from prompt_toolkit.layout.processors import ConditionalProcessor, PasswordProcessor
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.styles import Style as Look
from prompt_toolkit.widgets import SearchToolbar

from client.chat import panes, rows
from client.chat.board_keys import BoardKeys
from client.chat.commands import COMMANDS
from client.chat.completing import CommandCompleter
from client.chat.model import Buffer, Kind
from client.chat.person import Chat
from client.chat.screen_face import ScreenFace
from client.chat.worker import GIVEN_UP, NOT_SENT, Worker
from client.errors import ClientError
from client.terminal.advice import explain
from client.terminal.display import text_of
from client.terminal.style import Line, Style
from client.terminal.text import fitted, width_of
from client.terminal.wrap import wrap

INPUT_ROWS: Final = 6
"""Rows of the input line at most; it scrolls beyond."""
FETCH_COUNT: Final = 50
"""Older messages that are fetched at a time."""
HEARTBEAT_S: Final = 5.0
"""How often the lag is measured."""

_COMMON: Final = {
    "title": "reverse",
    "status": "reverse",
    "completion-menu.completion.current": "reverse",
}
THEMES: Final[Mapping[str, Mapping[str, str]]] = {
    "dark": {
        "place": "ansicyan",
        "person": "bold",
        "quiet": "ansibrightblack",
        "money": "ansigreen",
        "mark": "ansigreen bold",
        "mention": "ansiyellow bold",
        "wrong": "ansired",
        "active": "ansiwhite bold",
    },
    "light": {
        "place": "ansiblue",
        "person": "bold",
        "quiet": "ansibrightblack",
        "money": "ansigreen",
        "mark": "ansigreen bold",
        "mention": "ansimagenta bold",
        "wrong": "ansired",
        "active": "ansiblack bold",
    },
    "none": {
        "place": "",
        "person": "bold",
        "quiet": "",
        "money": "",
        "mark": "bold",
        "mention": "bold underline",
        "wrong": "bold",
        "active": "bold",
    },
}


def look_of(theme: str) -> Look:
    """What the classes of a theme look like, in the 16 colours that every terminal has."""
    return Look.from_dict({**_COMMON, **THEMES[theme]})


def fragments(line: Line) -> StyleAndTextTuples:
    """A line as prompt_toolkit takes it."""
    return [
        ("", part) if isinstance(part, str) else (f"class:{part[0].name.lower()}", part[1])
        for part in line
    ]


class Rows(UIControl):
    """Shows lines that are made for the size there is."""

    def __init__(self, made: Callable[[int, int], list[Line]]) -> None:
        """made: of columns and rows."""
        self._made = made
        self.size = (80, 20)

    def create_content(self, width: int, height: int) -> UIContent:
        # The last column stays empty: prompt_toolkit drops what combines with a character there.
        self.size = max(1, width - 1), height
        lines = [self._filled(line, width) for line in self._made(*self.size)]
        return UIContent(
            lambda number: lines[number],
            line_count=len(lines),
            cursor_position=Point(0, max(0, len(lines) - 1)),
            show_cursor=False,
        )

    @staticmethod
    def _filled(line: Line, width: int) -> StyleAndTextTuples:
        """The line, filled with blanks: prompt_toolkit gives a character without width that is the
        last of a row a column of its own, unless something follows."""
        return [*fragments(line), ("", " " * (width - width_of(text_of(line))))]


class ChatScreen:
    """The screen of a chat."""

    def __init__(self, chat: Chat, face: ScreenFace, worker: Worker, history: History) -> None:
        self.chat = chat
        self.face = face
        self.worker = worker
        self.is_slow = False
        """Whether what waits is to be shown."""
        self.help: int | None = None
        """Rows that the help is scrolled down; None: it is not shown."""
        self.folds_rooms = self.folds_members = False
        self._fetching: asyncio.Task[Any] | None = None
        self._kept: Document | None = None
        self.input = Input(
            name="input",
            completer=CommandCompleter(chat),
            history=history,
            multiline=True,
            enable_history_search=False,
        )
        self._search = SearchToolbar(
            backward_search_prompt="search backward: ",
            forward_search_prompt="search forward: ",
            ignore_case=True,
        )
        self._messages = Rows(self._message_rows)
        self.board_keys = BoardKeys(chat, face, worker)
        self.app: Application[None] = Application(
            Layout(self._layout(), focused_element=self.input),
            full_screen=True,
            style=look_of(self._theme()),
            color_depth=self._depth,
            mouse_support=False,
        )
        chat.settings.watch(self._restyle)
        self._looked_at = chat.model.active
        face.redraw = self.board_keys.redraw = self._follow
        face.size = lambda: self._messages.size
        face.ring = self._ring
        face.notify = self._notify
        face.on_question = self._asked
        worker.on_slow = self._slow
        worker.on_done = self._done

    # ---- layout

    @property
    def columns(self) -> int:
        return self.app.output.get_size().columns

    @property
    def shows_rooms(self) -> bool:
        return self.columns >= panes.ROOMS_FROM and not self.folds_rooms

    def _shows_members(self) -> bool:
        if self.columns < panes.MEMBERS_FROM or self.folds_members:
            return False
        return self.help is None and self.chat.model.active.kind is Kind.ROOM

    def _layout(self) -> FloatContainer:
        model = self.chat.model
        line = Window(width=1, char="\u2502", style="class:quiet")
        rooms = Window(Rows(lambda width, _: panes.rooms(model, width)), width=panes.ROOMS_WIDTH)
        members = Window(
            Rows(lambda width, _: panes.members(model.active, width)), width=panes.MEMBERS_WIDTH
        )
        middle = VSplit(
            [
                ConditionalContainer(VSplit([rooms, line]), Condition(lambda: self.shows_rooms)),
                Window(self._messages, wrap_lines=False),
                ConditionalContainer(
                    VSplit([Window(width=1, char="\u2502", style="class:quiet"), members]),
                    Condition(self._shows_members),
                ),
            ]
        )
        return FloatContainer(
            HSplit(
                [
                    Window(FormattedTextControl(self._title), height=1, style="class:title"),
                    middle,
                    Window(FormattedTextControl(self._status), height=1, style="class:status"),
                    Window(
                        BufferControl(
                            self.input,
                            input_processors=[
                                ConditionalProcessor(
                                    PasswordProcessor(), Condition(lambda: self.face.hides)
                                )
                            ],
                            search_buffer_control=self._search.control,
                            preview_search=True,
                        ),
                        height=Dimension(min=1, max=INPUT_ROWS),
                        dont_extend_height=True,
                        wrap_lines=True,
                        get_line_prefix=self._prefix,
                    ),
                    self._search,
                ]
            ),
            [Float(CompletionsMenu(max_height=8), xcursor=True, ycursor=True)],
        )

    def _title(self) -> StyleAndTextTuples:
        if self.help is not None:
            return [("", " help: F1 goes back"[: self.columns])]
        return [("", f" {panes.title(self.chat.model.active, max(1, self.columns - 3))} ")]

    def _status(self) -> StyleAndTextTuples:
        note = ""
        if self._fetching is not None and not self._fetching.done():
            note = "fetching older messages\u2026"
        elif self.is_slow:
            count = len(self.worker.waiting)
            note = f"{count} line{'' if count == 1 else 's'} waiting"
        return fragments(
            panes.status(self.chat.model, self.columns, note=note, shows_rooms=self.shows_rooms)
        )

    def _prefix(self, line: int, wrapped: int) -> StyleAndTextTuples:
        place = fitted(self.chat.model.active.title, min(panes.PLACE_MAX, self.columns // 2))
        text = self.face.question or f"[{place}] "
        if self.board_keys.is_asking:
            text = "[y/n] " if self.board_keys.is_armed else "\u2026 "
        if line or wrapped:
            return [("", " " * min(4, width_of(text)))]
        return [("class:mention" if self.face.question else "class:place", text)]

    def _message_rows(self, width: int, height: int) -> list[Line]:
        if self.help is not None:
            found = panes.help_rows(COMMANDS, width)
            self.help = max(0, min(self.help, len(found) - height))
            return found[self.help : self.help + height]
        buffer, joins = self.chat.model.active, self.chat.settings["joins"]
        if buffer.kind is Kind.BOARD:
            return self.board_keys.rows(width, height)
        waiting = self._waiting_rows(width) if buffer.bottom is None else []
        waiting = waiting[-max(0, height - 1) :]
        found = rows.page(buffer, width, height - len(waiting), joins=joins)
        blank: list[Line] = [[""]] * (height - len(waiting) - len(found))
        return [*blank, *found, *waiting]

    def _waiting_rows(self, width: int) -> list[Line]:
        if not (self.is_slow or self.chat.outage.is_out):
            return []
        return [
            row
            for text in self.worker.waiting
            for row in wrap([(Style.QUIET, f"  \u2026   {text}")], width, rows.INDENT)
        ]

    # ---- what changes

    def _theme(self) -> str:
        theme: str = self.chat.settings["theme"]
        return "none" if os.environ.get("NO_COLOR") else theme

    def _depth(self) -> ColorDepth:
        return ColorDepth.DEPTH_1_BIT if self._theme() == "none" else ColorDepth.DEPTH_4_BIT

    def help_or_back(self) -> None:
        self.help = 0 if self.help is None else None

    def fold_rooms(self) -> None:
        self.folds_rooms = not self.folds_rooms

    def fold_members(self) -> None:
        self.folds_members = not self.folds_members

    def _restyle(self) -> None:
        self.app.style = look_of(self._theme())
        self.app.invalidate()

    def _ring(self) -> None:
        self.app.output.bell()
        self.app.output.flush()

    def _notify(self, text: str) -> None:
        self.app.output.write_raw(f"\x1b]9;{text}\x07")
        self.app.output.flush()

    @property
    def is_searching(self) -> bool:
        """Whether a key is for the search in what was typed before."""
        return self.app.layout.is_searching

    def end_search(self) -> None:
        """Back to the input line, as it was before the search."""
        if self.is_searching:
            self.app.layout.search_links.clear()
            self.app.layout.focus(self.input)
            self._search.search_buffer.reset()

    def _asked(self) -> None:
        """A question takes the input line; what was being typed is there again after it."""
        self.end_search()
        if self.face.question:
            self._kept = self.input.document
            self.input.reset()
            self.board_keys.asked()
        elif self._kept is not None:
            self.input.reset(self._kept)  # of an answer nothing is left, to be undone to
            self._kept = None

    def _slow(self, line: str) -> None:
        del line
        self.is_slow = True
        self.app.invalidate()

    def _done(self, line: str, why: str) -> None:
        self.is_slow = False
        if why in (GIVEN_UP, NOT_SENT) and not self.input.text:
            self.input.set_document(Document(line), bypass_readonly=True)
        self.app.invalidate()

    def switch(self, buffer: Buffer | None) -> None:
        """Look at a buffer; what is typed stays with the one it was typed in."""
        model = self.chat.model
        if buffer is None or buffer is model.active or self.face.question:
            return
        self.end_search()
        model.active.draft = self.input.text
        model.switch(buffer)
        self._looked_at = buffer
        self._show_draft(buffer)

    def _show_draft(self, buffer: Buffer) -> None:
        text, buffer.draft = buffer.draft, ""
        self.input.set_document(Document(text), bypass_readonly=True)
        self.app.invalidate()

    def _follow(self) -> None:
        """Draw anew; a command may have gone to another buffer."""
        active = self.chat.model.active
        if active is not self._looked_at:
            self._looked_at = active
            if not self.input.text and not self.face.question:
                self._show_draft(active)
        self.app.invalidate()

    def scroll(self, step: int) -> None:
        """Show other rows: up by a positive step; at the beginning, fetch what is older."""
        if self.help is not None:
            self.help -= step
            self.app.invalidate()
            return
        buffer, joins = self.chat.model.active, self.chat.settings["joins"]
        if buffer.board is not None:
            buffer.board.move(-step)
            self.app.invalidate()
            return
        width, height = self._messages.size
        if rows.scroll(buffer, width, height, step, joins=joins):
            self._fetch(buffer)
        if buffer.bottom is None:
            buffer.unread = buffer.mentions = 0
        self.app.invalidate()

    def page_size(self) -> int:
        """Rows that a page moves by: one stays to be recognized."""
        return max(1, self._messages.size[1] - 1)

    def _fetch(self, buffer: Buffer) -> None:
        if buffer.kind is not Kind.ROOM or not buffer.older:
            return
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.ensure_future(self._fetch_older(buffer))

    async def _fetch_older(self, buffer: Buffer) -> None:
        try:
            await self.chat.fetch_older(buffer, FETCH_COUNT)
        except ClientError as error:
            self.face.complain(explain(error))

    async def measure(self) -> None:
        """Learn the balance; then measure the lag, again and again."""
        loop, model = asyncio.get_running_loop(), self.chat.model
        with suppress(ClientError):  # then a reconnection or a payment tells it
            model.learn_balance(*await self.chat.client.balance())
        while True:
            await self.chat.outage.over()
            began = loop.time()
            try:
                await self.chat.client.heartbeat()
                model.lag_ms = round((loop.time() - began) * 1000)
                await self._look_who_is_there()
            except ClientError:
                model.lag_ms = None
            self.app.invalidate()
            await asyncio.sleep(HEARTBEAT_S)

    async def _look_who_is_there(self) -> None:
        """Whether the other one of a conversation is online."""
        buffer = self.chat.model.active
        if buffer.kind is Kind.DIRECT:
            found = await self.chat.client.lookup(buffer.name)
            buffer.members = {buffer.name: bool(found.online)}

    def close(self) -> None:
        self.board_keys.close()
        if self._fetching is not None:
            self._fetching.cancel()
