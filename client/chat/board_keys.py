"""What keys do while a board is looked at.

Money is moved by two keys here, so what is pasted must not be able to press both: a yes counts only
once the question is shown and no key has come for a while, which a person waits for anyway.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from client.chat import board_rows, board_view
from client.chat.entries import now_us
from client.chat.model import Buffer, Kind
from client.chat.person import Chat
from client.chat.screen_face import ScreenFace
from client.chat.worker import Worker
from client.terminal.style import Line
from libproto.messages import BoardEntry

QUIET_S: Final = 0.5
"""So long no key may have come, and the question have been asked, before a yes is one. What is
pasted comes with less between its keys, over slow connections too."""
_ASKS: Final = " [y/N] "
_NO: Final = frozenset({"n", "N", "q", "escape", "c-m"})


class BoardKeys:
    """Keys on the board that is looked at."""

    def __init__(self, chat: Chat, face: ScreenFace, worker: Worker) -> None:
        self._chat = chat
        self._face = face
        self._worker = worker
        self.redraw: Callable[[], object] = lambda: None
        self.is_armed = False
        """Whether a yes counts now."""
        self._is_shown = False  # all of the question
        self._timer: asyncio.TimerHandle | None = None

    @property
    def _buffer(self) -> Buffer:
        return self._chat.model.active

    @property
    def is_list(self) -> bool:
        """Whether a board is looked at, and nothing is asked."""
        return self._buffer.kind is Kind.BOARD and not self._face.question

    @property
    def is_asking(self) -> bool:
        """Whether something is asked while a board is looked at."""
        return self._buffer.kind is Kind.BOARD and bool(self._face.question)

    def rows(self, width: int, height: int) -> list[Line]:
        """What is shown."""
        question = self._face.question.removesuffix(_ASKS)
        self._is_shown = len(board_rows.question_rows(question, width)) <= height
        return board_rows.board_rows(self._buffer, width, height, now_us(), question)

    # ---- questions

    def asked(self) -> None:
        """A question is asked now."""
        self.is_armed = False
        if self.is_asking:
            self._wait()

    def _wait(self) -> None:
        self.close()
        self.is_armed, self._is_shown = False, False
        self._timer = asyncio.get_running_loop().call_later(QUIET_S, self._arm)
        self.redraw()

    def _arm(self) -> None:
        self.is_armed = self.is_asking and self._is_shown
        if self.is_asking and not self.is_armed:
            self._wait()  # it is not drawn yet, or there is no space for all of it
        self.redraw()

    def answer(self, key: str) -> None:
        """A key that is pressed while something is asked."""
        answer = self._face.answer
        if answer is None or answer.done():
            return
        if key in _NO:
            answer.set_result("n")
        elif key in ("y", "Y") and self.is_armed:
            answer.set_result("y")
        else:
            self._wait()

    def close(self) -> None:
        """Wait for nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ---- the entry under the cursor

    def take(self) -> None:
        self._do("take", board_view.take)

    def drop(self) -> None:
        self._do("drop", board_view.drop)

    def _do(self, what: str, action: Callable[[Chat, Buffer, BoardEntry], Awaitable[None]]) -> None:
        buffer = self._buffer
        entry = None if buffer.board is None else buffer.board.selected
        if entry is None or self._worker.is_busy:  # what is asked then is not what is looked at
            return
        self._worker.put(f"/{what} {entry.entry_id}", partial(action, self._chat, buffer, entry))

    def leave(self) -> None:
        board_view.close(self._chat, self._buffer)
