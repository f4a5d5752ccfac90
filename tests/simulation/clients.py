"""Clients: each a task that logs in, asks, gives up, comes back and repeats.

What an answer says is checked as it comes, against the model that follows the log.
"""

from asyncio import AbstractEventLoop
from math import inf
from random import Random
from typing import Final, Protocol

from libproto.codec import REQUEST, RESPONSE
from libproto.errors import Status
from libproto.messages import Flag, Opcode
from server.region.records import RecordKind
from tests.simulation.ledger import Ledger
from tests.simulation.network import Link
from tests.simulation.scheduler import Scheduler
from tests.simulation.wire import Frame, Lost, Wire

NUMBERED: Final = frozenset({Opcode.DEPOSIT, Opcode.WITHDRAW, Opcode.TRANSFER})
_KINDS: Final = {
    Opcode.DEPOSIT: RecordKind.DEPOSIT,
    Opcode.WITHDRAW: RecordKind.WITHDRAW,
    Opcode.TRANSFER: RecordKind.TRANSFER,
}
_DUPLICATE: Final = int(Flag.POSSIBLE_DUPLICATE)


class Surroundings(Protocol):
    """What a client has around it."""

    pace: Scheduler
    ledger: Ledger
    users: dict[str, int]
    operations: tuple[str, ...]
    patience_s: float
    draining: bool
    shown: int

    def connect(self) -> Link | None:
        """To any worker; None: nobody listens."""

    def found(self, problem: str) -> None:
        """Something is not as it should be."""

    def count(self, operation: str, what: str) -> None:
        """For the report."""


class Request:
    """Something that a client has asked for."""

    def __init__(self, opcode: int, req_id: int, fields: tuple[int, ...], shown: int) -> None:
        """shown: the newest transaction that anybody had been shown before."""
        self.opcode, self.req_id, self.fields, self.shown = opcode, req_id, fields, shown
        self.tries = 0

    def __repr__(self) -> str:
        return f"{Opcode(self.opcode).name} {self.req_id} {self.fields}"


class Client:
    """One client: a user's, under its own client_id."""

    def __init__(self, world: Surroundings, name: str, client_id: int, random: Random) -> None:
        self.name = name
        self.loop: AbstractEventLoop | None = None
        self._world, self._pace, self._random = world, world.pace, random
        self._client_id = client_id
        self._user = 0
        self._next = 1  # req_id
        self._open: list[Request] = []  # in order; not answered
        self._registered = False
        self.answered = 0
        self.is_idle = False

    @property
    def open(self) -> int:
        """Requests without an answer."""
        return len(self._open)

    def forget_after(self, txn: int, *, relies: bool) -> None:
        """What was executed after this one is lost. relies: what was answered was durable, so that
        the user is there."""
        for request in self._open:
            request.shown = min(request.shown, txn)
        if not relies:
            self._registered, self._user = False, 0

    def run(self) -> None:
        """Its whole life."""
        while True:
            link = self._world.connect()
            if link is None:
                self._pace.sleep(0.01)
                continue
            wire = Wire(self._pace, self._random, link)
            try:
                if self._enter(wire):
                    self._serve_itself(wire)
            except Lost:
                pass
            if link.client_task is not None:
                link.client_task = None
                if self._random.random() < 0.5:
                    link.reset()
                else:
                    link.shut_down()
            self._pace.sleep(self._random.random() * 0.02)

    # ---- a session

    def _enter(self, wire: Wire) -> bool:
        if wire.hello(self.name, 0) != Status.OK:
            return False
        if not self._registered:
            status = wire.register(self.name)
            if status not in (Status.OK, Status.ERR_ALREADY_EXISTS):
                return False
            self._registered = True
            if wire.hello(self.name, 0) != Status.OK:
                return False
        answer = wire.login(self.name, self._client_id, self._next)
        if answer.status != Status.OK:
            if answer.status == Status.ERR_UNAUTHORIZED:
                self._world.found(f"{self.name} is not let in, with the right password")
            return False
        user = int(RESPONSE[Opcode.LOGIN].decode(answer.body, 0, len(answer.body))[0])
        if self._user not in (0, user):
            self._world.found(f"{self.name} was user {self._user} and is {user}")
        self._user = self._world.users[self.name] = user
        return True

    def _serve_itself(self, wire: Wire) -> None:
        """Until it wants to leave. Lost."""
        for request in self._open:
            self._send(wire, request, again=True)
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
            if frame is None:
                self._world.count("any", "given up")
                return
            if frame.is_answer and not self._take(frame):
                return

    def _ask(self, wire: Wire) -> None:
        """Something new."""
        opcode = Opcode[self._random.choice(self._world.operations)]
        amount = self._random.choice((1, 2, 5, 100))
        fields: tuple[int, ...] = ()
        if opcode == Opcode.TRANSFER:
            others = [user for user in self._world.users.values() if user != self._user]
            if not others:
                return
            fields = self._random.choice(others), amount
        elif opcode != Opcode.BALANCE:
            fields = (amount,)
        request = Request(opcode, self._next, fields, self._world.shown)
        self._next += 1
        self._open.append(request)
        self._send(wire, request)

    def _send(self, wire: Wire, request: Request, *, again: bool = False) -> None:
        request.tries += 1
        flags = _DUPLICATE if again and request.opcode in NUMBERED else 0
        wire.send(REQUEST[request.opcode].frame(request.req_id, flags, *request.fields))

    # ---- answers

    def _take(self, frame: Frame) -> bool:
        """An answer has come; False: the session is over."""
        if not self._open or frame.req_id != self._open[0].req_id:
            self._world.found(
                f"{self.name}: an answer to {frame.req_id} where that to {self._open[:1]} was due"
            )
            return False
        request = self._open[0]
        name = Opcode(request.opcode).name
        self._world.count(name, Status(frame.status).name)
        if frame.status == Status.ERR_UNAUTHORIZED:
            return False  # another login has its place
        if frame.status == Status.ERR_SERVER_BUSY:
            # It is asked again, and so is all behind it: one session's requests are in order.
            self._pace.sleep(0.01 + self._random.random() * 0.05)
            return False
        del self._open[0]
        self.answered += 1
        self._check(request, frame)
        return True

    def _check(self, request: Request, frame: Frame) -> None:
        world, ledger = self._world, self._world.ledger
        problem = ""
        if frame.status == Status.OK:
            first, second = RESPONSE[request.opcode].decode(frame.body, 0, len(frame.body))
            if request.opcode == Opcode.BALANCE:
                problem = self._wrong_balance(request, first, second)
                world.shown = max(world.shown, second)
            else:
                problem = self._wrong_txn(request, first, second)
                world.shown = max(world.shown, first)
        elif frame.status == Status.ERR_INSUFFICIENT_FUNDS:
            had = ledger.balances_between(self._user, request.shown, ledger.head)
            if not any(balance < request.fields[-1] for balance in had):
                problem = f"refused for lack of funds, and had {sorted(had)}"
        elif frame.status == Status.ERR_TIMEOUT and request.tries == 1:
            problem = "its outcome is not known, and it was asked for once"
        elif frame.status not in (Status.ERR_TIMEOUT, Status.ERR_LIMIT, Status.ERR_NOT_FOUND):
            problem = f"refused with {Status(frame.status).name}"
        if frame.status not in (Status.OK, Status.ERR_TIMEOUT) and request.opcode in NUMBERED:
            txn = ledger.executed(self._user, self._client_id, request.req_id)
            if txn is not None:
                problem = f"refused with {Status(frame.status).name}, and executed as {txn}"
        if problem:
            world.found(f"{self.name}, user {self._user}: {request}: {problem}")

    def _wrong_balance(self, request: Request, balance: int, last: int) -> str:
        ledger = self._world.ledger
        mine = ledger.balances.get(self._user, [])
        newest = max((txn for txn, _ in mine if txn <= request.shown), default=0)
        if not newest <= last <= ledger.head:
            return f"balance at {last}, where {newest} was known of"
        right = next((had for txn, had in mine if txn == last), 0 if not last else None)
        return "" if balance == right else f"balance {balance} at {last}: it was {right}"

    def _wrong_txn(self, request: Request, txn: int, balance: int) -> str:
        record = self._world.ledger.moved.get(txn)
        if record is None:
            return f"executed as {txn}, which is no such transaction"
        mine = record.to_balance if record.kind == RecordKind.DEPOSIT else record.from_balance
        asker = record.to_user if record.kind == RecordKind.DEPOSIT else record.from_user
        found = asker, record.client_id, record.req_id, record.kind, record.amount, mine
        told = (
            self._user, self._client_id, request.req_id, _KINDS[Opcode(request.opcode)],
            request.fields[-1], balance,
        )  # fmt: skip
        if found != told:
            return f"executed as {txn} with {balance}: {record}"
        if txn <= request.shown:
            return f"executed as {txn}, though {request.shown} had been shown before"
        return ""
