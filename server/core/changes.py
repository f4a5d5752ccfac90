"""Changes of rooms and boards: transactions that are each published with an event of the room.

They are the pairs of pairs.py, and go by its rules: with all locks held, of the accounts, the log
and the event ring, the worker looks for places in both rings, and from the commit word of the
record on both count. Here the log and event locks are held until rooms and boards show the change
too, so whoever reads them under either lock sees what the log says.

A text does not fit into a record: it stands in records of TEXT before it, behind the log's head,
which reaches them all at once with the change (`TxnLog.write_text`).
"""

from collections.abc import Sequence
from struct import Struct
from typing import Final, NamedTuple

from libproto import words
from libproto.messages import EventKind, Opcode, RoomRole
from server.core.audience import NOBODY, Audience, Touched
from server.core.boards import Boards, Offer
from server.core.change_records import Change, event_text, outcome_of, role_amount, texts_of
from server.core.chat import digest_of
from server.core.deletions import Deletions
from server.core.errors import (
    LimitReached,
    NoSuchOffer,
    NoSuchText,
    NoSuchUser,
    NotAllowed,
    NotJoined,
    OtherRequest,
    Superseded,
    TableFull,
    WrongChange,
)
from server.core.events import NO_REQUEST, Events
from server.core.ledger import AMOUNT, DONE, FUNDS, LIMIT, RECORDED, Ledger
from server.core.log import TxnLog
from server.core.outcomes import Outcome, Outcomes
from server.core.pairs import Pairs, ascending
from server.core.room_bits import RoomBits
from server.core.rooms import OWNED_MAX, Rooms
from server.core.session import Session, is_live
from server.core.users import Users
from server.region.layout import TARGET_KIND_SHIFT, WORD
from server.region.locks import Locks
from server.region.records import (
    CHANGE_WORDS,
    FIRST_CHANGE,
    MONEY_WORDS,
    OFFSETS,
    RecordKind,
)
from server.region.region import Region

_AT: Final = OFFSETS[RecordKind.ROOM_OPENED]
_MONEY: Final = OFFSETS[RecordKind.OFFER_TAKEN]
_CHANGE: Final = Struct(f"={CHANGE_WORDS - 1}Q")
_TAKEN: Final = Struct(f"={MONEY_WORDS - 1}Q")
_US: Final = 1_000_000
_RULE: Final = (RoomRole.OWNER, RoomRole.MODERATOR)
"""Roles that have a say over others, and over what they have written."""
assert list(_AT)[4:] == [
    "user", "subject", "value", "detail", "text_size", "again", "until", "client_id", "req_id",
    "client_slot", "room", "room_seq", "event", "digest",
], "written by place"  # fmt: skip


class Changed(NamedTuple):
    """What became of a change."""

    txn: int  # its txn_id; of an offer that was added, the entry_id
    seq: int  # room_seq of its event
    event: int  # number of an event at or after it
    recorded: bool  # it was executed before: this is its outcome
    touched: Touched  # workers to wake


class Opened(NamedTuple):
    """What became of a ROOM_OPEN. txn: 0 where the room was there."""

    room: int
    created: bool
    txn: int
    event: int  # number of an event at or after what it shows
    recorded: bool
    touched: Touched


class Taken(NamedTuple):
    """What became of a BOARD_TAKE. `what` is an outcome of the ledger: DONE, RECORDED, FUNDS,
    AMOUNT, or LIMIT; all but DONE changed nothing."""

    what: int
    txn: int
    balance: int  # of the taker, after it; of FUNDS, the one that is too low
    seq: int
    event: int
    touched: Touched
    owner: int = 0  # who was paid


class Changes:
    """Such changes, as one worker makes them."""

    def __init__(
        self,
        region: Region,
        locks: Locks,
        log: TxnLog,
        users: Users,
        ledger: Ledger,
        bits: RoomBits,
        audience: Audience,
        events: Events,
        outcomes: Outcomes,
        rooms: Rooms,
        boards: Boards,
        pairs: Pairs,
        deletions: Deletions,
    ) -> None:
        self._words, self._bytes = region.words, region.bytes
        self._locks, self._log, self._users, self._ledger = locks, log, users, ledger
        self._bits, self._audience, self._events = bits, audience, events
        self._outcomes, self._rooms, self._boards, self._pairs = outcomes, rooms, boards, pairs
        self._deletions = deletions
        self._clients = region.layout["clients"]

    # ---- rooms

    def open_room(
        self, session: Session, name: str, req_id: int, flagged: int, now: int, retention_us: int
    ) -> Opened:
        """The room of a name, which is made where there is none. retention_us: how long the number
        of a room that was closed is kept. now: microseconds since the Unix epoch.

        Superseded, OutcomeUnknown, OtherRequest, LimitReached, Busy: nothing has changed.
        """
        encoded = name.encode()
        digest = digest_of(encoded)
        with self._locks.guard("open room", session.lock, self._locks.log, self._locks.event):
            found = self._recorded(session, req_id, flagged, Opcode.ROOM_OPEN, 0, 0, digest)
            if found is not None:
                return Opened(found.balance, True, found.txn_id, self._events.head(), True, NOBODY)
            there = self._rooms.find(name)
            if there:
                return Opened(there, False, 0, self._events.head(), False, NOBODY)
            if self._rooms.owned(session.user) >= OWNED_MAX:
                raise LimitReached(f"you own {OWNED_MAX} rooms, and nobody owns more")
            room = self._rooms.free_room(now, retention_us)
            if not room:
                raise TableFull("rooms")
            change = Change(
                RecordKind.ROOM_OPENED, room, EventKind.ROOM_CHANGED, text=encoded, digest=digest
            )
            done = self._make(session, [change], req_id, now)
        return Opened(room, True, done.txn, done.event, False, done.touched)

    def set_room(
        self, session: Session, room: int, topic: str, access: int, req_id: int, flagged: int,
        now: int,
    ) -> Changed:  # fmt: skip
        """Topic and access of a room; an event for each that changes, topic first, and of the topic
        where nothing does. access: RoomAccess. A room that is closed is left by its members, whom
        their workers take out.

        Superseded, OutcomeUnknown, OtherRequest, NoSuchRoom, NotAllowed, Busy."""
        encoded = topic.encode()
        digest = digest_of(encoded)
        with self._locks.guard("set room", session.lock, self._locks.log, self._locks.event):
            found = self._recorded(session, req_id, flagged, Opcode.ROOM_SET, room, access, digest)
            if found is not None:
                return self._again(found)
            role = self._check_named(room, session.user)
            now_access = self._rooms.access(room)
            if role not in _RULE:
                raise NotAllowed("only its owner and moderators change a room")
            if access != now_access and role != RoomRole.OWNER:
                raise NotAllowed("only its owner changes the access of a room")
            kinds = []
            if topic != self._rooms.topic(room) or access == now_access:
                kinds.append(RecordKind.ROOM_TOPIC)
            if access != now_access:
                kinds.append(RecordKind.ROOM_ACCESS)
            changes = [
                Change(
                    kind, room, EventKind.ROOM_CHANGED, value=access, digest=digest,
                    text=encoded if kind == RecordKind.ROOM_TOPIC else b"", again=kind != kinds[-1],
                )
                for kind in kinds
            ]  # fmt: skip
            return self._make(session, changes, req_id, now)

    def set_role(
        self, session: Session, room: int, user: int, role: int, seconds: int, req_id: int,
        flagged: int, now: int,
    ) -> Changed:  # fmt: skip
        """What a user is in a room. role: RoomRole. seconds: how long a mute or ban lasts, in lived
        time; 0: for good.

        Superseded, OutcomeUnknown, OtherRequest, NoSuchRoom, NoSuchUser, NotAllowed, LimitReached,
        Busy."""
        amount = role_amount(user, role)
        with self._locks.guard("set role", session.lock, self._locks.log, self._locks.event):
            found = self._recorded(
                session, req_id, flagged, Opcode.ROOM_ROLE, room, amount, seconds
            )
            if found is not None:
                return self._again(found)
            own = self._check_named(room, session.user)
            if own not in _RULE:
                raise NotAllowed("only its owner and moderators give roles in a room")
            if own == RoomRole.MODERATOR:
                below = self._rooms.standing(room, user).below
                if below in _RULE:
                    raise NotAllowed("a moderator has no say over its owner and moderators")
                if role in (RoomRole.MODERATOR, RoomRole.OWNER):
                    raise NotAllowed("only its owner makes moderators, or gives the room away")
            if not self._users.is_there(user):
                raise NoSuchUser
            if role == RoomRole.OWNER:
                if self._rooms.owned(user) >= OWNED_MAX:
                    raise LimitReached(f"the user owns {OWNED_MAX} rooms, and nobody owns more")
                self._rooms.check_place_for(room, session.user)
            elif role != RoomRole.NONE:
                self._rooms.check_place_for(room, user)
            change = Change(
                RecordKind.ROOM_ROLE, room, EventKind.ROOM_CHANGED, user, role, seconds,
                digest=seconds,
            )  # fmt: skip
            return self._make(session, [change], req_id, now)

    def _check_named(self, room: int, user: int) -> int:
        """The user's role in a room that can be changed. NoSuchRoom, NotAllowed."""
        self._rooms.check_there(room)
        if not self._rooms.is_open(room):
            raise NotAllowed("a room without a name cannot be changed")
        return self._rooms.standing(room, user).role

    def delete_text(
        self, session: Session, room: int, seq: int, author: int, entry: int, req_id: int, now: int
    ) -> Changed:
        """The text of an event, which is there, is shown to nobody any more. author: who has sent
        it. entry: the entry_id, if it is that of an offer.

        Superseded, NoSuchRoom, NotAllowed, NoSuchText, Busy."""
        with self._locks.guard("delete text", session.lock, self._locks.log, self._locks.event):
            if not is_live(self._words, session):
                raise Superseded
            self._rooms.check_there(room)
            if self._deletions.is_hidden(room, seq):
                raise NoSuchText
            if self._bits.has(session.slot, room):
                self._rooms.check_inside(room, session.user)
            else:
                self._rooms.check_join(room, session.user)
            if author != session.user:
                role = self._rooms.standing(room, session.user).role
                if role not in _RULE:
                    raise NotAllowed("only its author and moderators delete a text")
            self._deletions.check_place()
            # Nothing keeps a request's outcome: to ask for it twice does no harm.
            change = Change(
                RecordKind.TEXT_DELETED, room, EventKind.ROOM_CHANGED, value=seq, detail=entry,
                again=True,
            )  # fmt: skip
            return self._make(session, [change], req_id, now)

    # ---- boards

    def add_offer(
        self, session: Session, room: int, price: int, text: str, most: int, req_id: int,
        flagged: int, now: int,
    ) -> Changed:  # fmt: skip
        """An offer on the board of a room. price: minor units; 0: a note. text: of TEXT_MAX bytes
        at most. most: offers that a board may have.

        Superseded, OutcomeUnknown, OtherRequest, NoSuchRoom, NotJoined, NotAllowed, LimitReached,
        Busy."""
        encoded = text.encode()
        digest = digest_of(encoded)
        with self._locks.guard("add offer", session.lock, self._locks.log, self._locks.event):
            found = self._recorded(session, req_id, flagged, Opcode.BOARD_ADD, room, price, digest)
            if found is not None:
                return self._again(found)
            self._check_joined(session, room)
            self._rooms.check_speak(room, session.user)
            ledger = self._ledger
            if price and not ledger.min_transfer <= price <= ledger.max_transfer:
                raise LimitReached(
                    f"nobody can pay that price: a payment is {ledger.min_transfer} to "
                    f"{ledger.max_transfer}"
                )
            if self._boards.count(room) >= most:
                raise LimitReached(f"the board has {most} entries, and no board has more")
            self._boards.check_place()
            change = Change(
                RecordKind.OFFER_ADDED, room, EventKind.OFFER_ADDED, value=price, text=encoded,
                digest=digest,
            )  # fmt: skip
            return self._make(session, [change], req_id, now)

    def remove_offer(
        self, session: Session, room: int, entry: int, req_id: int, flagged: int, now: int
    ) -> Changed:
        """An offer off its board: by its owner or a moderator.

        Superseded, OutcomeUnknown, OtherRequest, NoSuchRoom, NotJoined, NoSuchOffer, NotAllowed,
        Busy."""
        with self._locks.guard("remove offer", session.lock, self._locks.log, self._locks.event):
            found = self._recorded(session, req_id, flagged, Opcode.BOARD_REMOVE, room, entry, 0)
            if found is not None:
                return self._again(found)
            self._check_joined(session, room)
            offer = self._offer(room, entry)
            if offer.user != session.user:
                role = self._rooms.standing(room, session.user).role
                if role not in _RULE:
                    raise NotAllowed("only its owner and moderators remove an entry")
            change = Change(RecordKind.OFFER_REMOVED, room, EventKind.OFFER_REMOVED, value=entry)
            return self._make(session, [change], req_id, now)

    def take_offer(
        self, session: Session, room: int, entry: int, price: int, req_id: int, flagged: int,
        now: int,
    ) -> Taken:  # fmt: skip
        """Pay an offer's price to its owner, and take it off its board, in one step. price: what
        the caller takes it for, above 0.

        Superseded, OutcomeUnknown, OtherRequest, NoSuchRoom, NotJoined, NoSuchOffer, WrongChange,
        Busy."""
        while True:
            # The owner is known from the entry alone, and both accounts are locked before it is.
            offer = self._boards.offer(entry)
            owner = offer.user if offer is not None else session.user
            held = ascending(session.lock, self._locks.account(owner))
            guard = self._locks.guard("take offer", *held, self._locks.log, self._locks.event)
            with guard:
                found = self._recorded(
                    session, req_id, flagged, Opcode.BOARD_TAKE, room, price, entry
                )
                if found is not None:
                    head = self._events.head()
                    return Taken(RECORDED, found.txn_id, found.balance, found.seq, head, NOBODY)
                self._check_joined(session, room)
                offer = self._boards.offer(entry)
                if offer is not None and offer.user != owner:
                    continue  # it was read before it was there
                offer = self._offer(room, entry)
                if owner == session.user:
                    raise WrongChange("the entry is your own")
                if price != offer.price:
                    raise WrongChange("the price of the entry is another one")
                return self._take(session, offer, req_id, now)

    def _take(self, session: Session, offer: Offer, req_id: int, now: int) -> Taken:
        """With all locks held."""
        words, events, log, ledger = self._words, self._events, self._log, self._ledger
        payer, payee, price = session.account, ledger.account_of(offer.user), offer.price
        if words[payee + 2]:  # its owner was deleted
            raise NoSuchOffer
        balance, owned = words[payer], words[payee]
        if balance < price:
            return Taken(FUNDS, 0, balance, 0, events.head(), NOBODY)
        if not ledger.min_transfer <= price <= ledger.max_transfer:
            return Taken(AMOUNT, 0, 0, 0, events.head(), NOBODY)
        if price > ledger.max_balance or owned > ledger.max_balance - price:
            return Taken(LIMIT, 0, 0, 0, events.head(), NOBODY)
        if not log.has_place_for(1):
            raise log.refusal()
        events.check_open()
        txn, now = log.head() + 1, log.time(now)
        seq, number = events.next_seq(offer.room), events.head() + 1
        text = b"%d %d %d %d" % (offer.entry, txn, price, offer.user)
        payload = _TAKEN.pack(
            RecordKind.OFFER_TAKEN, now, 0, session.user, offer.user, price,
            balance - price, owned + price, words[payer + 1], words[payee + 1],
            session.client_id, req_id, session.client_slot, offer.room, seq, number, offer.entry,
        )  # fmt: skip
        self._commit(session, txn, payload, EventKind.OFFER_TAKEN, offer.room, seq, now, text)
        self._boards.remove(offer.entry)
        for account, after in ((payer, balance - price), (payee, owned + price)):
            words[account] = after
            words[account + 1] = txn
        self._store_outcome(outcome_of((txn, *_TAKEN.unpack(payload))), session.client)
        log.done()
        touched = self._audience.listeners(offer.room)
        return Taken(DONE, txn, balance - price, seq, number, touched, offer.user)

    def _check_joined(self, session: Session, room: int) -> None:
        self._rooms.check_there(room)
        if not self._bits.has(session.slot, room):
            raise NotJoined
        self._rooms.check_inside(room, session.user)

    def _offer(self, room: int, entry: int) -> Offer:
        offer = self._boards.offer(entry)
        if offer is None or offer.room != room:
            raise NoSuchOffer
        return offer

    # ---- what they have in common, under all locks

    def _recorded(
        self, session: Session, req_id: int, flagged: int, opcode: Opcode, to: int, amount: int,
        digest: int,
    ) -> Outcome | None:  # fmt: skip
        """The outcome of a request that was executed before; None: it is to be executed now.
        Superseded, OutcomeUnknown, OtherRequest."""
        if not is_live(self._words, session):
            raise Superseded
        found = self._outcomes.look(session, req_id, flagged)
        if found is None:
            return None
        wanted = opcode << TARGET_KIND_SHIFT | to, amount, digest
        if (found.target, found.amount, found.digest) != wanted:
            raise OtherRequest
        return found

    def _again(self, found: Outcome) -> Changed:
        return Changed(found.txn_id, found.seq, self._events.head(), True, NOBODY)

    def _make(self, session: Session, changes: Sequence[Change], req_id: int, now: int) -> Changed:
        """Make changes of one room, one after the other; answers the last. Busy."""
        log, events = self._log, self._events
        if not log.has_place_for(sum(1 + len(texts_of(each.text)) for each in changes)):
            raise log.refusal()
        events.check_open(len(changes) - 1)
        txn = seq = number = 0
        for change in changes:
            time = log.time(now)
            txn = log.write_text(texts_of(change.text), time)
            seq, number = events.next_seq(change.room), events.head() + 1
            lasts = change.kind == RecordKind.ROOM_ROLE and change.detail
            until = self._rooms.lived() + change.detail * _US if lasts else 0
            payload = _CHANGE.pack(
                change.kind, time, 0, session.user, change.subject, change.value, change.detail,
                len(change.text), change.again, until, session.client_id, req_id,
                session.client_slot, change.room, seq, number, change.digest,
            )  # fmt: skip
            text = event_text(change, txn, session.user)
            hides = change.value if change.kind == RecordKind.TEXT_DELETED else 0
            self._commit(session, txn, payload, change.event, change.room, seq, time, text, hides)
            self._apply((txn, *_CHANGE.unpack(payload)), change.text)
            log.done()
        touched = self._audience.listeners(changes[0].room)
        return Changed(txn, seq, number, False, touched)

    def _commit(
        self, session: Session, txn: int, payload: bytes, kind: EventKind, room: int, seq: int,
        now: int, text: bytes, hides: int = 0,
    ) -> None:  # fmt: skip
        """Both records; the intent stands afterwards. hides: room_seq of the event whose text is
        deleted by this one: whoever sees that this one is there does not see the text."""
        events, log = self._events, self._log
        user, name = session.user, session.name
        frame = words.broadcast(room, seq, now, kind, user, name, text)
        event = events.payload(kind, room, seq, user, 0, frame, now, request=NO_REQUEST, txn=txn)
        self._pairs.intend_event(event, events.head() + 1)
        at = (log.intent + 1) * WORD
        self._bytes[at : at + len(payload)] = payload
        log.commit_reserved(txn, len(payload) // WORD)
        if hides:
            self._deletions.add(room, hides, events.head() + 1)
        events.publish(event)

    def _apply(self, record: Sequence[int], text: bytes) -> None:
        """What a committed change does to rooms, boards and the outcome. Again without harm."""
        kind = record[_AT["kind"]]
        if kind == RecordKind.TEXT_DELETED:
            event, value = record[_AT["event"]], record[_AT["value"]]
            self._deletions.add(record[_AT["room"]], value, event)
            self._boards.drop_text(record[_AT["detail"]])
        elif kind == RecordKind.OFFER_ADDED:
            self._boards.add(record, text)
        elif kind == RecordKind.OFFER_REMOVED:
            self._boards.remove(record[_AT["value"]])
        else:
            self._rooms.apply(record, text)
        if record[_AT["client_slot"]] and not record[_AT["again"]]:
            client = self._clients.at(record[_AT["client_slot"]] - 1)
            self._store_outcome(outcome_of(record), client)

    def _store_outcome(self, found: Outcome, client: int) -> None:
        """client: word of the client's record; 0: none."""
        if client:
            self._outcomes.store(client, *found)

    def redo(self, record: Sequence[int]) -> None:
        """A committed change, and its event; of an OFFER_TAKEN, the board. For the repair of the
        worker that was in the middle of it, which held the log lock until it was done."""
        if record[_AT["kind"]] >= FIRST_CHANGE:
            text = self._log.text_before(record[_AT["txn_id"]], record[_AT["text_size"]])
            self._apply(record, text)
        elif record[_AT["kind"]] == RecordKind.OFFER_TAKEN:
            self._boards.remove(record[_MONEY["digest"]])
        else:
            return
        self._boards.recount()
