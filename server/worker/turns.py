"""Requests of one connection that take their time: for files, for links.

They keep their order among themselves only; every other request may overtake them. Such a request
is a generator: it yields what it waits for, and returns its answer. One runs at a time, the others
wait for their turn. The end of the session ends them all: what would have been published is not.
"""

from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Final, Protocol

from libproto.errors import Status
from libproto.messages import FILES_WAITING_MAX
from server.worker.refusal import Refused

RETRY_MS: Final = 100

Resume = Callable[[Any], None]
Wait = Callable[[Resume], None]
"""Has the given function called, once, with what was waited for."""
Steps = Generator[Wait, Any, bytes | None]


class Turning(Protocol):
    """What is known here of a connection."""

    background: int
    choked: bool

    def complete(
        self, opcode: int, req_id: int, then: Callable[[], bytes | None], /
    ) -> bytes | None: ...
    def push(self, frame: bytes, /) -> None: ...
    def flush(self) -> None: ...
    def settle(self) -> None: ...


class _Turn:
    """One request. `ended`: nobody wants to hear of it any more."""

    __slots__ = ("began", "ended", "opcode", "req_id", "steps")

    def __init__(self, opcode: int, req_id: int, steps: Steps) -> None:
        self.opcode, self.req_id, self.steps = opcode, req_id, steps
        self.began = self.ended = False


class Turns:
    """Those of one connection."""

    def __init__(self, connection: Turning) -> None:
        self._connection = connection
        self._turns: deque[_Turn] = deque()  # the first of them runs
        self._runs = False

    def add(self, opcode: int, req_id: int, steps: Steps) -> bytes | None:
        """Execute a request in its turn; its answer, if that comes at once. Refused: too many
        wait."""
        if len(self._turns) >= FILES_WAITING_MAX:
            raise Refused(Status.ERR_SERVER_BUSY, "too many requests for files wait", RETRY_MS)
        turn = _Turn(opcode, req_id, steps)
        self._turns.append(turn)
        self._connection.background += 1
        if self._runs or len(self._turns) > 1 or self._connection.choked:
            return None
        return self._go_on(turn, None)

    def _go_on(self, turn: _Turn, value: Any) -> bytes | None:
        """Take its next step; its answer, where that was the last."""
        connection = self._connection
        self._runs = turn.began = True
        waits: list[Wait] = []

        def step() -> bytes | None:
            try:
                waits.append(turn.steps.send(value))
            except StopIteration as end:
                answer: bytes | None = end.value
                return answer
            return None

        answer = connection.complete(turn.opcode, turn.req_id, step)
        self._runs = False
        if turn.ended:
            return None
        if waits:
            waits[0](lambda found: self._resume(turn, found))
            return None
        self._turns.popleft()
        connection.background -= 1
        return answer

    def _resume(self, turn: _Turn, value: Any) -> None:
        if turn.ended:
            return
        answer = self._go_on(turn, value)
        if answer:
            self._connection.push(answer)
        self.go_on()

    def go_on(self) -> None:
        """Begin those whose turn it is, and send what there is to send."""
        connection = self._connection
        while self._turns and not (self._runs or connection.choked):
            turn = self._turns[0]
            if turn.began:
                break  # it waits for something
            if answer := self._go_on(turn, None):
                connection.push(answer)
        connection.flush()
        connection.settle()

    def end(self) -> list[tuple[int, int]]:
        """The session has ended: none of them has an effect any more. Their opcodes and req_ids,
        for the caller to answer."""
        turns = tuple(self._turns)
        self._turns.clear()
        for turn in turns:
            turn.ended = True
            turn.steps.close()
        self._connection.background -= len(turns)
        return [(turn.opcode, turn.req_id) for turn in turns]
