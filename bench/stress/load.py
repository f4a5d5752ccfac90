"""One thread of the load: an epoll loop over many connections, and when the next request is due.

**Closed loop.** A connection sends as soon as fewer than `pipeline` of its requests are unanswered.
A server that hangs is asked nothing meanwhile, so few requests show that it did.

**Open loop.** Requests are due at a fixed rate, whatever the answers, and go to the next connection
that has room for one. Latency counts from when a request was due: what waits because the server (or
this thread) was busy has waited, and a stop of the server shows in every request that fell into it.
"""

import heapq
import random
import select
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple

from bench.stress import boards, notes
from bench.stress.connection import Connection, Host, Member
from bench.stress.mix import Choice, Payees
from bench.stress.options import Options
from bench.stress.outcomes import of_boards, of_rooms
from bench.stress.record import LATE_S, Recorder, Span, Trail
from libproto.messages import Opcode

LOOK_S: Final = 0.02  # how often commands are looked for
CHECK_S: Final = 0.1  # how often connections are looked at
OPEN_EVERY_S: Final = 0.001  # so that a backlog of connections does not run over
READY_MAX: Final = 64  # connections, in one go
SLOW_EVERY_S: Final = 0.25
SLOW_SIZE: Final = 1024
"""A slow member takes so many bytes every SLOW_EVERY_S."""
AMOUNT_MAX: Final = 100  # cents, of a request of the load; one at least
# What is looked at for every request, as plain numbers.
_OUT = select.EPOLLOUT
_LATE_S, _AMOUNT_MAX = LATE_S, AMOUNT_MAX
_CHAT_SEND, _TRANSFER = int(Opcode.CHAT_SEND), int(Opcode.TRANSFER)
_BALANCE, _HEARTBEAT = int(Opcode.BALANCE), int(Opcode.HEARTBEAT)
_FIRST_BOARD, _LAST_BOARD = int(min(boards.OPCODES)), int(max(boards.OPCODES))


class Begin(NamedTuple):
    """A run begins. first_seqs: the next number of each room."""

    span: Span
    first_seqs: dict[int, int]


class Load(Host):
    """A thread and its connections. What it does next is told by `tell`; what it has seen may be
    read by others while it sends nothing."""

    def __init__(
        self,
        options: Options,
        place: int,
        address: tuple[int, Any],
        users: list[int],
        members: list[Member],
    ) -> None:
        """place: of the thread among all of them. users: the user_id of each account."""
        Host.__init__(
            self,
            address,
            options.timeout,
            is_open=options.is_open,
            ignores_busy=options.ignore_busy,
            encrypts=options.encrypts,
        )
        self.error: BaseException | None = None
        self.sending = False
        self._options = options
        self._pipeline, self._payload = options.pipeline, options.payload
        self._place = place
        self._users = users
        self._random = random.Random(f"{options.seed} {place}")  # noqa: S311 - of its pauses only
        self._choice = Choice(options.shares)
        self._payees = Payees(options.accounts, options.hot_accounts, options.zipf)
        self._serial = 0  # of the next message
        self._timers: list[tuple[float, int, Callable[[float], None]]] = []
        self._timer_numbers = count()
        self._commands: SimpleQueue[Begin | str] = SimpleQueue()
        self._backlog: deque[float] = deque()  # when each was due
        self._next_due = float("inf")
        self._interval = options.threads / options.rate if options.rate else 0.0
        self._stuck = False  # no connection has room for another request
        self._turn = 0
        self.everybody = [
            Connection(self, member, random.Random(f"{options.seed} {member.account}"))  # noqa: S311
            for member in members
        ]
        self._senders = [each for each in self.everybody if not each.slow]
        self._thread = threading.Thread(target=self._guarded, daemon=True)

    # ---- for the process

    def start(self) -> None:
        self._thread.start()

    def tell(self, what: Begin | str) -> None:
        """`Begin`, `drain` (slow members read on), `end`."""
        self._commands.put(what)

    def join(self) -> None:
        self._thread.join()

    def unsettled(self) -> str:
        """What it still waits for; "" if nothing."""
        if self.sending:
            return "the run is not over"
        for each in self.everybody:
            if not each.live:
                return f"{each.name} is not logged in: {each.failure or 'it tries to'}"
            waiting = each.unanswered()
            waits = each.outcomes.unknown(waiting) or of_rooms(waiting.values())
            if each.in_flight or waits or of_boards(waiting.values()):
                return f"{each.name} waits for an answer"
        return ""

    def behind(self, last_seqs: dict[int, int]) -> str:
        """Who has not been told of everything in a room; "" if nobody."""
        for each in self.everybody:
            for room, stream in each.pushes.streams.items():
                if stream.position < (last := last_seqs.get(room, 0)):
                    return f"{each.name} is at {stream.position} in room {room}, of {last}"
        return ""

    # ---- for the connections

    def free(self, connection: Connection, at: float) -> None:
        self._stuck = False
        if connection.slow:
            connection.pause(self.sending)
        elif not connection.funded:
            connection.funded = True
            connection.send(Opcode.DEPOSIT, (self._options.funds,), at, at)
        elif self.sending and not self._interval:
            self._fill(connection, at)

    def jitter(self) -> float:
        return self._random.uniform(0.5, 1.5)

    def later(self, at: float, call: Callable[[float], None]) -> None:
        heapq.heappush(self._timers, (at, next(self._timer_numbers), call))

    # ---- the loop

    def _guarded(self) -> None:
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001 - the process tells it
            self.error = error
        finally:
            for connection in tuple(self.connections.values()):
                connection.close()
            self.poll.close()

    def _run(self) -> None:
        at = notes.now()
        for number, connection in enumerate(self.everybody):
            self.later(at + number * OPEN_EVERY_S, connection.open)
        self.later(at, self._look)
        self.later(at, self._read_slowly)
        while self._obey():
            at = notes.now()
            while self._timers and self._timers[0][0] <= at:
                heapq.heappop(self._timers)[2](at)
            if self.sending:
                self._send_due(at)
            for fd, mask in self._wait(at):
                if ready := self.connections.get(fd):
                    self._serve(ready, fd, mask)

    def _serve(self, connection: Connection, fd: int, mask: int) -> None:
        at = notes.now()
        if mask & _OUT:
            connection.writable(at)
        if mask & ~_OUT and fd in self.connections:
            at = connection.readable(0)
        connection.flush(at)

    def _wait(self, at: float) -> list[tuple[int, int]]:
        timeout = min(self._timers[0][0] - at, LOOK_S)
        if not self.sending or not self._interval:
            return self.poll.poll(max(0.0, timeout), READY_MAX)
        if not self._stuck:
            timeout = min(timeout, self._next_due - at)
        # An epoll waits whole milliseconds; select, for the epoll itself, microseconds.
        ready, _, _ = select.select([self.poll], [], [], max(0.0, timeout))
        return self.poll.poll(0, READY_MAX) if ready else []

    def _obey(self) -> bool:
        """Do what was told; False at the end."""
        try:
            command = self._commands.get_nowait()
        except Empty:
            return True
        if isinstance(command, Begin):
            self._begin(command)
        elif command == "drain":
            for each in self.everybody:
                each.pause(False)
        return command != "end"

    def _begin(self, told: Begin) -> None:
        self.recorder = Recorder(told.span, self._options.is_open)
        self.rooms.begin(told.first_seqs)
        self.market.begin()
        for each in self.everybody:
            each.pause(each.slow)
            each.reconnects = each.moves = 0
        at = notes.now()
        self.sending, self._stuck = True, False
        if self._interval:
            self._next_due = at + self._interval * (self._place + 1) / self._options.threads
        else:
            for each in self._senders:
                self._fill(each, at)
                each.flush(at)

    def forget(self) -> None:
        """A run is over and judged: what was written down for it is not needed any more."""
        self.trail = Trail()

    def _look(self, at: float) -> None:
        """Every CHECK_S."""
        for connection in self.everybody:
            connection.check(at)
        self.later(at + CHECK_S, self._look)

    def _read_slowly(self, at: float) -> None:
        """Every SLOW_EVERY_S."""
        if self.sending:
            for connection in self.everybody:
                if connection.slow and connection.live:
                    connection.readable(SLOW_SIZE)
        self.later(at + SLOW_EVERY_S, self._read_slowly)

    # ---- requests

    def _send_due(self, at: float) -> None:
        """The end of the run, or what is due."""
        span = self.recorder.span
        while self._next_due <= min(at, span.end):
            self._backlog.append(self._next_due)
            self._next_due += self._interval
        if at >= span.end:
            self.sending = False
            for due in self._backlog:
                self.recorder.drop(due)
            self._backlog.clear()
        elif self._backlog:
            self._dispatch(at)

    def _dispatch(self, at: float) -> None:
        """Give what is due to connections that have room for it."""
        backlog, touched = self._backlog, []
        while backlog and not self._stuck:
            if at - backlog[0] > self.timeout_s:
                self.recorder.drop(backlog.popleft())
                continue
            connection = self._next_free(at)
            if connection is None:
                self._stuck = True
                break
            self._ask(connection, backlog.popleft(), at)
            touched.append(connection)
        for connection in touched:
            connection.flush(at)

    def _next_free(self, at: float) -> Connection | None:
        senders = self._senders
        for _ in senders:
            self._turn = (self._turn + 1) % len(senders)
            connection = senders[self._turn]
            if self._has_room(connection, at):
                return connection
        return None

    def _has_room(self, connection: Connection, at: float) -> bool:
        if not connection.live or connection.leaving or connection.in_flight >= self._pipeline:
            return False
        if at < connection.blocked_until:
            if connection.waking != connection.blocked_until:
                connection.waking = connection.blocked_until
                self.later(connection.waking, partial(self._unblock, connection))
            return False
        return True

    def _unblock(self, connection: Connection, at: float) -> None:
        self.free(connection, at)
        connection.flush(at)

    def _fill(self, connection: Connection, at: float) -> None:
        while self._has_room(connection, at):
            self._ask(connection, at, at)

    def _ask(self, connection: Connection, due: float, at: float) -> None:
        rng = connection.random
        opcode = self._choice.pick(rng)
        fields: tuple[Any, ...]
        if opcode == _CHAT_SEND:
            text = notes.compose(at, self._serial, self._payload)
            self._serial += 1
            fields = (connection.rooms[int(rng.random() * len(connection.rooms))], text)
        elif opcode == _TRANSFER:
            payee = self._payees.pick(rng, connection.account)
            fields = (self._users[payee], 1 + int(rng.random() * _AMOUNT_MAX))
        elif opcode == _BALANCE:
            fields = ()
        elif opcode == _HEARTBEAT:
            fields = (int(at * 1e6),)
        elif _FIRST_BOARD <= opcode <= _LAST_BOARD:
            self._serial += 1
            price, text = 1 + int(rng.random() * _AMOUNT_MAX), f"{self._place}.{self._serial}"
            rooms, user = connection.rooms, connection.user
            opcode, fields = self.market.request(opcode, rooms, user, rng, price, text)
        else:
            fields = (1 + int(rng.random() * _AMOUNT_MAX),)
        if at - due > _LATE_S:
            self.recorder.sent_late(opcode, due)
        connection.send(opcode, fields, due, at)
