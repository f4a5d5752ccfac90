"""The load: users who move money and talk, lose their connections, and write everything down.

Each user has one connection at a time, and keeps its client_id. It has several requests in flight,
waits a random time between two, and gives up a connection that does not answer. With a new one it
repeats the ledger requests that are unanswered, joins its rooms again, and reads with ROOM_HISTORY
what it has missed. TXN_HISTORY is read now and then, so that a server with a short ring is judged
as well.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable
from typing import Final

from bench.faults.seen import Seen
from bench.faults.user import BUSY_S, User
from bench.lab.cli import BenchFailed
from bench.lab.wire import Lost, Refused, Wire
from libproto.errors import Status
from libproto.messages import (
    Opcode,
)

SETTLE_S: Final = 30.0
POLL_S: Final = 0.02


class RunFailed(BenchFailed):
    """The run could not be made; nothing can be said about the server."""


class Load(Seen):
    """All users of a run."""

    def __init__(self, host: str, port: int, connections: int, rate: float, seed: int) -> None:
        """rate: requests per second, over all."""
        super().__init__(host, port)
        self.users: list[User] = []
        self._connections = connections
        self._pause_s = connections / rate
        self._random = random.Random(seed)  # noqa: S311 - a load that can be repeated
        self._prefix = os.urandom(4).hex()

    def press(self, rng: random.Random) -> None:
        """Some users send at once, so that what happens next happens to workers in the middle of
        transactions; without a turn of the loop, which would read the answers first."""
        for user in rng.sample(self.users, rng.randint(1, len(self.users))):
            user.press()

    async def begin(self) -> None:
        """Register the users, connect them, and let them play. RunFailed."""
        names = [f"f{self._prefix}-{number}" for number in range(self._connections)]
        try:
            async with asyncio.timeout(SETTLE_S):
                wire = await Wire.open(*self.address, lambda *_: None, self.unexpected)
                self.history.users = await wire.register(names)
                wire.cut(reset=False)
        except (OSError, Lost, Refused, TimeoutError) as error:
            raise RunFailed(f"the users cannot be registered: {error!r}") from error
        for name, user in zip(names, self.history.users, strict=True):
            self.history.log[user] = []
            self.users.append(self._user(name, user, self._random.getrandbits(64)))
        for each in self.users:
            self.spawn(each.live())
        if left := await self._until(lambda: self._first(User.unsettled)):
            raise RunFailed(f"not every user can log in and join: {left}")
        for each in self.users:
            self.spawn(each.play(self._pause_s))

    def _user(self, name: str, user: int, seed: int) -> User:
        return User(self, name, user, seed)

    def _first(self, question: Callable[[User], str]) -> str:
        return next((f"{user.name} {text}" for user in self.users if (text := question(user))), "")

    async def _until(self, left: Callable[[], str]) -> str:
        """Wait until nothing is left, at most SETTLE_S; what is left then."""
        deadline = time.monotonic() + SETTLE_S
        while (text := left()) and time.monotonic() < deadline and not self._failures:
            await asyncio.sleep(POLL_S)
            now = time.monotonic()
            for user in self.users:
                user.check_patience(now)
        return text

    async def settle(self) -> None:
        """Stop playing, wait until every request is answered and every event is there, and read
        what the server has at the end."""
        self.playing = False
        deadline = time.monotonic() + SETTLE_S
        while not self.history.complete:
            if left := await self._until(lambda: self._first(User.unsettled)):
                self.history.unfinished.append(f"{SETTLE_S:g} s after the last request, {left}")
                return
            try:
                async with asyncio.timeout(2 * SETTLE_S):
                    await self._read_end()
            except (Lost, Refused, TimeoutError) as error:
                is_busy = isinstance(error, Refused) and error.status == Status.ERR_SERVER_BUSY
                if (is_busy or isinstance(error, Lost)) and time.monotonic() < deadline:
                    await asyncio.sleep(BUSY_S if is_busy else 0)
                    continue  # what was broken last is only noticed now
                text = f"the state at the end cannot be read: {error!r}"
                self.history.unfinished.append(text)
                return
            self.history.complete = True

    async def _read_end(self) -> None:
        """The rooms' last numbers, which all then must be told of; logs and balances."""
        last_seqs = self.history.last_seqs
        await self._read_rooms(last_seqs)
        await self._until(lambda: self._first(lambda user: user.behind(last_seqs)))
        unread = dict(last_seqs)
        for user in self.users:
            user.read_back(unread)
        await self._until(lambda: self._first(User.unsettled))
        for user in self.users:
            await user.read_log()
            self.history.balances[user.id] = await user.read_balance()
        for user in self.users:
            user.close_memberships()

    async def _read_rooms(self, last_seqs: dict[int, int]) -> None:
        wire = self.users[0].wire
        if wire is None:
            raise Lost
        (rooms,) = await wire.call(Opcode.ROOM_LIST, 0)
        last_seqs.update((entry.room_id, entry.last_seq) for entry in rooms)

    async def end(self) -> None:
        """Close everything. RunFailed and whatever else went wrong in a user."""
        self.playing, self.over, self.ending = False, True, True
        for user in self.users:
            if user.wire is not None:
                user.wire.cut(reset=False)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._failures:
            raise self._failures[0]
