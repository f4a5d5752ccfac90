"""What the users of a run have seen, and where the run stands: shared by all of them."""

import asyncio
import random
from typing import Any, Final

from bench.faults.history import History
from bench.lab.wire import Answer, Refused
from libproto.errors import Status
from libproto.messages import (
    Opcode,
)

HOT: Final = 3  # users who are paid by everybody, so that locks are waited for


class Seen:
    """The history, what is counted, and what was not expected."""

    def __init__(self, host: str, port: int) -> None:
        self.address = host, port
        self.history = History()
        self.playing = True
        self.over = False
        self.ending = False  # the server is being stopped: it may refuse and close
        self.up_since = 0.0  # monotonic, s; infinity while there is no server: it was killed
        self.impatient = 0  # connections given up
        self.busy = 0
        self.cuts = {"frame": 0, "answer": 0}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []

    def spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failures.append(error)

    def unexpected(self, text: str) -> None:
        self.history.unexpected.append(text)

    def refused(self, opcode: Opcode, answer: Answer) -> None:
        """An answer that is not OK where the load expects it to be."""
        if answer.status == Status.ERR_SERVER_BUSY:
            self.busy += 1
        elif not self.ending:
            self.unexpected(f"{opcode.name} was answered {answer.status.name}: {answer.fields[1]}")

    def cannot_connect(self, error: Exception, tried: float) -> None:
        """tried: when, monotonic, s."""
        if self.ending or (tried <= self.up_since and isinstance(error, OSError)):
            return
        if isinstance(error, ConnectionRefusedError):
            self.unexpected("a connection was refused: nobody listens")
        elif isinstance(error, Refused) and error.status != Status.ERR_SERVER_BUSY:
            self.unexpected(str(error))

    def somebody(self, rng: random.Random, but: int) -> int:
        """Another user; a few of them more often than the others."""
        users = self.history.users
        while True:
            hot = rng.random() < 0.3
            user = rng.choice(users[:HOT] if hot else users)
            if user != but:
                return user
