"""Clients: each a task that logs in, asks, gives up, comes back and repeats.

What an answer says is checked as it comes, against the model that follows the log.
"""

from asyncio import AbstractEventLoop
from math import inf
from random import Random
from typing import Final, Protocol

from libproto.codec import PUSH, REQUEST, RESPONSE
from libproto.errors import Status
from libproto.messages import Capability, Flag, Opcode
from server.core.events import SlotKind
from tests.simulation.answers import Judge
from tests.simulation.ledger import Ledger
from tests.simulation.network import Link
from tests.simulation.requests import NUMBERED, Request, draw
from tests.simulation.rooms import Rooms, Said
from tests.simulation.scheduler import Scheduler
from tests.simulation.wire import Frame, Lost, Wire

_FULL: Final = frozenset({Opcode.BOARD_ADD, Opcode.ROOM_OPEN, Opcode.ROOM_SET, Opcode.ROOM_ROLE})
_DUPLICATE: Final = int(Flag.POSSIBLE_DUPLICATE)


class Surroundings(Protocol):
    """What a client has around it."""

    pace: Scheduler
    ledger: Ledger
    rooms: Rooms
    offers: dict[int, tuple[int, int]]
    users: dict[str, int]
    operations: tuple[str, ...]
    patience_s: float
    babble: float
    draining: bool
    shown: int

    def connect(self) -> Link | None:
        """To any worker; None: nobody listens."""

    def found(self, problem: str) -> None:
        """Something is not as it should be."""

    def count(self, operation: str, what: str) -> None:
        """For the report."""

    def tells(self, what: str) -> None:
        """For the history of a run that fails."""


class Client:
    """One client: a user's, under its own client_id."""

    def __init__(self, world: Surroundings, name: str, client_id: int, random: Random) -> None:
        self.name = name
        self.loop: AbstractEventLoop | None = None
        self._world, self._pace, self._random = world, world.pace, random
        self._client_id = client_id
        self._judge = Judge(world, client_id)
        self._user = 0
        self._wanted: set[int] = set()  # rooms
        self._owned: set[int] = set()  # likewise, opened by it
        self._joined: dict[int, int] = {}  # in this session, with the newest number that came
        self._direct = 0  # the newest number of a direct message that came in this session
        self._next = 1  # req_id
        self._open: list[Request] = []  # in order; not answered
        self._registered = False
        self._is_cut = False
        """The server that its connection is to has lost what it told: nothing of it counts."""
        self.answered = 0
        self.is_idle = False

    @property
    def open(self) -> str:
        """Requests without an answer."""
        return ", ".join(map(repr, self._open))

    def forget_after(self, txn: int, *, relies: bool) -> None:
        """What was executed after this one is lost. relies: what was answered was durable, so that
        the user is there."""
        for request in self._open:
            request.shown = min(request.shown, txn)
        if not relies:
            self._registered, self._user, self._is_cut = False, 0, True

    def run(self) -> None:
        """Its whole life."""
        while True:
            link = self._world.connect()
            if link is None:
                self._pace.sleep(0.01)
                continue
            self._is_cut = False
            wire = Wire(self._pace, self._random, link)
            try:
                if self._random.random() < self._world.babble:
                    self._babble(wire)
                elif self._enter(wire):
                    self._serve_itself(wire)
            except Lost:
                pass
            link.client_task = None
            ends = self._random.random()
            if ends < 0.4:
                link.reset()
            elif ends < 0.8:
                link.shut_down()
            # else it is left as it is: another login has to take the session's place
            self._pace.sleep(self._random.random() * 0.002)

    def _babble(self, wire: Wire) -> None:
        """Send what is no request, or hardly one, and see that it is answered or closed. Lost."""
        frame = bytearray(REQUEST[Opcode.HEARTBEAT].frame(1, 0, 7))
        frame[self._random.randrange(len(frame))] ^= 1 << self._random.randrange(8)
        size = self._random.randint(1, 100)
        noise = self._random.choice((bytes(frame), self._random.randbytes(size)))
        if self._random.random() < 0.3:
            noise = REQUEST[Opcode.BALANCE].frame(1, 0) + noise  # not logged in
        wire.send(noise)
        wire.receive(self._pace.now_ns + 10_000_000)
        self._world.count("garbage", "sent")

    # ---- a session

    def _enter(self, wire: Wire) -> bool:
        if wire.hello(self.name, Capability.PAYMENTS) != Status.OK:
            return False
        if not self._registered:
            status = wire.register(self.name)
            if status not in (Status.OK, Status.ERR_ALREADY_EXISTS):
                return False
            self._registered = True
            if wire.hello(self.name, Capability.PAYMENTS) != Status.OK:
                return False
        answer = wire.login(self.name, self._client_id, self._next)
        if self._is_cut:
            return False
        if answer.status != Status.OK:
            if answer.status == Status.ERR_UNAUTHORIZED:
                self._world.found(f"{self.name} is not let in, with the right password")
            return False
        user = int(RESPONSE[Opcode.LOGIN].decode(answer.body, 0, len(answer.body))[0])
        if self._user not in (0, user):
            self._world.found(f"{self.name} was user {self._user} and is {user}")
        self._user = self._judge.user = self._world.users[self.name] = user
        self._joined, self._direct = {}, 0
        return True

    def _serve_itself(self, wire: Wire) -> None:
        """Until it wants to leave. Lost."""
        self._open = [each for each in self._open if each.opcode in NUMBERED]
        again = [(Opcode.JOIN_ROOM, (room,)) for room in sorted(self._wanted)]
        joins = [self._request(opcode, fields) for opcode, fields in again]
        for request in joins:
            self._send(wire, request)
        for request in self._open:
            self._send(wire, request, again=True)
        self._open = joins + self._open
        while True:
            self.is_idle = self._world.draining and not self._open
            if self.is_idle:
                self._pace.wait(inf)
                continue
            if not self._open and not self._world.draining:
                if self._random.random() < 0.05:
                    return
                for _ in range(self._random.choice((1, 1, 2, 4))):
                    self._ask(wire)
            deadline = self._pace.now_ns + int(self._world.patience_s * 1e9)
            frame = wire.receive(deadline)
            if self._is_cut:
                return
            if frame is None:
                self._world.count("any", "given up")
                return
            if not frame.is_answer:
                self._pushed(frame)
            elif not self._take(frame):
                return

    def _ask(self, wire: Wire) -> None:
        """Something new."""
        world = self._world
        opcode = Opcode[self._random.choice(world.operations)]
        if not self.answered and not self._open:
            opcode = Opcode.DEPOSIT  # who has nothing can do little
        others = [user for user in world.users.values() if user != self._user]
        text = f"{self.name}-{self._client_id}-{self._next}"
        fields = draw(self._random, opcode, text, others, world.offers, sorted(self._owned))
        if fields is not None:
            request = self._request(opcode, fields)
            self._open.append(request)
            self._send(wire, request)

    def _request(self, opcode: int, fields: tuple[int | str, ...]) -> Request:
        self._next += 1
        return Request(opcode, self._next - 1, fields, self._world.shown)

    def _send(self, wire: Wire, request: Request, *, again: bool = False) -> None:
        request.tries += 1
        flags = _DUPLICATE if again and request.opcode in NUMBERED else 0
        wire.send(REQUEST[request.opcode].frame(request.req_id, flags, *request.fields))

    # ---- answers

    def _take(self, frame: Frame) -> bool:
        """An answer has come; False: the session is over."""
        at = next((n for n, each in enumerate(self._open) if each.req_id == frame.req_id), None)
        if at is None or (at and self._open[at].opcode != Opcode.HEARTBEAT):
            due = self._open[:1]
            self._world.found(f"{self.name}: an answer to {frame.req_id} where {due} was due")
            return False
        request = self._open[at]
        name = Opcode(request.opcode).name
        self._world.count(name, Status(frame.status).name)
        may_end = request.opcode != Opcode.JOIN_ROOM and request.refused < 2
        if frame.status == Status.ERR_UNAUTHORIZED and may_end:
            # Another login has its place, or it has not joined the room: it comes back.
            request.refused += 1
            return False
        # Boards and tables are full for longer than it is worth to wait for.
        full = request.opcode in _FULL and request.tries > 3
        if frame.status == Status.ERR_SERVER_BUSY and not full:
            # It is asked again, and so is all behind it: one session's requests are in order.
            self._pace.sleep(0.01 + self._random.random() * 0.05)
            return False
        del self._open[at]
        self.answered += 1
        self._world.tells(f"{self.name}: {request}: {Status(frame.status).name}")
        problem = self._judge.problem(request, frame)
        if frame.status == Status.OK:
            self._note(request, frame)
        elif request.opcode == Opcode.JOIN_ROOM:
            self._wanted.discard(request.number)
        if problem:
            self._world.found(f"{self.name}, user {self._user}: {request}: {problem}")
        return True

    def _note(self, request: Request, frame: Frame) -> None:
        """What an answer changes for the client."""
        if request.opcode == Opcode.JOIN_ROOM:
            _, last, *_ = RESPONSE[Opcode.JOIN_ROOM].decode(frame.body, 0, len(frame.body))
            # Joined once more, it may be told where it was when more has come already.
            self._joined[request.number] = max(last, self._joined.get(request.number, 0))
            self._wanted.add(request.number)
        elif request.opcode == Opcode.ROOM_OPEN:
            room, created = RESPONSE[Opcode.ROOM_OPEN].decode(frame.body, 0, len(frame.body))
            self._owned |= {room} if created else set()
        elif request.opcode == Opcode.LEAVE_ROOM:
            self._joined.pop(request.number, None)
            self._wanted.discard(request.number)

    # ---- pushes

    def _pushed(self, frame: Frame) -> None:
        fields = PUSH[frame.opcode].decode(frame.body, 0, len(frame.body))
        problem = ""
        if frame.opcode == Opcode.CHAT_BROADCAST:
            room, seq, _, kind, user, _, message = fields
            problem = self._world.rooms.show((room, seq), Said(kind, user, message))
            problem = problem or self._out_of_turn(room, seq, seq)
        elif frame.opcode == Opcode.DIRECT_MESSAGE:
            seq, _, user, _, message = fields
            said = Said(int(SlotKind.DIRECT), user, message)
            problem = self._world.rooms.show((-self._user, seq), said)
            problem = problem or self._out_of_turn(0, seq, seq)
        elif frame.opcode == Opcode.ROOM_GAP:
            problem = self._out_of_turn(*fields)
            self._world.count("ROOM_GAP", "push")
        elif frame.opcode == Opcode.PAYMENT:
            txn, _, payer, _, amount, balance = fields
            record = self._world.ledger.moved.get(txn)
            told = payer, self._user, amount, balance
            if record is None or told != (
                record.from_user, record.to_user, record.amount, record.to_balance,
            ):  # fmt: skip
                problem = f"it is {record}"
        if problem:
            name = Opcode(frame.opcode).name
            self._world.found(f"{self.name}, user {self._user}: {name} {fields}: {problem}")

    def _out_of_turn(self, room: int, first: int, last: int) -> str:
        """What comes next of a room, or of direct messages (0), is the one after the newest."""
        newest = self._joined.get(room) if room else self._direct
        if newest is None:
            return "the room is not joined"
        if room:
            self._joined[room] = last
        else:
            self._direct = last
        if (first != newest + 1 and (room or newest)) or last < first:
            return f"after {newest}"
        return ""
