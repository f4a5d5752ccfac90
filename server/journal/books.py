"""The state as the journal's records make it: what a start and a snapshot are folded into, and the
audit of every record on the way.

A record counts only if it follows from all those before it; the first one that does not is told,
and nothing is guessed. Written for speed: a million records are folded at a start, so there are
columns of numbers, and no object per record.
"""

from array import array
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Final, NamedTuple

from libproto.messages import MAX_BALANCE, OUTCOME_WINDOW, USERNAME_PATTERN, Opcode
from server.journal.errors import JournalError
from server.journal.format import EVENT_HEAD, EventHead, event_size
from server.region.layout import (
    MARKED,
    OUTCOME_FIELDS,
    OUTCOME_WORDS,
    RAISED,
    TARGET_KIND_SHIFT,
    WORD,
)
from server.region.records import INBOX, MONEY_WORDS, OFFSETS, RECORD_SIZE, RecordKind

ROW_WORDS: Final = OUTCOME_WINDOW * OUTCOME_WORDS
"""Words of a client's outcomes, laid out as in the region."""

_DEPOSIT, _WITHDRAW, _TRANSFER, _REGISTER, _NEW_CLIENT, _NEW_FLOOR, _EVENTS_LOST = map(
    int, RecordKind
)
_IN_ROOM: Final = int(Opcode.TRANSFER_IN_ROOM)
_NO_OUTCOMES: Final = array("Q", bytes(ROW_WORDS * WORD))

# A record is read as one of money; the numbers of the other kinds stand in the same places.
_RECORD: Final = Struct(f"<{MONEY_WORDS}Q{RECORD_SIZE - MONEY_WORDS * WORD}x")
_pack_outcome = Struct(f"<{OUTCOME_WORDS}Q").pack_into
_PROFILE: Final = OFFSETS[RecordKind.REGISTER]["iterations"] * WORD
_NAME: Final = slice(WORD, WORD + 32)  # of a profile
assert list(OFFSETS[RecordKind.TRANSFER])[4:7] == ["from_user", "to_user", "amount"]
assert list(OFFSETS[RecordKind.REGISTER])[4:7] == ["user_id", "iterations", "name"]
assert list(OFFSETS[RecordKind.NEW_CLIENT])[4:8] == ["user_id", "client_id", "client_slot", "floor"]
assert list(OFFSETS[RecordKind.EVENTS_LOST])[4:8] == ["first_event", "next_event", "room", "seq"]
assert OUTCOME_FIELDS == (
    "req_id", "txn_id", "balance", "target", "amount", "seq", "digest",
), "stored by place"  # fmt: skip


_TIME: Final = "its time is before that of the transaction before it"


class Inconsistent(JournalError):
    """A record that does not follow from those before it."""

    def __init__(self, number: int, why: str, what: str = "transaction") -> None:
        super().__init__(f"{what} {number} does not follow: {why}")
        self.txn = number if what == "transaction" else 0
        self.why = why


class Lost(NamedTuple):
    """The events of a batch that are damaged, and no start has dealt with."""

    next_event: int  # number of the event after them
    epoch: int  # that their numbers belong to
    skips: int  # that are in these numbers


class Books:
    """Users, accounts, clients and rooms at one place of the journal.

    Columns by user id begin with a place for user 0, which is the world and always 0; columns by
    client slot begin with slot 0. A user's `profiles` entry is what the record of the registration
    says from `iterations` on: iterations, name, salt and keys.
    """

    def __init__(self) -> None:
        """Those of a server that nobody has used."""
        self.txn = 0  # the newest txn_id in it
        self.supply = 0
        self.time = 0  # of the newest transaction, microseconds since the Unix epoch
        self.event = 0  # number of the newest event in it
        self.skips = 0  # numbers that starts after a crash have left out, of each room and inbox
        self.epoch = 0  # that the numbers of rooms and inboxes belong to; 0: no start yet
        self.ring = 0  # events of the ring at the newest start
        self.rooms: dict[int, int] = {}  # by room id: its newest room_seq without the skips
        self.lost: dict[int, Lost] = {}  # by the number of the first of these events
        # by user id
        self.profiles = [b""]
        self.registered = [0]  # microseconds since the Unix epoch
        self.last_seen = [0]  # likewise; no record tells it: as it was told for a snapshot
        self.balances = [0]
        self.last_txn = [0]
        self.direct_seqs = [0]  # of the newest direct message, without the skips
        self.user_ids: dict[bytes, int] = {}  # by name, without its padding
        # by client slot
        self.client_users: list[int] = []
        self.client_ids: list[int] = []
        self.newest: list[int] = []
        self.floors: list[int] = []
        self.marks: list[int] = []  # bits: see the layout of the region
        self.outcomes = array("Q")  # ROW_WORDS each
        self.slots: dict[tuple[int, int], int] = {}  # by user and client_id

    @property
    def users(self) -> int:
        """How many there are: their ids are 1 to this."""
        return len(self.profiles) - 1

    @property
    def clients(self) -> int:
        """How many slots there are."""
        return len(self.client_users)

    def apply(self, records: bytes | memoryview) -> None:
        """Fold whole records in the order of their txn_id, those at or below `txn` left out.

        Inconsistent: the first that does not follow; what is here then is of no further use.
        """
        # As bytes: an iterator over a memoryview, in the frames that an exception keeps, crashes
        # CPython 3.11 when these are collected as a circle.
        records, skipped = bytes(records), 0
        while (number := records[skipped : skipped + WORD]) and (
            int.from_bytes(number, "little") <= self.txn
        ):
            skipped += RECORD_SIZE
        records, settled = records[skipped:], set[int]()
        unpacked, start = _RECORD.iter_unpack(records), self.txn
        while (record := self._fold_money(unpacked)) is not None:
            txn, kind, time, supply = record[:4]
            if kind not in (_REGISTER, _NEW_CLIENT, _NEW_FLOOR, _EVENTS_LOST):
                raise Inconsistent(txn, f"there is no kind {kind}")
            if time < self.time:
                raise Inconsistent(txn, _TIME)
            self.time = time
            if supply != self.supply:
                raise Inconsistent(txn, f"a supply of {supply} in the place of {self.supply}")
            if kind == _REGISTER:
                at = (txn - start - 1) * RECORD_SIZE
                profile = records[at + _PROFILE : at + RECORD_SIZE]
                self.register(txn, time, record[4], profile)
            elif kind == _NEW_CLIENT:
                self.new_client(txn, *record[4:8])
            elif kind == _NEW_FLOOR:
                self._new_floor(txn, *record[4:8])
            else:
                self._settle(txn, *record[4:8])
                settled.add(record[4])
        for first_event in settled:
            self.lost.pop(first_event, None)

    def _fold_money(self, unpacked: Iterator[tuple[int, ...]]) -> tuple[int, ...] | None:
        """Fold the next records of money; answers the first that is of another kind, None at the
        end. A loop without a call: one for each record would cost a sixth of a replay's speed. So
        what is wrong with a record is told by others."""
        txn, supply, newest_time = self.txn, self.supply, self.time
        balances, last_txn, users = self.balances, self.last_txn, self.users
        client_users, client_ids, newest = self.client_users, self.client_ids, self.newest
        outcomes, floors, clients = self.outcomes, self.floors, self.clients
        for record in unpacked:
            (
                number, kind, time, supply_after, payer, payee, amount, payer_after, payee_after,
                payer_previous, payee_previous, client_id, req_id, client, room,
                room_seq, event, digest,
            ) = record  # fmt: skip
            txn += 1
            if number != txn:
                raise Inconsistent(txn, f"number {number} stands in its place")
            if kind == _TRANSFER:
                wrong = not payer or not payee or payer == payee
            elif kind == _DEPOSIT:
                supply += amount
                wrong = payer != 0 or not payee or supply > MAX_BALANCE
            elif kind == _WITHDRAW:
                supply -= amount
                wrong = not payer or payee != 0
            else:
                self.txn, self.supply, self.time = txn, supply, newest_time
                return record
            if time < newest_time:
                raise Inconsistent(txn, _TIME)
            newest_time = time
            if wrong or supply_after != supply or not amount or payer > users or payee > users:
                raise Inconsistent(txn, self._why_not(record, supply))
            if room or room_seq or event or digest:
                self._check_event(record)
            if last_txn[payer] != payer_previous or last_txn[payee] != payee_previous:
                raise Inconsistent(txn, "it is not chained to its accounts' transactions before it")
            if payer:
                if balances[payer] - amount != payer_after:
                    raise Inconsistent(txn, self._why_not_paid(record, "pays"))
                balances[payer] = payer_after
                last_txn[payer] = txn
            elif payer_after:
                raise Inconsistent(txn, "the world has a balance")
            if payee:
                if balances[payee] + amount != payee_after or payee_after > MAX_BALANCE:
                    raise Inconsistent(txn, self._why_not_paid(record, "gets"))
                balances[payee] = payee_after
                last_txn[payee] = txn
            elif payee_after:
                raise Inconsistent(txn, "the world has a balance")
            if client:
                slot = client - 1
                if (
                    client > clients
                    or client_users[slot] != (payer or payee)
                    or client_ids[slot] != client_id
                ):
                    raise Inconsistent(
                        txn, f"client {client_id} of user {payer or payee} is not in slot {slot}"
                    )
                at = slot * ROW_WORDS + req_id % OUTCOME_WINDOW * OUTCOME_WORDS
                if outcomes[at] == req_id or req_id < floors[slot]:
                    raise Inconsistent(txn, self._why_not_asked(record))
                if req_id + OUTCOME_WINDOW <= newest[slot] or outcomes[at] > req_id:
                    continue  # an event that was executed after it stands before it
                if room:
                    target, balance = _IN_ROOM << TARGET_KIND_SHIFT | payee, payer_after
                elif payer:
                    target, balance = kind << TARGET_KIND_SHIFT | payee, payer_after
                else:
                    target, balance = kind << TARGET_KIND_SHIFT, payee_after
                _pack_outcome(
                    outcomes, at * WORD, req_id, txn, balance, target, amount, room_seq, digest
                )
                if req_id > newest[slot]:
                    newest[slot] = req_id
            elif client_id:
                raise Inconsistent(txn, f"client {client_id} has no slot")
        self.txn, self.supply, self.time = txn, supply, newest_time
        return None

    @staticmethod
    def _check_event(record: tuple[int, ...]) -> None:
        """A transaction that is told in a room names the event that tells it. Inconsistent."""
        room, room_seq, event = record[14:17]
        if record[1] != _TRANSFER or not (room and room_seq and event):
            raise Inconsistent(record[0], f"it has half an event, {event}, of room {room}")

    def _why_not(self, record: tuple[int, ...], supply: int) -> str:
        """What is wrong with the users, the supply or the amount of a record of money. supply: as
        it should be after it."""
        _, kind, _, supply_after, payer, payee, amount, *_ = record
        if kind == _TRANSFER and (not payer or not payee or payer == payee):
            return f"a transfer from user {payer} to user {payee}"
        if kind == _DEPOSIT and (payer or not payee):
            return f"a deposit from user {payer} to user {payee}"
        if kind == _WITHDRAW and (payee or not payer):
            return f"a withdrawal from user {payer} to user {payee}"
        if kind == _DEPOSIT and supply > MAX_BALANCE:
            return f"a supply of {supply} is above its limit"
        if supply_after != supply:
            return f"a supply of {supply_after} in the place of {supply}"
        return f"there is no user {max(payer, payee)}" if amount else "an amount of 0"

    def _why_not_paid(self, record: tuple[int, ...], what: str) -> str:
        """What is wrong with the balance of the user who "pays" or "gets"."""
        _, _, _, _, payer, payee, amount, payer_after, payee_after, *_ = record
        user, after = (payer, payer_after) if what == "pays" else (payee, payee_after)
        return f"user {user} had {self.balances[user]}, {what} {amount} and has {after}"

    def _why_not_asked(self, record: tuple[int, ...]) -> str:
        """What is wrong with the req_id of a record of money."""
        req_id, slot = record[12], record[13] - 1
        outcome = slot * ROW_WORDS + req_id % OUTCOME_WINDOW * OUTCOME_WORDS
        if self.outcomes[outcome] == req_id:
            return f"request {req_id} was executed before"
        return f"request {req_id} is older than its client's record ({self.floors[slot]})"

    # ---- events

    def begin(self, ring: int, skip: int, epoch: int) -> None:
        """A start of the server: see the batch header's fields."""
        if epoch != self.epoch:  # all rooms begin anew
            self.rooms.clear()
            self.direct_seqs = [0] * len(self.direct_seqs)
            self.skips = 0
        self.ring, self.epoch = ring, epoch
        self.skips += skip

    def last_seq(self, room: int) -> int:
        """The greatest room_seq that may have been used."""
        return self.rooms.get(room, 0) + self.skips

    def apply_events(self, events: bytes | memoryview, next_event: int) -> None:
        """Fold the events of a batch, in their order, which ends before number `next_event`.

        Inconsistent: the first that does not follow; what is here then is of no further use.
        """
        at, number = 0, self.event
        while at < len(events):
            if at + EVENT_HEAD.size > len(events):
                raise Inconsistent(number + 1, "its end is missing", "event")
            event = EventHead._make(EVENT_HEAD.unpack_from(events, at))
            if not number < event.word < next_event:
                raise Inconsistent(number + 1, f"number {event.word} comes next", "event")
            number = event.word
            at += event_size(event.frame_len)
            if event.room:
                self._count(number, self.rooms, event.room, event.seq)
            elif 0 < event.user <= self.users:
                self._count(number, self.direct_seqs, event.user, event.seq)
            else:
                raise Inconsistent(number, f"there is no user {event.user}", "event")
            if event.client_id:
                self._message_outcome(event)
        if at != len(events):
            raise Inconsistent(number, "its end is missing", "event")
        self.event = next_event - 1

    def _count(self, event: int, counts: dict[int, int] | list[int], of: int, seq: int) -> None:
        last = counts.get(of, 0) if isinstance(counts, dict) else counts[of]
        is_next = seq == last + self.skips + 1
        if not is_next and not (self.lost and seq > last + self.skips):
            raise Inconsistent(event, f"number {seq} comes after {last + self.skips}", "event")
        counts[of] = seq - self.skips

    def lose_events(
        self, first_event: int, next_event: int, pairs: Iterable[tuple[int, int, int]]
    ) -> None:
        """Go on past the events of a batch, which are damaged; its transactions are folded.
        Outcomes of messages may have been among them, so every client is marked. Numbers of rooms
        and inboxes are not known, but by later events, until a start deals with it (`lost`).

        pairs: room, room_seq and number of each event that a transaction of the batch was published
        with, in their order. Inconsistent: one that does not follow."""
        self.lost[first_event] = Lost(next_event, self.epoch, self.skips)
        for room, seq, event in pairs:
            if not first_event <= event < next_event:
                raise Inconsistent(event, "it is not of this batch", "event")
            self._count(event, self.rooms, room, seq)
        self.marks = [marks | MARKED for marks in self.marks]
        self.event = next_event - 1

    def _settle(self, txn: int, first_event: int, next_event: int, room: int, seq: int) -> None:
        """A start has dealt with events that were lost: what it has found of a room, or of none.
        Inconsistent with `txn`."""
        lost, user = self.lost.get(first_event), room - INBOX
        if next_event > self.event + 1 or (lost is not None and lost.next_event != next_event):
            raise Inconsistent(txn, f"there is no batch with the events from {first_event} on")
        if user > self.users:
            raise Inconsistent(txn, f"there is no user {user}")
        # They may have been whole when what this began with was made: then it has the numbers.
        if not room or lost is None or lost.epoch != self.epoch:
            return
        if user <= 0:
            self.rooms[room] = max(self.rooms.get(room, 0), seq - lost.skips)
        else:
            self.direct_seqs[user] = max(self.direct_seqs[user], seq - lost.skips)

    def _message_outcome(self, event: EventHead) -> None:
        """What a repeat of the request is answered with. Transactions and events of one client do
        not stand in the order of its requests, so only what is not known better is stored."""
        slot = self.slots.get((event.sender, event.client_id))
        if slot is None:
            return  # the record has been given away since
        at = slot * ROW_WORDS + event.req_id % OUTCOME_WINDOW * OUTCOME_WORDS
        if self.outcomes[at] == event.req_id:
            raise Inconsistent(event.word, f"request {event.req_id} was executed before", "event")
        if (
            event.req_id < self.floors[slot]
            or event.req_id + OUTCOME_WINDOW <= self.newest[slot]
            or self.outcomes[at] > event.req_id
        ):
            return
        to = event.room or event.user
        opcode = Opcode.CHAT_SEND if event.room else Opcode.DIRECT_SEND
        _pack_outcome(
            self.outcomes, at * WORD, event.req_id, 0, event.time,
            opcode << TARGET_KIND_SHIFT | to, 0, event.seq, event.digest,
        )  # fmt: skip
        self.newest[slot] = max(self.newest[slot], event.req_id)

    # ---- users and clients

    def register(self, txn: int, time: int, user: int, profile: bytes) -> None:
        """Add a user, registered at `time`. Inconsistent with `txn`, and nothing is changed."""
        if user != self.users + 1:
            raise Inconsistent(txn, f"user {user} is registered after {self.users}")
        name = profile[_NAME].rstrip(b"\0")
        if not USERNAME_PATTERN.match(name.decode("latin-1")):
            raise Inconsistent(txn, f"{name!r} is not a name")
        if name in self.user_ids:
            raise Inconsistent(txn, f"the name {name!r} is taken")
        self.user_ids[name] = user
        self.profiles.append(profile)
        self.registered.append(time)
        self.last_seen.append(time)
        self.balances.append(0)
        self.last_txn.append(0)
        self.direct_seqs.append(0)

    def new_client(self, txn: int, user: int, client_id: int, client: int, floor: int) -> None:
        """Give a client the slot `client` - 1, which may be another's, without any outcome.
        Inconsistent with `txn`, and nothing is changed."""
        slot = client - 1
        if not 0 < user <= self.users:
            raise Inconsistent(txn, f"there is no user {user}")
        if not client_id or (user, client_id) in self.slots:
            raise Inconsistent(txn, f"client {client_id} of user {user} is not new")
        if not 0 <= slot <= self.clients:
            raise Inconsistent(txn, f"slot {slot} is used after {self.clients} slots")
        if not floor:
            raise Inconsistent(txn, f"client {client_id} of user {user} has no floor")
        if slot < self.clients:
            del self.slots[self.client_users[slot], self.client_ids[slot]]
            self.client_users[slot], self.client_ids[slot] = user, client_id
            self.newest[slot], self.floors[slot], self.marks[slot] = 0, floor, 0
            self.outcomes[slot * ROW_WORDS : client * ROW_WORDS] = _NO_OUTCOMES
        else:
            self.client_users.append(user)
            self.client_ids.append(client_id)
            self.newest.append(0)
            self.floors.append(floor)
            self.marks.append(0)
            self.outcomes.extend(_NO_OUTCOMES)
        self.slots[user, client_id] = slot

    def _new_floor(self, txn: int, user: int, client_id: int, client: int, floor: int) -> None:
        """A client that was marked goes on, with a LOGIN that has set its floor. Inconsistent with
        `txn`, and nothing is changed."""
        slot = client - 1
        if self.slots.get((user, client_id)) != slot:
            raise Inconsistent(txn, f"client {client_id} of user {user} is not in slot {slot}")
        if floor < self.floors[slot]:
            raise Inconsistent(txn, f"client {client_id} had a higher floor, {self.floors[slot]}")
        self.floors[slot], self.marks[slot] = floor, RAISED
