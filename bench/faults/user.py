"""A user of the load: its connection, its requests, its rooms, and all that it writes down."""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any, Final

from bench.faults.history import Membership, Message, Missed, Posting, Read, Request
from bench.faults.seen import Seen
from bench.lab.wire import Answer, Lost, Refused, Wire
from client.core.gaps import read_range
from libproto.errors import Status
from libproto.messages import (
    LIST_MAX,
    OUTCOME_WINDOW,
    ChatBroadcast,
    JoinRoomResponse,
    Opcode,
    RoomGap,
    RoomHistoryResponse,
    Transaction,
    TxnKind,
)

ROOMS: Final = tuple(range(1, 9))
ROOMS_EACH: Final = 2
IN_FLIGHT_MAX: Final = 8  # numbered requests of one user; far below the window of outcomes
PRESSED: Final = 4  # of them sent at once, before a fault
READ_LOG_S: Final = 2.0
NEW_MAX: Final = 32  # transactions asked for first
LOGIN_S: Final = 3.0  # after that another connection is tried: who has accepted this one is stopped
BACK_OFF_S: Final = (0.01, 0.3)  # the first and the longest, before jitter
BUSY_S: Final = 0.2
PATIENCE_S: Final = (0.7, 3.0)  # between these, a user gives up a connection that does not answer

_OPCODES: Final = {kind: Opcode[kind.name] for kind in TxnKind}
_FINE: Final = (Status.OK, Status.ERR_INSUFFICIENT_FUNDS)


class _Room:
    """What one user knows of one room that it wants to be in."""

    def __init__(self) -> None:
        self.joined: Membership | None = None
        self.position: int | None = None  # the last number it has, or knows that it missed
        self.leaving = False


class User:
    """One user and its connections."""

    def __init__(self, load: Seen, name: str, user: int, seed: int) -> None:
        self.name = name
        self.id = user
        self.wire: Wire | None = None  # while it is logged in
        self.unanswered: dict[int, Request | Message | Posting] = {}
        self.reconnects: list[float] = []  # seconds from each loss to being logged in again
        self.moves: list[float] = []  # the same from when all was answered on one that went away
        self._load = load
        self._history = load.history
        self._random = random.Random(seed)  # noqa: S311 - a load that can be repeated
        self._client_id = self._random.getrandbits(64) | 1
        self._known = False  # a LOGIN was answered
        self._next_req_id = 1
        self._said = 0
        self._rooms = {room: _Room() for room in self._random.sample(ROOMS, ROOMS_EACH)}
        self._owed: list[Missed] = []  # not read yet, in order
        self._fetching = False
        self._patience_s = self._random.uniform(*PATIENCE_S)
        self._log_read = time.monotonic()

    # ---- the connection

    async def live(self) -> None:
        """Be connected, until the load is over."""
        delay, lost = BACK_OFF_S[0], time.monotonic()
        while not self._load.over:
            wire, tried = None, time.monotonic()
            try:
                async with asyncio.timeout(LOGIN_S):
                    wire = await Wire.open(*self._load.address, self._push, self._load.unexpected)
                    login = await wire.login(self.name, self._client_id, self._next_req_id)
            except (OSError, Lost, Refused, TimeoutError) as error:
                if wire is not None:
                    wire.cut(reset=False)
                self._load.cannot_connect(error, tried)
                await asyncio.sleep(delay * self._random.uniform(0.5, 1.5))
                delay = min(delay * 2, BACK_OFF_S[1])
                continue
            waited = time.monotonic() - lost
            if (old := self.wire) is not None:  # that the server will close
                self.moves.append(waited)
                self._end()
                old.cut(reset=False)
            elif self._known:
                self.reconnects.append(waited)
            if self._known and not login.resumed:
                self._load.unexpected(f"{self.name} logs in again, and is not resumed")
            self._known = True
            delay = BACK_OFF_S[0]
            self._begin(wire)
            await wire.left.wait()
            lost = time.monotonic()
            if wire.closed.is_set():
                self._end()
        if self.wire is not None:
            self.wire.cut(reset=False)

    def _begin(self, wire: Wire) -> None:
        self.wire = wire
        for request in self.unanswered.values():
            if isinstance(request, Request) and not self._room_of(request):
                self._repeat(request)
        for number, room in self._rooms.items():
            if room.leaving:  # and then the connection was lost: out of it in any case
                room.leaving, room.position = False, None
            self._join(number)
        self._fetch()

    def _end(self) -> None:
        self.wire = None
        self._fetching = False
        for room in self._rooms.values():
            room.joined = None

    def check_patience(self, now: float) -> None:
        wire = self.wire
        if wire is not None and wire.waiting_s(now) > self._patience_s:
            self._load.impatient += 1
            wire.cut(reset=False)

    def cut(self) -> bool:
        """Reset the connection in the middle of a frame, or between requests and their answers.
        False where there is none."""
        wire = self.wire
        if wire is None or not self._has_room():
            return False
        loop = asyncio.get_running_loop()
        if self._random.random() < 0.5:
            self._load.cuts["frame"] += 1
            self._ledger(cut_at=self._random.random())
            self.wire = None
            loop.call_soon(lambda: wire.cut(reset=True))  # when the half has been written
        else:
            self._load.cuts["answer"] += 1
            for _ in range(self._random.randint(1, 3)):
                if self._has_room():
                    self._ledger()
            soon_s = self._random.choice((0.0, self._random.uniform(0, 0.002)))
            loop.call_later(soon_s, lambda: wire.cut(reset=True))
        return True

    def press(self) -> None:
        """Send some requests at once."""
        for _ in range(PRESSED):
            if self._has_room():
                self._ledger()

    # ---- what a user does

    async def play(self, pause_s: float) -> None:
        """Do one thing after another, with random pauses in between, until told to stop."""
        while self._load.playing:
            await asyncio.sleep(self._random.expovariate(1 / pause_s))
            now = time.monotonic()
            self.check_patience(now)
            if self._usable and self._load.playing:
                self._act(now)

    @property
    def _usable(self) -> bool:
        """Something may be sent."""
        return self.wire is not None and not self.wire.leaving

    def _act(self, now: float) -> None:
        wire = self.wire
        assert wire is not None
        if now - self._log_read > READ_LOG_S:
            self._log_read = now
            self._load.spawn(self._read_log_soon())
            return
        chance = self._random.random()
        if chance < 0.80:
            if self._has_room():
                self._ledger()
        elif chance < 0.90:
            self._read_balance(wire)
        elif chance < 0.985:
            self._say(wire)
        else:
            self._leave(wire)

    def _has_room(self) -> bool:
        oldest = min(self.unanswered, default=self._next_req_id)
        is_open = self._next_req_id - oldest < OUTCOME_WINDOW
        return self._usable and is_open and len(self.unanswered) < IN_FLIGHT_MAX

    def _room_of(self, request: Request | Message | Posting) -> int:
        """The room that it is of, which must be joined before it is repeated; 0: none."""
        return request.room if isinstance(request, Message) else 0

    def _number(self, request: Request | Message | Posting) -> None:
        """Give it its req_id, which is there already."""
        self._next_req_id += 1
        self.unanswered[request.req_id] = request

    # ---- money

    def _ledger(self, cut_at: float = 1.0) -> None:
        kinds = (TxnKind.TRANSFER, TxnKind.DEPOSIT, TxnKind.WITHDRAW)
        (kind,) = self._random.choices(kinds, (7, 2, 2))
        amount, payee = self._random.randint(1, 500), 0
        if kind == TxnKind.TRANSFER:
            amount //= 2
            amount += 1
            payee = self._load.somebody(self._random, self.id)
        request = Request(self.id, kind, payee, amount, self._next_req_id, time.monotonic())
        self._number(request)
        self._history.requests.append(request)
        self._send(request, cut_at)

    def _send(self, request: Request, cut_at: float = 1.0) -> None:
        assert self.wire is not None
        is_transfer = request.kind == TxnKind.TRANSFER
        self.wire.send(
            _OPCODES[request.kind],
            request.req_id,
            (request.payee, request.amount) if is_transfer else (request.amount,),
            lambda answer: self._settle(request, answer),
            duplicate=request.repeats > 0,
            cut_at=cut_at,
        )

    def _repeat(self, request: Request) -> None:
        request.repeats += 1
        self._send(request)

    def _settle(self, request: Request, answer: Answer) -> None:
        if answer.status == Status.ERR_SERVER_BUSY:  # not executed by this sending
            self._load.busy += 1
            if self.wire is not None:
                self._later(self.wire, lambda: self._send(request))
            return
        if answer.status not in _FINE:
            self._load.refused(_OPCODES[request.kind], answer)
        del self.unanswered[request.req_id]
        request.answered = time.monotonic()
        request.status, request.recorded = answer.status, answer.recorded
        if answer.status == Status.OK:
            request.txn_id, request.balance = answer.fields

    def _read_balance(self, wire: Wire) -> None:
        sent = time.monotonic()

        def settle(answer: Answer) -> None:
            if answer.status == Status.OK:
                read = Read(self.id, sent, time.monotonic(), *answer.fields)
                self._history.reads.append(read)
            else:
                self._load.refused(Opcode.BALANCE, answer)

        wire.ask(Opcode.BALANCE, settle=settle)

    async def _read_log_soon(self) -> None:
        try:
            await self.read_log()
        except (Lost, Refused):
            return  # it is tried again; and at the end it must succeed

    async def read_log(self) -> None:
        """Add what is new in TXN_HISTORY to the history. Lost, Refused."""
        wire = self.wire
        if wire is None:
            raise Lost
        log = self._history.log[self.id]
        known, before, new = log[-1].txn_id if log else 0, 0, []
        limit = NEW_MAX  # what is new since the last time is few, and older ones cost the server
        while True:
            _, page = await wire.call(Opcode.TXN_HISTORY, before, limit)
            limit = LIST_MAX
            new += [item for item in page if item.txn_id > known]
            if not page or page[-1].txn_id <= known:
                break
            before = page[-1].txn_id
        if known and not page:
            self._history.unfinished.append(
                f"TXN_HISTORY of {self.name} does not reach back to {known}, which it had before: "
                "its chain is broken, or --txn-ring is too small for this load"
            )
        last = log[-1].txn_id if log else 0  # another reading may have come first
        log += [item for item in map(Transaction._make, reversed(new)) if item.txn_id > last]

    # ---- rooms

    def _say(self, wire: Wire) -> None:
        number, room = self._random.choice(tuple(self._rooms.items()))
        if room.joined is None or room.leaving or not self._has_room():
            return
        self._said += 1
        text = f"{self.name} {self._said} " + "." * (self._said % 90)
        message = Message(self.id, number, text, sent=time.monotonic(), req_id=self._next_req_id)
        self._number(message)
        self._history.messages.append(message)
        self._send_message(wire, message)

    def _asked_in(self, room: int) -> list[Request | Message | Posting]:
        """What is unanswered there."""
        return [each for each in self.unanswered.values() if self._room_of(each) == room]

    def _ask_again(self, wire: Wire, request: Request | Message | Posting) -> None:
        assert isinstance(request, Message)
        request.repeats += 1
        self._send_message(wire, request)

    def _send_message(self, wire: Wire, message: Message) -> None:
        def settle(answer: Answer) -> None:
            if answer.status == Status.ERR_SERVER_BUSY:  # not executed by this sending
                self._load.busy += 1
                self._later(wire, lambda: self._send_message(wire, message))
                return
            if answer.status != Status.OK:
                self._load.refused(Opcode.CHAT_SEND, answer)
            del self.unanswered[message.req_id]
            message.answered, message.recorded = time.monotonic(), answer.recorded
            if answer.status == Status.OK:
                message.room_seq = answer.fields[0]

        wire.send(
            Opcode.CHAT_SEND,
            message.req_id,
            (message.room, message.text),
            settle,
            duplicate=message.repeats > 0,
        )

    def _later(self, wire: Wire, action: Callable[[], None]) -> None:
        """Call it after BUSY_S, if this is the connection then."""

        def again() -> None:
            if self.wire is wire and not wire.left.is_set():
                action()

        asyncio.get_running_loop().call_later(BUSY_S, again)

    def _join(self, number: int) -> None:
        wire, room = self.wire, self._rooms[number]
        assert wire is not None

        def settle(answer: Answer) -> None:
            if answer.status != Status.OK:
                self._load.refused(Opcode.JOIN_ROOM, answer)
                self._later(wire, lambda: self._join(number))
                return
            joined = JoinRoomResponse._make(answer.fields)
            before, last = room.position, joined.last_seq
            room.joined = Membership(self.id, number, last, joined.epoch, before)
            self._history.memberships.append(room.joined)
            room.position = last
            for request in self._asked_in(number):  # on the connection before
                self._ask_again(wire, request)
            if before is not None and before < last:
                self._owe(number, before + 1, last)
            self._fetch()

        wire.ask(Opcode.JOIN_ROOM, number, settle=settle)

    def _leave(self, wire: Wire) -> None:
        """Out of a room, and in again as somebody new to it."""
        number, room = self._random.choice(tuple(self._rooms.items()))
        if room.joined is None or room.leaving or self._owed or self._asked_in(number):
            return
        room.leaving = True

        def settle(answer: Answer) -> None:
            room.leaving = False
            if answer.status != Status.OK:
                self._load.refused(Opcode.LEAVE_ROOM, answer)
                return
            room.joined, room.position = None, None
            self._join(number)

        wire.ask(Opcode.LEAVE_ROOM, number, settle=settle)

    def _push(self, opcode: int, fields: tuple[Any, ...]) -> None:
        if opcode not in (Opcode.CHAT_BROADCAST, Opcode.ROOM_GAP):
            self._load.unexpected(f"{self.name} is pushed {Opcode(opcode).name} {fields}")
            return
        room = self._rooms.get(fields[0])
        if room is None or room.joined is None or room.position is None:
            if opcode == Opcode.ROOM_GAP and not fields[0]:
                return  # direct messages, which this load does not send
            self._load.unexpected(f"{self.name} is not in room {fields[0]}, and told {fields}")
            return
        if opcode == Opcode.CHAT_BROADCAST:
            room.joined.pushes.append(ChatBroadcast._make(fields))
            room.position = max(room.position, fields[1])
        else:
            gap = RoomGap._make(fields)
            room.joined.pushes.append(gap)
            room.position = max(room.position, gap.last_seq)
            self._owe(*gap)

    def _owe(self, room: int, first: int, last: int) -> Missed:
        missed = Missed(self.id, room, first, last)
        self._history.missed.append(missed)
        self._owed.append(missed)
        self._fetch()
        return missed

    def _fetch(self) -> None:
        if self._owed and not self._fetching and self.wire is not None:
            self._fetching = True
            self._load.spawn(self._fetch_all(self.wire))

    async def _fetch_all(self, wire: Wire) -> None:
        """Read what was missed, one after the other."""
        try:
            while self._owed and self.wire is wire:
                missed = self._owed[0]
                room = self._rooms[missed.room]
                if room.joined is None or room.leaving:
                    break  # the answer to the next JOIN_ROOM calls for this again
                asking = read_range(missed.room, missed.first, missed.last)
                missed.asked = time.monotonic()
                try:
                    ask = next(asking)
                    while True:
                        answer = await wire.call(Opcode.ROOM_HISTORY, missed.room, *ask)
                        ask = asking.send(RoomHistoryResponse._make(answer))
                except StopIteration as found:
                    missed.found = found.value
                except Refused as error:
                    if error.status == Status.ERR_SERVER_BUSY:
                        self._load.busy += 1
                        await asyncio.sleep(BUSY_S)
                        continue
                    self._load.unexpected(f"{self.name}: {error}")
                self._owed.remove(missed)
        except Lost:
            return  # the next connection reads it
        finally:
            if self.wire is wire:
                self._fetching = False

    # ---- the end

    async def read_balance(self) -> int:
        """BALANCE, when nothing is in flight. Lost, Refused."""
        if self.wire is None:
            raise Lost
        balance: int = (await self.wire.call(Opcode.BALANCE))[0]
        return balance

    def unsettled(self) -> str:
        """What this user still waits for; "" if nothing."""
        if self.wire is None:
            return "is not logged in"
        if self.unanswered:
            return f"waits for {len(self.unanswered)} requests"
        if any(room.joined is None or room.leaving for room in self._rooms.values()):
            return "waits to join a room"
        if self._owed:
            self._fetch()
            return "waits for ROOM_HISTORY"
        return ""

    def behind(self, last_seqs: dict[int, int]) -> str:
        """The room in which it has not been told everything; "" if none."""
        for number, room in self._rooms.items():
            if room.position is None or room.position < last_seqs.get(number, 0):
                return f"is at {room.position} in room {number}, which is at {last_seqs[number]}"
        return ""

    def read_back(self, last_seqs: dict[int, int]) -> None:
        """Read all that ROOM_HISTORY still has of those rooms that it is in; take these out."""
        for number in self._rooms.keys() & last_seqs.keys():
            self._history.kept[number] = self._owe(number, 1, last_seqs.pop(number))

    def close_memberships(self) -> None:
        for room in self._rooms.values():
            if room.joined is not None:
                room.joined.open = True
