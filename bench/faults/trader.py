"""Users who trade on the boards of their rooms beside all else: many takers of few offers."""

import time
from typing import Any, Final

from bench.faults.history import Message, Posting, Request, Take
from bench.faults.load import Load
from bench.faults.seen import Seen
from bench.faults.user import ROOMS, User
from bench.lab.wire import Answer, Lost, Wire
from libproto.errors import Status
from libproto.messages import LIST_MAX, ChatBroadcast, EventKind, Opcode, TxnKind

TRADES: Final = 0.6  # the part of what a user does
AT_ONCE: Final = 0.3  # of those who are told of a new offer, the part that take it at once
PRICE_MAX: Final = 200
TEXT_MAX: Final = 240  # bytes beside the number that tells one from another


class Market(dict[int, tuple[int, int, int]]):
    """Offers that somebody was told of, and that are not known to have gone: room, owner and price
    by entry_id."""

    def note(self, event: ChatBroadcast) -> bool:
        """An event of a room. True: a new offer."""
        if event.kind == EventKind.OFFER_ADDED:
            entry, price, _ = event.message.split(" ", 2)
            self[int(entry)] = event.room_id, event.from_user, int(price)
            return True
        if event.kind in (EventKind.OFFER_REMOVED, EventKind.OFFER_TAKEN):
            self.pop(int(event.message.split(" ")[0]), None)
        return False


class Trader(User):
    """One of them."""

    def __init__(self, load: Seen, name: str, user: int, seed: int, market: Market) -> None:
        super().__init__(load, name, user, seed)
        self._market = market
        self._own: list[Posting] = []  # that were added, and may still be there
        self._posted = 0

    # ---- what a user does

    def _act(self, now: float) -> None:
        if self._random.random() < TRADES and self._has_room():
            self._trade()
        else:
            super()._act(now)

    def press(self) -> None:
        super().press()
        for _ in range(2):
            if self._has_room():
                self._trade()

    def _trade(self) -> None:
        rooms = [room for room, its in self._rooms.items() if its.joined and not its.leaving]
        if not rooms:
            return
        offers = [(entry, *o) for entry, o in self._market.items() if o[0] in rooms]
        chance = self._random.random()
        if offers and chance < 0.6:
            self._take(*self._random.choice(offers))
        elif self._own and chance < 0.7:
            self._remove(self._own.pop())
        else:
            self._add(self._random.choice(rooms))

    def _push(self, opcode: int, fields: tuple[Any, ...]) -> None:
        super()._push(opcode, fields)
        if opcode == Opcode.CHAT_BROADCAST:
            event = ChatBroadcast._make(fields)
            at_once = self._market.note(event) and self._random.random() < AT_ONCE
            if at_once and self._load.playing and self._has_room():
                entry = int(event.message.split(" ")[0])
                self._take(entry, *self._market[entry])

    # ---- requests

    def _take(self, entry: int, room: int, owner: int, price: int) -> None:
        if owner == self.id or not self._is_in(room):
            return
        sent = time.monotonic()
        take = Take(
            self.id, TxnKind.TRANSFER, owner, price, self._next_req_id, sent, room=room, entry=entry
        )
        self._number(take)
        self._history.requests.append(take)
        self._send(take)

    def _is_in(self, room: int) -> bool:
        its = self._rooms.get(room)
        return its is not None and its.joined is not None and not its.leaving

    def _add(self, room: int) -> None:
        self._posted += 1
        text = f"{self.name} {self._posted} " + "-" * self._random.randrange(TEXT_MAX - 40)
        price = self._random.randint(1, PRICE_MAX)
        self._post(Posting(self.id, room, price, text, self._next_req_id))

    def _remove(self, added: Posting) -> None:
        if self._is_in(added.room):
            self._post(Posting(self.id, added.room, 0, "", self._next_req_id, added.entry))

    def _post(self, posting: Posting) -> None:
        self._number(posting)
        self._history.postings.append(posting)
        self._send_posting(posting)

    def _send_posting(self, posting: Posting) -> None:
        wire = self.wire
        assert wire is not None
        opcode = Opcode.BOARD_ADD if posting.text else Opcode.BOARD_REMOVE
        what = (posting.price, posting.text) if posting.text else (posting.entry,)
        wire.send(
            opcode,
            posting.req_id,
            (posting.room, *what),
            lambda answer: self._posting_settled(wire, opcode, posting, answer),
            duplicate=posting.repeats > 0,
        )

    def _posting_settled(
        self, wire: Wire, opcode: Opcode, posting: Posting, answer: Answer
    ) -> None:
        if answer.status == Status.ERR_SERVER_BUSY:  # not executed by this sending
            self._load.busy += 1
            self._later(wire, lambda: self._send_posting(posting))
            return
        fine = Status.ERR_LIMIT if posting.text else Status.ERR_NOT_FOUND
        if answer.status not in (Status.OK, fine):
            self._load.refused(opcode, answer)
        del self.unanswered[posting.req_id]
        posting.status, posting.recorded = answer.status, answer.recorded
        if answer.status != Status.OK:
            return
        *entry, posting.room_seq = answer.fields
        if entry:
            (posting.entry,) = entry
            self._own.append(posting)

    def _send(self, request: Request, cut_at: float = 1.0) -> None:
        if not isinstance(request, Take):
            super()._send(request, cut_at)
            return
        wire = self.wire
        assert wire is not None
        wire.send(
            Opcode.BOARD_TAKE,
            request.req_id,
            (request.room, request.entry, request.amount),
            lambda answer: self._take_settled(wire, request, answer),
            duplicate=request.repeats > 0,
        )

    def _take_settled(self, wire: Wire, take: Take, answer: Answer) -> None:
        if answer.status == Status.ERR_SERVER_BUSY:
            self._load.busy += 1
            self._later(wire, lambda: self._send(take))
            return
        fine = Status.OK, Status.ERR_NOT_FOUND, Status.ERR_INSUFFICIENT_FUNDS
        if answer.status not in fine:
            self._load.refused(Opcode.BOARD_TAKE, answer)
        del self.unanswered[take.req_id]
        take.answered = time.monotonic()
        take.status, take.recorded = answer.status, answer.recorded
        if answer.status == Status.OK:
            take.txn_id, take.balance, take.room_seq = answer.fields
        if answer.status in (Status.OK, Status.ERR_NOT_FOUND):
            self._market.pop(take.entry, None)

    def _room_of(self, request: Request | Message | Posting) -> int:
        return request.room if isinstance(request, Take | Posting) else super()._room_of(request)

    def _ask_again(self, wire: Wire, request: Request | Message | Posting) -> None:
        if isinstance(request, Take):
            self._repeat(request)
        elif isinstance(request, Posting):
            request.repeats += 1
            self._send_posting(request)
        else:
            super()._ask_again(wire, request)

    # ---- the end

    async def read_boards(self, unread: set[int]) -> None:
        """What is left on the boards of those rooms that it is in; they are taken out. Lost,
        Refused."""
        for room in tuple(unread & self._rooms.keys()):
            if self.wire is None:
                raise Lost
            found: list[tuple[int, int, int, str]] = []
            while True:
                after = found[-1][0] if found else 0
                (page,) = await self.wire.call(Opcode.BOARD_LIST, room, after, LIST_MAX, "")
                found += [(each[0], each[2], each[4], each[5]) for each in page]
                if not page:
                    break
            self._history.boards[room] = found
            unread.discard(room)


class Trading(Load):
    """A load of such users."""

    def __init__(self, host: str, port: int, connections: int, rate: float, seed: int) -> None:
        super().__init__(host, port, connections, rate, seed)
        self._market = Market()
        self._traders: list[Trader] = []

    def _user(self, name: str, user: int, seed: int) -> User:
        trader = Trader(self, name, user, seed, self._market)
        self._traders.append(trader)
        return trader

    async def _read_end(self) -> None:
        await super()._read_end()
        unread = set(ROOMS)
        for trader in self._traders:
            await trader.read_boards(unread)
