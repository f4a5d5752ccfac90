"""Whatever is lost and wherever the streams are cut, each call is answered once and each event is
given once: steps drawn at random, on a server of a few lines in memory."""

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from client.core import auth, calls
from client.core.calls import Call
from client.core.numbers import Numbers
from client.core.pushes import Push, RoomRefused, RoomRestarted
from client.core.resume import ResumingCore
from client.core.session import OTHER_REQ_IDS, Answered
from client.errors import (
    ConnectionLost,
    Unauthorized,
)
from libproto import scram
from libproto.errors import Status
from libproto.framing import Decoder
from libproto.messages import (
    MIN_ITERATIONS,
    ChatBroadcast,
    EventKind,
    Flag,
    Opcode,
    RoomGap,
    State,
)
from tests.client.lossy import EPOCH, said
from tests.client.peer import (
    MAX_BODY_LEN,
    PASSWORD,
    USERNAME,
    Handshake,
    Request,
    answer,
    push,
    read_request,
    refuse,
)

ROOMS = (1, 2)


def _room(number: int) -> int:
    return ROOMS[number % len(ROOMS)]


class Room:
    """What the server has of a room. Numbers without an event were never used for one."""

    def __init__(self) -> None:
        self.last = 0
        self.oldest = 1
        self.events: dict[int, ChatBroadcast] = {}
        self.pushed = 0  # up to which number this connection was served


class Account:
    """What the program was given of a room since it joined."""

    def __init__(self, last_seq: int) -> None:
        self.last = last_seq
        self.given: list[ChatBroadcast | RoomGap] = []


class World:
    """A program, a core, a connection and a server; any of what is under way may be lost."""

    def __init__(self) -> None:
        self.core = ResumingCore(Numbers(99), False, "test")
        self.handshake = Handshake()
        self.up = False
        # the server
        self.rooms = {number: Room() for number in ROOMS}
        self.closed: set[int] = set()
        self.epoch = EPOCH
        self.texts = 0
        self.busy = 0
        # by req_id: txn_id and balance, or room_seq and time
        self.outcomes: dict[int, tuple[int, int]] = {}
        self.executed: list[int] = []  # payments
        self.said: list[int] = []  # messages, in the order in which they were executed
        self.balance = 0
        # the connection
        self.joined: set[int] = set()
        self.requests: list[Request] = []
        self.late: list[bytes] = []
        self.stream = b""
        # the program
        self.waiting: dict[int, Call[Any]] = {}
        self.done: dict[int, Answered | None] = {}  # None: failed or given up
        self.accounts: dict[int, Account] = {}

    # ---- the connection

    def begin(self) -> None:
        self.decoder, self.reader = Decoder(MAX_BODY_LEN), Decoder(MAX_BODY_LEN)
        self.up = True
        self.core.begin(self.decoder)
        self.collect()

    def collect(self) -> None:
        data = b"".join(self.core.outbox)
        self.core.outbox.clear()
        self.transmit(data)

    def transmit(self, data: bytes) -> None:
        self.reader.feed(data)
        while (frame := self.reader.next()) is not None:
            self.requests.append(read_request(frame))

    def log_in(self) -> None:
        self.begin()
        number, frame = self.core.request(auth.hello(USERNAME, "test", 0))
        self.transmit(frame)
        self.serve(1)
        [greeted] = self.take(len(self.stream))
        assert isinstance(greeted, Answered)
        assert greeted.req_id == number
        keys = auth.derive(greeted.result, PASSWORD)
        self.transmit(self.core.request(self.core.login(greeted.result, keys))[1])
        self.serve(1)
        self.take(len(self.stream))
        assert self.core.state == State.AUTHENTICATED

    def take(self, size: int) -> list[Answered | Push]:
        data, self.stream = self.stream[:size], self.stream[size:]
        self.decoder.feed(data)
        events: list[Answered | Push] = []
        while (frame := self.decoder.next()) is not None:
            events += self.core.take(frame)
        self.collect()
        return events

    # ---- the program

    def call(self, call: Call[Any]) -> None:
        if self.core.may_send(call, None):
            req_id, frame = self.core.request(call)
            self.waiting[req_id] = call
            self.transmit(frame)

    def deposit(self, number: int) -> None:
        self.call(calls.deposit(1 + number % 9))

    def ask_for_the_balance(self, _: int) -> None:
        self.call(calls.balance())

    def join(self, number: int) -> None:
        self.call(calls.join(_room(number)))

    def leave(self, number: int) -> None:
        self.call(calls.leave(_room(number)))

    def say(self, number: int) -> None:
        self.call(calls.send(_room(number), "own"))

    def give_up(self, number: int) -> None:
        sure = {Opcode.JOIN_ROOM, Opcode.LEAVE_ROOM}
        able = sorted(n for n, call in self.waiting.items() if call.opcode not in sure)
        if able:
            req_id = able[number % len(able)]
            self.core.abandon(req_id)
            del self.waiting[req_id]
            self.done[req_id] = None

    def receive(self, number: int) -> None:
        if self.up:
            self.hand_out(self.take(number))

    def hand_out(self, events: list[Answered | Push]) -> None:
        for event in events:
            match event:
                case Answered():
                    call = self.waiting.pop(event.req_id)  # KeyError: answered twice
                    assert event.req_id not in self.done
                    self.done[event.req_id] = event
                    if event.error is None:
                        self.note(call, event.result)
                case ChatBroadcast() | RoomGap():
                    account = self.accounts[event.room_id]
                    account.given.append(event)
                case RoomRestarted():
                    self.finish(event.room_id)
                    self.accounts[event.room_id] = Account(event.last_seq)
                case RoomRefused():
                    self.finish(event.room_id)
                case _:
                    raise AssertionError(event)

    def note(self, call: Call[Any], result: Any) -> None:
        if call.opcode == Opcode.JOIN_ROOM:
            self.accounts.setdefault(result.room_id, Account(result.last_seq))
        elif call.opcode == Opcode.LEAVE_ROOM:
            self.finish(call.fields[0])

    def finish(self, room: int) -> None:
        self.check_account(room)
        del self.accounts[room]

    # ---- the server

    def serve(self, number: int) -> None:
        for _ in range(min(1 + number % 5, len(self.requests))):
            self.execute(self.requests.pop(0))

    def execute(self, request: Request) -> None:
        opcode, req_id, flags, fields = request
        room = fields[0] if fields else 0
        match opcode:
            case Opcode.HELLO | Opcode.LOGIN:
                self.stream += self.handshake.respond(request)
                return
            case _ if self.busy and (flags or opcode in (Opcode.JOIN_ROOM, Opcode.ROOM_HISTORY)):
                self.busy -= 1
                self.stream += refuse(request, Status.ERR_SERVER_BUSY, "busy", 5)
            case Opcode.DEPOSIT:
                recorded = req_id in self.outcomes
                assert flags or not recorded
                if not recorded:
                    self.balance += fields[0]
                    self.executed.append(req_id)
                    self.outcomes[req_id] = (len(self.executed), self.balance)
                self.late.append(answer(request, *self.outcomes[req_id]))
            case Opcode.BALANCE:
                self.stream += answer(request, self.balance, len(self.executed))
            case Opcode.JOIN_ROOM if room in self.closed:
                self.stream += refuse(request, Status.ERR_NOT_FOUND)
            case Opcode.JOIN_ROOM:
                here = self.rooms[room]
                if room not in self.joined:
                    here.pushed = here.last
                self.stream += answer(request, room, here.pushed, 1, self.epoch)
                if room not in self.joined:
                    self.joined.add(room)
                    self.publish(room, EventKind.JOINED)
            case Opcode.CHAT_SEND if req_id in self.outcomes:
                assert flags
                outcome = self.outcomes[req_id]
                self.stream += answer(request, *outcome, flags=Flag.POSSIBLE_DUPLICATE)
            case Opcode.LEAVE_ROOM | Opcode.CHAT_SEND if room not in self.joined:
                missing = opcode == Opcode.LEAVE_ROOM
                self.stream += refuse(
                    request, Status.ERR_NOT_FOUND if missing else Status.ERR_UNAUTHORIZED
                )
            case Opcode.LEAVE_ROOM:
                self.joined.discard(room)
                self.publish(room, EventKind.LEFT)
                self.stream += answer(request, room)
            case Opcode.CHAT_SEND:
                self.outcomes[req_id] = (self.publish(room), 0)
                self.said.append(req_id)
                self.stream += answer(request, *self.outcomes[req_id])
            case Opcode.ROOM_HISTORY:
                _, after, limit = fields
                here = self.rooms[room]
                found = [e for n, e in here.events.items() if n > after and n >= here.oldest]
                self.stream += answer(
                    request, room, self.epoch, here.oldest, found[: min(limit, 3)]
                )
            case _:
                raise AssertionError(request)

    def publish(self, room: int, kind: EventKind = EventKind.MESSAGE) -> int:
        here = self.rooms[room]
        here.last += 1
        self.texts += 1
        event = ChatBroadcast(room, here.last, 0, kind, 3, "bob", str(self.texts))
        here.events[here.last] = event
        if room in self.joined:
            if here.last > here.pushed + 1:
                self.stream += push(Opcode.ROOM_GAP, room, here.pushed + 1, here.last - 1)
            self.stream += said(event)
            here.pushed = here.last
        return here.last

    def others_speak(self, number: int) -> None:
        for _ in range(1 + number // 2 % 5):
            self.publish(_room(number))

    def a_number_is_skipped(self, number: int) -> None:
        self.rooms[_room(number)].last += 1

    def the_ring_goes_on(self, number: int) -> None:
        here = self.rooms[_room(number)]
        here.oldest = max(here.oldest, here.last + 1 - number // 2 % 5)

    def the_server_is_busy(self, number: int) -> None:
        self.busy = 1 + number % 3

    def late_answers_come(self, _: int) -> None:
        self.stream += b"".join(self.late)
        self.late.clear()

    def a_room_closes(self, number: int) -> None:
        self.closed.add(_room(number))

    def a_room_opens(self, number: int) -> None:
        self.closed.discard(_room(number))

    # ---- what is lost

    def restart(self, _: int) -> None:
        """The server begins anew without its old state."""
        self.cut(0)
        for room in self.accounts:
            self.check_account(room)  # against the numbers that were in use till now
        self.epoch += 1
        self.rooms = {number: Room() for number in ROOMS}
        for account in self.accounts.values():
            account.given.clear()
            account.last = -1

    def cut(self, _: int) -> None:
        if not self.up:
            return
        self.up = False
        self.joined.clear()
        self.requests.clear()
        self.late.clear()
        self.stream = b""
        assert self.core.lose(ConnectionLost("gone")) == []

    def another_connection(self, _: int) -> None:
        if not self.up:
            self.begin()

    def back_in_use(self, _: int) -> None:
        """Another connection, and as far as it goes by itself."""
        self.another_connection(0)
        self.settle()

    def time_passes(self, _: int) -> None:
        if self.core.again_after_s is not None:
            self.core.again()
            self.collect()

    def settle(self) -> None:
        while self.requests or self.late or self.stream or self.core.again_after_s is not None:
            self.time_passes(0)
            self.serve(4)
            self.late_answers_come(0)
            self.hand_out(self.take(len(self.stream)))

    # ---- what holds

    def check_account(self, number: int) -> None:
        """Every number after the join once, in order; a gap says only what cannot be had."""
        account, here = self.accounts[number], self.rooms[number]
        if account.last < 0:  # of the epoch before, and it was checked then
            assert account.given == []
            return
        last = account.last
        for event in account.given:
            if isinstance(event, ChatBroadcast):
                assert event == here.events[event.room_seq]
                unused = range(last + 1, event.room_seq)
                last = event.room_seq
            else:
                assert last < event.first_seq <= event.last_seq
                for seq in range(event.first_seq, event.last_seq + 1):
                    assert seq not in here.events or seq < here.oldest
                unused = range(last + 1, event.first_seq)
                last = event.last_seq
            assert not any(seq in here.events for seq in unused), "a silent gap"

    def check(self) -> None:
        self.busy = 0
        self.back_in_use(0)
        assert self.core.caught_up
        assert self.waiting == {}
        for req_id, answered in self.done.items():
            if req_id < OTHER_REQ_IDS and answered is not None:
                if answered.error is not None:
                    assert isinstance(answered.error, Unauthorized), "it was not joined"
                    assert req_id not in self.outcomes
                    continue
                assert answered.result[:3] == (*self.outcomes[req_id], req_id)
        given_up = {n for n, answered in self.done.items() if answered is None}
        assert len(set(self.executed)) == len(self.executed)
        assert set(self.executed) | set(self.said) <= self.done.keys()
        assert self.said == sorted(set(self.said)), "said twice, or in another order"
        refused = {n for n, answered in self.done.items() if answered and answered.error}
        assert set(self.core.unanswered) <= given_up | refused
        for number, account in self.accounts.items():
            self.check_account(number)
            here = self.rooms[number]
            ends = [
                e.room_seq if isinstance(e, ChatBroadcast) else e.last_seq for e in account.given
            ]
            told = max([account.last, *ends])
            assert not any(seq > told for seq in here.events), "the end is missing"


# What happens, and how often in proportion.
STEPS: list[Callable[[World, int], None]] = [
    step
    for step, weight in (
        (World.deposit, 4),
        (World.ask_for_the_balance, 1),
        (World.join, 2),
        (World.leave, 1),
        (World.say, 2),
        (World.give_up, 1),
        (World.receive, 8),
        (World.serve, 8),
        (World.others_speak, 4),
        (World.a_number_is_skipped, 1),
        (World.the_ring_goes_on, 1),
        (World.the_server_is_busy, 1),
        (World.late_answers_come, 3),
        (World.a_room_closes, 1),
        (World.a_room_opens, 3),
        (World.cut, 3),
        (World.restart, 1),
        (World.another_connection, 4),
        (World.back_in_use, 2),
        (World.time_passes, 2),
    )
    for _ in range(weight)
]


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 400)), min_size=50, max_size=150))
def test_any_cut(steps: list[tuple[Callable[[World, int], None], int]]) -> None:
    world = World()
    world.log_in()
    for room in ROOMS:
        world.join(room)
    world.settle()
    for step, number in steps:
        step(world, number)
    world.check()


def test_the_peer_knows_the_key() -> None:
    """Else the handshakes above would prove nothing."""
    salted = scram.salted_password(PASSWORD, Handshake().verifier.salt, MIN_ITERATIONS)
    assert Handshake().verifier.server_key == scram.server_key(salted)
